"""One async client per event loop: made at first use, shared by the tasks of that loop, gone with it.

What belongs to a loop lives on that loop: among the attributes of an asyncio loop, among the run-local variables of a trio
run. Not in a dictionary of loops, weak or not: clients refer to their loop, through a connection if not by themselves, and
would keep their own key alive (CLI-10). There loop and client refer to each other only, and go together.

Guarantees:
- A `_Home` is used by the tasks of its loop, on that loop's thread; but for `held`, a list of one client or none, from which
  any thread may take it. `list.pop` is one step: who gets the client is the one who closes it (CLI-06, 07).
- A client leaves its home before its close begins: no `get` gives one that is being closed (CLI-14, 15).
- There is no lock. So none is held across an await, and no loop ever waits for another one's thread (CLI-05).
"""
from __future__ import annotations

import asyncio
import logging
import sys
import weakref
from asyncio import current_task, get_running_loop
from collections.abc import Awaitable, Callable
from contextlib import suppress
from inspect import isawaitable
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast, overload

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    import anyio

C = TypeVar("C")

log: Final = logging.getLogger("flowcheck_reference")

_numbers = count(1)
_modules = sys.modules


class Clients(Generic[C]):
    """One client for each event loop that asks, on asyncio, uvloop and trio; loops may live at once, in many threads.

        clients = Clients(httpx.AsyncClient)

        async def fetch(url):
            client = await clients.get()
            return await client.get(url)

    A loop that ends takes its client along, unclosed, as it takes its sockets. Call `aclose` before that, or enter the
    cache by `async with`, which does so on leaving.
    """

    @overload
    def __init__(
        self, factory: Callable[[], Awaitable[C]], *, close: Callable[[C], Awaitable[object] | object] | None = None
    ) -> None: ...
    @overload
    def __init__(
        self, factory: Callable[[], C], *, close: Callable[[C], Awaitable[object] | object] | None = None
    ) -> None: ...
    def __init__(self, factory: Callable[[], Any], *, close: Callable[[C], Any] | None = None) -> None:
        """`factory` makes a client on the loop that asks: at once, or as an async function. `close` closes one; by default
        its `aclose()`. For aiohttp: `Clients(aiohttp.ClientSession, close=aiohttp.ClientSession.close)`.
        """
        self._factory = factory
        self._close: Callable[[C], Any] = close or _aclose
        self._key = f"_flowcheck_client_{next(_numbers)}"
        self._homes: dict[int, weakref.ref[_Home[C]]] = {}
        # a cache that is dropped leaves nothing behind on loops that live on
        weakref.finalize(self, _leave, self._homes, self._key).atexit = False

    async def get(self) -> C:
        """This loop's client. The first call has it made, and others wait for it meanwhile.

        If the first caller is cancelled, one of the others has a client made in its place. If the factory raises, whoever
        waited raises the same error, and the next call asks the factory again.

        Raises: RuntimeError where no loop runs; what the factory raises.
        """
        rooms = _rooms()
        try:
            client: C = rooms[self._key].held[0]
        except (KeyError, IndexError):
            return await self._home(rooms).get(self._factory)
        return client

    async def aclose(self) -> None:
        """Close this loop's client, if it has one; a later `get` has a new one made. Any number of times, also at once.

        Returns once the client is closed, whoever began it. One that is being made is left to those who wait for it.

        Raises: RuntimeError where no loop runs; what closing the client raises, which is dropped all the same.
        """
        home: _Home[C] | None = _rooms().get(self._key)
        if home is not None:
            await home.aclose(self._close)

    def close(self) -> None:
        """Let go of all clients, from any thread, with or without a loop, any number of times.

        Loops that run close theirs soon, in a task of their own that logs its error; the clients of others are dropped.
        """
        for reference in list(self._homes.values()):
            home = reference()
            if home is not None:
                home.let_go(self._close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    def _home(self, rooms: dict[str, Any]) -> _Home[C]:
        """Where this loop keeps its client; there is one from now on."""
        home: _Home[C] | None = rooms.get(self._key)
        if home is None:
            trio = _trio()
            home = _AsyncioHome(rooms) if trio is None else _TrioHome(rooms, trio)
            number, homes = next(_numbers), self._homes
            homes[number] = weakref.ref(home, lambda _: homes.pop(number, None))
            rooms[self._key] = home
        return home


def _aclose(client: Any) -> Awaitable[object]:
    return cast("Awaitable[object]", client.aclose())


def _leave(homes: dict[int, weakref.ref[_Home[Any]]], key: str) -> None:
    """Nobody refers to the cache any more; nor shall loops to its clients."""
    for reference in list(homes.values()):
        home = reference()
        if home is not None:
            home.held.clear()
            home.rooms.pop(key, None)


# --- whose loop it is --------------------------------------------------------------------------------------------------


_of_run: Any = None
"""trio's run-local variable for what `_rooms` gives; made when trio is met."""


def _rooms() -> dict[str, Any]:
    """What is kept on the running loop, by name.

    Raises: RuntimeError where none runs.
    """
    if "trio" in _modules:
        trio = _trio()
        if trio is not None:
            return _rooms_of_run(trio)
    return get_running_loop().__dict__


def _trio() -> Any:
    """trio, if the caller is one of its tasks; None otherwise.

    In guest mode trio's tasks run in callbacks of another loop: so a running asyncio loop says little, its task does.
    """
    trio = _modules.get("trio")
    if trio is None:
        return None
    try:
        if current_task() is not None:
            return None
    except RuntimeError:
        pass  # no asyncio loop runs
    return trio if trio.lowlevel.in_trio_task() else None


def _rooms_of_run(trio: Any) -> dict[str, Any]:
    global _of_run  # noqa: PLW0603
    if _of_run is None:
        _of_run = trio.lowlevel.RunVar("flowcheck_reference.client")
    try:
        rooms: dict[str, Any] = _of_run.get()
    except LookupError:
        rooms = {}
        _of_run.set(rooms)
    return rooms


# --- what a loop keeps -------------------------------------------------------------------------------------------------


class _Making:
    """One call of the factory, for which others may wait."""

    __slots__ = ("error", "over")

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.over: anyio.Event | None = None
        """Made by who waits."""


class _Home(Generic[C]):
    """Where a loop keeps its client of one cache."""

    __slots__ = ("__weakref__", "closes", "held", "making", "rooms")

    def __init__(self, rooms: dict[str, Any]) -> None:
        self.rooms = rooms
        self.held: list[C] = []
        self.making: _Making | None = None
        self.closes: list[anyio.Event] = []
        """Of the closes under way."""

    async def get(self, factory: Callable[[], Any]) -> C:
        while True:
            try:
                return self.held[0]
            except IndexError:
                making = self.making
            if making is None:
                return await self._make(factory)
            if making.over is None:
                making.over = _event()
            await making.over.wait()
            if making.error is not None:
                raise making.error
            # else it was made, or its caller was cancelled, and the first to come here takes its place

    async def _make(self, factory: Callable[[], Any]) -> C:
        making = self.making = _Making()
        try:
            made = factory()
            client: C = await made if isawaitable(made) else made
        except Exception as error:
            making.error = error
            raise
        else:
            self.held.append(client)
            return client
        finally:
            self.making = None
            if making.over is not None:
                making.over.set()

    async def aclose(self, close: Callable[[C], Any]) -> None:
        try:
            client = self.held.pop()
        except IndexError:
            for over in list(self.closes):
                await over.wait()
            return
        over = _event()
        self.closes.append(over)
        try:
            await _closed(close, client)
        finally:
            self.closes.remove(over)
            over.set()

    def let_go(self, close: Callable[[C], Any]) -> None:
        """Take the client out, on any thread, and have it closed on its loop if that still runs."""
        with suppress(IndexError):
            client = self.held.pop()
            with suppress(RuntimeError):  # the loop is closed, the run finished: there is nowhere to close it
                self._soon(_closed_or_logged(close, client))

    def _soon(self, closing: Callable[[], Any]) -> None:
        """Await this on the loop."""
        raise NotImplementedError


class _AsyncioHome(_Home[C]):
    __slots__ = ("_loop", "_tasks")

    def __init__(self, rooms: dict[str, Any]) -> None:
        super().__init__(rooms)
        self._loop = weakref.ref(get_running_loop())
        self._tasks: set[asyncio.Task[None]] = set()
        """asyncio itself refers to tasks weakly."""

    def _soon(self, closing: Callable[[], Any]) -> None:
        loop = self._loop()
        if loop is not None:
            loop.call_soon_threadsafe(self._begin, loop, closing)

    def _begin(self, loop: asyncio.AbstractEventLoop, closing: Callable[[], Any]) -> None:
        task = loop.create_task(closing())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _TrioHome(_Home[C]):
    __slots__ = ("_token", "_trio")

    def __init__(self, rooms: dict[str, Any], trio: Any) -> None:
        super().__init__(rooms)
        self._trio, self._token = trio, trio.lowlevel.current_trio_token()

    def _soon(self, closing: Callable[[], Any]) -> None:
        self._token.run_sync_soon(self._trio.lowlevel.spawn_system_task, closing)


async def _closed(close: Callable[[C], Any], client: C) -> None:
    closing = close(client)
    if isawaitable(closing):
        await closing


def _closed_or_logged(close: Callable[[C], Any], client: C) -> Callable[[], Awaitable[None]]:
    async def closing() -> None:
        try:
            await _closed(close, client)
        except Exception:
            log.exception("closing %r failed", client)

    return closing


def _event() -> anyio.Event:
    import anyio

    return anyio.Event()
