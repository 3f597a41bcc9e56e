"""Wrong when loops come one after the other."""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import Any

from flowcheck_reference.broken.client._sound import Entry, OnLoops, Place, Sound, SoundOnLoops, Tidied
from pytest_flowcheck.protocols import breaks


@breaks("CLI-02", "CLI-03", "CLI-04", "CLI-11")
class OneForTheProcess(Sound):
    """The module-level client."""

    class Cache(Tidied):
        def key(self, loop: Any) -> Any:
            return "the client"

        def tidy(self) -> None:
            """There is nothing to tidy."""


@breaks("CLI-02", "CLI-03", "CLI-11")
class OneForEachThread(Sound):
    """`threading.local`, as if a thread had one loop in its life."""

    class Cache(Tidied):
        def key(self, loop: Any) -> Any:
            return threading.get_ident()

        def tidy(self) -> None:
            """Threads are not asked whether they live."""


@breaks("CLI-02", "CLI-04", "CLI-11")
class ALockOfTheFirstLoop(Sound):
    """One `asyncio.Lock` for all loops: it belongs to the first one on which somebody had to wait."""

    class Cache(Tidied):
        def __init__(self, factory: Any) -> None:
            super().__init__(factory)
            self.turn = asyncio.Lock()
            self.clients: dict[Any, Any] = {}

        async def get(self) -> Any:
            entry = self.entry(self.loop())
            async with self.turn:
                if entry.making is None:
                    client = await self.make()
                    entry.making = asyncio.create_task(given(client))
                    await entry.making
                return entry.making.result()


async def given(client: Any) -> Any:
    """A client that is there already, for a task to hold."""
    return client


@breaks("CLI-03", "CLI-10")
class KnownByAddress(SoundOnLoops):
    """`id(loop)` is the key, "so that the loop is not held"; and what is at it is not forgotten."""

    backends = ("asyncio",)

    class Cache(OnLoops):
        def __init__(self, factory: Any) -> None:
            super().__init__(factory)
            self.known: dict[int, Place] = {}

        def of_asyncio(self) -> Place:
            address = id(asyncio.get_running_loop())
            if address not in self.known:
                self.known[address] = super().of_asyncio()
            return self.known[address]


@breaks("CLI-10")
class NeverTidied(Sound):
    """A dict of all loops that ever were."""

    class Cache(Tidied):
        def tidy(self) -> None:
            """Nobody thought of it."""


class _Weakly(Entry):
    """Does not hold its loop; but its client may."""

    def __init__(self, loop: Any) -> None:
        super().__init__(weakref.proxy(loop))


@breaks("CLI-10")
class WeakKeysStrongValues(Sound):
    """A `WeakKeyDictionary` of loops: clients that refer to their loop keep their own key alive."""

    class Cache(Tidied):
        def __init__(self, factory: Any) -> None:
            super().__init__(factory)
            self.entries: Any = weakref.WeakKeyDictionary[Any, Entry]()

        def tidy(self) -> None:
            """It tidies itself, as was thought."""

        def entry(self, loop: Any) -> Entry:
            with self.lock:
                entry: Entry | None = self.entries.get(loop)
                if entry is None:
                    entry = self.entries[loop] = _Weakly(loop)
                return entry

        def close(self) -> None:
            with self.lock:
                entries = list(self.entries.values())
                self.entries.clear()
            for entry in entries:
                client = self.take(entry)
                if client is not None and not entry.loop.is_closed():
                    entry.loop.call_soon_threadsafe(self.close_there, entry, client)
