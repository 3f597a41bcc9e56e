"""Runs that are kept in a store, so that a later one goes on where they ended (FLO-19, 24 to 28).

    begins    lease ──► the state: input, nodes and what each waits for
    a node    its output, a line of the log ──► only then what waits for it
    ends      one state with all outputs, in the place of state and log ──► the lease is given back

So at any moment the store has all that was ever built on, and a run of n nodes writes in proportion to n. A state:

    {"flowcheck": 1, "flow": "report", "status": "running", "input": 17,
     "nodes": {"fetch": [], "parse": ["fetch"]}, "outputs": {}, "errors": {}}

and a line: {"node": "fetch", "output": [1, 2]}. "running" is also what stays of a run whose process was killed: whether it
still runs, the lease tells, which goes with its process.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from logging import Logger
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from flowcheck_reference._store.codec import Snapshot
from flowcheck_reference._store.errors import NotJsonError, RunNotFoundError, StoreClosedError, StoreError

from .graph import FlowError, Plan
from .results import FAILED, OK, Arrays, NotSavedError, RunExistsError
from .run import Event, Run

if TYPE_CHECKING:
    import anyio

    from flowcheck_reference.store import Store

_VERSION: Final = 1


class _Ticket:
    """An output on its way to the store."""

    __slots__ = ("done", "entry", "error")

    def __init__(self, entry: Snapshot) -> None:
        self.entry = entry
        self.done = False
        self.error: BaseException | None = None


class Keeper:
    """A run's side of the store. `begin` or `resume` first; then `end`, or `let_go`, once.

    Guarantees:
    - The lease is held from before the first look at the store until after the last write.
    - Who has an output to keep leaves it in `waiting` and then takes `turn`; who has the turn writes all that wait. So
      nodes that end together share one write and one fsync, and nobody who has had the turn has left an output behind.
    - An output is kept as it is when its node returns it, whatever those do with it that get it.
    """

    def __init__(self, store: Store, run_id: str, plan: Plan) -> None:
        self.run_id = run_id
        self._store, self._plan = store, plan
        self._lease = ExitStack()
        self._untouched = False
        """Is what is to be saved in the end there already?"""
        self._ended = False
        self._waiting: deque[_Ticket] = deque()
        self._turn = threading.Lock()
        self._turn_here: anyio.Lock | None = None
        """The same among the tasks of the run's event loop, which must not wait for a thread."""

    def begin(self, value: Any) -> None:
        """A new run. Raises: LeaseHeldError, RunExistsError, NotSavedError; what the store raises on reading."""
        with self._held():
            try:
                before = self._store.load(self.run_id)
            except RunNotFoundError:
                if self._store.entries(self.run_id):
                    msg = f"of run {self.run_id!r} there is a log, but no state: it was not deleted to the end; delete it again"
                    raise RunExistsError(msg) from None
            else:
                told = {"running": "was ended before its end", "cancelled": "was cancelled"}
                status = before.get("status", "") if _is_ours(before) else "is none of this engine's"
                msg = (
                    f"run {self.run_id!r} is there already, and {told.get(status, status)}: resume(flow, {self.run_id!r}) "
                    "goes on with it, or gives its result once more; to begin anew take another id, or delete it from the store"
                )
                raise RunExistsError(msg)
            plan = self._plan
            state = {
                "flowcheck": _VERSION,
                "flow": plan.name,
                "status": "running",
                "input": value,
                "nodes": {node.id: list(node.waits_for) for node in plan.nodes},
                "outputs": {},
                "errors": {},
            }
            try:
                self._store.save(self.run_id, state)
            except Exception as error:
                msg = f"run {self.run_id!r} was not begun: its input and nodes could not be saved: {error}"
                raise NotSavedError(msg) from error

    def resume(self) -> tuple[Any, dict[int, Any]]:
        """A run that was begun before: its input, and the outputs of the nodes that are through, by number.

        Raises: RunNotFoundError, LeaseHeldError; FlowError: it is a run of another flow; what the store raises on reading.
        """
        with self._held():
            state = self._store.load(self.run_id)
            if not _is_ours(state):
                msg = f"what is saved as {self.run_id!r} is no run of this engine: it is left alone"
                raise StoreError(msg)
            self._compare(state["nodes"])
            entries = self._store.entries(self.run_id)
            outputs = self._outputs(state, entries)
            index = self._plan.index
            self._untouched = not entries and state["status"] == "completed" and len(outputs) == len(index)
            return state["input"], {index[own]: value for own, value in outputs.items()}

    @contextmanager
    def _held(self) -> Generator[None]:
        """The lease; it is given back if what follows raises."""
        self._lease.enter_context(self._store.lease(self.run_id))
        try:
            yield
        except BaseException:
            self.let_go()
            raise

    def let_go(self) -> None:
        """Give the lease back."""
        self._lease.close()

    def _outputs(self, state: Mapping[str, Any], entries: list[Any]) -> dict[str, Any]:
        """Those of a state, and those that its log adds. Raises: StoreError: somebody else has written there."""
        try:
            outputs = {**state["outputs"], **{entry["node"]: entry["output"] for entry in entries}}
        except (KeyError, TypeError):
            outputs = {"": None}
        if not outputs.keys() <= self._plan.index.keys():
            msg = f"the log of run {self.run_id!r} has entries that no run of this engine has written: it is left alone"
            raise StoreError(msg)
        return outputs

    def _compare(self, saved: Mapping[str, list[str]]) -> None:
        """Raise FlowError unless the run was begun with the flow that it is to go on with."""
        here = {node.id: node.waits_for for node in self._plan.nodes}
        gone = [own for own in saved if own not in here]
        new = [own for own in here if own not in saved]
        other = [own for own, needs in here.items() if own in saved and set(saved[own]) != set(needs)]
        told = [
            f"{what} {', '.join(map(repr, nodes[:20]))}{', …' if len(nodes) > 20 else ''}"
            for what, nodes in (
                ("the flow has no node", gone), ("the run has no node", new), ("other needs than they had have", other)
            )
            if nodes
        ]  # fmt: skip
        if told:
            msg = f"run {self.run_id!r} was begun with another flow than {self._plan.name!r} is now: {'; '.join(told)}"
            raise FlowError(msg, [*gone, *new, *other])

    # -- nodes

    def keep(self, k: int, value: Any) -> BaseException | None:
        """Save an output; blocking. Why it wasn't, if so."""
        ticket = self._ticket(k, value)
        if ticket.error is None:
            with self._turn:
                if not ticket.done:
                    self._write()
        return ticket.error

    async def keep_here(self, k: int, value: Any) -> BaseException | None:
        """`keep`, awaited, in the run's event loop. A cancellation waits: the node is through, and its output counts."""
        import anyio

        from .tasks import in_a_thread

        ticket = self._ticket(k, value)
        if ticket.error is None:
            if self._turn_here is None:
                self._turn_here = anyio.Lock()
            with anyio.CancelScope(shield=True):
                async with self._turn_here:
                    if not ticket.done:
                        try:
                            await in_a_thread(self._take_turn, "flowcheck-keep")
                        except RuntimeError as error:  # the system gives no thread
                            return error
        return ticket.error

    def _take_turn(self) -> None:
        with self._turn:
            self._write()

    def _ticket(self, k: int, value: Any) -> _Ticket:
        try:
            ticket = _Ticket(Snapshot({"node": self._plan.ids[k], "output": value}))
        except NotJsonError as error:
            ticket = _Ticket(_NOTHING)
            ticket.error = error
        else:
            self._waiting.append(ticket)
        return ticket

    def _write(self) -> None:
        """All that wait; whoever calls has the turn."""
        tickets: list[_Ticket] = []
        while self._waiting:
            tickets.append(self._waiting.popleft())
        failed: BaseException | None = None
        try:
            if self._ended:  # a loop that shuts down hard has left its task's write behind
                msg = f"run {self.run_id!r} is over"
                raise StoreClosedError(msg)
            self._store.extend(self.run_id, [ticket.entry for ticket in tickets])
        except BaseException as error:  # noqa: BLE001  each of them is told
            failed = error
        for ticket in tickets:
            ticket.error, ticket.done = failed, True

    # -- the end

    def end(self, status: str, arrays: Arrays) -> None:
        """Save it all as one state, let the log go, and give the lease back; that in any case.

        Raises: NotSavedError. Then state and log are as they were: nothing that was kept is lost.
        """
        try:
            with self._turn:
                self._ended = True
                if not (self._untouched and status == "completed"):
                    self._fold(status, arrays)
        except Exception as error:
            msg = f"the end of run {self.run_id!r} could not be saved: {error}"
            raise NotSavedError(msg) from error
        finally:
            self.let_go()

    def _fold(self, status: str, arrays: Arrays) -> None:
        """What is in the store is what counts: a node may have changed what it was given since."""
        store, plan = self._store, self._plan
        state = store.load(self.run_id)
        found = self._outputs(state, store.entries(self.run_id))
        through = [own for own, ended in zip(plan.ids, arrays.status, strict=True) if ended == OK]
        lost = [own for own in through if own not in found]
        if lost:
            msg = f"outputs that were saved are not there any more: {', '.join(map(repr, lost[:20]))}"
            raise StoreError(msg)
        errors = {plan.ids[k]: _told(error) for k, error in arrays.errors.items() if arrays.status[k] == FAILED}
        outputs = {own: found[own] for own in through}
        store.fold(self.run_id, {**state, "status": status, "outputs": outputs, "errors": errors})


