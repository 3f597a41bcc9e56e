"""Who waits for whom, as a graph: what a deadlock looks like."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pytest_flowcheck.certificate.timeline import entries

_NAMELESS: Final = re.compile(r"(pending|running) future \d+")
_SAYS: Final = {
    "pending": "not done; nobody is seen to work on {}",
    "running": "a worker has taken {}; which one can't be seen",
}
"""Of futures of the subject's own, which have no name: what is known, and what is not."""

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
    awaited = Counter(str(on.get("name")) for wait in kept[:SHOWN] for on in _on(wait))
    for source, wait in enumerate(kept[:SHOWN]):
        alone = [on for on in _on(wait) if awaited[str(on.get("name"))] == 1 and _leaf(on, by_name)]
        merged = _merged(alone)
        for on in [on for on in _on(wait) if not merged or on not in alone] + merged:
            thread = on.get("tid") or on.get("pid")  # a process is known by its first thread, which has its id
            name = str(on.get("name"))
            target = by_tid.get(thread, -1) if thread else by_name.get(name, -1)
            if target < 0 and not on.get("tid"):
                target = len(made.nodes)
                made.nodes.append(Node(name, _says(name)))
                if on not in merged:  # another's three pending futures are not these
                    by_name[name] = target
            if target >= 0:
                made.edges.append(Edge(source, target, str(on.get("name", ""))))
    for edge in made.edges:
        edge.circular = _leads(made, edge.target, edge.source)
    return made


def _on(wait: Mapping[str, Any]) -> list[dict[str, Any]]:
    return entries(wait.get("on"))


def _leaf(on: Mapping[str, Any], known: Mapping[str, int]) -> bool:
    """Whether it is a future without a name, of which no more is known."""
    name = str(on.get("name"))
    return not on.get("tid") and not on.get("pid") and name not in known and bool(_NAMELESS.fullmatch(name))


def _merged(alone: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that differ in nothing but their number, as one of each state: a loop may wait for dozens. None if it is one."""
    states = Counter(str(on["name"]).partition(" ")[0] for on in alone)
    if len(alone) < 2:
        return []
    return [{"name": f"{count} {state} futures" if count > 1 else f"{state} future"} for state, count in states.items()]


def _says(name: str) -> str:
    """What is known of a node that waits for nobody."""
    words = name.split()
    several = words[0].isdigit() if words else False
    state = words[several] if len(words) > 1 else ""
    nameless = state in _SAYS and words[several + 1 : several + 2] in (["future"], ["futures"])
    return _SAYS[state].format("them" if several else "it") if nameless else ""


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
