"""What retriers and fan-outs share: the way of one call through its attempts, on workers, and what decides on each.

A `Trial` is a call on its way; a `Lane` is a worker's side of it, a `Crew` the workers and the watchdog over them. Nobody
waits here: the worker that makes an attempt decides, and makes the next one itself. The watchdog gives up attempts, and
brings back what waits for its backoff, to whatever worker is free. `_calls` and `_lanes` say which, by `Lane.resume`.

Where somebody does wait, a thread (`_calls`) or a task (`_coroutines`), that one goes through the attempts, and of all
this uses `decide` and `raise_last` only.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from enum import Enum
from functools import partial
from time import monotonic
from typing import Any, Generic, Literal, NoReturn, TypeVar

from ._policy import AttemptTimeout, RetryPolicy, TooManyAbandonedError, linked, name_of
from ._watchdog import Watchdog
from .executor import Executor, Pool, Worker, here

T = TypeVar("T")


def replace(pool: Pool, worker: Worker) -> None:
    """Write it off, so that another takes its place. If the system gives no thread for one, nobody waits for it in vain.

    Any thread, any number of times.
    """
    pool.write_off(worker)
    with pool.lock:
        stranded = [] if pool.live else pool.withdraw()
    for item in stranded:
        msg = "the system gives no thread to replace a worker that is stuck: see the log for its error"
        item.fail(RuntimeError(msg))


class Crew:
    """Workers, the watchdog over them, and how many stuck ones are borne.

    `max_abandoned`: while so many threads are stuck in attempts that were given up, no attempt with a limit is begun;
    those in flight may yet be given up, so there are at most `max_abandoned + max_workers` such threads.
    """

    def __init__(self, executor: Executor, max_abandoned: int) -> None:
        self.executor = executor
        self.watchdog = Watchdog()
        self.max_abandoned = max_abandoned

    @property
    def pool(self) -> Pool:
        """The executor's pool. A fork changes it."""
        return self.executor._pool  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001

    def ready(self, policy: RetryPolicy) -> None:
        """Before anything runs: is there a watchdog, if `policy` may need one?

        Raises: RuntimeError: there is no thread for it.
        """
        if policy.timeout is not None or policy.attempts > 1:
            self.watchdog.ensure()

    def would_wait_for_itself(self) -> bool:
        """Whoever waits here for all that is under way: is he part of it?"""
        return here.pool is self.pool or self.watchdog.runs_here()


class Away(Enum):
    """Where a trial is that has neither a value nor an error yet."""

    WRITTEN_OFF = "written off"
    """The attempt was given up, and this worker with it: touch nothing, return to the pool, the thread ends."""
    BACKING_OFF = "backing off"
    """It goes on after a wait that holds no worker. This worker is free for something else."""


class Trial(Generic[T]):
    """One call on its way through its attempts, in whichever worker has it: `go` there, and again wherever it resumes.

    Guarantees: one thread has it at a time. Who gives an attempt up has it from then on; the worker that comes back late
    finds its cell empty, and touches nothing. `errors` is empty as soon as the trial is over.
    """

    __slots__ = ("args", "context", "errors", "fn", "key", "kwargs", "policy", "undecided")

    def __init__(
        self,
        policy: RetryPolicy,
        context: Context,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        key: Any = None,
    ) -> None:
        self.policy = policy
        self.context = context
        self.fn, self.args, self.kwargs = fn, args, kwargs
        self.key = key
        """Whatever the driver wants to know it by."""
        self.errors: list[BaseException] = []
        self.undecided = False
        """Has an attempt failed since it was last decided to go on?"""

    def failed(self, error: BaseException) -> None:
        """An attempt ended with `error`."""
        self.errors.append(error)
        self.undecided = True

    def go(self, lane: Lane) -> T | Literal[Away.WRITTEN_OFF, Away.BACKING_OFF]:
        """Make attempts until there is a value, or the trial is elsewhere.

        Raises: the last attempt's error; what the policy's predicate raised; TooManyAbandonedError; RuntimeError: there
        is no thread for the watchdog.
        """
        while True:
            if self.undecided:
                delay = self._decide()
                self.undecided = False
                if delay:
                    try:
                        self.rest(lane, delay)
                    except BaseException as error:  # noqa: BLE001  as below
                        self.end(error)
                    return Away.BACKING_OFF
            try:
                cell = lane.arm(self.policy.timeout, self)
            except BaseException as error:  # noqa: BLE001  no attempt could begin; raised here, with its history
                self.end(error)
            try:
                value = self.context.copy().run(self.fn, *self.args, **self.kwargs)
            except BaseException as error:  # noqa: BLE001  whatever it is, the policy decides
                if not lane.settles(cell):
                    return Away.WRITTEN_OFF
                self.failed(error)
            else:
                return value if lane.settles(cell) else Away.WRITTEN_OFF

    def rest(self, lane: Lane, delay: float) -> None:
        """Resume after so many seconds. Raises: RuntimeError: it won't, as there is no thread for the watchdog."""
        lane.crew.watchdog.call_at(monotonic() + delay, partial(lane.resume, self))

    def time_is_up(self) -> None:
        """The attempt was given up."""
        limit = self.policy.timeout
        assert limit is not None
        try:
            name = name_of(self.fn)
        except BaseException:  # noqa: BLE001  what is called may compute its attributes, and this must not raise
            name = type(self.fn).__name__
        self.failed(AttemptTimeout(name, len(self.errors) + 1, limit))

    def _decide(self) -> float:
        """How long to wait before the next attempt. Raises: see `go`."""
        try:
            return decide(self.policy, self.errors)
        except BaseException:
            self.errors.clear()
            raise

    def end(self, error: BaseException) -> NoReturn:
        """Raise `error`, with all there were before."""
        self.errors.append(error)
        try:
            raise_last(self.errors)
        finally:
            del error


