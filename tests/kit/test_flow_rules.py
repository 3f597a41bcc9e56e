"""The flow's rules: sound engines of other builds keep them, and what a failure prints is true and of use."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from graphlib import TopologicalSorter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from bystanders import fresh_harness
from scripting import ran, shows

from flowcheck_reference.broken.flow import _sound, after, attempts, beside, failing, order, refusing, scale, waiting
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.proof import Observer, State
from pytest_flowcheck.protocols import Adapter, Closed, Inexpressible, Invalid
from pytest_flowcheck.protocols.flow import Graph, Node, Run
from pytest_flowcheck.rules import rules_of
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.suites import flow
from pytest_flowcheck.suites.flow._play import Scenario, Step, model, table
from pytest_flowcheck.suites.flow._script import program
from pytest_flowcheck.suites.flow.waiting import Sleepers

RULES = {rule.id: rule for rule in rules_of(flow)}
WHAT_RUNS = ["01", "02", "03", "04", "06", "07", "13", "14", "17", "18", "20", "21", "22", "29", "33", "37", "38"]
"""The rules that are tried on engines made for this module; those about threads and closing are in the other one."""


def loaded(adapter: type[Any], backend: str = "asyncio") -> subjects.Subject:
    return replace(subjects.first_probe(subjects.load(f"{adapter.__module__}:{adapter.__qualname__}")), backend=backend)


def judged(rule: str, adapter: type[Any], backend: str = "asyncio", *, thorough: bool = True) -> Finding:
    subject, harness = loaded(adapter, backend), fresh_harness()
    return judge(RULES[rule], subject, harness, patience=15.0, uncaught=[], thorough=thorough)


# --- engines that do nothing wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "backend"),
    [(_sound.Sound, "asyncio"), (_sound.SoundBothWays, "asyncio"), (_sound.SoundBothWays, "trio")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_sound_engines_keep_every_rule(adapter: type[Any], backend: str) -> None:
    """What the broken ones start from: whatever breaks there is broken by the one thing that they change."""
    for rule in RULES:
        finding = judged(rule, adapter, backend)
        assert finding.verdict in {Verdict.PASS, Verdict.NOT_CLAIMED}, f"{adapter.__name__}: {finding.message}"


def checked(graph: Graph) -> dict[str, Node]:
    nodes = {node.id: node for node in graph.nodes}
    if len(nodes) < len(graph.nodes):
        raise Inexpressible("a graph is a dict of nodes")
    if unknown := {need for node in graph.nodes for need in node.needs} - set(nodes):
        raise Invalid(f"unknown: {sorted(unknown)}")
    return nodes


class Sorted:
    """`graphlib` over an executor, as the standard library's documentation has it: stops at the first error, tells no more."""

    def __init__(self, pool: Executor, workers: int) -> None:
        self.pool, self.workers, self.closed = pool, workers, False

    def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
        if self.closed:
            raise Closed("closed")
        nodes = checked(graph)
        sorter: TopologicalSorter[str] = TopologicalSorter({id_: node.needs for id_, node in nodes.items()})
        sorter.prepare()  # raises CycleError, which is a ValueError and holds the nodes
        outputs: dict[str, Any] = {}
        ready: list[str] = []
        running: dict[Future[Any], str] = {}
        try:
            while sorter.is_active():
                ready += sorter.get_ready()
                while ready and len(running) < self.workers:
                    id_ = ready.pop()
                    upstream = {need: outputs[need] for need in nodes[id_].needs}
                    running[self.pool.submit(nodes[id_].body, input, upstream)] = id_
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    id_ = running.pop(future)
                    outputs[id_] = future.result()
                    sorter.done(id_)
        except BaseException as error:
            wait(running)
            return Run("failed", error=error)
        return Run("completed")

    def close(self) -> None:
        self.closed = True


