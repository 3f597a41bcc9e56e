"""Wrong in what an exception does, and in what still happens after the end."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import anyio

from flowcheck_reference.broken.fanout._sound import NOTHING, AsyncEngine, Engine, Run, Sound, SoundAsync
from pytest_flowcheck.protocols import Halt, Outcome, breaks


@breaks("FAN-11", "FAN-28")
class LeavesAtTheFirstError(Sound):
    """`future.result()` in a loop: the call is back with the first error while other items still run."""

    class Fanout(Engine):
        def wait(self, run: Run) -> None:
            with run.changed:
                run.changed.wait_for(lambda: run.live == 0 or any(index < 1_000_000 for index in run.escaped))


@breaks("FAN-11", "FAN-15")
class MasksTheError(Sound):
    """What is raised is the engine's own error; the item's is its cause."""

    class Fanout(Engine):
        def error(self, run: Run) -> BaseException:
            error = RuntimeError("the fan-out failed")
            error.__cause__ = super().error(run)
            return error


@breaks("FAN-11")
class LosesWhatIsNoException(Sound):
    """`except Exception` in the worker: a BaseException ends the thread, and the fan-out waits for ever."""

    class Fanout(Engine):
        def work(self, run: Run, index: int, item: Any) -> None:
            try:
                value = run.body(item)
            except Exception as error:
                with run.changed:
                    self.failed(run, index, error)
                    self.leave(run, error)
            else:
                with run.changed:
                    self.ended(run, index, value)
                    self.leave(run, None)


@breaks("FAN-11")
class GroupsUndeclared(SoundAsync):
    """Errors come in a group, which nobody was told."""

    class Fanout(AsyncEngine):
        def error(self, run: Run) -> BaseException:
            return BaseExceptionGroup("the fan-out failed", list(run.escaped.values()))


@breaks("FAN-11")
class RaisesItselfUndeclared(Sound):
    """Declared are groups, raised is the error."""

    declares = {"fanout": {"escape": "group"}}  # noqa: RUF012


@breaks("FAN-11")
class RunsTheRestFirst(SoundAsync):
    """An error is raised once every item has had its turn."""

    class Fanout(AsyncEngine):
        def failed(self, run: Run, index: int, error: BaseException) -> None:
            super().failed(run, index, error)
            if not isinstance(error, Halt) and run.bound > 1:
                run.stopped = False

        async def work(self, run: Run, index: int, item: Any) -> None:
            if run.bound == 1:
                await super().work(run, index, item)
                return
            try:
                self.ended(run, index, await self.call(run, item))
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:
                self.failed(run, index, error)
            finally:
                self.leave(run)


@breaks("FAN-18")
class TakesAnErrorForTheEnd(Sound):
    """An iterator that raises has no more items."""

    class Fanout(Engine):
        def pull(self, run: Run) -> Any:
            try:
                return next(run.items, NOTHING)
            except Exception:
                return NOTHING


@breaks("FAN-18")
class LosesTheIteratorsError(SoundAsync):
    """An iterator that raises is reported as if an engine had failed."""

    class Fanout(AsyncEngine):
        def pull(self, run: Run) -> Any:
            item = super().pull(run)
            if item is NOTHING and run.escaped:
                run.escaped = dict.fromkeys(run.escaped, RuntimeError("no more items"))
            return item


@breaks("FAN-19")
class RunsALongRestInTheBackground(Sound):
    """An error is raised, and if much is left undone, it is done by a thread that nobody knows of."""

    class Fanout(Engine):
        def answer(self, run: Run) -> list[Outcome[Any]]:
            if run.escaped and run.bound > 1 and len(left := list(run.items)) > 5:
                caller = threading.current_thread()

                def go_on() -> None:
                    caller.join()
                    for item in left:
                        run.body(item)

                threading.Thread(target=go_on, name="the rest").start()
            return super().answer(run)


@breaks("FAN-19", "FAN-27")
class FeedsOnBehindACancelledCaller(SoundAsync):
    """Feeder and items are tasks of their own, which the cancelled caller leaves behind."""

    backends = ("asyncio",)

    class Fanout(AsyncEngine):
        async def run(self, *args: Any, **options: Any) -> list[Outcome[Any]]:
            return await asyncio.shield(asyncio.ensure_future(super().run(*args, **options)))


@breaks("FAN-28")
class KeepsTheFirstError(Sound):
    """`if self.error is None: self.error = error`."""

    class Fanout(Engine):
        def error(self, run: Run) -> BaseException:
            return next(iter(run.escaped.values()))


@breaks("FAN-28")
class KeepsTheFirstErrorOnTheLoop(SoundAsync):
    """Errors of items that are being cancelled are thrown away."""

    class Fanout(AsyncEngine):
        def failed(self, run: Run, index: int, error: BaseException) -> None:
            if not run.escaped:
                super().failed(run, index, error)
