"""One fan-out on threads: the lanes of a call of `Fanout`, and the thread that called.

`_window` decides which item may start, `_attempts` what a policy makes of an item that failed; `fanout` explains lanes.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from concurrent import futures
from contextlib import nullcontext, suppress
from contextvars import copy_context
from functools import partial
from itertools import count
from time import monotonic
from typing import Any, Final, Generic, TypeVar

from ._attempts import Away, Crew, Lane, Trial
from ._policy import RetryPolicy
from ._window import NOTHING, OUTSIDE, Halt, Record, Window
from .executor import Executor, Pool, Task, here, loop_runs_here

T = TypeVar("T")

_LOG = logging.getLogger(f"{__package__}.fanout")  # where its users look for it
_GIL: Final = bool(getattr(sys, "_is_gil_enabled", lambda: True)())


class LaneCrew(Crew):
    """Threads for lanes: the executor's own number of them, or (`grows`) as many as there are lanes at any time.

    A thread is for a lane to come, or has one. So a lane whose predecessor has just ended waits for that thread, though
    it is not at rest yet, and no other is started: over many calls there are no more than were ever needed (FAN-17).

    `busy` counts the lanes that are under way, also between two attempts, when they have no thread; `close` waits for
    them. It changes on pool threads and the watchdog's only, where no Ctrl-C comes, so is never wrong; `lanes` may be
    one too many after one. It is kept per pool: a forked child has another, and waits for nothing of the parent's.
    """

    def __init__(self, executor: Executor, max_abandoned: int, *, grows: bool) -> None:
        super().__init__(executor, max_abandoned)
        self.grows = grows
        self.lanes = 0
        self.busy: Counter[Pool] = Counter()
        self.closing = self.closed = False
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)

    def take(self) -> None:
        """One lane more. Raises: RuntimeError: there will be no more."""
        self.refuse(self.closing)
        if self.grows:
            with self.lock:
                self.lanes += 1
                if self.lanes > self.executor.max_workers:
                    self.executor.resize(self.lanes)

    def give(self) -> None:
        """One less. Before anybody can learn that it ended."""
        if self.grows:
            with self.lock:
                self.lanes -= 1

    def refuse(self, refuses: bool) -> None:
        """Raise RuntimeError, if so."""
        if refuses:
            msg = "this fan-out was closed: what it has begun it ends, and it begins no more"
            raise RuntimeError(msg)

    def begins(self) -> None:
        """A lane is under way. Raises: RuntimeError: too late, `close` has waited for all there were."""
        with self.lock:
            self.refuse(self.closed)
            self.busy[self.pool] += 1

    def ends(self) -> None:
        """It is over."""
        with self.lock:
            self.busy[self.pool] -= 1
            self.changed.notify_all()
        self.give()

    def close(self) -> None:
        """Begin no more lanes, and wait for those that are under way."""
        pool = self.pool
        self.closing = True
        with self.lock:
            while self.busy[pool] > 0:
                self.changed.wait()
            self.closed = True


class ThreadCall(Window[T]):
    """One call on threads.

    Guarantees:
    - `turn` is held to draw, `lock` to count lanes and to decide that one leaves or is sent for; `turn` comes first, and
      `counts`, the crew's lock, before `lock`. Who waits for a slow iterator holds `turn` only, so counting, stopping
      and delivering go on meanwhile.
    - `plain` is drawn from without `turn`: to iterate over a list is one step in C. A lock per item that takes no time
      would make threads wait for each other all the time.
    - `active` counts the lanes on pool threads from their start to their end, also while one changes threads. Once
      `closed` is set and it is 0, nothing runs, and nothing will start: a lane that comes later goes home (FAN-19). So
      a lane that is still queued, in an executor that is full, is never waited for.
    - The bell is rung after whatever the caller may be waiting for; once too often is harmless, he looks again.

    Under a policy a lane can lose its thread: its attempt is given up, or its item waits for its next attempt. The item
    keeps its place all the while, so retries are within the bound (FAN-02); where it goes on, the lane goes on. Only
    an attempt that was given up has no place any more: it runs on beside the others until it ends.

    Races:
    1. A lane finds the window full and leaves, the consumer opens it: both hold `lock`. Either the lane sees the new
       limit and stays, or the consumer sees that it has left and sends for another.
    2. Ctrl-C may come anywhere in the caller's thread: the caller's own lane is in no count, so none can be wrong.
    3. An item's wait for its next attempt ends, as it becomes unwanted: who takes it out of `resting` has it. That is
       never the caller, whom Ctrl-C might keep from doing the rest: the watchdog does it for him.
    4. A stream that nobody refers to any more is closed by whichever thread collects it, maybe in the middle of one of
       its own items, or inside `with lock` here: so `lock` is re-entrant, and who is waited for doesn't wait.
    """

    def __init__(
        self,
        executor: futures.Executor,
        crew: LaneCrew | None,
        policy: RetryPolicy | None,
        fn: Callable[[Any], T],
        items: Iterable[Any],
        max_concurrency: object,
        on_error: str,
        *,
        whole: bool,
    ) -> None:
        if policy is not None and crew is None:
            msg = "a policy needs a flowcheck_reference.Executor, which can replace stuck workers"
            raise TypeError(msg)
        super().__init__(fn, items, max_concurrency, on_error, whole=whole)
        self.executor, self.crew, self.policy = executor, crew, policy
        self.width = self.lanes
        # The caller's thread is a lane, unless it must be free: to deliver; to give an attempt up; for the event loop
        # that runs in it, on top of which an item couldn't start one of its own.
        self.takes_part = (whole or self.lanes == 1) and policy is None and not loop_runs_here()
        if self.takes_part:
            self.lanes -= 1
        self.turn, self.lock, self.bell = threading.Lock(), threading.RLock(), threading.Lock()
        self.counts = nullcontext() if crew is None else crew.lock
        self.bell.acquire()
        self.plain = enumerate(items) if whole and _GIL and type(items) in {list, tuple, range} else None
        self.wanted = OUTSIDE
        """The record that the consumer waits for."""
        self.sent: futures.Future[Any] | None = None
        self.resting: dict[int, _Trial[T]] = {}
        """Items between two attempts."""
        self.within: set[int] = set()
        """The threads that are in a lane."""

    # -- the lanes' side

    def lane(self, trial: _Trial[T] | None = None) -> None:
        """A lane's life on a pool thread; or the rest of one, from where it lost its thread, with its `trial`."""
        me = threading.get_ident()
        inner = me in self.within  # on top of another, as there was no other thread to be had
        self.within.add(me)
        try:
            self.live(trial)
        finally:
            if not inner:
                self.within.discard(me)
            del self, trial

    def live(self, trial: _Trial[T] | None) -> None:
        """`lane`, in its thread."""
        if trial is None:
            with self.counts, self.lock:
                self.coming = False
                try:
                    if self.closed:
                        self.give()
                        return
                    if self.crew is not None:
                        self.crew.begins()
                except RuntimeError as error:  # closed, between `grow` and here
                    self.give()
                    if not self.takes_part:
                        self.stop(OUTSIDE, error)
                    return
                self.active += 1
        way: _Way[T] | None = None
        try:
            if self.policy is not None and self.crew is not None:
                way = _Way(self, self.crew, self.policy)
            if trial is not None and way is not None and not self.go_on(way, trial):
                return
            while self.work(way):
                if self.leaves():
                    return
        except BaseException as error:  # noqa: BLE001  not an item's: no memory, say. Nobody must wait in vain
            self.stop(OUTSIDE, error)
            self.leaves()
        finally:
            if way is not None:
                way.leave()
            del self, trial, way  # an error's traceback leads to this frame, and must not lead on to all records

    def work(self, way: _Way[T] | None = None) -> bool:
        """Draw, call, note. True: there was nothing to draw. False: the lane goes on elsewhere."""
        index, item = 0, None
        try:
            if self.plain is not None:
                self.grow()
                for index, item in self.plain:
                    if self.closed and index > self.cut:
                        return True
                    if not self.perform(way, index, item, monotonic()):
                        return False
                    if self.active < self.lanes and not self.coming:
                        self.grow()
                self.closed = True
                return True
            while True:
                with self.turn:
                    item = self.draw()
                    if item is NOTHING:
                        return True
                    index = self.index - 1
                    if self.active < self.lanes:
                        self.grow()
                    started = monotonic()
                if not self.perform(way, index, item, started):
                    return False
                item = None  # while this lane waits for the iterator it keeps nothing alive
        finally:
            del self, way, item

    def perform(self, way: _Way[T] | None, index: int, item: Any, started: float) -> bool:
        """Call the function and note the outcome. False: the lane goes on elsewhere."""
        try:
            if way is None:
                value: Any = self.base.copy().run(self.fn, item)
                attempts = 1
            else:
                way.trial = None
                value = way.run((index, started), self.fn, item)
                if isinstance(value, Away):
                    return False
                attempts = 1 if way.trial is None else way.trial.failures + 1
            self.records[index] = Record(index, "ok", value, None, attempts, started, monotonic())
        except BaseException as error:  # noqa: BLE001  `fail` decides whose it is
            attempts = 1 if way is None else 0 if way.trial is None else way.trial.failures
            self.fail(index, error, attempts, started)
        finally:
            value = None
            del self, way, item
        return True

    def leaves(self) -> bool:
        """Nothing was to be drawn: is it still so (race 1)?"""
        with self.counts, self.lock:
            if not self.closed and self.index < self.limit:
                return False
            self.ends()
        self.ring()
        return True

    def grow(self) -> None:
        """Send for one more lane, if one may have an item. It sends for the next when it has one."""
        with self.lock:
            if not self.may_grow():
                return
            self.coming = True
        try:
            if self.crew is not None:
                self.crew.take()
            try:
                sent = self.sent = self.executor.submit(self.lane)
            except RuntimeError:
                self.give()
                raise
            sent.add_done_callback(self.landed)
        except RuntimeError:  # closed, or shut down, or no thread is to be had: go on with the lanes there are
            self.coming = False
            if not (self.active or self.takes_part):
                raise

    def landed(self, sent: futures.Future[Any]) -> None:
        """A lane is over; or will never begin, as somebody broke or emptied the executor."""
        error = _lost(sent)
        if error is not None:
            self.give()
            if not self.closed:
                self.stop(OUTSIDE, error)

    def give(self) -> None:
        """A lane that was sent for needs its thread no more: another may have it."""
        if self.crew is not None:
            self.crew.give()

    def ends(self) -> None:
        """A lane that was under way is over. Under `counts` and `lock`."""
        self.active -= 1
        if self.crew is not None:
            self.crew.ends()

    def stop(self, index: int, error: BaseException) -> None:
        """From now on nothing starts, and what waits for a retry may be unwanted."""
        super().stop(index, error)
        self.ring()

    def ring(self) -> None:
        """Let the caller look again."""
        with suppress(RuntimeError):  # he hasn't come to it since the last time
            self.bell.release()

    # -- retries

    def resume(self, trial: Trial[Any]) -> None:
        """In the watchdog's thread: some worker is to go on with it."""
        assert isinstance(trial, _Trial)
        assert self.crew is not None
        if trial.rests:
            trial.rests = False
            if self.resting.pop(trial.index, None) is None:
                return  # race 3
            if trial.index > self.cut:
                self.give_back(trial, trial.errors.pop())
                return
        try:
            pool = self.crew.pool
            task: Task[Any] = Task(pool, (copy_context(), self.lane, (trial,), {}))
            pool.enqueue(task, first=True)
        except BaseException as error:  # noqa: BLE001  the executor was shut down, or no thread is to be had. See `lane`
            self.give_back(trial, error)
        else:
            task.add_done_callback(partial(self.stranded, trial))

    def stranded(self, trial: _Trial[T], task: futures.Future[Any]) -> None:
        """No worker will go on with it, if somebody broke or emptied the executor."""
        error = _lost(task)
        if error is not None:
            self.give_back(trial, error)

    def give_back(self, trial: _Trial[T], error: BaseException) -> None:
        """It ends here, with `error`, and its lane too; so all does, unless it was to end anyway: no lane may be left."""
        last = trial.note(error)
        if not self.closed:
            self.stop(trial.index, last)
        with self.counts, self.lock:
            self.ends()
        self.ring()

    def sweep(self) -> None:
        """In the watchdog's thread: end what waits for a retry that nobody wants any more."""
        cut = self.cut
        for index in tuple(self.resting):
            trial = self.resting.pop(index, None) if index > cut else None
            if trial is not None:
                self.give_back(trial, trial.errors.pop())

    def go_on(self, way: _Way[T], trial: _Trial[T]) -> bool:
        """`perform`, for an item that had attempts elsewhere."""
        try:
            way.trial = trial
            value: Any = trial.go(way)
            if isinstance(value, Away):
                return False
            self.records[trial.index] = Record(
                trial.index, "ok", value, None, trial.failures + 1, trial.started, monotonic()
            )
        except BaseException as error:  # noqa: BLE001  as in `perform`
            self.fail(trial.index, error, trial.failures, trial.started)
        finally:
            value = None
            del self, way, trial
        return True

    # -- the caller's side

    def over(self) -> bool:
        """Does nothing run, for good?"""
        if self.resting and self.closed and self.crew is not None:
            cut = self.cut
            if any(index > cut for index in tuple(self.resting)):
                with suppress(RuntimeError):  # no thread for the watchdog: then this item ends in its lane
                    self.crew.watchdog.call_at(monotonic(), self.sweep)
        with self.lock:
            return self.closed and not self.active

    def sleep(self) -> None:
        """Until the bell rings. A worker of the executor lends its slot meanwhile: lanes may need it (FAN-14)."""
        crew, sent = self.crew, self.sent
        if crew is None or crew.grows or here.pool is not crew.pool or not isinstance(sent, Task):
            self.bell.acquire()
            return
        pool = crew.pool
        lends, roused = pool.wait_begins(sent)
        try:
            if not roused:
                pool.serve(sent)
            self.bell.acquire()
        finally:
            pool.wait_ends(lends)

    def finish(self) -> None:
        """Start nothing more, and wait for what runs (FAN-11, 19). A second Ctrl-C ends the wait."""
        with self.lock:
            self.closed = self.deserted = True
        inside = threading.get_ident() in self.within or (self.crew is not None and self.crew.watchdog.runs_here())
        while not self.over() and not inside:  # race 4
            self.sleep()
        sent, self.sent = self.sent, None
        if sent is not None:
            sent.cancel()

    def begin(self) -> None:
        """Before anything runs: is there a watchdog, if the policy needs one? Raises: RuntimeError."""
        if self.crew is not None and self.policy is not None:
            self.crew.ready(self.policy)

    def gather(self) -> list[Record[T]]:
        """All records."""
        try:
            try:
                self.begin()
                if self.takes_part:
                    self.work()
                else:
                    self.grow()
                while not self.over():
                    self.sleep()
            except BaseException as error:  # noqa: BLE001  Ctrl-C, or no thread to begin with: the verdict raises it
                self.stop(OUTSIDE, error)
            self.finish()
            return self.verdict()
        finally:
            del self

    def arrives(self, index: int) -> bool:
        """Wait for record `index`, if it will ever be."""
        self.wanted = index
        while index not in self.records:
            if self.over():
                return index in self.records
            self.sleep()
        return True

    def deliver(self) -> Generator[Record[T], None, None]:
        """The records, one by one. The window opens by one each time that one is asked for."""
        index = 0
        try:
            self.begin()
            for index in count():
                with self.lock:  # race 1
                    self.limit = index + self.width
                if self.takes_part:
                    self.work()
                else:
                    self.grow()
                if not self.arrives(index) or self.stopped_at(index):
                    break
                yield self.records.pop(index)
            self.finish()
            yield from self.verdict(index)
        finally:
            self.finish()
            self.log(_LOG)
            del self


