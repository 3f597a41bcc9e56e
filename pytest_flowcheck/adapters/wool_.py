"""wool: a `WorkerService` behind gRPC on loopback, whose worker loop is kept warm; and its `ResourcePool`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, ClassVar, Final, TypeVar, cast
from unittest.mock import patch
from uuid import uuid4
from weakref import WeakKeyDictionary

from pytest_flowcheck.protocols import Adapter, Body, Closed, Inexpressible, Refused
from pytest_flowcheck.protocols.client import Client, ClientCache, Made
from pytest_flowcheck.protocols.looppool import Lease, LoopPool

T = TypeVar("T")

SUBJECTS: Final = {"wool": "Wool", "wool-resource-pool": "Resources"}


# --- WorkerService ------------------------------------------------------------------------------------------------------


class _Worker:
    """One worker, asked as a `WorkerConnection` asks it: a stream for each task, read until it ends."""

    def __init__(self, stub: Any, proxy: Any) -> None:
        self._stub, self._proxy = stub, proxy
        self._grpc: Any = import_module("grpc")
        self._loads: Any = import_module("cloudpickle").loads
        self._protocol: Any = import_module("wool.protocol")
        self._task: Any = import_module("wool.runtime.routine.task").Task

    async def dispatch(self, body: Body[[], T]) -> T:
        """None for a stream that ends without an answer, as wool's own client has it (`_stream_to_coroutine`)."""
        task = self._task(id=uuid4(), callable=body.aio, args=(), kwargs={}, proxy=self._proxy)
        call = self._stub.dispatch()
        came: list[T] = []
        try:
            await call.write(self._protocol.Request(task=task.to_protobuf()))
            await call.done_writing()
            async for response in call:
                payload = response.WhichOneof("payload")
                if payload == "result":
                    came.append(self._loads(response.result.dump))
                elif payload == "exception":
                    raise self._loads(response.exception.dump)
                elif payload == "nack":
                    raise self._loads(response.nack.exception.dump)
        except self._grpc.aio.AioRpcError as error:
            if error.code() is self._grpc.StatusCode.UNAVAILABLE:
                raise Closed(error.details()) from error
            if error.code() is self._grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Refused(error.details()) from error
            raise
        return next(iter(came), cast("T", None))

    async def stop(self) -> None:
        await self._stub.stop(self._protocol.StopRequest(timeout=0))


