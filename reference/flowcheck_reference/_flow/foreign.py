"""Nodes on any `concurrent.futures.Executor` of the caller's: threads, processes, a cluster (FLO-20).

Each node is one `submit`, and its future's callback settles it, in whichever thread calls that. Nothing but the node's
function and its arguments travels: what an executor of processes needs is that they pickle.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

from flowcheck_reference._attempts import decide
from flowcheck_reference._policy import RetryPolicy, linked
from flowcheck_reference._watchdog import Watchdog
from flowcheck_reference._window import lanes_for

from .run import Entry, Run, without_ours


class ForeignCarrier:
    """A run's side of the executor.

    Guarantees:
    - At most `run.limit` nodes are submitted and not done; what waits for a place waits here, not in the executor.
    - `submit` may run the call at once, and call back inside: so no callback launches anything on top of another. Who
      finds `pumping` taken leaves what he has in `ready`, for whoever has it (`pump`).
    - The executor is never shut down.

    A worker's death is an error of the node's future like any other, and retried where the policy says so.
    """

    def __init__(
        self,
        run: Run,
        executor: futures.Executor,
        watchdog: Watchdog,
        elsewhere: Callable[[Entry], Callable[[Entry], object] | None],
        keeping: futures.Executor,
    ) -> None:
        self.run, self.executor, self.watchdog, self.elsewhere = run, executor, watchdog, elsewhere
        self.keeping = keeping
        """Whose worker waits for the disk, if the run is kept: a future's callback should not, it may hold up others."""
        self.pumping = threading.Lock()
        self.again = False
        self.shares_context = type(executor) is futures.ThreadPoolExecutor  # a subclass may send calls elsewhere
        self.sent: set[futures.Future[Any]] = set()

    def start(self) -> None:
        """Have the run begin."""
        self.run.begin()
        self.pump()

    def launch(self, entry: Entry) -> None:
        """Submit it, in the place that was counted for it; now, or as soon as who is at it comes to it."""
        self.run.ready.appendleft(entry)
        with self.run.lock:
            self.run.active -= 1
        self.pump()

    def pump(self) -> None:
        """Submit what is ready, as long as there are places."""
        run = self.run
        self.again = True
        while self.again and self.pumping.acquire(blocking=False):
            try:
                self.again = False
                while run.ready and self.has_place():
                    entry = run.take()
                    if entry is None:
                        with run.lock:
                            run.active -= 1
                    else:
                        (self.elsewhere(entry) or self.begin)(entry)
            finally:
                self.pumping.release()

    def has_place(self) -> bool:
        """Take one, if there is one: async nodes end meanwhile, and others begin."""
        run = self.run
        with run.lock:
            if run.active >= run.limit:
                return False
            run.active += 1
            return True

    def begin(self, entry: Entry) -> None:
        """Submit a node's first attempt, or its next one."""
        course = entry if isinstance(entry, _Course) else self.course(entry)
        try:
            course.advance()
        except BaseException as error:  # noqa: BLE001  `submit` itself: it takes no more work
            if course.over:  # an interrupt, in the callback of a call that was made at once
                self.run.crash(error)
            else:
                course.never_began()
                self.settle(course, None, without_ours(error))

    def course(self, entry: Entry) -> _Course:
        """A node's way."""
        assert isinstance(entry, int)
        run = self.run
        run.arrays.started[entry] = monotonic()
        if run.emits:
            run.tell("node started", entry)
        return (_Each if run.plan.nodes[entry].each else _Course)(self, entry)

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], done: Callable[[futures.Future[Any]], object]) -> None:
        """One call."""
        if self.shares_context:
            future = self.executor.submit(self.run.base.copy().run, fn, *args)
        else:
            future = self.executor.submit(fn, *args)
        self.sent.add(future)
        future.add_done_callback(self.sent.discard)
        future.add_done_callback(done)
        if self.run.stopped:  # who stopped it before this saw nothing
            future.cancel()

    def settle(self, course: _Course, value: Any, error: BaseException | None) -> None:
        """A node is over."""
        course.over = True
        if not self.run.keeps or error is not None:
            self.settle_here(course, value, error)
            return
        try:
            self.keeping.submit(self.settle_here, course, value, error)
        except BaseException as broken:  # noqa: BLE001  the system gives no thread
            self.run.crash(broken)

    def settle_here(self, course: _Course, value: Any, error: BaseException | None) -> None:
        """The same, in this thread."""
        run = self.run
        try:
            if error is None:
                entry = run.succeed(course.node, value)
            else:
                dropped = run.stopped and isinstance(error, futures.CancelledError)
                entry = run.fail(course.node, error, cancelled=dropped)
        except BaseException as broken:  # noqa: BLE001  not the node's: no memory, say
            run.crash(broken)
            return
        if entry is not None:
            run.ready.appendleft(entry)
        with run.lock:
            run.active -= 1
        self.pump()

    def withdraw(self) -> None:
        """The run was stopped: what the executor hasn't begun needn't be."""
        if self.run.stopped:
            for future in tuple(self.sent):
                future.cancel()


