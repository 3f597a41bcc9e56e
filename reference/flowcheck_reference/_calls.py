"""A blocking call under a policy, on threads. There are two ways through its attempts:

- `drive`, for `Retrier.call`: the calling thread waits anyway, so it keeps the clock, decides, and waits for the backoff.
  A worker makes single attempts for it (`_Attempt`). No third thread is involved, nothing of a call is left when it
  returns, and KeyboardInterrupt ends it wherever it waits.
- `Course`, for `Retrier.submit`: nobody waits. The worker that makes an attempt decides, and makes the next one itself;
  see `_attempts`.

Both put a later attempt before calls that have not begun: so it takes the place of the worker that was written off for
it, and a busy queue can't hold it up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import Context, copy_context
from time import monotonic
from typing import Any, Generic, TypeAlias, TypeVar, cast

from ._attempts import Away, Crew, Lane, Trial, decide, raise_last, replace
from ._policy import AttemptTimeout, RetryPolicy, TooManyAbandonedError, name_of
from .executor import Pool, Task, Worker, here, loop_runs_here

T = TypeVar("T")

_LOG = logging.getLogger(f"{__package__}.retry")  # where its users look for it
_Call: TypeAlias = tuple[Context, Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def drive(crew: Crew, policy: RetryPolicy, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """The attempts of one call, driven by this thread."""
    limit = policy.timeout
    errors: list[BaseException] = []
    stuck: Worker | None = None
    attempt: _Attempt[T] | None = None
    try:
        while True:
            pool = crew.pool
            nested = here.pool is pool
            attempt = _Attempt(crew, pool, limit, (copy_context(), fn, args, kwargs))
            if nested and limit is None and not loop_runs_here():
                attempt.run()  # on top of the attempt this is called in: no other thread, no deadlock
            else:
                try:
                    pool.enqueue(attempt, first=nested or bool(errors))
                    if stuck is not None:
                        replace(pool, stuck)
                        stuck = None
                    attempt.wait(nested=nested)
                except BaseException:  # KeyboardInterrupt, anywhere in there; or it wasn't queued
                    attempt.drop()
                    raise
            if attempt.expired:
                stuck = attempt.worker
                assert limit is not None
                errors.append(AttemptTimeout(name_of(fn), len(errors) + 1, limit))
            elif attempt.error is None:
                return cast("T", attempt.value)
            else:
                errors.append(attempt.error)
                attempt.error = None
                if attempt.never_began:
                    raise_last(errors)
            delay = decide(policy, errors)
            if delay:
                if stuck is not None:
                    replace(pool, stuck)
                    stuck = None
                _pause(delay)
    except BaseException as error:
        if errors and errors[-1] is not error:  # KeyboardInterrupt; or no attempt could be queued
            errors.append(error)
            raise_last(errors)
        raise
    finally:
        if stuck is None and attempt is not None and attempt.expired:
            stuck = attempt.worker  # KeyboardInterrupt, just as its time was up
        if stuck is not None:
            replace(crew.pool, stuck)
        errors.clear()


def _pause(seconds: float) -> None:
    """Wait in this thread, so that KeyboardInterrupt ends it."""
    park = threading.Lock()
    park.acquire()
    park.acquire(timeout=seconds)


class _Attempt(Generic[T]):
    """One attempt for a thread that waits for it: an item of the pool's queue.

    Guarantees:
    - `_call` holds the call until it is claimed, by a worker or by whoever wants it no more: `list.pop` decides.
    - `_cell` is the settle race between the worker and whoever says that time is up.
    - `_park` is taken to wait, and released to wake. The waiter looks at what changed; once too often is harmless.
    - The worker stores `begun`, then looks at `_overslept`; the waiter stores that, then looks at `begun`. One of them
      sees the other. So a clock that begins late is noticed, and an attempt that begins at once wakes nobody.
    """

    __slots__ = (
        "_call", "_cell", "_crew", "_limit", "_over", "_overslept", "_park", "_pool", "_unwanted",
        "begun", "error", "expired", "never_began", "value", "worker",
    )  # fmt: skip

    def __init__(self, crew: Crew, pool: Pool, limit: float | None, call: _Call) -> None:
        self._crew, self._pool, self._limit = crew, pool, limit
        self._call = [call]
        self._cell = [None]
        self._park = threading.Lock()
        self._park.acquire()
        self._over = self._overslept = self._unwanted = False
        self.begun: float | None = None
        self.worker: Worker | None = None
        self.value: T | None = None
        self.error: BaseException | None = None
        self.expired = False
        """Its time was up, and it was given up."""
        self.never_began = False
        """`error` is not the call's own: no attempt could be made."""

    # -- the worker's side

    def run(self) -> None:
        """Make the attempt here, if nobody has it yet."""
        try:
            context, fn, args, kwargs = self._call.pop()
        except IndexError:
            return
        try:
            if self._limit is not None:
                self.worker = here.worker
                self.begun = monotonic()
                if self._overslept:
                    self._ring()
                if self._pool.abandoned >= self._crew.max_abandoned:
                    self._refuse(TooManyAbandonedError(self._crew.max_abandoned))
                    return
            try:
                value = context.run(fn, *args, **kwargs)
            except BaseException as error:  # noqa: BLE001  the waiter has it, whatever it is
                del context, fn, args, kwargs
                self._settle(None, error)
            else:
                del context, fn, args, kwargs  # whoever wakes finds them gone (RTY-10)
                self._settle(value, None)
                del value
        finally:
            del self  # the error's traceback has this frame

    def run_inline(self) -> None:
        """`run`, on top of what this worker is in."""
        here.depth += 1
        try:
            self.run()
        finally:
            here.depth -= 1

    def _settle(self, value: T | None, error: BaseException | None) -> None:
        """It ended: tell, if in time."""
        try:
            self._cell.pop()
        except IndexError:
            if self.worker is not None:
                replace(self._pool, self.worker)
            return
        if not self._unwanted:
            self.value, self.error = value, error
        self._over = True
        self._ring()

    def _refuse(self, error: BaseException) -> None:
        self.never_began = True
        self._settle(None, error)

    def _ring(self) -> None:
        with suppress(RuntimeError):  # it is released
            self._park.release()

    # -- the pool's side

    def fail(self, error: BaseException) -> None:
        """The pool is broken."""
        with suppress(IndexError):
            self._call.pop()
            self._refuse(error)

    def cancel(self) -> bool:
        """The pool was shut down, and doesn't do what is queued."""
        with suppress(IndexError):
            self._call.pop()
            self._refuse(CancelledError())
            return True
        return False

    def queued(self) -> bool:
        """Has nobody claimed it?"""
        return bool(self._call)

    def done(self) -> bool:
        """Did it end, or was it given up?"""
        return not self._cell

    # -- the waiter's side

    def wait(self, *, nested: bool) -> None:
        """Until it is over, or its time is up. In a worker of the pool (`nested`) another may run meanwhile (EXE-23)."""
        if not nested:
            self._watch()
            return
        lends, roused = self._pool.wait_begins(self)
        try:
            if not roused:
                self._pool.serve(self)
            self._watch()
        finally:
            self._pool.wait_ends(lends)

    def _watch(self) -> None:
        limit, park = self._limit, self._park
        if limit is None:
            while not self._over:
                park.acquire()
            return
        left = limit
        while True:
            park.acquire(timeout=left)
            if self._over:
                return
            if self.begun is None:
                # The clock does not run in the queue (RTY-07).
                self._overslept = True
                while self.begun is None and not self._over:
                    park.acquire()
            left = limit if self.begun is None else self.begun + limit - monotonic()
            if left <= 0:
                self.expired = True  # first: KeyboardInterrupt may come once the cell is empty
                try:
                    self._cell.pop()
                except IndexError:
                    self.expired = False
                    left = limit  # it just ended, and is about to say so
                else:
                    return

    def drop(self) -> None:
        """Nobody waits any more. Queued, it is never begun; running, it is given up when its time is up, as ever."""
        self._unwanted = True
        self.value = self.error = None
        with suppress(IndexError):
            self._call.pop()
            return
        if self._limit is not None and self._cell:
            begun = self.begun or monotonic()
            with suppress(RuntimeError):  # no thread for the watchdog: it runs on without a limit
                self._crew.watchdog.call_at(begun + self._limit, self.give_up)

    def give_up(self) -> None:
        """Its time is up, if it is not over."""
        with suppress(IndexError):
            self._cell.pop()
            if self.worker is not None:
                replace(self._pool, self.worker)


