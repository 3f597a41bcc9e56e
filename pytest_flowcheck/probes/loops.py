"""A whole program on an event loop, as a rule's own thread runs it: asyncio's, uvloop's or trio's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pytest_flowcheck.probes.instance import Rest
from pytest_flowcheck.proof import pollers

T = TypeVar("T")

Main = Callable[[], Awaitable[T]]


def run(kind: str, main: Main[T]) -> T:
    """`asyncio.run`, the same on uvloop, or `trio.run`."""
    if kind == "trio":
        import trio

        with pollers.known_loop() as rest:
            instrument: Any = Rest(rest)
            return trio.run(main, instruments=[instrument])
    with asyncio.Runner(loop_factory=new_loop(kind)) as runner:
        return runner.run(_coroutine(main))


async def _coroutine(main: Main[T]) -> T:
    return await main()


def new_loop(kind: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes a loop: asyncio's own, or uvloop's."""
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop
    return asyncio.new_event_loop
