"""pydantic-graph: a step for each node, and a join in front of a step that needs several."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from typing import Any, ClassVar, Final

from pytest_flowcheck.protocols import Adapter, Backend, Inexpressible, Ok
from pytest_flowcheck.protocols.flow import Flow, Graph, Node, Run

SUBJECTS: Final = {"pydantic-graph": "PydanticGraph"}


def _function(node: Node) -> Any:
    """The node as a step: its state is the run's input, its inputs are the outputs that it needs, by id."""

    async def step(ctx: Any) -> Any:
        return {node.id: await node.body.aio(ctx.state, ctx.inputs or {})}

    return step


def _built(graph: Graph) -> Any:
    library: Any = import_module("pydantic_graph")  # its types know what steps give and take; ours take anything

    needs = {node.id: node.needs for node in graph.nodes}
    try:
        TopologicalSorter(needs).prepare()
    except CycleError:
        raise Inexpressible("a circle is a loop in pydantic-graph, and makes sense there") from None
    if not needs.keys() >= {need for those in needs.values() for need in those}:
        raise Inexpressible("its edges lead from step to step: there is no name for one that doesn't exist")
    builder = library.GraphBuilder(state_type=object, output_type=object)
    steps: dict[str, Any] = {}

    def joined(sources: Sequence[str], before: str) -> Any:
        """What gives the outputs of all these steps."""
        if len(sources) == 1:
            return steps[sources[0]]
        join = builder.join(library.reduce_dict_update, initial_factory=dict[str, Any], node_id=f"{before}'s needs")
        for source in sources:
            builder.add(builder.edge_from(steps[source]).to(join))
        return join

    made = [(node, builder.step(_function(node), node_id=node.id)) for node in graph.nodes]
    steps.update((node.id, step) for node, step in made)
    for node, step in made:
        builder.add(builder.edge_from(joined(node.needs, node.id) if node.needs else builder.start_node).to(step))
    last = [id_ for id_ in needs if not any(id_ in those for those in needs.values())]
    builder.add(builder.edge_from(joined(last, "the end")).to(builder.end_node))
    return builder.build()


class _Graph:
    async def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
        built = _built(graph)
        try:
            outputs = await built.run(state=input)
        except Exception as error:  # noqa: BLE001 - a node's, raised to the caller
            return Run("failed", error=error)
        return Run("completed", {id_: Ok(value) for id_, value in outputs.items()})

    async def close(self) -> None:
        pass  # what a run takes ends with it


class PydanticGraph(Adapter):
    """`GraphBuilder.build().run(...)`. Steps are coroutines, and nothing limits how many run at once.

    `run_sync` is the same on a loop of its own: a step that blocks would hold up all the others, so it is no subject.
    """

    name = "pydantic-graph"
    requires: ClassVar[Sequence[str]] = ("pydantic-graph",)
    backends: ClassVar[Sequence[Backend]] = ("asyncio", "trio")
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": frozenset({"context"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"flow": {"after_close": "reopen"}}

    @asynccontextmanager
    async def flow(self, *, max_workers: int | None = None) -> AsyncGenerator[Flow]:  # noqa: ARG002 - it has no limit
        yield _Graph()
