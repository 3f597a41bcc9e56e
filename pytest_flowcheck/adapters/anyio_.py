"""anyio: a task group whose tasks share a `CapacityLimiter`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final, TypeVar

from pytest_flowcheck.protocols import Adapter, Backend, Body, Inexpressible, Ok, Outcome
from pytest_flowcheck.protocols.fanout import Fanout

S = TypeVar("S")
T = TypeVar("T")

SUBJECTS: Final = {"anyio-limiter": "Limiter"}


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
