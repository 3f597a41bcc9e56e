"""FAN-07, 08, 09, 10, 24: halts, the prefix they leave, and failures that are recorded instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.forall import st
from pytest_flowcheck.protocols import Failed, Foreign, Halt
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.fanout._play import Scenario, Stage, acceptable, for_all, play, scenarios
from pytest_flowcheck.suites.fanout._shared import (
    HALTS,
    Act,
    Script,
    calls_of,
    fan_out,
    full,
    is_that,
    let_go,
    of,
    outcomes,
    told,
    within,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("FAN-07", "halt")
def a_halt_starts_nothing_new(lab: Lab) -> None:
    """After a halting item (failed, paused, aborted) no new item starts: items are submitted in a sliding window, not all up front.

    Intent: What a sequential run would never have begun must not have happened: mails, payments, deletions.

    Usual cause: All items are submitted to a pool at once; the worker that the halting item gives back takes the next from the queue.

    Proof: The other items of the window are at their gates; that nothing new starts while they are, and none as they end, is proven by the kernel.

    Source: spec-kit pull request 3224, sliding window.
    """
    count, bound = 9, 3
    inexpressible = 0
    with lab.instance() as it:
        for how in HALTS:
            names = calls_of(range(count), how)
            call = fan_out(lab, it, count, bound, Script({1: how}, how), name=how)
            full(lab, call, bound, name=how)
            window = of(lab.started(), how)
            let_go(lab, names[1])
            lab.settle()
            within(lab, bound, how)
            _nothing_new(lab, how, window, f"while {_and(n for n in window if n != names[1])} were at their gates")
            lab.open(*names)
            call.join()
            try:
                ended = call.error
            except NotTestable:
                inexpressible += 1
                continue
            _nothing_new(lab, how, window, f"before the call {'returned' if ended is None else f'raised {ended!r}'}")
    if inexpressible == len(HALTS):
        raise NotTestable("the subject can't express any of the three halts")


def _nothing_new(lab: Lab, how: str, window: list[str], when: str) -> None:
    new = [name for name in of(lab.started(), how) if name not in window]
    lab.check(not new, f"after {how}(1) had halted it ({how}), {_and(new)} started {when}", "nothing new starts")


def _and(names: Any) -> str:
    return " and ".join(names)


@rule("FAN-08", "halt", property=True)
def the_results_are_the_prefix(lab: Lab) -> None:
    """On a halt the *results* are the contiguous prefix that ends with the halting item, itself included, as the sequential run would give.

    Intent: Whoever resumes goes on behind the last result; a gap, or an item too many, is work lost or done twice.

    Usual cause: The halting item's own slot is left out, or later items that happened to be done are told as well.

    Proof: One item halts, wherever it stands and whenever gates let it; the results are compared with a sequential run's.

    Source: spec-kit pull request 3224, "faithful halt prefix".
    """

    def judge(stage: Stage, scenario: Scenario) -> None:
        came, (right,) = play(lab, stage, scenario), acceptable(scenario)
        lab.check(came == right, f"the results were: {came or 'none'}", f"the prefix: {right}")

    for_all(lab, judge, scenarios(_one_halts()), examples=40)


def _one_halts() -> st.SearchStrategy[list[Act]]:
    def acts(drawn: tuple[int, int, Act]) -> list[Act]:
        count, which, how = drawn
        return [how if item == which % count else "ok" for item in range(count)]

    return st.tuples(st.integers(2, 6), st.integers(0, 5), st.sampled_from(HALTS)).map(acts)


@rule("FAN-09", "halt")
def the_first_in_item_order_halts_it(lab: Lab) -> None:
    """The halt is attributed to the first halting item in item order, even where a later one halted earlier in time.

    Intent: Which item halts a run must not depend on the machine's mood.

    Usual cause: The first halting outcome to arrive is remembered, and whatever comes later is ignored.

    Proof: Gates have item 3 pause, and only then item 1 fail, while both are in flight.

    Source: spec-kit pull request 3224.
    """
    count, bound = 8, 4
    names = calls_of(range(count))
    with lab.instance() as it:
        call = fan_out(lab, it, count, bound, Script({1: "failed", 3: "paused"}))
        full(lab, call, bound)
        let_go(lab, names[3])
        lab.settle()  # the subject has noticed
        let_go(lab, names[1])
        lab.open_all()
        got = outcomes(call)
    if not got or not isinstance(got[-1], Failed):
        raise Inconclusive(f"the results were {told(got)}: no halting item ends them", because_of="FAN-08")
    lab.check(
        told(got) == [names[0], "Failed"],
        f"item(3) paused, then item(1) failed; the results end with no. {len(got) - 1}: {', '.join(told(got))}",
        "they end with item(1), the first in item order that halts",
    )
    lab.check(got[-1].how != "paused", "the halt of item(1), which failed, is told as 'paused'", "its own: 'failed'")


@rule("FAN-10", "continue")
def a_recorded_failure_truncates_nothing(lab: Lab) -> None:
    """A failure is recorded in its slot and truncates nothing.

    Intent: With `continue_on_error` the caller wants a thousand results and the three errors, each where it belongs.

    Usual cause: Results end at the first failure, failures are left out so that all later ones move up, or they stop the window.

    Proof: The first, a middle and the last item fail in turn, the middle one first; the answer is compared slot by slot.

    Source: spec-kit `continue_on_error`; `asyncio.gather(return_exceptions=True)`.
    """
    count, bound = 6, 3
    names = calls_of(range(count))
    act: Act = "failed" if lab.claims("halt") else "raises"
    script = Script({0: act, 2: act, 5: act})
    with lab.instance() as it:
        call = fan_out(lab, it, count, bound, script, continue_on_error=True)
        full(lab, call, bound)
        let_go(lab, names[2])  # a later one first, while earlier ones run
        lab.open_all()
        got = outcomes(call)
    right = ["Failed" if item in script.errors else names[item] for item in range(count)]
    lab.check(told(got) == right, f"the results were {', '.join(told(got)) or 'none'}", ", ".join(right))
    for item, meant in script.errors.items():
        error = got[item].error
        if isinstance(meant, Halt) or isinstance(error, Foreign):
            continue  # how an engine words its own halt is its own business
        lab.check(is_that(lab, error, meant), f"slot {item} holds {error!r}", f"its own error: {meant!r}")


class HalfBody:
    """A body that fails for some items before the probe, or anything else, has recorded that it began."""

    def __init__(self, probe: Any, fails: frozenset[int]) -> None:
        self.probe, self.fails = probe, fails
        self.__name__ = self.__qualname__ = probe.name

    def __call__(self, item: int) -> Any:
        if item in self.fails:
            raise Halt("failed")
        return self.probe(item)

    async def aio(self, item: int) -> Any:
        """The same on a loop."""
        if item in self.fails:
            raise Halt("failed")
        return await self.probe.aio(item)


@rule("FAN-24", "halt")
def an_early_failure_halts_like_any_other(lab: Lab) -> None:
    """An item that fails before it records anything (an unknown body type) halts like any other, sequentially and concurrently.

    Intent: A misspelt body must stop the run as loudly as one that failed.

    Usual cause: The halt is read from the item's record, and an item that never began has none.

    Proof: The same fan-out is halted twice, by a body that began and by one that fails at its very call; results and starts are compared.

    Source: spec-kit pull request 3224, unknown step types inside a fan-out.
    """
    count = 6
    for bound in (1, 3):
        ends: list[list[str]] = []
        for early in (False, True):
            name = f"{'early' if early else 'usual'}, {bound} at a time"
            names = calls_of(range(count), name)
            probe = lab.probe(name, Script({1: "failed"}, name))
            with lab.instance() as it:
                call = fan_out(lab, it, count, bound, name=name, body=HalfBody(probe, frozenset({1} if early else ())))
                lab.until(
                    lambda: call.done or names[0] in lab.started(),  # noqa: B023 - awaited within this turn
                    f"{names[0]} starts",
                    needs="FAN-23",
                )
                if early:
                    lab.settle()
                else:
                    full(lab, call, bound, name=name)
                lab.open(names[0])
                lab.until(
                    lambda: call.done or names[0] in lab.ended(),  # noqa: B023
                    f"{names[0]} ends once its gate is open",
                )
                lab.open(names[1])
                if early:
                    lab.settle()
                    new = [n for n in of(lab.started(), name) if n in names[3:]]
                    lab.check(not new, f"item 1 failed before it began, and {_and(new)} started", "nothing new starts")
                lab.open_all()
                got = outcomes(call)
            ends.append([text.removeprefix(name) for text in told(got)])
            lab.fresh()
        if ends[0] != ["(0)", "Failed"]:
            raise Inconclusive(f"an item that halts in the usual way gave {', '.join(ends[0])}", because_of="FAN-08")
        lab.check(
            ends[0] == ends[1],
            f"{bound} at a time: an item that failed early gave {', '.join(ends[1]) or 'nothing'}; "
            f"one that had begun gave {', '.join(ends[0]) or 'nothing'}",
            "the same",
        )
