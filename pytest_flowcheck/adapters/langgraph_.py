"""langgraph: a `StateGraph` whose state collects the outputs; `invoke`, and `ainvoke`, and `invoke` with a checkpointer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from functools import partial
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, TypedDict

from pytest_flowcheck.protocols import Adapter, ErrorMap, Inexpressible, NotFound, Ok, Refused
from pytest_flowcheck.protocols.flow import Flow, Graph, Node, Run

SUBJECTS: Final = {
    "langgraph": "LangGraph",
    "langgraph-async": "LangGraphAsync",
    "langgraph-sqlite": "LangGraphSqlite",
}


def _merged(some: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return some | more


class State(TypedDict):
    """What the nodes read, and add to."""

    input: Any
    outputs: Annotated[dict[str, Any], _merged]


def _call(node: Node, state: State) -> dict[str, Any]:
    upstream = {need: state["outputs"][need] for need in node.needs}
    return {"outputs": {node.id: node.body(state["input"], upstream)}}


async def _await(node: Node, state: State) -> dict[str, Any]:
    upstream = {need: state["outputs"][need] for need in node.needs}
    return {"outputs": {node.id: await node.body.aio(state["input"], upstream)}}


def _built(graph: Graph, function: Callable[[Node], Callable[..., Any]], checkpointer: Any = None) -> Any:
    """The graph, compiled.

    Raises:
        Inexpressible: it has a circle.
    """
    langgraph: Any = import_module("langgraph.graph")  # its types know the state's only
    try:
        TopologicalSorter({node.id: node.needs for node in graph.nodes}).prepare()
    except CycleError:
        raise Inexpressible("a circle is a loop in langgraph, and makes sense there") from None
    builder = langgraph.StateGraph(State)
    for node in graph.nodes:
        builder.add_node(node.id, partial(function(node), node), **_policy(node))
    for node in graph.nodes:
        builder.add_edge(list(node.needs) or langgraph.START, node.id)
    return builder.compile(checkpointer=checkpointer)


def _policy(node: Node) -> dict[str, Any]:
    types: Any = import_module("langgraph.types")
    policy = node.policy
    retry = types.RetryPolicy(
        initial_interval=policy.backoff,
        backoff_factor=1.0,
        max_interval=policy.backoff,
        max_attempts=policy.attempts,
        jitter=False,
        retry_on=policy.retry_on,
    )
    return {"retry_policy": retry, "timeout": policy.timeout}


def _run(state: State) -> Run:
    return Run("completed", {id_: Ok(value) for id_, value in state["outputs"].items()})


class _Limited:
    def __init__(self, max_workers: int | None) -> None:
        self._max_workers = max_workers

    def config(self, graph: Graph, max_workers: int | None) -> dict[str, Any]:
        config: dict[str, Any] = {"recursion_limit": len(graph.nodes) + 1}
        limit = max_workers if max_workers is not None else self._max_workers
        return config if limit is None else {**config, "max_concurrency": limit}


class _Invoke(_Limited):
    def run(self, graph: Graph, input: Any = None, *, max_workers: int | None = None) -> Run:  # noqa: A002
        compiled = _built(graph, lambda _: _call)
        try:
            return _run(compiled.invoke(State(input=input, outputs={}), self.config(graph, max_workers)))
        except Exception as error:  # noqa: BLE001 - a node's, raised to the caller
            return Run("failed", error=error)

    def close(self) -> None:
        pass  # what a run takes ends with it


class InUse(Exception):  # noqa: N818 - what the adapter adds: langgraph itself would take the input for a reply
    """A new run under an id that has one."""


class _Checkpointed(_Invoke):
    """A run's id is its thread's. Each step is saved before the next one begins (`durability="sync"`)."""

    def __init__(self, max_workers: int | None, saver: Any) -> None:
        super().__init__(max_workers)
        self._saver = saver

    def run(
        self,
        graph: Graph,
        input: Any = None,  # noqa: A002
        *,
        max_workers: int | None = None,
        run_id: str | None = None,
    ) -> Run:
        if run_id is None:
            return super().run(graph, input, max_workers=max_workers)
        compiled, config = self._of(graph, run_id)
        if compiled.get_state(config).created_at is not None:
            raise InUse(f"thread {run_id!r} has checkpoints: a new input would go on with them")
        return self._invoke(compiled, State(input=input, outputs={}), config)

    def resume(self, graph: Graph, run_id: str) -> Run:
        compiled, config = self._of(graph, run_id)
        found = compiled.get_state(config)
        if found.created_at is None:
            raise NotFound(f"thread {run_id!r} has no checkpoint")
        return self._invoke(compiled, None, config) if found.next else _run(found.values)

    def _of(self, graph: Graph, run_id: str) -> tuple[Any, dict[str, Any]]:
        config = {**self.config(graph, None), "configurable": {"thread_id": run_id}}
        return _built(graph, lambda _: _call, self._saver), config

    def _invoke(self, compiled: Any, state: State | None, config: dict[str, Any]) -> Run:
        try:
            return _run(compiled.invoke(state, config, durability="sync"))
        except Exception as error:  # noqa: BLE001 - a node's, raised to the caller
            return Run("failed", error=error)


class _AInvoke(_Limited):
    async def run(self, graph: Graph, input: Any = None, *, max_workers: int | None = None) -> Run:  # noqa: A002
        compiled = _built(graph, lambda node: _call if node.kind == "blocking" else _await)
        try:
            return _run(await compiled.ainvoke(State(input=input, outputs={}), self.config(graph, max_workers)))
        except Exception as error:  # noqa: BLE001 - a node's, raised to the caller
            return Run("failed", error=error)

    async def close(self) -> None:
        pass


class LangGraph(Adapter):
    """`StateGraph.compile().invoke(...)`, with `max_concurrency`."""

    name = "langgraph"
    requires: ClassVar[Sequence[str]] = ("langgraph",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": frozenset({"context", "resize"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"flow": {"after_close": "reopen"}}

    def flow(
        self, *, max_workers: int | None = None
    ) -> AbstractContextManager[Flow] | AbstractAsyncContextManager[Flow]:
        return nullcontext(_Invoke(max_workers))


class LangGraphAsync(LangGraph):
    """`StateGraph.compile().ainvoke(...)`, with `max_concurrency`; blocking nodes run in the loop's executor."""

    name = "langgraph-async"
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": frozenset({"attempts", "context", "mixed", "resize"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"flow": {"after_close": "reopen", "cancel": "abandon"}}
    sibling: ClassVar[type | None] = LangGraph

    @asynccontextmanager
    async def flow(self, *, max_workers: int | None = None) -> AsyncGenerator[Flow]:
        yield _AInvoke(max_workers)


class LangGraphSqlite(LangGraph):
    """`invoke` with `SqliteSaver`, a database in the folder; `invoke(None)` goes on with a thread."""

    name = "langgraph-sqlite"
    requires: ClassVar[Sequence[str]] = ("langgraph", "langgraph-checkpoint-sqlite")
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": frozenset({"context", "resize", "resume", "save"})}
    errors: ClassVar[ErrorMap] = {Refused: InUse}

    def warm_up(self) -> None:
        import_module("langgraph.checkpoint.sqlite")

    @contextmanager
    def flow(self, *, max_workers: int | None = None, folder: Path | None = None) -> Generator[Flow]:
        if folder is None:
            yield _Invoke(max_workers)
            return
        sqlite: Any = import_module("langgraph.checkpoint.sqlite")
        with sqlite.SqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver:
            yield _Checkpointed(max_workers, saver)
