"""Wrong in how many are in flight."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import anyio

from flowcheck_reference.broken.fanout._sound import NOTHING, AsyncEngine, Engine, Run, Sound, SoundAsync
from pytest_flowcheck.protocols import Outcome, breaks


@breaks("FAN-02")
class RetriesBesideTheWindow(Sound):
    """An item whose connection broke is tried again on a thread that takes no slot."""

    class Fanout(Engine):
        def work(self, run: Run, index: int, item: Any) -> None:
            try:
                value = run.body(item)
            except ConnectionError:
                retry = threading.Thread(target=super().work, args=(run, index, item), name="fan-out retry")
                with run.changed:
                    run.bound += 1  # room for the retry, and another item in its place
                    retry.start()
                    run.changed.notify_all()
            except BaseException as error:
                with run.changed:
                    self.failed(run, index, error)
                    self.leave(run, error)
            else:
                with run.changed:
                    self.ended(run, index, value)
                    self.leave(run, None)


@breaks("FAN-02", "FAN-03", "FAN-22")
class OneTooMany(SoundAsync):
    """The item that the feeder holds in its hand is begun before there is a slot."""

    class Fanout(AsyncEngine):
        def slots(self, run: Run) -> Any:
            return anyio.Semaphore(run.bound + (run.bound > 1))


@breaks("FAN-03")
class OneTooFew(Sound):
    """One slot is kept for the caller's own thread, which then only waits."""

    class Fanout(Engine):
        def bound(self, max_concurrency: Any) -> int:
            return max(1, super().bound(max_concurrency) - 1)


@breaks("FAN-03", "FAN-04")
class Sequential(Sound):
    """`max_concurrency` is accepted and ignored. (spec-kit 0.12.1)"""

    class Fanout(Engine):
        def bound(self, max_concurrency: Any) -> int:
            return 1


@breaks("FAN-03", "FAN-04")
class SequentialOnTheLoop(SoundAsync):
    """`for item in items: await body(item)`."""

    class Fanout(AsyncEngine):
        def bound(self, max_concurrency: Any) -> int:
            return 1


@breaks("FAN-04")
class WaitsForTheHead(Sound):
    """The window moves on when its oldest item has ended. (spec-kit pull request 3224, first version)"""

    class Fanout(Engine):
        def slot(self, run: Run) -> bool:
            with run.changed:
                started = len(run.outcomes) + len(run.escaped) + run.live
                run.changed.wait_for(lambda: run.stopped or self.head(run) > started - run.bound)
                return not run.stopped

        def head(self, run: Run) -> int:
            """The oldest item that has not ended."""
            index = 0
            while index in run.outcomes:
                index += 1
            return index


@breaks("FAN-03", "FAN-04")
class InBatches(SoundAsync):
    """As many as fit are gathered, then the next as many."""

    class Fanout(AsyncEngine):
        async def feed(self, run: Run) -> None:
            index, item = 0, None
            while item is not NOTHING and not run.stopped:
                async with anyio.create_task_group() as run.group:
                    for _ in range(run.bound):
                        if run.stopped or (item := self.pull(run)) is NOTHING:
                            break
                        await run.slots.acquire()
                        self.start(run, index, item)
                        index += 1


@breaks("FAN-26")
class LosesASlotPerFailure(Sound):
    """The engine's permits are given back by items that succeed."""

    class Fanout(Engine):
        def __init__(self) -> None:
            self.lost = 0

        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            run = super().begin(body, items, max_concurrency, keep_going)
            run.bound = max(1, run.bound - self.lost)
            return run

        def leave(self, run: Run, error: BaseException | None) -> None:
            super().leave(run, error)
            if error is not None and len(run.outcomes) > 3:
                self.lost += 1


@breaks("FAN-26")
class LosesASlotPerEscape(SoundAsync):
    """After a fan-out that raised, the engine is more careful for ever."""

    class Fanout(AsyncEngine):
        careful = False

        def slots(self, run: Run) -> Any:
            return anyio.Semaphore(1 if self.careful else run.bound)

        def answer(self, run: Run) -> list[Outcome[Any]]:
            self.careful = self.careful or len(run.escaped) > 0
            return super().answer(run)
