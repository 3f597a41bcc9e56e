"""The preemption sweep: two operations, and every place at which the one can be interrupted by the other, tried in turn.

    park one thread at its k-th step in the subject's own code  ──►  let the rival run until it is done, or blocked
                                                                ──►  let the parked thread go on  ──►  judge

k runs over all steps. Nothing is drawn and nothing is slept: a step is a line or a bytecode instruction, "blocked" is
read from the kernel, a deadlock is proven as `observer` proves one. So what is found is found every time, and the key of
a schedule (`first:Counter.add+2#1`: the thread, the function, the line in it, how many times it came there) plays it
again. Threads that the subject makes itself can be the parked one as well.

Source: iterative context bounding (Musuvathi and Qadeer, PLDI 2007): most races need one preemption, at the right place.
"""

from __future__ import annotations

import gc
import math
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, nullcontext, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from time import monotonic
from types import CodeType
from typing import Any, Final, Generic, TypeVar

from pytest_flowcheck.proof import procfs, syscalls
from pytest_flowcheck.proof.harness import Harness
from pytest_flowcheck.proof.observer import Observer
from pytest_flowcheck.proof.sighting import State
from pytest_flowcheck.proof.sweeping import reused
from pytest_flowcheck.proof.sweeping.parking import Parking
from pytest_flowcheck.proof.sweeping.rest import RESTLESS, Rest, tids
from pytest_flowcheck.proof.sweeping.steps import Code, CodeSpec, Leader, Step, code_of
from pytest_flowcheck.proof.sweeping.tracing import Granularity, Tracer, taken, tracer
from pytest_flowcheck.proof.waitlist import wait_list

__all__ = [
    "CodeSpec",
    "End",
    "Granularity",
    "Outcome",
    "Race",
    "Stage",
    "Step",
    "Sweep",
    "Unsweepable",
    "code_of",
    "obstacle",
    "replay",
    "sweep",
]

W = TypeVar("W")

Judge = Callable[[W, "Outcome"], "str | None"]
Allowed = tuple[type[BaseException], ...] | Callable[[BaseException], bool]
Waiter = Callable[[Callable[[], bool]], "list[str] | None"]
"""Waits until the question is answered with yes: None. Or until it is proven that it never will be: who waits for what."""

_PAUSE: Final = 0.0001
"""Seconds between two looks: long enough for a thread that can run to run."""
_SOON: Final = 0.01
"""Seconds in which what can come back mostly does; only then a proof is asked for."""
_IN_TURN: Final = 1.0
"""Seconds that an operation is given to come back before the other one begins, though it waits: with the next look of one that
polls it may be done. Where it is not, they overlap, and the outcome says so."""
_TRIES: Final = 3
"""How often a step of a thread of the subject is looked for: first of that very thread, then of any of them."""

_FEWEST: Final = 10
"""Schedules are tried of operations that take ever so long, if there are so many."""

_sweeping = threading.Lock()
_stuck_worlds: list[object] = []
"""Those of a deadlock: to finalise them would mean to wait for it."""


class Unsweepable(Exception):  # noqa: N818 - a condition of this machine or subject, told to the user as it is
    """Nothing can be swept here: another tracer is at work, the kernel can't be read, no step of the code ever ran."""


@dataclass(frozen=True)
class End:
    """How an operation came out."""

    value: Any = None
    error: BaseException | None = None

    def __str__(self) -> str:
        said = repr(self.value if self.error is None else self.error)
        return f"{'returned' if self.error is None else 'raised'} {said if len(said) <= 120 else said[:117] + '...'}"


