"""Wrong in what a halt stops, and in what is told then."""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from flowcheck_reference.broken.fanout._sound import NOTHING, AsyncEngine, Engine, Run, Sound, SoundAsync
from pytest_flowcheck.protocols import Failed, Halt, Outcome, Skipped, breaks


@breaks("FAN-07", "FAN-24")
class SubmitsAllUpFront(Sound):
    """Everything is in the pool's queue before the first item ends; a halt leaves it there."""

    without = frozenset({"lazy"})

    class Fanout(Engine):
        def run(
            self, body: Any, items: Iterable[Any], *, max_concurrency: Any, continue_on_error: bool = False
        ) -> list[Outcome[Any]]:
            run = self.begin(body, items, max_concurrency, continue_on_error)
            if run.bound == 1:
                return super().run(body, items, max_concurrency=1, continue_on_error=continue_on_error)
            with ThreadPoolExecutor(run.bound) as pool:
                run.group = pool
                for index, item in enumerate(run.items):
                    with suppress(RuntimeError):  # an exception has shut the pool meanwhile
                        pool.submit(copy_context().run, self.work, run, index, item)
            return self.answer(run)

        def failed(self, run: Run, index: int, error: BaseException) -> None:
            super().failed(run, index, error)
            if run.escaped and run.group is not None:
                run.group.shutdown(wait=False, cancel_futures=True)


@breaks("FAN-07", "FAN-24")
class FeedsOnAfterAHalt(SoundAsync):
    """Whether it has halted is asked when the results are put together."""

    class Fanout(AsyncEngine):
        async def feed(self, run: Run) -> None:
            for index in run.numbers:
                await run.slots.acquire()
                if (run.stopped and run.bound == 1) or (item := self.pull(run)) is NOTHING:
                    run.slots.release()
                    break
                self.start(run, index, item)


@breaks("FAN-07")
class APauseIsNoHalt(Sound):
    """What pauses ends the results, but stops nothing."""

    class Fanout(Engine):
        def failed(self, run: Run, index: int, error: BaseException) -> None:
            stopped = run.stopped
            super().failed(run, index, error)
            if isinstance(error, Halt) and error.how == "paused":
                run.stopped = stopped


@breaks("FAN-08", "FAN-15")
class PrefixWithoutTheHaltingItem(Sound):
    """Told are the items that succeeded."""

    class Fanout(Engine):
        def answer(self, run: Run) -> list[Outcome[Any]]:
            results = super().answer(run)
            return results[:-1] if results and self.ends_with(run, results[-1]) else results


@breaks("FAN-08", "FAN-09", "FAN-15")
class TellsWhateverWasDone(SoundAsync):
    """What later items of the window achieved is told behind the one that halts."""

    class Fanout(AsyncEngine):
        def ends_with(self, run: Run, outcome: Outcome[Any]) -> bool:
            return False


@breaks("FAN-08", "FAN-09", "FAN-15", "FAN-24")
class AHaltCancelsTheRest(SoundAsync):
    """Items before the one that halts are cancelled like those behind it, and missing in the prefix."""

    class Fanout(AsyncEngine):
        def failed(self, run: Run, index: int, error: BaseException) -> None:
            super().failed(run, index, error)
            if run.stopped:
                run.group.cancel_scope.cancel()


@breaks("FAN-09", "FAN-15")
class HaltedByTheFirstToCome(Sound):
    """The halt belongs to the item that halted first in time."""

    class Fanout(Engine):
        def ends_with(self, run: Run, outcome: Outcome[Any]) -> bool:
            first = next((o for o in run.outcomes.values() if super(type(self), self).ends_with(run, o)), None)
            return outcome is first


@breaks("FAN-09", "FAN-15")
class HaltedByTheFirstToComeOnTheLoop(SoundAsync):
    """Later halts are taken for items that were skipped."""

    class Fanout(AsyncEngine):
        def failed(self, run: Run, index: int, error: BaseException) -> None:
            if run.stopped and isinstance(error, Halt):
                run.outcomes[index] = Skipped()
            else:
                super().failed(run, index, error)


@breaks("FAN-10", "FAN-15")
class RecordsAndTruncates(Sound):
    """With `continue_on_error` all items run, but the results end at the first that failed."""

    class Fanout(Engine):
        def ends_with(self, run: Run, outcome: Outcome[Any]) -> bool:
            return isinstance(outcome, Failed)


@breaks("FAN-10", "FAN-15")
class LeavesFailuresOut(SoundAsync):
    """With `continue_on_error` the results are those of the items that succeeded."""

    class Fanout(AsyncEngine):
        def answer(self, run: Run) -> list[Outcome[Any]]:
            results = super().answer(run)
            return [o for o in results if not (run.keep_going and isinstance(o, Failed))]


@breaks("FAN-24")
class EarlyFailuresAreNoItems(SoundAsync):
    """An item is stepped at once; one that fails before its first await is taken for one that was never there."""

    class Fanout(AsyncEngine):
        async def call(self, run: Run, item: Any) -> Any:
            return await _eagerly(run.body.aio(item))

        def failed(self, run: Run, index: int, error: BaseException) -> None:
            if not isinstance(error, NeverBeganError):
                super().failed(run, index, error)


class NeverBeganError(Exception):
    """The item failed before it awaited anything."""


@types.coroutine
def _eagerly(coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    try:
        wanted = coroutine.send(None)
    except StopIteration as done:
        return done.value
    except Halt:
        raise NeverBeganError from None
    while True:
        thrown: BaseException | None = None
        given: Any = None
        try:
            given = yield wanted
        except BaseException as error:
            thrown = error
        try:
            wanted = coroutine.send(given) if thrown is None else coroutine.throw(thrown)
        except StopIteration as done:
            return done.value