class _Trial(Trial[T]):
    """An item that did not go well at once. It knows its call, how often it failed, and whether it waits."""

    __slots__ = ("call", "failures", "rests")

    def __init__(self, call: ThreadCall[T], policy: RetryPolicy, args: tuple[Any, ...], key: tuple[int, float]) -> None:
        super().__init__(policy, call.base, call.fn, args, {}, key)
        self.call = call
        self.failures = 0
        self.rests = False

    @property
    def index(self) -> int:
        """The item's."""
        return int(self.key[0])

    @property
    def started(self) -> float:
        """When its first attempt was."""
        return float(self.key[1])

    def failed(self, error: BaseException) -> None:
        """Count it."""
        self.failures += 1
        super().failed(error)

    def _decide(self) -> float:
        """A halt is never retried, nor is what nobody wants any more."""
        if isinstance(self.errors[-1], Halt) or self.index > self.call.cut:
            self.end(self.errors.pop())
        return super()._decide()

    def rest(self, lane: Lane, delay: float) -> None:
        """So that a stop can end it, too."""
        self.rests = True
        self.call.resting[self.index] = self  # first: it may resume at once
        try:
            super().rest(lane, delay)
        except BaseException:
            if self.call.resting.pop(self.index, None) is not None:
                self.rests = False
                raise
        self.call.ring()  # race 3: whoever stopped before this saw nothing

    def note(self, error: BaseException) -> BaseException:
        """It ended with `error`: the same, with those before it attached."""
        try:
            self.end(error)
        except BaseException as last:  # noqa: BLE001
            self.call.fail(self.index, last, self.failures, self.started)
            return last


class _Way(Lane, Generic[T]):
    """A lane's way through items under a policy, on one worker."""

    __slots__ = ("call", "trial")

    def __init__(self, call: ThreadCall[T], crew: Crew, policy: RetryPolicy) -> None:
        super().__init__(crew, policy, call.base, call.resume)
        self.call = call
        self.trial: _Trial[T] | None = None
        """What became of the last item, if it did not go well at once."""

    def _trial(self, key: Any, fn: Callable[..., Any], args: tuple[Any, ...]) -> Trial[Any]:  # noqa: ARG002  the call's
        self.trial = _Trial(self.call, self._policy, args, key)
        return self.trial


def _lost(sent: futures.Future[Any]) -> BaseException | None:
    """Why it was never done, if so: a lane raises nothing itself."""
    return futures.CancelledError("the executor was emptied") if sent.cancelled() else sent.exception()
