"""asyncio's own ways to fan out under a semaphore: `gather`, and a task group; and a thread that runs an `asyncio.Runner`."""

from __future__ import annotations

import asyncio
import platform
import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar, Final, TypeVar

from pytest_flowcheck.protocols import Adapter, Body, Closed, Failed, Inexpressible, Ok, Outcome
from pytest_flowcheck.protocols.fanout import Fanout
from pytest_flowcheck.protocols.looppool import LoopPool

S = TypeVar("S")
T = TypeVar("T")

SUBJECTS: Final = {"asyncio-runner": "Running", "asyncio-semaphore": "Gathering", "asyncio-taskgroup": "Grouping"}


class _Gather:
    async def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> Sequence[Outcome[T]]:
        semaphore = asyncio.Semaphore(max_concurrency)

        async def one(item: S) -> T:
            async with semaphore:
                return await body.aio(item)

        running = [one(item) for item in items]
        if not continue_on_error:
            return [Ok(value) for value in await asyncio.gather(*running)]
        ended = await asyncio.gather(*running, return_exceptions=True)
        return [Failed(end) if isinstance(end, BaseException) else Ok(end) for end in ended]


class _TaskGroup:
    async def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> Sequence[Outcome[T]]:
        if continue_on_error:
            raise Inexpressible("asyncio.TaskGroup cancels the rest when a task fails")
        semaphore = asyncio.Semaphore(max_concurrency)

        async def one(item: S) -> T:
            async with semaphore:
                return await body.aio(item)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
        return [Ok(task.result()) for task in tasks]


class Gathering(Adapter):
    """`gather` and `Semaphore`."""

    name = "asyncio-semaphore"
    version = platform.python_version()
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"fanout": frozenset({"continue", "nested", "context"})}

    @asynccontextmanager
    async def fanout(self) -> AsyncGenerator[Fanout]:
        yield _Gather()


class Grouping(Adapter):
    """`TaskGroup` and `Semaphore`."""

    name = "asyncio-taskgroup"
    version = platform.python_version()
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"fanout": frozenset({"nested", "context"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"fanout": {"escape": "group"}}

    @asynccontextmanager
    async def fanout(self) -> AsyncGenerator[Fanout]:
        yield _TaskGroup()


class _Runner:
    """What one writes by hand: a thread in an `asyncio.Runner`, started by the first call, and `run_coroutine_threadsafe`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def dispatch(self, body: Body[[], T]) -> T:
        with self._lock:
            if self._stopped:
                raise Closed("the runner was stopped")
            if self._thread is None:
                ready: Future[asyncio.AbstractEventLoop] = Future()
                thread = threading.Thread(target=self._serve, args=(ready,), daemon=True, name="asyncio runner")
                thread.start()
                self._loop = ready.result()
                self._thread = thread
            future = asyncio.run_coroutine_threadsafe(body.aio(), self._loop)
        return future.result()

    def _serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            with asyncio.Runner() as runner:
                loop = runner.get_loop()
                self._stopping = asyncio.Event()
                ready.set_result(loop)
                runner.run(self._stay())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    async def _stay(self) -> None:
        await self._stopping.wait()

    def stop(self) -> None:
        with self._lock:
            thread, stopped, self._stopped = self._thread, self._stopped, True
        if thread is not None:
            if not stopped and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._stopping.set)
            thread.join()


class Running(Adapter):
    """A hand-made thread that runs an `asyncio.Runner`."""

    name = "asyncio-runner"
    version = platform.python_version()
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"looppool": frozenset({"context"})}

    @contextmanager
    def looppool(self, *, ttl: float | None, limit: float | None = None) -> Generator[LoopPool]:  # noqa: ARG002
        pool = _Runner()
        try:
            yield pool
        finally:
            pool.stop()
