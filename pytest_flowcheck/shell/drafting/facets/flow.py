"""flow: an engine that runs a graph. How it is told of one differs so much that a person must write it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.shell.drafting import names
from pytest_flowcheck.shell.drafting.draft import Draft, guard, method

if TYPE_CHECKING:
    from pytest_flowcheck.shell.drafting.sight import Sight, Signature
    from pytest_flowcheck.shell.drafting.trying import Held

LOOKS_FOR: Final = "a graph of nodes to run (run, execute, invoke), which needs a mapping written by hand"
ASKED: Final = "*, max_workers=None"
CALLS: Final = ("run", "execute", "invoke", "compute", "run_sync", "run_async", "arun", "run_workflow", "run_graph")
NAMES: Final = ("flow", "engine", "graph", "dag", "workflow", "pipeline")
GRAPHS: Final = ("workflow", "graph", "flow", "dag", "plan", "pipeline", "definition", "nodes", "tasks", "steps", "wf")
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
    """Whether it runs one thing that is called as graphs are; in either colour."""
    runs = [seen.methods[name] for name in CALLS if name in seen.methods]
    if seen.kind == "function" and seen.word in CALLS:
        runs.append(seen.made_by)
    return any(_takes_a_graph(found) for found in runs)


def _takes_a_graph(found: Signature) -> bool:
    """The graph comes first, and nothing else must be given; `my_workflow` counts, and a `Graph` by its annotation."""
    first = next((p for p in found.parameters if not p.variadic), None)
    if first is None or any(p is not first for p in found.required) or names.is_function(first):
        return False
    words = {first.name, first.name.rpartition("_")[2], first.annotation.rpartition(".")[2].lower()}
    return bool(words & set(GRAPHS))


async def check(held: Held) -> None:
    """Never asked: there are no drafts."""
    held.expect(False, "no draft of a flow is tried")