class Course(Task[T]):
    """A call that nobody waits for: the future of it, and what stands in the queue while it needs a worker.

    Guarantees: `_cell` holds the call until it is claimed for the first attempt, as in any task; `_resumed` holds the
    trial while it waits in the queue for a later one. Whoever pops either has the course.
    """

    may_run_inline = False

    def __init__(self, crew: Crew, policy: RetryPolicy, call: _Call) -> None:
        super().__init__(crew.pool, call)
        self._crew = crew
        self._policy = policy
        self._resumed: list[Trial[T]] = []

    def run(self) -> None:
        """Make attempts here, if nobody has it."""
        trial = self._claim()
        if trial is None:
            return
        lane = Lane(self._crew, self._policy, trial.context, self._again)
        try:
            try:
                value = trial.go(lane)
            except BaseException as error:  # noqa: BLE001  it is the future's
                del trial
                lane.leave()  # the error's traceback has the lane, which must not have the future
                self.set_exception(error)
            else:
                del trial
                lane.leave()
                if value is not Away.WRITTEN_OFF and value is not Away.BACKING_OFF:
                    self.set_result(value)
        except BaseException:  # noqa: BLE001  a callback's SystemExit; `Future` itself logs each Exception (EXE-14)
            _LOG.exception("a done-callback raised")
        finally:
            del self, lane

    def _claim(self) -> Trial[T] | None:
        with suppress(IndexError):
            return self._resumed.pop()
        try:
            call = self._cell.pop()
        except IndexError:
            return None
        return Trial(self._policy, *call) if self.set_running_or_notify_cancel() else None

    def _again(self, trial: Trial[T]) -> None:
        """In the watchdog's thread: some worker is to go on with it."""
        self._resumed.append(trial)
        try:
            self._crew.pool.enqueue(self, first=True)
        except BaseException as error:  # noqa: BLE001  the pool was closed or is broken, say. Nobody must wait in vain
            self.fail(error)

    def queued(self) -> bool:
        """Does it need a worker? It may, any time: between two attempts it has none, and one that waits can't know."""
        return not self.done()

    def fail(self, error: BaseException) -> None:
        """Begin no other attempt; end with `error`."""
        with suppress(IndexError):
            trial = self._resumed.pop()
            try:
                trial.end(error)
            except BaseException as last:  # noqa: BLE001  it is the future's
                self.set_exception(last)
            return
        super().fail(error)

    def cancel(self) -> bool:
        """As `Future.cancel` before the first attempt. While it waits in the queue for a later one, that isn't begun."""
        if super().cancel():
            return True
        if self._resumed:
            self.fail(CancelledError())
        return False
