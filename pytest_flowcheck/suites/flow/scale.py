"""FLO-18, 33: ten thousand nodes, and what they cost."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.calls import reachable
from pytest_flowcheck.protocols.flow import Graph, Node
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._shared import (
    begin,
    ended,
    errors_of,
    node,
    run_of,
    starts,
    word,
)

if TYPE_CHECKING:
    from types import FrameType

    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab


class Plain:
    """A body that does nothing, or fails. No probe: ten thousand of them would take longer than the engine."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.__name__ = self.__qualname__ = "plain"

    def __call__(self, input: Any, upstream: Mapping[str, Any]) -> int:  # noqa: A002, ARG002 - the protocol's
        if self.fails:
            raise ValueError("the first node failed")
        return 1

    async def aio(self, input: Any, upstream: Mapping[str, Any]) -> int:  # noqa: A002 - the protocol's
        return self(input, upstream)


def chain(count: int, body: Any, first: Any = None) -> list[Node]:
    """Each needs the one before."""
    nodes = [Node(f"n{i}", body, (f"n{i - 1}",)) for i in range(1, count)]
    return [Node("n0", first or body), *nodes]


def fan(count: int, body: Any) -> list[Node]:
    """One, all that need it, and one that needs all of them."""
    middle = [Node(f"n{i}", body, ("n0",)) for i in range(1, count - 1)]
    return [Node("n0", body), *middle, Node(f"n{count - 1}", body, tuple(n.id for n in middle))]


@rule("FLO-18")
def large_graphs_raise_no_recursion_error(lab: Lab) -> None:
    """A chain and a fan of 10 000 nodes raise no RecursionError.

    Intent: A graph made by a program is as long as its data; the stack isn't.

    Usual cause: A depth-first search that calls itself; a node that runs its successor, which runs its own; skips passed on from dependent to dependent.

    Proof: A chain, a fan with a last node behind it, and a chain whose first node fails, ten thousand nodes each. The last node is a probe: it runs, or never does. The recursion limit is Python's own.

    Source: dynamiq, `_init_graph`; networkx's searches, which were rewritten without recursion.
    """
    # in any case more than a thousand: that is the recursion limit
    count, body = 10_000 if lab.thorough else 1_200, Plain()
    with lab.instance(max_workers=4) as it:
        for what, nodes in (
            ("a fan", fan(count, body)),
            ("a chain", chain(count, body)),
            ("a chain whose first node fails", chain(count, body, Plain(fails=True))),
        ):
            last = f"last_of_{what.replace(' ', '_')}"
            nodes[-1] = node(lab, nodes[-1].id, *nodes[-1].needs, called=last, gated=False)
            if what == "a chain":
                nodes.reverse()  # one may walk along a chain either way
            call = begin(it, Graph(tuple(nodes)), what=f"run of {what} of {count} nodes")
            _without_recursion(lab, call)
            run = run_of(lab, call)
            if "fails" in what:
                if run.status != "failed" or starts(lab, last):
                    raise Inconclusive(f"{call.what} is {run.status}", because_of="FLO-03")
            elif run.status != "completed" or not starts(lab, last):
                wrong = next((f"{i} {word(o)}" for i, o in run.nodes.items() if word(o) != "ok"), repr(run.error))
                raise Inconclusive(f"{call.what} is {run.status}: {wrong}", because_of="FLO-01")


def _without_recursion(lab: Lab, call: Call[Any]) -> None:
    call.join()
    errors = list(reachable(call.error) if call.error is not None else errors_of(call.value))
    deep = any(lab.is_a(e, RecursionError) for e in errors)
    end = "raised" if call.error is not None else "failed with"
    lab.check(not deep, f"{call.what} {end} RecursionError", "no RecursionError, however long the graph")


class Counted(Plain):
    """A body that looks whether the steps of its thread are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.blind = 0

    def __call__(self, input: Any, upstream: Mapping[str, Any]) -> int:  # noqa: A002 - the protocol's
        if threading.get_ident() not in _counting:
            self.blind += 1
        return super().__call__(input, upstream)


_counting: set[int] = set()
"""Threads whose steps are being counted."""
_steps = [0]


@contextmanager
def _tracing() -> Generator[None]:
    """Count the lines that threads run which are born inside."""
    before = threading.gettrace()

    def trace(_frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "line":
            _steps[0] += 1  # a lost update among many does no harm
        else:
            _counting.add(threading.get_ident())
        return trace

    threading.settrace(trace)
    try:
        yield
    finally:
        threading.settrace(before)
        _counting.clear()


@rule("FLO-33", should=True)
def the_cost_grows_linearly(lab: Lab) -> None:
    """Counted steps for 10·n nodes are about ten times those for n.

    Intent: A graph of a hundred nodes tells nothing about one of ten thousand if each node looks at all the others.

    Usual cause: After each node all nodes are looked at for one that is ready; `if id in list`; a status file written anew for each node.

    Proof: Lines of Python that the engine's threads run are counted, no time is taken, for a chain and a fan of 60 nodes and of 600. Quadratic work makes the ratio go towards 100; more than 25 is reported. What C code does is not seen; threads that are older than the rule, and other processes, can't be counted.

    Source: dynamiq 0.69, whose 100 x 100 layers take 4000 times as long as a pool by hand.
    """
    few, factor = 60 if lab.thorough else 20, 10
    with _tracing(), lab.instance(max_workers=2) as it:
        begin(it, [node(lab, "warm", gated=False)], what="a first run").join()
        for what, make in (("chain", chain), ("fan", fan)):
            steps: list[int] = []
            for count in (few, few * factor):
                body = Counted()
                graph = Graph(tuple(make(count, body)))
                before = _steps[0]
                call = begin(it, graph, what=f"run of a {what} of {count} nodes")
                call.join()
                steps.append(_steps[0] - before)
                if call.error is not None or call.value.status != "completed":
                    raise Inconclusive(f"{call.what} {ended(call)[:200]}", because_of="FLO-01")
                if body.blind or steps[-1] < count:
                    raise NotTestable(
                        f"its nodes run on threads or in processes that are older than the rule, or not Python's: "
                        f"{steps[-1]} steps seen for {count} nodes"
                    )
            ratio = steps[1] / steps[0]
            lab.check(
                ratio <= 2.5 * factor,
                f"a {what} of {few} nodes took {steps[0]} steps, one of {few * factor} nodes {steps[1]}: {ratio:.0f} times as many",
                f"about {factor} times as many",
            )
