"""Keyed resources that live on the warm loop: made once, counted while they are held, finalised once."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from flowcheck_reference._waiting import outcome

from .dispatched import Dispatched
from .worker import Worker, here

if TYPE_CHECKING:
    from flowcheck_reference.looppool import LoopPool

V = TypeVar("V")

Make: TypeAlias = Callable[[Any], "Awaitable[V] | V"]
Finalize: TypeAlias = Callable[[V], "Awaitable[object] | object"]

_LOG = logging.getLogger("flowcheck_reference.looppool")


class Entry(Generic[V]):
    """One resource, from the moment that somebody asks for it.

    Guarantees, all of it on one loop's thread: `holders` are those that wait for it and those that have it; it is
    finalised at most once, when it was made and has no holder, or at the end of its loop.
    """

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.making: asyncio.Task[V] | None = None
        self.holders = 0
        self.clock: asyncio.TimerHandle | None = None
        self.dropped = self.finalised = False

    @property
    def made(self) -> bool:
        making = self.making
        return making is not None and making.done() and not making.cancelled() and making.exception() is None


class Table(Generic[V]):
    """The resources of one `Resources` on one loop. All of it on that loop's thread."""

    def __init__(self, worker: Worker, make: Make[V], finalize: Finalize[V] | None, ttl: float | None) -> None:
        self._worker, self._make, self._finalize, self._ttl = worker, make, finalize, ttl
        self._entries: dict[Hashable, Entry[V]] = {}
        self._held: set[Entry[V]] = set()
        """Those that were forgotten while somebody holds them: the end of the loop must find them."""
        self._ended = False

    async def acquire(self, key: Hashable) -> Entry[V]:
        """Hold the resource of this key; make it if it is not there, and wait if somebody makes it."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = Entry(key)
            entry.making = self._worker.loop.create_task(self._made(key), context=self._worker.context.copy())
            entry.making.add_done_callback(lambda _: self._has_made(entry))
        if entry.clock is not None:
            entry.clock.cancel()
            entry.clock = None
        entry.holders += 1
        assert entry.making is not None
        try:
            # shielded: whoever is cancelled leaves, others wait for the same
            await asyncio.shield(entry.making)
        except BaseException:
            entry.holders -= 1
            self._rest(entry)
            raise
        self._worker.hold()
        return entry

    def release(self, entry: Entry[V]) -> None:
        """One holder fewer. `acquire` gave it, and its loop is not closed."""
        entry.holders -= 1
        self._rest(entry)
        self._worker.rest()

    async def clear(self) -> None:
        """Forget all of them, and finalise those that nobody holds."""
        entries, self._entries = self._entries, {}
        for entry in entries.values():
            entry.dropped = True
            self._held.add(entry)
        closing = [self._end(entry) for entry in entries.values() if entry.made and not entry.holders]
        if closing:
            await asyncio.wait(closing)

    def finalizers(self) -> list[Coroutine[Any, Any, None]]:
        """The loop ends: what is to be run on it for those that are left, held or not."""
        self._ended = True
        left = [entry for entry in (*self._entries.values(), *self._held) if entry.made and not entry.finalised]
        self._entries.clear()
        self._held.clear()
        for entry in left:
            entry.finalised = True
        return [self._finalized(entry) for entry in left]

    async def _made(self, key: Hashable) -> V:
        value: Any = self._make(key)
        return cast("V", await value if inspect.isawaitable(value) else value)

    def _has_made(self, entry: Entry[V]) -> None:
        if entry.made:
            self._rest(entry)  # all who had waited for it may have left
        elif self._entries.get(entry.key) is entry:
            del self._entries[entry.key]  # asked for again next time
        else:
            self._held.discard(entry)

    def _rest(self, entry: Entry[V]) -> None:
        if entry.holders or not entry.made or entry.finalised or self._ended:
            return
        if entry.dropped or self._ttl == 0:
            self._end(entry)
        elif self._ttl is not None and entry.clock is None:
            entry.clock = self._worker.loop.call_later(self._ttl, self._expire, entry, context=self._worker.context)

    def _expire(self, entry: Entry[V]) -> None:
        entry.clock = None
        if not entry.holders and not entry.finalised:
            self._end(entry)

    def _end(self, entry: Entry[V]) -> asyncio.Task[None]:
        """Finalise it, beside everything else."""
        entry.finalised = True
        if entry.clock is not None:
            entry.clock.cancel()
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]
        self._held.discard(entry)
        task = self._worker.loop.create_task(self._finalized(entry), context=self._worker.context.copy())
        self._worker.spared.add(task)
        self._worker.hold()
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._worker.spared.discard(task)
        self._worker.rest()

    async def _finalized(self, entry: Entry[V]) -> None:
        assert entry.making is not None
        value = entry.making.result()
        if self._finalize is None:
            return
        try:
            ended = self._finalize(value)
            if inspect.isawaitable(ended):
                await ended
        except Exception:  # noqa: BLE001  one resource's; the others are finalised all the same
            _LOG.exception("the finalizer of %r failed", entry.key)


class Lease(Generic[V]):
    """A hold of one resource; `value` is the resource. A context manager, in both colours, that releases it."""

    def __init__(self, table: Table[V], entry: Entry[V], worker: Worker) -> None:
        assert entry.making is not None
        self.value = entry.making.result()
        self._table, self._entry, self._worker = table, entry, worker
        self._held = [True]

    def release(self) -> None:
        """Give it back, from any thread, without waiting. Once: later calls, or such that come after the end of the pool,
        do nothing."""
        try:
            self._held.pop()  # atomic: of two that release it at once one does
        except IndexError:
            return
        with suppress(RuntimeError):  # the loop is closed: its end has finalised the resource
            self._worker.loop.call_soon_threadsafe(self._table.release, self._entry)

    def __enter__(self) -> V:
        return self.value

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()

    async def __aenter__(self) -> V:
        return self.value

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.release()


class Resources(Generic[V]):
    """A pool of keyed resources on the pool's loop: clients, connections, whatever must be used on the loop it was made on.

    Whoever acquires a key while somebody has it gets the same; nobody waits for another key. Once nobody holds it, it is
    kept for the pool's TTL. The loop is not idle while a resource is held; when it is reaped, what is left is finalised.
    """

    def __init__(self, pool: LoopPool, make: Make[V], finalize: Finalize[V] | None) -> None:
        self._pool, self._make, self._finalize = pool, make, finalize

    def acquire(self, key: Hashable) -> Lease[V]:
        """Hold the resource of this key, made by `make(key)` if it isn't there. Blocks the calling thread meanwhile.

        Raises: what `make` raised, and then it is asked again next time; as `LoopPool.dispatch`.
        """
        return self._pool.dispatch(self._acquire, key)

    async def aacquire(self, key: Hashable) -> Lease[V]:
        """As `acquire`, awaited on any loop. Who is cancelled holds nothing."""
        dispatched = self._pool.submit(self._acquire, key)
        try:
            return await outcome(dispatched)
        except BaseException:
            dispatched.when_done(lambda: _give_back(dispatched))  # it may have been granted at that very moment
            raise

    def clear(self) -> None:
        """Forget all: who acquires gets a new one. Those that nobody holds are finalised, the others once released."""
        if self._pool.warm:
            self._pool.dispatch(self._clear)

    async def aclear(self) -> None:
        """As `clear`, awaited on any loop. What has begun is done, whoever is cancelled."""
        if self._pool.warm:
            await outcome(self._pool.submit(self._clear))

    def _table(self, worker: Worker) -> Table[V]:
        table = worker.tables.get(self)
        if table is None:
            table = worker.tables[self] = Table(worker, self._make, self._finalize, self._pool.ttl)
        return table

    async def _acquire(self, key: Hashable) -> Lease[V]:
        worker = here()
        table = self._table(worker)
        return Lease(table, await table.acquire(key), worker)

    async def _clear(self) -> None:
        await self._table(here()).clear()


def _give_back(dispatched: Dispatched[Lease[V]]) -> None:
    with suppress(BaseException):  # it has raised: nothing was granted
        dispatched.result().release()
