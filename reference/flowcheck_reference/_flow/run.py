"""One run: what is ready, how many nodes are in flight, what became of each, and when all is over.

It starts nothing: carriers do. Whoever ends a node calls `succeed` or `fail`, gets one node that it made ready, and goes
on with that; the others are in `ready`, for whoever comes free.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from itertools import count
from logging import Logger
from time import monotonic
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias

from .graph import FlowError, Plan
from .results import CANCELLED, FAILED, OK, SKIPPED, Arrays, Result, Status, first_of

_GIL: Final = bool(getattr(sys, "_is_gil_enabled", lambda: True)())

Kind: TypeAlias = Literal["run started", "node started", "node ended", "run ended"]


inside: ContextVar[Run | None] = ContextVar("inside", default=None)
"""The run whose node this code is in. A node's tasks inherit it, and may outlive the run."""


class Event:
    """Something that happened to a run, for `Engine(on_event=…)`.

    `kind`: "run started", "node started", "node ended", "run ended". `run`: its id. `node`: the node's id, or "".
    `status`: how it ended, else "". `nodes`: how many the run has. `at`: `time.monotonic()`, seconds.
    """

    __slots__ = ("at", "kind", "node", "nodes", "run", "status")

    def __init__(self, kind: Kind, run: str, node: str, status: str, nodes: int, at: float) -> None:
        self.kind: Kind = kind
        self.run, self.node, self.status, self.nodes, self.at = run, node, status, nodes, at

    def __repr__(self) -> str:
        return " ".join(filter(None, (f"<Event {self.kind}: {self.run}", self.node, self.status))) + ">"


class Resuming(Protocol):
    """What stands in `ready` beside numbers of nodes: a node that is in the middle of its attempts."""

    @property
    def node(self) -> int:
        """Its number."""
        raise NotImplementedError

    def give_up(self) -> BaseException | None:
        """It won't go on: the error to end with. None: somebody else sees to its end."""
        raise NotImplementedError


Entry: TypeAlias = "int | Resuming"


_NONE_LEFT: Final[dict[int, Callable[[], int]]] = {}


def _tokens(needed: int) -> Callable[[], int]:
    """The n-th call gives n, whoever calls, without a lock."""
    if _GIL:
        return count(1).__next__  # one step in C
    left = list(range(needed, 0, -1))
    return left.pop  # atomic without a GIL, too


def _one() -> int:
    """`_tokens` for one who counts."""
    return 1


