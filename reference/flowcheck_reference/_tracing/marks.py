"""A place in a tracer's queue: whoever put it there waits until the dispatcher has come to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Mark:
    """Stands in the queue among the events. All that stands in front of it is delivered, or lost, once it is `over`.

    Guarantees: it is over once and for ever; each who waits is told once, also who comes late.
    """

    __slots__ = ("_lock", "_waiting", "over")

    def __init__(self) -> None:
        self.over = False
        self._lock = threading.Lock()
        self._waiting: list[Callable[[], object]] = []

    def ring(self) -> None:
        """The dispatcher is here."""
        with self._lock:
            self.over = True
            waiting, self._waiting = self._waiting, []
        for tell in waiting:
            tell()

    def when_over(self, tell: Callable[[], object]) -> None:
        """Have this called, in whichever thread; at once, if it is over."""
        with self._lock:
            if not self.over:
                self._waiting.append(tell)
                return
        tell()

    def wait(self, limit: float | None) -> bool:
        """Block this thread for so many seconds at most; whether it is over."""
        shut = threading.Lock()
        shut.acquire()
        self.when_over(shut.release)
        return shut.acquire(timeout=-1 if limit is None else min(limit, threading.TIMEOUT_MAX))

    async def await_(self, limit: float | None) -> bool:
        """The same for a coroutine, on asyncio or trio."""
        import anyio

        event = anyio.Event()
        self.when_over(_threadsafe(event.set))
        with anyio.move_on_after(limit):
            await event.wait()
        return self.over


def _threadsafe(call: Callable[[], object]) -> Callable[[], None]:
    """`call`, to be made on the loop that runs here. Once that is closed nobody is there to miss it."""
    import asyncio
    from contextlib import suppress

    soon: Callable[[Callable[[], object]], Any]
    try:
        soon = asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        import trio

        soon = trio.lowlevel.current_trio_token().run_sync_soon

    def tell() -> None:
        with suppress(RuntimeError):  # the loop is closed; trio's RunFinishedError is one, too
            soon(call)

    return tell
