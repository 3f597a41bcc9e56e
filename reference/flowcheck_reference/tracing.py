"""Events for a sink, handed over in passing: whoever emits never waits for the sink.

An emit appends to a queue and, if the dispatcher sleeps, wakes it. The dispatcher is one thread; it gives the sink what has
come, in batches, and then *lingers*: for a moment it is not asleep, and emits cost an append only. Nothing came meanwhile, and
it sleeps without a timer.

Guarantees:
- `_asleep` holds one token while the dispatcher sleeps, or is not there yet; `list.pop` is one step, so one emit of many gets
  it, and wakes or starts the dispatcher (TRC-11, 17). Whoever sleeps puts it there first and then looks at the queue once
  more: an event is seen by the one or the other.
- An emit takes no lock. So it can be made anywhere: from the sink, from a signal handler or a finaliser in the middle of
  another emit (TRC-08).
- `_queue` is first in, first out; a `Mark` in it comes after all that the same thread emitted before (TRC-02, 03).
- The dispatcher holds no lock while it is in the sink. The asleep one refers to its tracer weakly: a tracer that nobody refers
  to ends its dispatcher.
"""
from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, cast

from ._tracing.marks import Mark
from ._tracing.sinks import HttpPost, JsonLines, Spans

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

__all__ = ["HttpPost", "JsonLines", "Spans", "Tracer", "TracerClosedError"]

E = TypeVar("E")

log: Final = logging.getLogger("flowcheck_reference")

_AS_SAID: Final = -1.0
"""The tracer's own limit."""


class TracerClosedError(RuntimeError):
    """Emitted after `close`, where the tracer was told to raise."""