class Run:
    """The state of one run.

    Guarantees:
    - Each node is counted down by each node that it waits for, once, when that has its outcome in `arrays`. The last to
      count has it: nobody else ever sees it ready. Counting is one step in C each (`setdefault` where two count, `next`
      where more do): no lock, whatever the number of threads.
    - Every node gets an outcome, also those that never run; so the run is over when all that nothing waits for have
      theirs (`sunk`). Then `status` is `final`, and told; then `over` is set, and the bell rung.
    - `active` is the number of nodes in flight, at most `limit`; it changes under `lock`. A node between two attempts
      isn't in flight.
    - What is in `ready` is never forgotten. Whoever puts something there then looks for a free place (`grow`), or takes
      from there himself before he rests; whoever gives up a place then looks into `ready` (`leave`). One sees the other.
    - `stopped`: no node begins any more. `unwanted`: and that because somebody cancelled it; so a node between two attempts
      is cancelled, not failed.
    - `troubled` is set before the outcome that causes it is counted down. So whoever takes a node out of `ready` that
      must not run sees it (`vet`).
    """

    __slots__ = (
        "__weakref__", "_broken", "_emit", "_left", "_log", "_noted", "_pair", "_sunk", "active", "arrays", "base", "emits",
        "final", "goes_on", "launch", "limit", "lock", "name", "outer", "over", "plan", "ready", "resting", "rings",
        "status", "stopped", "troubled", "unwanted",
    )  # fmt: skip

    keeps: ClassVar[bool] = False
    """Is it kept in a store? See `keeping`."""

    def __init__(
        self,
        plan: Plan,
        value: Any,
        limit: float,
        goes_on: bool,
        emit: Callable[[Event], object] | None,
        name: str,
        log: Logger,
    ) -> None:
        size = len(plan.ids)
        self.plan = plan
        self.name = name
        self.limit = limit
        self.goes_on = goes_on
        self.base = base = copy_context()
        """The caller's context. Each node runs in its own copy (FLO-13)."""
        sniffio = sys.modules.get("sniffio")
        if sniffio is not None and sniffio.current_async_library_cvar.get() is not None:
            # which event loop the caller is in says nothing of where a node is
            base.run(sniffio.current_async_library_cvar.set, None)
        self.outer = inside.get()
        """The run that has the node that this one was started in."""
        base.run(inside.set, self)
        values = [None] * size
        values.append(value)
        self.arrays = Arrays(plan, values, bytearray(size), [0.0] * size, [0.0] * size, {}, {}, {})
        self.ready: deque[Entry] = deque()
        self.resting: dict[int, Resuming] = {}
        """Nodes between two attempts. Whoever pops one has it."""
        self.lock = threading.RLock()  # a signal handler may stop the run in a thread that is inside
        self.active = 0
        self.troubled = self.stopped = self.unwanted = self.final = self.over = False
        self.status: Status = "completed"
        self.rings: list[Callable[[], object]] = []
        """Called once all is over, or the run was stopped."""
        self._log = log
        self._emit = emit
        self.emits = emit is not None
        self._pair: Callable[[int, int], int] = dict[int, int]().setdefault
        self._left = {k: _tokens(plan.indegree[k]) for k in plan.many} if plan.many else _NONE_LEFT
        self._sunk = _tokens(plan.sinks) if plan.sinks > 1 else _one
        self._broken: BaseException | None = None
        self._noted = False
        self.launch: Callable[[Entry], object] = _nobody
        """Start it, in a place that was counted. Set by the carriers; may be called in any thread."""

    # -- the way forward

    def begin(self) -> None:
        """All that waits for nothing is ready."""
        self.arrays.began = monotonic()
        if self.emits:
            self.tell("run started", None)
        self.ready.extend(self.plan.roots)
        if not self.plan.ids:
            self._finish()

    def succeed(self, k: int, value: Any) -> int | None:
        """Node `k` gave `value`. A node that this made ready, if it did; others are in `ready`."""
        arrays = self.arrays
        arrays.ended[k] = monotonic()
        arrays.values[k] = value
        arrays.status[k] = OK
        if self.emits:
            self.tell("node ended", k)
        return self._count_down(k)

    async def succeed_here(self, k: int, value: Any) -> int | None:
        """`succeed`, where an event loop must not wait for what that takes; asked for if `keeps`."""
        return self.succeed(k, value)

    def fail(self, k: int, error: BaseException, *, cancelled: bool = False) -> int | None:
        """Node `k` ended with `error`. As `succeed`; what is made ready now may have to be skipped: see `vet`."""
        arrays = self.arrays
        arrays.ended[k] = monotonic()
        arrays.errors[k] = error
        self.troubled = True
        arrays.status[k] = CANCELLED if cancelled else FAILED
        if self.emits:
            self.tell("node ended", k)
        # What is no Exception (KeyboardInterrupt, SystemExit) is no result of a node: it ends the run (FLO-38).
        if not cancelled:
            self.status = "failed"
            if not (self.stopped or (self.goes_on and isinstance(error, Exception))):
                self.stop()
        return self._count_down(k)

    def _count_down(self, k: int) -> int | None:
        plan = self.plan
        behind = plan.succs[k]
        if not behind:
            if self._sunk() == plan.sinks:
                self._finish()
            return None
        chosen: int | None = None
        indegree = plan.indegree
        for s in behind:
            needed = indegree[s]
            if needed == 1 or (self._pair(s, k) != k if needed == 2 else self._left[s]() == needed):
                if chosen is None:
                    chosen = s
                else:
                    self.ready.append(s)
        return chosen

    def vet(self, entry: Entry | None) -> Entry | None:
        """With trouble about: `entry`, or what may run in its place; what may not is given its outcome instead."""
        arrays, preds = self.arrays, self.plan.preds
        while entry is not None:
            if not isinstance(entry, int):
                if not self.stopped:
                    return entry
                error = entry.give_up()
                if error is None:
                    return None
                entry = self.fail(entry.node, error, cancelled=self.unwanted)
                continue
            cause = next((p for p in preds[entry] if arrays.status[p] != OK), None)
            if cause is None and not self.stopped:
                return entry
            if cause is not None and arrays.status[cause] != CANCELLED:
                arrays.because[entry] = arrays.because.get(cause, cause)
                arrays.status[entry] = SKIPPED
            else:
                arrays.status[entry] = CANCELLED
            if self.emits:
                self.tell("node ended", entry)
            entry = self._count_down(entry)
        return None

    def take(self) -> Entry | None:
        """One that may run, out of `ready`."""
        while self.ready:
            try:
                entry: Entry | None = self.ready.popleft()
            except IndexError:  # another was quicker
                return None
            if self.troubled:
                entry = self.vet(entry)
                if entry is None:
                    continue
            return entry
        return None

    # -- places

    def grow(self) -> None:
        """Have as many started as are ready, and as there are places for."""
        while self.ready and self.active < self.limit:
            with self.lock:
                if self.active >= self.limit:
                    return
                self.active += 1
            entry = self.take()
            if entry is None:
                self.leave()
                return
            self.launch(entry)

    def hand_on(self, entry: Entry | None) -> None:
        """Whoever has a place is through: it goes to `entry`, or to whatever else is ready, or comes free."""
        if self.troubled:
            entry = self.vet(entry)
        if entry is None:
            entry = self.take()
        if entry is None:
            self.leave()
        else:
            self.launch(entry)
            self.grow()

    def leave(self) -> None:
        """A place comes free."""
        with self.lock:
            self.active -= 1
        if self.ready:
            self.grow()

    # -- the end

    def stop(self, status: Status | None = None) -> None:
        """From now on no node begins. Any thread, any number of times; what runs goes on, unless its carrier ends it."""
        if status is not None:
            with self.lock:
                self.unwanted = True
                if not self.final and self.status == "completed":
                    self.status = status
        self.troubled = self.stopped = True
        for node in tuple(self.resting):
            with suppress(KeyError):
                self.ready.append(self.resting.pop(node))
        while self.take() is not None:  # each is given its outcome: none may run any more
            pass
        self.ring()

    def crash(self, error: BaseException) -> None:
        """Something of the engine's own went wrong, no memory, say: nobody must wait in vain."""
        self._break(error)
        if not self.over:
            self._finish()

    def _break(self, error: BaseException) -> None:
        self._broken = self._broken or error
        self.status = "failed"
        self.stop()

    def _finish(self) -> None:
        self.settle_status()
        self.arrays.over = monotonic()
        if self.emits:
            self.tell("run ended", None)
        # This and `rings` lead back here: nothing of a run that is over has to wait for the garbage collector.
        self.base.run(inside.set, self.outer)
        if self._broken is None:
            self.launch = _nobody
        self.over = True
        self.ring()
        self.rings.clear()

    def let_go(self) -> None:
        """It never begins."""

    def settle_status(self) -> None:
        """It is not changed any more. A loop may cancel the last node before it says that the run is cancelled."""
        with self.lock:
            self.final = True
            if self.troubled and self.status == "completed" and self.arrays.status.count(OK) < len(self.plan.ids):
                self.status = "cancelled"

    def ring(self) -> None:
        """Let all look again who wait for something of this run."""
        for ring in tuple(self.rings):
            ring()

    def tell(self, kind: Kind, k: int | None) -> None:
        """An event, for whoever wants it; what he raises is logged."""
        emit = self._emit
        if emit is None:
            return
        ids = self.plan.ids
        status: str = ""
        if kind == "run ended":
            status = self.status
        elif kind == "node ended" and k is not None:
            status = self.arrays.word(k)
        event = Event(kind, self.name, "" if k is None else ids[k], status, len(ids), monotonic())
        try:
            emit(event)
        except BaseException as error:  # noqa: BLE001  his own affair, unless it is an interrupt, which ends the run
            self._log.exception("on_event raised")
            if not isinstance(error, Exception):
                self._break(error)

    def verdict(self) -> Result:
        """The result, now that all is over; or raise what the run failed with, with the result attached.

        The first error of all is raised itself, an interrupt before others. They are noted on it, so none is lost.
        """
        arrays, broken = self.arrays, self._broken
        errors = [error for k, error in arrays.errors.items() if arrays.status[k] == FAILED] if arrays.errors else []
        if broken is not None:
            errors.insert(0, broken)
        first = first_of(errors) if errors else None
        result = Result(arrays, self.name, self.status, first)
        if first is None or (self.goes_on and isinstance(first, Exception) and first is not broken):
            return result
        with self.lock:
            noted, self._noted = self._noted, True
        for k, other in arrays.errors.items():
            if not noted and other is not first and arrays.status[k] == FAILED:
                first.add_note(f"in the same run node {self.plan.ids[k]!r} ended with {_told(other)}")
        with suppress(Exception):  # an error that takes no attributes
            first._flow_result = result  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            raise first
        finally:
            del self, first, errors, result  # the traceback has this frame


