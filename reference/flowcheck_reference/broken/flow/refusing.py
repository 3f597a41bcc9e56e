"""Wrong with graphs that make no sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from flowcheck_reference.broken.flow._sound import AsyncEngine, Engine, Job, Sound, SoundAsync
from pytest_flowcheck.protocols import Invalid, breaks
from pytest_flowcheck.protocols.flow import Graph, Node, Run


@breaks("FLO-04")
class NoticesACircleInTheEnd(Sound):
    """When nothing is ready any more and nodes are left, there was a circle."""

    class Flow(Engine):
        def circle(self, nodes: Mapping[str, Node]) -> list[str]:
            return []

        def answer(self, job: Job) -> Run:
            if left := [id_ for id_ in job.nodes if id_ not in job.outcomes]:
                raise Invalid(f"a circle: {', '.join(left)}")
            return super().answer(job)


@breaks("FLO-04")
class TheLastOfItsId(SoundAsync):
    """`{node.id: node for node in nodes}`"""

    class Flow(AsyncEngine):
        def check(self, graph: Graph) -> dict[str, Node]:
            return super().check(Graph(tuple({node.id: node for node in graph.nodes}.values())))


@breaks("FLO-04")
class UnknownNeedsNothing(SoundAsync):
    """A need that is not there need not be waited for."""

    class Flow(AsyncEngine):
        def check(self, graph: Graph) -> dict[str, Node]:
            known = {node.id for node in graph.nodes}
            nodes = [replace(node, needs=tuple(need for need in node.needs if need in known)) for node in graph.nodes]
            return super().check(Graph(tuple(nodes)))


@breaks("FLO-04")
class DoesNotSayWhere(Sound):
    """ "the graph has a cycle", in a graph of 400 nodes."""

    class Flow(Engine):
        def check(self, graph: Graph) -> dict[str, Node]:
            try:
                return super().check(graph)
            except Invalid:
                raise Invalid("the graph is not valid") from None
