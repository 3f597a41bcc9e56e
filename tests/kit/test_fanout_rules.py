"""The fan-out's rules: sound engines of other builds keep them, and what a failure prints is true and of use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import replace
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from bystanders import fresh_harness
from scripting import ran, shows

from flowcheck_reference.broken.fanout import _sound, halting, machine, order
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.protocols import Adapter, Inexpressible, Ok
from pytest_flowcheck.rules import rules_of
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.suites import fanout
from pytest_flowcheck.suites.fanout._play import Scenario, acceptable, forced, table

RULES = {rule.id: rule for rule in rules_of(fanout)}
KEPT = {Verdict.PASS, Verdict.NOT_CLAIMED}


def loaded(adapter: type[Any], backend: str = "asyncio") -> subjects.Subject:
    return replace(subjects.first_probe(subjects.load(f"{adapter.__module__}:{adapter.__qualname__}")), backend=backend)


def judged(rule: str, adapter: type[Any], backend: str = "asyncio") -> Finding:
    return judge(RULES[rule], loaded(adapter, backend), fresh_harness(), patience=15.0, uncaught=[])


# --- engines of other builds that do nothing wrong --------------------------------------------------------------------


class Groups(_sound.SoundAsync):
    """Whatever escapes comes in a group, as declared."""

    declares = {"fanout": {"escape": "group"}}

    class Fanout(_sound.AsyncEngine):
        def error(self, run: _sound.Run) -> BaseException:
            return BaseExceptionGroup("the fan-out failed", [run.escaped[i] for i in sorted(run.escaped)])


class Window:
    """The usual sliding window over an executor: `wait(FIRST_COMPLETED)` and one more."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    def run(self, body: Any, items: Any, *, max_concurrency: Any, continue_on_error: bool = False) -> list[Ok[Any]]:
        bound = int(max_concurrency)
        if bound < 1:
            raise ValueError("max_concurrency must be at least 1")
        source, futures = iter(items), list[Future[Any]]()
        waiting: set[Future[Any]] = set()
        try:
            while True:
                for item in islice(source, bound - len(waiting)):
                    futures.append(self.submit(body, item))
                    waiting.add(futures[-1])
                if not waiting:
                    return [Ok(future.result()) for future in futures]
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        finally:
            wait(waiting)

    def submit(self, body: Any, item: Any) -> Future[Any]:
        return self.executor.submit(body, item)


class InThreads(Adapter):
    """A thread pool's window."""

    name = "in-threads"
    version = "1"
    claims = {"fanout": frozenset({"lazy", "context"})}

    @contextmanager
    def fanout(self) -> Iterator[Any]:
        class InContext(Window):
            def submit(self, body: Any, item: Any) -> Future[Any]:
                return self.executor.submit(copy_context().run, body, item)

        with ThreadPoolExecutor(16) as pool:
            yield InContext(pool)


class InProcesses(Adapter):
    """A process pool's window."""

    name = "in-processes"
    version = "1"
    claims = {"fanout": frozenset({"lazy"})}

    @contextmanager
    def fanout(self) -> Iterator[Any]:
        with ProcessPoolExecutor(4, get_context("fork")) as pool:
            yield Window(pool)


class OnThreadsOfALoop(Adapter):
    """Awaited, but its items are plain calls on threads: what was begun is waited for, not cancelled."""

    name = "on-threads-of-a-loop"
    version = "1"
    claims = {"fanout": frozenset({"context", "nested"})}

    @asynccontextmanager
    async def fanout(self) -> AsyncIterator[Any]:
        yield self

    async def run(self, body: Any, items: Any, *, max_concurrency: Any, continue_on_error: bool = False) -> Any:
        if not isinstance(max_concurrency, int) or max_concurrency < 1:
            raise TypeError("max_concurrency must be a positive int")
        slots, over = asyncio.Semaphore(max_concurrency), list[BaseException]()

        async def one(item: Any) -> Any:
            async with slots:
                if over:
                    return None
                call = asyncio.ensure_future(asyncio.to_thread(body, item))
                try:
                    return await asyncio.shield(call)
                except asyncio.CancelledError as error:
                    over.append(error)
                    await asyncio.wait([call])
                    raise
                except BaseException as error:
                    over.append(error)
                    raise

        tasks = [asyncio.ensure_future(one(item)) for item in items]
        try:
            values = await asyncio.gather(*tasks, return_exceptions=True)
        except asyncio.CancelledError:
            await asyncio.wait(tasks)
            raise
        errors = [value for value in values if isinstance(value, BaseException)]
        for error in errors[1:]:
            errors[0].add_note(str(error))
        if errors:
            raise errors[0]
        return [Ok(value) for value in values]


