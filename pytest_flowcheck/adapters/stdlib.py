"""The standard library's executors, one subject for each way to start workers."""

from __future__ import annotations

import multiprocessing
import platform
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, ClassVar, Final

from pytest_flowcheck.protocols import Adapter

SUBJECTS: Final = {
    "stdlib-threads": "Threads",
    "stdlib-processes": "Processes",
    "stdlib-fork": "Forked",
    "stdlib-forkserver": "ForkServed",
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