class _Course:
    """A node on its way through its attempts."""

    def __init__(self, carrier: ForeignCarrier, node: int) -> None:
        self.carrier, self.number = carrier, node
        plan, values = carrier.run.plan, carrier.run.arrays.values
        self.fn = plan.fns[node]
        self.args = tuple(values[i] for i in plan.args[node])
        self.policy = plan.policies[node]
        self.attempts = 0
        self.errors: list[BaseException] = []
        self.over = False

    @property
    def node(self) -> int:
        """Its number."""
        return self.number

    def advance(self) -> None:
        """Submit the next attempt."""
        self.attempts += 1
        if self.attempts > 1:
            self.carrier.run.arrays.attempts[self.node] = self.attempts
        self.carrier.submit(self.fn, self.args, self.landed)

    def landed(self, future: futures.Future[Any]) -> None:
        """It is done, somehow."""
        if future.cancelled():
            self.never_began()
        error = error_of(future)
        if error is None:
            self.carrier.settle(self, future.result(), None)
            return
        delay = again(self.policy, self.errors, error)
        if isinstance(delay, BaseException):
            self.carrier.settle(self, None, delay)
            return
        run = self.carrier.run
        run.resting[self.node] = self
        with run.lock:
            run.active -= 1
        if run.stopped:  # who stopped it before this saw nothing
            run.stop()
        elif delay:
            with suppress(RuntimeError):  # no thread for the watchdog: at once, then
                self.carrier.watchdog.call_at(monotonic() + delay, self.rested)
                self.carrier.pump()
                return
        self.rested()

    def never_began(self) -> None:
        """The executor did not make the attempt."""
        arrays = self.carrier.run.arrays
        self.attempts -= 1
        arrays.attempts[self.node] = self.attempts
        if not self.attempts:
            arrays.started[self.node] = 0.0

    def rested(self) -> None:
        """The wait before the next attempt is over."""
        run = self.carrier.run
        if run.resting.pop(self.node, None) is not None:
            run.ready.appendleft(self)
        self.carrier.pump()

    def give_up(self) -> BaseException:
        """Unwanted, it ends as its last attempt did."""
        self.over = True
        return linked(self.errors)


