"""FLO-03, 29, 38: failures, the dependents of failed nodes, and the other branches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.calls import reachable
from pytest_flowcheck.protocols import Ok, Skipped
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._shared import (
    NodeError,
    begin,
    ended,
    given,
    in_flight,
    is_that,
    let_go,
    node,
    over,
    own_error,
    run_of,
    running,
    starts,
    word,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab


@rule("FLO-03")
def dependents_of_a_failed_node_never_run(lab: Lab) -> None:
    """The dependents of a failed node never run and say why; the run is failed with the node's own error (itself or in a group).

    Intent: What a node would have worked on is not there; and whoever reads the run must find the one error that began it.

    Usual cause: A failed need counts as done; only the next level is skipped; the error is replaced by "3 nodes were skipped", or by the last one seen.

    Proof: `fetch` fails while `load` is at its gate; `load` then returns, so that `merge` has had all its needs come to an end. That none of the dependents starts is proven from the kernel. A dependent that the engine tells of must be skipped, because of one that failed or was skipped before it; one that it doesn't tell of is not judged.

    Source: dynamiq, `NodeResult` with status SKIP; Airflow, `upstream_failed`.
    """
    error = NodeError("fetch failed")
    behind = {"parse": ("fetch",), "store": ("parse",), "merge": ("load", "fetch"), "report": ("store", "merge")}
    with lab.instance(max_workers=2) as it:
        nodes = [given(lab, "fetch", raises=error), given(lab, "load")]
        nodes += [given(lab, id_, *needs) for id_, needs in behind.items()]
        call = begin(it, nodes)
        running(lab, call, "fetch", "load")
        let_go(lab, "fetch")
        lab.open("load #1")
        lab.settle()
        _none_started(lab, call, *behind)
        lab.open_all()
        run = run_of(lab, call)
        lab.settle()
        _none_started(lab, call, *behind)
    lab.check(run.status == "failed", f"after fetch had failed, the run {ended(call)}", "failed")
    lab.check(
        own_error(lab, run, error),
        f"the run {ended(call)}",
        f"its error, or what it says of fetch, is {error!r}: itself, in a group, or as a cause",
    )
    reasons = {"fetch", *behind}
    for id_ in behind:
        outcome = run.nodes.get(id_)
        if outcome is None:
            continue
        before = reasons & _all_needs(behind, id_)
        why = isinstance(outcome, Skipped) and any(reason in outcome.because for reason in before)
        lab.check(
            why,
            f"the run says of {id_}, which never ran: {word(outcome)}",
            f"skipped, because of {' or '.join(sorted(before))}",
        )


def _all_needs(needs: dict[str, tuple[str, ...]], id_: str) -> set[str]:
    direct = set(needs.get(id_, ()))
    return direct.union(*(_all_needs(needs, need) for need in direct))


def _none_started(lab: Lab, call: Call[Any], *names: str) -> None:
    ran = starts(lab, *names)
    lab.check(
        not ran, f"{', '.join(ran)} started although fetch had failed ({call.what} {ended(call)})", "it never runs"
    )


@rule("FLO-29", "continue")
def other_branches_complete(lab: Lab) -> None:
    """Branches that don't depend on the failed node complete.

    Intent: One page that can't be fetched must not cost the other nine hundred.

    Usual cause: An error that leaves the scheduling loop; a task group, which cancels the others; a flag that stops new starts.

    Proof: A chain stands beside the failed node, its first node in flight, the next ones yet to start; each must start as its turn comes. That it never does is proven from the kernel.

    Source: dynamiq, whose branches go on; Make, `--keep-going`.
    """
    error = NodeError("fetch failed")
    with lab.instance(max_workers=3) as it:
        nodes = [
            given(lab, "fetch", raises=error),
            given(lab, "parse", "fetch"),
            given(lab, "a"),
            given(lab, "b", "a"),
            given(lab, "c", "b"),
        ]
        call = begin(it, nodes)
        running(lab, call, "fetch", "a")
        let_go(lab, "fetch")
        for name in ("a", "b", "c"):
            lab.until(
                lambda name=name: call.done or name in in_flight(lab) or over(lab, name),  # type: ignore[misc]
                f"{name} starts, which does not depend on fetch, the failed node",
                expected="branches that don't depend on the failed node go on",
            )
            lab.check(
                name in in_flight(lab),
                f"after fetch had failed, {name} {'was cancelled' if over(lab, name) else 'never started'}; the run {ended(call)}",
                f"{name} runs: it does not depend on fetch",
            )
            let_go(lab, name)
        lab.open_all()
        run = run_of(lab, call)
    if run.status != "failed" or starts(lab, "parse"):
        raise Inconclusive(f"after fetch had failed, the run {ended(call)}", because_of="FLO-03")
    for name in ("a", "b", "c"):
        outcome = run.nodes.get(name)
        lab.check(
            outcome is None or isinstance(outcome, Ok),
            f"the run says of {name}, which returned: {word(outcome)}",
            "ok: it does not depend on fetch, the failed node",
        )


@rule("FLO-38", cluster="SHOULD")
def a_node_may_raise_anything(lab: Lab) -> None:
    """SystemExit or KeyboardInterrupt from a node ends the run failed, never hung.

    Intent: `sys.exit()` in a library that a node calls must not leave the caller waiting for ever, nor pass for success.

    Usual cause: `except Exception` around the node: the worker thread dies, and nobody counts the node down.

    Proof: The node raises while another one is at its gate; that the run never comes back once that gate is open is read from the kernel. A run that raises the error to its caller has ended as well.

    Source: CPython, `concurrent.futures.thread._WorkItem.run`, which catches BaseException for this reason.
    """
    for kind in (SystemExit, KeyboardInterrupt):
        error, name = kind(f"{kind.__name__} by a node"), kind.__name__.lower()
        stop, beside, after = f"{name}_stop", f"{name}_beside", f"{name}_after"
        with lab.instance(max_workers=2) as it:
            call = begin(
                it,
                [given(lab, stop, raises=error), given(lab, beside), node(lab, after, stop)],
                what=f"run whose node raises {kind.__name__}",
            )
            running(lab, call, stop, beside)
            let_go(lab, stop)
            lab.open_all()
            call.join()
            if call.error is None or not any(is_that(lab, e, error) for e in reachable(call.error)):
                run = run_of(lab, call)
                lab.check(run.status == "failed", f"{call.what} {ended(call)}", "failed")
            if starts(lab, after):
                raise Inconclusive(f"{after} ran although {stop} had raised {error!r}", because_of="FLO-03")
