"""What the broken loop pools start from: two pools that keep every rule, with one method for each thing to spoil.

`Engine` counts users under a lock, posts by `call_soon_threadsafe`, and has a timer thread for the TTL; its resources are
made and finalised on the callers' threads. `AsyncEngine` is awaited on asyncio, and makes resources on its caller's loop.
Neither knows the reference pool.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import weakref
from collections.abc import AsyncGenerator, Generator, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, ClassVar

from pytest_flowcheck.protocols import Closed, Refused

ALL = frozenset({"context", "drain", "nested", "resources", "ttl"})

_LOG = logging.getLogger(__name__)

engines: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for engine in list(engines):
        engine.stop_now()


class Threads(ThreadPoolExecutor):
    """The loops' default executor: its threads can be waited for within a limit."""

    def end(self, deadline: float) -> bool:
        """Whether all of them have ended by then."""
        self.shutdown(wait=False, cancel_futures=True)
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


@dataclass(eq=False)
class Warm:
    """A loop, its thread, and who uses it."""

    loop: asyncio.AbstractEventLoop
    threads: Threads
    thread: threading.Thread = field(init=False)
    users: int = 0
    uses: int = 0
    """Goes up with each use: a timer of an earlier one is late."""
    leaving: bool = False
    over: threading.Event = field(default_factory=threading.Event)
    futures: set[Future[Any]] = field(default_factory=set[Future[Any]])
    tasks: set[asyncio.Task[Any]] = field(default_factory=set[asyncio.Task[Any]])
    timer: threading.Timer | None = None


