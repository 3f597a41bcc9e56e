"""The isolation rules: sound services of other builds keep them, and what a failure prints is true and of use."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from bystanders import fresh_harness

from flowcheck_reference.broken.isolation import beside, bounds, ending, loops, sessions
from flowcheck_reference.broken.isolation._sound import AsyncEngine, Engine, Job, Refusing, Sound, SoundAsync, checked
from flowcheck_reference.isolation import Service
from flowcheck_reference.subject import Reference
from flowcheck_reference.subject import _Service as ReferenceService
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.protocols import Adapter, Inexpressible, Refused
from pytest_flowcheck.rules import rules_of
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.suites import isolation

RULES = {rule.id: rule for rule in rules_of(isolation)}
KEPT = {Verdict.PASS, Verdict.NOT_CLAIMED}


def loaded(adapter: type[Any], backend: str = "asyncio") -> subjects.Subject:
    return replace(subjects.first_probe(subjects.load(f"{adapter.__module__}:{adapter.__qualname__}")), backend=backend)


def judged(rule: str, adapter: type[Any], backend: str = "asyncio", *, thorough: bool = True) -> Finding:
    return judge(RULES[rule], loaded(adapter, backend), fresh_harness(), patience=15.0, uncaught=[], thorough=thorough)


# --- services of other builds that do nothing wrong -------------------------------------------------------------------


class Dispatched:
    """Workers that are always there, fed from a `queue.Queue`: the plainest service there is."""

    def __init__(self, bound: int) -> None:
        self.jobs: queue.Queue[Job | None] = queue.Queue()
        self.failed: dict[str, BaseException] = {}
        self.accepted = self.begun = 0
        self.threads = [threading.Thread(target=self.work, name=f"worker {i}", daemon=True) for i in range(bound)]
        for thread in self.threads:
            thread.start()

    def work(self) -> None:
        while (job := self.jobs.get()) is not None:
            self.begun += 1
            if not job.over.set_running_or_notify_cancel():
                continue
            try:
                value = job.body()
            except BaseException as error:
                self.failed[job.session] = error
                job.over.set_exception(error)
            else:
                job.over.set_result(value)

    def put(self, body: Any, session: str) -> Future[Any]:
        job = Job(body, session)
        self.accepted += 1
        self.jobs.put(job)
        return job.over

    def run(self, body: Any, *, session: str, then: Sequence[Any] = ()) -> object:
        return self.put(body, session).result()

    def start(self, body: Any, *, session: str) -> None:
        self.put(body, session)

    def report(self, *, session: str) -> object:
        return self.failed.get(session)

    def short_op(self, *, session: str) -> object:
        return session

    def queued(self) -> int:
        return self.jobs.qsize()

    def cancel(self, *, session: str) -> None:
        raise Inexpressible("what was accepted is done")


class ByQueue(Adapter):
    """Failures are asked for; nothing can be cancelled."""

    name = "by-queue"
    version = "1"
    claims = {"isolation": {"threads"}}

    @contextmanager
    def isolation(self, *, max_concurrent_runs: int, limit: float | None = None) -> Iterator[Any]:
        service = Dispatched(checked(max_concurrent_runs))
        try:
            yield service
        finally:
            for _ in service.threads:
                service.jobs.put(None)


class OnTheLoop:
    """Runs are coroutines of the caller's loop, and cancelled as such."""

    def __init__(self, tasks: Any, bound: int) -> None:
        import anyio

        self.tasks, self.bound, self.slots = tasks, bound, anyio.Semaphore(bound)
        self.scopes: dict[str, Any] = {}
        self.failures: dict[str, BaseException] = {}

    async def run(self, body: Any, *, session: str, then: Sequence[Any] = ()) -> object:
        import anyio

        with anyio.CancelScope() as self.scopes[session]:
            async with self.slots:
                value = await body.aio()
                if then:
                    async with anyio.create_task_group() as parts:
                        for part in then:
                            parts.start_soon(part.aio)
                return value
        return None

    async def start(self, body: Any, *, session: str) -> None:
        self.tasks.start_soon(self.alone, body, session)

    async def alone(self, body: Any, session: str) -> None:
        try:
            await self.run(body, session=session)
        except Exception as error:
            self.failures[session] = error

    async def report(self, *, session: str) -> object:
        return self.failures.get(session)

    async def short_op(self, *, session: str) -> object:
        return session

    def queued(self) -> int:
        return self.slots.statistics().tasks_waiting

    def cancel(self, *, session: str) -> None:
        self.scopes[session].cancel()


