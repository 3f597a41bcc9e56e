"""One dispatch: how it came out, and who waits for that."""

from __future__ import annotations

import threading
from asyncio import CancelledError, Task
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .errors import DispatchCancelledError

if TYPE_CHECKING:
    from .worker import Worker

T = TypeVar("T")


class Dispatched(Generic[T]):
    """A coroutine that runs, or will run, on the warm loop. Settled once; then it holds nothing of the call.

    Guarantees, without a lock, by the order of single steps that are atomic:

    - `_open` holds one token: who pops it settles, nobody else does.
    - Settling sets `_over` and then calls the waiters; a waiter is added, and then `_over` is looked at. So none is
      forgotten; one that is added late may be called though nobody waits any more.
    - `cancel` sets `_unwanted` and then looks at `_worker`; the loop sets `_worker` and then looks at `_unwanted`.
    """

    __slots__ = ("_call", "_context", "_error", "_open", "_over", "_task", "_unwanted", "_value", "_waiters", "_worker")

    def __init__(self, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> None:
        self._call: tuple[Callable[..., Awaitable[T]], tuple[Any, ...]] | None = (fn, args)
        self._context: Context | None = copy_context()
        self._open = [True]
        self._over = self._unwanted = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._waiters: list[Callable[[], object]] = []
        self._worker: Worker | None = None
        self._task: Task[None] | None = None

    def done(self) -> bool:
        """Whether it returned, raised or was cancelled."""
        return self._over

    def result(self, timeout: float | None = None) -> T:
        """What the coroutine returned, once it has. Blocks the calling thread, at most `timeout` seconds.

        Raises: what the coroutine raised, the same object; DispatchCancelledError; TimeoutError, and then it runs on.
        """
        if not self._over:
            gate = threading.Lock()
            gate.acquire()
            self.when_done(gate.release)
            if not gate.acquire(timeout=-1 if timeout is None else timeout) and not self._over:
                msg = f"the dispatch was not over within {timeout:g} s; it runs on"
                raise TimeoutError(msg)
        if self._error is not None:
            try:
                raise self._error
            finally:
                self = None  # type: ignore[assignment]  # noqa: PLW0642  the traceback would keep what it belongs to
        return cast("T", self._value)

    def cancel(self) -> None:
        """Cancel the coroutine, or see to it that it never begins. From any thread; of no effect once it is over."""
        self._unwanted = True
        worker = self._worker
        if worker is not None and not self._over:
            with suppress(RuntimeError):  # its loop is closed: the reap has settled this
                worker.loop.call_soon_threadsafe(self.cancel_here)

    def when_done(self, callback: Callable[[], object]) -> None:
        """Have `callback()` called once it is over, on the loop's thread; at once, on this one, if it is. It must not raise."""
        waiters = self._waiters
        waiters.append(callback)
        if self._over:
            with suppress(ValueError):  # whoever settled it has called it
                waiters.remove(callback)
                callback()

    # --- on the loop's thread ------------------------------------------------------------------------------------------

    def begin(self, worker: Worker) -> None:
        """Make it a task of the loop."""
        self._worker = worker
        context, self._context = self._context, None
        if self._unwanted:
            worker.ended(self, None, DispatchCancelledError("cancelled before it began"))
            return
        self._task = worker.loop.create_task(self._run(worker), context=context)

    async def _run(self, worker: Worker) -> None:
        call, self._call = self._call, None
        assert call is not None
        fn, args = call
        del call
        try:
            value = await fn(*args)
        except CancelledError as error:
            cancelled = DispatchCancelledError("the coroutine was cancelled")
            cancelled.__cause__ = error
            worker.ended(self, None, cancelled)
        except BaseException as error:  # noqa: BLE001  the caller's: were SystemExit to go on, it would end the loop
            worker.ended(self, None, error)
        else:
            worker.ended(self, value, None)

    @property
    def begun(self) -> bool:
        """Whether the coroutine was called."""
        return self._call is None

    @property
    def task_is_over(self) -> bool:
        """Whether its task has ended: before it began, if somebody cancelled it then."""
        return self._task is not None and self._task.done()

    def cancel_here(self) -> None:
        """As `cancel`."""
        if self._over or self._task is None:
            return
        self._task.cancel()
        if not self.begun and self._worker is not None:
            # asyncio throws the cancellation into a coroutine that has not begun, and nothing of it runs
            self._worker.ended(self, None, DispatchCancelledError("cancelled before it began"))

    def settle(self, value: T | None, error: BaseException | None) -> bool:
        """It is over, so. False if it was already. On any thread."""
        try:
            self._open.pop()
        except IndexError:
            return False
        self._value, self._error = value, error
        self._call = self._task = self._context = self._worker = None
        self._over = True
        waiters = self._waiters
        while waiters:
            with suppress(IndexError):  # a waiter that came late has taken itself back
                waiters.pop()()
        return True
