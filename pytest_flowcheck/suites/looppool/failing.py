"""LOP-08, 18, 19: errors, cancellations, and loops that die."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.looppool._shared import BodyError, Pool, Where, came_to, comes_back, opened

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab


class Raises:
    """A body that raises this very error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def __call__(self) -> None:
        raise self.error


@rule("LOP-08")
def errors_are_callers(lab: Lab) -> None:
    """An exception reaches its caller; the loop survives; a cancelled caller cancels its coroutine.

    Intent: One call that fails is that call's matter; and a caller who gave up must not leave work behind that nobody will ever look at.

    Usual cause: An error that ends the loop's main coroutine, and with it the loop; `run_coroutine_threadsafe` without `future.cancel()` when the waiting side is cancelled.

    Proof: A coroutine raises: its caller gets that type and those arguments, and the next dispatch runs on the same loop. Where dispatches are awaited, a caller whose coroutine is gated is cancelled: the coroutine ends at its gate.

    Source: asyncio's `wrap_future`, which passes a cancellation on.
    """
    error = BodyError("the coroutine failed", 42)
    with opened(lab) as pool:
        first = pool.ran("before")
        if not pool.ran("before that").same(first):
            raise Inconclusive("each dispatch has a loop of its own: none can survive", because_of="LOP-01")
        call = pool.dispatch("fails", Raises(error), gated=False).join()
        lab.check(
            lab.is_a(call.error, BodyError) and getattr(call.error, "args", ()) == error.args,
            came_to(call),
            f"it raises what its coroutine raised, {error!r}",
        )
        _still_there(lab, pool, first, "after that")
        if pool.it.colour == "async":
            held = pool.dispatch("held")
            pool.in_flight(held, "held")
            held.cancel()
            lab.until(
                lambda: "held" in lab.timeline.names("raised", "ended"),
                "the coroutine of a cancelled caller ends at its gate",
                expected="it is cancelled with its caller",
            )
            held.join()
            _still_there(lab, pool, first, "after a cancellation")


def _still_there(lab: Lab, pool: Pool, first: Any, name: str) -> None:
    call = pool.dispatch(name, gated=False).join()
    lab.check(
        call.returned and call.value == name,
        f"after an error in another dispatch, {came_to(call)}",
        f"it returns {name!r}",
    )
    where = pool.where[name]
    lab.check(where.same(first), f"the first dispatch ran on {first}, the one {name} on {where}", "the loop survives")


class CreationFails(asyncio.DefaultEventLoopPolicy):
    """Makes loops as the policy before it does, but for the next one."""

    def __init__(self, before: asyncio.AbstractEventLoopPolicy) -> None:
        super().__init__()
        self._before = before
        self.failed = 0

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        """Called by whoever makes a loop."""
        if not self.failed:
            self.failed += 1
            raise OSError(24, "Too many open files (so says the kit)")
        return self._before.new_event_loop()


@contextmanager
def creation_fails() -> Generator[CreationFails]:
    """The next loop that is made in this process can't be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        before = asyncio.get_event_loop_policy()  # pyright: ignore[reportDeprecated]
        policy = CreationFails(before)
        asyncio.set_event_loop_policy(policy)  # pyright: ignore[reportDeprecated]
    try:
        yield policy
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            asyncio.set_event_loop_policy(before)  # pyright: ignore[reportDeprecated]


@rule("LOP-18")
def dead_loops_are_replaced(lab: Lab) -> None:
    """A loop whose creation failed is asked for again; one that died is replaced.

    Intent: Too many open files at one moment, or one coroutine that stops the loop, must not end the service.

    Usual cause: A half-made entry that is found by the next caller; a thread that is never looked at again.

    Proof: The event loop policy refuses one loop, as it does when descriptors run out: that dispatch raises, the next one runs. Then a callback stops the idle loop; the next dispatch runs, there or on another.

    Source: EMFILE from `asyncio.new_event_loop`; `loop.stop()` in somebody's library.
    """
    with opened(lab) as pool:
        with creation_fails() as policy:
            call = pool.dispatch("without a loop", gated=False)
            comes_back(
                lab, call, "a dispatch whose loop can't be made", "it raises, or is run on a loop that is made next"
            )
        if policy.failed:  # else the loop was made when the pool was opened
            call = pool.dispatch("asks again", gated=False)
            comes_back(lab, call, "the dispatch after one whose loop could not be made")
            lab.check(
                call.returned, f"a loop could not be made once, and after that {came_to(call)}", "it is asked for again"
            )
        where = pool.ran("warm")
        if isinstance(where.loop, asyncio.AbstractEventLoop):
            loop = where.loop
            stopped: list[bool] = []

            def stop() -> None:
                loop.stop()
                stopped.append(True)
                lab.note("somebody stopped the loop")

            try:
                loop.call_soon_threadsafe(stop)
            except RuntimeError:
                return  # it is closed already: the pool keeps none that could die
            lab.until(
                lambda: bool(stopped) or loop.is_closed(), "the loop runs a callback that stops it", needs="LOP-01"
            )
            lab.settle()
            call = pool.dispatch("after a stop", gated=False)
            comes_back(lab, call, "a dispatch after somebody stopped the idle loop", "a loop that died is replaced")
            lab.check(
                call.returned, f"after somebody stopped the idle loop, {came_to(call)}", "a loop that died is replaced"
            )


@rule("LOP-19")
def exits_are_callers(lab: Lab) -> None:
    """SystemExit or KeyboardInterrupt from a dispatch reaches its caller; the next dispatch works.

    Intent: `sys.exit` deep in a library is for whoever called it, and must not silently end the loop of all others.

    Usual cause: asyncio lets both go through the loop: `run_forever` raises, the thread ends, and callers wait for ever.

    Proof: Coroutines raise one and the other; each caller gets it, and the dispatch after it runs.

    Source: `asyncio.Task`, which raises SystemExit and KeyboardInterrupt out of the loop.
    """
    with opened(lab) as pool:
        where = pool.ran("before")
        for error in (SystemExit(3), KeyboardInterrupt("by hand")):
            name, meant = f"raises {type(error).__name__}", f"it raises {type(error).__name__}"
            call = pool.dispatch(name, Raises(error), gated=False)
            lab.until(
                partial(_back_or_gone, call, where),
                f"the dispatch that raises {error!r} comes back",
                expected=meant,
                hung=True,
            )
            if call.done:
                lab.check(isinstance(call.error, type(error)), came_to(call), meant)
            # else it has ended its loop. Whether another one answers, now, can be seen at the next dispatch
            later = f"after {type(error).__name__}"
            after = pool.dispatch(later, gated=False)
            comes_back(lab, after, f"the dispatch after one that raised {type(error).__name__}", "it works")
            lab.check(after.returned, f"after {error!r} in another dispatch, {came_to(after)}", "it works")
            comes_back(lab, call, f"the dispatch that raises {error!r}", meant)
            lab.check(isinstance(call.error, type(error)), came_to(call), meant)
            where = pool.where.get(later, where)


def _back_or_gone(call: Call[Any], where: Where) -> bool:
    return call.done or where.gone
