"""What the adapters of the `flow` facet share: a node's body as a function of the outputs that it needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_flowcheck.protocols import Body, Inexpressible
from pytest_flowcheck.protocols.flow import Graph, Node


class Call:
    """`call(input, *outputs)`, with the outputs in the order of the node's needs. Pickles as the body does."""

    def __init__(self, node: Node) -> None:
        self._body: Body[[Any, Mapping[str, Any]], Any] = node.body
        self._needs = node.needs
        self.__name__ = self.__qualname__ = node.id

    def __call__(self, value: Any, *outputs: Any) -> Any:
        return self._body(value, dict(zip(self._needs, outputs, strict=True)))


def by_id(graph: Graph) -> dict[str, Node]:
    """The nodes, for systems that take a mapping.

    Raises:
        Inexpressible: two have one id.
    """
    nodes = {node.id: node for node in graph.nodes}
    if len(nodes) < len(graph.nodes):
        raise Inexpressible("the graph is a mapping by id: it can't hold two nodes of one id")
    return nodes
