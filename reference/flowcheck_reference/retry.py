"""Calls that are tried again when they fail or take too long, and that a stuck attempt can't hold up (facet `retry`).

    with Retrier(max_workers=8) as retrier:
        row = retrier.call(RetryPolicy(attempts=3, timeout=2.0, on=OSError), fetch, 42)

    async with AsyncRetrier() as retrier:
        row = await retrier.call(RetryPolicy(attempts=3, timeout=2.0), afetch, 42)

A thread can't be killed. So an attempt whose time is up is *given up*: its worker is written off and runs on to its end,
another takes its place, and whatever the attempt still returns or raises is dropped (RTY-04, 06, 24). A coroutine can be
cancelled; the next attempt begins when its cleanup has ended (RTY-15).

`_calls` has the two ways through the attempts of a blocking call, `_coroutines` the way of one that is awaited. What they
share, also with fan-outs, is in `_attempts`; what a policy is worth, in `_policy`.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextvars import copy_context
from typing import ParamSpec, Self, TypeVar

from ._attempts import Crew
from ._calls import Course, drive
from ._policy import AttemptTimeout, RetryPolicy, TooManyAbandonedError
from ._sizing import checked, resolve
from .executor import Executor, Pool

__all__ = ["AsyncRetrier", "AttemptTimeout", "Retrier", "RetryPolicy", "TooManyAbandonedError"]

T = TypeVar("T")
P = ParamSpec("P")


class Retrier:
    """Makes blocking calls under a policy, on threads of its own or of an executor.

    `max_workers`: so many attempts run at once, but for those that were given up, and those that wait for a call of
    their own on this retrier. None: as `Executor`. Threads of its own are daemons, so that the interpreter can exit
    while one is stuck in an attempt that was given up (RTY-17); for all others it waits.
    `executor`: share its threads instead. It stays open; make it with `daemon=True` for the same at exit.
    `max_abandoned`: while so many threads are stuck in attempts that were given up, attempts with a limit aren't begun:
    the calls fail with `TooManyAbandonedError`. Without it, threads would be without bound.

    Safe from any thread, from inside an attempt too. Raises ValueError and TypeError for numbers that are none.
    """

    def __init__(
        self, max_workers: int | None = None, *, executor: Executor | None = None, max_abandoned: int = 256
    ) -> None:
        if executor is not None and max_workers is not None:
            msg = "give max_workers or executor, not both: an executor has a size of its own"
            raise TypeError(msg)
        self._owns = executor is None
        workers = Executor(max_workers, daemon=True) if executor is None else _checked(executor)
        self._crew = Crew(workers, checked(max_abandoned, "max_abandoned"))
        self._calls: dict[object, tuple[Pool, int | None]] = {}
        """Those that are not over: in which pool, and which thread waits for it, if one does."""
        self._closed = False
        self._quiet = threading.Condition()

    def call(self, policy: RetryPolicy, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`fn(*args, **kwargs)` on a worker, again and again as the policy says; its value.

        Each attempt runs in a copy of the caller's context (RTY-14). KeyboardInterrupt here ends the call: an attempt
        in flight runs on, within its limit, and no other is begun.

        Raises:
            BaseException: the last attempt's error, itself; earlier ones are found by `__context__` (RTY-02, 21).
            AttemptTimeout: the last attempt took longer than `policy.timeout`, and is perhaps still running.
            TooManyAbandonedError: see `max_abandoned`.
            RuntimeError: the retrier is closed, or its executor takes no more work.
        """
        _check(policy, fn)
        ticket = object()
        try:
            self._enter(ticket, threading.get_ident())
            return drive(self._crew, policy, fn, args, kwargs)
        finally:
            self._leave(ticket)

    def submit(self, policy: RetryPolicy, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `call`, without waiting. The future can be cancelled until the first attempt begins.

        Raises: RuntimeError: the retrier is closed, or its executor takes no more work.
        """
        _check(policy, fn)
        crew = self._crew
        crew.ready(policy)
        course: Course[T] = Course(crew, policy, (copy_context(), fn, args, kwargs))
        once = [self]  # a future that is kept must not keep the retrier
        course.add_done_callback(lambda course: once.pop()._leave(course))  # noqa: SLF001  our own
        try:
            self._enter(course)
            crew.pool.enqueue(course)
        except BaseException:
            course.cancel()  # KeyboardInterrupt: it may be queued, for nobody
            self._leave(course)
            raise
        return course

    def close(self) -> None:
        """Take no more calls, wait for those that are not over, and end the threads. Any thread, any number of times.

        What is in its backoff is not over: it gets the rest of its attempts. It waits for no attempt that was given up,
        for no call that this thread is in itself (a policy's predicate may close), nor, in a forked child, for the parent's.

        Raises: RuntimeError: called inside an attempt, it would wait for itself.
        """
        crew = self._crew
        if crew.would_wait_for_itself():
            msg = "close() inside an attempt of the same retrier would wait for itself"
            raise RuntimeError(msg)
        self._closed = True
        me = threading.get_ident()
        with self._quiet:
            while any(pool is crew.pool and thread != me for pool, thread in tuple(self._calls.values())):
                self._quiet.wait()
        self._crew.watchdog.close()
        if self._owns:
            self._crew.executor.shutdown()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """`close`."""
        self.close()

    def _enter(self, ticket: object, thread: int | None = None) -> None:
        """A call begins. First it is there, then it looks: so `close` waits for it, or it sees `close`."""
        self._calls[ticket] = self._crew.pool, thread
        if self._closed:
            self._leave(ticket)
            msg = "this retrier is closed: it takes no more calls"
            raise RuntimeError(msg)

    def _leave(self, ticket: object) -> None:
        """A call is over."""
        self._calls.pop(ticket, None)
        if self._closed:
            with self._quiet:
                self._quiet.notify_all()


class AsyncRetrier:
    """Makes calls of async functions under a policy, in the caller's own task, on asyncio and on trio.

    `max_workers`: so many attempts run at once. None: as `Executor`. An attempt's clock starts when it has its slot, and
    no slot is held during a backoff. A call made inside an attempt takes a free slot or else that of the attempt, which
    it shares with the other calls made inside it, one at a time: so it needs none that nobody would give back.

    An attempt whose time is up is cancelled, and the next begins when its cleanup has ended (RTY-15). It is cancelled as
    the event loop does it: on asyncio once, so that a cleanup may await; on trio until it ends, so that a cleanup that
    awaits must be shielded. If it swallows the cancellation and returns a value after all, that is the call's (RTY-06).

    Use it in one event loop. Raises ValueError and TypeError for a number that is none.
    """

    def __init__(self, max_workers: int | None = None) -> None:
        from ._coroutines import Slots  # who only blocks pays for no event loop

        self._slots = Slots(resolve(max_workers))

    async def call(self, policy: RetryPolicy, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`await fn(*args, **kwargs)`, again and again as the policy says; its value.

        Raises:
            BaseException: the last attempt's error, itself; earlier ones are found by `__context__` (RTY-02, 21).
            AttemptTimeout: the last attempt took longer than `policy.timeout`; it has ended.
            RuntimeError: the retrier is closed.
        """
        _check(policy, fn)
        return await self._slots.drive(policy, fn, args, kwargs)

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take no more calls. Those in flight belong to their callers, and get done but for what they would retry."""
        self._slots.refusal = "this retrier is closed: it takes no more calls"


def _checked(executor: object) -> Executor:
    """One of this package's."""
    if not isinstance(executor, Executor):
        msg = f"executor must be this package's Executor, not {type(executor).__name__}: others can't replace a worker"
        raise TypeError(msg)
    return executor


def _check(policy: object, fn: object) -> None:
    """Before anything runs."""
    if not isinstance(policy, RetryPolicy):
        msg = f"the policy comes first, and must be a RetryPolicy, not {type(policy).__name__}"
        raise TypeError(msg)
    if not callable(fn):
        msg = f"what to call must be callable, not {type(fn).__name__}"
        raise TypeError(msg)
