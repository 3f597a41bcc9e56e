"""The engine's warm loop against asyncio's own ways to run a coroutine from a thread: ratios of medians, taking turns.

    python benchmarks/looppool.py [rounds]

A ratio below 1 means less than theirs; behind it stands the target. Both coroutines do nothing. Each pair is timed back to
back, and which of the two begins alternates; the ratio is the median over all pairs.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from math import inf
from statistics import median
from time import perf_counter

from flowcheck_reference.looppool import LoopPool

ONE_BY_ONE = 400
IN_FLIGHT = 1_000
FRESH = 20


async def nothing() -> None:
    """What is dispatched."""


class Loop:
    """A loop on a thread of its own: what one would write without a pool."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End it."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


def cases(
    pool: LoopPool, theirs: asyncio.AbstractEventLoop
) -> dict[str, tuple[Callable[[], object], Callable[[], object], float, float]]:
    """By name: ours, theirs, how much less work ours did (for a fair ratio), and the target."""

    def ours_one_by_one() -> None:
        for _ in range(ONE_BY_ONE):
            pool.dispatch(nothing)

    def theirs_one_by_one() -> None:
        for _ in range(ONE_BY_ONE):
            asyncio.run_coroutine_threadsafe(nothing(), theirs).result()

    def ours_in_flight() -> None:
        for pending in [pool.submit(nothing) for _ in range(IN_FLIGHT)]:
            pending.result()

    def theirs_in_flight() -> None:
        for future in [asyncio.run_coroutine_threadsafe(nothing(), theirs) for _ in range(IN_FLIGHT)]:
            future.result()

    def theirs_fresh() -> None:
        """As wool did before its pull request 271: a caller that runs a loop, and must not be blocked, has no other way."""
        for _ in range(FRESH):
            loop = Loop()
            asyncio.run_coroutine_threadsafe(nothing(), loop.loop).result()
            loop.stop()

    def theirs_here() -> None:
        for _ in range(FRESH):
            asyncio.run(nothing())

    return {
        "one at a time, against run_coroutine_threadsafe": (ours_one_by_one, theirs_one_by_one, 1.0, 0.8),
        "a thousand in flight, against run_coroutine_threadsafe": (ours_in_flight, theirs_in_flight, 1.0, 0.4),
        "one at a time, against a loop and thread for each": (ours_one_by_one, theirs_fresh, FRESH / ONE_BY_ONE, 0.15),
        "one at a time, against asyncio.run on this thread": (ours_one_by_one, theirs_here, FRESH / ONE_BY_ONE, inf),
    }


def seconds(call: Callable[[], object]) -> float:
    """How long it takes."""
    start = perf_counter()
    call()
    return perf_counter() - start


def main(rounds: int) -> int:
    """Print the table; 1 if a target is missed."""
    missed = 0
    theirs = Loop()
    with LoopPool() as pool:
        for name, (ours, other, share, target) in cases(pool, theirs.loop).items():
            ours(), other()
            ratios: list[float] = []
            for turn in range(rounds):
                if turn % 2:
                    mine, its = seconds(ours), seconds(other)
                else:
                    its, mine = seconds(other), seconds(ours)
                ratios.append(mine * share / its)
            ratio = median(ratios)
            missed += ratio > target
            aim = f"  (target {target:g}){'  MISSED' if ratio > target else ''}" if target < inf else ""
            print(f"{name:56} {ratio:6.3f}{aim}")
    theirs.stop()
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 31))
