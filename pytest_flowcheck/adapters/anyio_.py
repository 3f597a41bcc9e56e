"""anyio: a task group whose tasks share a `CapacityLimiter`; a blocking portal that is shared and kept."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from pytest_flowcheck.protocols import Adapter, Backend, Body, ErrorMap, Inexpressible, Ok, Outcome, Refused
from pytest_flowcheck.protocols.fanout import Fanout
from pytest_flowcheck.protocols.looppool import LoopPool

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortalProvider

S = TypeVar("S")
T = TypeVar("T")

SUBJECTS: Final = {"anyio-limiter": "Limiter", "anyio-portal": "Portal"}


class _TaskGroup:
    async def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> Sequence[Outcome[T]]:
        from anyio import CapacityLimiter, create_task_group

        if continue_on_error:
            raise Inexpressible("an anyio task group cancels the rest when a task fails")
        limiter = CapacityLimiter(max_concurrency)
        results: dict[int, Outcome[T]] = {}

        async def one(index: int, item: S) -> None:
            async with limiter:
                results[index] = Ok(await body.aio(item))

        async with create_task_group() as tasks:
            for index, item in enumerate(items):
                tasks.start_soon(one, index, item)
        return [results[index] for index in range(len(results))]


class Limiter(Adapter):
    """`create_task_group` and `CapacityLimiter`."""

    name = "anyio-limiter"
    requires: ClassVar[Sequence[str]] = ("anyio",)
    backends: ClassVar[Sequence[Backend]] = ("asyncio", "trio")
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"fanout": frozenset({"nested", "context"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"fanout": {"escape": "group"}}

    @asynccontextmanager
    async def fanout(self) -> AsyncGenerator[Fanout]:
        yield _TaskGroup()


class _Held:
    """A provider whose portal somebody holds, so that it is there for the next call; `stop` lets go of it."""

    def __init__(self, provider: BlockingPortalProvider) -> None:
        self._provider = provider
        self._lock, self._held = threading.Lock(), False

    def dispatch(self, body: Body[[], T]) -> T:
        with self._lock:
            if not self._held:
                self._provider.__enter__()
                self._held = True
        with self._provider as portal:
            return portal.call(body.aio)

    def stop(self) -> None:
        with self._lock:
            held, self._held = self._held, False
        if held:
            self._provider.__exit__(None, None, None)


class Portal(Adapter):
    """`BlockingPortalProvider`, held open from the first call on."""

    name = "anyio-portal"
    requires: ClassVar[Sequence[str]] = ("anyio",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"looppool": frozenset({"context", "nested"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"looppool": {"after_stop": "reopen"}}
    errors: ClassVar[ErrorMap] = {Refused: RuntimeError}

    @contextmanager
    def looppool(self, *, ttl: float | None, limit: float | None = None) -> Generator[LoopPool]:  # noqa: ARG002
        from anyio.from_thread import BlockingPortalProvider

        pool = _Held(BlockingPortalProvider("asyncio"))
        try:
            yield pool
        finally:
            pool.stop()
