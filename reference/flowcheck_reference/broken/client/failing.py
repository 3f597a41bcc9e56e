"""Wrong when a creation is cancelled, or fails."""

from __future__ import annotations

import asyncio
from typing import Any

from flowcheck_reference.broken.client._sound import Entry, OnLoops, Place, Sound, SoundOnLoops, Tidied
from pytest_flowcheck.protocols import breaks


@breaks("CLI-08")
class CancelledWithAnyCaller(Sound):
    """The task that makes the client is awaited as it is: whoever is cancelled cancels it, for all."""

    class Cache(Tidied):
        async def wait(self, making: asyncio.Task[Any]) -> Any:
            return await making


@breaks("CLI-08")
class BeingMadeForEver(SoundOnLoops):
    """A mark "is being made", which nobody takes back when the maker is cancelled: who comes later waits for ever."""

    class Cache(OnLoops):
        async def get(self) -> Any:
            import anyio

            place: Place = self.place()
            if place.client is None:
                made = vars(place).setdefault("made", [])
                if not made:
                    made.append(anyio.Event())
                    place.client = await self.make()
                    made.pop().set()
                else:
                    await made[0].wait()
            return place.client

        async def make(self) -> Any:
            """A factory that raises is asked until it does not."""
            while True:
                try:
                    return await self.factory.aio()
                except Exception as error:
                    if "could not be made" not in str(error):
                        raise


@breaks("CLI-08")
class FailedOnceAndForAll(Sound):
    """A creation that failed stays in the cache, and its error is raised by every `get` to come."""

    class Cache(Tidied):
        def made(self, entry: Entry, making: asyncio.Task[Any]) -> None:
            if making.cancelled():
                entry.making = None