class Coroutines(Adapter):
    """No thread anywhere."""

    name = "coroutines"
    version = "1"
    claims = {"isolation": {"nested"}}
    backends = ("asyncio", "trio")

    @asynccontextmanager
    async def isolation(self, *, max_concurrent_runs: int, limit: float | None = None) -> AsyncIterator[Any]:
        import anyio

        bound = checked(max_concurrent_runs)
        async with anyio.create_task_group() as tasks:
            yield OnTheLoop(tasks, bound)
            tasks.cancel_scope.cancel()


class ReferenceRefuses(Reference):
    """The reference service without a queue."""

    claims = {"isolation": Reference.claims["isolation"]}
    declares = {"isolation": {"overflow": "refuse"}}

    @contextmanager
    def isolation(
        self, *, max_concurrent_runs: int | None, limit: float | None = None, admit: Any = None
    ) -> Iterator[Any]:
        bound = 1 if max_concurrent_runs is None else max_concurrent_runs
        with Service(bound, queue=0, limit=10.0 if limit is None else limit, admit=admit) as service:
            yield ReferenceService(service)


@pytest.mark.parametrize(
    ("adapter", "backend"),
    [
        (ReferenceRefuses, "asyncio"),
        (ByQueue, "asyncio"),
        (Refusing, "asyncio"),
        (Coroutines, "asyncio"),
        (Coroutines, "trio"),
    ],
)
def test_a_service_of_another_build_is_not_accused(adapter: type[Any], backend: str) -> None:
    """It keeps every rule that it is held to; of what it has no words for it is not accused either."""
    allowed = {*KEPT, Verdict.NOT_TESTABLE} if adapter is ByQueue else KEPT
    wrong = {
        finding.rule: finding.message
        for finding in (judged(rule, adapter, backend, thorough=False) for rule in RULES)
        if finding.verdict not in allowed
    }
    assert wrong == {}


@pytest.mark.parametrize("adapter", [Sound, SoundAsync])
def test_the_sound_services_keep_every_rule(adapter: type[Any]) -> None:
    """What the broken ones start from does nothing wrong."""
    blocking = {"ISO-09"} if adapter is Sound else set[str]()
    wrong = {
        rule: finding.message
        for rule in RULES
        if (finding := judged(rule, adapter)).verdict is not (Verdict.NOT_CLAIMED if rule in blocking else Verdict.PASS)
    }
    assert wrong == {}


def test_what_cannot_be_expressed_is_not_judged() -> None:
    """Who has no cancel is NOT-TESTABLE where that is the question, in his own words, and judged where it is a part of it."""
    finding = judged("ISO-14", ByQueue)
    assert finding.verdict is Verdict.NOT_TESTABLE
    assert "what was accepted is done" in finding.message
    assert judged("ISO-13", ByQueue).verdict is Verdict.PASS


class WaitsForIt(Coroutines):
    """Cancel awaits the end of the coroutine, which may heed nobody."""

    @asynccontextmanager
    async def isolation(self, *, max_concurrent_runs: int, limit: float | None = None) -> AsyncIterator[Any]:
        import anyio

        async with anyio.create_task_group() as tasks:
            yield Waiting(tasks, max_concurrent_runs)
            tasks.cancel_scope.cancel()


class Waiting(OnTheLoop):
    async def run(self, body: Any, *, session: str, then: Sequence[Any] = ()) -> object:
        import anyio

        self.over = anyio.Event()
        try:
            return await body.aio()
        finally:
            self.over.set()

    async def cancel(self, *, session: str) -> None:  # type: ignore[override]
        await self.over.wait()


@pytest.mark.parametrize("backend", WaitsForIt.backends)
def test_a_coroutine_that_heeds_nobody_is_stuck(backend: str) -> None:
    """So cancel must not wait for coroutines either."""
    assert judged("ISO-14", WaitsForIt, backend).verdict is Verdict.HUNG


# --- more that is wrong -----------------------------------------------------------------------------------------------


class NoStart(Sound):
    """The adapter forgot a method."""

    @contextmanager
    def isolation(self, **options: Any) -> Iterator[Any]:  # type: ignore[override]
        with super().isolation(**options) as engine:
            yield OnlyRuns(engine)


class OnlyRuns:
    def __init__(self, engine: Engine) -> None:
        self.run, self.short_op, self.queued = engine.run, engine.short_op, engine.queued


