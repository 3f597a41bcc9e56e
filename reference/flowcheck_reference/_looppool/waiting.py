"""To wait for a dispatch on an event loop, asyncio's or trio's."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TypeVar

from .dispatched import Dispatched

T = TypeVar("T")


async def outcome(dispatched: Dispatched[T]) -> T:
    """What the dispatch gives. A caller that is cancelled cancels it, and does not wait for its cleanup."""
    if not dispatched.done():
        try:
            await (_on_trio if _trio_runs_here() else _on_asyncio)(dispatched)
        except BaseException:
            dispatched.cancel()
            raise
    return dispatched.result()


async def _on_asyncio(dispatched: Dispatched[T]) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    def from_afar() -> None:
        with suppress(RuntimeError):  # the caller's loop is closed: nobody waits any more
            loop.call_soon_threadsafe(wake)

    dispatched.when_done(from_afar)
    await future


async def _on_trio(dispatched: Dispatched[T]) -> None:
    import trio

    token, event = trio.lowlevel.current_trio_token(), trio.Event()

    def from_afar() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(event.set)

    dispatched.when_done(from_afar)
    await event.wait()


def _trio_runs_here() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()
