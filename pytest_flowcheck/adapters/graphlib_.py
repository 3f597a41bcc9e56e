"""graphlib: `TopologicalSorter` says what is ready, a thread pool runs it, `wait(FIRST_COMPLETED)` says what is done.

This is the loop that its documentation suggests, written by hand a thousand times.
"""

from __future__ import annotations

import platform
from collections.abc import Generator, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from graphlib import CycleError, TopologicalSorter
from typing import Any, ClassVar, Final

from pytest_flowcheck.adapters._flow import by_id
from pytest_flowcheck.protocols import Adapter, Closed, ErrorMap, Invalid, Ok
from pytest_flowcheck.protocols.flow import Flow, Graph, Run

SUBJECTS: Final = {"graphlib-threads": "Threads"}


class _Loop:
    def __init__(self, pool: Executor) -> None:
        self._pool = pool

    def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
        nodes = by_id(graph)
        sorter = TopologicalSorter({id_: node.needs for id_, node in nodes.items()})
        sorter.prepare()
        results: dict[str, Any] = {}
        pending: dict[Future[Any], str] = {}
        while sorter.is_active():
            for ready in sorter.get_ready():
                node = nodes[ready]
                upstream = {need: results[need] for need in node.needs}
                pending[self._pool.submit(node.body, input, upstream)] = ready
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                id_ = pending.pop(future)
                if (error := future.exception()) is not None:
                    for other in pending:
                        other.cancel()
                    return Run("failed", _ok(results), error)
                results[id_] = future.result()
                sorter.done(id_)
        return Run("completed", _ok(results))

    def close(self) -> None:
        self._pool.shutdown()


def _ok(results: Mapping[str, Any]) -> dict[str, Ok[Any]]:
    return {id_: Ok(value) for id_, value in results.items()}


class Threads(Adapter):
    """A `TopologicalSorter` and one `ThreadPoolExecutor` for all runs; the caller's thread coordinates."""

    name = "graphlib-threads"
    version = platform.python_version()
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": frozenset({"executor"})}
    errors: ClassVar[ErrorMap] = {Invalid: CycleError, Closed: RuntimeError}

    @contextmanager
    def flow(self, *, max_workers: int | None = None, executor: Executor | None = None) -> Generator[Flow]:
        if executor is not None:
            yield _Loop(executor)
            return
        with ThreadPoolExecutor(max_workers) as pool:
            yield _Loop(pool)
