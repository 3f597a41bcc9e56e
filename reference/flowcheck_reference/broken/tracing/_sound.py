"""What the broken tracers start from: three that keep every rule, with one method for each thing to spoil.

`Counting` has a deque and counts what it accepted and what is done, under a condition; `Listening` is a queue and a thread that
reads it, as in `logging.handlers`; `Pumping` is a task on the loop that opened it, and nobody else's. None knows the reference
tracer.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager, suppress
from queue import SimpleQueue
from time import monotonic
from typing import Any, ClassVar

import anyio

from pytest_flowcheck.protocols import Closed

ALL = frozenset({"atexit", "fork"})

LOG = logging.getLogger(__name__)

tracers: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    deadline = monotonic() + 2.0  # for all of them: those that are wrong may never be through
    for tracer in list(tracers):
        tracer.limit = max(0.0, deadline - monotonic())
        tracer.at_exit()


def _after_fork() -> None:
    for tracer in list(tracers):
        tracer.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Counting:
    """One lock; events are counted in and out."""

    batch = 64

    def __init__(self, sink: Any, capacity: int, limit: float | None) -> None:
        self.sink, self.capacity, self.limit = sink, capacity, limit
        self.fresh()
        tracers.add(self)

    def fresh(self) -> None:
        """Nothing has happened yet."""
        self.changed = threading.Condition(threading.Lock())
        self.events: deque[Any] = deque()
        self.accepted = self.done = self.lost = 0
        self.closed = self.told = False
        self.thread: threading.Thread | None = None
        self.waiting: list[tuple[int, Callable[[], object]]] = []

    # --- who emits ---

    def emit(self, event: Any) -> None:
        with self.changed:
            if self.closed:
                self.late()
                return
            if not self.has_room():
                self.drop()
                return
            self.put(self.copy(event))
            self.accepted += 1
            self.start()
            self.changed.notify_all()

    def copy(self, event: Any) -> Any:
        """As it is now."""
        return dict(event)

    def put(self, event: Any) -> None:
        """To the end of the queue."""
        self.events.append(event)

    def has_room(self) -> bool:
        """For one more."""
        return len(self.events) < self.capacity

    def drop(self) -> None:
        """There is no room for it."""
        self.lost += 1

    def late(self) -> None:
        """It is closed."""
        raise Closed("the tracer is closed")

    def start(self) -> None:
        """See that there is a dispatcher."""
        if self.thread is None:
            self.thread = threading.Thread(target=self.serve, daemon=True, name="dispatcher")
            self.thread.start()

    def dropped(self) -> int:
        return self.lost

    # --- the dispatcher ---

    def serve(self) -> None:
        """Until it is closed, and nothing is left."""
        while batch := self.take():
            self.deliver(batch)

    def take(self) -> list[Any]:
        """What comes next."""
        with self.changed:
            self.changed.wait_for(lambda: self.events or self.closed)
            return [self.events.popleft() for _ in range(min(len(self.events), self.batch))]

    def deliver(self, batch: list[Any]) -> None:
        """To the sink, which may fail."""
        try:
            self.post(batch)
        except Exception as error:
            self.failed(batch, error)
        else:
            self.told = False
        self.finished(len(batch))

    def post(self, batch: list[Any]) -> None:
        """Call the sink."""
        self.sink(batch)

    def failed(self, batch: list[Any], error: Exception) -> None:
        """The sink raised."""
        if not self.told:
            self.told = True
            LOG.error("the sink failed on %d events", len(batch), exc_info=error)

    def finished(self, count: int) -> None:
        """So many more are through."""
        with self.changed:
            self.done += count
            tell = [each for target, each in self.waiting if target <= self.done]
            self.waiting = [(target, each) for target, each in self.waiting if target > self.done]
            self.changed.notify_all()
        for each in tell:
            each()

    # --- who waits ---

    def flush(self) -> Any:
        return self.wait()

    def wait(self) -> bool:
        """Until all that was accepted is through."""
        with self.changed:
            target = self.accepted
            if threading.current_thread() is self.thread:
                return self.done >= target
            return self.changed.wait_for(lambda: self.done >= target, self.limit)

    def close(self) -> Any:
        delivered = self.end()
        if delivered and self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join()
        return delivered

    def end(self) -> bool:
        """Take no more, and deliver."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        return self.wait()

    # --- the process ---

    def at_exit(self) -> None:
        """Nobody closed it."""
        self.wait()

    def forked(self) -> None:
        """There is no dispatcher here."""
        closed = self.closed
        self.fresh()
        self.closed = closed


class CountingOnLoops(Counting):
    """Whose flush and close are awaited, on asyncio or trio."""

    async def flush(self) -> Any:
        return await self.wait_there()

    async def close(self) -> Any:
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        return await self.wait_there()

    async def wait_there(self) -> bool:
        """Until all that was accepted is through; the loop goes on."""
        event = anyio.Event()
        tell = soon(event.set)
        with self.changed:
            target = self.accepted
            if self.done >= target:
                return True
            self.waiting.append((target, tell))
        with anyio.move_on_after(self.limit):
            await event.wait()
        return self.done >= target


def soon(call: Callable[[], object]) -> Callable[[], None]:
    """To be called from any thread; on the loop that runs here."""
    post: Any
    try:
        post = asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        import trio

        post = trio.lowlevel.current_trio_token().run_sync_soon

    def tell() -> None:
        with suppress(RuntimeError):  # that loop is over
            post(call)

    return tell


