"""Wrong at the end of the interpreter, at an interrupt, after a fork."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from flowcheck_reference import executor
from flowcheck_reference.broken.executor._sound import Sound, SpoiltFutures
from flowcheck_reference.executor import Executor
from pytest_flowcheck.protocols import breaks


@breaks("EXE-19", "EXE-20", "EXE-37")
class NobodyTellsTheWorkers(Sound):
    """Workers are told to stop by `shutdown` alone: not when the pool is dropped, not at exit, not after a fork."""

    class Pool(Executor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            registry: dict[Any, Any] = vars(executor)["_pools"]
            for reference in [r for r, pool in registry.items() if pool is self._pool]:
                del registry[reference]


@breaks("EXE-36")
class AnInterruptBreaksThePool(Sound):
    """Ctrl-C in one reader marks the whole pool as broken."""

    class Pool(SpoiltFutures):
        def spoil(self, future: Future[Any]) -> None:
            plain, pool = future.result, self._pool

            def result(timeout: float | None = None) -> Any:
                try:
                    return plain(timeout)
                except KeyboardInterrupt:
                    if not future.done():  # else it is the task's own
                        pool.broken = "interrupted"
                    raise

            future.result = result  # type: ignore[method-assign]
