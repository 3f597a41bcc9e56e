"""LOP-10: a dispatch inside a dispatch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.looppool._shared import awaited, came_to, opened, was_refused

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("LOP-10", "nested")
def dispatch_inside_a_dispatch(lab: Lab) -> None:
    """A dispatch from within a dispatched coroutine does not deadlock, or is refused clearly.

    Intent: A helper that dispatches is called from everywhere, also from what was itself dispatched.

    Usual cause: `run_coroutine_threadsafe(...).result()` on the loop's own thread, which waits for itself; an asyncio.Lock of the pool that the outer dispatch holds, or that is bound to the caller's loop.

    Proof: A dispatched coroutine dispatches another one, while a second caller dispatches as well; both come back. A refusal is an error that the subject's table maps to Refused or Closed.

    Source: anyio's BlockingPortal, which refuses calls on its own event loop thread.
    """

    async def outer() -> str:
        try:
            return str(await awaited(pool.raw.dispatch(inner)))
        except Exception as error:
            if was_refused(lab, error):
                return "refused"
            raise

    with opened(lab) as pool:
        inner = pool.body("inner", gated=False)
        call = pool.dispatch("outer", outer)
        beside = pool.dispatch("beside")
        pool.in_flight(call, "outer")
        pool.in_flight(beside, "beside")
        lab.open("outer")
        lab.until(
            lambda: call.done,
            "dispatch(outer), whose coroutine dispatches another, comes back",
            expected="the inner dispatch runs, or is refused: nobody waits for himself",
            hung=True,
        )
        lab.check(
            call.returned and call.value in ("inner", "refused"),
            came_to(call),
            "the inner coroutine's value, or a refusal",
        )
        lab.open("beside")
        beside.join()
        lab.check(beside.returned and beside.value == "beside", came_to(beside), "it returns 'beside'")
