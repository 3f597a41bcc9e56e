"""LOP-02, 03: the TTL, judged by the order of events and never by a clock.

What must not happen before a moment is compared with a timer that was set, on the loop itself, to an earlier one: a loop
runs its timers in order, and all that are due before it stops.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.looppool._shared import Pool, Where, asyncio_loop, came_to, opened

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab

TTLS = (0.1, 0.3, 0.9)
"""Seconds. A machine that was too busy for the first is given the next; only what goes wrong with all of them is judged. The first
is many turns of a busy machine's scheduler, too: a loop that is kept from running for so long rings what it would never have rung."""


SHORT = 0.006
"""Seconds of a TTL that only has to pass."""


class Rang:
    """A timer of the pool's own loop that was set by a coroutine on it."""

    def __init__(self, lab: Lab, seconds: float) -> None:
        self.rang = False
        self._lab, self._seconds = lab, seconds

    async def __call__(self) -> str:
        """The body that sets it."""
        asyncio_loop().call_later(self._seconds, self._ring)
        return "set a timer"

    def _ring(self) -> None:
        self.rang = True
        self._lab.note(f"the loop's own timer rang, {self._seconds:g} s after it was set")


@rule("LOP-02", "ttl")
def idle_loops_are_reaped(lab: Lab) -> None:
    """An idle loop is reaped without further calls, never before its TTL; TTL 0 reaps at once.

    Intent: A burst of work must not leave a thread behind for ever; nor is a warm loop worth anything that is gone when the next call comes.

    Usual cause: Expiry is looked at by the next dispatch only; a sweeper that nobody starts; seconds taken for milliseconds.

    Proof: After one dispatch nothing is asked of the pool any more; its thread ends and its loop is closed, or it is proven that they never will be. Too early is judged by a timer of that very loop, which the coroutine set to half the TTL: loops run their timers in order, so it rings before a reap that keeps the TTL. That must fail with three TTLs.

    Source: wool, pull request 271: `_WORKER_LOOP_TTL`.
    """
    with opened(lab, 0) as pool:
        where = pool.ran("at once")
        pool.reaped(
            where, "with TTL 0, an idle loop is reaped", expected="nobody uses it: it is reaped without further calls"
        )
    for ttl in TTLS:
        with opened(lab, ttl) as pool:
            half = Rang(lab, ttl / 2)
            where = pool.ran(f"with TTL {ttl:g}", half)
            pool.reaped(
                where,
                f"idle for more than its TTL of {ttl:g} s, it is reaped",
                expected="it is reaped without further calls",
            )
            if half.rang:
                return
    lab.check(
        False,
        f"a loop with TTL {TTLS[-1]:g} s was reaped before its own timer of {TTLS[-1] / 2:g} s rang",
        "it is kept for its TTL",
    )


@dataclass(frozen=True)
class Use:
    """Dispatches that overlap, each longer than the TTL: in how many steps, and whether each step's leaves before its next
    comes, so that the last hold passes on; then, if `renewed`, one more within the TTL."""

    steps: int
    passed_on: bool
    renewed: bool

    def __str__(self) -> str:
        lines = ["a dispatch is held for longer than the TTL"]
        for step in range(2, self.steps + 1):
            lines.append(f"dispatch {step} begins on the same loop; the TTL passes")
            if self.passed_on:
                lines.append(f"dispatch {step - 1} ends; the TTL passes")
        lines.append("all end")
        if self.renewed:
            lines.append("on another pool, a dispatch comes before the TTL is over, and renews it")
        return "\n".join(lines)


EVERYTHING = Use(2, True, True)


