"""LOP-04, 16, 17: stop, whoever calls it, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.errors import Violated
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.looppool._shared import answered, awaited, came_to, comes_back, opened, was_refused

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("LOP-04")
def stop_reaps(lab: Lab) -> None:
    """`stop` reaps at once: thread gone, loop closed, stopped state visible; idempotent; from any thread.

    Intent: Whoever has stopped a pool may drop what it used, and need not ask whether somebody did so before.

    Usual cause: `loop.call_soon_threadsafe(loop.stop)` and nobody who joins the thread or closes the loop; a second stop that meets a closed loop.

    Proof: A warm pool is stopped by two callers at once, and once more. Then its thread ends and its loop is closed; a dispatch is refused, or runs on a new loop, as declared by `after_stop`.

    Source: wool, pull request 271.
    """
    with opened(lab) as pool:
        where = pool.ran("warm")
        both = [pool.stop(", the first caller's"), pool.stop(", the second caller's")]
        for call in both:
            comes_back(lab, call, f"{call.what}")
        again = pool.stop(", again").join()
        for call in (*both, again):
            lab.check(
                call.returned,
                came_to(call),
                "it returns: nothing went wrong, and stop may be called any number of times",
            )
        pool.reaped(where, "after stop()", expected="stop reaps the loop at once, however long its TTL")
        late = pool.dispatch("late", gated=False).join()
        if lab.declared("after_stop") == "reopen":
            lab.check(
                late.returned and not pool.where["late"].same(where),
                f"after stop(), {came_to(late)}",
                "it runs on a new loop, as declared",
            )
        else:
            lab.check(
                was_refused(lab, late.error), f"after stop(), {came_to(late)}", "it is refused: the pool was stopped"
            )


@rule("LOP-16")
def stop_answers(lab: Lab) -> None:
    """`stop` answers every dispatch in flight: its result, a cancellation, or a refusal.

    Intent: A caller that waits for a loop which is no more waits for ever.

    Usual cause: The loop is stopped and closed with tasks on it; futures of `run_coroutine_threadsafe` are then never done.

    Proof: Three coroutines are in flight at their gates; stop is called. Those that are not cancelled by it are let go then; each caller comes back, or it is proven that it never will.

    Source: asyncio's `Runner.close`, which cancels all tasks first.
    """
    names = ["first", "second", "third"]
    with opened(lab) as pool:
        calls = {name: pool.dispatch(name) for name in names}
        for name, call in calls.items():
            pool.in_flight(call, name)
        stop = pool.stop()
        try:
            lab.until(lambda: all(call.done for call in calls.values()), "every dispatch in flight is answered")
        except Violated:
            lab.open(*names)  # it may let them come to their results, which are as good an answer
        for name, call in calls.items():
            comes_back(
                lab,
                call,
                f"dispatch({name}), in flight when the pool was stopped,",
                "each dispatch in flight is answered by its result or a cancellation",
            )
            lab.check(
                answered(lab, call, name),
                f"in flight when the pool was stopped, {came_to(call)}",
                "its result, or a cancellation",
            )
        lab.until(lambda: stop.done, "stop() comes back", hung=True)


@rule("LOP-17")
def stop_inside(lab: Lab) -> None:
    """`stop` from inside a dispatched coroutine doesn't deadlock.

    Intent: A request to shut down arrives like any other request.

    Usual cause: stop joins the loop's thread, on that thread; or waits for the drain, which waits for the coroutine that called stop.

    Proof: A dispatched coroutine calls stop; its caller comes back, and a stop from outside as well.

    Source: `threading.Thread.join` raises where a thread would join itself; a wait for an event doesn't notice.
    """

    async def inside() -> str:
        try:
            await awaited(pool.raw.stop())
        except Exception as error:  # noqa: BLE001 - whatever it says: it came back
            return f"refused by {error!r}"
        return "stopped"

    with opened(lab) as pool:
        call = pool.dispatch("inside", inside)
        pool.in_flight(call, "inside", "LOP-01")
        lab.open("inside")
        lab.until(
            lambda: call.done,
            "the dispatch whose coroutine calls stop() comes back",
            expected="stop begins, and cancels the coroutine or lets it end",
            hung=True,
        )
        returned = call.returned and str(call.value).startswith(("stopped", "refused"))
        lab.check(
            returned or answered(lab, call, "stopped"), came_to(call), "what its coroutine returned, or a cancellation"
        )
        outside = pool.stop(" from outside")
        lab.until(lambda: outside.done, "stop() from outside comes back after that", hung=True)
