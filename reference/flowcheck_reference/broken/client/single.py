"""Wrong within one loop, or without one."""

from __future__ import annotations

import asyncio
from typing import Any

from flowcheck_reference.broken.client._sound import OnLoops, Sound, SoundOnLoops, Tidied
from pytest_flowcheck.protocols import breaks


@breaks("CLI-01")
class EachOfTheFirstMakesOne(SoundOnLoops):
    """It looks whether there is a client, has one made, and only then notes it: without a lock all who come meanwhile do so."""

    class Cache(OnLoops):
        async def get(self) -> Any:
            place = self.place()
            if place.client is None:
                place.client = await self.make()
            return place.client


@breaks("CLI-13")
class GivesAClientToNoLoop(Sound):
    """Where no loop runs, it is a loop's like any other: the client is there before its loop is."""

    without = frozenset({"slow_factory"})

    class Cache(Tidied):
        early: Any = None

        def get(self) -> Any:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                self.early = self.early or self.factory()
                return self.early
            return super().get()


@breaks("CLI-13")
class FailsByAccidentWithoutALoop(Sound):
    """It does not ask whether a loop runs, and trips over None."""

    class Cache(Tidied):
        def loop(self) -> Any:
            loop: Any = asyncio._get_running_loop()
            assert loop.is_running()
            return loop
