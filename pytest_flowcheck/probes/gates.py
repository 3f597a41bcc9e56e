"""Gates: where probes wait until the rule lets them go. One per probe call, by name, shut unless opened."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import TypeVar

T = TypeVar("T")


class Gates:
    """The gates of one rule.

    Guarantees: a gate opens once and stays open; whoever comes late walks through; each waiter is released exactly
    once. Waiters in this process block on a lock without a timeout, so that a gated probe is quiescent; coroutines and
    other processes leave a callback instead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._open: set[str] = set()
        self._all_open = False

    def when_open(self, name: str, release: Callable[[], None]) -> None:
        """Call `release` once the gate is open: now, if it is. From any thread."""
        with self._lock:
            if not (self._all_open or name in self._open):
                self._waiting.setdefault(name, []).append(release)
                return
        release()

    def wait(self, name: str) -> None:
        """Block this thread, untimed, until the gate is open."""
        held = threading.Lock()
        held.acquire()
        self.when_open(name, held.release)
        held.acquire()

    async def wait_async(self, name: str) -> None:
        """Suspend this coroutine until the gate is open. Honours cancellation, on asyncio and trio."""
        import anyio

        opened = anyio.Event()
        self.when_open(name, threadsafe(opened.set))
        await opened.wait()

    def shut(self, name: str) -> bool:
        """Whether who comes now has to wait."""
        with self._lock:
            return not (self._all_open or name in self._open)

    def open(self, *names: str) -> None:
        """Let those probes go. Opening an open gate does nothing."""
        with self._lock:
            self._open.update(names)
            released = [release for name in names for release in self._waiting.pop(name, ())]
        for release in released:
            release()

    def open_all(self) -> None:
        """Let every probe go, those too that are yet to come."""
        with self._lock:
            self._all_open = True
            released = [release for waiting in self._waiting.values() for release in waiting]
            self._waiting.clear()
        for release in released:
            release()

    def waiting(self) -> list[str]:
        """The gates at which somebody waits, in the order in which the first came there."""
        with self._lock:
            return list(self._waiting)

    def shut_all(self) -> None:
        """From now on a new probe waits again; gates opened by name stay open."""
        with self._lock:
            self._all_open = False


async def apart(call: Callable[[], T]) -> T:
    """Make this call on a thread of its own, and wait for it on the loop. A cancellation ends the wait, not the call."""
    import anyio

    over, came = anyio.Event(), list[T]()
    raised: list[BaseException] = []
    ring = threadsafe(over.set)

    def run() -> None:
        try:
            came.append(call())
        except BaseException as error:  # noqa: BLE001 - raised below
            raised.append(error)
        ring()

    threading.Thread(target=copy_context().run, args=(run,), daemon=True, name="the kit's probe").start()
    await over.wait()
    if raised:
        raise raised.pop()
    return came.pop()


def threadsafe(call: Callable[[], object]) -> Callable[[], None]:
    """`call`, to be made on the running loop by whichever thread opens the gate; a loop that is gone is no error."""
    if (trio := sys.modules.get("trio")) is not None and trio.lowlevel.in_trio_run():
        token = trio.lowlevel.current_trio_token()

        def release_trio() -> None:
            try:
                token.run_sync_soon(call)
            except trio.RunFinishedError:
                return  # nobody is left to be released

        return release_trio

    import asyncio

    loop = asyncio.get_running_loop()

    def release() -> None:
        if loop.is_closed():
            return  # nobody is left to be released
        loop.call_soon_threadsafe(call)

    return release
