"""What the broken executors start from: an executor that keeps every rule, and one hook for each thing to spoil."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor as StandardExecutor
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, ClassVar

from flowcheck_reference.executor import Executor

Initializer = Callable[..., object] | None

THREADS = frozenset({"threads", "cancel_futures", "initializer", "nested", "context", "resize"})


class Sound:
    """A subject whose executor is `Pool`, in threads."""

    Pool: ClassVar[type[Any]] = Executor
    without: ClassVar[AbstractSet[str]] = frozenset()
    """Capabilities that this bug would break as well, and that are therefore not claimed."""
    version: ClassVar[str] = "broken on purpose"

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        return {"executor": THREADS - self.without}

    def executor(
        self, *, max_workers: int, initializer: Initializer = None, initargs: tuple[Any, ...] = ()
    ) -> StandardExecutor:
        pool: StandardExecutor = self.Pool(max_workers, initializer=initializer, initargs=initargs)
        return pool


class SpoiltFutures(Executor):
    """Each future passes through `spoil` before the caller gets it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        self.spoil(future)
        return future

    def spoil(self, future: Future[Any]) -> None:
        raise NotImplementedError


class Processes(Sound):
    """The same in worker processes: the standard library's pool, whose own faults (EXE-09, EXE-31, EXE-37) come with it."""

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        return {"executor": frozenset({"process", "cancel_futures"})}

    def executor(
        self, *, max_workers: int, initializer: Initializer = None, initargs: tuple[Any, ...] = ()
    ) -> StandardExecutor:
        context = multiprocessing.get_context(
            "fork"
        )  # quicker than spawn, and its pool starts all workers before it looks
        pool: StandardExecutor = self.Pool(max_workers, mp_context=context, initializer=initializer, initargs=initargs)
        return pool


class SpoiltErrors(ProcessPoolExecutor):
    """Each error passes through `lost`: True, and the future never hears of it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(fn, *args, **kwargs)
        spoilt: Any = future
        plain = spoilt.set_exception

        def set_exception(error: BaseException | None) -> None:
            if error is None or not self.lost(error):
                plain(error)

        spoilt.set_exception = set_exception
        return future

    def lost(self, error: BaseException) -> bool:
        raise NotImplementedError
