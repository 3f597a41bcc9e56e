"""dynamiq's clients: `DynamiqTracingClient`, a tracer, and `ConnectionManager`, a cache of clients."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final
from uuid import uuid4
from weakref import WeakValueDictionary

from pytest_flowcheck.adapters._dynamiq_runs import dynamiq
from pytest_flowcheck.protocols import Body, Inexpressible, Unsupported
from pytest_flowcheck.protocols.client import Made
from pytest_flowcheck.protocols.tracing import Event

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
        run = tracing.Run(name="event", type=tracing.RunType.NODE, start_time=datetime.now(tz=UTC), input=event, **ids)
        self._client.trace([run])

    def flush(self) -> bool:
        return False  # there is none, and `trace` tells nobody whether what it was given has arrived

    def close(self) -> None:
        raise Inexpressible("a DynamiqTracingClient has nothing to close")

    def dropped(self) -> int:
        raise Unsupported("a post that failed is logged, and counted nowhere")


# --- clients -------------------------------------------------------------------------------------------------------------


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
