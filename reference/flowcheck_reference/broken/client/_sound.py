"""What the broken caches start from: two that keep every rule, with one method for each thing to spoil.

`Tidied` has a dict of loops, which it tidies, and makes a client in a task that all callers wait for; on asyncio. `OnLoops`
puts what it knows on the loop itself, and the callers queue at a lock; on asyncio and trio. Neither knows the other, nor the
reference engine.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import anyio

ALL = frozenset({"close", "slow_factory"})


class Entry:
    """What is known of one loop."""

    def __init__(self, loop: Any) -> None:
        self.loop = loop
        self.making: asyncio.Task[Any] | None = None
        """It gives the client; done, it holds it."""
        self.closing: set[asyncio.Task[Any]] = set()


class Tidied:
    """A dict of loops under a lock that is never held across an await."""

    def __init__(self, factory: Any) -> None:
        self.factory = factory
        self.entries: dict[Any, Any] = {}
        self.lock = threading.Lock()

    # --- loops ---

    def loop(self) -> Any:
        """The running one; RuntimeError if there is none."""
        return asyncio.get_running_loop()

    def key(self, loop: Any) -> Any:
        """By what a loop is known."""
        return loop

    def tidy(self) -> None:
        """Forget loops that are closed. `self.lock` is held."""
        for key in [key for key, entry in self.entries.items() if entry.loop.is_closed()]:
            del self.entries[key]

    def entry(self, loop: Any) -> Entry:
        """What is known of this loop."""
        with self.lock:
            self.tidy()
            entry: Entry | None = self.entries.get(self.key(loop))
            if entry is None:
                entry = self.entries[self.key(loop)] = Entry(loop)
            return entry

    # --- clients ---

    async def make(self) -> Any:
        """Have one made."""
        return await self.factory.aio()

    async def get(self) -> Any:
        entry = self.entry(self.loop())
        if entry.making is None:
            entry.making = asyncio.create_task(self.make())
            entry.making.add_done_callback(lambda task: self.made(entry, task))
        return await self.wait(entry.making)

    async def wait(self, making: asyncio.Task[Any]) -> Any:
        """Whoever is cancelled here takes nobody along."""
        return await asyncio.shield(making)

    def made(self, entry: Entry, making: asyncio.Task[Any]) -> None:
        """A creation is over; one that failed is forgotten."""
        if making.cancelled() or making.exception() is not None:
            entry.making = None

    def take(self, entry: Entry) -> Any:
        """The client, out of the cache; None if there is none, or it is still being made."""
        making = entry.making
        if making is None or not making.done():
            return None
        entry.making = None
        return None if making.cancelled() or making.exception() is not None else making.result()

    async def aclose(self) -> None:
        client = self.take(self.entry(self.loop()))
        if client is not None:
            await client.aclose()

    def close(self) -> None:
        with self.lock:
            entries, self.entries = list(self.entries.values()), {}
        for entry in entries:
            client = self.take(entry)
            if client is not None:
                with suppress(RuntimeError):  # that loop is closed
                    entry.loop.call_soon_threadsafe(self.close_there, entry, client)

    def close_there(self, entry: Entry, client: Any) -> None:
        """On the client's loop."""
        task = entry.loop.create_task(client.aclose())
        entry.closing.add(task)
        task.add_done_callback(entry.closing.discard)


class Place:
    """What is kept on one loop."""

    def __init__(self, soon: Any) -> None:
        self.lock = anyio.Lock()
        self.client: Any = None
        self.soon = soon
        """Calls an async function there, from any thread."""
        self.closing: set[Any] = set()


class OnLoops:
    """Everything is on the loop: in an attribute of an asyncio loop, in a `RunVar` of a trio run."""

    def __init__(self, factory: Any) -> None:
        self.factory = factory
        self.places: weakref.WeakSet[Any] = weakref.WeakSet()
        self.adding = threading.Lock()
        self.key = object()

    def place(self) -> Place:
        """What is kept on this loop."""
        trio = sys.modules.get("trio")
        found = self.of_trio(trio) if trio is not None and trio.lowlevel.in_trio_run() else self.of_asyncio()
        with self.adding:
            self.places.add(found)
        return found

    def of_asyncio(self) -> Place:
        loop = asyncio.get_running_loop()
        places: dict[Any, Place] = loop.__dict__.setdefault("places_of_clients", {})
        if self.key not in places:
            reference = weakref.ref(loop)

            def begin(function: Any) -> None:
                task = loop_of(reference).create_task(function())
                place.closing.add(task)
                task.add_done_callback(place.closing.discard)

            def soon(function: Any) -> None:
                loop_of(reference).call_soon_threadsafe(begin, function)

            place = places[self.key] = Place(soon)
        return places[self.key]

    def of_trio(self, trio: Any) -> Place:
        variable = vars(self).setdefault("variable", trio.lowlevel.RunVar("client"))
        place: Place | None = variable.get(None)
        if place is None:
            token, spawn = trio.lowlevel.current_trio_token(), trio.lowlevel.spawn_system_task

            def soon(function: Any) -> None:
                token.run_sync_soon(spawn, function)

            place = Place(soon)
            variable.set(place)
        return place

    async def make(self) -> Any:
        """Have one made."""
        return await self.factory.aio()

    async def get(self) -> Any:
        place = self.place()
        async with place.lock:
            if place.client is None:
                place.client = await self.make()
            return place.client

    async def aclose(self) -> None:
        place = self.place()
        client, place.client = place.client, None
        if client is not None:
            await client.aclose()

    def close(self) -> None:
        with self.adding:
            places = list(self.places)
        for place in places:
            client, place.client = place.client, None
            if client is not None:
                with suppress(RuntimeError):  # its loop is over
                    place.soon(client.aclose)


def loop_of(reference: Any) -> Any:
    """The loop, or the error of a loop that is gone."""
    loop = reference()
    if loop is None:
        raise RuntimeError("this loop is gone")
    return loop


class Sound:
    """A subject whose cache is `Tidied`."""

    Cache: ClassVar[type[Any]] = Tidied
    without: ClassVar[AbstractSet[str]] = frozenset()
    """Capabilities that this bug would break as well, and that are therefore not claimed."""
    version: ClassVar[str] = "broken on purpose"
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    errors: ClassVar[Mapping[Any, Any]] = {}
    backends: ClassVar[tuple[str, ...]] = ("asyncio",)

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        return {"client": ALL - self.without}

    @contextmanager
    def client(self, factory: Any) -> Generator[Any]:
        yield self.Cache(factory)


class SoundOnLoops(Sound):
    """A subject whose cache is `OnLoops`."""

    Cache: ClassVar[type[Any]] = OnLoops
    backends: ClassVar[tuple[str, ...]] = ("asyncio", "trio")