def _told(error: BaseException) -> str:
    """Type and text, as far as it has one."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001  its own `__str__`
        return type(error).__name__


def _nobody(entry: Entry) -> None:
    """Before a carrier is there, and when all is over."""
    msg = f"nothing carries {entry!r}"
    raise AssertionError(msg)


_OURS: Final = frozenset(
    f"{(__package__ or '').partition('.')[0]}.{name}"
    for name in (
        "_attempts", "_coroutines", "_flow.foreign", "_flow.keeping", "_flow.tasks", "_flow.threads", "_lanes", "_tasks",
        "_window", "fanout", "flow",
    )
)  # fmt: skip


def without_ours(error: BaseException) -> BaseException:
    """Its traceback begins where the node's code does: it leads to no frame of the engine's, and so to no run."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_globals.get("__name__") in _OURS:
        traceback = traceback.tb_next
    if traceback is not None:
        error.__traceback__ = traceback
    elif error.__traceback__ is not None:  # it is all ours: something of us was the node
        error.__traceback__ = error.__traceback__.tb_next
    return error


def check(plan: Plan, executor: str) -> None:
    """Raise FlowError for a limit that this kind of executor can't keep."""
    limited = [node.id for node in plan.nodes if node.policy is not None and node.policy.timeout is not None]
    limited = [own for own in limited if not plan.asynchronous[plan.index[own]]]
    if limited:
        msg = (
            f"{', '.join(map(repr, limited))}: a timeout needs workers that can be replaced, and those of a {executor} "
            "can't: leave the timeout out, or run the flow on the engine's own threads"
        )
        raise FlowError(msg, limited)