@dataclass(frozen=True)
class Outcome:
    """What came of one schedule."""

    first: End | None
    """None: it never comes back, see `stuck`."""
    rival: End | None
    blocked: bool
    """The one that came in between could not get done until the parked thread went on."""
    stuck: tuple[str, ...] = ()
    """A proven deadlock: who waits for what, a line for each thread."""
    step: Step | None = None
    """Where a thread was parked; None: nowhere, the one operation came after the other, or `beside` it."""
    place: str = ""
    """The same for people: "store.py, Store.save: `self.count = count + 1`"."""
    leader: Leader = "first"
    """Which operation began."""
    source: tuple[tuple[int, str], ...] = ()
    """Lines of the source around the place, each with its number; `line` is that at which the thread was parked."""
    line: int = 0
    beside: bool = False
    """Nobody was parked, and the other operation began all the same before the leading one was over: that one waited."""

    def story(self, first: str = "first", rival: str = "rival") -> str:
        """The schedule in lines of text. The arguments are what the operations are called."""
        names, ends = {"first": first, "rival": rival}, {"first": self.first, "rival": self.rival}
        leader, other = self.leader, "rival" if self.leader == "first" else "first"
        if self.beside:
            ends_of = f"then {_told(names[leader], ends[leader])}\nand {_told(names[other], ends[other])}"
            return "\n".join([f"{names[leader]} waited for something, and {names[other]} began\n{ends_of}", *self.stuck])
        if self.step is None:
            return f"{_told(names[leader], ends[leader])}\nthen {_told(names[other], ends[other])}"
        own = self.step.role.startswith("thread")
        parked = f"the subject's {self.step.role}, during {names[leader]}," if own else names[leader]
        between = f"{names[other]} began, and was blocked" if self.blocked else _told(names[other], ends[other])
        lines = [
            f"{parked} was parked before {self.place}",
            f"meanwhile {between}",
            f"then {_told(names[leader], ends[leader])}",
        ]
        if self.blocked:
            lines.append(f"and {_told(names[other], ends[other])}")
        lines += self.stuck
        return "\n".join([*lines, f"key: {self.step}"])


def _told(name: str, end: End | None) -> str:
    return f"{name} {end if end is not None else 'never came back'}"


