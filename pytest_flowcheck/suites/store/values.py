"""STO-01, 10, 16: what can be saved comes back equal, what can't is refused, and what never was saved is told as that."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.probes.nursery import Answer, folder, told
from pytest_flowcheck.protocols import Corrupt, Invalid, NotFound
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.store._script import program
from pytest_flowcheck.suites.store._shared import (
    RUN,
    among,
    elsewhere,
    handle,
    is_nothing,
    listed,
    mapped,
    same,
    state,
    visit,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab

_ODD_TEXTS = (
    "",
    "\ud800",
    "a\udfffb",
    "\0",
    "é",
    "e\u0301",
    "\u2028",
    "\U0001f389",
    "\r\n",
    '"\\',
    "</script>",
    "\x7f",
)
_ODD_NUMBERS = (
    *(0, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30),
    *(0.1, -0.0, 1e16, 1.5e300, 5e-324, float("nan"), float("inf"), float("-inf")),
)


_ODD_KEYS: tuple[Any, ...] = (1, True, None, 1.5, ("a", 1))
_ODD: tuple[Any, ...] = (
    *_ODD_TEXTS,
    *_ODD_NUMBERS,
    *({key: "one"} for key in (*_ODD_KEYS, "\ud800", "\0")),
    {1: "a number", "1": "a text"},
)
"""Each of these is tried, whatever is drawn."""


def _values() -> st.SearchStrategy[Any]:
    texts = st.sampled_from(_ODD_TEXTS) | st.text(max_size=4)
    numbers: st.SearchStrategy[Any] = st.sampled_from(_ODD_NUMBERS) | st.integers() | st.floats()
    plain = st.none() | st.booleans() | numbers | texts
    usual_keys = st.sampled_from(["a", "b", "1", "true", "null"]) | texts
    odd_keys: st.SearchStrategy[Any] = st.sampled_from(_ODD_KEYS)
    return st.recursive(
        plain,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(usual_keys, inner, max_size=3)
            | st.dictionaries(usual_keys | odd_keys, inner, max_size=2)
        ),
        max_leaves=6,
    )


@rule("STO-01", property=True)
def what_is_saved_comes_back_equal(lab: Lab) -> None:
    """A JSON value loads equal to what was saved, or the save refuses it clearly; nothing is altered silently: surrogates, big ints, NaN, non-string keys.

    Intent: A run that resumes must see what the run that stopped had seen, to the last digit.

    Usual cause: `json.dumps` makes the key 1 the key "1", and keeps the last of both; a column or a faster library makes a big int a float, NaN null; or the store keeps the caller's own object and hands it out again.

    Proof: Values are drawn, saved, and loaded in another process by a fresh handle. Ordinary states must be taken. NaN counts as equal to NaN, 1.0 to 1, True to nothing but True. The object that was saved is changed afterwards, and the one that was loaded.

    Source: RFC 8259, sections 4 and 6; Python library reference, `json`: "keys of dictionaries are converted to strings".
    """

    def judge(value: Any) -> None:
        saved = store.ask("save", RUN, {"value": value})
        if not saved.returned:
            lab.check(
                saved.is_a(Invalid),
                f"saving {told(value)} raised {saved.error}",
                "it is saved, or refused as Invalid (in itself or by the table `errors`)",
            )
            return
        (loaded,) = other.visit(path, ("load", RUN))
        lab.check(
            among(loaded, [{"value": value}]),
            f"save took {told({'value': value})} and returned; a fresh handle's load {loaded}",
            "the load gives an equal value, or the save refuses it",
        )

    with folder() as path, elsewhere(lab) as other, handle(lab, path) as store:
        deep: Any = "the bottom"
        for _ in range(60):
            deep = {"below": [deep]}
        for usual in (state(1), {"text": "é\n\U0001f389", "numbers": [0, -1, 2**31, 0.1], "none": None}, {}, deep):
            saved = store.ask("save", RUN, usual)
            lab.check(saved.returned, f"saving the ordinary state {told(usual)} {saved}", "it is saved")
            judge(usual)
        _keeps_no_alias(lab, store)
        for values, examples in ((_values(), 60), (st.sampled_from(_ODD), len(_ODD))):
            forall(
                lab,
                judge,
                values,
                examples=examples,
                describe=lambda v: f"save({told({'value': v})})",
                reproduce=_script(lab),
            )


def _keeps_no_alias(lab: Lab, store: Any) -> None:
    saved = state(2)
    right = state(2)
    store.must("save", RUN, saved)
    saved["done"].append("changed by the caller after the save")
    for when in ("the saved object was changed by its owner", "the loaded object was changed by its owner"):
        loaded: Answer = store.ask("load", RUN)
        lab.check(among(loaded, [right]), f"after {when}, the load {loaded}", f"what was saved: {right}")
        loaded.value["done"].append("changed by the caller after the load")


def _script(lab: Lab) -> Any:
    def script(value: Any) -> str:
        wrapped = {"value": value}
        return program(lab, [("save", RUN, wrapped), ("reopen",), ("load", RUN)], [None, None, [wrapped]])

    return script


class _Unserialisable:
    """Nothing that JSON, pickle or a database knows."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return "<an object with a lock>"


