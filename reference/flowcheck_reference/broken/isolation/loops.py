"""Wrong about the loop, and about what is stuck."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from flowcheck_reference.broken.isolation._sound import AsyncEngine, Engine, Job, Plain, PlainAsync
from pytest_flowcheck.protocols import breaks


@breaks("ISO-09")
class CancelledCallersWait(PlainAsync):
    """A caller that is cancelled makes sure that his run has ended: on the loop."""

    class Service(AsyncEngine):
        async def run(self, body: Any, *, session: str, then: Sequence[Any] = ()) -> object:
            await self.acquire(session)
            working: Future[Any] = self.pool.submit(self.live, body, then)
            try:
                return await self.carry(asyncio.wrap_future(working))
            except asyncio.CancelledError:
                if asyncio.current_task() not in self.started:
                    working.result()
                raise


@breaks("ISO-09", "ISO-14")
class InterruptsUnderTheLock(PlainAsync):
    """Who interrupts a run takes the lock that it works under: a thread's lock, on the loop."""

    class Service(AsyncEngine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.working: dict[str, Future[Any]] = {}

        async def run(self, body: Any, *, session: str, then: Sequence[Any] = ()) -> object:
            await self.acquire(session)
            working = self.working[session] = self.pool.submit(self.live, body, then)
            return await self.carry(asyncio.wrap_future(working))

        async def cancel(self, *, session: str) -> None:
            if session in self.working:
                self.working[session].exception()
            await super().cancel(session=session)


@breaks("ISO-14")
class CancelWaitsForTheEnd(Plain):
    """Cancel comes back when there is nothing left to cancel."""

    class Service(Engine):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.jobs: dict[str, Job] = {}

        def begin(self, job: Job) -> None:
            self.jobs[job.session] = job
            super().begin(job)

        def cancel(self, *, session: str) -> None:
            super().cancel(session=session)
            if session in self.jobs:
                self.jobs[session].over.exception()
