"""Wrong in how they wait."""

# ruff: noqa: TID251 - to sleep is what is wrong with them
from __future__ import annotations

import time
from queue import Empty
from typing import Any

import anyio

from flowcheck_reference.broken.flow._hand import AsyncEngine, Engine, Hand, HandAsync, Running
from pytest_flowcheck.protocols import Outcome, breaks

LIMITS = frozenset({"resize", "sizing"})
"""Not claimed by those that never rest: to prove that no further node starts takes patience, with each limit anew."""


def interval(run: Running) -> float:
    """How long to sleep between two looks: three milliseconds, and less in very large graphs, which would take for ever."""
    return min(0.003, 0.6 / len(run.nodes))


@breaks("FLO-11", "FLO-12")
class LooksEveryThreeMilliseconds(Hand):
    """The coordinator sleeps and looks what has come. (dynamiq 0.45 to 0.69)"""

    without = LIMITS

    class Flow(Engine):
        def next(self, run: Running) -> tuple[str, Outcome[Any]]:
            while run.completions.empty():
                time.sleep(interval(run))
            return super().next(run)


@breaks("FLO-12")
class WakesUpToLook(Hand):
    """A completion wakes the coordinator, which wakes up by itself as well, a hundred times a second."""

    without = LIMITS

    class Flow(Engine):
        def next(self, run: Running) -> tuple[str, Outcome[Any]]:
            while True:
                try:
                    completion: tuple[str, Outcome[Any]] = run.completions.get(timeout=0.01)
                except Empty:
                    continue
                return completion


@breaks("FLO-12")
class Spins(Hand):
    """`sleep(0)` until something has come."""

    without = LIMITS

    class Flow(Engine):
        def next(self, run: Running) -> tuple[str, Outcome[Any]]:
            while run.completions.empty():
                time.sleep(0)
            return super().next(run)


@breaks("FLO-11", "FLO-12")
class LooksEveryThreeMillisecondsOnTheLoop(HandAsync):
    """The same, awaited. (dynamiq's `run_async`)"""

    without = LIMITS
    backends = ("asyncio",)

    class Flow(AsyncEngine):
        async def next(self, run: Running) -> tuple[str, Outcome[Any]]:
            while not run.completions[1].statistics().current_buffer_used:
                pause = interval(run)
                await anyio.sleep(pause if pause > 0.001 else 0)
            return await super().next(run)
