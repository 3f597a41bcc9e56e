"""Wrong in what is made of odd bounds and of items."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, cast

import anyio

from flowcheck_reference.broken.fanout._sound import AsyncEngine, Engine, Run, Sound, SoundAsync
from pytest_flowcheck.protocols import Outcome, breaks


@breaks("FAN-05")
class InfinityOverflows(Sound):
    """`int(max_concurrency)`, guarded against TypeError and ValueError. (spec-kit 0.12.4)"""

    class Fanout(Engine):
        def bound(self, max_concurrency: Any) -> int:
            try:
                return max(1, int(max_concurrency))
            except (TypeError, ValueError):
                return 1


@breaks("FAN-05")
class AThreadForEachSlot(Sound):
    """Workers are made before anybody looks how many items there are."""

    class Fanout(Engine):
        def run(
            self, body: Any, items: Iterable[Any], *, max_concurrency: Any, continue_on_error: bool = False
        ) -> list[Outcome[Any]]:
            over = threading.Event()
            workers = [threading.Thread(target=over.wait, name="idle") for _ in range(self.bound(max_concurrency))]
            for worker in workers:
                worker.start()
            try:
                return super().run(body, items, max_concurrency=max_concurrency, continue_on_error=continue_on_error)
            finally:
                over.set()
                for worker in workers:
                    worker.join()


@breaks("FAN-05")
class NoSlotAtAll(SoundAsync):
    """A semaphore of whatever was asked for: 0 is a fan-out that waits for ever."""

    without = frozenset({"coerce"})

    class Fanout(AsyncEngine):
        def slots(self, run: Run) -> Any:
            return anyio.Semaphore(run.bound)

        def bound(self, max_concurrency: Any) -> int:
            return 0 if max_concurrency == 0 else super().bound(max_concurrency)


@breaks("FAN-05")
class RefusesHalfWay(Sound):
    """Whether the bound makes sense is found out behind the first item."""

    without = frozenset({"coerce"})

    class Fanout(Engine):
        def run(
            self, body: Any, items: Iterable[Any], *, max_concurrency: Any, continue_on_error: bool = False
        ) -> list[Outcome[Any]]:
            results = super().run(body, items, max_concurrency=max_concurrency, continue_on_error=continue_on_error)
            if max_concurrency == -1:
                raise ValueError("max_concurrency must be positive")
            return results


@breaks("FAN-13")
class WaitsForAFirstItem(Sound):
    """It is over when something has come in and nothing runs."""

    class Fanout(Engine):
        def wait(self, run: Run) -> None:
            with run.changed:
                run.changed.wait_for(lambda: run.live == 0 and (run.outcomes or run.escaped))


@breaks("FAN-13")
class NothingIsNone(SoundAsync):
    """No results are None."""

    class Fanout(AsyncEngine):
        def answer(self, run: Run) -> Any:
            return super().answer(run) or None


@breaks("FAN-16")
class ReadsAllItemsFirst(Sound):
    """`list(items)`."""

    class Fanout(Engine):
        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            return super().begin(body, list(items), max_concurrency, keep_going)


@breaks("FAN-16")
class ReadsFarAhead(SoundAsync):
    """A page of a hundred items is read at a time."""

    class Fanout(AsyncEngine):
        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            def pages() -> Any:
                source = iter(items)
                while page := [item for _, item in zip(range(100), source, strict=False)]:
                    yield from page

            return super().begin(body, pages(), max_concurrency, keep_going)


@breaks("FAN-21")
class EqualPartsAreOne(Sound):
    """Equal lists within items are made one, to save memory."""

    class Fanout(Engine):
        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            known: dict[str, Any] = {}

            def shared(item: Any) -> Any:
                if type(item) is dict and "marks" in item:
                    mine = cast("dict[str, Any]", item)
                    mine["marks"] = known.setdefault(repr(mine["marks"]), mine["marks"])
                return cast("Any", item)

            return super().begin(body, map(shared, items), max_concurrency, keep_going)


@breaks("FAN-21")
class OneTemplateForAll(SoundAsync):
    """What the first item left in its input is what the next ones get."""

    class Fanout(AsyncEngine):
        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            template: dict[str, Any] = {}

            def filled(item: Any) -> Any:
                if type(item) is not dict or "marks" not in item:
                    return cast("Any", item)
                mine = cast("dict[str, Any]", item)
                template.setdefault("marks", mine["marks"])
                return {**mine, **template}

            return super().begin(body, map(filled, items), max_concurrency, keep_going)


@breaks("FAN-22")
class TextIsNoNumber(Sound):
    """`isinstance(max_concurrency, int)`, else one at a time."""

    class Fanout(Engine):
        def bound(self, max_concurrency: Any) -> int:
            return super().bound(max_concurrency) if isinstance(max_concurrency, int) else 1


@breaks("FAN-22")
class NothingMeansMany(SoundAsync):
    """`max_concurrency or 8`."""

    class Fanout(AsyncEngine):
        def bound(self, max_concurrency: Any) -> int:
            return super().bound(max_concurrency or 8)
