"""The engine's emit against `SimpleQueue.put` to a thread that reads: ratios of medians, taking turns.

    python benchmarks/tracing.py [rounds]

A ratio below 1 means less than theirs; behind it stands the target. Theirs is the cheapest way to hand an event to a thread
that there is: it is not bounded, can't be flushed, and its listener is woken by each event for which it already waits. Events
are the engine's own (`Event`), which nobody copies; and dicts, of which both keep a copy.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from statistics import median
from time import perf_counter
from typing import Any

from flowcheck_reference.tracing import Tracer

BURST = 100
"""Events at once, the first of which finds the reader asleep: what a request or a run leaves behind."""
AWAKE = 20
"""Emits while the dispatcher lingers."""
LINGER = 0.01
"""Seconds."""


def pause(seconds: float) -> None:
    """Do nothing for so long."""
    threading.Event().wait(seconds)


class Event:
    """As the engine's: a few attributes, and nobody changes them."""

    __slots__ = ("at", "kind", "node", "run")

    def __init__(self) -> None:
        self.kind, self.run, self.node, self.at = "node ended", "run-1", "node-1", 1.0


class Reader:
    """A thread that reads a `SimpleQueue`."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        """Until None."""
        while self.queue.get() is not None:
            pass

    def rest(self) -> None:
        """Wait until it waits."""
        while self.queue.qsize():
            pause(0.001)
        pause(2 * LINGER)


def seconds(put: Callable[[Any], object], event: Any, times: int) -> float:
    """For one of so many in a row."""
    start = perf_counter()
    for _ in range(times):
        put(event)
    return (perf_counter() - start) / times


def copying(queue: SimpleQueue[Any]) -> Callable[[Any], None]:
    """Put a copy."""
    put = queue.put
    return lambda event: put(event.copy())


def main(rounds: int) -> int:
    """Print the table; 1 if a target is missed."""
    ratios: dict[tuple[str, float], list[float]] = {}
    reader = Reader()
    fields = {"kind": "node ended", "run": "run-1", "node": "node-1", "at": 1.0}
    kinds: list[tuple[str, Any, Callable[[Any], None]]] = [
        ("an object", Event(), reader.queue.put),
        ("a dict, copied", fields, copying(reader.queue)),
    ]
    with Tracer[Any](lambda _: None, linger=LINGER) as tracer:

        def rest() -> None:
            tracer.flush()
            reader.rest()

        for turn in range(rounds):
            for told, event, put in kinds:
                if turn % 2:
                    rest()
                    theirs_waking = seconds(put, event, 1)
                    rest()
                    theirs_burst = seconds(put, event, BURST)
                rest()
                waking = seconds(tracer.emit, event, 1)
                pause(LINGER / 10)
                awake = seconds(tracer.emit, event, AWAKE)
                rest()
                burst = seconds(tracer.emit, event, BURST)
                if not turn % 2:
                    rest()
                    theirs_waking = seconds(put, event, 1)
                    rest()
                    theirs_burst = seconds(put, event, BURST)
                ratios.setdefault((f"{told}: a burst of {BURST}", 1.5), []).append(burst / theirs_burst)
                ratios.setdefault((f"{told}: the emit that wakes", 1.5), []).append(waking / theirs_waking)
                ratios.setdefault((f"{told}: while it lingers", 0.25), []).append(awake / theirs_waking)
    missed = 0
    for (name, target), each in ratios.items():
        ratio = median(each[1:])
        missed += ratio > target
        print(f"{name:40} {ratio:6.3f}  (target {target:g}){'  MISSED' if ratio > target else ''}")
    reader.queue.put(None)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 41))
