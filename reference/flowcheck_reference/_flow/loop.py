"""An event loop in a thread of its own, for the async nodes of blocking runs: one for all runs of an engine."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, ClassVar


class LoopThread:
    """Starts with the first coroutine; ends with `close`, or when this object is dropped. A fork leaves it behind.

    A daemon thread: what it runs has a thread that waits for it, or nobody.
    """

    _numbers: ClassVar[count[int]] = count()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._stop: Callable[[], object] | None = None

    def spawn(self, fn: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `fn()` there, as a task. Raises: RuntimeError: the system gives no thread."""
        self._ready().call_soon_threadsafe(_start, fn)

    def runs_here(self) -> bool:
        """Is this its thread?"""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """End the thread, once what runs there is over: that is for the caller to know."""
        with self._lock:
            thread, stop, self._thread, self._loop, self._stop = self._thread, self._stop, None, None, None
        if thread is not None and stop is not None and self._pid == os.getpid():
            stop()
            thread.join()

    def _ready(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=_serve, args=(loop,), name=f"flowcheck-loop-{next(self._numbers)}", daemon=True
                )
                try:
                    thread.start()
                except BaseException:
                    loop.close()
                    raise
                self._loop, self._thread, self._pid = loop, thread, os.getpid()
                self._stop = weakref.finalize(self, _end, loop)
                self._stop.atexit = False
            return self._loop


_tasks: set[asyncio.Task[None]] = set()
"""The loop itself refers to its tasks weakly."""


def _start(fn: Callable[[], Coroutine[Any, Any, None]]) -> None:
    task = asyncio.get_running_loop().create_task(fn())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:  # which ends what nodes have left behind
        runner.get_loop().run_forever()


def _end(loop: asyncio.AbstractEventLoop) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
