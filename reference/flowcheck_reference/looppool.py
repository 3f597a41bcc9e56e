"""Coroutines on a warm event loop: the `looppool` facet.

    with LoopPool(ttl=60.0) as pool:
        rows = pool.dispatch(fetch, "select 1")          # from a thread
        rows = await pool.adispatch(fetch, "select 1")   # from any other loop, asyncio or trio
        pending = [pool.submit(fetch, q) for q in queries]
        rows = [p.result() for p in pending]

One asyncio loop on a thread of its own is made by the first dispatch, shared by all that follow, and reaped once it has
been idle for its TTL; the next dispatch makes another. So what is bound to a loop, such as a client with its connections,
outlives a call (`resources`), and a thousand calls cost one loop.

    caller ── append ──► mailbox ── one wake-up for all ──► task on the loop ── settle ──► caller

Why it is quicker than `run_coroutine_threadsafe`: a dispatch has no future of either library, only what it came to and who
waits; what is posted until the loop comes round shares one wake-up; and the caller is woken by the step that ends the
coroutine, not by callbacks behind it.

A reap, at the TTL or by `stop`, goes in this order, with one limit for all of it:
1. The loop takes nothing more; what was posted goes to the next loop, or is refused when the pool was stopped.
2. All tasks are cancelled and waited for; those that their cleanup started, too; and so on, at most 100 generations.
3. Resources are finalised, async generators closed, the threads of the loop's default executor ended.
4. What did not end by then is told: in the log, and as what `stop` returns. Dispatches in it are answered with
   DispatchCancelledError.

The thread is a daemon. A process that ends without `stop` drains its warm loops at exit.

Sources: wool's worker loop and its TTL (pull request 271); anyio's BlockingPortalProvider; `asyncio.Runner`.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Awaitable, Callable
from itertools import count
from math import isfinite
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Self, TypeVar

from ._looppool.dispatched import Dispatched
from ._looppool.errors import DispatchCancelledError, PoolStoppedError
from ._looppool.worker import Worker, here_or_none

if TYPE_CHECKING:
    from ._looppool.resources import Finalize, Lease, Make, Resources

__all__ = ["DispatchCancelledError", "Dispatched", "Lease", "LoopPool", "PoolStoppedError", "Resources"]

P = ParamSpec("P")
T = TypeVar("T")
V = TypeVar("V")


class LoopPool:
    """Runs coroutines on one warm loop. Any number of threads and loops may call it at once.

    `ttl`: seconds for which an idle loop is kept; 0: not at all; None: until `stop`. A loop is idle while no dispatch runs
    and no resource is held; tasks that a dispatch left behind don't keep it. Each dispatch renews it.
    `limit`: seconds that a reap may take; see above.
    `name`: of its threads.

    Guarantees: `_lock` is held for a few steps, never while anything is waited for. `_workers` are those that are not over;
    `_worker` is the one of them that takes dispatches. Once `_stopped`, no worker is made.
    """

    _numbers = count()

    def __init__(self, ttl: float | None = 60.0, *, limit: float = 10.0, name: str | None = None) -> None:
        self.ttl: Final = None if ttl is None else _seconds(ttl, "ttl")
        self._limit = _seconds(limit, "limit")
        self._name = name or f"flowcheck-loop-{next(self._numbers)}"
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._workers: set[Worker] = set()
        self._stopped = False
        _pools.add(self)

    def dispatch(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `fn(*args, **kwargs)` on the warm loop, in the caller's context; give its value. Blocks this thread.

        Raises: what it raised, the same object, SystemExit too; DispatchCancelledError; PoolStoppedError; RuntimeError: on
        the loop's own thread it would wait for itself (there, use `adispatch`); OSError, RuntimeError if the system gives
        no loop or no thread. KeyboardInterrupt, and whatever else ends the wait, cancels the coroutine.
        """
        if self.runs_here():
            msg = "dispatch() on the pool's own loop would wait for itself: await adispatch() there"
            raise RuntimeError(msg)
        dispatched = self.submit(fn, *args, **kwargs)
        try:
            return dispatched.result()
        except BaseException:
            dispatched.cancel()  # of no effect if this is its own error
            raise

    async def adispatch(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `dispatch`, awaited on any loop: asyncio, trio, the pool's own. Who is cancelled cancels the coroutine."""
        from ._waiting import outcome

        return await outcome(self.submit(fn, *args, **kwargs))

    def submit(self, fn: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> Dispatched[T]:
        """As `dispatch`, without waiting. It runs though nobody keeps what is returned.

        Raises: PoolStoppedError; OSError, RuntimeError as there.
        """
        if kwargs:
            from functools import partial

            dispatched: Dispatched[T] = Dispatched(partial(fn, **kwargs), args)
        else:
            dispatched = Dispatched(fn, args)
        worker = self._worker
        if worker is None or worker.gone:
            worker = self._warm_up()
        worker.post(dispatched)
        return dispatched

    def resources(self, make: Make[V], finalize: Finalize[V] | None = None) -> Resources[V]:
        """Keyed resources that live on this pool's loop. `make(key)` and `finalize(resource)`: async, or short.

        They run in a context of their own, since a resource is no single caller's.
        """
        from ._looppool.resources import Resources

        return Resources(self, make, finalize)

    @property
    def warm(self) -> bool:
        """Whether there is a loop that takes dispatches."""
        worker = self._worker
        return worker is not None and not worker.gone

    def runs_here(self) -> bool:
        """Whether this is the thread of a loop of its own."""
        worker = here_or_none()
        return worker is not None and worker.owner is self

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def stop(self, *, wait: bool = True) -> list[str]:
        """Take no more, reap the loop, wait until its thread has ended. Any thread, any number of times.

        On the loop's own thread, and so in a dispatched coroutine, it can't wait: it begins, and the reap cancels who called.
        Nor does it with `wait` False.

        Returns: what did not end within the limit, a line for each; nearly always nothing.
        """
        with self._lock:
            self._stopped = True
            self._worker = None
            workers = list(self._workers)
        for worker in workers:
            worker.leave()
        if not wait or self.runs_here():
            return []
        return [line for worker in workers for line in worker.wait()]

    async def astop(self) -> list[str]:
        """As `stop`, awaited on any loop. Who is cancelled does not wait for the end of it."""
        if self.runs_here():
            return self.stop()
        from ._waiting import outcome

        stopping: Dispatched[list[str]] = Dispatched(self.astop, ())  # only to be waited for
        threading.Thread(
            target=lambda: stopping.settle(self.stop(), None), daemon=True, name=f"{self._name} stop"
        ).start()
        return await outcome(stopping)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.astop()

    # --- what workers call -----------------------------------------------------------------------------------------------

    def moved(self, worker: Worker) -> None:
        """It is gone: what is in its mailbox goes to the next worker, or is refused."""
        with self._lock:
            if self._worker is worker:
                self._worker = None
        mailbox = worker.mailbox
        while mailbox:
            try:
                dispatched = mailbox.popleft()
            except IndexError:
                return  # another thread has done it
            try:
                self._warm_up().post(dispatched)
            except BaseException as error:  # noqa: BLE001  the caller waits: it must hear of it
                dispatched.settle(None, error)

    def ended(self, worker: Worker) -> None:
        """It is over."""
        with self._lock:
            self._workers.discard(worker)

    def _warm_up(self) -> Worker:
        """The worker that takes dispatches; a new one, if there is none."""
        with self._lock:
            if self._stopped:
                msg = f"{self._name} was stopped: it takes no more dispatches"
                raise PoolStoppedError(msg)
            worker = self._worker
            if worker is None or worker.gone:
                worker = self._worker = Worker(self, self._name, self.ttl, self._limit)
                self._workers.add(worker)
            return worker

    def forked(self) -> None:
        """In a child process: the threads have stayed behind, so the next dispatch makes a loop of its own."""
        _left_behind.extend(self._workers)  # finalised, their loops would shut descriptors that may be others' by now
        self._lock = threading.Lock()
        self._worker = None
        self._workers = set()


def _seconds(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        msg = f"{name} must be a number of seconds, 0 or more; got {value!r}"
        raise ValueError(msg)
    return float(value)


_pools: weakref.WeakSet[LoopPool] = weakref.WeakSet()
_left_behind: list[Worker] = []


@atexit.register
def _at_exit() -> None:
    for pool in list(_pools):
        pool.stop()


def _forked() -> None:
    for pool in list(_pools):
        pool.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def __getattr__(name: str) -> Any:
    """Who wants dispatches only pays for no resources."""
    if name in {"Lease", "Resources"}:
        from ._looppool import resources

        return getattr(resources, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
