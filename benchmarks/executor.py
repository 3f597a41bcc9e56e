"""The engine's executor against `ThreadPoolExecutor`: ratios of medians, both in one run, taking turns.

    python benchmarks/executor.py [rounds]

A ratio below 1 means less time than the standard library's. Times depend on the machine; ratios of runs that take turns
hardly do, but for `round_trips`: whether two threads share a core decides it more than either pool does.
"""
from __future__ import annotations

import sys
from concurrent.futures import Executor as AnyExecutor
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from flowcheck_reference import Executor

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 4
BATCH = 10_000


def nothing(*_: object) -> None:
    """What the tasks do."""


def round_trips(pool: AnyExecutor) -> None:
    """One call at a time: two thread wake-ups each."""
    for _ in range(2_000):
        pool.submit(nothing).result()


def batch(pool: AnyExecutor) -> None:
    """Submit all, then read all."""
    for future in [pool.submit(nothing) for _ in range(BATCH)]:
        future.result()


def mapped(pool: AnyExecutor) -> None:
    """The same by `map`."""
    for _ in pool.map(nothing, range(BATCH)):
        pass


def nested(pool: AnyExecutor) -> None:
    """Tasks that submit a task and wait for it; one at a time, so that the standard library doesn't deadlock."""
    for _ in range(1_000):
        pool.submit(lambda: pool.submit(nothing).result()).result()


def opened(pool: AnyExecutor) -> None:
    """What opening, one call and closing cost (the pool given is not used)."""
    for _ in range(200):
        with type(pool)(WORKERS) as fresh:  # type: ignore[call-arg]
            fresh.submit(nothing).result()


SCENARIOS: tuple[Callable[[AnyExecutor], None], ...] = (round_trips, batch, mapped, nested, opened)


def timed(scenario: Callable[[AnyExecutor], None], make: Callable[[int], AnyExecutor]) -> float:
    """Seconds for one run on a warm pool."""
    with make(WORKERS) as pool:
        list(pool.map(nothing, range(100)))
        start = perf_counter()
        scenario(pool)
        return perf_counter() - start


def main(rounds: int = 11) -> None:
    """Print one line per scenario."""
    for scenario in SCENARIOS:
        times: dict[Callable[[int], AnyExecutor], list[float]] = {Executor: [], ThreadPoolExecutor: []}
        for i in range(2 * rounds):  # A B, B A, A B, …: neither always follows the other
            pool = Executor if i % 4 in {0, 3} else ThreadPoolExecutor
            times[pool].append(timed(scenario, pool))
        ours, theirs = median(times[Executor]), median(times[ThreadPoolExecutor])
        absolute = f"({ours * 1e3:.1f} ms against {theirs * 1e3:.1f} ms)"
        print(f"{scenario.__name__:12} {ours / theirs:5.2f}   {absolute}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
