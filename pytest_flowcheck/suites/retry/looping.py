"""RTY-15: coroutines, which can be cancelled and may want to clean up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.calls import is_cancellation
from pytest_flowcheck.protocols.retry import RetryPolicy
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.retry._shared import attempts_of, begin, coroutines_only, ended, in_hand, over, runs

if TYPE_CHECKING:
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.probe import Probe


class CleansUp:
    """A coroutine that waits at a gate, and when it is cancelled there takes its time to clean up."""

    def __init__(self, work: Probe, cleanup: Probe) -> None:
        self.work, self.cleanup = work, cleanup

    async def __call__(self, number: int) -> str:
        try:
            await self.work.aio(number)
        finally:
            with anyio.CancelScope(shield=True):
                await self.cleanup.aio(number)
        return f"result {number}"


@rule("RTY-15", "async")
def coroutines_are_cancelled_and_awaited(lab: Lab) -> None:
    """A timed-out coroutine is cancelled and its cleanup finished before the next attempt; a cancelled caller cancels the attempt and sees CancelledError.

    Intent: A coroutine can be stopped: an attempt that goes on unseen holds its connection, and two attempts write at once.

    Usual cause: `asyncio.wait_for(asyncio.shield(...))`, a task that is made and forgotten, or `except BaseException` around the await.

    Proof: The cancelled attempt is held in its cleanup at a gate: no other may have started when nothing moves any more.

    Source: Python library reference, `asyncio.wait_for`: waits until the cancelled future is done; trio, *Cancellation*.
    """
    with lab.instance(max_workers=2) as it:
        coroutines_only(lab, it)
        if lab.claims("timeout"):
            _cleanup_comes_first(lab, it)
        _the_caller_is_cancelled(lab, it)
        after = begin(it, lab.attempts("after", gated=False), RetryPolicy()).join()
        lab.check(after.returned, f"a call afterwards {ended(after)}", "the wrapper is as usable as before")


def _cleanup_comes_first(lab: Lab, it: Instance) -> None:
    work, cleanup = lab.probe("work"), lab.probe("cleanup")
    lab.open("work(2)", "cleanup(2)")
    fetch = lab.attempts("fetch", CleansUp(work, cleanup), gated=False)
    call = begin(it, fetch, RetryPolicy(attempts=2, timeout=0.05))
    lab.until(
        lambda: "cleanup(1)" in lab.live() or runs(lab, "fetch", 2) or call.done,
        "the timed-out coroutine is cancelled",
    )
    lab.settle()
    lab.check(
        "cleanup(1)" in lab.started(),
        f"attempt 1 was timed out and never cancelled; attempts started: {', '.join(attempts_of(lab, 'fetch'))}; the call {ended(call)}",
        "it is cancelled where it waits",
    )
    lab.check(
        not runs(lab, "fetch", 2) and not call.done,
        f"attempt 1 was still in its cleanup; attempts started: {', '.join(attempts_of(lab, 'fetch'))}; the call {ended(call)}",
        "attempt 2 starts once the cleanup of attempt 1 has finished",
    )
    lab.open("cleanup(1)")
    lab.until(lambda: runs(lab, "fetch", 2) or call.done, "attempt 2 starts once the cleanup has finished")
    lab.check(runs(lab, "fetch", 2), f"the call {ended(call)} without its attempt 2", "attempt 2 starts")
    call.join()


def _the_caller_is_cancelled(lab: Lab, it: Instance) -> None:
    call = begin(it, lab.attempts("given up"), RetryPolicy(attempts=2))
    in_hand(lab, call, "given up #1")
    call.cancel()
    lab.note("the call is cancelled")
    lab.until(lambda: call.done or runs(lab, "given up", 2), "the cancelled call comes back", hung=True)
    if runs(lab, "given up", 2):
        raise Inconclusive("the cancelled attempt was tried again", because_of="RTY-12")
    lab.check(is_cancellation(call.error), f"the cancelled call {ended(call)}", "it sees its cancellation")
    lab.until(
        lambda: over(lab, "given up #1"),
        "the attempt of a cancelled caller is cancelled",
        expected="it is cancelled with its caller",
    )
