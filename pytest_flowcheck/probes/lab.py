"""One rule's bench: probes, gates, history, and the two waits that end by proof instead of by a clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pytest_flowcheck.errors import AdapterError, Grade, Inconclusive, Judgement, NotTestable, Violated
from pytest_flowcheck.probes import blame
from pytest_flowcheck.probes import probe as probes
from pytest_flowcheck.probes.calls import Call, ThreadCall, leaves, own_word
from pytest_flowcheck.probes.gates import Gates
from pytest_flowcheck.probes.instance import Instance, opened
from pytest_flowcheck.probes.timeline import Timeline
from pytest_flowcheck.proof.sweep import CodeSpec, Granularity, Outcome, Race, Stage, Sweep, Unsweepable
from pytest_flowcheck.protocols import Inexpressible, Unsupported, is_a

if TYPE_CHECKING:
    from pytest_flowcheck.proof.waitlist import Waiting
    from pytest_flowcheck.subjects import Subject

T = TypeVar("T")
W = TypeVar("W")

PROVEN_STILL = (
    "every thread of the process tree sits in a wait without a deadline that only this tree could end "
    "(read from the kernel, three equal looks in a row): nothing can ever happen again"
)
"""Why absence is proven. The watcher looked; see `proof.quiescence`."""

_FEW = 4
"""Schedules of a sweep in the selftest, on an engine that need not fail the rule: the harness is tried, not the engine."""

_SWEEP = 60.0
"""Seconds, about, that a sweep may take each way. Only an engine whose single run takes a long time comes near that; what is
left out then is no less than said: the evidence becomes "observed"."""


@dataclass
class Request:
    """What the rule waits for, put on the bench for the watcher to answer."""

    kind: Literal["until", "settle"]
    what: str
    answer: Grade | Literal["gave up"] | None = None
    reason: str = ""
    """Why there was no proof."""
    waits: list[Waiting] = field(default_factory=list["Waiting"])


class Lab:
    """What a rule gets.

    A rule runs on a driver thread; a watcher (see `running.judge`) looks at the kernel meanwhile. `until` and `settle`
    put a request on the bench and block untimed, so that the rule's own thread is quiescent too; the watcher answers
    once the process tree is proven to be still, or once patience has run out.

    Args:
        subject: the loaded subject under judgement.
        seed: for hypothesis, pinned per run and printed in the certificate.
        facet: the rule's.
        adopt: is told the native id of each thread that is the kit's own.
        uncaught: where errors of threads and finalisers end that nobody caught.
        thorough: see `repeated`.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        facet: str = "executor",
        seed: int = 0,
        adopt: Callable[[int], None] = lambda _: None,
        uncaught: list[str] | None = None,
        thorough: bool = True,
    ) -> None:
        self.subject, self.facet, self.seed, self._thorough = subject, facet, seed, thorough
        self.on_loops: list[str] = []
        """What loops of this lab told their exception handlers. A loop may tell it long after: then it is this rule's still."""
        self._in_process: list[str] = [] if uncaught is None else uncaught
        self.benches: list[probes.Bench] = []
        self.grade: Grade = "proven"
        self.observed_because = ""
        self.judgement: Judgement | None = None
        self.fault: AdapterError | None = None
        """The first fault of the adapter that a call came upon: the verdict, whatever the rule makes of that call."""
        self.unopened: tuple[BaseException, Subject, bool] | None = None
        """What an opener raised last, whose, and whether that can be held against the adapter alone; see `opening`."""
        self.doubts: list[tuple[str, str]] = []
        """Errors, as messages show them, that may be the adapter's; and what to say of each."""
        self.example = ""
        """The scenario of a property that fails, as a table."""
        self.script: Callable[[], str] | None = None
        """Writes the same as a program that needs no pytest."""
        self.exhibits: dict[str, Any] = {}
        """What makes a violation plain beside its story, for reports: `crash`, `schedule`."""
        self.waiting: list[Waiting] = []
        """Who waited for what when last it was proven that nothing moves any more."""
        self.request: Request | None = None
        self.asked = threading.Event()
        self.probes_ran = 0
        self.max_workers = 0
        self.submitting = ""
        self._adopt = adopt
        self._opened: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        self.timeline, self.gates = Timeline(), Gates()
        self.benches.append(probes.Bench(self.timeline, self.gates))
        self.futures: dict[str, Future[Any]] = {}
        self.exhibits, self.waiting = {}, []

    def fresh(self) -> None:
        """A new history and shut gates, for the next example of a property; probes of the last one are let go."""
        self.gates.open_all()
        self.probes_ran += len(self.timeline.of("started"))
        self._begin()

    def broken(self, fault: AdapterError) -> None:
        """A call came upon a fault of the adapter; see `fault`."""
        self.fault = self.fault or fault

    def whose(self, error: BaseException) -> BaseException:
        """What a call is taken to have raised: a fault of the adapter, if it is its slip; else the error, perhaps in doubt."""
        if (fault := blame.slip(error, self.subject)) is not None:
            return fault
        self.doubtful(error)
        return error

    def doubtful(self, error: BaseException, opener: Subject | None = None) -> None:
        """Should a message accuse the subject of this error, it adds where in the adapter it was raised, if it was there.

        `opener`: whose opener raised it. The error itself is not kept: what it refers to must not outlive the call.
        """
        if said := blame.doubt(error, opener or self.subject, self.facet if opener is not None else ""):
            try:
                shown = [repr(one) for one in (error, *leaves(error))]
            except Exception:  # noqa: BLE001 - theirs: an error that can't be shown stands in no message
                return
            self.doubts += [(one, said) for one in shown]

    @property
    def thorough(self) -> bool:
        """Whether the rule is to do all that it can; see `repeated`."""
        return self._thorough

    def repeated(self, times: int) -> int:
        """How often to do what the rule wants to do so often.

        Always that, when a subject is certified. In the selftest a broken engine is judged so by the rules that it must
        fail; that it keeps the others need not be shown at the same length: a fifth.
        """
        return times if self._thorough else min(times, max(times // 5, 3))

    # --- the subject -------------------------------------------------------------------------------------------------

    def claims(self, capability: str) -> bool:
        """Whether the subject claims this capability (or trait) of the rule's facet."""
        return capability in self.subject.claims.get(self.facet, ())

    @property
    def uncaught(self) -> list[str]:
        """Errors that nobody caught, a line for each: of threads, finalisers and this rule's loops."""
        return [*self._in_process, *self.on_loops]

    def declared(self, choice: str) -> str:
        """The subject's choice where the rule judges *as declared*."""
        return self.subject.declared(self.facet, choice)

    def is_a(self, error: BaseException | None, kind: type[BaseException]) -> bool:
        """Whether the error is of this kind, in itself or by the subject's table `errors`."""
        return error is not None and is_a(error, kind, self.subject.errors)

    @contextmanager
    def instance(self, *, of: Subject | None = None, **options: Any) -> Generator[Instance]:
        """A fresh instance of the rule's facet, of either colour. Leaving opens every gate first, then leaves it.

        Calls are made by `instance.start('call', lambda it: it.call(...))`, which gives a `Call`. `of`: of another
        subject, the sibling.
        """
        self.gates.shut_all()
        subject = of or self.subject
        with ExitStack() as stack:
            with self.opening(subject, options):
                manager = subject.open(self.facet, **options)
                instance = stack.enter_context(opened(self, manager, subject.spec, subject.backend))
            try:
                yield instance
            except Judgement as judgement:
                # remembered before the instance is left: a hang on the way out must not hide what was found
                self.judgement = self.judgement or judgement
                raise
            finally:
                self.open_all()

    @contextmanager
    def executor(self, max_workers: int, **options: Any) -> Generator[Executor]:
        """A fresh executor of the subject. Leaving opens every gate first, then leaves the executor's own `with`."""
        self.gates.shut_all()
        self.max_workers = max_workers
        with self.executor_itself(max_workers=max_workers, **options) as executor:
            try:
                yield executor
            except Judgement as judgement:
                # remembered before the executor is left: a hang on the way out must not hide what was found
                self.judgement = self.judgement or judgement
                raise
            finally:
                self.open_all()

    @contextmanager
    def executor_itself(self, **options: Any) -> Generator[Executor]:
        """The same, left as its own `with` block leaves it: the gates stay as they are."""
        with ExitStack() as stack:
            with self.opening(self.subject, options):
                executor = stack.enter_context(self.subject.open_executor(**options))
            yield executor

    @contextmanager
    def opening(self, subject: Subject, options: Mapping[str, Any]) -> Generator[None]:
        """Inside, an instance is opened, and nothing else is done.

        What is raised here goes to the rule, which may have asked for just that (`max_workers=0` is refused). If it ends the
        rule, it is held against the adapter where nothing was opened before in this rule, and nothing can be: with what
        any subject opens with it raises as well. Else the subject may be at fault: two at once, or the second, is what
        broken subjects can't give, and what an option makes of a subject is what rules ask.
        """
        first = subject.is_adapter and subject.spec not in self._opened
        plain = blame.plain(options, subject.opens(self.facet)) if first else None
        try:
            yield
        except BaseException as error:
            says = isinstance(own_word(error), Judgement | AdapterError | Inexpressible | Unsupported)
            never = not says and plain is not None and (plain == options or not self._opens(subject, plain))
            self.unopened = error, subject, never
            raise
        self._opened.add(subject.spec)

    def _opens(self, subject: Subject, options: Mapping[str, Any]) -> bool:
        """Whether a fresh instance can be opened so, and left. Whatever is raised says that it can't: why was told."""
        try:
            if self.facet == "executor":
                with subject.open_executor(**options):
                    return True
            with opened(self, subject.open(self.facet, **options), subject.spec, subject.backend):
                return True
        except BaseException:  # noqa: BLE001 - an opener may raise anything
            return False

    # --- probes ------------------------------------------------------------------------------------------------------

    def probe(self, name: str, does: Callable[..., Any] | None = None, *, gated: bool = True) -> probes.Probe:
        """A body named `name`; see `Probe`. `does` must be importable where the subject runs in other processes."""
        return probes.Probe(self.benches[-1], name, does, gated=gated, adopt=self._adopt)

    def attempts(self, name: str, does: Callable[..., Any] | None = None, *, gated: bool = True) -> probes.Probe:
        """A body that is called again and again: call `name #1`, `name #2`, ...; `does` gets the number."""
        return probes.Probe(self.benches[-1], name, does, gated=gated, numbered=True, adopt=self._adopt)

    def open(self, *names: str) -> None:
        """Let these probe calls go."""
        for name in names:
            self.timeline.aside("released", name)
        self.gates.open(*names)

    def open_all(self) -> None:
        """Let all go, those too that are yet to start."""
        for name in self.timeline.live():
            self.timeline.aside("released", name)
        self.gates.open_all()

    def started(self, name: str | None = None) -> list[str]:
        """Probe calls that have started, in order; with a name, those of that name."""
        return [n for n in self.timeline.names("started") if name is None or n == name]

    def ended(self) -> list[str]:
        """Probe calls that have returned, in order."""
        return self.timeline.names("ended")

    def live(self) -> list[str]:
        """Probe calls in flight, by their own word."""
        return self.timeline.live()

    def workers(self) -> set[tuple[int, int]]:
        """(pid, native thread id) of all who ever ran a probe."""
        return {e.worker for e in self.timeline.of("started")}

    def note(self, text: str) -> None:
        """Put a line of the rule's own into the history: 'shutdown(wait=True) called'."""
        self.timeline.append("note", text)

    def call(self, what: str, function: Callable[[], T]) -> Call[T]:
        """Make a call into the subject on a thread of its own. `what` reads as in 'shutdown(wait=True)'."""
        return ThreadCall(self, what, function)

    # --- waits that end by proof -------------------------------------------------------------------------------------

    def until(
        self,
        predicate: Callable[[], bool],
        what: str,
        *,
        expected: str = "",
        hung: bool = False,
        needs: str | None = None,
    ) -> None:
        """Wait until the predicate holds.

        Args:
            predicate: asked at every event; must not block.
            what: what is waited for, as a clause: '2 of 6 tasks are in flight'.
            expected: what the rule's sentence asks for here; by default, `what`.
            hung: never coming back is the finding itself (verdict HUNG).
            needs: this is only the way to what the rule asks; if it can't come about, the named rule is the one that
                is broken, and this one is INCONCLUSIVE.

        Raises:
            Violated: it is proven that it never will.
            Inconclusive: patience ran out without a proof, or the failure belongs to `needs`.
        """
        request = self._ask("until", what, predicate)
        if request is None:
            return
        if request.answer == "proven":
            if (pressure := self.back_pressure()) is not None:
                raise pressure
            self._blame_broken_tasks(what)
            if needs is not None:
                raise Inconclusive(
                    f"{what}: that never comes about with this subject, and the rule needs it", because_of=needs
                )
            raise self._violated(
                f"it never came about that {what}",
                expected=expected or what,
                proof="\n".join([PROVEN_STILL, *map(str, request.waits)]),
                hung=hung,
            )
        raise Inconclusive(f"{what}: not seen, and not proven impossible either ({request.reason})", because_of=needs)

    def settle(self) -> Grade:
        """Wait until nothing moves any more: what has not happened now won't happen by itself.

        Returns:
            `"proven"`, or `"observed"` where timers or outsiders forbid a proof; the rule's evidence then is no better.
        """
        request = self._ask("settle", "nothing moves", lambda: False)
        if request is None or request.answer == "proven":
            return "proven"
        self.grade, self.observed_because = "observed", request.reason
        return "observed"

    def rest(self, over: Callable[[], bool]) -> bool:
        """Wait until it is so, or until nothing moves any more; whether it is so.

        The rule's evidence is none the worse for a rest that is not proven: to be used where nothing follows from it, as
        where somebody who may be blocked is only to be given his chance.
        """
        self._ask("settle", "nothing moves", over)
        return over()

    def _ask(self, kind: Literal["until", "settle"], what: str, predicate: Callable[[], bool]) -> Request | None:
        if predicate():
            return None
        request = Request(kind, what)
        timeline = self.timeline
        with timeline.changed:
            self.request = request
        self.asked.set()
        timeline.wait_for(lambda: request.answer is not None or predicate())
        with timeline.changed:
            self.request = None
        return None if predicate() else request

    def answer(
        self, request: Request, answer: Grade | Literal["gave up"], reason: str, waits: Iterable[Waiting]
    ) -> None:
        """The watcher's word on the request on the bench."""
        waits = list(waits)
        if answer == "proven":
            self.waiting = waits
        request.reason, request.waits, request.answer = reason, waits, answer
        self.timeline.poke()

    def _blame_broken_tasks(self, what: str) -> None:
        """Where a task that should have run has failed by itself, that is the finding, not what it kept from happening."""
        for name, future in self.futures.items():
            if future.done() and not future.cancelled() and (error := future.exception()) is not None:
                raise Inconclusive(
                    f"{what}: can never happen, because task {name!r} failed by itself with {error!r}",
                    because_of="EXE-01",
                )

    # --- races ---------------------------------------------------------------------------------------------------------

    def sweep(
        self,
        arrange: Callable[[], W],
        first: Callable[[W], Any],
        rival: Callable[[W], Any],
        *,
        code: Iterable[CodeSpec],
        judge: Callable[[W, Outcome], str | None],
        names: tuple[str, str],
        leave: Callable[[W], object] | None = None,
        allowed: tuple[type[BaseException], ...] = (),
        granularity: Granularity = "line",
        threads: bool = True,
        both: bool = False,
        settle: bool = True,
        limit: int = 200,
        expected: str = "",
        needs: str | None = None,
    ) -> Sweep:
        """Try every single preemption of `first` by `rival` in the subject's own code; see `proof.sweep.sweep`.

        Each schedule has a fresh history. Schedules count as probes that ran.

        Args:
            arrange: makes a fresh world, on the rule's thread; enter `lab.instance(...)` by an `ExitStack` in it.
            first: the operation that is interrupted: calls the subject's own object (`it.raw`), on a plain thread.
            rival: the one that comes in between, on another.
            code: whose steps count: `code_of(it.raw)`.
            judge: what is wrong with the outcome, in words, or None; on the rule's thread. It may use `until` and
                `check` as well.
            names: what the two operations are called in messages: `("save('a')", "load()")`.
            leave: is given each world afterwards, on the rule's thread.
            allowed: errors that the operations may raise, the subject's own kinds too (see `is_a`).
            granularity: lines, or bytecode instructions.
            threads: park the subject's own threads as well.
            both: also let `first` come in between of `rival`.
            settle: judge only once the subject's own threads rest. Not needed, and quicker without, where the judge
                looks at what the operations returned, or waits by `until`.
            limit: at most so many schedules each way; see there for how they are sampled. A few in the selftest, on an
                engine that need not fail the rule.
            expected: what the rule's sentence asks for.
            needs: the rule that is broken, and not this one, if it goes wrong with one operation simply after the other.

        Raises:
            Inconclusive: because of `needs`.
            Violated: an outcome that is not legal, or a proven deadlock (HUNG). It names the line and the key.
            NotTestable: nothing can be swept here (another tracer, no step of pure Python), or whoever came in between
                was blocked at every single step: then nothing was tried, as where one loop runs both.
        """
        told = f"{names[0]} against {names[1]}"

        def arranged() -> W:
            self.fresh()
            return arrange()

        def judged(world: W, outcome: Outcome) -> str | None:
            self.example = outcome.story(*names)  # told as well if the judge raises, or hangs
            return judge(world, outcome)

        stage = Stage(
            arranged,
            first,
            rival,
            judged,
            leave=leave,
            allowed=lambda error: any(self.is_a(error, kind) for kind in allowed),
            threads=threads,
            within=_SWEEP,
            settle=settle,
            wait=self._never_comes,
            tell=self.note,
            moved=self._poke,
            names=names,
        )
        try:
            swept = stage.sweep(code, granularity, both=both, limit=limit if self._thorough else _FEW, stop=True)
        except Unsweepable as why:
            raise NotTestable(f"{told} can't be swept: {why}") from None
        self.probes_ran += swept.schedules
        if swept:
            if needs is not None and swept.races[0].in_turn:
                self.example = ""
                raise Inconclusive(f"with no race at all, {swept.races[0].says}", because_of=needs)
            raise self._raced(swept.races[0], names, expected)
        self.example = ""
        self.fresh()
        self.note(f"{told}, swept: {swept}")
        if swept.untried:
            self.grade, self.observed_because = (
                "observed",
                f"{swept.untried} places of {told} were not tried: each takes long",
            )
        if swept.blocked == swept.schedules:
            raise NotTestable(f"{told}: whoever came in between was blocked at each of the {swept.schedules} steps")
        return swept

    def _poke(self) -> None:
        self.timeline.poke()  # of the schedule at hand: each has its own

    def _raced(self, race: Race, names: tuple[str, str], expected: str) -> Violated:
        outcome = race.outcome
        self.example = outcome.story(*names)
        self.exhibits["schedule"] = race.exhibit(*names)
        self.judgement = self._violated(
            race.says,
            expected=expected or "an outcome that the one before the other, or the other before the one, could have",
            proof="\n".join([PROVEN_STILL, *outcome.stuck])
            if outcome.stuck
            else "no timing is in it: the one came after the other"
            if race.in_turn
            else "no timing is in it: one thread was held at that line until the other was done, or blocked"
            if race.key
            else "no timing is in it: the one had begun, and was not over when the other began",
            hung=bool(outcome.stuck),
        )
        return self.judgement

    def _never_comes(self, over: Callable[[], bool]) -> list[str] | None:
        """None once it is so; who waits for what, if it is proven that it never will be."""
        request = self._ask("until", "both operations come back", over)
        if request is None:
            return None
        if request.answer == "proven":
            return [str(wait) for wait in request.waits]
        raise Inconclusive(f"an operation did not come back, and that it never will is not proven ({request.reason})")

    # --- judging -----------------------------------------------------------------------------------------------------

    def check(
        self, holds: bool, facts: str, expected: str, *, absence: bool = False, leaked: bool = False, proof: str = ""
    ) -> None:
        """The sentence holds here, or `Violated` says so.

        Args:
            holds: whether it does.
            facts: what the subject did.
            expected: what was asked of it.
            absence: the finding is that something did *not* happen; without a proof that is INCONCLUSIVE.
            leaked: the finding is growth (verdict LEAKED).
            proof: why nobody can say that it was an accident, where it is not that it stands in the history.
        """
        if holds:
            return
        if absence and self.grade == "observed":
            raise Inconclusive(
                f"{facts}; but that nothing more would happen was only observed ({self.observed_because})"
            )
        proof = (
            PROVEN_STILL
            if absence
            else proof or "it is in the recorded history: what has happened can't be an accident of timing"
        )
        raise self._violated(facts, expected=expected, proof=proof, leaked=leaked)

    def _violated(self, facts: str, **rest: Any) -> Violated:
        """The judgement, with the history as it was when it fell: what the opened gates let happen later proves nothing."""
        violated = Violated(facts, **rest)
        violated.events, violated.told = tuple(self.timeline.events), self.timeline.told()
        if violated.proof.startswith(PROVEN_STILL):
            violated.waiting = tuple(self.waiting)
        violated.exhibits = dict(self.exhibits)
        return violated

    def submit(
        self, executor: Executor, name: str, *args: Any, gated: bool = True, does: Callable[..., Any] | None = None
    ) -> Future[Any]:
        """Submit a new probe and remember its future, so that a task that fails by itself is blamed rightly."""
        task, call, timeline = self.probe(name, does, gated=gated), probes.call_name(name, args), self.timeline
        timeline.aside("submitted", call)
        try:
            with self.submission(name):
                future = executor.submit(task, *args)
        except Judgement:
            raise
        except Exception as error:
            raise Violated(
                f"submit({name}) raised {error!r}",
                expected="a fresh executor takes tasks",
                proof="submit raised",
            ) from error
        if not isinstance(future, Future):  # pyright: ignore[reportUnnecessaryIsInstance] - a subject may return anything
            raise AdapterError(f"submit returned {type(future).__name__}, expected a concurrent.futures.Future")
        self.futures[call] = future

        def over(done: Future[Any]) -> None:
            if done.cancelled():
                timeline.aside("cancelled", call)
            self.timeline.poke()

        future.add_done_callback(over)
        return future

    @contextmanager
    def submission(self, name: str) -> Generator[None]:
        """Inside, a submit is under way: should it never return, see `back_pressure`."""
        self.submitting = name
        try:
            yield
        finally:
            self.submitting = ""

    def back_pressure(self) -> Judgement | None:
        """Why a submit that never returns is no hang: it waits for one of the workers, all of which are at their gates.

        A bounded pool does so on purpose; the rules that need a queue can't be asked then.
        """
        if not self.submitting or not 0 < self.max_workers <= len(self.live()):
            return None
        blocks = f"submit of {self.submitting!r} waits while all {self.max_workers} workers are busy, and the rule needs a queue"
        if self.subject.declared("executor", "submit") == "block":
            return NotTestable(f"{blocks}; declared: submit blocks")
        return Inconclusive(f"{blocks}; if that is meant, declare it: flowcheck_declares = {{'submit': 'block'}}")

    def watch(self, future: Future[Any]) -> None:
        """Have waiting predicates asked again when the future is done; EXE-14 judges how a subject treats callbacks."""
        future.add_done_callback(lambda _: self.timeline.poke())

    def finish(self, future: Future[T], what: str, *, needs: str | None = None) -> T:
        """The future's result, waiting by proof: HUNG if it can never be done. Raises what it raises."""
        self.until(future.done, f"{what} is done", hung=True, needs=needs)
        return future.result(timeout=0)
