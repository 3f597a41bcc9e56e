"""Who waits for whom, as a graph: what a deadlock looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pytest_flowcheck.certificate.timeline import entries

SHOWN: Final = 12
"""Waiting threads that are shown; those with arrows come first."""


@dataclass
class Node:
    """A waiting thread, a process, or what nobody runs."""

    name: str
    says: str = ""
    """What it waits for, in words."""
    tid: int = 0


@dataclass
class Edge:
    """`source` waits for `target`; both are indices of nodes."""

    source: int
    target: int
    name: str
    circular: bool = False
    """Part of a circle: each in it waits for the next."""


@dataclass
class Graph:
    """The waits of a finding."""

    nodes: list[Node] = field(default_factory=list[Node])
    edges: list[Edge] = field(default_factory=list[Edge])
    others: int = 0
    """Threads that wait as well, and are not shown."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def graph(evidence: Mapping[str, Any]) -> Graph | None:
    """The graph of a finding's wait list; None if there is none."""
    waits = entries(evidence.get("waits"))
    if not waits:
        return None
    made = Graph()
    by_tid: dict[int, int] = {}
    by_name: dict[str, int] = {}
    ordered = sorted(waits, key=lambda wait: not wait.get("on"))
    aimed = {on.get("tid") or on.get("pid") for wait in waits for on in _on(wait)}
    kept = [wait for wait in ordered if wait.get("on") or wait.get("tid") in aimed] or ordered
    for wait in kept[:SHOWN]:
        name, tid = str(wait.get("name") or ""), int(wait.get("tid") or 0)
        line = str(wait.get("line", ""))
        if tid:
            by_tid.setdefault(tid, len(made.nodes))
        elif name:
            by_name.setdefault(name, len(made.nodes))
        unnamed = f"process {tid}" if wait.get("pid") == tid else f"thread {tid}"
        made.nodes.append(Node(name or (unnamed if tid else line), line, tid))
    made.others = len(waits) - len(made.nodes)
    for source, wait in enumerate(kept[:SHOWN]):
        for on in _on(wait):
            thread = on.get("tid") or on.get("pid")  # a process is known by its first thread, which has its id
            name = str(on.get("name"))
            target = by_tid.get(thread, -1) if thread else by_name.get(name, -1)
            if target < 0 and not on.get("tid"):
                target = by_name[name] = len(made.nodes)
                made.nodes.append(Node(name))
            if target >= 0:
                made.edges.append(Edge(source, target, str(on.get("name", ""))))
    for edge in made.edges:
        edge.circular = _leads(made, edge.target, edge.source)
    return made


def _on(wait: Mapping[str, Any]) -> list[dict[str, Any]]:
    return entries(wait.get("on"))


def _leads(made: Graph, start: int, goal: int) -> bool:
    """Whether there is a way along the arrows."""
    seen, todo = {start}, [start]
    while todo:
        at = todo.pop()
        if at == goal:
            return True
        for edge in made.edges:
            if edge.source == at and edge.target not in seen:
                seen.add(edge.target)
                todo.append(edge.target)
    return False
