"""Wrong in cancellation."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial
from typing import Any

from flowcheck_reference.broken.executor._sound import Sound, SpoiltFutures
from flowcheck_reference.executor import Executor
from pytest_flowcheck.protocols import breaks


@breaks("EXE-07", "EXE-08", "EXE-10", "EXE-26")
class CancelledTasksRun(Sound):
    """The future is marked, the queue's entry is not: the call is made all the same."""

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(fn, *args, **kwargs)
            plain, pool = future.cancel, self._pool

            def cancel() -> bool:
                again = not future.cancelled() and plain()
                if again:
                    from contextvars import copy_context

                    from flowcheck_reference.executor import Task

                    task: Task[Any] = Task(pool, (copy_context(), fn, args, kwargs))
                    with pool.lock:
                        pool.queue.append(task)
                        pool.rouse()
                return again or future.cancelled()

            future.cancel = cancel  # type: ignore[method-assign]
            return future


@breaks("EXE-07", "EXE-08", "EXE-10", "EXE-31")
class NothingCanBeCancelled(Sound):
    """`cancel` is not supported and says so, by False."""

    class Pool(SpoiltFutures):
        def spoil(self, future: Future[Any]) -> None:
            future.cancel = lambda: False  # type: ignore[method-assign]


@breaks("EXE-08", "EXE-26", "EXE-29", "EXE-31")
class RunningTasksCanBeCancelled(Sound):
    """The future is never marked as running, so `cancel` succeeds at any time."""

    without = frozenset({"cancel_futures", "initializer", "nested"})

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            outer: Future[Any] = Future()

            def call() -> None:
                if outer.cancelled():
                    return
                try:
                    value = fn(*args, **kwargs)
                except BaseException as error:
                    with suppress(InvalidStateError):
                        outer.set_exception(error)
                else:
                    with suppress(InvalidStateError):
                        outer.set_result(value)

            super().submit(call)
            return outer


@breaks("EXE-31")
class OnlyWorkersTellWaiters(Sound):
    """As in the standard library: who waits for a cancelled future hears of it when a worker comes by."""

    class Pool(SpoiltFutures):
        def spoil(self, future: Future[Any]) -> None:
            future.cancel = partial(Future.cancel, future)  # type: ignore[method-assign]
