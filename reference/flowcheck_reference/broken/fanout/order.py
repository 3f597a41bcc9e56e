"""Wrong in the order of results or starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flowcheck_reference.broken.fanout._sound import AsyncEngine, Engine, Run, Sound, SoundAsync
from pytest_flowcheck.protocols import Ok, Outcome, breaks


@breaks("FAN-01", "FAN-15")
class ResultsAsCompleted(Sound):
    """Results are told as they came, where nothing went wrong."""

    class Fanout(Engine):
        def answer(self, run: Run) -> list[Outcome[Any]]:
            results = super().answer(run)
            return list(run.outcomes.values()) if all(isinstance(o, Ok) for o in run.outcomes.values()) else results


@breaks("FAN-01", "FAN-15")
class SlowestLast(SoundAsync):
    """The item that completes last is told last."""

    class Fanout(AsyncEngine):
        def answer(self, run: Run) -> list[Outcome[Any]]:
            results = super().answer(run)
            if len(results) > 1 and all(isinstance(o, Ok) for o in run.outcomes.values()):
                last = next(reversed(run.outcomes))
                results.append(results.pop(last))
            return results


@breaks("FAN-02", "FAN-06", "FAN-22")
class TwoAtLeast(Sound):
    """One at a time is no concurrency, so it is taken for two."""

    class Fanout(Engine):
        def bound(self, max_concurrency: Any) -> int:
            return max(2, super().bound(max_concurrency))


@breaks("FAN-06")
class LoopsBackwards(SoundAsync):
    """One at a time, items are popped off the end of a list; results are put right again."""

    without = frozenset({"lazy"})

    class Fanout(AsyncEngine):
        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            run = super().begin(body, listed := list(items), max_concurrency, keep_going)
            return backwards(run, listed) if run.bound == 1 else run


def backwards(run: Run, items: list[Any]) -> Run:
    """The same run, begun at its end."""
    run.items = reversed(items)
    run.numbers = iter([*reversed(range(len(items))), len(items)])
    return run


@breaks("FAN-23")
class LastInFirstOut(Sound):
    """More than one at a time, pending items are a stack."""

    without = frozenset({"lazy"})

    class Fanout(Engine):
        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            run = super().begin(body, listed := list(items), max_concurrency, keep_going)
            return backwards(run, listed) if run.bound > 1 else run


@breaks("FAN-23")
class LeapFrogs(SoundAsync):
    """The first window is in order; behind it, items are taken in pairs, the second one first."""

    without = frozenset({"lazy"})

    class Fanout(AsyncEngine):
        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            listed = list(items)
            run = super().begin(body, listed, max_concurrency, keep_going)
            if 1 < run.bound < len(listed) - 1:
                order = list(range(len(listed)))
                for first in range(run.bound, len(order) - 1, 2):
                    order[first], order[first + 1] = order[first + 1], order[first]
                run.items, run.numbers = iter([listed[i] for i in order]), iter([*order, len(order)])
            return run
