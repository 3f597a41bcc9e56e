"""Wrong in `map`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import as_completed
from typing import Any

from flowcheck_reference.broken.executor._sound import Sound
from flowcheck_reference.executor import Executor
from pytest_flowcheck.protocols import breaks


@breaks("EXE-06")
class MapYieldsAsCompleted(Sound):
    """Whatever is ready first comes first."""

    class Pool(Executor):
        def map(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
        ) -> Iterator[Any]:
            futures = [self.submit(fn, *args) for args in zip(*iterables, strict=False)]

            def results() -> Iterator[Any]:
                try:
                    for future in as_completed(futures, timeout):
                        yield future.result()
                finally:
                    for future in futures:
                        future.cancel()

            return results()


@breaks("EXE-07")
class MapIgnoresItsTimeout(Sound):
    """The parameter is accepted and forgotten."""

    class Pool(Executor):
        def map(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
        ) -> Iterator[Any]:
            return super().map(fn, *iterables, chunksize=chunksize)


@breaks("EXE-07")
class MapLeavesItsQueueBehind(Sound):
    """After the deadline everything that was queued is run for nobody."""

    class Pool(Executor):
        def map(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
        ) -> Iterator[Any]:
            futures = [self.submit(fn, *args) for args in zip(*iterables, strict=False)]
            return (future.result(timeout) for future in futures)


@breaks("EXE-38")
class MapSwallowsItsInputsError(Sound):
    """Inputs are read on a thread of the pool's own, whose exception goes nowhere."""

    class Pool(Executor):
        def map(  # pyright: ignore[reportIncompatibleMethodOverride]
            self, fn: Callable[..., Any], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
        ) -> Iterator[Any]:
            inputs: list[tuple[Any, ...]] = []

            def read() -> None:
                try:
                    inputs.extend(zip(*iterables, strict=False))
                except Exception:
                    return

            reader = threading.Thread(target=read, name="map-inputs")
            reader.start()
            reader.join()

            def call(args: tuple[Any, ...]) -> Any:
                return fn(*args)

            return super().map(call, inputs, timeout=timeout)