@dataclass(frozen=True)
class Race:
    """A schedule whose outcome is not legal."""

    outcome: Outcome
    says: str
    """What is wrong with it."""

    def exhibit(self, first: str, rival: str) -> dict[str, object]:
        """The schedule as plain data, for reports."""
        outcome, step = self.outcome, self.outcome.step
        ends = ((first, outcome.first), (rival, outcome.rival))
        return {
            "key": self.key,
            "leader": first if outcome.leader == "first" else rival,
            "other": rival if outcome.leader == "first" else first,
            "parked": step.role if step is not None and step.role.startswith("thread") else "",
            "place": outcome.place,
            "line": outcome.line,
            "source": [list(row) for row in outcome.source],
            "blocked": outcome.blocked,
            **({"beside": True} if outcome.beside else {}),
            "ends": {name: str(end) if end is not None else "never came back" for name, end in ends},
        }

    @property
    def key(self) -> str:
        """For `replay`; "" where nobody was parked."""
        return str(self.outcome.step or "")

    @property
    def in_turn(self) -> bool:
        """It goes wrong with one operation simply after the other."""
        return self.outcome.step is None and not self.outcome.beside

    def __str__(self) -> str:
        return f"{self.says}\n{self.outcome.story()}"


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to."""

    races: tuple[Race, ...]
    steps: int
    """Places that there are, as runs show them up to where a thread is parked."""
    schedules: int
    """Those tried."""
    blocked: int
    """Those in which the one that came in between had to wait for the parked thread."""
    missed: tuple[Step, ...]
    """Those that the subject did not come to again: it is not deterministic there."""
    untried: int = 0
    """Schedules that the limit would have allowed, and the time did not."""

    def __bool__(self) -> bool:
        """Whether a race was found."""
        return bool(self.races)

    def __str__(self) -> str:
        tried = self.schedules + len(self.missed)
        sampled = (
            f" (of {self.steps}: each place before one is tried again, evenly)"
            if tried < self.steps and not self.races
            else ""
        )
        missed = f", {len(self.missed)} not reached again" if self.missed else ""
        untried = f", {self.untried} not tried since each takes so long" if self.untried else ""
        races = f"; {len(self.races)} race{'s' * (len(self.races) > 1)}" if self.races else ""
        return f"parked at {self.schedules} steps{sampled}, blocked at {self.blocked}{missed}{untried}{races}"


def obstacle() -> str | None:
    """Why nothing can be swept in this process, in one line; None where it can."""
    if not procfs.LINUX or syscalls.table() is None:
        return "whether a thread is blocked is read from the Linux kernel, on x86-64 or arm64"
    try:
        procfs.read("/proc/self/syscall")
    except OSError as error:
        return f"whether a thread is blocked can't be read from this kernel ({error})"
    return taken()


def sweep(
    arrange: Callable[[], W],
    first: Callable[[W], Any],
    rival: Callable[[W], Any],
    *,
    code: Iterable[CodeSpec],
    judge: Judge[W],
    leave: Callable[[W], object] | None = None,
    allowed: Allowed = (),
    granularity: Granularity = "line",
    threads: bool = True,
    both: bool = False,
    limit: int = 1000,
    within: float = math.inf,
    stop: bool = False,
    harness: Harness | None = None,
    patience: float = 30.0,
    names: tuple[str, str] = ("first", "rival"),
) -> Sweep:
    """Try every single preemption of `first` by `rival`.

    Args:
        arrange: makes a fresh world, for each schedule.
        first: the operation that is interrupted. Runs in a thread of its own, as `rival` does.
        rival: the operation that comes in between.
        code: whose steps count; see `code_of`.
        judge: says what is wrong with the outcome, or None. Called in the caller's thread once both operations are over
            and the subject's own threads rest; also with the one simply after the other, either way, which must be
            legal, too. Not called for a deadlock, nor for an error that is not allowed: those
            are races in themselves. What it raises ends the sweep.
        leave: is given each world afterwards, in the caller's thread, but for those of a deadlock. A world that has
            `close` or the like is best closed here.
        allowed: errors that the operations may raise, as classes or as a question.
        granularity: park at lines, or at each bytecode instruction (`self.n += 1` is one line, and not atomic).
        threads: park threads too that the subject starts after `arrange` was called.
        both: also the other way round: `first` comes in between of `rival`.
        limit: at most so many schedules each way; of more steps each place is tried once before one is
            tried again, and they are sampled evenly.
        within: seconds, about, that a sweep each way may take: of operations that take long, fewer schedules are tried,
            and the others counted (`untried`).
        stop: at the first race.
        harness: which threads are the test harness's own, and so no part of a deadlock; by default those that are there.
        patience: seconds to wait for operations that don't come back without a proof that they can't.
        names: what the two operations are called in what is said of them.

    Raises:
        Unsweepable: see there.
    """
    stage = Stage(
        arrange,
        first,
        rival,
        judge,
        leave=leave,
        allowed=allowed,
        threads=threads,
        within=within,
        wait=_Proof(harness, patience),
        names=names,
    )
    return stage.sweep(code, granularity, both=both, limit=limit, stop=stop)


def replay(
    key: str | Step,
    arrange: Callable[[], W],
    first: Callable[[W], Any],
    rival: Callable[[W], Any],
    *,
    code: Iterable[CodeSpec],
    judge: Judge[W],
    leave: Callable[[W], object] | None = None,
    allowed: Allowed = (),
    threads: bool = True,
    harness: Harness | None = None,
    patience: float = 30.0,
    names: tuple[str, str] = ("first", "rival"),
) -> Race | Outcome:
    """Play one schedule again; arguments as for `sweep`. A `Race` if its outcome is not legal, else the outcome.

    Raises:
        Unsweepable: the step is never reached, or as `sweep`.
        ValueError: `key` is no key.
    """
    step = key if isinstance(key, Step) else Step.parse(key)
    stage = Stage(
        arrange,
        first,
        rival,
        judge,
        leave=leave,
        allowed=allowed,
        threads=threads,
        wait=_Proof(harness, patience),
        names=names,
    )
    with stage.traced(code, "line" if step.offset is None else "opcode"):
        played = stage.reach(step)
    if played is None:
        raise Unsweepable(f"{step} was not reached")
    return played.race or played.outcome


class _Proof:
    """Waits, and looks at the kernel whether it waits for nothing."""

    def __init__(self, harness: Harness | None, patience: float) -> None:
        self._given, self._patience = harness, patience
        self._harness = harness or Harness()

    def begin(self) -> None:
        """Before the first thread of the sweep."""
        if self._given is None:
            self._harness = Harness.at_start()

    def __call__(self, over: Callable[[], bool]) -> list[str] | None:
        observer, until, pause = Observer(self._harness), monotonic() + self._patience, threading.Event()
        while not over():
            sighting = observer.prove(lambda: int(over()))
            if over():
                return None
            if sighting.state is State.QUIESCENT:
                return wait_list(sighting, self._harness)
            if monotonic() > until:
                raise Unsweepable(
                    f"an operation did not come back within {self._patience:g} s, and that it never will could not be "
                    f"proven ({sighting.state.name.lower()}: {sighting.reason})"
                )
            pause.wait(_SOON)
        return None


class _Hand:
    """A thread that runs one operation, once it is told to."""

    def __init__(
        self, name: str, operation: Callable[[Any], Any], tracer: Tracer | None, news: Callable[[], object]
    ) -> None:
        self.end: End | None = None
        self._name, self._operation, self._tracer, self._news = name, operation, tracer, news
        self._worlds: list[Any] = []
        self._gate = threading.Lock()
        self._gate.acquire()
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Its native id."""
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), daemon=True, name=self._name)
        self._thread.start()
        return self._thread.native_id or 0

    def go(self, world: object) -> None:
        """Begin."""
        self._worlds.append(world)
        self._gate.release()

    def dismiss(self) -> None:
        """Begin nothing any more; what has come to its end is waited for."""
        if self._thread is not None and not self._worlds and self.end is None:
            self.end = End()
            self._gate.release()
        if self._thread is not None and self.end is not None:
            self._thread.join()

    def _run(self) -> None:
        self._gate.acquire()
        if not self._worlds:
            return
        try:
            with nullcontext() if self._tracer is None else self._tracer.here():
                value = self._operation(self._worlds[0])
            end = End(value)
            if hasattr(value, "__await__"):
                if callable(close := getattr(value, "close", None)):
                    close()  # a coroutine that is never awaited would warn somewhere else
                end = End(error=Unsweepable("an operation gave an awaitable, which nobody awaits: sweep blocking code"))
        except BaseException as error:  # noqa: BLE001 - whatever it raises is its end
            end = End(error=error)
        self.end = end
        self._worlds[:] = [None]  # the world must not outlive its schedule
        self._news()


