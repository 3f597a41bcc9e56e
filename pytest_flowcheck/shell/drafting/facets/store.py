"""store: something that keeps a state under a name, in files below a folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.shell.drafting import names
from pytest_flowcheck.shell.drafting.draft import STEP, Draft, guard, method, opened, wrapped

if TYPE_CHECKING:
    from pytest_flowcheck.shell.drafting.sight import Parameter, Sight, Signature
    from pytest_flowcheck.shell.drafting.trying import Held

LOOKS_FOR: Final = (
    "a pair such as save and load, put and get, dump and load, or [key], and a folder or file to keep it in"
)
ASKED: Final = "folder"
PAIRS: Final = (
    *(("save", "load"), ("dump", "load"), ("write", "read"), ("put", "get"), ("set", "get"), ("store", "load")),
    *(
        ("save_state", "load_state"),
        ("save_checkpoint", "load_checkpoint"),
        ("persist", "restore"),
        ("store", "retrieve"),
    ),
)
LOGS: Final = (("append", "entries"), ("append_log", "read_log"), ("append", "read_log"), ("append_entry", "entries"))
SKELETON: Final = [
    method("def save(self, run_id, state)", guard("how state is kept under run_id, below the folder")),
    method("def load(self, run_id)", guard("how the state of run_id is read")),
]


WORDS: Final = (*(word for pair in (*PAIRS, *LOGS) for word in pair), *names.FOLDER, *names.FILE, "store", "cache")


def drafts(seen: Sight, *, aio: bool) -> Iterator[Draft]:
    """By its pair of methods, or as a mapping; on a file of its own for each run where it takes an open one."""
    if seen.kind == "module" and not aio:
        yield from _by_file(seen)
    if seen.kind not in {"class", "function"}:
        return
    for made in _made(seen):
        if seen.kind == "function" and not aio:
            for with_ in (True, False):
                yield _mapping(seen, made, enters=with_, per_call=True)
            continue
        if not aio and {"__getitem__", "__setitem__"} <= set(seen.methods):
            yield _mapping(seen, made, enters=seen.enters)
        for save, load in PAIRS:
            pair = seen.find((save,), aio=aio), seen.find((load,), aio=aio)
            if pair[0] is not None and pair[1] is not None:
                yield from _pair(seen, made, pair[0], pair[1], aio=aio)


def _made(seen: Sight) -> Iterator[str]:
    """Ways to have it keep what it keeps below `folder`."""
    parameters = [p for p in seen.made_by.parameters if not p.variadic]
    where = next((p for p in parameters if p.name in (*names.FOLDER, *names.FILE)), None)
    where = where or next((p for p in parameters if p.required), None)
    if where is None or any(p.required for p in parameters if p is not where):
        return
    file = where.name in names.FILE
    for place in ('folder / "runs"', "folder") if file else ("folder", 'folder / "runs"'):
        for text in (place, f"str({place})"):
            given = text if where.sort != "KEYWORD_ONLY" else f"{where.name}={text}"
            yield f"{names.thing(seen)}({given})"


def _mapping(seen: Sight, made: str, *, enters: bool, per_call: bool = False) -> Draft:
    save, load = ["self.thing[run_id] = state"], ["return self.thing[run_id]"]
    if per_call:  # what a function opens is opened for each call, as its documentation would show it
        name, place = made.partition("(")[0], made.partition("(")[2].removesuffix(")").replace("folder", "self.folder")
        manager = f"{name}({place})" if enters else f"closing({name}({place}))"
        save = [f"with {manager} as thing:", f"{STEP}thing[run_id] = state"]
        load = [f"with {manager} as thing:", f"{STEP}return thing[run_id]"]
        wrapper = wrapped(
            "_Store",
            [method("def save(self, run_id, state)", save), method("def load(self, run_id)", load)],
            ["folder"],
        )
        more = [] if enters else ["from contextlib import closing"]
        return Draft("store", False, wrapper, ["yield _Store(folder)"], ASKED, [*names.imports(seen), *more])
    wrapper = wrapped("_Store", [method("def save(self, run_id, state)", save), method("def load(self, run_id)", load)])
    opening = opened([made], "_Store(thing)", enters=enters, closes=names.closing(seen, aio=False))
    return Draft("store", False, wrapper, opening, ASKED, names.imports(seen))


def _pair(seen: Sight, made: str, save: Signature, load: Signature, *, aio: bool) -> Iterator[Draft]:
    turned = (False, True) if len(save.required) == 2 else (False,)
    for turn in turned:
        given = _given(save, turn=turn)
        if given is None or names.missing(load, [p.name for p in load.parameters[:1]]):
            continue
        logs = [True, False] if _log(seen, aio=aio) is not None else [False]
        for log in logs:
            yield _held(seen, made, save.name, load.name, given, aio=aio, log=_log(seen, aio=aio) if log else None)


def _given(save: Signature, *, turn: bool) -> str | None:
    """The arguments of a save, by what they are called, and turned round."""
    if len(save.required) != 2:
        return None
    first, second = save.required
    key_first = not (first.name in names.STATE and second.name in names.KEY)
    words = ("run_id", "state") if key_first != turn else ("state", "run_id")
    return ", ".join(_by(parameter, word) for parameter, word in zip((first, second), words, strict=True))


def _by(parameter: Parameter, word: str) -> str:
    return names.give(parameter, word)


def _log(seen: Sight, *, aio: bool) -> tuple[str, str] | None:
    for append, entries in LOGS:
        one, all_ = seen.find((append,), aio=aio), seen.find((entries,), aio=aio)
        if one is not None and all_ is not None and len(one.required) == 2:
            return one.name, all_.name
    return None


def _held(seen: Sight, made: str, save: str, load: str, given: str, *, aio: bool, log: tuple[str, str] | None) -> Draft:
    head, word = ("async def", "await ") if aio else ("def", "")
    methods = [
        method(f"{head} save(self, run_id, state)", [f"{word}self.thing.{save}({given})"]),
        method(f"{head} load(self, run_id)", [f"return {word}self.thing.{load}(run_id)"]),
    ]
    if log is not None:
        methods += [
            method(f"{head} append(self, run_id, entry)", [f"{word}self.thing.{log[0]}(run_id, entry)"]),
            method(f"{head} entries(self, run_id)", [f"return {word}self.thing.{log[1]}(run_id)"]),
        ]
    opening = opened(
        [made],
        "_Store(thing)",
        enters=seen.aenters if aio else seen.enters,
        closes=names.closing(seen, aio=aio),
        aio=aio,
    )
    return Draft("store", aio, wrapped("_Store", methods), opening, ASKED, names.imports(seen), ["log"] if log else [])


def _by_file(seen: Sight) -> Iterator[Draft]:
    """A module of functions that write to an open file and read from one, as `json` and `pickle` are."""
    dump, load = seen.find(("dump",), aio=False), seen.find(("load",), aio=False)
    if dump is None or load is None:
        return
    for mode in ("", "b"):
        write, read = (f'open(self.folder / run_id, "{letter}{mode}")' for letter in "wr")
        wrapper = wrapped(
            "_Store",
            [
                method(
                    "def save(self, run_id, state)",
                    [f"with {write} as file:", f"{STEP}{seen.module}.dump(state, file)"],
                ),
                method("def load(self, run_id)", [f"with {read} as file:", f"{STEP}return {seen.module}.load(file)"]),
            ],
            ["folder"],
        )
        yield Draft("store", False, wrapper, ["yield _Store(folder)"], ASKED, [f"import {seen.module}"])


# --- the child's side ---------------------------------------------------------------------------------------------------


async def check(held: Held) -> None:
    """A state comes back, from a second handle too; and how it tells of what was never saved, can't be, or is damaged."""
    state: dict[str, Any] = {"n": 1, "parts": ["a", None, {"deep": True}]}
    async with held.open(folder=held.folder) as store:
        await held.value(store.save("run-1", state))
        back = await held.value(store.load("run-1"))
        held.expect(back == state, f"it gave {back!r} for {state!r}")
        error = await held.error(store, "load", "run-never")
        held.expect(error is not None, "a state that was never saved is no error")
        held.learn("NotFound", error)
        for odd in ("", "a\0b", "../run-1"):
            held.learn("Invalid", await held.error(store, "save", odd, state))
        held.learn("Invalid", await held.error(store, "save", "run-2", {"no": threading.Lock()}))
        if hasattr(store, "append"):
            await held.value(store.append("run-1", {"line": 1}))
            await held.value(store.append("run-1", {"line": 2}))
            lines = [*await held.value(store.entries("run-1"))]
            held.expect(lines == [{"line": 1}, {"line": 2}], f"its log gave {lines!r}")
    async with held.open(folder=held.folder) as store:
        back = await held.value(store.load("run-1"))
        held.expect(back == state, f"a second handle on the folder gave {back!r} for {state!r}")
    await _damaged(held)


async def _damaged(held: Held) -> None:
    """What it says where half of each file is gone."""
    from pytest_flowcheck.protocols import NotFound, is_a

    for path in held.folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    try:
        async with held.open(folder=held.folder) as store:
            error = await held.error(store, "load", "run-1")
    except Exception as found:  # noqa: BLE001 - opening what is damaged may well be refused
        error = found
    if error is not None and not is_a(error, NotFound, {}) and not isinstance(error, AssertionError):
        where = f"{type(error).__module__}:{type(error).__qualname__}"
        if where not in held.errors.get("NotFound", []):
            held.learn("Corrupt", error)
