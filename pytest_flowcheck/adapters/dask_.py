"""dask: its local scheduler on a graph of `Task`s, with threads of its own or on an executor that it is given."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib import import_module
from typing import Any, ClassVar, Final

from pytest_flowcheck.adapters._flow import Call, by_id
from pytest_flowcheck.protocols import Adapter, Closed, ErrorMap, Invalid, Ok
from pytest_flowcheck.protocols.flow import Flow, Graph, Run

SUBJECTS: Final = {"dask": "Threaded", "dask-executor": "OnExecutor"}


class _Get:
    def __init__(self, get: Callable[[Any, Any], Any], close: Callable[[], Any] = lambda: None) -> None:
        self._get, self._close = get, close

    def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
        spec: Any = import_module("dask.task_spec")  # it has no types
        nodes = by_id(graph)
        tasks = {
            id_: spec.Task(id_, _Noted(node), input, *map(spec.TaskRef, node.needs)) for id_, node in nodes.items()
        }
        try:
            values = self._get(tasks, list(nodes))
        except Exception as error:
            if RAISED not in getattr(error, "__notes__", ()):
                raise
            return Run("failed", error=error)
        return Run("completed", {id_: Ok(value) for id_, value in zip(nodes, values, strict=True)})

    def close(self) -> None:
        self._close()


RAISED: Final = "raised by a node"


class _Noted(Call):
    """Tells the errors of nodes from those of the scheduler: both are raised to the caller."""

    def __call__(self, value: Any, *outputs: Any) -> Any:
        try:
            return super().__call__(value, *outputs)
        except Exception as error:
            error.add_note(RAISED)
            raise


class Threaded(Adapter):
    """`dask.threaded.get(graph, keys, num_workers=...)`. It has nothing to close: its pools belong to calling threads."""

    name = "dask"
    requires: ClassVar[Sequence[str]] = ("dask",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": frozenset({"context"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"flow": {"after_close": "reopen"}}
    errors: ClassVar[ErrorMap] = {Invalid: RuntimeError}

    def flow(self, *, max_workers: int | None = None) -> AbstractContextManager[Flow]:
        threaded: Any = import_module("dask.threaded")
        return nullcontext(_Get(partial(threaded.get, num_workers=max_workers)))


class OnExecutor(Adapter):
    """`dask.compute(..., scheduler=executor)`: one pool, which the caller owns, for all runs."""

    name = "dask-executor"
    requires: ClassVar[Sequence[str]] = ("dask",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": frozenset({"executor"})}
    errors: ClassVar[ErrorMap] = {Invalid: RuntimeError, Closed: RuntimeError}

    @contextmanager
    def flow(self, *, max_workers: int | None = None, executor: Executor | None = None) -> Generator[Flow]:
        base: Any = import_module("dask.base")
        if executor is not None:
            yield _Get(base.get_scheduler(scheduler=executor))
            return
        with ThreadPoolExecutor(max_workers) as pool:
            yield _Get(base.get_scheduler(scheduler=pool), pool.shutdown)