class _Each(_Course):
    """A fan-out node: one call for each item, so many at a time."""

    def __init__(self, carrier: ForeignCarrier, node: int) -> None:
        super().__init__(carrier, node)
        wide = carrier.run.plan.nodes[node].max_concurrency
        self.width = carrier.run.limit if wide is None else lanes_for(wide)
        self.items: Iterator[tuple[int, Any]] = iter(())
        self.results: dict[int, Any] = {}
        self.resting: dict[int, tuple[Any, list[BaseException]]] = {}
        """Items between two attempts. Whoever pops one has it."""
        self.out = 0
        """Begun, not over."""
        self.lock, self.turn = threading.Lock(), threading.Lock()
        self.again = False
        self.failed: BaseException | None = None

    def advance(self) -> None:
        """Begin."""
        self.attempts = 1
        self.items = enumerate(iter(self.args[0]))
        self.carrier.run.rings.append(self.sweep)
        self.more()

    def more(self) -> None:
        """Submit as many as there is room for; settle once nothing is left. As `ForeignCarrier.pump`."""
        self.again = True
        while self.again and self.turn.acquire(blocking=False):
            try:
                self.again = False
                while not self.over and self.out < self.width:
                    self.next()
            finally:
                self.turn.release()

    def next(self) -> None:
        """The next item; or the end, if nothing is out any more."""
        carrier = self.carrier
        item: tuple[int, Any] | None = None
        if self.failed is None and not carrier.run.stopped:
            try:
                item = next(self.items, None)
            except BaseException as error:  # noqa: BLE001  the iterator's own
                self.failed = error
        if item is not None:
            with self.lock:
                self.out += 1
            self.call(*item, [])
            return
        self.width = 0
        if not self.out:
            self.over = True
            with suppress(ValueError):
                carrier.run.rings.remove(self.sweep)
            failed = self.failed
            if failed is None and carrier.run.stopped:
                failed = futures.CancelledError()
            results = [self.results[i] for i in range(len(self.results))] if failed is None else None
            carrier.settle(self, results, failed)

    def call(self, index: int, item: Any, errors: list[BaseException]) -> None:
        """One attempt of one item."""
        try:
            self.carrier.submit(self.fn, (item,), partial(self.item_landed, index, item, errors))
        except BaseException as error:  # noqa: BLE001  `submit` itself
            self.item_ends(index, None, error)

    def item_landed(self, index: int, item: Any, errors: list[BaseException], future: futures.Future[Any]) -> None:
        """An attempt is done, somehow."""
        error = error_of(future)
        if error is None:
            self.item_ends(index, future.result(), None)
            return
        delay = again(self.policy, errors, error)
        if isinstance(delay, BaseException):
            self.item_ends(index, None, delay)
            return
        self.resting[index] = item, errors
        try:
            self.carrier.watchdog.call_at(monotonic() + delay, partial(self.item_rested, index))
        except RuntimeError:  # no thread for the watchdog: at once, then
            self.item_rested(index)
        self.sweep()  # who stopped the run before this saw nothing

    def item_rested(self, index: int) -> None:
        """An item's wait before its next attempt is over."""
        waits = self.resting.pop(index, None)
        if waits is not None:
            self.call(index, *waits)

    def sweep(self) -> None:
        """The run was stopped: what waits for a retry is not wanted any more."""
        if self.carrier.run.stopped:
            for index in tuple(self.resting):
                waits = self.resting.pop(index, None)
                if waits is not None:
                    dropped = futures.CancelledError("the run was stopped before the next attempt")
                    self.item_ends(index, None, linked([*waits[1], dropped]))

    def item_ends(self, index: int, value: Any, error: BaseException | None) -> None:
        """An item is over."""
        with self.lock:
            self.out -= 1
            if error is None:
                self.results[index] = value
            elif self.failed is None:
                self.failed = error
            if not self.out and not self.width:
                self.width = 1  # the last of all: `next` finds so
        self.more()


def error_of(future: futures.Future[Any]) -> BaseException | None:
    """Why it has no result, if so."""
    return futures.CancelledError("the executor dropped the call") if future.cancelled() else future.exception()


def again(policy: RetryPolicy | None, errors: list[BaseException], error: BaseException) -> float | BaseException:
    """Seconds to wait before the next attempt; or the error to end with."""
    if policy is None:
        return error
    errors.append(error)
    told = errors.copy()
    try:
        return decide(policy, told)
    except BaseException as last:  # noqa: BLE001  it is the node's
        return last
