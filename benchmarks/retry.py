"""A no-op call with a limit and retries, against the same without, by other means: ratios of medians, taking turns.

    python benchmarks/retry.py [rounds]

A ratio below 1 means less time per call than the other's. `call`, `submit` and `lane` are set against a round trip through a
`ThreadPoolExecutor`, `submit(f).result()`, or against many submitted at once where they are many, too; the other side
has neither limit nor retry there. `async_call` is set against `asyncio.wait_for`, which has a limit.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from flowcheck_reference._attempts import Crew, Lane
from flowcheck_reference.executor import Executor
from flowcheck_reference.retry import AsyncRetrier, Retrier, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS = 4
POLICY = RetryPolicy(attempts=3, timeout=30.0)
UNLIMITED = RetryPolicy(attempts=3)


def nothing(*_: object) -> None:
    """What is called."""


async def anothing() -> None:
    """The same, for a loop."""


def per_call(n: int, body: Callable[[], object]) -> float:
    """Seconds for one of the n calls that the body makes."""
    start = perf_counter()
    body()
    return (perf_counter() - start) / n


def pool_round_trip() -> float:
    """The standard library: one call at a time."""
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(nothing, range(100)))
        return per_call(2_000, lambda: [pool.submit(nothing).result() for _ in range(2_000)])


def pool_batch() -> float:
    """The standard library: many calls at once."""
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(nothing, range(100)))
        return per_call(5_000, lambda: [f.result() for f in [pool.submit(nothing) for _ in range(5_000)]])


def call() -> float:
    """One blocking call at a time, with a limit."""
    with Retrier(WORKERS) as retrier:
        retrier.call(POLICY, nothing)
        return per_call(2_000, lambda: [retrier.call(POLICY, nothing) for _ in range(2_000)])


def call_unlimited() -> float:
    """One blocking call at a time, with retries only."""
    with Retrier(WORKERS) as retrier:
        retrier.call(UNLIMITED, nothing)
        return per_call(2_000, lambda: [retrier.call(UNLIMITED, nothing) for _ in range(2_000)])


def submit_round_trip() -> float:
    """One submitted call at a time."""
    with Retrier(WORKERS) as retrier:
        retrier.submit(POLICY, nothing).result()
        return per_call(2_000, lambda: [retrier.submit(POLICY, nothing).result() for _ in range(2_000)])


def submit_batch() -> float:
    """Many submitted at once."""
    with Retrier(WORKERS) as retrier:
        retrier.submit(POLICY, nothing).result()
        return per_call(5_000, lambda: [f.result() for f in [retrier.submit(POLICY, nothing) for _ in range(5_000)]])


def lane(policy: RetryPolicy = POLICY) -> float:
    """Calls in a worker, one after another, as a fan-out makes them."""
    with Executor(WORKERS) as executor:
        crew = Crew(executor, 256)

        def calls() -> None:
            lane = Lane(crew, policy, copy_context(), nothing)
            for i in range(20_000):
                lane.run(i, nothing, i)
            lane.leave()

        seconds = per_call(20_000, lambda: executor.submit(calls).result())
        crew.watchdog.close()
        return seconds


def lane_unlimited() -> float:
    """The same without a limit."""
    return lane(UNLIMITED)


def wait_for() -> float:
    """asyncio's limit, without retries."""

    async def calls() -> None:
        for _ in range(5_000):
            await asyncio.wait_for(anothing(), 30.0)

    return per_call(5_000, lambda: asyncio.run(calls()))


def async_call() -> float:
    """One call at a time, with a limit."""

    async def calls() -> None:
        async with AsyncRetrier(WORKERS) as retrier:
            for _ in range(5_000):
                await retrier.call(POLICY, anothing)

    return per_call(5_000, lambda: asyncio.run(calls()))


SCENARIOS: tuple[tuple[Callable[[], float], Callable[[], float]], ...] = (
    (call, pool_round_trip),
    (call_unlimited, pool_round_trip),
    (submit_round_trip, pool_round_trip),
    (submit_batch, pool_batch),
    (lane, pool_round_trip),
    (lane_unlimited, pool_round_trip),
    (async_call, wait_for),
)


def main(rounds: int = 11) -> None:
    """Print one line per scenario."""
    for ours, theirs in SCENARIOS:
        times: dict[Callable[[], float], list[float]] = {ours: [], theirs: []}
        for i in range(2 * rounds):  # A B, B A, A B, …: neither always follows the other
            side = ours if i % 4 in {0, 3} else theirs
            times[side].append(side())
        mine, other = median(times[ours]), median(times[theirs])
        print(f"{ours.__name__:18} {mine / other:6.3f}   ({mine * 1e6:.2f} µs against {other * 1e6:.2f} µs per call)")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