@dataclass
class _Played:
    outcome: Outcome
    race: Race | None
    steps: list[Step]
    loops: int


class Stage(Generic[W]):
    """Plays schedules of one pair of operations. Users call `sweep`; rules call `lab.sweep`."""

    def __init__(
        self,
        arrange: Callable[[], W],
        first: Callable[[W], Any],
        rival: Callable[[W], Any],
        judge: Judge[W],
        *,
        wait: Waiter,
        leave: Callable[[W], object] | None = None,
        allowed: Allowed = (),
        threads: bool = True,
        within: float = math.inf,
        settle: bool = True,
        tell: Callable[[str], object] = len,
        moved: Callable[[], object] = list,
        names: tuple[str, str] = ("first", "rival"),
    ) -> None:
        """As `sweep`, and `wait`: how to wait by proof. `tell`: is told in words what happens. `moved`: is called on any
        thread whenever something has happened that `wait` waits for. `settle`: judge only once the subject's threads rest."""
        self._arrange, self._judge, self._leave = arrange, judge, leave
        self.operations: dict[Leader, Callable[[W], Any]] = {"first": first, "rival": rival}
        self.names: dict[Leader, str] = {"first": names[0], "rival": names[1]}
        self.threads, self.wait, self.tell, self.moved = threads, wait, tell, moved
        self.restless, self.settle = RESTLESS, settle
        self._allowed: Allowed = allowed
        self._within = within
        self._parking: Parking | None = None
        self._tracer: Tracer | None = None

    @contextmanager
    def traced(self, code: Iterable[CodeSpec], granularity: Granularity) -> Generator[None]:
        """Inside, schedules can be played."""
        if (why := obstacle()) is not None:
            raise Unsweepable(why)
        if not _sweeping.acquire(blocking=False):
            raise Unsweepable("another sweep is under way in this process")
        try:
            if isinstance(self.wait, _Proof):
                self.wait.begin()
            self.code = Code(code)
            self._tracer = tracer(self.code, granularity, self._step)
            self._tracer.on()
            try:
                with reused.short_lived():
                    yield
            finally:
                self._tracer.off()
        finally:
            _sweeping.release()

    def _step(self, code: CodeType, line: int, offset: int | None) -> bool:
        return (parking := self._parking) is None or parking.step(code, line, offset)

    def sweep(self, code: Iterable[CodeSpec], granularity: Granularity, *, both: bool, limit: int, stop: bool) -> Sweep:
        """All schedules."""
        found = _Tally()
        leaders: tuple[Leader, ...] = ("first", "rival") if both else ("first",)
        with self.traced(code, granularity):
            in_turn: tuple[Leader, ...] = ("first", "rival")
            for leader in in_turn:
                alone = self.play(None, leader)
                if alone is not None and alone.race is not None:
                    found.races.append(alone.race)
            for leader in leaders:
                if not (stop and found.races):
                    self._sweep_led_by(leader, found, limit, stop)
        return found.sweep()

    def _sweep_led_by(self, leader: Leader, found: _Tally, limit: int, stop: bool) -> None:
        began = monotonic()
        alone = self.play(None, leader)
        assert alone is not None
        if not alone.steps:
            loop = " but on an event loop, where tasks are interleaved at their awaits only" if alone.loops else ""
            raise Unsweepable(f"no step of {self.code or 'no code at all'} ran during {self.names[leader]}{loop}")
        wanted = min(limit, len(alone.steps))
        limit = int(min(limit, max(_FEWEST, self._within / (monotonic() - began))))
        plan = _sampled(alone.steps, limit)
        found.untried += wanted - len(plan)
        known = set(alone.steps)
        for step in plan:
            if stop and found.races:
                break
            played = self.reach(step)
            if played is None:
                found.missed.append(step)
                continue
            found.schedules += 1
            found.blocked += played.outcome.blocked
            if played.race is not None:
                found.races.append(played.race)
            new = [other for other in played.steps if other not in known]
            known.update(new)
            plan += new[: max(0, limit - len(plan))]
        found.steps += len(known)

    def reach(self, step: Step) -> _Played | None:
        """Play it; again, where another thread of the subject gets the work. None: it was never reached."""
        for turn in range(1 if step.role == step.leader else _TRIES):
            if (played := self.play(step, step.leader, anyone=turn > 0)) is not None:
                return played
        return None

    def play(self, step: Step | None, leader: Leader, *, anyone: bool = False) -> _Played | None:
        """One schedule in a fresh world, judged. None: the step was not reached, so nothing was tried."""
        with reused.kept_away():
            return self._play(step, leader, anyone=anyone)

    def _play(self, step: Step | None, leader: Leader, *, anyone: bool) -> _Played | None:
        assert self._tracer is not None
        collects = gc.isenabled()
        gc.disable()  # a collection runs finalisers in whichever thread it comes upon
        scene = _Scene(self, self._tracer, step, leader, anyone=anyone)
        try:
            world = self._arrange()
            try:
                self._parking = scene.parking
                outcome = scene.play(world)
                if outcome is None:
                    return None
                says = self._wrong(world, outcome)
            finally:
                self._parking = None
                if scene.stuck:
                    _stuck_worlds.append(world)
                elif self._leave is not None:
                    self._leave(world)
        finally:
            scene.close()
            if collects:
                gc.enable()
        return _Played(outcome, Race(outcome, says) if says else None, scene.parking.steps, scene.parking.loops)

    def _wrong(self, world: W, outcome: Outcome) -> str | None:
        if outcome.stuck:
            who = [name for role, name in self.names.items() if getattr(outcome, role) is None]
            return f"{' and '.join(who)} never {'comes' if len(who) == 1 else 'come'} back"
        for role, name in self.names.items():
            end: End = getattr(outcome, role)
            if isinstance(end.error, Unsweepable):
                raise end.error
            if end.error is not None and not self._may_raise(end.error):
                return f"{name} raised {end.error!r}"
        return self._judge(world, outcome)

    def _may_raise(self, error: BaseException) -> bool:
        allowed = self._allowed
        return allowed(error) if callable(allowed) else isinstance(error, allowed)