class Tracer(Generic[E]):
    """Hands events to a sink behind the caller's back.

        with Tracer(JsonLines("trace.jsonl")) as tracer:
            tracer.emit({"kind": "request", "path": "/"})

    `sink(batch)`: called with a list of events, on the dispatcher's thread. What it raises is given to `on_error(error, batch)`,
    or logged; once, until a batch is delivered again. The batch is lost, and counted.
    `capacity`: so many events wait at most; what comes then is dropped, and counted. `batch`: the sink gets so many at once
    at most.
    `linger`: seconds for which the dispatcher, when it has delivered, gathers what comes before it looks again.
    `limit`: seconds that `flush`, `close` and the end of the process wait for the sink at most; None: as long as it takes.
    `after_close`: what an emit after `close` does: "ignore" counts it as dropped; "raise" raises TracerClosedError.

    A dict is copied when it is emitted, and may be changed afterwards (TRC-16); what is nested in it is not copied, and other
    objects are handed over as they are, but for lists and other mappings. A process that ends delivers first (TRC-04). The
    child of a fork starts with an empty queue and a dispatcher of its own; what was emitted before is its parent's (TRC-09).
    """

    def __init__(
        self,
        sink: Callable[[list[E]], object],
        *,
        capacity: int = 16_384,
        batch: int = 512,
        linger: float = 0.01,
        limit: float | None = 10.0,
        after_close: Literal["ignore", "raise"] = "ignore",
        on_error: Callable[[BaseException, list[E]], object] | None = None,
    ) -> None:
        """Raises: ValueError for a capacity or batch below 1, a linger or limit below 0, an unknown `after_close`."""
        if capacity < 1 or batch < 1:
            msg = f"capacity and batch must be at least 1, not {capacity} and {batch}"
            raise ValueError(msg)
        if linger < 0 or (limit is not None and limit < 0):
            msg = f"linger and limit must be at least 0, not {linger} and {limit}"
            raise ValueError(msg)
        if after_close not in ("ignore", "raise"):
            msg = f"after_close must be 'ignore' or 'raise', not {after_close!r}"
            raise ValueError(msg)
        self._sink, self._on_error = sink, on_error
        self._capacity, self._batch, self._linger, self._limit = capacity, batch, linger, limit
        self._raises = after_close == "raise"
        self._end = Mark()
        self._closing = threading.RLock()
        """Who closes first."""
        self._fresh()
        _tracers.add(self)

    def _fresh(self) -> None:
        """As if nothing had happened yet."""
        self._queue: deque[E | Mark] = deque()
        self._asleep: list[None] = [None]
        self._lingers: list[None] = []
        self._bell = _shut()
        self._thread: threading.Thread | None = None
        self._room = (self._capacity + 1) // 2
        """With fewer in the queue an emit need not look any further."""
        self._flying = 0
        """How many events the sink is given at the moment."""
        self._drops, self._asked, self._counting = count(), 0, threading.RLock()
        self._closed = self._abandoned = self._failing = False

    # --- who emits -----------------------------------------------------------------------------------------------------

    def emit(self, event: E) -> None:
        """Hand over an event; from any thread, coroutine, or the sink. It never waits for the sink.

        Raises: TracerClosedError after `close`, if that was asked for.
        """
        queue = self._queue
        if len(queue) < self._room:
            queue.append(event.copy() if type(event) is dict else _snapshot(event))  # type: ignore[attr-defined]
            if self._asleep:
                self._wake()
        else:
            self._crowded(event)

    def _crowded(self, event: E) -> None:
        """The queue is half full, or the tracer closed."""
        if self._closed:
            next(self._drops)
            if self._raises:
                msg = "the tracer is closed"
                raise TracerClosedError(msg)
            return
        if len(self._queue) < self._capacity:
            self._queue.append(cast("E", _snapshot(event)))
        else:
            next(self._drops)
        self._wake()
        self._hurry()

    def _wake(self) -> None:
        """Whoever gets the token wakes the dispatcher; among many emits, one."""
        try:
            self._asleep.pop()
        except IndexError:
            return
        if self._thread is not None:
            self._bell.release()
        else:
            self._rouse()

    def _hurry(self) -> None:
        """It need not linger any longer."""
        with suppress(IndexError):
            self._lingers.pop()
            self._bell.release()

    def _rouse(self) -> None:
        """Wake the dispatcher, or start it; for whoever has the token."""
        if self._thread is not None:
            self._bell.release()
            return
        if self._closed and not self._queue:
            self._asleep.append(None)
            return
        thread = threading.Thread(
            target=_serve, args=(weakref.ref(self, _rings(self._bell)), self._bell), name="flowcheck-tracer", daemon=True
        )
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # no more threads, or the interpreter is ending: `_at_exit` sees to the queue
            self._thread = None
            self._asleep.append(None)

    @property
    def dropped(self) -> int:
        """How many events were not delivered, and won't be: no room, a batch whose sink raised, cut off by a close, or late."""
        with self._counting:
            self._asked += 1  # each question counts, too: a look at the counter takes a step of it
            return next(self._drops) - self._asked + 1

    # --- who waits -----------------------------------------------------------------------------------------------------

    def flush(self, limit: float | None = _AS_SAID) -> int:
        """Wait until all that this thread emitted is delivered.

        `limit`: seconds, if not the tracer's own; None: as long as it takes. From inside the sink it waits for nothing.

        Returns: how many events were not delivered within the limit; 0 if all were.
        """
        mark = self._marked()
        return 0 if mark is None or (self._mayhap(mark) and mark.wait(self._seconds(limit))) else self._undelivered()

    async def aflush(self, limit: float | None = _AS_SAID) -> int:
        """`flush`, awaited on asyncio or trio."""
        mark = self._marked()
        if mark is None or (self._mayhap(mark) and await mark.await_(self._seconds(limit))):
            return 0
        return self._undelivered()

    def close(self, limit: float | None = _AS_SAID) -> int:
        """Take no more, deliver, and end the dispatcher. Any number of times, from any thread.

        Where the sink is stuck, what it was not given within the limit is dropped; the dispatcher ends when the sink comes
        back. `sink.close()`, if there is one, is called behind the last batch.

        Returns: how many events were not delivered within the limit; 0 if all were.
        """
        mark = self._last()
        if not (self._mayhap(mark) and mark.wait(self._seconds(limit))):
            return self._abandon()
        if (thread := self._thread) is not None and thread is not threading.current_thread():
            thread.join()  # it has done with the sink
        return 0

    async def aclose(self, limit: float | None = _AS_SAID) -> int:
        """`close`, awaited on asyncio or trio."""
        mark = self._last()
        return 0 if self._mayhap(mark) and await mark.await_(self._seconds(limit)) else self._abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    def _seconds(self, limit: float | None) -> float | None:
        return self._limit if limit == _AS_SAID else limit

    def _mayhap(self, mark: Mark) -> bool:
        """Whether waiting for it can help: the dispatcher can't wait for itself."""
        return mark.over or threading.current_thread() is not self._thread

    def _marked(self) -> Mark | None:
        """The place behind all that was emitted; None if that is delivered."""
        if self._closed:
            return self._end
        if not self._queue and self._asleep:
            return None  # it lay down when it had delivered everything
        mark = Mark()
        self._queue.append(mark)
        self._wake()
        self._hurry()
        if self._room < 0:  # closed meanwhile: it may stand behind the end
            self._end.when_over(mark.ring)
        return mark

    def _last(self) -> Mark:
        """The end of the queue."""
        with self._closing:
            if self._closed:
                return self._end
            self._closed, self._room = True, -1
            self._queue.append(self._end)
        try:
            self._asleep.pop()
        except IndexError:
            self._hurry()
            return self._end
        if self._thread is None and len(self._queue) == 1:
            self._finish()  # it never began
        else:
            self._rouse()
        return self._end

    def _undelivered(self) -> int:
        return self._flying + sum(type(item) is not Mark for item in tuple(self._queue))

    def _abandon(self) -> int:
        """What is not in the sink yet never will be."""
        left = self._undelivered()
        if threading.current_thread() is not self._thread:
            self._abandoned = True
        return left

    # --- the dispatcher ------------------------------------------------------------------------------------------------

    def work(self) -> bool:
        """Deliver what there is, and what comes while it lingers; on the dispatcher's thread. Whether it goes on."""
        came = False
        while not self._abandoned:
            batch, mark = self._take()
            if batch:
                self._deliver(batch)
                came = True
            if mark is not None:
                if mark is self._end:
                    break
                mark.ring()
            if self._queue:
                continue
            if came and self._linger:
                came = False
                self._gather()
                continue
            self._asleep.append(None)
            if not self._queue:
                return True
            try:
                self._asleep.pop()
            except IndexError:
                return True  # somebody has rung
        self._finish()
        return False

    def _gather(self) -> None:
        self._lingers.append(None)
        if not (self._closed or self._bell.acquire(timeout=self._linger)):
            try:
                self._lingers.pop()
            except IndexError:
                self._bell.acquire()  # somebody rings at this very moment
        elif self._lingers:  # closed before it lay down
            with suppress(IndexError):
                self._lingers.pop()
                return
            self._bell.acquire()

    def _take(self) -> tuple[list[E], Mark | None]:
        """What comes next: as many events as make a batch, or those in front of a mark."""
        batch: list[E] = []
        take, most = self._queue.popleft, self._batch
        with suppress(IndexError):
            while len(batch) < most:
                item = take()
                if type(item) is Mark:
                    return batch, item
                batch.append(cast("E", item))
        return batch, None

    def _deliver(self, batch: list[E]) -> None:
        self._flying = len(batch)
        try:
            self._sink(batch)
        except BaseException as error:  # noqa: BLE001  SystemExit, too: the dispatcher goes on
            for _ in batch:
                next(self._drops)
            if not self._failing:
                self._failing = True
                self._tell(error, batch)
        else:
            self._failing = False
        finally:
            self._flying = 0

    def _tell(self, error: BaseException, batch: list[E]) -> None:
        if self._on_error is None:
            log.error("the sink of a tracer failed; %d events are lost, or more", len(batch), exc_info=error)
            return
        try:
            self._on_error(error, batch)
        except Exception:
            log.exception("on_error raised")

    def _finish(self) -> None:
        """What is in the queue behind the end came too late; nobody will look at it any more."""
        close = getattr(self._sink, "close", None)
        if callable(close) and self._thread is not None:
            try:
                close()
            except Exception:
                log.exception("closing the sink of a tracer failed")
        self._asleep.append(None)
        with suppress(IndexError):
            while True:
                item = self._queue.popleft()
                if type(item) is Mark:
                    item.ring()
                else:
                    next(self._drops)
        self._end.ring()

    # --- the process ---------------------------------------------------------------------------------------------------

    def at_exit(self) -> None:
        """Deliver what is left."""
        if self._thread is None and self._queue and not self._closed:
            while batch := self._take()[0]:  # no thread could be started any more
                self._deliver(batch)
        elif left := self.flush():
            log.warning("the process ends, and %d events were not delivered within the limit", left)

    def forked(self) -> None:
        """In the child of a fork, where there is no dispatcher, and whatever it was doing is undone."""
        closed = self._closed
        self._closing = threading.RLock()
        self._end = Mark()
        self._fresh()
        if closed:
            self._closed, self._room = True, -1
            self._end.ring()


def _snapshot(event: Any) -> Any:
    """As it is now, if it is one of the usual things that change: those have no hash."""
    if type(event).__hash__ is not None:
        return event
    if isinstance(event, MutableMapping):
        return dict(event)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    copied: Any = cast("Any", event).copy() if isinstance(event, list | set | bytearray) else event
    return copied


def _shut() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


def _rings(bell: threading.Lock) -> Callable[[object], None]:
    """Nobody refers to the tracer any more: its dispatcher, which then sleeps, may end."""
    return lambda _: bell.release()


def _serve(reference: weakref.ref[Tracer[Any]], bell: threading.Lock) -> None:
    """The dispatcher: it sleeps here, and holds nothing meanwhile."""
    while (tracer := reference()) is not None and tracer.work():
        del tracer
        bell.acquire()


_tracers: Final[weakref.WeakSet[Tracer[Any]]] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    for tracer in list(_tracers):
        tracer.at_exit()


def _forked() -> None:
    for tracer in list(_tracers):
        tracer.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