SOUND: list[tuple[type[Any], str]] = [
    (_sound.Sound, "asyncio"),
    (_sound.SoundAsync, "asyncio"),
    (_sound.SoundAsync, "trio"),
    (Groups, "asyncio"),
    (Groups, "trio"),
    (InThreads, "asyncio"),
    (InProcesses, "asyncio"),
    (OnThreadsOfALoop, "asyncio"),
]

EXCEPTIONS = {
    (InThreads, "FAN-05"): "int(inf) overflows",
    (InThreads, "FAN-28"): "of several errors it raises the first that it comes across",
    (InProcesses, "FAN-05"): "int(inf) overflows",
    (InProcesses, "FAN-28"): "of several errors it raises the first that it comes across",
    (InProcesses, "FAN-11"): "a pool's worker dies of what is no Exception",
}


@pytest.mark.parametrize(("adapter", "backend"), SOUND, ids=lambda value: getattr(value, "__name__", value))
def test_no_sound_engine_is_accused(adapter: type[Any], backend: str) -> None:
    """Engines that are built differently, threads, tasks and processes, keep what they claim."""
    for rule in RULES:
        finding = judged(rule, adapter, backend)
        if finding.verdict is Verdict.NOT_TESTABLE:
            assert rule == "FAN-25" or (rule, adapter) == ("FAN-14", OnThreadsOfALoop), finding.message
            continue
        if (adapter, rule) not in EXCEPTIONS:
            assert finding.verdict in KEPT, f"{adapter.__name__}: {finding.message}"


# --- the model --------------------------------------------------------------------------------------------------------


def scenario(bound: int, *acts: Any, keep_going: bool = False, picks: tuple[int, ...] = (0,) * 6) -> Scenario:
    return Scenario(bound, acts, keep_going, picks)


def test_the_model_refills_the_window_until_something_stops_it() -> None:
    """A window of two over five items, the second of which halts at once: item 2 is never begun."""
    steps = forced(scenario(2, "ok", "failed", "ok", "ok", "ok", picks=(1, 0, 0, 0, 0, 0)))
    assert [(step.in_flight, step.item, step.after_stop) for step in steps] == [(2, 1, False), (1, 0, True)]
    assert [step.item for step in forced(scenario(2, "ok", "ok", "ok", picks=(1, 1, 0, 0, 0, 0)))] == [1, 2, 0]


def test_the_model_knows_a_window_that_the_first_item_holds_up() -> None:
    """Item 2 has no room until item 0 has ended: what FAN-04 accuses, the other rules play with."""
    drawn = scenario(2, "ok", "ok", "ok", "ok", picks=(1, 0, 1, 0, 0, 0))._replace(conserving=False)
    assert [(step.in_flight, step.item) for step in forced(drawn)] == [(2, 1), (1, 0), (2, 3), (1, 2)]


@pytest.mark.parametrize(
    ("drawn", "right"),
    [
        (scenario(3, "ok", "ok"), ["item(0); item(1)"]),
        (scenario(3, "ok", "paused", "failed"), ["item(0); Failed"]),
        (scenario(3, "ok", "failed", "ok", keep_going=True), ["item(0); Failed; item(2)"]),
        (scenario(3, "failed", "raises"), ["Failed", "raises item(1) failed"]),
        (scenario(3, "raises", "failed"), ["raises item(0) failed"]),
        (scenario(1, "failed", "raises"), ["Failed"]),
    ],
)
def test_the_model_says_what_a_sequential_run_gives(drawn: Scenario, right: list[str]) -> None:
    """An escape in front of a halt is raised; behind it, where a sequential run never came, both ends are right."""
    assert acceptable(drawn) == right


