"""flow: an engine that runs a graph. How it is told of one differs so much that a person must write it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.shell.drafting.draft import Draft, guard, method

if TYPE_CHECKING:
    from pytest_flowcheck.shell.drafting.sight import Sight
    from pytest_flowcheck.shell.drafting.trying import Held

LOOKS_FOR: Final = "a graph of nodes to run (run, execute, invoke), which needs a mapping written by hand"
ASKED: Final = "*, max_workers=None"
CALLS: Final = ("run", "execute", "invoke", "compute", "get")
NAMES: Final = ("flow", "engine", "graph", "dag", "workflow", "pipeline")
SKELETON: Final = [
    method(
        "def run(self, graph, input=None)",
        guard("how graph.nodes (id, body, needs) become a run, and its outcome a Run"),
    ),
    method("def close(self)", guard("how the engine's threads are freed")),
]


WORDS: Final = (*NAMES, "node", "nodes", "add_node", "edges", "add_edge", "invoke", "tasks", "steps")


def drafts(seen: Sight, *, aio: bool) -> Iterator[Draft]:
    """None: nothing is tried."""
    del seen, aio
    yield from ()


def resembles(seen: Sight) -> bool:
    """Whether it is called as engines are, and runs something."""
    return any(name in seen.word.lower() for name in NAMES) and any(name in seen.methods for name in CALLS)


async def check(held: Held) -> None:
    """Never asked: there are no drafts."""
    held.expect(False, "no draft of a flow is tried")
