"""Wrong in done-callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from flowcheck_reference.broken.executor._sound import Sound, SpoiltFutures
from flowcheck_reference.executor import Executor
from pytest_flowcheck.protocols import breaks


@breaks("EXE-14")
class OneCallbackStopsTheOthers(Sound):
    """Callbacks are called without a guard."""

    class Pool(SpoiltFutures):
        def spoil(self, future: Future[Any]) -> None:
            spoilt: Any = future

            def invoke() -> None:
                for callback in spoilt._done_callbacks:
                    callback(future)

            spoilt._invoke_callbacks = invoke


@breaks("EXE-14")
class CallbacksRunTwice(Sound):
    """Once by the worker, and once more by whoever cleans up after it."""

    class Pool(SpoiltFutures):
        def spoil(self, future: Future[Any]) -> None:
            spoilt: Any = future
            plain: Callable[[], None] = spoilt._invoke_callbacks

            def invoke() -> None:
                plain()
                plain()

            spoilt._invoke_callbacks = invoke


@breaks("EXE-35")
class CallbacksRunUnderTheLock(Sound):
    """The lock that `submit` takes is held while callbacks run."""

    class Pool(Executor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._big_lock = threading.Lock()

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            with self._big_lock:
                future = super().submit(fn, *args, **kwargs)
            spoilt: Any = future
            plain, lock = spoilt._invoke_callbacks, self._big_lock

            def invoke() -> None:
                with lock:
                    plain()

            spoilt._invoke_callbacks = invoke
            return future
