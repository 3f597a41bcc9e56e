"""FLO-01, 02, 21, 22: what runs, when, and at how many a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._play import (
    Blames,
    Scenario,
    dags,
    for_all,
    outcomes_agree,
    play,
    scenarios,
    starts_in_order,
)
from pytest_flowcheck.suites.flow._shared import (
    begin,
    completed,
    in_flight,
    let_go,
    most_in_flight,
    node,
    running,
    starts,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab


@rule("FLO-01", property=True)
def each_node_runs_once_behind_its_needs(lab: Lab) -> None:
    """A node runs after all it depends on, exactly once, and receives their outputs.

    Intent: This is what a flow is; all else is about how well.

    Usual cause: A count of missing needs that two threads change at once; a node that two of its needs start, each as the last; results kept under one name for all; nodes taken in the order in which the graph names them.

    Proof: Graphs, outcomes and the order of completion are drawn, and forced by gates. Each node looks at what it is given and refuses what is wrong; starts and ends are read from the history; the outcomes are compared with a model of eight lines. What becomes of the dependents of a failed node is FLO-03's, and where `continue` is not claimed nothing is asked of other branches.

    Source: property-based state machines; dynamiq, `Flow.run`.
    """

    blames = Blames(stands_still=None, lacking=[])

    def judge(it: Instance, scenario: Scenario) -> None:
        (run,) = play(lab, it, scenario, blames)
        starts_in_order(lab, run)
        outcomes_agree(lab, run)

    for_all(lab, judge, scenarios(dags()), examples=40)
    for_all(lab, judge, scenarios(dags(fails=True)), examples=30)
    lab.fresh()
    with lab.instance(max_workers=4) as it:
        needs = {"d": ("b", "c"), "c": ("a",), "b": ("a",), "a": ()}
        call = begin(it, [node(lab, id_, *needs[id_]) for id_ in needs])
        for allowed in (["a"], ["a", "b", "c"]):
            lab.settle()  # what starts too early does so now
            early = [name for name in starts(lab) if name not in allowed]
            lab.check(
                not early, f"{', '.join(early)} started before all that it needs had ended", "it starts behind them"
            )
            if early or call.done or "a" not in in_flight(lab):
                break
            let_go(lab, "a")
        lab.open_all()
        call.join()


@rule("FLO-02", property=True)
def independent_nodes_overlap(lab: Lab) -> None:
    """Nodes that don't depend on each other overlap, up to `max_workers`.

    Intent: Whoever draws a graph rather than a list does it for this; and the bound protects what the nodes use.

    Usual cause: Nodes run in topological order, one after the other; or in waves; a node that ends starts one of those that waited for it and forgets the rest.

    Proof: All nodes wait at their gates, and the order of completion is drawn: after each one as many must be in flight as are ready and have room. That they never will is read from the kernel; one too many is in the history.

    Source: Python library reference, `graphlib`; dynamiq, whose waves are FLO-21's.
    """
    names = [f"n{place}" for place in range(5)]
    with lab.instance(max_workers=3) as it:
        fan = begin(it, [node(lab, name) for name in names])
        lab.until(lambda: fan.done or len(in_flight(lab)) >= 3, "3 of 5 independent nodes are in flight")
        lab.settle()
        _bounded(lab, 3)
        lab.open_all()
        fan.join()

    def judge(it: Instance, scenario: Scenario) -> None:
        play(lab, it, scenario, Blames(too_few=None))
        _bounded(lab, scenario.workers)

    for_all(lab, judge, scenarios(dags()), examples=40)
    lab.fresh()
    with lab.instance(max_workers=2) as it:
        # a worker that waits for what a node needs is none that another could have
        call = begin(it, [node(lab, "n0"), node(lab, "n1"), node(lab, "n2", "n0"), node(lab, "n3", "n1")])
        running(lab, call, "n0", "n1", needs=None)
        let_go(lab, "n1")
        lab.until(
            lambda: call.done or "n3" in in_flight(lab),
            "n3, which needs n1 only, starts beside n0 with max_workers=2, though n2 was named before it and waits for n0",
        )
        lab.open_all()
        call.join()


def _bounded(lab: Lab, workers: int) -> None:
    most = most_in_flight(lab)
    lab.check(
        len(most) <= workers,
        f"{len(most)} nodes were in flight together: {', '.join(most)}",
        f"at most max_workers={workers}",
    )


@rule("FLO-21")
def no_node_waits_for_unrelated_ones(lab: Lab) -> None:
    """A node starts as soon as all that it depends on is done: it never waits for unrelated slower siblings (no wave barrier), in `run` and in `arun`.

    Intent: In waves every level is as slow as its slowest node, and one stuck request holds up branches that have nothing to do with it.

    Usual cause: `wait(futures)` without FIRST_COMPLETED, `gather` over a level, `for wave in levels(graph)`.

    Proof: One node stays at its gate; a chain beside it is let go node by node, three levels deep. That the next one never starts is proven from the kernel, with a worker to spare.

    Source: dynamiq 0.45 and 0.69, whose loop waits for all futures of a wave; Python library reference, `concurrent.futures.wait`.
    """
    with lab.instance(max_workers=3) as it:
        nodes = [
            node(lab, "slow"),
            node(lab, "a"),
            node(lab, "b", "a"),
            node(lab, "c", "b"),
            node(lab, "end", "c", "slow"),
        ]
        call = begin(it, nodes)
        running(lab, call, "slow", "a")
        for done, next_ in (("a", "b"), ("b", "c")):
            let_go(lab, done)
            lab.until(
                lambda next_=next_: call.done or next_ in in_flight(lab),  # type: ignore[misc]
                f"{next_} starts: {done} is all it needs and is done; slow, which it does not need, is at its gate",
                expected=f"{next_} starts beside slow",
            )
        let_go(lab, "c")
        lab.settle()
        early = [name for name in in_flight(lab) if name == "end"]
        if early:
            raise Inconclusive("end started while slow, which it needs, was at its gate", because_of="FLO-01")
        lab.open_all()
        completed(lab, call, needs="FLO-01")


@rule("FLO-22", "mixed")
def the_bound_holds_for_async_nodes_too(lab: Lab) -> None:
    """The worker bound holds for async nodes too.

    Intent: `max_workers=2` is said of a database or a quota behind the nodes; these don't ask what colour a node has.

    Usual cause: Blocking nodes go through the pool, async ones straight to the loop, which takes them all.

    Proof: All nodes wait at their gates: async ones alone, and both kinds mixed. One too many in flight is in the history, for the kernel says that no other would have come.

    Source: dynamiq 0.69, `run_async` with `max_node_workers`.
    """
    with lab.instance(max_workers=2) as it:
        for title, kinds in (("async", ["async"] * 5), ("mixed", ["async", "blocking", "async", "blocking", "async"])):
            names = [f"{title}{number}" for number in range(5)]
            nodes = [node(lab, name, kind=kind) for name, kind in zip(names, kinds, strict=True)]  # type: ignore[arg-type]
            call = begin(it, nodes, what=f"run of {title} nodes")
            lab.until(
                lambda call=call, names=names: call.done or len(in_flight(lab, *names)) >= 2,  # type: ignore[misc]
                f"2 of 5 {title} nodes are in flight",
                needs="FLO-02",
            )
            lab.settle()
            most = most_in_flight(lab, *names)
            lab.check(
                len(most) <= 2, f"{len(most)} nodes were in flight together: {', '.join(most)}", "at most max_workers=2"
            )
            lab.open(*(f"{name} #1" for name in names))
            completed(lab, call)
            most = most_in_flight(lab, *names)
            lab.check(
                len(most) <= 2, f"{len(most)} nodes were in flight together: {', '.join(most)}", "at most max_workers=2"
            )
