"""Wrong in what items see, and in the names they are recorded under."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextvars import Context, copy_context
from dataclasses import replace
from typing import Any

from flowcheck_reference.broken.fanout._sound import AsyncEngine, Engine, Run, Sound, SoundAsync
from pytest_flowcheck.protocols import Outcome, breaks


@breaks("FAN-12")
class CapturesTheVariable(SoundAsync):
    """`lambda: body(item)` in a loop: each of them reads the loop's last item."""

    without = frozenset({"lazy"})

    class Fanout(AsyncEngine):
        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            calls: list[Any] = []
            for item in items:
                calls.append(lambda: body.aio(item))  # noqa: B023, PERF401 - the bug
            run = super().begin(body, calls, max_concurrency, keep_going)
            if run.bound == 1:
                run.items = iter([lambda item=item: body.aio(item) for item in items])
            return run

        async def call(self, run: Run, item: Any) -> Any:
            return await item()


@breaks("FAN-12")
class ResultsOfTheInstance(Sound):
    """`self.results`: two fan-outs at once write into one another's."""

    without = frozenset({"nested"})

    class Fanout(Engine):
        def __init__(self) -> None:
            self.results: dict[int, Outcome[Any]] = {}

        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            run = super().begin(body, items, max_concurrency, keep_going)
            self.results.clear()
            run.outcomes = self.results
            return run

        def answer(self, run: Run) -> list[Outcome[Any]]:
            run.outcomes = dict(run.outcomes)
            return super().answer(run)


@breaks("FAN-12")
class SlotsKeepTheirContext(Sound):
    """An item runs in the context that the last one in its slot has left."""

    class Fanout(Engine):
        def start(self, run: Run, index: int, item: Any) -> None:
            run.slots = run.slots or []
            with run.changed:
                if run.stopped:
                    return
                run.live += 1
                context = run.slots.pop() if run.slots else copy_context()

            def work() -> None:
                context.run(self.work, run, index, item)

            threading.Thread(target=work, name="fan-out item").start()

        def leave(self, run: Run, error: BaseException | None) -> None:
            run.slots.append(copy_context())
            super().leave(run, error)


@breaks("FAN-14")
class OneWindowForAll(Sound):
    """The bound counts all items of the instance, those within items too."""

    class Fanout(Engine):
        def __init__(self) -> None:
            self.changed, self.live = threading.Condition(), 0

        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            run = super().begin(body, items, max_concurrency, keep_going)
            run.changed = self.changed
            return run

        def slot(self, run: Run) -> bool:
            with run.changed:
                run.changed.wait_for(lambda: run.stopped or self.live < run.bound)
                return not run.stopped

        def start(self, run: Run, index: int, item: Any) -> None:
            with run.changed:
                self.live += not run.stopped
            super().start(run, index, item)

        def leave(self, run: Run, error: BaseException | None) -> None:
            self.live -= 1
            super().leave(run, error)


@breaks("FAN-20")
class EmptyContexts(Sound):
    """A new thread begins with an empty context."""

    class Fanout(Engine):
        def work(self, run: Run, index: int, item: Any) -> None:
            Context().run(super().work, run, index, item)


@breaks("FAN-20")
class ContextOfWhoeverCameFirst(SoundAsync):
    """Items run in the context of the instance's first call."""

    class Fanout(AsyncEngine):
        context: Context | None = None

        def start(self, run: Run, index: int, item: Any) -> None:
            self.context = self.context or copy_context()
            self.context.copy().run(super().start, run, index, item)


@breaks("FAN-25")
class NumberedAsTheyEnd(Sound):
    """Ids come from a counter that items draw from when they end."""

    class Fanout(Engine):
        def ended(self, run: Run, index: int, value: Any) -> None:
            number = len(run.outcomes)
            super().ended(run, index, value)
            run.outcomes[index] = replace(run.outcomes[index], id=f"result {number}")


@breaks("FAN-25")
class NamedAfterTheirSlot(SoundAsync):
    """Ids are those of the slots that items ran in."""

    class Fanout(AsyncEngine):
        def ended(self, run: Run, index: int, value: Any) -> None:
            super().ended(run, index, value)
            run.outcomes[index] = replace(run.outcomes[index], id=f"slot {index % run.bound}")