@rule("LOP-03", "ttl", property=True)
def use_renews(lab: Lab) -> None:
    """A dispatch within the TTL renews it; a loop in use is never reaped, however long the dispatch.

    Intent: A reaper that looks at the clock and not at the users kills the longest calls first.

    Usual cause: The timer is started when the dispatch begins and cancelled by nobody; a count of users that the second one doesn't raise; a TTL counted from the loop's birth.

    Proof: Coroutines are held at gates while the TTL passes, several times; each is still in flight, and one that comes later is on the same loop. Renewal: a dispatch comes at 0.6 of the TTL, by a timer of the loop itself, and sets another to 0.75 of it; the loop must live to ring it.

    Source: wool, pull request 271.
    """

    def scenario(use: Use) -> None:
        with opened(lab, SHORT) as pool:
            _held(lab, pool, use, SHORT)
        if not use.renewed:
            return
        for ttl in TTLS:
            with opened(lab, ttl) as pool:
                if _renewed(lab, pool, pool.ran("warm"), ttl, last=ttl == TTLS[-1]):
                    return
        raise Inconclusive("no dispatch came to the loop within its TTL, nor within longer ones", because_of="LOP-02")

    lab.example = str(EVERYTHING)
    scenario(EVERYTHING)
    lab.example = ""
    if lab.repeated(100) < 100:
        return  # the selftest, on a pool that need not fail this rule
    forall(
        lab,
        scenario,
        st.builds(Use, st.integers(1, 3), st.booleans(), st.just(False)),
        examples=4,
        describe=str,
        shrink=False,
    )


def _held(lab: Lab, pool: Pool, use: Use, ttl: float) -> Where:
    """Dispatches that overlap; what is said of each is that it is in flight."""
    calls: dict[str, Call[Any]] = {}
    first: Where | None = None
    for step in range(1, use.steps + 1):
        name = f"use{step}"
        calls[name] = pool.dispatch(name)
        _runs(pool, calls[name], name)
        if first is not None and pool.arrived(name):
            where = pool.where[name]
            lab.check(
                where.same(first),
                f"while a dispatch was in flight on {first}, {name} was run on {where}",
                "the loop that is in use",
            )
        first = pool.where.get(name, first)
        _pass(lab, 1.5 * ttl)
        if use.passed_on and step > 1:
            before = f"use{step - 1}"
            lab.open(before)
            calls[before].join()
            _pass(lab, 1.5 * ttl)
        early = next((call for n, call in calls.items() if call.done and n not in lab.ended()), None)
        lab.check(
            early is None,
            f"its coroutine was held for longer than the TTL of {ttl:g} s, and {came_to(early) if early else ''}",
            "a loop in use is never reaped",
        )
    assert first is not None
    for name, call in calls.items():
        lab.open(name)
        call.join()
        lab.check(
            call.returned and call.value == name,
            f"held for longer than the TTL of {ttl:g} s, {came_to(call)}",
            f"it returns {name!r}",
        )
    return first


def _runs(pool: Pool, call: Call[Any], name: str) -> None:
    pool.lab.until(lambda: call.done or pool.arrived(name), f"dispatch({name}) runs")


def _renewed(lab: Lab, pool: Pool, where: Where, ttl: float, *, last: bool) -> bool:
    """False if the machine was too busy for a dispatch within the TTL; or if the loop was reaped, and it is not the last TTL: a
    loop that is reaped much too early may live that long on a busy machine."""
    soon, later = Rang(lab, 0.6 * ttl), Rang(lab, 0.75 * ttl)
    if not pool.ran("sets a timer", soon, needs="LOP-09").same(where):
        return False
    lab.until(lambda: soon.rang or where.gone, "most of the TTL has passed", needs="LOP-02")
    if not soon.rang or not pool.ran("renews", later, needs="LOP-09").same(where):
        return False
    lab.until(lambda: later.rang or where.gone, "the loop rings, or is reaped", needs="LOP-02")
    if not later.rang and not last:
        return False
    lab.check(
        later.rang,
        f"a dispatch came at 0.6 of the TTL of {ttl:g} s and set a timer to 0.75 of it; the loop was reaped before it rang",
        "the dispatch renews the TTL: the loop is kept for the whole of it again",
    )
    return True


def _pass(lab: Lab, seconds: float) -> None:
    """Let so much time pass, at least."""
    passed = threading.Event()

    def ring() -> None:
        passed.set()
        lab.note("the TTL has passed")

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    lab.until(passed.is_set, "the kit's own timer rings")
    timer.join()
