"""asyncio's own ways to fan out under a semaphore: `gather`, and a task group."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final, TypeVar

from pytest_flowcheck.protocols import Adapter, Body, Failed, Inexpressible, Ok, Outcome
from pytest_flowcheck.protocols.fanout import Fanout

S = TypeVar("S")
T = TypeVar("T")

SUBJECTS: Final = {"asyncio-semaphore": "Gathering", "asyncio-taskgroup": "Grouping"}


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
