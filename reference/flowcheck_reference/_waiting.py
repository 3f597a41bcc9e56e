"""To wait on an event loop, asyncio's or trio's, for what ends on another thread: a dispatch, a run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Awaited(Protocol[T_co]):
    """What can be waited for so; `Dispatched` says what each of these does."""

    def done(self) -> bool:
        """Whether it is over."""
        ...

    def result(self) -> T_co:
        """What came of it."""
        ...

    def cancel(self) -> object:
        """Nobody wants it any more."""
        ...

    def when_done(self, callback: Callable[[], object], /) -> None:
        """Call that when it is over."""
        ...


async def outcome(dispatched: Awaited[T]) -> T:
    """What the dispatch gives. A caller that is cancelled cancels it, and does not wait for its cleanup."""
    if not dispatched.done():
        try:
            await (_on_trio if trio_runs_here() else _on_asyncio)(dispatched)
        except BaseException:
            dispatched.cancel()
            raise
    return dispatched.result()


async def _on_asyncio(dispatched: Awaited[object]) -> None:
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


async def _on_trio(dispatched: Awaited[object]) -> None:
    import trio

    token, event = trio.lowlevel.current_trio_token(), trio.Event()

    def from_afar() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(event.set)

    dispatched.when_done(from_afar)
    await event.wait()


def trio_runs_here() -> bool:
    """Whether trio's is the loop of this thread."""
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()
