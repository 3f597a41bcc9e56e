"""Wrong in the initializer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from flowcheck_reference.broken.executor._sound import Initializer, Sound
from flowcheck_reference.executor import Executor
from pytest_flowcheck.protocols import breaks


@breaks("EXE-21")
class InitializesEveryTask(Sound):
    """The initializer runs before each task instead of once in each worker."""

    class Pool(Executor):
        def __init__(
            self, max_workers: int, *, initializer: Initializer = None, initargs: tuple[Any, ...] = ()
        ) -> None:
            super().__init__(max_workers)
            self._each = initializer, initargs

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            initializer, initargs = self._each
            if initializer is None:
                return super().submit(fn, *args, **kwargs)

            def call() -> Any:
                initializer(*initargs)
                return fn(*args, **kwargs)

            return super().submit(call)


@breaks("EXE-21")
class AFailedInitializerIsIgnored(Sound):
    """Its exception is logged, and tasks run in workers that were never set up."""

    class Pool(Executor):
        def __init__(
            self, max_workers: int, *, initializer: Initializer = None, initargs: tuple[Any, ...] = ()
        ) -> None:
            def attempt() -> None:
                try:
                    if initializer is not None:
                        initializer(*initargs)
                except Exception:
                    return

            super().__init__(max_workers, initializer=attempt)


@breaks("EXE-39")
class AnInitializerThatExitsIsNotNoticed(Sound):
    """`except Exception`: SystemExit ends the worker, and the pool believes that it is still there."""

    class Pool(Executor):
        def __init__(
            self, max_workers: int, *, initializer: Initializer = None, initargs: tuple[Any, ...] = ()
        ) -> None:
            exited: list[SystemExit] = []

            def attempt() -> None:
                try:
                    if initializer is not None:
                        initializer(*initargs)
                except SystemExit as error:
                    exited.append(error)

            super().__init__(max_workers, initializer=attempt)
            pool: Any = self._pool
            plain = pool.ready
            pool.ready = lambda: plain() and not exited
