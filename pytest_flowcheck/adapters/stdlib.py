"""The standard library's executors, one subject for each way to start workers; and the two usual fan-outs over threads."""

from __future__ import annotations

import multiprocessing
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Final, TypeVar

from pytest_flowcheck.protocols import Adapter, Body, Failed, Inexpressible, Ok, Outcome
from pytest_flowcheck.protocols.fanout import Fanout

S = TypeVar("S")
T = TypeVar("T")

SUBJECTS: Final = {
    "stdlib-threads": "Threads",
    "stdlib-processes": "Processes",
    "stdlib-fork": "Forked",
    "stdlib-forkserver": "ForkServed",
    "stdlib-map": "Mapped",
    "stdlib-submit": "Submitted",
}


class Threads(Adapter):
    """`ThreadPoolExecutor`."""

    name = "stdlib-threads"
    version = platform.python_version()
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {
        "executor": frozenset({"threads", "cancel_futures", "initializer"})
    }

    def executor(
        self, *, max_workers: int, initializer: Callable[..., Any] | None = None, initargs: tuple[Any, ...] = ()
    ) -> Executor:
        return ThreadPoolExecutor(max_workers, initializer=initializer, initargs=initargs)


class Processes(Adapter):
    """`ProcessPoolExecutor` with workers started by spawn."""

    name = "stdlib-processes"
    version = platform.python_version()
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {
        "executor": frozenset({"process", "cancel_futures", "initializer"})
    }
    start_method: ClassVar[str] = "spawn"

    def executor(
        self, *, max_workers: int, initializer: Callable[..., Any] | None = None, initargs: tuple[Any, ...] = ()
    ) -> Executor:
        context = multiprocessing.get_context(self.start_method)
        return ProcessPoolExecutor(max_workers, mp_context=context, initializer=initializer, initargs=initargs)


class Forked(Processes):
    """`ProcessPoolExecutor` with workers started by fork."""

    name = "stdlib-fork"
    start_method = "fork"


class ForkServed(Processes):
    """`ProcessPoolExecutor` with workers started by a fork server."""

    name = "stdlib-forkserver"
    start_method = "forkserver"


class _Map:
    def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> Sequence[Outcome[T]]:
        if continue_on_error:
            raise Inexpressible("the results of Executor.map end with the first error")
        with ThreadPoolExecutor(max_concurrency) as pool:
            return [Ok(value) for value in pool.map(body, items)]


class _Submit:
    def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> Sequence[Outcome[T]]:
        results: dict[int, Outcome[T]] = {}
        with ThreadPoolExecutor(max_concurrency) as pool:
            futures = {pool.submit(body, item): index for index, item in enumerate(items)}
            for future in as_completed(futures):
                try:
                    results[futures[future]] = Ok(future.result())
                except Exception as error:
                    if not continue_on_error:
                        raise
                    results[futures[future]] = Failed(error)
        return [results[index] for index in range(len(futures))]


class Mapped(Adapter):
    """`Executor.map` on a thread pool of its own for each fan-out."""

    name = "stdlib-map"
    version = platform.python_version()
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"fanout": frozenset({"nested"})}

    def fanout(self) -> AbstractContextManager[Fanout]:
        return nullcontext(_Map())


class Submitted(Adapter):
    """Made by hand: everything is submitted to a thread pool, and gathered by `as_completed`."""

    name = "stdlib-submit"
    version = platform.python_version()
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"fanout": frozenset({"continue", "nested"})}

    def fanout(self) -> AbstractContextManager[Fanout]:
        return nullcontext(_Submit())
