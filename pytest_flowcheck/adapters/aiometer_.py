"""aiometer: `run_all` with `max_at_once`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar, Final, TypeVar

from pytest_flowcheck.protocols import Adapter, Backend, Body, Inexpressible, Ok, Outcome
from pytest_flowcheck.protocols.fanout import Fanout

S = TypeVar("S")
T = TypeVar("T")

SUBJECTS: Final = {"aiometer": "Aiometer"}


class _RunAll:
    async def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> Sequence[Outcome[T]]:
        import aiometer

        if continue_on_error:
            raise Inexpressible("aiometer.run_all has no way to go on after an error")
        results = await aiometer.run_all([partial(body.aio, item) for item in items], max_at_once=max_concurrency)
        return [Ok(value) for value in results]


class Aiometer(Adapter):
    """`run_all`."""

    name = "aiometer"
    requires: ClassVar[Sequence[str]] = ("aiometer",)
    backends: ClassVar[Sequence[Backend]] = ("asyncio", "trio")
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"fanout": frozenset({"nested", "context"})}

    @asynccontextmanager
    async def fanout(self) -> AsyncGenerator[Fanout]:
        yield _RunAll()