class Listening:
    """A queue and its listener, which is there from the beginning. Flushes wait in the queue, as events do."""

    def __init__(self, sink: Any, capacity: int, limit: float | None) -> None:
        self.sink, self.capacity, self.limit = sink, capacity, limit
        self.lock, self.lost, self.told = threading.Lock(), 0, False
        self.open()
        tracers.add(self)

    def open(self) -> None:
        """With an empty queue."""
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self.ended: threading.Event | None = None
        self.thread = threading.Thread(target=self.listen, args=(self.queue,), daemon=True, name="listener")
        self.thread.start()

    def emit(self, event: Any) -> None:
        if self.ended is not None:
            raise Closed("the listener has stopped")
        if self.queue.qsize() >= self.capacity:
            with self.lock:
                self.lost += 1
            return
        self.queue.put(dict(event))

    def listen(self, queue: SimpleQueue[Any]) -> None:
        """Hand over one after the other."""
        while True:
            item = queue.get()
            if isinstance(item, threading.Event):
                item.set()
                if item is self.ended:
                    return
                continue
            try:
                self.sink([item])
            except Exception as error:
                if not self.told:
                    self.told = True
                    LOG.error("the sink failed", exc_info=error)
            else:
                self.told = False

    def dropped(self) -> int:
        return self.lost

    def flush(self) -> bool:
        mark = threading.Event()
        if self.ended is not None:
            mark = self.ended
        else:
            self.queue.put(mark)
        return threading.current_thread() is self.thread or mark.wait(self.limit)

    def end(self) -> bool:
        """Behind all that is in the queue."""
        with self.lock:
            if self.ended is None:
                self.ended = threading.Event()
                self.queue.put(self.ended)
        return threading.current_thread() is self.thread or self.ended.wait(self.limit)

    close = end

    def at_exit(self) -> None:
        """Nobody closed it."""
        if self.thread.is_alive():
            self.flush()

    def forked(self) -> None:
        """The listener is not here."""
        self.lock = threading.Lock()
        if self.ended is None:
            self.open()


class Pumping:
    """A task of the loop that opened it awaits the sink; on asyncio."""

    def __init__(self, sink: Any, capacity: int, limit: float | None) -> None:
        self.sink, self.capacity, self.limit = sink, capacity, limit
        self.events: deque[Any] = deque()
        self.accepted = self.done = self.lost = 0
        self.closed = self.told = False
        self.pumps: dict[Any, asyncio.Task[None]] = {}
        self.moved: set[asyncio.Event] = set()

    def emit(self, event: Any) -> None:
        if self.closed:
            raise Closed("the tracer is closed")
        if len(self.events) >= self.capacity:
            self.lost += 1
            return
        self.events.append(dict(event))
        self.accepted += 1
        loop = asyncio.get_running_loop()
        if loop not in self.pumps:
            self.pumps[loop] = loop.create_task(self.pump(loop))

    async def pump(self, loop: Any) -> None:
        """Until there is nothing; the next event starts another."""
        while self.events:
            batch = [self.events.popleft() for _ in range(min(len(self.events), 64))]
            try:
                await self.sink.aio(batch)
            except Exception as error:
                if not self.told:
                    self.told = True
                    LOG.error("the sink failed on %d events", len(batch), exc_info=error)
            else:
                self.told = False
            finally:
                self.done += len(batch)
                for event in self.moved:
                    event.set()
        del self.pumps[loop]

    def dropped(self) -> int:
        return self.lost

    async def flush(self) -> bool:
        target, inside = self.accepted, asyncio.current_task() in self.pumps.values()
        moved = asyncio.Event()
        self.moved.add(moved)
        try:
            async with asyncio.timeout(self.limit):
                while self.done < target and not inside:
                    moved.clear()
                    await moved.wait()
        except TimeoutError:
            return False
        finally:
            self.moved.discard(moved)
        return True

    async def close(self) -> bool:
        self.closed = True
        return await self.flush()

    async def end(self) -> bool:
        """What is under way ends with it."""
        return await self.close()


class Sound:
    """A subject whose tracer is `Counting`."""

    Tracer: ClassVar[type[Any]] = Counting
    version: ClassVar[str] = "broken on purpose"
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    claimed: ClassVar[AbstractSet[str]] = ALL

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        return {"tracing": self.claimed}

    @contextmanager
    def tracing(self, *, sink: Any, capacity: int | None = None, limit: float | None = None) -> Generator[Any]:
        tracer = self.Tracer(sink, capacity or 10_000, limit)
        try:
            yield tracer
        finally:
            tracer.end()


class SoundListener(Sound):
    """A subject whose tracer is `Listening`."""

    Tracer: ClassVar[type[Any]] = Listening


class SoundOnLoops(Sound):
    """A subject whose tracer is `CountingOnLoops`."""

    Tracer: ClassVar[type[Any]] = CountingOnLoops
    claimed: ClassVar[AbstractSet[str]] = frozenset()
    backends: ClassVar[tuple[str, ...]] = ("asyncio", "trio")

    @asynccontextmanager
    async def tracing(  # type: ignore[override]
        self, *, sink: Any, capacity: int | None = None, limit: float | None = None
    ) -> AsyncGenerator[Any]:
        tracer = self.Tracer(sink, capacity or 10_000, limit)
        try:
            yield tracer
        finally:
            await tracer.close()


class SoundPump(SoundOnLoops):
    """A subject whose tracer is `Pumping`."""

    Tracer: ClassVar[type[Any]] = Pumping
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"tracing": {"loops": "own"}}
    backends: ClassVar[tuple[str, ...]] = ("asyncio",)


class Plain(Sound):
    """It promises nothing but the facet: what is not claimed need not be judged to show its bug."""

    claimed: ClassVar[AbstractSet[str]] = frozenset()


class OnLoops(SoundOnLoops):
    """The same, awaited on asyncio."""

    backends: ClassVar[tuple[str, ...]] = ("asyncio",)
