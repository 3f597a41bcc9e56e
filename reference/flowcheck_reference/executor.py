"""A thread pool that keeps every rule of the `executor` facet. It exists because the standard library's does not.

What it has beyond `ThreadPoolExecutor`: a task may wait for tasks of its own pool (EXE-23), the caller's context
variables are seen (EXE-24), the size can change (EXE-27), a cancelled future wakes its waiters at once (EXE-31), and
a forked child gets a working copy (EXE-37). A call costs less, too: one lock in `submit`, none between two tasks.

    Executor ──────► Pool ◄─────── worker threads      The pool never refers to the executor. So an executor that is
      │ submit         │ queue, idle                     dropped is collected, and that frees the workers (EXE-19).
      ▼                ▼
     Task ◄────────── queue

Waiting inside a task (EXE-23). A worker that waits, with `result`, `exception` or `map`, for a task of its own pool
which is still *queued* runs it itself, there and then. So whatever a worker waits for is running; the last in a chain
of waits isn't waiting, and gets on: no deadlock, no more than `max_workers` in flight, no extra thread. Where that
would change what the task means (the wait has a timeout, the stack is deep, an event loop runs in this thread) the
worker *lends its slot* while it waits: a substitute may start, and when the lender is back the next worker that comes
free leaves; until then there may be one more in flight. Not covered are `concurrent.futures.wait` and `as_completed`
inside a task, which give a future no say in how it is waited for: use `result` or `map` there.

At exit (EXE-20). Workers are ordinary, non-daemon threads, so the interpreter joins them, and what was submitted gets
done. Somebody must tell the idle ones before that: `threading._register_atexit` is the one hook that runs early
enough. It is private, and it is what the standard library's own pools have used since 3.9. (`atexit` runs only after
the join: a deadlock. And daemon workers are refused in subinterpreters.) Since 3.12 no thread starts any more by
then, so a worker that would need a substitute serves the queue itself.

Written off (RTY-04, 09, 17). A worker that is stuck in a call whose time is up can be *written off* by whoever set the
limit: it counts no more, so another may take its place; nobody waits for it; when it comes back it ends. For the
interpreter not to join it either it must be a daemon, and what the interpreter then doesn't do is done by the hook above:
it waits for the daemon workers that were not written off. So `daemon=True` changes nothing else at exit.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent import futures
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from contextvars import Context, copy_context
from itertools import count
from typing import Any, Final, ParamSpec, Protocol, TypeAlias, TypeVar

from ._sizing import checked, resolve

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")

_Call: TypeAlias = tuple[Context, Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_LOG = logging.getLogger(__name__)
_INLINE_DEPTH: Final = 8
"""So many tasks on top of each other in one thread; then lend. Each costs about six frames of the recursion limit."""


class _Here(threading.local):
    """What this thread is working for, if it is a worker."""

    pool: Pool | None = None
    worker: Worker | None = None
    depth: int = 0


here = _Here()


class Awaited(Protocol):
    """What a worker may wait for, in the pool's eyes."""

    def queued(self) -> bool:
        """Does it need a worker, and has none?"""
        raise NotImplementedError

    def done(self) -> bool:
        """Is it over?"""
        raise NotImplementedError


class Item(Awaited, Protocol):
    """What may stand in a pool's queue: a `Task`, or what another part of the engine makes to stand there.

    Guarantees asked of it: whoever claims it first has it, the others find nothing to do; no method raises.
    """

    def run(self) -> None:
        """Do it here, in a worker, if nobody has it yet."""

    def run_inline(self) -> None:
        """`run`, on top of what this worker is in."""

    def fail(self, error: BaseException) -> None:
        """Never do it; end with `error`."""

    def cancel(self) -> bool:
        """Never do it, if nobody has it yet."""
        raise NotImplementedError


