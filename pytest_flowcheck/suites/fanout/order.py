"""FAN-01, 06, 23: results and starts in item order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.fanout._play import Scenario, Stage, all_return, for_all, play
from pytest_flowcheck.suites.fanout._shared import Act, Script, calls_of, fan_out, full, let_go, of, outcomes

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("FAN-01", property=True)
def results_come_in_item_order(lab: Lab) -> None:
    """Results come in item order under any completion order.

    Intent: The caller pairs results with items by position; there is nothing else to pair them by.

    Usual cause: Results are appended as items complete, or read from `as_completed`.

    Proof: Each item's result is its own name; gates force the completion order.

    Source: spec-kit pull request 3224; Python library reference, `Executor.map`.
    """

    def judge(stage: Stage, scenario: Scenario) -> None:
        came, right = play(lab, stage, scenario), "; ".join(calls_of(range(len(scenario.acts))))
        lab.check(came == right, f"the results were: {came}", f"in item order: {right}")

    for_all(lab, judge, all_return(), examples=30)


@rule("FAN-06")
def concurrency_one_is_sequential(lab: Lab) -> None:
    """With concurrency 1 the observable trace is the sequential one, exactly.

    Intent: `max_concurrency=1` is how one debugs a fan-out; it must be the plain loop that the reader has in mind.

    Usual cause: The concurrent path with one worker, which fetches the next item before the last one's end is looked at.

    Proof: Behind a gated first item nothing else starts, which the kernel proves; the rest of the trace is compared with a loop's, also where an item raises or halts.

    Source: spec-kit pull request 3224: `max_concurrency: 1` keeps the old behaviour.
    """
    endings: list[Act] = ["ok", "raises"]
    if lab.claims("halt"):
        endings.append("failed")
    with lab.instance() as it:
        for ending in endings:
            name = f"then {ending}"
            call = fan_out(lab, it, 4, 1, Script({2: ending}, name), name=name)
            full(lab, call, 1, name=name)
            if ending == "ok":
                lab.settle()
                early = of(lab.started(), name)[1:]
                lab.check(
                    not early, f"{', '.join(early)} started beside {name}(0), which is at its gate", "nothing else"
                )
            lab.open(*calls_of(range(4), name))
            call.join()
        lab.settle()
    for ending in endings:
        name = f"then {ending}"
        trace = [f"{e.kind} {e.probe}" for e in lab.timeline.events if e.probe.startswith(f"{name}(")]
        last = {"ok": 4}.get(ending, 3)
        right = [f"{kind} {call}" for call in calls_of(range(last), name) for kind in ("started", "ended")]
        if ending != "ok":
            right[-1] = f"raised {name}(2)"
        lab.check(trace == right, f"the trace was: {', '.join(trace)}", f"that of a loop: {', '.join(right)}")


@rule("FAN-23")
def items_start_in_item_order(lab: Lab) -> None:
    """Items start in item order: the first `max_concurrency` together, each later one as a slot becomes free.

    Intent: A prefix of the results can only be told if everything before an item has at least begun.

    Usual cause: A stack of pending items, a set, or worker threads that draw from a shared pile.

    Proof: All items are gated, so exactly one slot becomes free at a time: which item takes it is no matter of scheduling. The order within the first window is not judged: threads and trio's tasks may report in any.

    Source: spec-kit pull request 3224; sequential equivalence.
    """
    count, bound = 9, 3
    names = calls_of(range(count))
    with lab.instance() as it:
        call = fan_out(lab, it, count, bound)
        full(lab, call, bound)
        first = lab.started()
        lab.check(
            set(first[:bound]) == set(names[:bound]),
            f"the first to start were {', '.join(first[:bound])}",
            ", ".join(names[:bound]),
        )
        for turn, freed in enumerate((1, 2, 0, 4, 3, 5)):
            let_go(lab, names[freed])
            full(lab, call, min(bound, count - turn - 1), needs="FAN-04")
            got, right = lab.started()[bound + turn], names[bound + turn]
            lab.check(
                got == right, f"the slot that {names[freed]} gave back went to {got}", f"{right}, the next in order"
            )
        lab.open_all()
        outcomes(call)