class ByHand(Adapter):
    """On threads."""

    name = "by-hand"
    version = "1"
    claims = {"flow": frozenset[str]()}

    @contextmanager
    def flow(self, *, max_workers: int) -> Iterator[Any]:
        with ThreadPoolExecutor(max_workers) as pool:
            yield Sorted(pool, max_workers)


class InProcesses(ByHand):
    """On processes: everything is pickled, errors lose their identity."""

    @contextmanager
    def flow(self, *, max_workers: int) -> Iterator[Any]:
        with ProcessPoolExecutor(max_workers, get_context("fork")) as pool:
            yield Sorted(pool, max_workers)


class OneAtATime(ByHand):
    """Its runs wait for each other."""

    @contextmanager
    def flow(self, *, max_workers: int) -> Iterator[Any]:
        class Waits(Sorted):
            turn = threading.Lock()

            def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
                with self.turn:
                    return super().run(graph, input)

        with ThreadPoolExecutor(max_workers) as pool:
            yield Waits(pool, max_workers)


class InAGroup(Adapter):
    """A task for each node in one `TaskGroup`: the first error cancels all others, and comes in a group."""

    name = "in-a-group"
    version = "1"
    claims = {"flow": frozenset({"context"})}

    @asynccontextmanager
    async def flow(self, *, max_workers: int) -> AsyncIterator[Any]:
        yield Group(max_workers)


class Group:
    def __init__(self, workers: int) -> None:
        self.workers = workers

    async def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
        nodes = checked(graph)
        sorter: TopologicalSorter[str] = TopologicalSorter({id_: node.needs for id_, node in nodes.items()})
        sorter.prepare()
        slots = asyncio.Semaphore(self.workers)
        outputs: dict[str, Any] = {}

        async def work(id_: str) -> None:
            async with slots:
                upstream = {need: outputs[need] for need in nodes[id_].needs}
                outputs[id_] = await nodes[id_].body.aio(input, upstream)
            sorter.done(id_)
            advance()

        def advance() -> None:
            for id_ in sorter.get_ready():
                group.create_task(work(id_))

        try:
            async with asyncio.TaskGroup() as group:
                advance()
        except Exception as error:
            return Run("failed", error=error)
        return Run("completed")


EXCEPTIONS = {
    (OneAtATime, "FLO-37"): "a run inside a run waits for it",
    (ByHand, "FLO-37"): "its workers wait for each other when nested",
}


@pytest.mark.parametrize("adapter", [ByHand, InProcesses, OneAtATime, InAGroup])
def test_no_engine_of_another_build_is_accused(adapter: type[Any]) -> None:
    """Fail-fast ones that tell of no node, one in processes, one whose runs wait for each other."""
    for rule in [f"FLO-{number}" for number in WHAT_RUNS]:
        if (adapter, rule) in EXCEPTIONS:
            continue
        finding = judged(rule, adapter, thorough=adapter is not InProcesses)  # there each example starts processes
        kept = {Verdict.PASS, Verdict.NOT_CLAIMED}
        if rule in {"FLO-06", "FLO-14", "FLO-33", "FLO-37"}:
            kept.add(Verdict.NOT_TESTABLE)
        assert finding.verdict in kept, f"{adapter.__name__}: {finding.message}"


def test_runs_that_wait_for_each_other_are_not_testable() -> None:
    """Neither a pass nor an accusation."""
    finding = judged("FLO-06", OneAtATime)
    assert finding.verdict is Verdict.NOT_TESTABLE, finding.message
    assert "wait for each other" in finding.message


class Raises(ByHand):
    """Its adapter forgets to translate."""

    @contextmanager
    def flow(self, *, max_workers: int) -> Iterator[Any]:
        class Bare(Sorted):
            def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
                if (error := super().run(graph, input).error) is not None:
                    raise error
                return Run("completed")

        with ThreadPoolExecutor(max_workers) as pool:
            yield Bare(pool, max_workers)


