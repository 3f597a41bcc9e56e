"""wool: a `WorkerService` behind gRPC on loopback, whose worker loop is kept warm; and its `ResourcePool`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar, Final, TypeVar
from unittest.mock import patch
from uuid import uuid4

from pytest_flowcheck.protocols import Adapter, Body, Closed, Refused
from pytest_flowcheck.protocols.looppool import Lease, LoopPool

T = TypeVar("T")

SUBJECTS: Final = {"wool": "Wool"}


class _Worker:
    """One worker, asked as a `WorkerConnection` asks it: a stream for each task, read until it ends."""

    def __init__(self, stub: Any, proxy: Any) -> None:
        self._stub, self._proxy = stub, proxy
        self._protocol: Any = import_module("wool.protocol")
        self._task: Any = import_module("wool.runtime.routine.task").Task

    async def dispatch(self, body: Body[[], T]) -> T:
        import cloudpickle
        import grpc

        task = self._task(id=uuid4(), callable=body.aio, args=(), kwargs={}, proxy=self._proxy)
        call = self._stub.dispatch()
        came: list[T] = []
        try:
            await call.write(self._protocol.Request(task=task.to_protobuf()))
            await call.done_writing()
            async for response in call:
                match response.WhichOneof("payload"):
                    case "result":
                        came.append(cloudpickle.loads(response.result.dump))
                    case "exception":
                        raise cloudpickle.loads(response.exception.dump)
                    case "nack":
                        raise cloudpickle.loads(response.nack.exception.dump)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise Closed(error.details()) from error
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise Refused(error.details()) from error
            raise
        (value,) = came
        return value

    async def stop(self) -> None:
        await self._stub.stop(self._protocol.StopRequest(timeout=0))


class Wool(Adapter):
    """`WorkerService` with `_WORKER_LOOP_TTL`, made as a worker's process makes it, but in this one."""

    name = "wool"
    requires: ClassVar[Sequence[str]] = ("wool",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"looppool": frozenset({"drain", "ttl"})}

    def warm_up(self) -> None:
        import_module("wool.runtime.worker.process")

    @asynccontextmanager
    async def looppool(self, *, ttl: float | None, limit: float | None = None) -> AsyncGenerator[LoopPool]:  # noqa: ARG002
        import grpc

        wool: Any = import_module("wool")
        process: Any = import_module("wool.runtime.worker.process")
        pools: Any = import_module("wool.runtime.resourcepool")
        service: Any = import_module("wool.runtime.worker.service")
        protocol: Any = import_module("wool.protocol")
        interceptor: Any = import_module("wool.runtime.worker.interceptor")
        proxies = pools.ResourcePool(factory=process._proxy_factory, finalizer=process._proxy_finalizer, ttl=60.0)
        wool.__proxy_pool__.set(proxies)
        if ttl is None:
            worker = service.WorkerService()
        else:
            with patch.object(service, "_WORKER_LOOP_TTL", ttl, create=True):
                worker = service.WorkerService()
        server = grpc.aio.server(interceptors=[interceptor.VersionInterceptor()])
        protocol.add_WorkerServicer_to_server(worker, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = protocol.WorkerStub(channel)
                pool = _Worker(stub, wool.WorkerProxy(f"flowcheck-{port}"))
                try:
                    yield pool
                finally:
                    await pool.stop()
        finally:
            await server.stop(0)
