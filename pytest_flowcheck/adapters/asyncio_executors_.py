"""Long blocking calls beside an asyncio loop, as one writes it by hand: on the loop's default executor, or on a dedicated one."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final

from pytest_flowcheck.protocols import Adapter, Body, Unsupported
from pytest_flowcheck.protocols.isolation import Service

SUBJECTS: Final = {"asyncio-dedicated-executor": "Dedicated", "asyncio-default-executor": "Default"}


class _Tasks:
    """A task for each run, by the name of its session: so it is cancelled, and kept while nobody waits for it."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.threads, self.loop = threads, asyncio.get_running_loop()
        self._tasks: dict[str, asyncio.Task[object]] = {}

    async def run(self, body: Body[[], Any], *, session: str, then: Sequence[Body[[], Any]] = ()) -> object:
        return await self._task(body, session, then)

    async def start(self, body: Body[[], Any], *, session: str) -> None:
        self._task(body, session, ())

    def cancel(self, *, session: str) -> None:
        if session in self._tasks:
            self._tasks[session].cancel()

    def _task(self, body: Body[[], Any], session: str, then: Sequence[Body[[], Any]]) -> asyncio.Task[object]:
        task = self._tasks[session] = self.loop.create_task(self._carry(lambda: self._work(body, then)))
        task.add_done_callback(lambda _: self._tasks.pop(session, None))
        return task

    async def _carry(self, work: Any) -> object:
        return await self.loop.run_in_executor(self.threads, work)

    def _work(self, body: Body[[], Any], then: Sequence[Body[[], Any]]) -> object:
        """On a thread of the executor. Its parts are `asyncio.to_thread`'s, wherever that has them done."""
        value = body()
        if then:
            asyncio.run_coroutine_threadsafe(_all(asyncio.to_thread(part) for part in then), self.loop).result()
        return value

    async def short_op(self, *, session: str) -> object:
        return await asyncio.to_thread(str, session)


async def _all(parts: Any) -> list[object]:
    awaitables: list[Awaitable[object]] = list(parts)
    return await asyncio.gather(*awaitables)


class _OnDefault(_Tasks):
    def queued(self) -> int:
        raise Unsupported("what the default executor has not begun is in a queue of its own")


class _OnDedicated(_Tasks):
    """A semaphore before the pool, so that who waits can be counted."""

    def __init__(self, threads: ThreadPoolExecutor, slots: int) -> None:
        super().__init__(threads)
        self._slots = asyncio.Semaphore(slots)
        self._waiting = 0

    async def _carry(self, work: Any) -> object:
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            return await super()._carry(work)
        finally:
            self._slots.release()

    def queued(self) -> int:
        return self._waiting


class Default(Adapter):
    """`asyncio.to_thread` for all. Its bound is the size of the loop's default executor, which is shut down on leaving, as
    `asyncio.run` does."""

    name = "asyncio-default-executor"
    version = platform.python_version()
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": frozenset({"nested", "threads"})}

    @asynccontextmanager
    async def isolation(
        self,
        *,
        max_concurrent_runs: int,
        limit: float | None = None,  # noqa: ARG002
    ) -> AsyncGenerator[Service]:
        threads = ThreadPoolExecutor(max_concurrent_runs)
        loop = asyncio.get_running_loop()
        loop.set_default_executor(threads)
        try:
            yield _OnDefault(threads)
        finally:
            await loop.shutdown_default_executor()


class Dedicated(Adapter):
    """A `ThreadPoolExecutor` for runs only, behind a semaphore; whatever else there is stays on the default executor."""

    name = "asyncio-dedicated-executor"
    version = platform.python_version()
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": frozenset({"nested", "threads"})}

    @asynccontextmanager
    async def isolation(
        self,
        *,
        max_concurrent_runs: int,
        limit: float | None = None,  # noqa: ARG002
    ) -> AsyncGenerator[Service]:
        threads = ThreadPoolExecutor(max_concurrent_runs, thread_name_prefix="runs")
        try:
            yield _OnDedicated(threads, max_concurrent_runs)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
