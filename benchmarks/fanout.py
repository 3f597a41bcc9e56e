"""The engine's fan-out against `ThreadPoolExecutor`: ratios of medians, both in one run, taking turns.

    python benchmarks/fanout.py [rounds]

A ratio below 1 means less than the standard library's; behind it stands the target. Ours gives records (times, attempts,
status), the standard library's values. Memory is the peak that `tracemalloc` sees, Python's own allocations, that is.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from threading import Lock
from time import perf_counter
from typing import TypeAlias

from flowcheck_reference.fanout import Fanout, RetryPolicy

LANES = 8
ITEMS = 10_000
POLICY = RetryPolicy(attempts=3, timeout=60.0)

Ours: TypeAlias = Callable[[Fanout], object]
Theirs: TypeAlias = Callable[[ThreadPoolExecutor], object]


def nothing(_: object) -> None:
    """What the items do."""


def wait(_: object) -> None:
    """Two milliseconds in which nothing happens, as in a request."""
    lock = Lock()
    lock.acquire()
    lock.acquire(timeout=0.002)


def fanned(fanout: Fanout, fn: Callable[[int], None] = nothing, n: int = ITEMS, *, policy: bool = False) -> object:
    """A list of items, at the pool's concurrency."""
    return fanout.run(fn, range(n), max_concurrency=LANES, policy=POLICY if policy else None)


def generated(fanout: Fanout) -> object:
    """Items that come from a generator."""
    return fanout.run(nothing, (i for i in range(ITEMS)), max_concurrency=LANES)


def streamed(fanout: Fanout) -> object:
    """Records that are delivered one by one."""
    return list(fanout.stream(nothing, range(ITEMS), max_concurrency=LANES))


def mapped(pool: ThreadPoolExecutor, fn: Callable[[int], None] = nothing, n: int = ITEMS) -> object:
    """What one would write without a fan-out."""
    return list(pool.map(fn, range(n)))


def submitted(pool: ThreadPoolExecutor) -> object:
    """The same by hand."""
    return [future.result() for future in [pool.submit(nothing, i) for i in range(ITEMS)]]


def round_trips(pool: ThreadPoolExecutor) -> object:
    """One call at a time."""
    return [pool.submit(nothing, i).result() for i in range(ITEMS)]


def seconds(call: Callable[[], object]) -> float:
    """How long it takes."""
    start = perf_counter()
    call()
    return perf_counter() - start


def peak(call: Callable[[], object]) -> float:
    """How many bytes it has at its worst moment."""
    tracemalloc.start()
    call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return float(most)


Measure: TypeAlias = Callable[[Callable[[], object]], float]
SCENARIOS: tuple[tuple[str, Measure, Ours, Theirs, float | None], ...] = (
    ("10 000 items that take no time, list(map)", seconds, fanned, mapped, 0.1),
    ("10 000 items that take no time, submit all", seconds, fanned, submitted, 0.1),
    ("1 000 items of 2 ms", seconds, partial(fanned, fn=wait, n=1_000), partial(mapped, fn=wait, n=1_000), 1.0),
    ("peak memory of 10 000 items", peak, fanned, mapped, 0.2),
    ("limit and retries, an item / a round trip", seconds, partial(fanned, policy=True), round_trips, 0.05),
    ("from a generator", seconds, generated, mapped, None),
    ("streamed", seconds, streamed, mapped, None),
)


def main(rounds: int = 11) -> None:
    """Print one line per scenario."""
    with Fanout() as fanout, ThreadPoolExecutor(LANES) as pool:
        for name, measure, ours, theirs, target in SCENARIOS:
            calls = (partial(ours, fanout), partial(theirs, pool))
            for call in calls:
                call()
            got: tuple[list[float], list[float]] = ([], [])
            for i in range(2 * rounds):  # A B, B A, A B, …: neither always follows the other
                which = 0 if i % 4 in {0, 3} else 1
                got[which].append(measure(calls[which]))
            mine, other = median(got[0]), median(got[1])
            scale, unit = (1e3, "ms") if measure is seconds else (1e-3, "kB")
            wanted = f"at most {target:<4g}" if target is not None else " " * 12
            print(
                f"{name:45} {mine / other:5.3f}  {wanted}  ({mine * scale:.1f} {unit} against {other * scale:.1f} {unit})"
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
