"""Wrong when loops live at once, in several threads."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from flowcheck_reference.broken.client._sound import Entry, OnLoops, Sound, SoundOnLoops, Tidied
from pytest_flowcheck.protocols import breaks


@breaks("CLI-02", "CLI-04", "CLI-05")
class AwaitsUnderAThreadLock(SoundOnLoops):
    """A `threading.Lock`, "because there are threads": who waits for it blocks the loop that its holder waits for."""

    class Cache(OnLoops):
        def __init__(self, factory: Any) -> None:
            super().__init__(factory)
            self.making = threading.Lock()

        async def get(self) -> Any:
            place = self.place()
            with self.making:
                if place.client is None:
                    place.client = await self.make()
                return place.client


@breaks("CLI-05")
class ClosesUnderAThreadLock(SoundOnLoops):
    """Only the close is awaited under a thread's lock, which `get` takes for a moment."""

    class Cache(OnLoops):
        def __init__(self, factory: Any) -> None:
            super().__init__(factory)
            self.changing = threading.Lock()

        async def get(self) -> Any:
            with self.changing:
                self.place()
            return await super().get()

        async def aclose(self) -> None:
            with self.changing:
                await super().aclose()


@breaks("CLI-04", "CLI-09", "CLI-11")
class OneLoopAtATime(Sound):
    """When a loop comes, what others hold is closed: "they are of no use any more"."""

    class Cache(Tidied):
        def entry(self, loop: Any) -> Entry:
            known = self.key(loop) in self.entries
            entry = super().entry(loop)
            if not known:
                with self.lock:
                    others = [other for other in self.entries.values() if other is not entry]
                    self.entries = {self.key(loop): entry}
                for other in others:
                    client = self.take(other)
                    if client is not None:
                        with suppress(RuntimeError):
                            other.loop.call_soon_threadsafe(self.close_there, other, client)
            return entry


@breaks("CLI-04")
class TidiesWithoutALock(Sound):
    """It goes through the dict of loops while another thread puts one in; only a thread that is held there sees it."""

    class Cache(Tidied):
        def entry(self, loop: Any) -> Entry:
            for key in self.entries:
                if self.entries[key].loop.is_closed():
                    del self.entries[key]
                    break
            entry: Entry = self.entries.setdefault(self.key(loop), Entry(loop))
            return entry
