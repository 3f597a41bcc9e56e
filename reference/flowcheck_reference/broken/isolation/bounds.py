"""Wrong about how many."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, ClassVar

from flowcheck_reference.broken.isolation._sound import (
    AsyncEngine,
    Engine,
    Job,
    Plain,
    PlainAsync,
    Refusing,
    SoundAsync,
)
from pytest_flowcheck.protocols import breaks


@breaks("ISO-02")
class CheckThenAct(SoundAsync):
    """Whether a slot is free is looked at; then the hook is awaited; then the slot is taken."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": frozenset({"admission"})}

    class Service(AsyncEngine):
        async def run(self, body: Any, *, session: str, then: Sequence[Any] = ()) -> object:
            if self.running < self.bound:
                await self.ask(session)
                self.running += 1
            else:
                await self.acquire(session)
                try:
                    await self.ask(session)
                except BaseException:
                    self.release()
                    raise
            return await self.carry(self.loop.run_in_executor(None, self.live, body, then))


@breaks("ISO-02")
class KeepsOneBack(Plain):
    """One slot is kept for emergencies."""

    class Service(Engine):
        def check(self, bound: Any) -> int:
            return max(1, super().check(bound) - 1)


@breaks("ISO-03")
class SilentlyQueued(Refusing):
    """It says that it refuses, and lets wait: OpenHands 1.22.1."""

    class Service(Engine):
        def full(self, job: Job) -> None:
            self.waiting.append(job)


@breaks("ISO-03")
class Uncounted(Plain):
    """The queue is the pool's own, and nobody counts it."""

    class Service(Engine):
        def queued(self) -> int:
            return 0


@breaks("ISO-03")
class LastComeFirst(Plain):
    """The queue is a stack."""

    class Service(Engine):
        def next_one(self) -> Job | None:
            return self.waiting.pop() if self.waiting else None


@breaks("ISO-03")
class TheSlotOfTheCaller(PlainAsync):
    """`async with semaphore` around the wait for a thread: who is cancelled gives the slot back, and the thread works on."""

    class Service(AsyncEngine):
        async def carry(self, running: asyncio.Future[Any]) -> object:
            try:
                return await running
            finally:
                self.release()


@breaks("ISO-11")
class AnyBound(Plain):
    """The bound is whatever was given; less than one means one, a word means many."""

    class Service(Engine):
        def check(self, bound: Any) -> int:
            return max(1, bound) if isinstance(bound, int) else 10


@breaks("ISO-12")
class StartedBeside(Plain):
    """Whoever doesn't wait for his run gets a thread at once."""

    class Service(Engine):
        def start(self, body: Any, *, session: str) -> None:
            with self.lock:
                self.running += 1
            self.begin(Job(body, session, awaited=False))


@breaks("ISO-12")
class NobodyHears(Plain):
    """The error is in a future that nobody has."""

    class Service(Engine):
        def tell(self, job: Job, error: BaseException) -> None:
            """Who would want to know?"""