class Task(futures.Future[T]):
    """The future that `submit` returns, and the queue's item in one.

    Guarantees:
    - `_cell` holds the call until somebody claims it: a worker, a canceller, or a waiting worker. `list.pop` is atomic,
      so one of them gets it, and only that one calls `set_running_or_notify_cancel`, which may be called once.
    - Whoever claims drops the call as soon as it is made, so a task that is over holds only its outcome (EXE-18).
    - A claimed task may still stand in the queue: an empty shell, passed over.
    """

    may_run_inline = True
    """May a waiting worker run it? Not where it could be written off, and what the worker is in with it."""

    def __init__(self, pool: Pool, call: _Call) -> None:
        super().__init__()
        self._pool = pool
        self._cell = [call]

    def run(self) -> None:
        """Make the call here, if nobody has it yet. Nothing that it or its callbacks raise gets out (EXE-13, 14)."""
        try:
            context, fn, args, kwargs = self._cell.pop()
        except IndexError:
            return
        try:
            # False: a canceller who lost the race for the claim was still in time to cancel.
            if self.set_running_or_notify_cancel():
                try:
                    result = context.run(fn, *args, **kwargs)
                except BaseException as error:  # noqa: BLE001  its own future has it, whatever it is (EXE-13)
                    del context, fn, args, kwargs
                    self.set_exception(error)
                else:
                    del context, fn, args, kwargs  # whoever wakes finds them gone (EXE-18)
                    self.set_result(result)
        except BaseException:  # noqa: BLE001  a callback's SystemExit; `Future` itself logs each Exception (EXE-14)
            _LOG.exception("a done-callback raised")
        finally:
            del self  # the error's traceback has this frame: future → error → frame → future would be a cycle

    def run_inline(self) -> None:
        """`run`, on top of the task that this worker is in."""
        here.depth += 1
        try:
            self.run()
        finally:
            here.depth -= 1

    def queued(self) -> bool:
        """Has nobody claimed it?"""
        return bool(self._cell)

    def fail(self, error: BaseException) -> None:
        """Never make the call; end with `error`."""
        try:
            self._cell.pop()
        except IndexError:
            return
        if self.set_running_or_notify_cancel():
            self.set_exception(error)

    def cancel(self) -> bool:
        """As `Future.cancel`; but `wait` and `as_completed` hear of it now, not when a worker comes by (EXE-31)."""
        if not super().cancel():
            return False
        try:
            self._cell.pop()
        except IndexError:  # whoever has claimed it notifies: the worker that came by, or another canceller
            return True
        self.set_running_or_notify_cancel()
        return True

    def result(self, timeout: float | None = None) -> T:
        """As `Future.result`; in a worker of the same pool it lets the awaited task run (EXE-23)."""
        try:
            value = self._help(super().result, timeout) if self._is_special() else super().result(timeout)
            if value is None and self._exception is not None:
                raise self._exception  # an error that counts as false (its `__len__` is 0): CPython passes over it
            return value
        finally:
            del self  # as in `run`

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Future.exception`; in a worker of the same pool it lets the awaited task run (EXE-23)."""
        return self._help(super().exception, timeout) if self._is_special() else super().exception(timeout)

    def _is_special(self) -> bool:
        """Would a plain wait hang?"""
        return self._pool is here.pool or self._pool.orphaned

    def _help(self, read: Callable[[float | None], R], timeout: float | None) -> R:
        """`read`, in a worker of the task's own pool; or in a child that was forked before the task was done."""
        if self.done():
            return read(timeout)
        if self._pool.orphaned:
            msg = "this future belongs to the parent process, which alone sees its result: submit again in the child"
            raise BrokenThreadPool(msg)
        # Queued, it can run here. A wait with a limit must be able to end before its task, so that one lends.
        if timeout is None and here.depth < _INLINE_DEPTH and self.may_run_inline and not loop_runs_here():
            self.run_inline()
        lends, roused = self._pool.wait_begins(self)
        try:
            if not roused:
                self._pool.serve(self)
            return read(timeout)
        finally:
            self._pool.wait_ends(lends)
            del self, read


class Pool:
    """What the workers share. Each has a *park*, a lock that it takes to sleep and that is released to wake it.

    Guarantees, all under `lock` but for what is marked (free):
    - A task in `queue` is never forgotten. While there is one and a worker is idle, some worker is on its way
      (`waking`); while more are queued than workers are `starting`, and there is room, another is started. Who changes
      any of this calls `rouse`. Two things are free, as they break none of it: a worker takes itself out of
      `starting`, and a busy worker pops its next task.
    - `idle` holds the parks of those asleep. Only the sleeper puts his in and takes it out. Others release it (free),
      and may do so once too often: he looks round and goes to sleep again.
    - While the queue holds a task, the last worker stays.
    - `live` workers start, rest, run, or wait for a *running* task of this pool (these are `waiting`, too). The `lent`
      wait for a *queued* one. There is room while `live < limit`; and when all live ones are waiting, for one more,
      since what they wait for may itself wait for the queue (EXE-23).
    - A worker that was written off is in none of these numbers. `abandoned` of them have not come back yet.

    Races:
    1. `abandon` runs when the executor is collected, so in any thread, maybe one that is inside `with lock` below: it
       takes no lock. It sets `closed`, then wakes the idle; a worker enters `idle`, then looks at `closed`. One of them
       sees the other. The same goes for `_exiting`.
    2. `submit` against `shutdown`: both hold `lock`. Either the task is in the queue before a worker can find it empty
       and leave, or `submit` raises (EXE-11).
    3. Fork: the child has one thread, and perhaps a `lock` that nobody will release. `reborn` makes a new pool for the
       executor; the old one gets no more work.
    4. KeyboardInterrupt, a signal handler or a finalizer that submits may come wherever something is called, also in a
       thread that is inside `with lock`. So the lock is re-entrant, and what belongs together has no call in between.
    5. A call's time is up just as it returns: one of the two settles it, see `_watchdog`. If it wasn't the worker, the
       worker writes itself off, lest it take more work before the other gets round to it. The second time is ignored.
    """

    def __init__(
        self,
        limit: int,
        prefix: str,
        initializer: Callable[..., object] | None,
        initargs: tuple[Any, ...],
        daemon: bool,
    ) -> None:
        self.lock = threading.RLock()
        self.queue: deque[Item] = deque()
        self.idle: list[threading.Lock] = []
        self.threads: list[Worker] = []
        self.limit = limit
        self.starting: list[None] = []
        self.live = self.waiting = self.lent = self.abandoned = 0
        self.waking = self.closed = self.orphaned = False
        self.broken = ""
        self.numbers = count()
        self.prefix = prefix
        self.initializer, self.initargs = initializer, initargs
        self.daemon = daemon

    def reborn(self) -> Pool:
        """In a forked child: a new pool of the same kind. This one is over, for whoever still refers to it (race 3)."""
        new = Pool(self.limit, self.prefix, self.initializer, self.initargs, self.daemon)
        new.closed, new.broken = self.closed, self.broken
        self.lock = threading.RLock()
        self.queue.clear()
        self.idle.clear()
        self.threads.clear()
        self.orphaned = self.closed = True
        return new

    # -- the submitting side

    def put(self, call: _Call) -> Task[Any]:
        """Queue one call."""
        task: Task[Any] = Task(self, call)
        self.enqueue(task)
        return task

    def enqueue(self, item: Item, *, first: bool = False) -> None:
        """Queue it, last or first, and see to it that somebody comes for it.

        Raises: BrokenThreadPool, RuntimeError: it is not queued, since the pool is broken, closed, or gets no thread.
        """
        with self.lock:
            if self.broken:
                raise BrokenThreadPool(self.broken)
            if self.closed or _exiting:
                why = "was shut down" if self.closed else "ends with the interpreter"
                msg = f"this executor {why}: it takes no more work"
                raise RuntimeError(msg)
            if first:
                self.queue.appendleft(item)
            else:
                self.queue.append(item)
            self.rouse()
            if not (self.live or self.lent):
                self.queue.remove(item)
                msg = "the system gives no thread for a worker: see the log for its error"
                raise RuntimeError(msg)

    def rouse(self) -> bool:
        """Wake one worker, who wakes the next, or start as many as are missing. False: no thread is to be had."""
        if self.waking or not self.queue:
            return True
        if self.idle:
            try:
                self.waking = True  # nothing is called before the release: no interrupt comes in between (race 4)
                self.idle[-1].release()  # the one that rested least
            except RuntimeError:  # it is released
                pass
            return True
        while len(self.starting) < len(self.queue):
            # Nothing is called between look and count: a signal handler that submits can't come in between (race 4).
            if not (self.live < self.limit or self.live == self.waiting):
                break
            self.live += 1
            self.starting.append(None)
            if not self.start():
                return False
        return True

    def start(self) -> bool:
        """One more worker, counted already, if the system has a thread for it. Under `lock`."""
        self.threads = [thread for thread in self.threads if thread.is_alive()]
        ticket: list[Pool] = [self]
        thread = Worker(ticket, f"{self.prefix}_{next(self.numbers)}", self.daemon)
        self.threads.append(thread)
        try:
            if self.daemon:
                _daemons.add(thread)
            thread.start()
        except BaseException as error:
            if not ticket:
                raise  # KeyboardInterrupt, and the worker is there
            ticket.clear()  # should it come yet, it goes away again
            thread.leave()
            self.threads.remove(thread)
            self.live -= 1
            self.starting.pop()
            if not isinstance(error, Exception):
                raise
            if not _exiting:  # then it is the rule, since 3.12
                _LOG.exception("the system gives no thread for a worker")
            return False
        return True

    def resize(self, limit: int) -> None:
        """More room: fill it. Less: the idle leave now, the busy ones when they come free (EXE-27)."""
        with self.lock:
            self.limit = limit
            self.rouse()
            self.trim()

    def trim(self) -> None:
        """Wake as many of the idle as are too many, longest at rest first; `take` sends them home. Under `lock`."""
        for park in self.idle[: max(0, self.live - self.limit)]:
            _release(park)

    def abandon(self) -> None:
        """No more work: what is queued gets done, then the workers leave. Takes no lock (race 1)."""
        self.closed = True
        self.disperse()

    def disperse(self) -> None:
        """Wake all who rest."""
        for park in self.idle.copy():
            _release(park)

    def close(self) -> None:
        """As `abandon`, and once it returned no `submit` is half-way (race 2)."""
        with self.lock:
            self.abandon()

    def withdraw(self) -> list[Item]:
        """Take back what no worker has yet."""
        with self.lock:
            tasks = list(self.queue)
            self.queue.clear()
            return tasks

    def join(self) -> None:
        """Wait until no worker is left but those written off. More may start meanwhile (EXE-23), so look again after each."""
        while True:
            with self.lock:
                alive = next((thread for thread in self.threads if thread.is_alive()), None)
            if alive is None:
                return
            alive.wait()
            if not alive.written_off:
                alive.join()

    # -- the workers' side

    def take(self, park: threading.Lock) -> Item | None:
        """The next task, when there is one. None: leave."""
        woken = False
        while True:
            with self.lock:
                if woken:
                    self.idle.remove(park)
                    self.waking = False
                surplus = self.live > self.limit and self.waiting < self.live - 1
                if surplus or (not self.queue and (self.closed or self.broken or _exiting)):
                    self.live -= 1
                    self.rouse()  # if this one was woken for a task, another must go
                    return None
                try:
                    task = self.queue.popleft() if self.queue else None
                except IndexError:  # a busy worker was quicker
                    task = None
                if task is not None:
                    if self.queue:
                        self.rouse()
                    return task
                self.idle.append(park)
                if self.closed or _exiting:  # race 1
                    self.disperse()
            park.acquire()
            woken = True

    def ready(self) -> bool:
        """Run the initializer, in the worker that begins (EXE-21). False: it failed, and with it the pool."""
        if self.initializer is not None:
            try:
                self.initializer(*self.initargs)
            except BaseException as error:  # noqa: BLE001  SystemExit, too, must leave no future hanging (EXE-39)
                _LOG.critical("the initializer of a worker failed", exc_info=True)
                self.fail(f"the initializer of a worker failed: {error!r}")
                return False
        self.starting.pop()
        return True

    def fail(self, why: str) -> None:
        """Break the pool: what is queued, and every later `submit`, fails with `why`."""
        with self.lock:
            self.broken = why
            self.starting.pop()
            self.live -= 1
            tasks = list(self.queue)
            self.queue.clear()
            self.disperse()
        for task in tasks:
            task.fail(BrokenThreadPool(why))

    def wait_begins(self, task: Awaited) -> tuple[bool, bool]:
        """A worker is about to wait for `task`. Does it lend its slot? Is somebody on his way, if needed?"""
        worker = here.worker
        with self.lock:
            if worker is None or worker.written_off:
                return False, True
            lends = task.queued()
            if lends:
                self.live -= 1
                self.lent += 1
                worker.lends += 1
            else:
                self.waiting += 1
                worker.waits += 1
            return lends, self.rouse()

    def serve(self, task: Awaited) -> None:
        """No thread is to be had for the queue that `task` may depend on: better on top of this one than never."""
        while not task.done():
            try:
                other = self.queue.popleft()
            except IndexError:
                return
            other.run_inline()

    def wait_ends(self, lends: bool) -> None:
        """It waits no more, and goes on at once; should that make one too many, the next that comes free leaves."""
        worker = here.worker
        with self.lock:
            if worker is None or worker.written_off:
                return  # `write_off` took back what `wait_begins` had counted
            if lends:
                self.live += 1
                self.lent -= 1
                worker.lends -= 1
            else:
                self.waiting -= 1
                worker.waits -= 1
            self.trim()

    def write_off(self, worker: Worker) -> None:
        """It is stuck in a call whose time is up: count on it no more. Any thread, any number of times (race 5)."""
        with self.lock:
            if worker.written_off:
                return
            worker.written_off = True
            self.abandoned += 1
            self.live -= 1 - worker.lends
            self.lent -= worker.lends
            self.waiting -= worker.waits
            if worker in self.threads:  # else the pool is a forking parent's
                self.threads.remove(worker)
            worker.leave()
            self.rouse()

    def came_back(self, worker: Worker) -> None:
        """A worker ends."""
        with self.lock:
            if worker.written_off:
                self.abandoned -= 1
            else:
                worker.leave()


class Worker(threading.Thread):
    """A thread of a pool, from before it starts until it ends or was written off; so long, `wait` waits.

    Guarantees: `written_off`, `lends` and `waits` (how many waits it is in, of which kind) change under the pool's lock.
    """

    def __init__(self, ticket: list[Pool], name: str, daemon: bool) -> None:
        super().__init__(target=_work, args=(ticket,), name=name, daemon=daemon)
        self.written_off = False
        self.lends = self.waits = 0
        self._needed = threading.Lock()
        self._needed.acquire()

    def wait(self) -> None:
        """Until it ends, or is written off."""
        with self._needed:
            pass

    def leave(self) -> None:
        """Nobody needs to wait for it any more. Called once."""
        _daemons.discard(self)
        self._needed.release()


def _release(park: threading.Lock) -> None:
    """Wake who sleeps there, or will. Once too often is harmless: he looks round and goes to sleep again."""
    with suppress(RuntimeError):  # it is released
        park.release()


def loop_runs_here() -> bool:
    """Does an event loop run in this thread? A task that starts its own would fail on top of it."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _work(ticket: list[Pool]) -> None:
    """A worker's life."""
    worker = threading.current_thread()
    assert isinstance(worker, Worker)
    try:
        pool = ticket.pop()
    except IndexError:
        return  # `start` was interrupted, and doesn't count on this one
    try:
        if pool.ready():
            here.pool, here.worker = pool, worker
            _serve(worker, pool)
    finally:
        pool.came_back(worker)


def _serve(worker: Worker, pool: Pool) -> None:
    """Take task after task, until told to leave, or written off."""
    park = threading.Lock()
    park.acquire()
    queue = pool.queue
    while not worker.written_off:
        task: Item | None
        try:
            task = queue.popleft() if queue and pool.live <= pool.limit else pool.take(park)
        except IndexError:  # another was quicker
            task = pool.take(park)
        if task is None:
            return
        task.run()
        del task  # nothing of it stays with a worker at rest (EXE-18)


class Executor(futures.Executor):
    """A `concurrent.futures.Executor` on at most `max_workers` threads, started as they are needed.

    `max_workers`: None reads `FLOWCHECK_MAX_WORKERS`, else takes the number of usable CPUs + 4, at most 32.
    `thread_name_prefix`: workers are named `<prefix>_<i>` (EXE-28).
    `initializer(*initargs)` runs first in each worker; if it raises, the executor is broken (EXE-21).
    `daemon`: the interpreter can exit while a worker that was written off is stuck; all others it waits for as ever.
    Threads that tasks start are then daemons too, unless they say otherwise. Without effect where daemons are refused.
    """

    _numbers = count()

    def __init__(
        self,
        max_workers: int | None = None,
        thread_name_prefix: str = "",
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        daemon: bool = False,
    ) -> None:
        limit = resolve(max_workers)
        if initializer is not None and not callable(initializer):
            msg = f"initializer must be callable, not {initializer!r}"  # type: ignore[unreachable]
            raise TypeError(msg)
        prefix = thread_name_prefix or f"flowcheck-{next(self._numbers)}"
        self._pool = Pool(limit, prefix, initializer, initargs, daemon and daemons_allowed())
        _register(self, self._pool)

    @property
    def max_workers(self) -> int:
        """How many tasks run at once, at most."""
        return self._pool.limit

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[T]:
        """Queue `fn(*args, **kwargs)`, to be run in a copy of the caller's context (EXE-24)."""
        return self._pool.put((copy_context(), fn, args, kwargs))

    def resize(self, max_workers: int) -> None:
        """From now on at most so many tasks at once; what is queued stays queued, what runs goes on (EXE-27)."""
        self._pool.resize(checked(max_workers))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work. Safe from any thread, any number of times (EXE-09..11).

        `cancel_futures` cancels what no worker has yet. `wait` waits for the rest, and for the threads to end
        (EXE-17); a worker of this executor can't do that, it would wait for itself.
        """
        pool = self._pool
        pool.close()
        if cancel_futures:
            for task in pool.withdraw():
                task.cancel()
        if wait:
            if here.pool is pool:
                msg = "shutdown(wait=True) in a task of the same executor would wait for itself: use wait=False there"
                raise RuntimeError(msg)
            pool.join()


_pools: dict[weakref.ref[Executor], Pool] = {}
"""The pool of each executor that is alive. Each use is one call in C, so atomic: no lock for a fork to leave held."""

_daemons: set[Worker] = set()
"""The daemon workers that exit has to wait for: what `threading` keeps of the others. Each use is one call in C, too."""

_exiting = False


def daemons_allowed() -> bool:
    """May this interpreter have daemon threads? The main one may."""
    return bool(getattr(threading, "_daemon_threads_allowed", lambda: True)())


def _register(executor: Executor, pool: Pool) -> None:
    """From now on exit, fork and collection of the executor are noticed."""
    _pools[weakref.ref(executor, _dropped)] = pool


def _dropped(reference: weakref.ref[Executor]) -> None:
    """The executor was collected (EXE-19)."""
    pool = _pools.pop(reference, None)
    if pool is not None:
        pool.abandon()


def _at_exit() -> None:
    """The main thread has ended, and waits for the others next: let the workers finish what they have (EXE-20)."""
    global _exiting  # noqa: PLW0603  the interpreter exits once
    _exiting = True
    for pool in tuple(_pools.values()):
        pool.disperse()
    while _daemons:
        for worker in tuple(_daemons):
            worker.wait()


def _after_fork_in_child() -> None:
    """None of the workers is here: give each executor a new pool. The parent keeps the queued work (EXE-37)."""
    _daemons.clear()
    here.pool, here.worker, here.depth = None, None, 0  # were the forking thread a worker: it is none here
    for reference, old in tuple(_pools.items()):
        executor = reference()
        if executor is not None:
            executor._pool = _pools[reference] = old.reborn()  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001


threading._register_atexit(_at_exit)  # type: ignore[attr-defined]  # noqa: SLF001  see "At exit" above
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