class Lane:
    """One worker's way through calls under a policy, one after another, for bulk work.

    A call that goes well takes no lock and no other thread: what its limit costs is the clock, three small objects and
    a store. Make one in the worker, call `run` for each item, `leave` at the end.

    `resume(trial)` is called by the watchdog, so must be short and not raise, whenever a trial is to go on in another
    worker: have some worker of the crew's pool make a lane of its own and call `trial.go(lane)`. After
    `Away.WRITTEN_OFF` that worker takes over all that this one had.
    """

    __slots__ = ("_context", "_limit", "_policy", "_pool", "_post", "_worker", "crew", "resume")

    def __init__(
        self, crew: Crew, policy: RetryPolicy, context: Context, resume: Callable[[Trial[Any]], object]
    ) -> None:
        pool, worker = here.pool, here.worker
        assert pool is not None, "a lane is made in the worker that it is for"
        assert worker is not None
        self.crew = crew
        self.resume = resume
        self._policy = policy
        self._limit = policy.timeout
        self._context = context
        self._pool, self._worker = pool, worker
        self._post = crew.watchdog.post()

    def under(self, policy: RetryPolicy) -> None:
        """The next call's policy. Not while one is under way."""
        self._policy, self._limit = policy, policy.timeout

    def run(self, key: Any, fn: Callable[..., T], *args: Any) -> T | Away:
        """`fn(*args)` under the policy, in a copy of the context; `key` is the trial's, should it come to one.

        Raises: as `Trial.go`.
        """
        limit = self._limit
        cell: list[Any] | None = None
        if limit is not None:
            if self._pool.abandoned >= self.crew.max_abandoned:
                raise TooManyAbandonedError(self.crew.max_abandoned)
            cell = [(key, fn, args)]
            # `Post.publish`, by hand
            deadline = monotonic() + limit
            post = self._post
            post.watched = deadline, cell, self._expired_first
            if deadline < post.state.wake:
                post.nudge(deadline)
        try:
            value = self._context.copy().run(fn, *args)
        except BaseException as error:  # noqa: BLE001  whatever it is, the policy decides
            if not self.settles(cell):
                return Away.WRITTEN_OFF
            trial = self._trial(key, fn, args)
            trial.failed(error)
        else:
            if cell is not None:
                try:
                    cell.pop()
                except IndexError:
                    self._came_late()
                    return Away.WRITTEN_OFF
            return value
        return trial.go(self)

    def leave(self) -> None:
        """The worker is through. What went on elsewhere still resumes."""
        self._post.leave()
        self.resume = _nowhere

    def arm(self, limit: float | None, trial: Trial[Any]) -> list[Any] | None:
        """An attempt begins: its clock runs. What `settles` needs to know. Raises: TooManyAbandonedError."""
        if limit is None:
            return None
        if self._pool.abandoned >= self.crew.max_abandoned:
            raise TooManyAbandonedError(self.crew.max_abandoned)
        cell: list[Any] = [trial]
        self._post.publish(monotonic() + limit, cell, self._expired)
        return cell

    def settles(self, cell: list[Any] | None) -> bool:
        """An attempt ended: in time? Else this worker is written off."""
        if cell is not None:
            try:
                cell.pop()
            except IndexError:
                self._came_late()
                return False
        return True

    def _trial(self, key: Any, fn: Callable[..., T], args: tuple[Any, ...]) -> Trial[T]:
        return Trial(self._policy, self._context, fn, args, {}, key)

    def _came_late(self) -> None:
        """Not to take more work before the watchdog gets round to writing this worker off."""
        self._post.leave()
        replace(self._pool, self._worker)

    def _expired_first(self, token: tuple[Any, Callable[..., Any], tuple[Any, ...]]) -> None:
        """In the watchdog's thread: give up what `run` is in."""
        self._expired(self._trial(*token))

    def _expired(self, trial: Trial[Any]) -> None:
        """In the watchdog's thread: give up what this worker is in."""
        try:
            trial.time_is_up()
            self.resume(trial)  # first: so it stands where the worker looks that is made room for
        finally:
            replace(self._pool, self._worker)


def _nowhere(_: Trial[Any]) -> None:
    """Where a lane that was left resumes: it is in no call any more."""


def decide(policy: RetryPolicy, errors: list[BaseException]) -> float:
    """How long to wait before the next attempt; else raise the last error, or what the policy raised."""
    try:
        if len(errors) < policy.attempts and policy.retries(errors[-1]):
            return policy.delay(len(errors))
    except BaseException as broken:  # noqa: BLE001  raised below, with its history
        errors.append(broken)
    return raise_last(errors)


def raise_last(errors: list[BaseException]) -> NoReturn:
    """Raise it, itself, with the others behind it; and keep none."""
    error = linked(errors)
    context = error.__context__
    errors.clear()
    try:
        raise error
    finally:
        # What the caller's caller is handling now would have replaced the history.
        error.__context__ = context
        del error, context  # the traceback has this frame: error → traceback → frame → error would be a cycle
