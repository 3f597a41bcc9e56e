"""Wrong in when the clock starts, who waits for whom, and what becomes of a late attempt."""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import anyio

from flowcheck_reference.broken.retry import _sound
from flowcheck_reference.broken.retry._sound import Attempt, Sound, SoundAsync
from pytest_flowcheck.protocols import Body, breaks
from pytest_flowcheck.protocols.retry import RetryPolicy


@breaks("RTY-03", "RTY-04", "RTY-05")
class LeavesAPoolAroundEachAttempt(Sound):
    """`with ThreadPoolExecutor()` around each attempt: its exit waits for the stuck one."""

    class Engine(_sound.Engine):
        def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            with self.slots, ThreadPoolExecutor(1) as pool:
                future = pool.submit(copy_context().run, body)
                if not _in_time(future, policy.timeout):
                    raise self.late(body, number, policy)
                return future.result()


@breaks("RTY-04", "RTY-17")
class OneWorkerForTheWholeCall(Sound):
    """A single-worker executor per call: the retry queues behind the attempt that it is to replace."""

    class Engine(_sound.Engine):
        def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
            pool = ThreadPoolExecutor(1)
            try:
                return _OneWorker(self, pool).call(body, policy)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


class _OneWorker(_sound.Engine):
    def __init__(self, engine: _sound.Engine, pool: ThreadPoolExecutor) -> None:
        self.slots, self.pool = engine.slots, pool

    def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
        with self.slots:
            future = self.pool.submit(copy_context().run, body)
            if not _in_time(future, policy.timeout):
                raise self.late(body, number, policy)
            return future.result()


@breaks("RTY-07", "RTY-08", "RTY-09", "RTY-17")
class SharedTimeoutExecutor(Sound):
    """A module-level executor for all timeouts, whose clock runs from submission, and whose workers stay with the stuck."""

    class Engine(_sound.Engine):
        def __init__(self, max_workers: int) -> None:
            self.pool = _pools.setdefault(max_workers, ThreadPoolExecutor(max_workers))

        def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            future = self.pool.submit(copy_context().run, body)
            if not _in_time(future, policy.timeout):
                future.cancel()
                raise self.late(body, number, policy)
            return future.result()


_pools: dict[int, ThreadPoolExecutor] = {}


def _in_time(future: Future[Any], limit: float | None) -> bool:
    try:
        future.exception(limit)
    except TimeoutError:
        return False
    return True


@breaks("RTY-07")
class ClockRunsInTheQueue(Sound):
    """The limit counts from the call, the time in the queue included."""

    class Engine(_sound.Engine):
        def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            if not self.slots.acquire(timeout=policy.timeout):
                raise self.late(body, number, policy)
            self.slots.release()
            return super().attempt(body, policy, number)


@breaks("RTY-07")
class ClockRunsInTheQueueOnALoop(SoundAsync):
    """The same on a loop: the cancel scope stands around the limiter."""

    class Engine(_sound.AsyncEngine):
        async def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            with anyio.move_on_after(policy.timeout):
                async with self.slots:
                    return await self.run(body)
            raise self.late(body, number, policy)


@breaks("RTY-08", "RTY-09")
class LosesASlotWithEachTimeout(SoundAsync):
    """What gives the slot back is passed over by the cancellation."""

    class Engine(_sound.AsyncEngine):
        async def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            await self.slots.acquire()
            with anyio.move_on_after(policy.timeout) as scope:
                try:
                    return await self.run(body)
                finally:
                    if not scope.cancel_called:
                        self.slots.release()
            raise self.late(body, number, policy)


@breaks("RTY-08", "RTY-09")
class TimedOutAttemptsUseUpThePool(Sound):
    """A stuck attempt keeps its place in the pool when it is given up."""

    class Engine(_sound.Engine):
        def begin(self, body: Body[[], Any]) -> Attempt:
            def occupied() -> Any:
                try:
                    return body()
                finally:
                    self.slots.release()

            attempt = Attempt(occupied, _nothing)
            threading.Thread(target=copy_context().run, args=(attempt.run,), daemon=True).start()
            return attempt


@breaks("RTY-06")
class LateResultsOverwrite(Sound):
    """All attempts of a call write to the same variable; who reads it takes what is there."""

    class Engine(_sound.Engine):
        def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
            written: list[Any] = []

            def writes() -> Any:
                value = body()
                written.append(value)
                return value

            writes.__name__ = body.__name__
            super().call(writes, policy)  # type: ignore[arg-type]
            return written[0]


@breaks("RTY-06")
class LateErrorsEscape(Sound):
    """The thread of an abandoned attempt has no `except`: its error is printed by the interpreter."""

    class Engine(_sound.Engine):
        def begin(self, body: Body[[], Any]) -> Attempt:
            attempt = _Escaping(body, self.slots.release)
            threading.Thread(target=copy_context().run, args=(attempt.run,), daemon=True).start()
            return attempt


class _Escaping(Attempt):
    def end(self, value: Any, error: BaseException | None) -> None:
        if self.settled and error is not None:
            raise error
        super().end(value, error)


def _nothing() -> None:
    """Frees no slot."""


@breaks("RTY-18")
class SaysOnlyThatItTimedOut(Sound):
    """An error of its own, and no word of which call, attempt or limit."""

    class Engine(_sound.Engine):
        def late(self, body: Body[[], Any], number: int, policy: RetryPolicy) -> TimeoutError:
            return _sound.TimeLimitError("the call timed out")


@breaks("RTY-24")
class KillsTheAttempt(Sound):
    """An asynchronous exception is thrown into the thread of the abandoned attempt."""

    class Engine(_sound.Engine):
        def begin(self, body: Body[[], Any]) -> Attempt:
            attempt = _Killed(body, self.slots.release)
            attempt.thread.start()
            return attempt


class _Killed(Attempt):
    def __init__(self, body: Any, free: Any) -> None:
        super().__init__(body, free)
        self.thread = threading.Thread(target=copy_context().run, args=(self.run,), daemon=True)

    def in_time(self, limit: float | None) -> bool:
        if super().in_time(limit):
            return True
        ident = ctypes.c_ulong(self.thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(SystemExit))
        return False
