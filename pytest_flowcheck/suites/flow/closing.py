"""FLO-10, 16, 36: close, and what stays."""

from __future__ import annotations

import gc
import logging
import sys
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.calls import blocking_value
from pytest_flowcheck.proof import Census, census
from pytest_flowcheck.protocols import Closed, Failed, Ok
from pytest_flowcheck.protocols.flow import Graph, Node
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._shared import (
    a_run,
    begin,
    completed,
    ended,
    fan,
    let_all_go,
    node,
    run_of,
    some_in_flight,
    starts,
    told,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab


def grown(before: Census, after: Census) -> dict[str, int]:
    """What grew, by kind. Threads and children that came and stayed: what an earlier rule left may go meanwhile."""
    return {
        "threads": len(after.threads - before.threads),
        "child processes": len(after.children - before.children),
        "descriptors": len(after.descriptors) - len(before.descriptors),
        "event loops": after.loops - before.loops,
        "tasks": after.tasks - before.tasks,
    }


def use(lab: Lab, it: Instance, name: str) -> None:
    """A run that needs two workers at once."""
    nodes = fan(lab, name, 2)
    call = begin(it, nodes, what=f"run {name}")
    some_in_flight(lab, call, nodes, 2)
    let_all_go(lab, call, nodes)


def close(it: Instance, what: str = "close()") -> Call[Any]:
    """Begin to close it."""
    return it.start(what, lambda flow: flow.close())


@rule("FLO-10")
def close_releases_every_thread(lab: Lab) -> None:
    """`close` and the context manager release every thread; close is idempotent; a run after close raises or reopens, as declared.

    Intent: Engines are opened per tenant, per test, per configuration; what one of them leaves adds up.

    Usual cause: `shutdown(wait=False)`; a second pool that close doesn't know; a closed flag that only some of the entrances look at.

    Proof: Threads and child processes are counted by the kernel, when nothing moves any more, over engines that were closed and are still held, and over engines whose context was left; judged is growth with every engine. Of engines on a loop only the latter, as the loop itself keeps idle threads.

    Source: EXE-17; PEP 343.
    """
    with lab.instance(max_workers=2) as it:
        use(lab, it, "before")
        for which in ("first", "second"):
            call = close(it, f"close() for the {which} time").join()
            lab.check(call.error is None, f"{call.what} {ended(call)}", "close may be called any number of times")
        _as_declared(lab, it)
    if it.colour == "blocking":
        _no_growth(lab, "close() has returned", lambda it, _: close(it).result())
    _no_growth(lab, "their context was left", lambda _, stack: stack.close())


def _as_declared(lab: Lab, it: Instance) -> None:
    """A run after close."""
    after = begin(it, fan(lab, "after", 1, gated=False), what="run after close()").join()
    if lab.declared("after_close") == "reopen":
        completed(lab, after)
        lab.check(bool(starts(lab, "after0")), "the run after close() completed, but its node never ran", "it runs")
        close(it, "close() after that run").result()
        return
    ran = starts(lab, "after0")
    lab.check(
        lab.is_a(after.error, Closed) and not ran,
        f"the run after close() {ended(after)}{'; its node ran' if ran else ''}",
        "it raises Closed (or what the adapter's `errors` say for it), and runs nothing; an engine that opens again "
        "declares after_close = 'reopen'",
    )


def _no_growth(lab: Lab, when: str, release: Callable[[Instance, ExitStack], object]) -> None:
    """Several engines are opened, used and released, and held to the end: no thread stays for each."""
    rounds = 3
    counts: list[Census] = []
    with ExitStack() as held:
        for number in range(rounds + 1):
            stack = held.enter_context(ExitStack())
            it = stack.enter_context(lab.instance(max_workers=2))
            use(lab, it, f"use{number}_")
            release(it, stack)
            if number in {0, rounds}:
                lab.settle()
                counts.append(census())
    before, after = counts
    more = grown(before, after)
    for what in ("threads", "child processes"):
        lab.check(
            more[what] < rounds,
            f"after {rounds} engines were opened and used, and {when}, there are {more[what]} more {what}: "
            f"{'; '.join(after.growth_since(before)[:6])}",
            "as many as before",
            absence=True,
            leaked=True,
        )
    lab.fresh()


@rule("FLO-36")
def close_during_a_run_is_no_hang(lab: Lab) -> None:
    """`close` during a run lets it finish or fails it clearly; never a hang.

    Intent: A service is stopped while requests are under way: that is when it is stopped.

    Usual cause: Workers are told to stop while nodes are still to come, so that the coordinator waits for what nobody will do.

    Proof: Two nodes are held at their gates when `close` is called, one waits for a slot and one for its dependency. Then all gates are opened: that run or close never returns is proven from the kernel. A run that says it completed has had all its nodes run.

    Source: CPython gh-83386 (shutdown loses work); dynamiq pull request 674.
    """
    with lab.instance(max_workers=2) as it:
        nodes = [*fan(lab, "n", 3), node(lab, "last", "n0", "n2")]
        call = begin(it, nodes, what="the run under way")
        some_in_flight(lab, call, nodes, 2)
        closing = close(it, "close() during the run")
        lab.settle()
        lab.open_all()
        call.join()
        closing.join()
        lab.check(closing.error is None, f"{closing.what} {ended(closing)}", "it closes, now or once the run is over")
        if call.error is not None:
            return  # that is a clear failure
        run = run_of(lab, call)
        ran = set(starts(lab))
        if run.status == "completed":
            missing = [one.id for one in nodes if one.id not in ran or not isinstance(run.nodes.get(one.id, Ok(0)), Ok)]
            lab.check(
                not missing, f"{told(run)}; but of {', '.join(missing)} nothing came", "completed means all of it"
            )
            return
        clear = run.error is not None or any(isinstance(one, Failed) for one in run.nodes.values())
        lab.check(clear or run.status == "cancelled", f"the run gave: {told(run)}", "an error that says why it failed")


class Parcel(dict[str, Any]):
    """An input, or an output, that can be looked after; to an engine it is a plain dict."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_parcels: weakref.WeakSet[Parcel] = weakref.WeakSet()
"""All that live in this process."""


class Echo:
    """A node's body that nobody listens to: there are too many for a history. `fails`: with that input."""

    def __init__(self, name: str, fails: bool = False) -> None:
        self.__name__ = self.__qualname__ = name
        self.fails = fails

    def __call__(self, input: Mapping[str, Any], upstream: Mapping[str, Any]) -> Parcel:  # noqa: A002 - the protocol's
        if self.fails and input["number"] % 10 == 9:
            raise ValueError(f"{self.__name__} fails in run {input['number']}")
        output = Parcel(of=self.__name__, needs=len(upstream))
        _parcels.add(output)
        return output

    async def aio(self, input: Mapping[str, Any], upstream: Mapping[str, Any]) -> Parcel:  # noqa: A002 - the protocol's
        return self(input, upstream)


def _asked(number: int) -> tuple[Graph, Parcel]:
    """A graph of three nodes, and the input of the run: all fresh."""
    parcel = Parcel(number=number)
    _parcels.add(parcel)
    nodes = (Node("a", Echo("a")), Node("b", Echo("b", fails=True), ("a",)), Node("c", Echo("c"), ("a", "b")))
    return Graph(nodes), parcel


def _runs(it: Instance, first: int, count: int) -> Call[Any]:
    """So many runs, one after the other; every tenth fails."""

    def done(gave: Any) -> bool:
        if hasattr(gave, "__await__"):
            blocking_value("run", gave)
        return a_run("run", gave).status == "completed"

    def one_by_one(flow: Any) -> int:
        return sum(done(flow.run(*_asked(number))) for number in range(first, first + count))

    async def awaited(flow: Any) -> int:
        good = 0
        for number in range(first, first + count):
            good += done(await flow.run(*_asked(number)))
        return good

    return it.start(f"{count} runs of three nodes", one_by_one if it.colour == "blocking" else awaited)


@rule("FLO-16")
def a_thousand_runs_leave_nothing(lab: Lab) -> None:
    """A thousand runs leave no growth in threads, references or memory.

    Intent: A service runs flows for months.

    Usual cause: A list of all runs; a cache by graph, never emptied; a task or thread per run that waits for ever; a failed run whose traceback is kept.

    Proof: Threads, children, descriptors and tasks are counted by the kernel and the loops, inputs and outputs by weak references, memory by the interpreter's count of blocks, each after a collection. Judged is a growth by one or more per run, of what is counted in the first twenty runs, of references and memory in each of the four quarters that follow. What grows less and less may fill up to a bound: that is undecided.

    Source: EXE-17, EXE-18; dynamiq pull request 674.
    """
    quarters = 4
    few, many = 20, lab.repeated(245)
    with lab.instance(max_workers=2) as it:
        use(lab, it, "first")
        number = _some(lab, it, 0, 2 * few)
        lab.settle()
        before = census()
        number = _some(lab, it, number, few)
        lab.settle()
        after = census()
        for what, more in grown(before, after).items():
            lab.check(
                more < few,
                f"{few} runs left {more} more {what}: {'; '.join(after.growth_since(before)[:6])}",
                "as many as before",
                absence=True,
                leaked=True,
            )
        # what a thread still holds of its last node is no growth by one per run: no need to wait for it
        with _unlogged():
            counts = [_held()]
            for _ in range(quarters):
                number = _some(lab, it, number, many)
                counts.append(_held())
    for what in counts[0]:
        history = [count[what] for count in counts]
        is_no_leak(lab, what, [now - then for then, now in pairwise(history)], many)


def is_no_leak(lab: Lab, what: str, steps: list[int], runs: int) -> None:
    """Judge by how much it grew in each quarter, of so many runs.

    What is kept for each run grows as much in the last quarter as before. What fills up to a bound grows less and less: the
    histories of a cluster's scheduler, say, which have room for more than a thousand runs.
    """
    facts = f"over {len(steps)} times {runs} runs, of which nothing was kept, {what} grew by {', '.join(map(str, steps))}"
    if min(steps) >= runs and steps[-1] < 0.75 * steps[1]:
        raise Inconclusive(f"{facts}: less and less, as what fills up to a bound does")
    lab.check(min(steps) < runs, facts, "no growth: less than one per run", leaked=True)


def _some(lab: Lab, it: Instance, first: int, count: int) -> int:
    """Make these runs; returns the next number."""
    call = _runs(it, first, count).join()
    right = sum(number % 10 != 9 for number in range(first, first + count))
    if call.error is not None or call.value != right:
        came = ended(call) if call.error is not None else f"had {call.value} completed"
        raise Inconclusive(f"{call.what}, of which {right} should complete, {came}", because_of="FLO-07")
    lab.note(f"{count} runs are over")
    return first + count


@contextmanager
def _unlogged() -> Generator[None]:
    """Nothing is logged: pytest keeps every record until the rule is over, and so an engine that logs its runs would grow."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _held() -> dict[str, int]:
    """What is held, after a collection."""
    gc.collect()
    return {
        "the inputs and outputs that are still referenced": len(_parcels),
        "the interpreter's blocks of memory": sys.getallocatedblocks(),
    }
