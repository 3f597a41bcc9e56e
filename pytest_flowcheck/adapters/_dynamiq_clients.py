"""dynamiq's clients: `DynamiqTracingClient` as a tracer and as a client of its own, and the `ConnectionManager` as a cache."""

from __future__ import annotations

import json
from contextvars import ContextVar
from datetime import datetime, timezone
from functools import cache
from typing import Any, Final
from uuid import uuid4
from weakref import WeakValueDictionary

from pytest_flowcheck.adapters._dynamiq_runs import dynamiq
from pytest_flowcheck.protocols import Body, Inexpressible, Unsupported
from pytest_flowcheck.protocols.client import Client, Made
from pytest_flowcheck.protocols.tracing import Event, Sink

# --- a tracer ------------------------------------------------------------------------------------------------------------


def events_of(post: bytes) -> list[Event]:
    """What was traced, as the collector gets it."""
    return [run["input"] for run in json.loads(post)["runs"]]


class Traces:
    """`client.trace([run])`, an event being a run's input. Without `limit` it has no timeout: a rule has no deadlines."""

    def __init__(self, url: str, limit: float | None) -> None:
        self._client = dynamiq("clients").DynamiqTracingClient(base_url=url, access_key="none", timeout=limit)

    def emit(self, event: Event) -> None:
        tracing = dynamiq("callbacks.tracing")
        ids = {name: uuid4() for name in ("id", "trace_id", "source_id", "session_id")}
        run = tracing.Run(
            name="event", type=tracing.RunType.NODE, start_time=datetime.now(tz=timezone.utc), input=event, **ids
        )
        self._client.trace([run])

    def flush(self) -> bool:
        return True  # there is none, and nothing to wait for: `trace` comes back when the collector has answered

    def close(self) -> None:
        raise Inexpressible("a DynamiqTracingClient has nothing to close")

    def dropped(self) -> int:
        raise Unsupported("a post that failed is logged, and counted nowhere")


class AsyncTraces(Traces):
    """The same from a coroutine, where `trace` takes another way."""

    def flush(self) -> bool:
        return False  # there is none, and nothing tells when what coroutines traced has arrived


# --- clients -------------------------------------------------------------------------------------------------------------


class _Seen:
    """Whose factory is to be asked, and which of its clients served last."""

    def __init__(self, factory: Body[[], Made]) -> None:
        self.factory, self.name = factory, ""


_SEEN: ContextVar[_Seen | None] = ContextVar("flowcheck_dynamiq_request", default=None)


@cache
def _watched() -> Any:
    """httpx as `dynamiq.clients.dynamiq` sees it. Its `AsyncClient` is a real one, and has one of the kit's beside it."""
    import httpx

    module = dynamiq("clients.dynamiq")
    real: Any = httpx.AsyncClient

    class Beside:
        """`async with httpx.AsyncClient() as client: await client.request(...)`: that is all that dynamiq asks of it."""

        def __init__(self, seen: _Seen) -> None:
            self._seen, self._made, self._http = seen, seen.factory(), real(trust_env=False)

        async def __aenter__(self) -> Any:
            await self._http.__aenter__()
            return self

        async def __aexit__(self, *told: Any) -> None:
            await self._http.__aexit__(*told)
            await self._made.aclose()

        async def request(self, method: str, url: Any, **options: Any) -> Any:  # noqa: ARG002 - the kit's server it is
            response = await self._http.request(method, self._made.url, **options)
            self._seen.name = await self._made.use()
            return response

    class Module:
        def __getattr__(self, name: str) -> Any:
            return getattr(httpx, name)

        def AsyncClient(self, *args: Any, **options: Any) -> Any:  # noqa: N802 - httpx's
            seen = _SEEN.get()
            return real(*args, **options) if seen is None else Beside(seen)

    module.httpx = Module()
    return module


class _Request:
    """What `get` gives: the client, whose `request` makes an `httpx.AsyncClient` and closes it."""

    def __init__(self, client: Any, factory: Body[[], Made]) -> None:
        self._client, self._seen = client, _Seen(factory)

    async def use(self) -> str:
        token = _SEEN.set(self._seen)
        try:
            await self._client.request("GET", "/")
        finally:
            _SEEN.reset(token)
        return self._seen.name

    async def aclose(self) -> None:
        """Each request has closed its own."""


class Requests:
    """One `DynamiqTracingClient`, asked by `await client.request(...)` on whatever loop there is."""

    def __init__(self, factory: Body[[], Made]) -> None:
        self._client = _watched().DynamiqTracingClient(base_url="http://127.0.0.1", access_key="none", timeout=None)
        self._factory = factory

    async def get(self) -> Client:
        return _Request(self._client, self._factory)

    async def aclose(self) -> None:
        """There is nothing to close: what a request takes ends with it."""


class _Cached:
    """The kit's client with what the `ConnectionManager` asks of one, as httpx's has it."""

    def __init__(self, made: Made) -> None:
        self._made, self.is_closed = made, False

    async def use(self) -> str:
        return await self._made.use()

    async def aclose(self) -> None:
        self.is_closed = True
        await self._made.aclose()


@cache
def _connection() -> Any:
    """A connection whose `connect_async` is the kit's factory."""

    def connect(self: Any) -> Any:  # noqa: ARG001 - the base class's
        raise Inexpressible("this connection has an async client only")

    async def connect_async(self: Any) -> Any:
        return _Cached(await _CACHES[self.id].factory.aio())

    methods = {"connect": connect, "connect_async": connect_async, "__module__": __name__}
    return type("KitConnection", (dynamiq("connections").BaseConnection,), methods)




class Connections:
    """`ConnectionManager.get_async_connection_client(connection)`: what nodes get their async clients from."""

    def __init__(self, factory: Body[[], Made]) -> None:
        self._manager = dynamiq("connections.managers").ConnectionManager()
        self.factory = factory
        self._connection = _connection()(id=str(uuid4()))
        _CACHES[self._connection.id] = self

    async def get(self) -> Any:
        return await self._manager.get_async_connection_client(self._connection)

    async def aclose(self) -> None:
        await self._manager.aclose()

    def close(self) -> None:
        self._manager.close()


_CACHES: Final[WeakValueDictionary[str, Connections]] = WeakValueDictionary()
"""By the id of the connection, which is hashed as JSON, and so can't hold a factory itself."""