class _Process:
    """What a worker's process runs, on a thread of this one: the rules' coroutines must be reachable."""

    def __init__(self, ttl: float | None) -> None:
        self._ttl = ttl
        self._server: Any = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="worker process")
        self._thread.start()

    async def start(self) -> int:
        """Serve; the port."""
        return await self._there(self._start())

    async def end(self) -> None:
        """Serve no more."""
        if self._server is not None:
            await self._there(self._server.stop(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        await asyncio.to_thread(self._thread.join)
        self._loop.close()

    async def _there(self, what: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(what, self._loop))

    async def _start(self) -> int:
        grpc_aio: Any = import_module("grpc.aio")
        wool: Any = import_module("wool")
        process: Any = import_module("wool.runtime.worker.process")
        pools: Any = import_module("wool.runtime.resourcepool")
        service: Any = import_module("wool.runtime.worker.service")
        interceptor: Any = import_module("wool.runtime.worker.interceptor")
        make, end = process._proxy_factory, process._proxy_finalizer  # noqa: SLF001 - what its `run` gives to the pool
        wool.__proxy_pool__.set(pools.ResourcePool(factory=make, finalizer=end, ttl=60.0))
        usual = getattr(service, "_WORKER_LOOP_TTL", 0)
        with patch.object(service, "_WORKER_LOOP_TTL", usual if self._ttl is None else self._ttl, create=True):
            worker = service.WorkerService()
        self._server = grpc_aio.server(interceptors=[interceptor.VersionInterceptor()])
        wool.protocol.add_WorkerServicer_to_server(worker, self._server)
        port: int = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return port


class Wool(Adapter):
    """A `WorkerService` whose `_WORKER_LOOP_TTL` is the rule's.

    gRPC's own threads wait with deadlines all the time: that something never comes about can't be proven while they do.
    """

    name = "wool"
    requires: ClassVar[Sequence[str]] = ("wool",)

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        """Up to 0.10.2 a loop was reaped with its dispatch."""
        from packaging.version import Version

        kept = Version(metadata.version("wool")) >= Version("0.10.3")
        return {"looppool": frozenset({"drain", "ttl"} if kept else {"drain"})}

    def warm_up(self) -> None:
        import_module("wool.runtime.worker.process")

    @asynccontextmanager
    async def looppool(self, *, ttl: float | None, limit: float | None = None) -> AsyncGenerator[LoopPool]:  # noqa: ARG002 - 5 s
        grpc_aio: Any = import_module("grpc.aio")
        wool: Any = import_module("wool")
        process = _Process(ttl)
        try:
            port = await process.start()
            async with grpc_aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                worker = _Worker(wool.protocol.WorkerStub(channel), wool.WorkerProxy(f"flowcheck-{port}"))
                try:
                    yield worker
                finally:
                    await worker.stop()
        finally:
            await process.end()


# --- ResourcePool -------------------------------------------------------------------------------------------------------

UNTIL_STOPPED: Final = 3600.0
"""Seconds: longer than any rule."""


@dataclass(frozen=True)
class _Lease:
    resource: Any
    value: Any


class _Resources:
    """A `ResourcePool` on the caller's loop. It runs nothing."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    async def dispatch(self, body: Body[[], T]) -> T:  # noqa: ARG002
        raise Inexpressible("a ResourcePool keeps things, and runs nothing")

    async def acquire(self, key: str) -> Lease:
        resource = self._pool.get(key)
        return _Lease(resource, await resource.__aenter__())

    async def release(self, lease: _Lease) -> None:
        await lease.resource.__aexit__(None, None, None)

    async def clear(self) -> None:
        await self._pool.clear()

    async def stop(self) -> None:
        await self._pool.clear()


class _Clients:
    """A `ResourcePool` with one client in it, as wool itself keeps its channels: a loop gives back all that it has got."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._got: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()

    async def get(self) -> Client:
        with _one_loop_at_a_time():
            client: Client = await self._pool.acquire("client")
        loop = asyncio.get_running_loop()
        self._got[loop] = self._got.get(loop, 0) + 1
        return client

    async def aclose(self) -> None:
        got = self._got.pop(asyncio.get_running_loop(), 0)
        with _one_loop_at_a_time():
            for _ in range(got):
                await self._pool.release("client")
            # a pool without `expire` has nothing between waiting for the TTL and taking all from everybody
            await (self._pool.expire("client") if hasattr(self._pool, "expire") else self._pool.clear())


@contextmanager
def _one_loop_at_a_time() -> Generator[None]:
    try:
        yield
    except RuntimeError as error:
        if "use one pool per loop" in str(error):  # as newer ones say
            raise Inexpressible(f"a ResourcePool serves one running loop at a time: {error}") from error
        raise


async def _close(client: Client) -> None:
    await client.aclose()


class Resources(Adapter):
    """`ResourcePool` by itself: keyed and counted resources, and clients of successive loops."""

    name = "wool-resource-pool"
    requires: ClassVar[Sequence[str]] = ("wool",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {
        "client": frozenset({"slow_factory"}),
        "looppool": frozenset({"resources", "ttl"}),
    }
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"looppool": {"clear": "at_once"}}

    def warm_up(self) -> None:
        import_module("wool.runtime.resourcepool")

    @contextmanager
    def client(self, factory: Body[[], Made]) -> Generator[ClientCache[Client]]:
        pools: Any = import_module("wool.runtime.resourcepool")

        async def make(_key: str) -> Made:
            return await factory.aio()

        yield _Clients(pools.ResourcePool(make, finalizer=_close, ttl=UNTIL_STOPPED))

    @asynccontextmanager
    async def looppool(
        self,
        *,
        ttl: float | None,
        limit: float | None = None,  # noqa: ARG002 - it has none
        make: Body[[str], Any] | None = None,
        finalize: Body[[Any], None] | None = None,
    ) -> AsyncGenerator[LoopPool]:
        pools: Any = import_module("wool.runtime.resourcepool")
        if make is None or finalize is None:
            yield _Resources(None)
            return
        async with pools.ResourcePool(
            make.aio, finalizer=finalize.aio, ttl=UNTIL_STOPPED if ttl is None else ttl
        ) as pool:
            yield _Resources(pool)
