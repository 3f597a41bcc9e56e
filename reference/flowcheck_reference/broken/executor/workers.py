"""Wrong in the workers, how many they are and what they carry."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextvars import Context
from threading import Thread, current_thread
from typing import Any, cast

from flowcheck_reference.broken.executor._sound import Initializer, Sound, SpoiltFutures
from flowcheck_reference.executor import Executor, Item, Pool
from pytest_flowcheck.protocols import breaks


@breaks("EXE-03", "EXE-26", "EXE-27")
class OneTooMany(Sound):
    """A helper is started when the queue grows, and not counted."""

    class Pool(Executor):
        _helped = False

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(fn, *args, **kwargs)
            if len(self._pool.queue) > 1 and not self._helped:
                self._helped = True
                self._pool.resize(self._pool.limit + 1)
            return future


@breaks("EXE-03")
class OneTooFew(Sound):
    """One worker is kept back for the pool itself."""

    class Pool(Executor):
        def __init__(self, max_workers: int, **options: Any) -> None:
            super().__init__(max_workers, **options)
            self._pool.limit = max(1, max_workers - 1)


@breaks("EXE-03")
class StillCountsAsIdle(Sound):
    """A worker that was woken counts as idle until it comes back for more: meanwhile nobody else is woken or started."""

    without = frozenset({"nested", "resize"})

    class Pool(Executor):
        def __init__(self, max_workers: int, **options: Any) -> None:
            super().__init__(max_workers, **options)
            self._pool.__class__ = _WakesOneAtATime


class _WakesOneAtATime(Pool):
    woken: Thread | None = None

    def rouse(self) -> bool:
        return True if self.woken is not None else super().rouse()

    def take(self, park: Any) -> Item | None:
        if self.woken is current_thread():
            self.woken = None
        task = super().take(cast("Any", _Park(park, self)))
        if task is None:
            self.woken = None
        return task


class _Park:
    """What an idle worker waits for; it notes who was woken."""

    def __init__(self, park: Any, pool: _WakesOneAtATime) -> None:
        self._park, self._pool, self.release = park, pool, park.release

    def acquire(self) -> None:
        if self._pool.woken is current_thread():  # for nothing: another was quicker
            self._pool.woken = None
            with self._pool.lock:
                self._pool.rouse()
        self._park.acquire()
        self._pool.woken = current_thread()


@breaks("EXE-04", "EXE-20")
class ExecutorPerCall(Sound):
    """Each call gets an executor of its own, inside a worker that waits for it. (dynamiq pull request 674)"""

    without = frozenset({"nested", "initializer"})

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return super().submit(_on_its_own, fn, args, kwargs)


def _on_its_own(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    with Executor(1) as single:
        return single.submit(fn, *args, **kwargs).result()


@breaks("EXE-23")
class NestedTasksDeadlock(Sound):
    """A worker that waits for a task of its own pool keeps its place, and the task waits for that very place."""

    class Pool(SpoiltFutures):
        def spoil(self, future: Future[Any]) -> None:
            future._is_special = lambda: False  # type: ignore[attr-defined]


@breaks("EXE-24")
class LosesTheContext(Sound):
    """Tasks run in an empty context."""

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return Context().run(super().submit, fn, *args, **kwargs)


@breaks("EXE-24")
class ContextLeaksToTheNextTask(Sound):
    """What a task sets stays set in its worker."""

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            from contextvars import copy_context

            caller = copy_context()

            def call() -> Any:
                left = self.__dict__.setdefault("_left", {})
                for variable in caller:
                    variable.set(left.get(variable, caller[variable]))
                try:
                    return fn(*args, **kwargs)
                finally:
                    left.update({v: v.get() for v in copy_context() if v in caller and v.get() != caller[v]})

            return super().submit(call)


@breaks("EXE-27")
class ResizeDropsTheQueue(Sound):
    """The new size gets a new pool, and what was queued in the old one is forgotten."""

    class Pool(Executor):
        def resize(self, max_workers: int) -> None:
            self._pool.withdraw()
            super().resize(max_workers)


@breaks("EXE-27")
class ResizeIsIgnored(Sound):
    """The new size is stored and never read."""

    class Pool(Executor):
        def resize(self, max_workers: int) -> None:
            self._wanted = max_workers


@breaks("EXE-28")
class NamelessWorkers(Sound):
    """Worker threads are called as Python calls them."""

    def executor(
        self, *, max_workers: int, initializer: Initializer = None, initargs: tuple[Any, ...] = ()
    ) -> Executor:
        return Executor(max_workers, "Thread-1", initializer, initargs)
