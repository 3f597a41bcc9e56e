"""Nodes on the workers of a pool. A *lane* is a worker's time with a run: it goes from node to node as long as there are
any, so a chain costs no thread switch; a node that has a policy goes through its attempts as `_attempts` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from time import monotonic
from typing import Any, Final

from flowcheck_reference._attempts import Away, Crew, Lane, Trial
from flowcheck_reference._policy import RetryPolicy
from flowcheck_reference.executor import Pool, here

from .run import Entry, Run, without_ours

_BUDGET: Final = 64
"""So many nodes in a row; then the lane lets others have the worker that wait for one."""


class ThreadCarrier:
    """A run's side of the pool.

    Guarantees:
    - An `_Item` in the pool's queue has a place of the run, and an entry (`None`: the run is to begin). Whoever claims it
      has both: a worker; or who ends the run (`withdraw`), so that the end waits for no worker.
    - A lane has one place, in which it takes node after node. It gives the place up, or hands it on with a node that
      isn't for threads. A node between two attempts has none. An attempt that is given up takes its lane's place along
      to where it goes on: the lane that comes back late has nothing any more.
    """

    def __init__(self, run: Run, crew: Crew, fan_out: Callable[[Run, int, Iterable[Any]], list[Any]]) -> None:
        self.run, self.crew, self.fan_out = run, crew, fan_out
        self.queued: set[_Item] = set()

    def begin(self, pool: Pool) -> _Item:
        """Have the run begin on a worker. What was queued, should the caller want it back."""
        self.run.active = 1
        item = _Item(self, None)
        self.queued.add(item)
        try:
            pool.enqueue(item)
        except BaseException:
            item.withdraw()
            raise
        return item

    def launch(self, entry: Entry) -> None:
        """Have a worker take it, in the place that was counted for it."""
        item = _Item(self, entry)
        self.queued.add(item)
        try:
            self.crew.pool.enqueue(item, first=not isinstance(entry, int))
        except BaseException as error:  # noqa: BLE001  the executor was shut down, or the system gives no thread
            item.fail(error)
        if self.run.stopped:  # who stopped it before this saw nothing
            self.withdraw()

    def withdraw(self) -> None:
        """The run was stopped: what no worker has yet is given its outcome here."""
        run = self.run
        if run.stopped:
            for item in tuple(self.queued):
                if item.withdraw():
                    if item.entry is None:
                        run.begin()
                    run.hand_on(item.entry)

    # -- a lane

    def work(self, entry: Entry | None, *, begin: bool = False) -> None:
        """A lane's life."""
        run = self.run
        way: _Way | None = None
        try:
            if begin:
                run.begin()
            plan, arrays, copy = run.plan, run.arrays, run.base.copy
            plain, fns, args, value_of, started = plan.plain, plan.fns, plan.args, arrays.values.__getitem__, arrays.started
            pool_queue = self.crew.pool.queue
            budget = _BUDGET
            while True:
                if run.troubled:
                    entry = run.vet(entry)
                if entry is None:
                    entry = None if run.over else run.take()
                    if entry is None:
                        run.leave()
                        return
                if run.ready and run.active < run.limit:  # after this lane has what it goes on with itself
                    run.grow()
                budget -= 1
                if budget < 0:
                    if pool_queue:
                        self.launch(entry)
                        return
                    budget = _BUDGET
                if isinstance(entry, int) and plain[entry]:
                    k = entry
                    started[k] = monotonic()
                    if run.emits:
                        run.tell("node started", k)
                    try:
                        value = copy().run(fns[k], *map(value_of, args[k]))
                    except BaseException as error:  # noqa: BLE001  it is the node's, whatever it is
                        entry = run.fail(k, without_ours(error))
                    else:
                        entry = run.succeed(k, value)
                        del value
                elif isinstance(entry, _Trial) or (isinstance(entry, int) and not plan.asynchronous[entry]):
                    if way is None:
                        way = _Way(self, self.crew)
                    if not way.make(entry):
                        return
                    entry = way.next
                else:
                    run.launch(entry)  # not for threads
                    return
        except BaseException as error:  # noqa: BLE001  not a node's: no memory, say
            run.crash(error)
        finally:
            if way is not None:
                way.leave()
            del self, run, way, entry

    # -- attempts

    def resume(self, trial: Trial[Any]) -> None:
        """In the watchdog's thread: some worker is to go on with it."""
        assert isinstance(trial, _Trial)
        if not trial.rests:
            self.launch(trial)
            return
        trial.rests = False
        if self.run.resting.pop(trial.node, None) is not None:  # else who stopped the run has it
            self.run.ready.appendleft(trial)
            self.run.grow()


