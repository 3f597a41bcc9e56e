"""dask.distributed: a graph of `Task`s on a cluster of processes."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar, Final
from uuid import uuid4

from pytest_flowcheck.adapters._flow import Call, by_id
from pytest_flowcheck.protocols import Adapter, Closed, ErrorMap, Invalid, Ok
from pytest_flowcheck.protocols.flow import Flow, Graph, Run

SUBJECTS: Final = {"distributed": "Distributed"}


class _Client:
    def __init__(self, cluster: Any, client: Any) -> None:
        self._cluster, self._client = cluster, client

    def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
        distributed: Any = import_module("distributed")  # it has no types
        spec: Any = import_module("dask.task_spec")
        nodes = by_id(graph)
        run = uuid4().hex

        def key(id_: str) -> str:
            return f"{id_}-{run}"  # keys are the whole cluster's, so `dask.delayed` too makes unique ones

        tasks = {
            key(id_): spec.Task(key(id_), Call(node), input, *(spec.TaskRef(key(need)) for need in node.needs))
            for id_, node in nodes.items()
        }
        futures = dict(zip(nodes, self._client.get(tasks, list(tasks), sync=False), strict=True))
        with self._client.as_current():
            distributed.wait(list(futures.values()))
        finished = {id_: future for id_, future in futures.items() if future.status == "finished"}
        values = self._client.gather(list(finished.values()))
        outcomes = {id_: Ok(value) for id_, value in zip(finished, values, strict=True)}
        error = next((future.exception() for future in futures.values() if future.status == "error"), None)
        return Run("completed" if error is None else "failed", outcomes, error)

    def close(self) -> None:
        self._client.close()
        self._cluster.close()


class Distributed(Adapter):
    """`Client.get(graph, keys, sync=False)` on a `LocalCluster`: a process of `max_workers` threads."""

    name = "distributed"
    requires: ClassVar[Sequence[str]] = ("distributed",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": frozenset({"cluster", "continue"})}
    errors: ClassVar[ErrorMap] = {Invalid: RuntimeError, Closed: (RuntimeError, "ClosedClientError")}

    @contextmanager
    def flow(self, *, max_workers: int | None = None) -> Generator[Flow]:
        distributed: Any = import_module("distributed")
        with (
            distributed.LocalCluster(
                n_workers=1, threads_per_worker=max_workers, processes=True, dashboard_address=":0"
            ) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            yield _Client(cluster, client)