@dataclass
class _Tally:
    races: list[Race] = field(default_factory=list[Race])
    missed: list[Step] = field(default_factory=list[Step])
    steps: int = 0
    schedules: int = 0
    blocked: int = 0
    untried: int = 0

    def sweep(self) -> Sweep:
        return Sweep(tuple(self.races), self.steps, self.schedules, self.blocked, tuple(self.missed), self.untried)


def _sampled(steps: list[Step], limit: int) -> list[Step]:
    """At most so many: each place once before one is tried again, and evenly where there is no room for all."""
    places = [step for step in steps if step.occurrence == 1]
    again = [step for step in steps if step.occurrence > 1]
    return _evenly(places, limit) + _evenly(again, max(0, limit - len(places)))


def _evenly(steps: list[Step], limit: int) -> list[Step]:
    """The first among them."""
    if len(steps) <= limit:
        return steps
    return [steps[index * len(steps) // limit] for index in range(limit)]


class _Scene(Generic[W]):
    """One schedule: its two threads, the parking, and the order in which they go."""

    def __init__(self, stage: Stage[W], tracer: Tracer, step: Step | None, leader: Leader, *, anyone: bool) -> None:
        """Before the world is arranged: threads that are there now are none of the subject's."""
        self._stage, self._step = stage, step
        self._leader: Leader = leader
        self._other: Leader = "rival" if leader == "first" else "first"
        # A lock, and no queue: on Python 3.12 `SimpleQueue.get` may wait for ever if its timeout passes while it looks again.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._strangers = tids()
        self.parking = Parking(
            step,
            leader,
            threads=stage.threads,
            told=self._ring,
            strangers=set(self._strangers),
            anyone=anyone,
        )
        self._hands: dict[Leader, _Hand] = {
            role: _Hand(f"sweep: {stage.names[role]}", operation, tracer if role == leader else None, self._news)
            for role, operation in stage.operations.items()
        }
        self._ids: dict[Leader, int] = {}
        self._rest = Rest(self._mine)
        self._rest.restless = stage.restless
        self._held = False
        self.stuck = False
        """An operation is still under way."""

    def _ring(self) -> None:
        with suppress(RuntimeError):  # it rings already
            self._bell.release()

    def _news(self) -> None:
        self._ring()
        self._stage.moved()

    def play(self, world: W) -> Outcome | None:
        """None: no thread came to the step."""
        parking, leader, other = self.parking, self._hands[self._leader], self._hands[self._other]
        self._ids = {role: hand.start() for role, hand in self._hands.items()}
        parking.leads(self._ids[self._leader])
        parking.ignore(self._ids[self._other])
        if self._has_threads():
            self._until(lambda: False)
        self.stuck = True
        parking.counting = True
        leader.go(world)
        self._until(lambda: bool(parking.parked) or leader.end is not None, self._leader)
        if not parking.parked and (self._step is None or self._step.role != self._leader) and self._has_threads():
            self._until(lambda: bool(parking.parked))
        parking.counting, parking.over = False, True
        # from here on nobody else is parked; a thread that came to the step a moment ago is seen here
        self._held = bool(parking.parked)
        if self._held:
            self._tell(f"{self._who()} is parked before {parking.place}")
            if self._step is not None and self._step.role != self._leader:
                self._until(lambda: leader.end is not None, self._leader)
        beside = self._step is None and not self._comes_back(leader)
        other.go(world)
        blocked = not self._until(lambda: other.end is not None, self._other)
        if self._held:
            name = self._stage.names[self._other]
            self._tell(f"{name} {'is blocked' if blocked else other.end}; the parked thread goes on")
            self._let_go()
        waits = self._finish()
        self.stuck = waits is not None
        if self._step is not None and not parking.parked and not self.stuck:
            return None
        if self._stage.settle and not self.stuck and self._has_threads():
            self._until(lambda: False)
        return Outcome(
            self._hands["first"].end,
            self._hands["rival"].end,
            blocked,
            tuple(waits or ()),
            self._step,
            parking.place,
            self._leader,
            parking.source,
            parking.line,
            beside,
        )

    def close(self) -> None:
        """Leave no thread behind that could end."""
        self._stage.restless = self._rest.restless
        if self._held:
            self._let_go()
        for hand in self._hands.values():
            hand.dismiss()

    def _who(self) -> str:
        role = self._step.role if self._step is not None else self._leader
        return self._stage.names[self._leader] if role == self._leader else f"the subject's {role}"

    def _tell(self, text: str) -> None:
        self._stage.tell(text)

    def _let_go(self) -> None:
        self._held = False
        self.parking.let_go()

    def _mine(self) -> set[int]:
        return tids() - self._strangers

    def _has_threads(self) -> bool:
        """Beside the two operations'."""
        return self._stage.threads and len(self._mine() - set(self._ids.values())) > 0

    def _until(self, over: Callable[[], bool], of: Leader | None = None) -> bool:
        """Until it is over (True), or all threads of this schedule rest (False). `of`: whose operation it is about."""
        self._drain()
        if over():
            return True
        self._pause(_PAUSE)
        self._rest.begin(self._ids[of] if of is not None else None)
        while not over():
            if self._rest.reached():
                return over()
            self._pause(_PAUSE)
        return True

    def _comes_back(self, hand: _Hand) -> bool:
        """By itself: it is given some time for that."""
        until = monotonic() + _IN_TURN
        while hand.end is None and monotonic() < until:
            self._pause(_SOON)
        return hand.end is not None

    def _finish(self) -> list[str] | None:
        """Until both operations are over: None; or until it is proven that they never will be."""

        def over() -> bool:
            return all(hand.end is not None for hand in self._hands.values())

        self._drain()
        until = monotonic() + _SOON
        while not over() and monotonic() < until:
            self._pause(_SOON)
        return None if over() else self._stage.wait(over)

    def _drain(self) -> None:
        """News is a reason to look, no more: what is told twice must not make two looks of one."""
        self._bell.acquire(blocking=False)

    def _pause(self, seconds: float) -> None:
        self._bell.acquire(timeout=seconds)