class OwnError(Sound):
    """The bound is refused with an error of its own, that no table has."""

    class Service(Engine):
        def check(self, bound: Any) -> int:
            if isinstance(bound, int) and bound > 0:
                return bound
            raise KeyError(bound)


class RefusesTheOthers(Refusing):
    """Full, it refuses; and never takes anybody again."""

    class Service(Engine):
        was_full = False

        def full(self, job: Job) -> None:
            self.was_full = True
            super().full(job)

        def enter(self, job: Job) -> None:
            if self.was_full:
                raise Refused("it was full once")
            super().enter(job)


class LostInTheQueue(Sound):
    """The last one in the queue is forgotten when there are many."""

    class Service(Engine):
        def full(self, job: Job) -> None:
            if len(self.waiting) < 2:
                super().full(job)


class ForgetsThem(SoundAsync):
    """A caller that is cancelled while he waits keeps his place, and gets the slot."""

    class Service(AsyncEngine):
        def lost(self, entry: Any) -> None:
            self.running += 1 if entry in self.waiting else 0


@pytest.mark.parametrize(
    ("adapter", "rule", "verdict", "told"),
    [
        (NoStart, "ISO-12", Verdict.ADAPTER_ERROR, "the service has no method 'start'"),
        (OwnError, "ISO-11", Verdict.VIOLATED, "opening with max_concurrent_runs=0 raised KeyError(0)"),
        (RefusesTheOthers, "ISO-03", Verdict.VIOLATED, "once a slot is free, run(later) raised Refused"),
        (LostInTheQueue, "ISO-03", Verdict.VIOLATED, "queued() says 2; asked for and not in flight are 3"),
        (
            ForgetsThem,
            "ISO-13",
            Verdict.VIOLATED,
            "after a run that waited was cancelled by its caller, the run 'new run",
        ),
    ],
)
def test_it_is_found(adapter: type[Any], rule: str, verdict: Verdict, told: str) -> None:
    """And told in words that say what happened."""
    finding = judged(rule, adapter)
    assert finding.verdict is verdict, finding.message
    assert told in finding.message


@pytest.mark.parametrize(
    ("adapter", "rule", "told"),
    [
        (beside.OnTheDefaultExecutor, "ISO-01", "short_op() comes back while every slot is taken by a stuck run"),
        (beside.PartsInTheRunsPool, "ISO-04", "when all slots are taken by runs that work in parallel"),
        (loops.InterruptsUnderTheLock, "ISO-09", "a turn of the loop comes back while a stuck run is cancelled"),
        (loops.CancelWaitsForTheEnd, "ISO-14", "cancel(stuck) comes back the first time, while the run is stuck"),
        (ending.LeavingWaits, "ISO-05", "leaving the service comes back while two runs are stuck"),
        (bounds.SilentlyQueued, "ISO-03", "a run beyond the bound is refused while all slots are stuck"),
    ],
)
def test_a_hang_is_proven_and_says_who_waits(adapter: type[Any], rule: str, told: str) -> None:
    """Not by a clock: the list of waits is the kernel's."""
    finding = judged(rule, adapter)
    assert finding.verdict is Verdict.HUNG, finding.message
    assert finding.grade == "proven"
    assert told in finding.message
    assert "every thread of the process tree" in finding.message


@pytest.mark.parametrize(
    ("adapter", "rule", "told"),
    [
        (bounds.CheckThenAct, "ISO-02", "4 runs are in flight: run admitted 1, run admitted 2"),
        (bounds.LastComeFirst, "ISO-03", "of those that waited there were started fifth"),
        (bounds.NobodyHears, "ISO-12", "there is no report()"),
        (ending.GivenBackTwice, "ISO-13", "is in flight beside run(busy before cancel())"),
        (ending.ThreadsBeforeEntering, "ISO-05", "made and not entered has the threads 'dispatcher'"),
        (sessions.OneForTheProcess, "ISO-08", "the run 'of another service' is in flight"),
    ],
)
def test_a_violation_tells_the_facts(adapter: type[Any], rule: str, told: str) -> None:
    """Names and numbers."""
    finding = judged(rule, adapter)
    assert finding.verdict is Verdict.VIOLATED, finding.message
    assert told in finding.message


def test_the_protocol_starts_nothing() -> None:
    """An adapter pays for no event loop by naming the protocol."""
    code = "import sys, pytest_flowcheck.protocols.isolation; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