def test_a_scenario_reads_as_a_table() -> None:
    """Who does what, who completes when, and who never starts."""
    assert table(scenario(2, "ok", "failed", "ok", picks=(1, 0, 0, 0, 0, 0))).splitlines() == [
        "max_concurrency=2, 3 items",
        "item  does     completes as",
        "   0  returns  no. 2",
        "   1  failed   no. 1",
        "   2  returns  (never starts)",
    ]


# --- what is printed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "broken", "backend"),
    [
        ("FAN-01", order.ResultsAsCompleted, "asyncio"),
        ("FAN-15", halting.HaltedByTheFirstToCome, "asyncio"),
        ("FAN-08", halting.TellsWhateverWasDone, "asyncio"),
        ("FAN-15", machine.AnEscapeHidesTheHaltBeforeIt, "trio"),
    ],
)
def test_the_script_shows_the_same_without_pytest(rule: str, broken: Any, backend: str, tmp_path: Path) -> None:
    """The printed program fails on the broken engine, and on the sound one it ends well."""
    finding = judged(rule, broken, backend)
    assert finding.verdict is Verdict.VIOLATED, finding.message
    text = str(finding.evidence["script"])
    assert all(line in finding.message for line in (f"    {row}".rstrip() for row in text.splitlines()))
    sound = _sound.SoundAsync if issubclass(broken, _sound.SoundAsync) else _sound.Sound
    assert shows(text, tmp_path)
    other = f"from {sound.__module__} import {sound.__name__}\n\nsubject = {sound.__name__}()"
    assert ran(text.replace(loaded(broken).source, other), tmp_path) == 0


def test_a_failure_names_items_and_numbers() -> None:
    """A message that one would be glad to receive."""
    message = judged("FAN-07", halting.SubmitsAllUpFront).message
    assert "after failed(1) had halted it (failed), failed(3) started while failed(0) and failed(2)" in message
    assert "Usual cause:" in message


# --- what can't be asked ----------------------------------------------------------------------------------------------


class Typed(_sound.Sound):
    """Its terms know positive whole numbers only."""

    without = frozenset({"coerce"})

    class Fanout(_sound.Engine):
        def bound(self, max_concurrency: Any) -> int:
            if type(max_concurrency) is not int or not 0 < max_concurrency < 100:
                raise Inexpressible(f"max_concurrency={max_concurrency!r}")
            return max_concurrency


class Nameless(_sound.Sound):
    """Records no ids."""

    class Fanout(_sound.Engine):
        def ended(self, run: _sound.Run, index: int, value: Any) -> None:
            run.outcomes[index] = Ok(value)


@pytest.mark.parametrize(("rule", "adapter", "why"), [("FAN-05", Typed, "odd"), ("FAN-25", Nameless, "no ids")])
def test_what_a_subject_has_no_words_for_is_not_testable(rule: str, adapter: type[Any], why: str) -> None:
    """Neither a pass nor an accusation."""
    finding = judged(rule, adapter)
    assert finding.verdict is Verdict.NOT_TESTABLE, finding.message
    assert why in finding.message


class GivesText(Adapter):
    """Its adapter forgets to translate."""

    name = "gives-text"
    version = "1"
    claims = {"fanout": frozenset[str]()}

    def fanout(self) -> Any:
        return nullcontext(self)

    def run(self, body: Any, items: Any, *, max_concurrency: Any, continue_on_error: bool = False) -> Any:
        return [body(item) for item in items]


def test_outcomes_that_are_none_are_the_adapters_fault() -> None:
    """Not a word about the engine behind it."""
    finding = judged("FAN-13", GivesText)
    assert finding.verdict is Verdict.ADAPTER_ERROR
    assert "expected Ok, Failed or Skipped" in finding.message
