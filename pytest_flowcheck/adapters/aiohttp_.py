"""aiohttp: a `ClientSession` for each loop, cached by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import ClassVar, Final
from weakref import WeakKeyDictionary

from pytest_flowcheck.protocols import Adapter, Body
from pytest_flowcheck.protocols.client import Client, ClientCache, Made

SUBJECTS: Final = {"aiohttp-per-loop": "PerLoop"}


class _Session:
    """A `ClientSession` that asks the kit's server, beside the kit's client, which sees what becomes of it."""

    def __init__(self, seen: Made) -> None:
        import aiohttp

        self._seen, self._session = seen, aiohttp.ClientSession()

    async def use(self) -> str:
        await self._ask()
        name = await self._seen.use()
        await self._ask()
        return name

    async def _ask(self) -> None:
        async with self._session.get(self._seen.url) as response:
            await response.read()

    async def aclose(self) -> None:
        await self._session.close()
        await self._seen.aclose()


class _PerLoop:
    """`_sessions = WeakKeyDictionary()` in a module, whose keys are loops."""

    def __init__(self, factory: Body[[], Made]) -> None:
        self._factory = factory
        self._sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, _Session] = WeakKeyDictionary()

    def get(self) -> _Session:
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            self._sessions[loop] = _Session(self._factory())
        return self._sessions[loop]

    async def aclose(self) -> None:
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.aclose()


class PerLoop(Adapter):
    """One session for each loop, in a `WeakKeyDictionary`."""

    name = "aiohttp-per-loop"
    requires: ClassVar[Sequence[str]] = ("aiohttp",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"client": frozenset()}

    @contextmanager
    def client(self, factory: Body[[], Made]) -> Generator[ClientCache[Client]]:
        yield _PerLoop(factory)