def test_a_nodes_error_that_is_raised_is_the_adapters_fault() -> None:
    """The protocol asks for a Run; not a word about the engine behind it."""
    finding = judged("FLO-03", Raises)
    assert finding.verdict is Verdict.ADAPTER_ERROR
    assert "expected a Run('failed', ..., error=...)" in finding.message


class Gives(ByHand):
    """Its `run` gives this instead of a Run."""

    given: Any = None

    @contextmanager
    def flow(self, *, max_workers: int) -> Iterator[Any]:
        given = self.given

        class Other(Sorted):
            def run(self, graph: Graph, input: Any = None) -> Any:  # noqa: A002 - the protocol's
                super().run(graph, input)
                return given

        with ThreadPoolExecutor(max_workers) as pool:
            yield Other(pool, max_workers)


class GivesWords(Gives):
    """The outcomes alone."""

    given = {"ok": 1}


@pytest.mark.parametrize("adapter", [Gives, GivesWords])
@pytest.mark.parametrize("rule", ["FLO-01", "FLO-04", "FLO-10", "FLO-16", "FLO-18", "FLO-33", "FLO-36"])
def test_what_is_no_run_is_the_adapters_fault(rule: str, adapter: type[Gives]) -> None:
    """Said by every rule that looks at what `run` gave, in the same words."""
    finding = judged(rule, adapter, thorough=False)
    assert finding.verdict is Verdict.ADAPTER_ERROR, finding.message
    assert f"gave {adapter.given!r}; expected Run(status, nodes, error)" in finding.message


# --- the model --------------------------------------------------------------------------------------------------------

DIAMOND = (Step(()), Step((0,), "raises"), Step((0,)), Step((1, 2)), Step((3,)))


def test_the_model_skips_what_depends_on_a_failed_node() -> None:
    """Near and far; the other branch is as it would be."""
    assert model(DIAMOND) == ["ok", "failed", "ok", "skipped", "skipped"]
    assert model(tuple(step._replace(act="returns") for step in DIAMOND)) == ["ok"] * 5


def test_a_scenario_reads_as_a_table() -> None:
    """Who needs whom, who does what, and what becomes of it."""
    assert table(Scenario(2, (DIAMOND[:4],), (1, 0), backwards=True)).splitlines() == [
        "max_workers=2, the graph names its nodes last to first",
        "of those in flight, in order, these end next (modulo how many there are, again and again): no. 1, 0",
        "node  needs       does     expected",
        "n0    -           returns  ok",
        "n1    n0          raises   failed",
        "n2    n0          returns  ok",
        "n3    n1, n2      returns  skipped",
    ]


# --- what is printed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "broken", "backend"),
    [
        ("FLO-01", order.TrustsTheOrderOfTheGraph, "asyncio"),
        ("FLO-01", order.OutputsAsTheyCame, "asyncio"),
        ("FLO-01", order.OutputsAsTheyCame, "trio"),
        ("FLO-02", order.InWaves, "asyncio"),
        ("FLO-06", beside.ResultsOnSelf, "asyncio"),
        ("FLO-06", beside.OneErrorForAll, "asyncio"),
        ("FLO-06", beside.OneErrorForAll, "trio"),
    ],
)
def test_the_script_shows_the_same_without_pytest(rule: str, broken: Any, backend: str, tmp_path: Path) -> None:
    """The printed program fails on the broken engine, and on the sound one it ends well."""
    for _ in range(3):  # on a busy machine a race may shrink to a scenario that needs the kit's own hold on it
        finding = judged(rule, broken, backend)
        assert finding.verdict is Verdict.VIOLATED, finding.message
        text = str(finding.evidence["script"])
        if shows(text, tmp_path):
            break
    else:
        pytest.fail(f"the program shows nothing:\n{text}")
    assert "pytest" not in text.replace("pytest_flowcheck.protocols", "")
    sound = _sound.SoundAsync if issubclass(broken, _sound.SoundAsync) else _sound.Sound
    other = f"from {sound.__module__} import {sound.__name__}\n\nsubject = {sound.__name__}()"
    assert ran(text.replace(loaded(broken).source, other), tmp_path) == 0


