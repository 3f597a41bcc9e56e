"""httpx: caches of an `AsyncClient` as programs write them by hand, one for the process and one for each loop."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final
from weakref import WeakKeyDictionary

from pytest_flowcheck.protocols import Adapter, Body
from pytest_flowcheck.protocols.client import Client, ClientCache, Made

if TYPE_CHECKING:
    import httpx

SUBJECTS: Final = {"httpx-global": "Global", "httpx-per-loop": "PerLoop"}


class _Requests:
    """An `httpx.AsyncClient` that asks the kit's server, beside the kit's client, which sees what becomes of it."""

    def __init__(self, seen: Made) -> None:
        self._seen, self._http = seen, _client()

    async def use(self) -> str:
        await self._http.get(self._seen.url)
        name = await self._seen.use()
        await self._http.get(self._seen.url)
        return name

    async def aclose(self) -> None:
        await self._http.aclose()
        await self._seen.aclose()


def _client() -> httpx.AsyncClient:
    """A client as usual, but for certificates, which take long to load and are not needed here."""
    import ssl

    import httpx

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncClient(verify=context, trust_env=False, timeout=None)  # noqa: S113 - the kit waits by proof


class _Global:
    """`_client = None` in a module, made by whoever comes first."""

    def __init__(self, factory: Body[[], Made]) -> None:
        self._factory = factory
        self._client: _Requests | None = None

    def get(self) -> _Requests:
        if self._client is None:
            self._client = _Requests(self._factory())
        return self._client

    async def aclose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()


class _PerLoop:
    """`_clients = WeakKeyDictionary()` in a module, whose keys are loops."""

    def __init__(self, factory: Body[[], Made]) -> None:
        self._factory = factory
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, _Requests] = WeakKeyDictionary()

    def get(self) -> _Requests:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = _Requests(self._factory())
        return self._clients[loop]

    async def aclose(self) -> None:
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.aclose()


class Global(Adapter):
    """One client for the process."""

    name = "httpx-global"
    requires: ClassVar[Sequence[str]] = ("httpx",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"client": frozenset()}

    @contextmanager
    def client(self, factory: Body[[], Made]) -> Generator[ClientCache[Client]]:
        yield _Global(factory)


class PerLoop(Adapter):
    """One client for each loop, in a `WeakKeyDictionary`."""

    name = "httpx-per-loop"
    requires: ClassVar[Sequence[str]] = ("httpx",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"client": frozenset()}

    @contextmanager
    def client(self, factory: Body[[], Made]) -> Generator[ClientCache[Client]]:
        yield _PerLoop(factory)
