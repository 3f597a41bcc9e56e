"""The flow's rules about threads, waiting, close and the loop: sound engines keep them, and what a failure says is of use."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from bystanders import fresh_harness

from flowcheck_reference.broken.flow import _hand, _sound, closing, limits, looping, waiting
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.errors import Inconclusive, Violated
from pytest_flowcheck.probes.lab import Lab
from pytest_flowcheck.proof import Sighting, State, Wait
from pytest_flowcheck.protocols.flow import Graph, Run
from pytest_flowcheck.rules import find_rules, rules_of
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.suites import flow
from pytest_flowcheck.suites.flow import closing as suites_closing
from pytest_flowcheck.suites.flow import waiting as waits
from pytest_flowcheck.suites.flow.looping import was_cancelled

NAMES = ("05", "08", "09", "10", "11", "12", "15", "16", "23", "30", "31", "32", "34", "35", "36")
RULES = {rule.id: rule for rule in find_rules([f"FLO-{name}" for name in NAMES], rules_of(flow))}
KEPT = {Verdict.PASS, Verdict.NOT_CLAIMED}


def judged(rule: str, adapter: type[Any], backend: str = "asyncio") -> Finding:
    subject = subjects.first_probe(subjects.load(f"{adapter.__module__}:{adapter.__qualname__}"))
    claims = {facet: had | subjects.read_off_backend(facet, had, backend) for facet, had in subject.claims.items()}
    subject = replace(subject, backend=backend, claims=claims)
    return judge(RULES[rule], subject, fresh_harness(), patience=15.0, uncaught=[])


# --- engines of other builds that do nothing wrong --------------------------------------------------------------------


class Reopens(_hand.Hand):
    """A run after close opens it again, as declared."""

    declares = {"flow": {"after_close": "reopen"}}

    class Flow(_hand.Engine):
        def lent(self, run: _hand.Running) -> AbstractContextManager[None]:
            if not self.crew.limit:
                self.crew = _hand.Crew(self.limit)
            return super().lent(run)


class Abandons(_hand.HandThreaded):
    """A cancelled run doesn't wait for its blocking nodes, as declared."""

    declares = {"flow": {"cancel": "abandon"}}

    class Flow(_hand.ThreadedEngine):
        abandons = True


class Guarded(_hand.Hand):
    """A watchdog sleeps to a far deadline, and each run waits with one that never comes."""

    class Flow(_hand.Engine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.over = threading.Event()
            self.watchdog = threading.Thread(target=self.over.wait, args=(600,), name="watchdog")
            self.watchdog.start()

        def next(self, run: _hand.Running) -> Any:
            return run.completions.get(timeout=600)

        def close(self) -> None:
            super().close()
            self.over.set()
            self.watchdog.join()


class InTheCallersThread(_hand.Hand):
    """The caller's own thread runs nodes too: one fewer is needed."""

    without = frozenset({"sizing", "resize"})

    class Flow(_hand.Engine):
        def hand_out(self, run: _hand.Running, node: Any, upstream: Mapping[str, Any]) -> None:
            if run.out == run.limit or (run.out == 1 and not run.ready):
                run.completions.put((node.id, self.work(run, node, upstream)))
            else:
                super().hand_out(run, node, upstream)


SOUND: tuple[tuple[type[Any], str], ...] = (
    (_hand.Hand, "asyncio"),
    (_hand.HandAsync, "asyncio"),
    (_hand.HandAsync, "trio"),
    (_hand.HandThreaded, "asyncio"),
    (_sound.SoundAsync, "asyncio"),
)
"""`_sound.Sound` and `_sound.SoundBothWays` are judged by all rules in `test_flow_rules`."""


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("adapter", "backend"), SOUND, ids=[f"{a.__name__}-{b}" for a, b in SOUND])
def test_sound_engines_keep_every_rule(adapter: type[Any], backend: str, rule: str) -> None:
    """Engines of four builds, on threads and loops, are accused of nothing."""
    if backend == "trio":
        pytest.importorskip("trio")
    finding = judged(rule, adapter, backend)
    assert finding.verdict in KEPT, finding.message


@pytest.mark.parametrize(
    ("adapter", "rule"),
    [
        (Reopens, "FLO-10"),
        (Abandons, "FLO-23"),
        (Abandons, "FLO-32"),
        (Guarded, "FLO-10"),
        (Guarded, "FLO-11"),
        (Guarded, "FLO-12"),
        (InTheCallersThread, "FLO-05"),
        (InTheCallersThread, "FLO-35"),
        (InTheCallersThread, "FLO-36"),
    ],
)
def test_engines_of_other_habits_are_accused_of_nothing(adapter: type[Any], rule: str) -> None:
    """What is declared is right; a far deadline is no polling, nor is the caller's thread one too many."""
    finding = judged(rule, adapter)
    assert finding.verdict in KEPT, finding.message


