"""Wrong under cancellation."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio

from flowcheck_reference.broken.fanout._sound import AsyncEngine, Run, SoundAsync
from pytest_flowcheck.protocols import Outcome, breaks


@breaks("FAN-27")
class ItemsOfNobody(SoundAsync):
    """Items are tasks that were created and never tied to the caller: cancelling it doesn't reach them."""

    backends = ("asyncio",)

    class Fanout(AsyncEngine):
        def start(self, run: Run, index: int, item: Any) -> None:
            task = asyncio.ensure_future(self.work(run, index, item))
            run.group.start_soon(self.look_after, task)

        async def look_after(self, task: asyncio.Task[None]) -> None:
            """Wait for the task, but don't take it along."""
            await asyncio.wait([task])

        async def work(self, run: Run, index: int, item: Any) -> None:
            try:
                self.ended(run, index, await self.call(run, item))
            except BaseException as error:
                self.failed(run, index, error)
            finally:
                self.leave(run)


@breaks("FAN-26", "FAN-27")
class CancelledItemsKeepTheirSlot(SoundAsync):
    """The engine's permits are given back by items that end, not by those that are cancelled."""

    class Fanout(AsyncEngine):
        lost = 0

        def slots(self, run: Run) -> Any:
            return anyio.Semaphore(max(1, run.bound - self.lost))

        async def run(self, *args: Any, **options: Any) -> list[Outcome[Any]]:
            try:
                return await super().run(*args, **options)
            except anyio.get_cancelled_exc_class():
                self.lost += 1
                raise