def test_the_script_looks_whose_error_a_run_tells(tmp_path: Path) -> None:
    """Both runs fail as they must; but one of them with the other's error."""
    scenario = Scenario(workers=2, dags=((Step((), "raises"),), (Step((), "raises"),)), picks=(0, 0))
    statuses = [dict.fromkeys(["n0"], "failed")] * 2
    for adapter, status in ((beside.OneErrorForAll, 1), (_sound.SoundAsync, 0)):
        source = f"from {adapter.__module__} import {adapter.__name__}\n\nsubject = {adapter.__name__}()"
        text = program(source, loop="asyncio", scenario=scenario, expected=statuses, goes_on=False)
        assert (
            ran(text.replace("bodies[run][node].gate.set()", "[b['n0'].gate.set() for b in bodies]"), tmp_path)
            == status
        )


@pytest.mark.parametrize(
    ("rule", "broken", "facts"),
    [
        ("FLO-02", order.InWaves, "nodes are in flight together: n"),
        (
            "FLO-21",
            order.InWaves,
            "b starts: a is all it needs and is done; slow, which it does not need, is at its gate",
        ),
        ("FLO-03", failing.FailedCountsAsDone, " started although fetch had failed"),
        ("FLO-03", failing.DoesNotSayWhy, "the run says of parse, which never ran: skipped\n"),
        ("FLO-04", refusing.NoticesACircleInTheEnd, "free_one ran, and run of a graph with one node that needs itself"),
        ("FLO-04", refusing.DoesNotSayWhere, "does not name loner"),
        ("FLO-07", after.TheGraphStaysDirty, "the next run of the graph that failed returned failed"),
        ("FLO-17", attempts.TheClockStartsInTheQueue, "although its attempt never started"),
        ("FLO-33", scale.WritesAllStatesEachTime, "times as many"),
    ],
)
def test_a_failure_names_nodes_and_numbers(rule: str, broken: Any, facts: str) -> None:
    """A message that one would be glad to receive."""
    message = judged(rule, broken).message
    assert facts in message, message
    assert "Usual cause:" in message


@pytest.mark.parametrize("broken", [waiting.LooksEveryThreeMilliseconds, waiting.LooksEveryThreeMillisecondsOnTheLoop])
def test_a_polling_quantum_is_found_among_many_idle_threads(broken: Any) -> None:
    """What earlier rules left behind costs no time at a look: a pause of three milliseconds must not be over before it."""
    over = threading.Event()
    idle = [threading.Thread(target=over.wait, daemon=True) for _ in range(150)]
    for thread in idle:
        thread.start()
    try:
        finding = judged("FLO-11", broken)
    finally:
        over.set()
        for thread in idle:
            thread.join()
    assert finding.verdict is Verdict.VIOLATED, finding.message


def test_who_was_not_looked_at_and_ran_is_looked_at_from_then_on() -> None:
    """The counters tell: what was concluded without him is void."""
    turn, over, woke = threading.Event(), threading.Event(), threading.Event()

    def sleeps_twice() -> None:
        turn.wait()
        woke.set()
        over.wait()

    def sleeps() -> None:
        over.wait()

    both = [threading.Thread(target=target, daemon=True) for target in (sleeps_twice, sleeps)]
    for thread in both:
        thread.start()
    keys = [(os.getpid(), thread.native_id or 0) for thread in both]
    observer = Observer()
    while observer.look().state is State.RUNNING:
        pass
    sleepers = Sleepers.at_start()
    try:
        assert set(keys) <= set(sleepers.threads())
        assert not sleepers.woken()
        turn.set()
        woke.wait()
        assert sleepers.woken()
        assert keys[0] not in sleepers.threads()
        assert keys[1] in sleepers.threads()
        assert not sleepers.woken()
    finally:
        over.set()
        for thread in both:
            thread.join()
