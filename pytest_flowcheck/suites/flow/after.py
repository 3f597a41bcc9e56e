"""FLO-07: runs after failed and cancelled ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.protocols.flow import Graph, Node
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._shared import (
    NodeError,
    begin,
    call_of,
    completed,
    ended,
    errors_of,
    given,
    in_flight,
    is_that,
    let_go,
    over,
    run_of,
    running,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab


@rule("FLO-07")
def the_next_run_starts_clean(lab: Lab) -> None:
    """After a run that failed or was cancelled the next one starts clean.

    Intent: The engine lives for months, its runs fail every day.

    Usual cause: The graph is left dirty: states of the failed run in its nodes; a set of failed ids on `self`; a slot that only success gives back.

    Proof: After a run whose node failed the same graph runs again, its node well by then, and then another graph with the same node ids; where runs can be cancelled, again after that. All that is ready must be in flight, all nodes run, and nothing of the old error is told.

    Source: dynamiq 0.45, whose graph stayed dirty after a failure; FAN-26.
    """
    error = NodeError("fetch failed")
    with lab.instance(max_workers=2) as it:
        _clean(lab, it, Graph(_nodes(lab, "clean")), "the first run", needs="FLO-02")
        dirty = Graph(_nodes(lab, "again", raises=error))
        failed = begin(it, dirty, what="the run that fails")
        running(lab, failed, "again_fetch", "again_load")
        let_go(lab, "again_fetch")
        lab.open("again_load #1")
        run = run_of(lab, failed)
        if run.status != "failed":
            raise Inconclusive(f"{failed.what} {ended(failed)}", because_of="FLO-03")
        _clean(lab, it, dirty, "the next run of the graph that failed", second=True, old=error)
        _clean(lab, it, Graph(_nodes(lab, "other")), "the next run of another graph", old=error)
        if it.colour == "async":
            _cancelled(lab, it)


def _nodes(lab: Lab, which: str, raises: BaseException | None = None) -> tuple[Node, ...]:
    """`merge` needs `fetch`, which may fail the first time, and `load`."""
    return (
        given(lab, "fetch", raises=raises, times=1, called=f"{which}_fetch"),
        given(lab, "load", called=f"{which}_load"),
        given(lab, "merge", "fetch", "load", called=f"{which}_merge", gated=False),
    )


def _clean(
    lab: Lab,
    it: Instance,
    graph: Graph,
    what: str,
    *,
    second: bool = False,
    old: BaseException | None = None,
    needs: str | None = None,
) -> None:
    """A run of this graph goes as if it were the first of all."""
    call = begin(it, graph, what=what)
    names = [n.body.__name__ for n in graph.nodes][:2]
    calls = [call_of(name, 2 if second else 1) for name in names]
    text = f"both nodes of {what} that need nothing are in flight"
    lab.until(lambda: call.done or set(calls) <= set(lab.live()), text, needs=needs)
    missing = [name for name in calls if name not in lab.live()]
    if missing:
        facts = f"{what} {ended(call)} before {', '.join(missing)} was in flight"
        if needs is not None:
            raise Inconclusive(facts, because_of=needs)
        lab.check(False, facts, text)
    for name in calls:
        lab.open(name)
        lab.until(lambda name=name: name in lab.timeline.names("ended", "raised"), f"{name} ends", needs="FLO-01")  # type: ignore[misc]
    values = {"fetch": "fetch", "load": "load", "merge": "merge"}
    run = completed(lab, call, values, needs=None if needs is None else "FLO-01")
    lab.check(
        old is None or not any(is_that(lab, e, old) for e in errors_of(run)),
        f"{what} {ended(call)}",
        "nothing of the error of an earlier run",
    )


def _cancelled(lab: Lab, it: Instance) -> None:
    graph = Graph(_nodes(lab, "cancelled"))
    call = begin(it, graph, what="the run that is cancelled")
    names = ("cancelled_fetch", "cancelled_load")
    running(lab, call, *names, needs="FLO-02")
    call.cancel()
    if any(not e.coroutine for e in lab.timeline.of("started")):
        lab.settle()
        lab.open(*map(call_of, in_flight(lab)))  # nodes on threads can't be cancelled
    _comes_back(lab, call)
    lab.until(lambda: all(over(lab, name) for name in names), "the nodes of the cancelled run end", needs="FLO-32")
    _clean(lab, it, graph, "the next run of the graph that was cancelled", second=True)
    _clean(lab, it, Graph(_nodes(lab, "after")), "the next run of another graph, after the cancelled one")


def _comes_back(lab: Lab, call: Call[Any]) -> None:
    lab.until(lambda: call.done, "the cancelled run comes back", needs="FLO-32")
