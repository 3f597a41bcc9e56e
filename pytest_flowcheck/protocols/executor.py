"""executor (EXE): anything with the shape of `concurrent.futures.Executor`, in threads, processes or on a cluster.

A bare Executor class or factory is a subject as it stands: it is called with `max_workers=n`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, ParamSpec, Protocol, Self, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

CAPABILITIES: Final = {
    "threads": "its workers are threads of this process",
    "process": "its workers are other processes",
    "cancel_futures": "shutdown(cancel_futures=True) cancels what no worker has taken yet",
    "initializer": "initializer= and initargs= run once in each worker before its tasks",
    "nested": "a task may submit to its own executor and wait for the result",
    "context": "tasks see the context variables of their submit",
    "resize": "resize(max_workers) takes effect while it runs",
}
"""The optional capabilities of this facet, and what each promises: the only list of them."""

READ_OFF: Final[dict[str, str]] = {}
"""Capabilities that nobody claims: they are read off the opened instance. An executor has none."""

OPENS: Final[dict[str, Any]] = {"max_workers": 2}
"""Arguments with which any of them can be opened."""

TRAITS: Final = {"cluster": "workers are elsewhere, behind a scheduler: some rules are relaxed"}
"""Said in `claims` too, but they relax rules instead of adding any."""

DECLARES: Final[dict[str, tuple[str, ...]]] = {"shutdown_nowait": ("complete", "cancel"), "submit": ("queue", "block")}
"""Choices that rules take *as declared*, the default first. `shutdown_nowait`: what becomes of gated tasks (EXE-30).
`submit`: whether it queues, or waits for a worker (back-pressure): rules that need a queue are not asked then."""


class Executor(Protocol):
    """Runs calls on workers. It is its own context manager; leaving waits for the work (EXE-12)."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue one call (EXE-01..05, 08, 13..16, 18). After shutdown: RuntimeError (EXE-11)."""
        ...

    def map(self, fn: Callable[..., T], /, *iterables: Iterable[Any], timeout: float | None = None) -> Iterator[T]:
        """Results in input order, to the shortest iterable (EXE-06); TimeoutError `timeout` s after this call (EXE-07)."""
        ...

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Stop taking work, from any thread, any number of times (EXE-09..11, 17)."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None, /
    ) -> bool | None: ...


class Resizable(Executor, Protocol):
    """`[resize]` EXE-27."""

    def resize(self, max_workers: int) -> None:
        """From now on at most so many; queued work is kept."""
        ...


class Opener(Protocol):
    """`subject.executor`. `[initializer]` adds `initializer=` and `initargs=` as the standard library has them (EXE-21)."""

    def __call__(self, *, max_workers: int) -> Executor: ...
