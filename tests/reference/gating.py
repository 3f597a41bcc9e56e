"""A gate for what the engine runs: it is known who has come, and nothing goes on before it is opened."""

from __future__ import annotations

import threading
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
