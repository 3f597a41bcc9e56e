"""Wrong at the end of an executor's work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from flowcheck_reference.broken.executor._sound import Sound
from flowcheck_reference.executor import Executor, Task
from pytest_flowcheck.protocols import breaks


@breaks("EXE-09", "EXE-12")
class ShutdownDoesNotWait(Sound):
    """`wait` is accepted and forgotten."""

    class Pool(Executor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)


@breaks("EXE-10", "EXE-31")
class CancelFuturesDropsTheQueue(Sound):
    """The queue is emptied, and nobody tells its futures."""

    class Pool(Executor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            if cancel_futures:
                self._pool.withdraw()
            super().shutdown(wait)


@breaks("EXE-11")
class SubmitRacesShutdown(Sound):
    """The flag is read, and only a moment later the task is put into a queue that nobody serves any more."""

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            pool = self._pool
            if pool.closed or pool.broken:
                return super().submit(fn, *args, **kwargs)
            threading.Event().wait(0.001)  # the window, held open: shutdown comes through it
            task: Task[Any] = Task(pool, (copy_context(), fn, args, kwargs))
            with pool.lock:
                pool.queue.append(task)
                if not pool.closed:
                    pool.rouse()
            return task


@breaks("EXE-11")
class FirstSubmitRacesShutdown(Sound):
    """The same, but for the first task only, and with no time in between: stress has one chance in an executor's life."""

    class Pool(Executor):
        _begun = False

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            pool = self._pool
            if self._begun or pool.closed or pool.broken:
                return super().submit(fn, *args, **kwargs)
            self._begun = True
            task: Task[Any] = Task(pool, (copy_context(), fn, args, kwargs))
            with pool.lock:
                pool.queue.append(task)
                if not pool.closed:
                    pool.rouse()
            return task


@breaks("EXE-11", "EXE-26")
class TakesWorkAfterShutdown(Sound):
    """`submit` after shutdown gives a future that nobody will ever set."""

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return Future() if self._pool.closed else super().submit(fn, *args, **kwargs)


@breaks("EXE-12")
class WithBlockDoesNotWait(Sound):
    """`__exit__` tells the workers to stop and goes on."""

    class Pool(Executor):
        def __exit__(self, *_: object) -> None:
            self.shutdown(wait=False)


@breaks("EXE-26", "EXE-30")
class ShutdownAlwaysWaits(Sound):
    """`wait=False` waits."""

    class Pool(Executor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=True, cancel_futures=cancel_futures)