_NOTHING: Final = Snapshot(None)


def _is_ours(state: Any) -> bool:
    """Is it the state of a run?"""
    return (
        isinstance(state, dict)
        and cast("dict[str, Any]", state).get("flowcheck") == _VERSION
        and {"status", "input", "nodes", "outputs"} <= cast("dict[str, Any]", state).keys()
    )


def _told(error: BaseException) -> str:
    """For who reads the state: type and text, as valid text."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  its own `__str__`
        text = type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode()


class KeptRun(Run):
    """A run that is kept.

    Guarantees: a node is counted down after its output is in the store. A run is over after its end was saved, and the
    lease was given back: whoever is told may resume it, or delete it, at once.

    `aside`: its nodes may end in the thread of an event loop, which does not wait for a disk.
    """

    keeps: ClassVar[bool] = True

    __slots__ = ("_aside", "_ends", "_keeper", "_through")

    def __init__(
        self,
        keeper: Keeper,
        through: dict[int, Any],
        aside: bool,
        plan: Plan,
        value: Any,
        limit: float,
        goes_on: bool,
        emit: Callable[[Event], object] | None,
        log: Logger,
    ) -> None:
        super().__init__(plan, value, limit, goes_on, emit, keeper.run_id, log)
        self._keeper, self._through, self._aside = keeper, through, aside
        self._ends = threading.Lock()
        """Taken by who ends it, for good: `crash` may come, too."""

    def begin(self) -> None:
        """What is through counts as done, in an order in which nothing comes before what it waits for. Linear.

        A node that is through counts only if all are that it waits for: a log may have lost a line to a broken disk.
        """
        arrays, plan, through = self.arrays, self.plan, self._through
        arrays.began = monotonic()
        if self.emits:
            self.tell("run started", None)
        over = not plan.ids
        waiting = deque(plan.roots)
        ready: list[int] = []  # of which others know only once all is counted
        while waiting:
            k = waiting.popleft()
            if k not in through:
                ready.append(k)
                continue
            arrays.values[k] = through.pop(k)
            arrays.status[k] = OK
            if self.emits:
                self.tell("node ended", k)
            if not plan.succs[k]:
                over = self._sunk() == plan.sinks
            for s in plan.succs[k]:
                needed = plan.indegree[s]
                if needed == 1 or (self._pair(s, k) != k if needed == 2 else self._left[s]() == needed):
                    waiting.append(s)
        through.clear()
        self.ready.extend(ready)
        if over:
            self._finish()

    def succeed(self, k: int, value: Any) -> int | None:
        """As any run, once the output is kept."""
        return self._kept(k, value, self._keeper.keep(k, value))

    async def succeed_here(self, k: int, value: Any) -> int | None:
        """`succeed`, awaited: the event loop doesn't wait for the disk."""
        return self._kept(k, value, await self._keeper.keep_here(k, value))

    def _kept(self, k: int, value: Any, why: BaseException | None) -> int | None:
        if why is None:
            return super().succeed(k, value)
        msg = f"node {self.plan.ids[k]!r} is through, but its output could not be saved in run {self.name!r}: {why}"
        error = NotSavedError(msg)
        error.__cause__ = why
        if not isinstance(why, NotJsonError):  # then it is not this node's own affair: nothing more would be kept
            self._break(error)
        return self.fail(k, error)

    def let_go(self) -> None:
        """It never begins."""
        self._keeper.let_go()

    def _finish(self) -> None:
        if not self._ends.acquire(blocking=False):
            return
        if self._aside:
            try:
                threading.Thread(target=self._end, name="flowcheck-keep", daemon=True).start()
            except RuntimeError:  # the system gives no thread: then here
                self._end()
        else:
            self._end()

    def _end(self) -> None:
        self.settle_status()
        try:
            self._keeper.end(self.status, self.arrays)
        except BaseException as error:  # noqa: BLE001  the verdict raises it
            if self.status == "completed":
                self._break(error)
            else:  # its own error is the one to be raised
                self._log.warning("%s; a resume goes on from its log", error)
        finally:
            super()._finish()