@rule("STO-10")
def what_cannot_be_serialised_touches_nothing(lab: Lab) -> None:
    """A value that can't be serialised is refused before the stored state is touched.

    Intent: One odd value in one node's output must not cost the states of all the others.

    Usual cause: `json.dump(state, open(path, "w"))`: the file is empty already when the encoder meets the object; or `default=str`, which saves an object's repr.

    Proof: An object with a lock is put at the end of states of several sizes, some larger than any buffer, and a list into itself. Each must be refused as Invalid, and the old state must load by the same handle and by a fresh one. Likewise where nothing was saved before. A list in itself may be kept, as pickle does, if it comes back as one.

    Source: Python library reference, `json.dump`; spec-kit `_save_run`.
    """
    circle: list[Any] = []
    circle.append(circle)
    odd = _Unserialisable()
    values: list[tuple[str, Any]] = [
        ("an object with a lock", {"value": odd}),
        ("an object with a lock behind 3 entries", {**state(2), "value": odd}),
        ("an object with a lock behind 200 kB", {"big": ["x" * 1000] * 200, "value": [odd]}),
        ("a list that holds itself", {"value": circle}),
    ]
    old = state(1)
    with folder() as path, handle(lab, path) as store:
        unknown = store.ask("load", "never-saved")
        for what, value in values:
            fresh = f"new-{len(what)}"
            refused = store.ask("save", fresh, value)
            if refused.returned and value["value"] is circle:
                _comes_back_a_circle(lab, store, path, fresh)
                continue
            lab.check(not refused.returned, f"save took {what} and returned", "it is refused")
            lab.check(
                refused.is_a(Invalid, RecursionError),
                f"saving {what} {refused}",
                "it is refused as Invalid (in itself or by the table `errors`)",
            )
            _still(lab, store, path, fresh, what, None, unknown)
        for what, value in values:
            store.must("save", RUN, old)
            if store.ask("save", RUN, value).returned and value["value"] is circle:
                _comes_back_a_circle(lab, store, path, RUN)
            else:
                _still(lab, store, path, RUN, what, old, unknown)


def _by_both(store: Any, path: Any, run: str, lab: Lab) -> list[tuple[str, Answer]]:
    return [
        ("the same handle", store.ask("load", run)),
        ("a fresh handle", visit(lab, path, ("load", run))[0]),
    ]


def _comes_back_a_circle(lab: Lab, store: Any, path: Any, run: str) -> None:
    for by, loaded in _by_both(store, path, run, lab):
        found = mapped(loaded.value).get("value") if loaded.returned else None
        lab.check(
            isinstance(found, list) and len(listed(found)) == 1 and listed(found)[0] is found,
            f"save took a list that holds itself and returned; after that, {by}'s load {loaded}",
            "a list that holds itself, or the save refuses it",
        )


def _still(lab: Lab, store: Any, path: Any, run: str, what: str, old: Any, unknown: Answer) -> None:
    """The state is what it was, by this handle and by a fresh one; None: there is none."""
    for by, loaded in _by_both(store, path, run, lab):
        holds = is_nothing(loaded, unknown) if old is None else among(loaded, [old])
        lab.check(
            holds,
            f"save refused {what}; after that, {by}'s load {loaded}",
            "NotFound: nothing was ever saved" if old is None else f"the old state: {told(old)}",
        )


@rule("STO-16")
def what_was_never_saved_is_told(lab: Lab) -> None:
    """A load of what never was saved is a clear, distinct error.

    Intent: "Start from the beginning" and "the state is broken" are two decisions; a load must not make one look like the other, nor like an empty state.

    Usual cause: `load` returns None or {}, or any failure to read is the same error.

    Proof: Loads of unknown runs, in an empty folder and beside saved ones, must raise NotFound and not Corrupt; None is a state like any other where it can be saved.

    Source: Python library reference, `dbm`, `shelve`: KeyError; FileNotFoundError.
    """

    def none_there(run: str, where: str) -> None:
        loaded = store.ask("load", run)
        lab.check(not loaded.returned, f"load({run!r}) {where} {loaded}", "NotFound")
        lab.check(
            loaded.is_a(NotFound) and not loaded.is_a(Corrupt),
            f"load({run!r}) {where} raised {loaded.error}, which is {', '.join(sorted(loaded.kinds)) or 'no error that the kit knows'}",
            "NotFound (in itself or by the table `errors`), and not Corrupt as well",
        )

    with folder() as path, handle(lab, path) as store:
        none_there(RUN, "in an empty folder")
        store.must("save", "another", state(1))
        none_there(RUN, "beside another run")
        if lab.claims("log"):
            store.must("append", RUN, {"entry": 1})
            none_there(RUN, "of a run that has only a log")
            loaded = store.ask("entries", "a-third")
            lab.check(
                loaded.returned and not len(loaded.value),
                f"entries('a-third') of a run without any {loaded}",
                "an empty list",
            )
        if store.ask("save", RUN, None).returned:
            loaded = store.ask("load", RUN)
            lab.check(loaded.returned and same(loaded.value, None), f"None was saved; the load {loaded}", "None")
