"""The engine's flows against `ThreadPoolExecutor` by hand, and against whatever peers are installed.

    python benchmarks/flow.py [rounds] [peer …]          peers: graphlib dask langgraph pydantic-graph prefect

Ratios of medians, both in one run, taking turns; behind ours stands the target. The raw pool does the least that a chain, a
fan or a layer can be done with: it knows nothing of a graph, records nothing and hands on no results. Ours records
statuses and times, hands on results, and copies context variables. Graphs are built and compiled before the clock starts,
where a peer can do that.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from functools import partial
from graphlib import TopologicalSorter
from importlib import import_module
from importlib.util import find_spec
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple, TypeAlias

from flowcheck_reference import Engine, Flow, RetryPolicy

WORKERS = 8
LIMITED = RetryPolicy(attempts=3, timeout=60.0)

Shape: TypeAlias = dict[str, list[str]]
Call: TypeAlias = Callable[[], object]


def nothing(*_: object) -> None:
    """What the nodes do."""


def chain(n: int) -> Shape:
    """One after the other."""
    return {f"n{i}": [f"n{i - 1}"] if i else [] for i in range(n)}


def fan(n: int) -> Shape:
    """None needs another."""
    return {f"n{i}": [] for i in range(n)}


def layers(width: int, depth: int) -> Shape:
    """Each node needs three of the layer before."""
    return {
        f"n{layer}_{i}": [f"n{layer - 1}_{(i + j) % width}" for j in range(3)] if layer else []
        for layer in range(depth)
        for i in range(width)
    }


# -- what is compared


def declared(shape: Shape, policy: RetryPolicy | None = None) -> Flow:
    """As a flow."""
    flow = Flow()
    for node, needs in shape.items():
        flow.add(nothing, id=node, needs=needs, policy=policy)
    flow.compiled()
    return flow


def ours(engine: Engine, shape: Shape, policy: RetryPolicy | None = None, runs: int = 1) -> Call:
    """`Engine.run`, so many times."""
    flow = declared(shape, policy)

    def run() -> None:
        for _ in range(runs):  # no result is kept, as the pool by hand keeps no future
            engine.run(flow)

    return run


def one_by_one(pool: ThreadPoolExecutor, n: int) -> object:
    """A chain, by hand."""
    return [pool.submit(nothing).result() for _ in range(n)]


def by_layer(pool: ThreadPoolExecutor, width: int, depth: int = 1) -> object:
    """Layers, by hand; one of them is a fan."""
    return [wait([pool.submit(nothing) for _ in range(width)]) for _ in range(depth)]


def graphlib(pool: ThreadPoolExecutor, shape: Shape) -> Call:
    """The loop of its documentation."""

    def run() -> None:
        sorter = TopologicalSorter(shape)
        sorter.prepare()
        pending: dict[Any, str] = {}
        while sorter.is_active():
            for node in sorter.get_ready():
                pending[pool.submit(nothing)] = node
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                sorter.done(pending.pop(future))

    return run


def dask(pool: ThreadPoolExecutor, shape: Shape) -> Call:
    """Its threaded scheduler."""
    threaded: Any = import_module("dask.threaded")
    graph = {node: (nothing, *needs) for node, needs in shape.items()}
    ends = list(shape.keys() - {need for needs in shape.values() for need in needs})
    return partial(threaded.get, graph, ends, pool=pool)


def langgraph(_: ThreadPoolExecutor, shape: Shape) -> Call:
    """A compiled `StateGraph`, `invoke`."""
    graphs: Any = import_module("langgraph.graph")
    builder = graphs.StateGraph(dict)
    for node in shape:
        builder.add_node(node, lambda _: None)
    for node, needs in shape.items():
        builder.add_edge(needs or graphs.START, node)
    compiled = builder.compile()
    config = {"recursion_limit": len(shape) + 1, "max_concurrency": WORKERS}
    return partial(compiled.invoke, {}, config)


def pydantic_graph(_: ThreadPoolExecutor, shape: Shape) -> Call:
    """A built graph, `run` in one event loop."""
    module: Any = import_module("pydantic_graph")
    builder = module.GraphBuilder(state_type=object, output_type=object)

    async def step(_: Any) -> None:
        """What the nodes do."""

    steps = {node: builder.step(step, node_id=node) for node in shape}
    ends = list(shape.keys() - {need for needs in shape.values() for need in needs})
    for node, needs in [*shape.items(), ("", ends)]:
        to = steps[node] if node else builder.end_node
        if len(needs) < 2:
            builder.add(builder.edge_from(steps[needs[0]] if needs else builder.start_node).to(to))
            continue
        join = builder.join(module.reduce_null, initial=None, node_id=f"before {node}")
        for need in needs:
            builder.add(builder.edge_from(steps[need]).to(join))
        builder.add(builder.edge_from(join).to(to))
    graph = builder.build()

    async def run() -> None:
        await graph.run(state=None)

    return lambda: asyncio.run(run())


def prefect(_: ThreadPoolExecutor, shape: Shape) -> Call:
    """Tasks of a flow, on its ephemeral server."""
    module: Any = import_module("prefect")
    task = module.task(nothing)

    @module.flow  # type: ignore[untyped-decorator]
    def run() -> None:
        futures: dict[str, Any] = {}
        for node, needs in shape.items():
            futures[node] = task.submit(*(futures[need] for need in needs))
        for future in futures.values():
            future.result()

    return run  # type: ignore[no-any-return]


PEERS: dict[str, Callable[[ThreadPoolExecutor, Shape], Call]] = {
    "graphlib": graphlib,
    "dask": dask,
    "langgraph": langgraph,
    "pydantic-graph": pydantic_graph,
    "prefect": prefect,
}


class Scenario(NamedTuple):
    """A graph, what the raw pool does for it, and how often it is run."""

    name: str
    shape: Shape
    raw: Callable[[ThreadPoolExecutor], object]
    target: float
    runs: int = 1


SCENARIOS = (
    Scenario("a chain of 1 000", chain(1_000), partial(one_by_one, n=1_000), 0.06),
    Scenario("1 000 independent", fan(1_000), partial(by_layer, width=1_000), 0.25),
    Scenario("100 layers of 100", layers(100, 100), partial(by_layer, width=100, depth=100), 0.35),
    Scenario("1 000 runs of 3", chain(3), partial(one_by_one, n=3_000), 0.4, 1_000),
)


def seconds(call: Call) -> float:
    """How long it takes."""
    start = perf_counter()
    call()
    return perf_counter() - start


def compared(first: Call, second: Call, rounds: int) -> tuple[float, float]:
    """Medians of both, taking turns: A B, B A, A B, …"""
    for call in (first, second):
        call()
    got: tuple[list[float], list[float]] = ([], [])
    for i in range(2 * rounds):
        which = 0 if i % 4 in {0, 3} else 1
        got[which].append(seconds((first, second)[which]))
    return median(got[0]), median(got[1])


def line(name: str, ratio: float, target: float | None, told: str) -> None:
    """One line of the table."""
    wanted = f"at most {target:<4g}" if target is not None else " " * 12
    print(f"{name:42} {ratio:8.3f}  {wanted}  {told}", flush=True)


def main(rounds: int = 9, peers: Sequence[str] = ()) -> None:
    """Print one line per scenario, and per peer and scenario."""
    for name, shape, raw, target, runs in SCENARIOS:
        # Threads of their own: on which processors the last scenario left them decides what a wake-up costs in the next.
        with Engine(WORKERS) as engine, ThreadPoolExecutor(WORKERS) as pool:
            mine, theirs = compared(ours(engine, shape, runs=runs), partial(raw, pool), rounds)
        told = f"({mine / len(shape) / runs * 1e6:.2f} µs a node against {theirs / len(shape) / runs * 1e6:.1f})"
        line(name, mine / theirs, target, told)
    with Engine(WORKERS) as engine, ThreadPoolExecutor(WORKERS) as pool:
        shape = chain(1_000)
        limited, plain = compared(ours(engine, shape, LIMITED), ours(engine, shape), rounds)
        trip = median(seconds(partial(one_by_one, pool, 1_000)) for _ in range(rounds))
        line("timeout and retries, of a round trip", (limited - plain) / trip, 0.05, f"({limited - plain:.6f} s more)")
        for kind in (chain, fan):
            big, small = compared(ours(engine, kind(100_000)), ours(engine, kind(1_000), runs=10), min(rounds, 5))
            told = f"({big / 0.1:.2f} µs against {small / 0.01:.2f})"
            line(f"{kind.__name__}: a node of 100 000, of 1 000", big / 100_000 * 10_000 / small, 1.5, told)
        for peer in peers:
            if find_spec(peer.replace("-", "_")) is None:
                print(f"{peer} is not installed")
                continue
            for name, shape, raw, _, runs in SCENARIOS:
                call = PEERS[peer](pool, shape)
                many = max(1, runs // 100)  # a hundredth of the runs: some peers take their time
                few = 1 if peer in {"prefect", "langgraph", "pydantic-graph"} else min(rounds, 3)
                if peer == "prefect" and len(shape) > 1_000:
                    continue
                try:
                    theirs, base = compared(lambda call=call, many=many: [call() for _ in range(many)], partial(raw, pool), few)  # type: ignore[misc]
                except Exception as error:  # noqa: BLE001 - prefect's server refuses what comes while it has a backlog
                    print(f"{peer}: {name} raised {type(error).__name__}")
                else:
                    line(f"{peer}: {name}", theirs * runs / many / base, None, "")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), peers=sys.argv[2:])
