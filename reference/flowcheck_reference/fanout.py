"""One function over many items, at most so many at a time: the `fanout` facet, on threads and on event loops.

    with Fanout() as fanout:
        for record in fanout.run(fetch, urls, max_concurrency=8, on_error="continue"):
            print(record.id, record.status, record.value)

*Lanes* do the work. A lane draws the next item from the shared iterator, calls the function, notes the outcome, and
draws again, until there is nothing to draw. So an item costs no future, no queue and no thread switch; the slowest item
delays no other (FAN-04); and what has not been drawn has not been submitted: a halt needs nothing taken back (FAN-07).

    caller ───┐ lane 0: draw 0 ─ call ─ note ─ draw 3 ─ call ─ …      The thread that calls `run` is the first lane.
              ├ lane 1:    draw 1 ─ call ─ … (stuck)                  Each lane, as soon as it has an item, sends for
              └ lane 2:       draw 2 ─ call ─ note ─ draw 4 ─ …       the next one.

Order of starts (FAN-23). A lane draws and sends for the next lane in its *turn*, one lane at a time; giving up the turn
is the last thing that it does before it calls the function. So items are called in item order, save for one thing
that nothing in Python can exclude: the interpreter may take the processor from a thread between that and the function's
first line. It does so after a thread had it for 5 ms without a wait, so, for lanes that wait (at a gate, for a
socket), practically never. On an event loop the order is exact.

The window. `run` keeps all lanes busy and all records. `stream` delivers while it runs and holds no more than
`max_concurrency` undelivered records: behind a slow item the others go on only that far. That is the price of a bound on
memory and on how far an iterator is read; whoever wants every lane busy behind a slow item wants `run`.

An iterator is read by whichever lane is next, one at a time and in a context of its own, never further than there are
lanes to start what it gives (FAN-16). If it minds the thread, give a list.

Under a policy each item is tried and limited as it says. An item keeps its lane until it has ended, in backoffs too, so
retries are within the bound (FAN-02). An attempt that was given up is not: its thread is stuck, and counts no more.

A stop, be it a halt, an error that escapes, or the end of the caller, is a flag that `draw` looks at. Threads can't be
cancelled, so what runs then is waited for; tasks are cancelled, unless it was a halt, which is no accident.

Here is what the user sees, in both colours. `_lanes` is a call on threads, `_tasks` one on an event loop; which item may
start and what the whole comes to is `_window`'s.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from concurrent import futures
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from ._lanes import LaneCrew, ThreadCall
from ._policy import RetryPolicy
from ._sizing import checked
from ._window import Concurrency, Halt, OnError, Record, records_of
from .executor import Executor

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ._tasks import TaskCall

__all__ = ["AsyncFanout", "Fanout", "Halt", "Record", "RetryPolicy", "records_of"]

S = TypeVar("S")
T = TypeVar("T")


class Fanout:
    """Fans out over threads: its own, started as they are needed and used again, or those of `executor`.

    Any number of threads may call it at once, and items may call it, too; each call has its own bound (FAN-14).
    Leaving the context is `close`.

    `executor`: its threads are lanes instead, and it stays open. It must queue what it can't run yet. Another than a
    `flowcheck_reference.Executor` takes no `policy`, and must have threads to spare for streams inside its own items.
    Should somebody shut it down meanwhile, calls go on with the lanes they have. An item between two attempts has none:
    it fails with the executor's RuntimeError, and ends its call with that, `on_error` notwithstanding.
    `max_abandoned`: while so many threads are stuck in attempts that were given up, an item with a limit is not begun:
    it fails with `TooManyAbandonedError`.
    """

    _numbers = count()

    def __init__(self, executor: futures.Executor | None = None, *, max_abandoned: int = 256) -> None:
        bound = checked(max_abandoned, "max_abandoned")
        self._own: Executor | None = None
        if executor is None:
            executor = self._own = Executor(1, f"flowcheck-fanout-{next(self._numbers)}", daemon=True)
        self._executor = executor
        self._crew = LaneCrew(executor, bound, grows=self._own is not None) if isinstance(executor, Executor) else None
        self._closed = False

    def run(
        self,
        fn: Callable[[S], T],
        items: Iterable[S],
        *,
        max_concurrency: Concurrency = None,
        on_error: OnError = "raise",
        policy: RetryPolicy | None = None,
    ) -> list[Record[T]]:
        """Call `fn(item)` for each item, and give the records in item order. The calling thread is one of the lanes.

        `max_concurrency`: so many items at once, at most. A text or a float counts as the whole number in it; anything
        that is no number of at least 1 means one after the other, in the caller's thread.
        `policy`: how often and how long each item is tried; a halt is never retried. Then all items run on other threads.
        `on_error`: "raise" lets an error escape: nothing more starts, what runs is waited for, and the first in item
        order is raised itself; others are noted on it, and `records_of(error)` tells what else ended. An item that
        raises `Halt` ends the records instead. "continue" records both and goes on.

        Raises: TypeError, ValueError for arguments without sense, before anything runs; RuntimeError when closed, or if
        the system gives no thread, or the executor takes no more work; the iterator's own error, like an item's in that
        place; what an item raised; KeyboardInterrupt, once nothing runs.
        """
        return self._call(policy, fn, items, max_concurrency, on_error, whole=True).gather()

    def stream(
        self,
        fn: Callable[[S], T],
        items: Iterable[S],
        *,
        max_concurrency: Concurrency = None,
        on_error: OnError = "raise",
        policy: RetryPolicy | None = None,
    ) -> Generator[Record[T], None, None]:
        """As `run`, but the records are delivered one by one, in item order, and nothing starts before one is asked for.

        At most `max_concurrency` items are ahead of the last one delivered, so `items` may be endless. Closing the
        generator starts nothing more and waits for what runs; errors are then logged. Closing the fan-out ends it with a
        RuntimeError, once what had begun is delivered.
        """
        return self._call(policy, fn, items, max_concurrency, on_error, whole=False).deliver()

    def _call(
        self,
        policy: RetryPolicy | None,
        fn: Callable[[S], T],
        items: Iterable[S],
        max_concurrency: object,
        on_error: str,
        *,
        whole: bool,
    ) -> ThreadCall[T]:
        if self._closed:
            msg = "this fan-out was closed: it takes no more calls"
            raise RuntimeError(msg)
        _check(policy)
        return ThreadCall(self._executor, self._crew, policy, fn, items, max_concurrency, on_error, whole=whole)

    def close(self) -> None:
        """Take no more calls, wait for what runs, end the threads. Any thread, any number of times.

        What runs, that is each `run`, with the lanes it has, and each item that a stream has begun: also in its backoff,
        so it gets the rest of its attempts. Not an attempt that was given up. Nothing is waited for and no thread ended
        where the executor was given.

        Raises: RuntimeError: called inside an item, on a thread of its own, it would wait for itself.
        """
        if self._own is not None and self._crew is not None:
            if self._crew.would_wait_for_itself():
                msg = "close() inside an item of the same fan-out would wait for itself"
                raise RuntimeError(msg)
            self._closed = True
            self._crew.close()
            self._own.shutdown()
        self._closed = True
        if self._crew is not None:
            self._crew.watchdog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncFanout:
    """Fans out over tasks of the caller's event loop, asyncio or trio: `Fanout` for async functions.

    Cancelling the caller cancels what runs, and is done when all of it has ended (FAN-27). A stream's tasks belong to
    the task that entered the context; leaving it cancels the streams that are still open.
    """

    def __init__(self) -> None:
        self._home: TaskGroup | None = None
        self._closed = False

    async def run(
        self,
        fn: Callable[[S], Awaitable[T]],
        items: Iterable[S],
        *,
        max_concurrency: Concurrency = None,
        on_error: OnError = "raise",
        policy: RetryPolicy | None = None,
    ) -> list[Record[T]]:
        """As `Fanout.run`; but when an error escapes, what runs is cancelled and waited for.

        Cancellation is anyio's: it comes again at each await, so a cleanup that awaits must be shielded.
        """
        return await self._call(policy, fn, items, max_concurrency, on_error, whole=True).gather()

    def stream(
        self,
        fn: Callable[[S], Awaitable[T]],
        items: Iterable[S],
        *,
        max_concurrency: Concurrency = None,
        on_error: OnError = "raise",
        policy: RetryPolicy | None = None,
    ) -> AsyncGenerator[Record[T], None]:
        """As `Fanout.stream`; closing the generator (`aclose`) cancels what runs and waits for it.

        Raises: RuntimeError outside of `async with`.
        """
        if self._home is None:
            msg = "a stream needs the fan-out's context: open it by `async with AsyncFanout() as fanout`"
            raise RuntimeError(msg)
        return self._call(policy, fn, items, max_concurrency, on_error, whole=False).deliver(self._home)

    def _call(
        self,
        policy: RetryPolicy | None,
        fn: Callable[[S], Awaitable[T]],
        items: Iterable[S],
        max_concurrency: object,
        on_error: str,
        *,
        whole: bool,
    ) -> TaskCall[T]:
        if self._closed:
            msg = "this fan-out was closed: it takes no more calls"
            raise RuntimeError(msg)
        from ._tasks import TaskCall  # who only blocks pays for no event loop

        _check(policy)
        return TaskCall(policy, fn, items, max_concurrency, on_error, whole=whole)

    async def __aenter__(self) -> Self:
        import anyio

        self._home = await anyio.create_task_group().__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._closed = True
        home, self._home = self._home, None
        if home is not None:
            home.cancel_scope.cancel()
            # The error isn't shown to the group, which would wrap it: an error that escapes is raised itself (FAN-11).
            await home.__aexit__(None, None, None)


def _check(policy: object) -> None:
    if policy is not None and not isinstance(policy, RetryPolicy):
        msg = f"policy must be a RetryPolicy or None, not {policy!r}"
        raise TypeError(msg)
