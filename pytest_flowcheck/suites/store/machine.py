"""STO-15: any sequence against a model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.probes.nursery import Answer, folder
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.store._child import Ask
from pytest_flowcheck.suites.store._script import program
from pytest_flowcheck.suites.store._shared import RUN, among, granted, is_nothing, nursery, same, state

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.suites.store._shared import Nursery, Worker

RUNS = (RUN, "another")


@dataclass
class Model:
    """What a store is: the last state of each run, and the entries of each run, whatever becomes of processes."""

    states: dict[str, Any] = field(default_factory=dict[str, Any])
    logs: dict[str, list[Any]] = field(default_factory=dict[str, list[Any]])

    def expect(self, ask: Ask) -> Sequence[Any] | None:
        """Take the step. The values that may come of it; none: NotFound; None: it returns."""
        method, *args = ask
        if method == "save":
            self.states[args[0]] = args[1]
        elif method == "append":
            self.logs.setdefault(args[0], []).append(args[1])
        elif method == "load":
            return [self.states[args[0]]] if args[0] in self.states else []
        elif method == "entries":
            return [list(self.logs.get(args[0], ()))]
        return None


def _steps(log: bool) -> st.SearchStrategy[list[Ask]]:
    runs = st.sampled_from(RUNS)
    values = st.builds(state, st.integers(1, 3), st.sampled_from([0, 0, 30]))
    asks: st.SearchStrategy[Ask] = st.tuples(st.just("save"), runs, values) | st.tuples(st.just("load"), runs)
    if log:
        entry = st.integers(0, 99) | st.just("a\nb") | st.just({"n": 1})
        asks = asks | st.tuples(st.just("append"), runs, entry) | st.tuples(st.just("entries"), runs)
    ends: st.SearchStrategy[Ask] = st.sampled_from([("crash",), ("reopen",)])
    return st.lists(asks | asks | asks | ends, min_size=6, max_size=16)


def _table(steps: Sequence[Ask]) -> str:
    return "\n".join(f"{ask[0]}({', '.join(map(repr, ask[1:]))})" for ask in steps)


@rule("STO-15", property=True)
def any_sequence_matches_the_model(lab: Lab) -> None:
    """Any sequence of save / append / crash / reopen matches the model.

    Intent: What holds for one save must hold for the hundredth, after two crashes, in a folder that was used before.

    Usual cause: What a handle remembers and what is in the folder drift apart: a number of the next entry, a cache, a file that is held open under a name that is another file's by now.

    Proof: Sequences of saves, appends and loads of two runs are drawn, with kills (SIGKILL) of the process that holds the handle between them; the model is a dict and lists. All is read again at the end, in a process of its own.

    Source: Claessen and Hughes, "QuickCheck" (2000), state machines; Bornholt et al., "Using Lightweight Formal Methods to Validate a Key-Value Storage Node in Amazon S3", SOSP 2021.
    """
    log = lab.claims("log")
    with nursery(lab) as others:
        with folder() as empty:
            (unknown,) = others.worker().visit(empty, ("load", RUN))
        forall(
            lab,
            lambda steps: _play(lab, others, steps, log, unknown),
            _steps(log),
            examples=24,
            describe=_table,
            reproduce=lambda steps: _program(lab, steps, log),
        )


def _reads(log: bool) -> list[Ask]:
    return [(method, run) for run in RUNS for method in (("load", "entries") if log else ("load",))]


def _complete(steps: Sequence[Ask], log: bool) -> list[Ask]:
    return [*steps, ("reopen",), *_reads(log)]


def _program(lab: Lab, steps: Sequence[Ask], log: bool) -> str:
    model, listed = Model(), _complete(steps, log)
    return program(lab, listed, [model.expect(ask) for ask in listed])


def _play(lab: Lab, others: Nursery, steps: Sequence[Ask], log: bool, unknown: Answer) -> None:
    model = Model()
    with folder() as path, ExitStack() as stack:

        def begin() -> Worker:
            worker = others.worker()
            stack.callback(worker.kill)
            granted(worker.open(path), "opening the store", "STO-01")
            return worker

        worker, pending = begin(), list[Ask]()
        for ask in (*_complete(steps, log), ("end",)):
            if len(ask) > 1:
                pending.append(ask)
                continue
            answers: list[Answer] = worker.request("each", "it", pending)
            for done, answer in zip(pending, answers, strict=True):
                _judge(lab, done, answer, model.expect(done), unknown)
            pending = []
            if ask == ("crash",):
                worker.kill()
                lab.note("the process that held the handle was killed")
            else:
                closed = worker.request("close", "it")
                lab.check(closed.returned, f"closing the store {closed}", "it returns")
            if ask != ("end",):
                worker = begin()


def _judge(lab: Lab, ask: Ask, answer: Answer, expected: Sequence[Any] | None, unknown: Answer) -> None:
    call = f"{ask[0]}({', '.join(map(repr, ask[1:]))})"
    lab.note(f"{call} {answer}")
    if expected is None:
        lab.check(answer.returned, f"{call} {answer}", "it returns")
    elif not expected:
        lab.check(is_nothing(answer, unknown), f"{call}, which was never saved, {answer}", "NotFound")
    elif ask[0] == "entries":
        right = answer.returned and any(same(list(answer.value), one) for one in expected)
        lab.check(right, f"{call} {answer}", f"the entries that were appended: {expected[0]}")
    else:
        lab.check(among(answer, expected), f"{call} {answer}", f"what was saved last: {expected[0]}")
