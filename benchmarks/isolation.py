"""The engine's service against a bare ThreadPoolExecutor of the same size: ratios of medians, taking turns.

    python benchmarks/isolation.py [rounds]

What does nothing is run; a ratio of 1 means that admission, the count of the queue and the ways to cancel cost nothing. Each pair
is timed back to back, and which of the two begins alternates; the ratio is the median over all pairs.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from time import perf_counter

from flowcheck_reference.isolation import Service

SLOTS = 4
ONE_BY_ONE = 400
IN_FLIGHT = 1_000


def nothing() -> None:
    """What is run."""


def cases(service: Service, pool: ThreadPoolExecutor) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """By name: ours, theirs."""

    def one_by_one(call: Callable[[], object]) -> Callable[[], object]:
        def all_of_them() -> None:
            for _ in range(ONE_BY_ONE):
                call()

        return all_of_them

    async def awaited() -> None:
        for _ in range(ONE_BY_ONE):
            await service.arun(nothing)

    async def in_executor() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ONE_BY_ONE):
            await loop.run_in_executor(pool, nothing)

    def ours_in_flight() -> None:
        for run in [service.start(nothing) for _ in range(IN_FLIGHT)]:
            run.result()

    def theirs_in_flight() -> None:
        for future in [pool.submit(nothing) for _ in range(IN_FLIGHT)]:
            future.result()

    theirs = one_by_one(lambda: pool.submit(nothing).result())
    return {
        "a run, one at a time": (one_by_one(lambda: service.run(nothing)), theirs),
        "a short operation, one at a time": (one_by_one(lambda: service.short(nothing)), theirs),
        "a run, awaited, against run_in_executor": (lambda: asyncio.run(awaited()), lambda: asyncio.run(in_executor())),
        "a thousand runs, started, then waited for": (ours_in_flight, theirs_in_flight),
    }


def seconds(call: Callable[[], object]) -> float:
    """How long it takes."""
    start = perf_counter()
    call()
    return perf_counter() - start


def compare(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> float:
    """The median of the ratios."""
    ours(), theirs()
    ratios: list[float] = []
    for turn in range(rounds):
        if turn % 2:
            mine, its = seconds(ours), seconds(theirs)
        else:
            its, mine = seconds(theirs), seconds(ours)
        ratios.append(mine / its)
    return median(ratios)


def main(rounds: int) -> None:
    """Print the table; the last line is what it is all for."""
    with Service(SLOTS) as service, ThreadPoolExecutor(SLOTS) as pool:
        for name, (ours, theirs) in cases(service, pool).items():
            print(f"{name:56} {compare(ours, theirs, rounds):6.3f}")
        gate = threading.Event()
        with Service(SLOTS) as busy:
            for _ in range(SLOTS):
                busy.start(gate.wait)
            beside, alone = (cases(one, pool)["a short operation, one at a time"][0] for one in (busy, service))
            print(f"{'a short operation beside stuck runs, against none':56} {compare(beside, alone, rounds):6.3f}")
            gate.set()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 31)
