"""Wrong in what remains."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from flowcheck_reference.broken.executor._sound import Sound
from flowcheck_reference.executor import Executor
from pytest_flowcheck.protocols import breaks


@breaks("EXE-17", "EXE-19")
class LeavesAHelperThread(Sound):
    """Each pool starts a helper that nobody stops."""

    class Pool(Executor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            threading.Thread(target=threading.Event().wait, daemon=True, name="pool-housekeeping").start()


@breaks("EXE-17")
class LeavesAWakeUpPipe(Sound):
    """Each pool opens a pipe that nobody closes."""

    class Pool(Executor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._wake_up = os.pipe()


@breaks("EXE-18")
class RemembersTheLastCall(Sound):
    """The last call's function and arguments are kept until the next call comes."""

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(fn, *args, **kwargs)
            self._last = (fn, args, kwargs)
            return future


@breaks("EXE-18")
class RemembersErrors(Sound):
    """Errors are collected for a statistic that nobody reads."""

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            errors: list[BaseException] = self.__dict__.setdefault("_errors", [])

            def call() -> Any:
                try:
                    return fn(*args, **kwargs)
                except BaseException as error:
                    errors.append(error)
                    raise

            return super().submit(call)


@breaks("EXE-19")
class KnowsAllItsPools(Sound):
    """A list of all pools, for the clean-up at exit, keeps each of them alive."""

    class Pool(Executor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            _all.add(self)

        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            _all.discard(self)
            super().shutdown(wait, cancel_futures=cancel_futures)


_all: set[Executor] = set()