class _Item:
    """What stands in the pool's queue: a place, and what to begin in it with (`None`: the run)."""

    __slots__ = ("carrier", "cell", "entry")

    def __init__(self, carrier: ThreadCarrier, entry: Entry | None) -> None:
        self.carrier, self.entry = carrier, entry
        self.cell = [None]

    def withdraw(self) -> bool:
        """Claim it. Whoever can has it."""
        try:
            self.cell.pop()
        except IndexError:
            return False
        self.carrier.queued.discard(self)
        return True

    def run(self) -> None:
        """In a worker."""
        if self.withdraw():
            self.carrier.work(self.entry, begin=self.entry is None)

    def run_inline(self) -> None:
        """`run`, on top of what this worker is in."""
        here.depth += 1
        try:
            self.run()
        finally:
            here.depth -= 1

    def fail(self, error: BaseException) -> None:
        """No worker will come."""
        if not self.withdraw():
            return
        run, entry = self.carrier.run, self.entry
        if entry is None:
            run.crash(error)
            return
        if isinstance(entry, int):
            ready = run.fail(entry, error)
        else:
            assert isinstance(entry, _Trial)
            ready = run.fail(entry.node, entry.note(error))
        if ready is not None:
            run.ready.append(ready)
        run.stop()  # no other will be carried either
        run.leave()

    def cancel(self) -> bool:
        """The executor was emptied."""
        self.fail(CancelledError("the executor was emptied"))
        return True

    def queued(self) -> bool:
        """Does it need a worker?"""
        return bool(self.cell)

    def done(self) -> bool:
        """Has one come?"""
        return not self.cell


class _Trial(Trial[Any]):
    """A node on its way through its attempts, once the first has failed."""

    __slots__ = ("carrier", "failures", "rests")

    def __init__(self, carrier: ThreadCarrier, policy: RetryPolicy, fn: Any, args: tuple[Any, ...], node: int) -> None:
        super().__init__(policy, carrier.run.base, fn, args, {}, node)
        self.carrier = carrier
        self.failures = 0
        self.rests = False

    @property
    def node(self) -> int:
        """Its number."""
        return int(self.key)

    def failed(self, error: BaseException) -> None:
        """Count it."""
        self.failures += 1
        self.carrier.run.arrays.attempts[self.node] = self.failures
        super().failed(without_ours(error))

    def _decide(self) -> float:
        """As there; in a run that was stopped no attempt begins, so it rests, and that ends it."""
        return super()._decide() or (_AT_ONCE if self.carrier.run.stopped else 0.0)

    def rest(self, lane: Lane, delay: float) -> None:
        """So that a stop can end it, too."""
        run = self.carrier.run
        self.rests = True
        run.resting[self.node] = self  # first: it may resume at once
        try:
            super().rest(lane, delay)
        except BaseException:
            if run.resting.pop(self.node, None) is not None:
                self.rests = False
                raise
        if run.stopped:  # who stopped it before this saw nothing
            run.stop()

    def give_up(self) -> BaseException:
        """Unwanted, it ends as its last attempt did."""
        return self.note(self.errors.pop())

    def note(self, error: BaseException) -> BaseException:
        """It ended with `error`: the same, with those before it attached."""
        try:
            self.end(error)
        except BaseException as last:  # noqa: BLE001
            return last


class _Way(Lane):
    """A lane's way through nodes that are more than a plain call."""

    __slots__ = ("carrier", "next", "trial")

    def __init__(self, carrier: ThreadCarrier, crew: Crew) -> None:
        super().__init__(crew, _NO_POLICY, carrier.run.base, carrier.resume)
        self.carrier = carrier
        self.trial: _Trial | None = None
        self.next: Entry | None = None
        """What a node's end made ready."""

    def make(self, entry: int | _Trial) -> bool:
        """Make attempts. False: this worker is written off, and has nothing any more."""
        run = self.carrier.run
        trial = entry if isinstance(entry, _Trial) else None
        k = entry if not isinstance(entry, _Trial) else entry.node
        self.next, self.trial = None, trial
        value: Any = None
        try:
            if trial is None:
                value = self._first(k)
            else:
                self.under(trial.policy)
                value = trial.go(self)
            if isinstance(value, Away):
                return value is Away.BACKING_OFF
            if self.trial is not None:
                run.arrays.attempts[k] = self.trial.failures + 1
            self.next = run.succeed(k, value)
        except BaseException as error:  # noqa: BLE001  it is the node's, whatever it is
            each = run.plan.nodes[k].each
            if self.trial is None and not each:  # it never began: `TooManyAbandonedError`
                run.arrays.attempts[k] = 0
            dropped = each and run.stopped and isinstance(error, CancelledError)
            self.next = run.fail(k, without_ours(error), cancelled=dropped)
        finally:
            self.trial = trial = value = None
        return True

    def _first(self, k: int) -> Any:
        run = self.carrier.run
        plan, values = run.plan, run.arrays.values
        run.arrays.started[k] = monotonic()
        if run.emits:
            run.tell("node started", k)
        args = [values[i] for i in plan.args[k]]
        if plan.nodes[k].each:
            return run.base.copy().run(self.carrier.fan_out, run, k, *args)
        policy = plan.policies[k]
        assert policy is not None
        self.under(policy)
        return self.run(k, plan.fns[k], *args)

    def _trial(self, key: Any, fn: Callable[..., Any], args: tuple[Any, ...]) -> Trial[Any]:
        self.trial = _Trial(self.carrier, self._policy, fn, args, key)
        return self.trial


_NO_POLICY: Final = RetryPolicy(attempts=1)
_AT_ONCE: Final = 1e-9
"""Seconds of a rest that nobody waits for."""