class SaysNothing(_hand.Hand):
    """Declares to reopen, and doesn't."""

    declares = {"flow": {"after_close": "reopen"}}


class WaitsThough(_hand.HandThreaded):
    """Declares to abandon, and waits."""

    declares = {"flow": {"cancel": "abandon"}}


class Both(_hand.Hand):
    """A run that failed is told without an error."""

    class Flow(_hand.Engine):
        def close(self) -> None:
            self.closed = True
            super().close()

        def run(self, graph: Graph, input: Any = None, *, max_workers: int | None = None) -> Run:  # noqa: A002
            run = super().run(graph, input, max_workers=max_workers)
            return Run("failed") if hasattr(self, "closed") else run

    variables: ClassVar[Mapping[str, str]] = {}


@pytest.mark.parametrize(("adapter", "rule"), [(SaysNothing, "FLO-10"), (WaitsThough, "FLO-23"), (Both, "FLO-36")])
def test_what_is_declared_is_asked_for(adapter: type[Any], rule: str) -> None:
    """A declaration excuses the other behaviour, and obliges to this one; a failure must have an error."""
    assert judged(rule, adapter).verdict.broken


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "adapter", "words"),
    [
        ("FLO-05", limits.PoolPerRun, ["12 runs", "at most max_workers=2, in all"]),
        ("FLO-09", limits.InvalidLiteral, ["HAND_MAX_WORKERS='many'", "invalid literal", "names its source"]),
        ("FLO-10", closing.LeavesItsThreads, ["3 engines were opened", "close() has returned", "'hand "]),
        ("FLO-11", waiting.LooksEveryThreeMilliseconds, ["behind node", "clock_nanosleep", "waiting.py"]),
        ("FLO-12", waiting.WakesUpToLook, ["left a processor", "caller: run", "waiting.py"]),
        ("FLO-16", closing.RemembersEveryRun, ["4 times 245 runs", "inputs and outputs"]),
        ("FLO-23", looping.SwallowsTheCancellation, ["returned cancelled", "the cancellation goes through"]),
        ("FLO-34", limits.TheOldPoolIsForgotten, ["max_workers=3, 1, 4, 5", "more threads", "the largest limit"]),
        ("FLO-36", closing.CloseSendsTheWorkersHome, ["the run under way", "wait"]),
    ],
)
def test_a_failure_says_what_was_seen(rule: str, adapter: type[Any], words: list[str]) -> None:
    """Numbers, names, and where the engine was."""
    finding = judged(rule, adapter)
    assert finding.verdict.broken, finding.message
    missing = [word for word in words if word not in finding.message]
    assert not missing, f"{missing} not in:\n{finding.message}"


# --- the parts ----------------------------------------------------------------------------------------------------------


OURS, THEIRS = (1, 10), (1, 11)


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ({THEIRS: "timed"}, True),
        ({THEIRS: "timed", OURS: "external"}, True),
        ({OURS: "timed", THEIRS: "untimed"}, False),
        ({THEIRS: "timed", OURS: "running"}, False),
        ({THEIRS: "timed", (1, 12): "running"}, False),
        ({THEIRS: "timed", (1, 12): "external"}, False),
        ({THEIRS: "timed", (1, 12): "blind"}, False),
    ],
)
def test_only_a_clock_could_go_on(kinds: dict[tuple[int, int], Any], found: bool) -> None:
    """A moment is no finding while anybody runs, the kit's threads included, or while an outsider may help."""
    seen = Sighting(State.TIMERS, tuple(Wait(*key, kind, "") for key, kind in kinds.items()), "")
    assert bool(waits.only_clocks(seen, {OURS})) is found


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [
        ([500, 500, 500, 500], Violated),
        ([900, 300, 310, 290], Violated),  # a first use, and then as much for each run
        ([49_038, 21_757, 17_093, 12_593], Inconclusive),  # a cluster's histories, which have room for more than these runs
        ([900, 100, 0, 30], None),
    ],
)
def test_what_fills_up_is_no_leak(steps: list[int], verdict: type[Exception] | None) -> None:
    """Growth that becomes less and less shows nothing (FLO-16)."""
    lab = Lab(subjects.load("stdlib-threads"))
    with pytest.raises(verdict) if verdict is not None else nullcontext():
        suites_closing.is_no_leak(lab, "the blocks of memory", steps, 245)


def test_a_group_of_cancellations_is_one() -> None:
    """trio and anyio may raise several at once; one error among them is a failure."""
    import asyncio

    cancelled = asyncio.CancelledError()
    assert was_cancelled(cancelled)
    assert was_cancelled(BaseExceptionGroup("all", [cancelled, BaseExceptionGroup("inner", [cancelled])]))
    assert not was_cancelled(BaseExceptionGroup("some", [cancelled, ValueError()]))
    assert not was_cancelled(None)
