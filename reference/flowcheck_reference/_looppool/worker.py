"""A warm loop on a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .bell import Bell
from .dispatched import Dispatched
from .draining import Drain, Threads
from .errors import DispatchCancelledError

if TYPE_CHECKING:
    from .resources import Table

T = TypeVar("T")

_here = threading.local()


def here() -> Worker:
    """The worker on whose thread this is called.

    Raises: RuntimeError: on any other thread.
    """
    worker = here_or_none()
    if worker is None:
        msg = "this thread runs no warm loop"
        raise RuntimeError(msg)
    return worker


def here_or_none() -> Worker | None:
    """The same, or None."""
    return getattr(_here, "worker", None)


_LOG = logging.getLogger("flowcheck_reference.looppool")


class Owner(Protocol):
    """The pool, as a worker sees it."""

    def moved(self, worker: Worker) -> None:
        """It is gone: what is in its mailbox is another's."""
        ...

    def ended(self, worker: Worker) -> None:
        """It is over."""
        ...


class Worker:
    """Runs dispatches on its loop until it has been idle for its TTL, or is told to leave; then it drains the loop.

    Guarantees:
    - All but `post`, `leave` and `wait` runs on its own thread; `live`, `idle_since` and the tables are touched there only.
    - Who posts appends and then looks at `gone`; the worker sets `gone` and then empties the mailbox. So what is posted is
      popped by somebody, once: by the loop, which runs it, or by whoever `moved` it to the next worker.
    - `gone` is set before the first task is cancelled: a reap that is stuck holds up nobody who comes later.
    - Once `over` is set the thread does nothing more but end, and all dispatches that it ran are settled.
    """

    def __init__(self, owner: Owner, name: str, ttl: float | None, limit: float) -> None:
        self.mailbox: deque[Dispatched[Any]] = deque()
        self.poked = self.gone = False
        self.over = threading.Event()
        self.left: list[str] = []
        """What was cut off, once `over`."""
        self.tables: dict[object, Table[Any]] = {}
        self.spared: set[asyncio.Task[Any]] = set()
        """Finalizers that run: a reap waits for them, and does not cancel them."""
        self._ttl, self._limit = ttl, limit
        self.owner, self._moved = owner, owner.moved
        self.context = Context()
        """Of nobody: for what outlives the call that it was begun in."""
        self._live = 0
        self._running: set[Dispatched[Any]] = set()
        self._idle_since = 0.0
        self._timer: asyncio.Handle | None = None
        # a loop keeps the context that it is made in: not that of whoever dispatches first
        self.loop = self.context.run(asyncio.new_event_loop)
        try:
            self._bell = self.context.run(Bell, self.loop, self._collect)
            self._threads = Threads(thread_name_prefix=f"{name} executor")
            self.loop.set_default_executor(self._threads)
            # a daemon, so that a process whose coroutine is stuck in a call can end; one that isn't is drained at exit
            self.thread = threading.Thread(target=self._run, daemon=True, name=name)
            self.thread.start()
        except BaseException:
            self.loop.close()
            raise

    # --- from any thread -------------------------------------------------------------------------------------------------

    def post(self, dispatched: Dispatched[Any]) -> None:
        """Run it. One wake-up serves all that is posted until the loop comes round."""
        self.mailbox.append(dispatched)
        if not self.poked:
            self.poked = True
            self._bell.ring()
        if self.gone:
            self._moved(self)

    def leave(self) -> None:
        """Take no more, drain, end."""
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._leave)

    def wait(self) -> list[str]:
        """Wait until it is over, about as long as its limit allows: what was cut off, a line for each."""
        if self.over.wait(self._limit):
            return self.left
        # either it has only just begun to leave, or a coroutine holds the thread
        if self.gone and self.over.wait(self._limit + 0.1):
            return self.left
        frame = sys._current_frames().get(self.thread.ident or 0)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        where = f", at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}" if frame is not None else ""
        self.gone = True
        self._moved(self)
        for dispatched in list(self._running):
            dispatched.settle(None, DispatchCancelledError("the pool was stopped, and its thread is stuck"))
        return [f"thread '{self.thread.name}', which is stuck{where}"]

    # --- on its own ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        _here.worker = self
        try:
            while not self.gone:
                try:
                    self.loop.run_forever()  # somebody else's `loop.stop()` ends it too: then it goes on
                except BaseException as error:  # noqa: BLE001  SystemExit of a task that somebody left behind
                    _LOG.error("a task on %s raised %r; the loop goes on", self.thread.name, error)
                    if self.loop.is_closed():
                        self.gone = True
            self._bell.silence()
            self._moved(self)
            self._drain()
        finally:
            asyncio.set_event_loop(None)
            self.gone = True
            self._moved(self)
            for dispatched in list(self._running):
                dispatched.settle(None, DispatchCancelledError("its loop was reaped, and it did not end in time"))
            self._running.clear()
            self.over.set()
            self.owner.ended(self)

    def _drain(self) -> None:
        if self.loop.is_closed():
            self.left = ["the loop, which somebody closed"]
            return
        drain = Drain(self.loop, self._threads, self._limit, self.spared, self._finalizers)
        try:
            drain()
        finally:
            self.left = drain.left

    def _finalizers(self) -> list[Coroutine[Any, Any, None]]:
        tables, self.tables = self.tables, {}
        return [finalizer for table in tables.values() for finalizer in table.finalizers()]

    def _collect(self) -> None:
        """Begin what is in the mailbox."""
        self.poked = False
        if self.gone:
            self._moved(self)
            return
        begun: list[Dispatched[Any]] = []
        while self.mailbox:
            try:
                dispatched = self.mailbox.popleft()
            except IndexError:
                break  # it was moved
            self._live += 1
            self._running.add(dispatched)
            dispatched.begin(self)
            begun.append(dispatched)
        if begun:
            self.loop.call_soon(self._look, begun)  # behind their first steps

    def _look(self, begun: list[Dispatched[Any]]) -> None:
        """Whoever cancelled all tasks of the loop may have met some that had not begun: nothing of those ever runs."""
        for dispatched in begun:
            if not dispatched.done() and not dispatched.begun and dispatched.task_is_over:
                self.ended(dispatched, None, DispatchCancelledError("cancelled before it began"))

    def ended(self, dispatched: Dispatched[T], value: T | None, error: BaseException | None) -> None:
        """Called once for each that began here."""
        if dispatched in self._running:
            self._running.discard(dispatched)
            dispatched.settle(value, error)
            self.rest()

    def hold(self) -> None:
        """Somebody uses the loop for longer than a dispatch: it is not idle until `rest`."""
        self._live += 1

    def rest(self) -> None:
        """One user fewer. The last one starts the clock."""
        self._live -= 1
        if not self._live and self._ttl is not None and not self.gone:
            self._idle_since = self.loop.time()
            if self._timer is None:
                self._clock(self._ttl)

    def _clock(self, seconds: float) -> None:
        """One timer is enough however often the loop falls idle: it looks when that was."""
        # in a context of the worker's own: a handle keeps the one it is made in, and this one outlives its dispatch
        if seconds > 0:
            self._timer = self.loop.call_later(seconds, self._expire, context=self.context)
        else:
            self._timer = self.loop.call_soon(self._expire, context=self.context)

    def _expire(self) -> None:
        self._timer = None
        if self._live or self.mailbox or self.gone or self._ttl is None:
            return
        remaining = self._idle_since + self._ttl - self.loop.time()
        if remaining > 0:
            self._clock(remaining)
        else:
            self._leave()

    def _leave(self) -> None:
        if not self.gone:  # else it drains already, and must not be stopped in that
            self.gone = True
            self.loop.stop()