class Core:
    """The warm loop, in whichever way its callers wait."""

    def __init__(self, ttl: float | None, limit: float, make: Any = None, finalize: Any = None) -> None:
        self.ttl, self.limit = ttl, limit
        self.make, self.finalize = make, finalize
        self.lock = threading.RLock()
        self.current: Warm | None = None
        self.all: set[Warm] = set()
        self.stopped = False
        engines.add(self)

    # --- one dispatch ----------------------------------------------------------------------------------------------------

    def post(self, body: Any) -> tuple[Warm, Future[Any]]:
        """Have it run on the warm loop, as a use of it."""
        future: Future[Any] = Future()
        context = self.context()
        with self.lock:  # else it could be reaped before it is told
            warm = self.enter()
            warm.futures.add(future)
            warm.loop.call_soon_threadsafe(self.begin, warm, future, body, context)
        return warm, future

    def context(self) -> Context:
        """In which the coroutine runs."""
        return copy_context()

    def begin(self, warm: Warm, future: Future[Any], body: Any, context: Context) -> None:
        """On the loop."""
        task = warm.loop.create_task(self.carry(warm, future, body), context=context)
        warm.tasks.add(task)
        task.add_done_callback(lambda task: self.carried(warm, future, task))

    async def carry(self, warm: Warm, future: Future[Any], body: Any) -> None:
        """The task of a dispatch."""
        try:
            value = await self.call(warm, body)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.failed(warm, future, error)
        else:
            if not future.done():
                future.set_result(value)

    async def call(self, warm: Warm, body: Any) -> Any:
        """The coroutine."""
        return await body.aio()

    def failed(self, warm: Warm, future: Future[Any], error: BaseException) -> None:
        """It raised."""
        if not future.done():
            future.set_exception(error)

    def carried(self, warm: Warm, future: Future[Any], task: asyncio.Task[None]) -> None:
        """Its task has ended, perhaps without having begun."""
        warm.tasks.discard(task)
        warm.futures.discard(future)
        if not future.done():
            future.set_exception(CancelledError("the loop was reaped"))

    # --- uses and idleness -----------------------------------------------------------------------------------------------

    def enter(self) -> Warm:
        """Use the warm loop; make one if there is none."""
        with self.lock:
            if self.stopped:
                raise Closed("the pool was stopped")
            warm = self.current
            if warm is None or not warm.thread.is_alive():
                warm = self.current = self.made()
            warm.users += 1
            warm.uses += 1
            if warm.timer is not None:
                warm.timer.cancel()
                warm.timer = None
            return warm

    def leave(self, warm: Warm) -> None:
        """Use it no more."""
        with self.lock:
            warm.users -= 1
            if not warm.users and not warm.leaving:
                self.idle(warm)

    def idle(self, warm: Warm) -> None:
        """Nobody uses it: the clock starts. Under the lock."""
        if self.ttl is None:
            return
        if self.ttl == 0:
            self.retire(warm)
            return
        warm.timer = threading.Timer(self.ttl, self.expire, (warm, warm.uses))
        warm.timer.daemon = True
        warm.timer.start()

    def expire(self, warm: Warm, uses: int) -> None:
        """On the timer's thread."""
        with self.lock:
            if not warm.users and warm.uses == uses and not warm.leaving:
                self.retire(warm)

    def retire(self, warm: Warm) -> None:
        """It takes nothing more, and drains on its own thread. Under the lock."""
        if self.current is warm:
            self.current = None
        if not warm.leaving:
            warm.leaving = True
            with suppress(RuntimeError):
                warm.loop.call_soon_threadsafe(warm.loop.stop)

    # --- a loop's life ---------------------------------------------------------------------------------------------------

    def made(self) -> Warm:
        """A new one."""
        loop = asyncio.new_event_loop()
        warm = Warm(loop, Threads())
        loop.set_default_executor(warm.threads)
        warm.thread = threading.Thread(target=self.live, args=(warm,), daemon=self.daemon, name="sound loop")
        self.all.add(warm)
        warm.thread.start()
        return warm

    daemon = True

    def live(self, warm: Warm) -> None:
        """On its thread."""
        asyncio.set_event_loop(warm.loop)
        while not warm.leaving:
            with suppress(BaseException):
                warm.loop.run_forever()
        self.end(warm)

    def end(self, warm: Warm) -> None:
        """The last thing that its thread does."""
        deadline = monotonic() + self.limit
        try:
            self.drain(warm, deadline)
            self.close_generators(warm)
            self.end_threads(warm, deadline)
        finally:
            self.answer(warm)
            self.close_loop(warm)
            with self.lock:
                self.all.discard(warm)
            warm.over.set()

    def close_loop(self, warm: Warm) -> None:
        """Its descriptors are closed."""
        for task in asyncio.all_tasks(warm.loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # it was reported
        warm.loop.close()

    generations = 20

    def drain(self, warm: Warm, deadline: float) -> None:
        """Generation after generation."""
        for _ in range(self.generations):
            tasks = asyncio.all_tasks(warm.loop)
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            wait = asyncio.wait(tasks, timeout=max(0.0, deadline - monotonic()))
            _, stuck = warm.loop.run_until_complete(wait)
            if stuck:
                break
        if left := asyncio.all_tasks(warm.loop):
            self.report(f"{len(left)} tasks were cut off")

    def report(self, what: str) -> None:
        """What could not be ended."""
        _LOG.warning("%s", what)

    def close_generators(self, warm: Warm) -> None:
        """Those that nobody finished."""
        warm.loop.run_until_complete(warm.loop.shutdown_asyncgens())

    def end_threads(self, warm: Warm, deadline: float) -> None:
        """Those of the default executor."""
        if not warm.threads.end(deadline):
            self.report("a thread of the default executor is stuck")

    def answer(self, warm: Warm) -> None:
        """Whoever still waits is told."""
        for future in list(warm.futures):
            if not future.done():
                future.set_exception(CancelledError("the loop was reaped"))

    def stop_now(self) -> None:
        """Reap, and wait for it: as long as a loop may take to be told, and to end."""
        with self.lock:
            self.stopped = True
            warms = list(self.all)
            for warm in warms:
                self.retire(warm)
                if warm.timer is not None:
                    warm.timer.cancel()
        for warm in warms:
            if warm.thread is not threading.current_thread():
                self.wait(warm)

    def wait(self, warm: Warm) -> None:
        """For its end."""
        if warm.over.wait(2 * self.limit + 1.0):
            warm.thread.join()


@dataclass(eq=False)
class Shared:
    """A resource, and who has it."""

    key: str
    value: Any = None
    made: bool = False
    holders: int = 0
    dropped: bool = False
    ended: bool = False
    making: Any = None


@dataclass(eq=False)
class Held:
    """A lease."""

    shared: Shared

    @property
    def value(self) -> Any:
        return self.shared.value


class Table:
    """What both engines decide alike about resources; each step is atomic for its callers."""

    def __init__(self, ttl: float | None) -> None:
        self.ttl = ttl
        self.entries: dict[str, Shared] = {}
        self.everything: dict[Shared, None] = {}

    def hold(self, key: str) -> Shared:
        """The entry of this key, held once more."""
        shared = self.entries.get(key)
        if shared is None or not self.usable(shared):
            shared = self.entries[key] = Shared(key)
            self.everything[shared] = None
        shared.holders += 1
        return shared

    def usable(self, shared: Shared) -> bool:
        """Whether who acquires may get it."""
        return not shared.ended

    def let_go(self, shared: Shared) -> list[Shared]:
        """A holder less; what is to be finalised now."""
        shared.holders -= 1
        if not shared.holders and shared.made and (shared.dropped or self.ttl == 0):
            return self.ends([shared])
        return []

    def ends(self, found: list[Shared]) -> list[Shared]:
        """Those of them that were not finalised before."""
        ending = [shared for shared in found if shared.made and not shared.ended]
        for shared in ending:
            shared.ended = True
            self.everything.pop(shared, None)
            if self.entries.get(shared.key) is shared:
                del self.entries[shared.key]
        return ending

    def clear(self) -> list[Shared]:
        """Forget all; what is to be finalised now."""
        found, self.entries = list(self.entries.values()), {}
        for shared in found:
            shared.dropped = True
        return self.ends([shared for shared in found if not shared.holders])

    def end_all(self) -> list[Shared]:
        """At stop: what is to be finalised, held or not."""
        return self.ends(list(self.everything))


class Engine(Core):
    """Called from threads."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.table = self.make_table()
        self.making = threading.Condition(self.lock)

    def make_table(self) -> Table:
        return Table(self.ttl)

    def dispatch(self, body: Any) -> Any:
        self.refuse_inside()
        warm, future = self.post(body)
        try:
            return future.result()
        finally:
            self.leave(warm)

    def refuse_inside(self) -> None:
        """On the loop's own thread it would wait for itself."""
        if any(warm.thread is threading.current_thread() for warm in list(self.all)):
            raise Refused("dispatch on the pool's own loop would wait for itself")

    def stop(self) -> None:
        self.stop_now()
        self.finalise(self.table.end_all())

    def acquire(self, key: str) -> Held:
        with self.lock:
            shared = self.table.hold(key)
            mine = shared.making is None
            if mine:
                shared.making = True
            else:
                self.making.wait_for(lambda: shared.made)
        if mine:
            shared.value = self.make(key)
            with self.lock:
                shared.made = True
                self.making.notify_all()
        return Held(shared)

    def release(self, lease: Held) -> None:
        with self.lock:
            ending = self.table.let_go(lease.shared)
        self.finalise(ending)

    def clear(self) -> None:
        with self.lock:
            ending = self.table.clear()
        self.finalise(ending)

    def finalise(self, ending: list[Shared]) -> None:
        """Each of them, whatever the others do."""
        for shared in ending:
            with suppress(Exception):
                self.finalize(shared.value)


class AsyncEngine(Core):
    """Awaited on asyncio."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.table = Table(self.ttl)
        self.closing: set[asyncio.Task[None]] = set()

    async def dispatch(self, body: Any) -> Any:
        warm, future = self.post(body)
        try:
            return await self.wait_for(warm, future)
        finally:
            self.leave(warm)

    async def wait_for(self, warm: Warm, future: Future[Any]) -> Any:
        """On the caller's loop; a cancellation goes on to the coroutine."""
        waiter = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def wake(_: Any) -> None:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self.wake, waiter)

        future.add_done_callback(wake)
        try:
            await waiter
        except asyncio.CancelledError:
            self.cancel(warm, future)
            raise
        return future.result()

    def wake(self, waiter: asyncio.Future[None]) -> None:
        """Who waits, unless he was cancelled."""
        if not waiter.done():
            waiter.set_result(None)

    def cancel(self, warm: Warm, future: Future[Any]) -> None:
        """Cancel the coroutine of this dispatch."""

        def cancel() -> None:
            for task in warm.tasks:
                if task.get_coro().cr_frame.f_locals.get("future") is future:  # type: ignore[union-attr]
                    task.cancel()

        with suppress(RuntimeError):
            warm.loop.call_soon_threadsafe(cancel)

    async def stop(self) -> None:
        inside = any(warm.thread is threading.current_thread() for warm in list(self.all))
        if inside:
            self.stop_now()
            return
        await asyncio.get_running_loop().run_in_executor(None, self.stop_now)
        await self.finalise(self.table.end_all())

    async def acquire(self, key: str) -> Held:
        shared = self.table.hold(key)
        if shared.making is None:
            shared.making = asyncio.ensure_future(self.make_it(shared))
        try:
            await asyncio.shield(shared.making)
        except BaseException:
            await self.finalise(self.table.let_go(shared))
            raise
        return Held(shared)

    async def make_it(self, shared: Shared) -> None:
        shared.value = await self.make.aio(shared.key)
        shared.made = True
        if not shared.holders:
            shared.holders = 1
            await self.finalise(self.table.let_go(shared))

    async def release(self, lease: Held) -> None:
        await self.finalise(self.table.let_go(lease.shared))

    async def clear(self) -> None:
        await self.finalise(self.table.clear())

    async def finalise(self, ending: list[Shared]) -> None:
        """Beside the caller, so that his cancellation stops none."""
        tasks = [asyncio.ensure_future(self.finalise_one(shared)) for shared in ending]
        self.closing.update(tasks)
        for task in tasks:
            task.add_done_callback(self.closing.discard)
        if tasks:
            await asyncio.wait(tasks)

    async def finalise_one(self, shared: Shared) -> None:
        with suppress(Exception):
            await self.finalize.aio(shared.value)


