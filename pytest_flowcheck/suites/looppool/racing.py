"""LOP-09: a dispatch against the reaper, and against stop."""

from __future__ import annotations

import asyncio
import concurrent.futures
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.probes.calls import offered
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.proof import Outcome, code_of
from pytest_flowcheck.protocols import Closed, Refused
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.looppool._shared import LIMIT, Leftover, Pool, answered, came_to, comes_back, opened

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab


@dataclass(frozen=True)
class Burst:
    """So many callers, each of whom dispatches so often; somebody stops the pool in between, or nobody does."""

    callers: int
    each: int
    stops: bool

    def __str__(self) -> str:
        stops = "stop() comes in between" if self.stops else "nobody stops it"
        return f"{self.callers} callers dispatch {self.each} times each, one after the other; {stops}"


def _bursts() -> st.SearchStrategy[Burst]:
    return st.builds(Burst, st.integers(1, 2), st.integers(1, 4), st.booleans())


@rule("LOP-09", property=True)
def races_are_decided(lab: Lab) -> None:
    """A dispatch that races the reaper or `stop` runs or is refused clearly; it is never lost or hung; nor does a reap that is stuck on a task's cleanup hold up new dispatches or `stop`.

    Intent: The moment at which a loop is found idle is the very moment at which somebody has just found it warm.

    Usual cause: The caller looks the loop up, the reaper closes it, the caller posts to it: "Event loop is closed", or a future that nobody will ever set; a lock that the reaper holds while it drains.

    Proof: Dispatches in a row with TTL 0, so that each meets the reap of the one before, and stop in between: each is answered. On a blocking pool one operation is also parked at each line of the pool's own code while the other runs, first with stop, then with the reaper's own threads. Then a reap is held in a task's cleanup by a gate: a dispatch runs, and stop comes back within its limit.

    Source: FINDINGS of the preemption sweep; `anyio.from_thread.BlockingPortalProvider`, whose lease count is under a lock.
    """
    ttl = lab.claims("ttl")

    def scenario(burst: Burst) -> None:
        with opened(lab, 0 if ttl else None) as pool:
            _burst(lab, pool, burst)

    if ttl:
        _stuck_reap(lab)
    forall(lab, scenario, _bursts(), examples=10, describe=str, shrink=False)
    _swept(lab, ttl)


def _burst(lab: Lab, pool: Pool, burst: Burst) -> None:
    stop = None
    for number in range(burst.each):
        names = [f"call{caller}.{number}" for caller in range(burst.callers)]
        calls = {name: pool.dispatch(name, gated=False) for name in names}
        if burst.stops and stop is None and number == burst.each // 2:
            stop = pool.stop()
        for name, call in calls.items():
            comes_back(
                lab,
                call,
                f"dispatch({name}), which races the reaper{' and stop' if stop else ''},",
                "it runs, or is refused: it is never lost",
            )
            told = answered(lab, call, name) if stop is not None else call.returned and call.value == name
            lab.check(
                told,
                f"in a race with the reaper{' and stop' if stop else ''}, {came_to(call)}",
                f"{name!r}" + (", a cancellation or a refusal" if stop else ""),
            )
    if stop is not None:
        lab.until(lambda: stop.done, "stop() comes back", hung=True)


def _stuck_reap(lab: Lab) -> None:
    """A task's cleanup waits at a gate while its loop is reaped."""
    residual = Leftover(lab, 1, cleanup="cleanup")
    with opened(lab, 0, limit=LIMIT) as pool:
        where = pool.ran("leaves a task", residual)
        lab.until(lambda: residual.in_cleanup or where.gone, "the loop is reaped", needs="LOP-02")
        if not residual.in_cleanup:
            return  # the task was not even cancelled: LOP-06 has a word on that
        for number in (1, 2):
            call = pool.dispatch(f"new{number}", gated=False)
            lab.until(
                partial(_done, call),
                "a new dispatch comes back while the reap of the last loop is stuck in a task's cleanup",
                expected="it runs, on another loop: nobody waits for that cleanup",
                hung=True,
            )
            lab.check(
                call.returned,
                f"while the reap of the last loop is stuck in a task's cleanup, {came_to(call)}",
                "it runs",
            )
        stop = pool.stop()
        lab.until(
            lambda: stop.done,
            "stop() comes back while a reap is stuck in a task's cleanup",
            expected=f"it waits for its limit, {LIMIT:g} s here, and no longer",
            hung=True,
        )
        lab.open("cleanup")


_CANCELLATIONS: tuple[type[BaseException], ...] = (asyncio.CancelledError, concurrent.futures.CancelledError)


def _done(call: Call[Any]) -> bool:
    return call.done


class World:
    """A fresh pool for one schedule."""

    def __init__(self, lab: Lab, ttl: float | None) -> None:
        self.stack = ExitStack()
        self.pool = self.stack.enter_context(opened(lab, ttl))
        self.bodies = {name: self.pool.body(name, gated=False) for name in ("warm", "first", "second")}

    def dispatch(self, name: str) -> Any:
        """On the sweep's own thread."""
        return offered(self.pool.raw, "dispatch", "looppool")(self.bodies[name])


def _swept(lab: Lab, ttl: bool) -> None:
    with opened(lab) as pool:
        if pool.it.colour == "async":
            return  # its callers share one loop, where nothing is preempted; the bursts are its races
        code = list(code_of(pool.raw))

    def came(name: str, end: Any) -> str | None:
        """What is wrong with how a dispatch came out."""
        if end.error is None and end.value != name:
            return f"dispatch({name}) returned {end.value!r}"
        return None

    def arrange(seconds: float | None) -> World:
        world = World(lab, seconds)
        if seconds is None:
            world.dispatch("warm")
        return world

    def against_stop(_: World, outcome: Outcome) -> str | None:
        return came("first", outcome.first)

    def against_reaper(_: World, outcome: Outcome) -> str | None:
        for name, end in (("first", outcome.first), ("second", outcome.rival)):
            if end is not None and end.error is not None:
                return f"dispatch({name}), which races the reaper, raised {end.error!r}"
            if (wrong := came(name, end)) is not None:
                return wrong
        return None

    allowed: tuple[type[BaseException], ...] = (Closed, Refused, *_CANCELLATIONS)
    try:
        lab.sweep(
            lambda: arrange(None),
            lambda world: world.dispatch("first"),
            lambda world: offered(world.pool.raw, "stop", "looppool")(),
            code=code,
            judge=against_stop,
            names=("dispatch(first)", "stop()"),
            leave=lambda world: world.stack.close(),
            allowed=allowed,
            both=True,
            settle=False,
            limit=20,
            expected="the dispatch runs, is cancelled or is refused; it is never lost",
            needs="LOP-04",
        )
        if ttl:
            lab.sweep(
                lambda: arrange(0),
                lambda world: world.dispatch("first"),
                lambda world: world.dispatch("second"),
                code=code,
                judge=against_reaper,
                names=("dispatch(first)", "dispatch(second)"),
                leave=lambda world: world.stack.close(),
                settle=False,
                limit=20,
                expected="both run, on this loop or the next",
                needs="LOP-01",
            )
    except NotTestable as why:
        lab.fresh()
        lab.note(f"not swept: {why}")  # the bursts have judged the races that come by themselves
        lab.probes_ran += 1
