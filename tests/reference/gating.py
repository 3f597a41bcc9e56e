"""What the engine's tests share: a gate, at which it is known who has come, and threads of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from anyio.lowlevel import checkpoint

LIMIT = 30.0
"""Seconds; only what is broken takes so long."""


class Gate:
    """Calls wait at it; it knows how many came."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.came = threading.Semaphore(0)

    def __call__(self, value: Any = None) -> Any:
        self.came.release()
        assert self.opened.wait(LIMIT), "the gate was never opened"
        return value

    async def aio(self, value: Any = None) -> Any:
        """The same for a coroutine."""
        self.came.release()
        while not self.opened.is_set():
            await checkpoint()
        return value

    def arrived(self, n: int = 1) -> None:
        """Wait until n more have come."""
        for _ in range(n):
            assert self.came.acquire(timeout=LIMIT), "a call did not start"

    def nobody_waits(self) -> bool:
        """Did no other come?"""
        return not self.came.acquire(blocking=False)


def background(fn: Callable[[], Any]) -> Future[Any]:
    """`fn()` in a thread of its own."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(fn())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def in_threads(n: int, body: Callable[[int], None]) -> None:
    """Run `body(0) … body(n - 1)` at once, each in a thread; the first error is raised here."""
    start, errors = threading.Barrier(n), []

    def run(i: int) -> None:
        start.wait(LIMIT)
        try:
            body(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