class Sound:
    """The pool for threads, as a subject."""

    name = "sound-looppool"
    version = "1"
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"looppool": ALL}

    Pool: type[Engine] = Engine

    @contextmanager
    def looppool(
        self, *, ttl: float | None, limit: float | None = None, make: Any = None, finalize: Any = None
    ) -> Generator[Any]:
        engine = self.Pool(ttl, 5.0 if limit is None else limit, make, finalize)
        try:
            yield engine
        finally:
            engine.stop()


class SoundAsync:
    """The pool for loops, as a subject."""

    name = "sound-looppool-async"
    version = "1"
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"looppool": ALL}

    Pool: type[AsyncEngine] = AsyncEngine

    @asynccontextmanager
    async def looppool(
        self, *, ttl: float | None, limit: float | None = None, make: Any = None, finalize: Any = None
    ) -> AsyncGenerator[Any]:
        engine = self.Pool(ttl, 5.0 if limit is None else limit, make, finalize)
        try:
            yield engine
        finally:
            await engine.stop()


# A broken pool claims what its bug is about and little else: what is not claimed need not be judged to show it.


class Plain(Sound):
    """It promises contexts and nested dispatches only."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"looppool": frozenset({"context", "nested"})}


class PlainAsync(SoundAsync):
    """The same, awaited."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"looppool": frozenset({"context", "nested"})}


class Kept(Sound):
    """It has a TTL."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"looppool": frozenset({"ttl"})}


class KeptAsync(SoundAsync):
    """The same, awaited."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"looppool": frozenset({"ttl"})}


class Drained(Sound):
    """It drains over generations."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"looppool": frozenset({"drain"})}


class Sharing(Sound):
    """It has keyed resources."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"looppool": frozenset({"resources"})}
