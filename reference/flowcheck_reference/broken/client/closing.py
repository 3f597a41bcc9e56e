"""Wrong when something is closed."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from flowcheck_reference.broken.client._sound import Entry, OnLoops, Sound, SoundOnLoops, Tidied
from pytest_flowcheck.protocols import breaks


@breaks("CLI-06", "CLI-14", "CLI-15")
class ForgetsBehindTheClose(SoundOnLoops):
    """`await client.aclose()`, then `client = None`: meanwhile it is given to others, closed again, and kept if that raises."""

    class Cache(OnLoops):
        async def aclose(self) -> None:
            place = self.place()
            if place.client is not None:
                await place.client.aclose()
                place.client = None


@breaks("CLI-06", "CLI-11")
class ForgetsWithoutClosing(Sound):
    """The client is dropped; its connections stay until the garbage collector comes."""

    class Cache(Tidied):
        async def aclose(self) -> None:
            self.take(self.entry(self.loop()))


@breaks("CLI-04", "CLI-06", "CLI-09", "CLI-11", "CLI-14")
class ClosesAllLoopsClients(Sound):
    """One loop's `aclose` has the clients of all loops closed."""

    class Cache(Tidied):
        async def aclose(self) -> None:
            await super().aclose()
            self.close()


@breaks("CLI-07", "CLI-11")
class CloseNeedsALoop(Sound):
    """`close` is `aclose`, begun as a task of the running loop."""

    class Cache(Tidied):
        def close(self) -> None:
            asyncio.get_running_loop().create_task(self.aclose())


@breaks("CLI-07")
class CloseForgetsTheDead(Sound):
    """`close` goes through the loops that live; what it has of others it keeps."""

    class Cache(Tidied):
        def tidy(self) -> None:
            for entry in self.entries.values():
                if entry.loop.is_closed():
                    self.dead.append(entry)
            del self.dead[:-1]  # so that they don't grow
            super().tidy()

        def __init__(self, factory: Any) -> None:
            super().__init__(factory)
            self.dead: list[Entry] = []

        def close(self) -> None:
            with self.lock:
                self.tidy()
            super().close()


@breaks("CLI-14")
class ClosesWhatItsCallersWereGiven(Sound):
    """A close that comes while the client is made waits for it, and then closes what others have just been given."""

    class Cache(Tidied):
        async def aclose(self) -> None:
            entry = self.entry(self.loop())
            if entry.making is not None:
                await asyncio.wait([entry.making])
            await super().aclose()


@breaks("CLI-15")
class SwallowsWhatACloseRaises(Sound):
    """`except Exception: pass`."""

    class Cache(Tidied):
        async def aclose(self) -> None:
            with suppress(Exception):
                await super().aclose()
