"""FAN-02, 03, 04, 26: how many are in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.forall import st
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.fanout._play import Scenario, Stage, for_all, mixtures, play
from pytest_flowcheck.suites.fanout._shared import (
    Act,
    Script,
    calls_of,
    fan_out,
    full,
    in_flight,
    let_go,
    most_in_flight,
    outcomes,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab


@rule("FAN-02", property=True)
def at_most_so_many_are_in_flight(lab: Lab) -> None:
    """At most `max_concurrency` items are in flight, ever, retries included.

    Intent: The bound protects what the items use: a database, a quota, memory. Once over it is over it.

    Usual cause: A retry, a nested helper or a late replacement that runs beside the window without a slot of its own.

    Proof: The probes say when they start and end; one more than allowed in flight can't be an accident of timing. Where an item fails once, it is waited until nothing moves: who tries again has begun by then.

    Source: spec-kit pull request 3224; aiometer `max_at_once`.
    """

    def judge(stage: Stage, scenario: Scenario) -> None:
        play(lab, stage, scenario)
        _bounded(lab, scenario.bound)

    for_all(lab, judge, st.one_of(mixtures(lab)).filter(lambda s: len(s.acts) > 1), examples=20)
    for bound in (1, 2):
        lab.fresh()
        with lab.instance() as it:
            call = fan_out(lab, it, 5, bound, body=lab.attempts("item", FailsFirst()))
            full(lab, call, bound)
            lab.settle()
            _bounded(lab, bound)
            let_go(lab, lab.live()[0])
            lab.settle()  # a subject that tries again does so now
            _bounded(lab, bound)
            lab.open_all()
            call.join()
        _bounded(lab, bound)


class FailsFirst:
    """The first call of all fails as a broken connection does; later ones, its own repetition too, return."""

    def __call__(self, number: int, item: int) -> str:
        if number == 1:
            raise ConnectionError(f"item({item}) failed once")
        return f"item({item})"


def _bounded(lab: Lab, bound: int) -> None:
    most, which = most_in_flight(lab)
    lab.check(
        most <= bound, f"{most} items were in flight together: {', '.join(which)}", f"at most max_concurrency={bound}"
    )


@rule("FAN-03")
def the_concurrency_is_real(lab: Lab) -> None:
    """Exactly `min(max_concurrency, items left)` are in flight when all are gated: the concurrency is real.

    Intent: A fan-out that runs its items one after the other keeps every rule of order; it is just no fan-out.

    Usual cause: `max_concurrency` is parsed, documented and never used; or one slot is kept back for the caller.

    Proof: Every item waits at its gate. That no further one starts is proven by the kernel, and so is one more than allowed by its own report.

    Source: spec-kit 0.12.1, where `max_concurrency` was accepted and ignored.
    """
    count, bound = 5, 3
    names = calls_of(range(count))
    with lab.instance() as it:
        call = fan_out(lab, it, count, bound)
        full(lab, call, bound, needs=None)
        lab.settle()
        _exactly(lab, bound)
        for done in (1, 2):  # the oldest ends: a window that waits for its head has no excuse
            let_go(lab, names[done - 1])
            full(lab, call, bound, needs=None)
        let_go(lab, names[2])
        lab.settle()
        _exactly(lab, 2)
        lab.open(*names)
        outcomes(call)
        wide = fan_out(lab, it, 3, 8, name="wide")
        full(lab, wide, 3, needs=None, name="wide")
        lab.open_all()
        outcomes(wide)


def _exactly(lab: Lab, size: int) -> None:
    live = in_flight(lab)
    lab.check(len(live) == size, f"{len(live)} items are in flight: {', '.join(live)}", f"exactly {size}")


@rule("FAN-04")
def one_stuck_item_holds_up_no_other(lab: Lab) -> None:
    """Work-conserving: while one item is stuck, all others complete through the remaining slots (no head-of-line blocking).

    Intent: One slow item costs one slot, not the fan-out.

    Usual cause: A window that waits for its oldest item before it takes the next, or batches that wait for their slowest.

    Proof: Item 0 stays at its gate, all others are let go; that one of them will never complete is read from the kernel.

    Source: spec-kit pull request 3224, whose first window waited for its head.
    """
    count, bound = 7, 3
    head, *others = calls_of(range(count))
    with lab.instance() as it:
        call = fan_out(lab, it, count, bound)
        lab.until(lambda: call.done or head in lab.live(), f"{head} is in flight", needs="FAN-23")
        if call.done:
            raise Inconclusive(
                f"{call.what} came back while {head} was at its gate: {call.error!r}", because_of="FAN-03"
            )
        lab.open(*others)
        lab.until(
            lambda: call.done or set(others) <= set(lab.ended()),
            f"all items but {head} complete while it is at its gate",
            expected=f"items 1 to {count - 1} complete through the other {bound - 1} slots",
        )
        lab.check(
            head in lab.live() and not call.done, f"{call.what} came back before {head}", "it waits for every item"
        )
        lab.open_all()
        outcomes(call)


@rule("FAN-26")
def slots_are_given_back(lab: Lab) -> None:
    """A failed, cancelled or halted item gives its slot back: the next call has full concurrency. (lost token)

    Intent: A service that loses one slot per failure is fast on the first day and sequential on the tenth.

    Usual cause: A semaphore that is released on the way of success only.

    Proof: Before and after the bad call as many gated items as there are slots must be in flight; that they never will be is read from the kernel.

    Source: the classic lost token; asyncio.Semaphore before 3.11.2 lost them on cancellation (gh-90155).
    """
    bound = 3
    ways: list[tuple[Act, bool]] = [("raises", False)]
    if lab.claims("halt"):
        ways.append(("failed", False))
    if lab.claims("continue"):
        ways.append(("failed" if lab.claims("halt") else "raises", True))
    with lab.instance() as it:
        fresh = fan_out(lab, it, 4, bound, name="fresh")
        full(lab, fresh, bound, name="fresh")
        lab.open(*calls_of(range(4), "fresh"))
        fresh.join()
        for act, keep_going in ways:
            told = f"{act}, recorded" if keep_going else act
            bad = fan_out(
                lab,
                it,
                4,
                bound,
                Script(dict.fromkeys(range(4), act), told),
                name=told,
                gated=False,
                continue_on_error=keep_going,
            )
            bad.join()
            _full_again(lab, it, bound, told)
        if it.colour == "async":
            dropped = fan_out(lab, it, 4, bound, name="dropped")
            full(lab, dropped, bound, name="dropped")
            dropped.cancel()
            if not all(e.coroutine for e in lab.timeline.of("started")):
                lab.open(*calls_of(range(4), "dropped"))  # items on threads can't be cancelled
            dropped.join()
            _full_again(lab, it, bound, "dropped")


def _full_again(lab: Lab, it: Instance, bound: int, after: str) -> None:
    name = f"after {after}"
    call = fan_out(lab, it, 4, bound, name=name)
    full(lab, call, bound, needs=None, name=name)
    lab.open(*calls_of(range(4), name))
    call.join()
