"""The rules about saved runs: engines of other builds and on other stores keep them, and what a failure prints is true."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from bystanders import fresh_harness
from resumable import (
    JoinsIn,
    LeaseForSomeTime,
    OnSqlite,
    OnSqliteAsync,
    ReadsThenLocks,
    RowLease,
    RowLeaseInTwoSteps,
    SavesElsewhere,
)

from flowcheck_reference.broken.flow import _kept, resuming, saving
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.probes.lab import Lab
from pytest_flowcheck.probes.nursery import folder
from pytest_flowcheck.proof import Harness
from pytest_flowcheck.rules import Rule, rules_of
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.suites import flow
from pytest_flowcheck.suites.flow._saved import Story, elsewhere

IDS = ["FLO-19", "FLO-24", "FLO-25", "FLO-26", "FLO-27", "FLO-28"]
RULES = {rule.id: rule for rule in rules_of(flow) if rule.id in IDS}


def harness() -> Harness:
    """As `fresh_harness`, but for trio's idle threads, which it keeps for whatever loop comes next."""
    fresh = fresh_harness()
    for thread in threading.enumerate():
        if "trio" in thread.name.lower() and thread.native_id is not None:
            fresh.disown(thread.native_id)
    return fresh


def judged(rule: Rule, adapter: type[Any], backend: str = "asyncio") -> Finding:
    subject = subjects.first_probe(subjects.load(f"{adapter.__module__}:{adapter.__qualname__}"))
    return judge(rule, replace(subject, backend=backend), harness(), patience=15.0, uncaught=[])


# --- engines that do nothing wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("adapter", "backend", "rules"),
    [
        (OnSqlite, "asyncio", IDS),
        (OnSqliteAsync, "asyncio", ["FLO-24"]),
        (RowLease, "asyncio", ["FLO-25"]),
        (_kept.SoundKept, "asyncio", IDS),
        (_kept.SoundKeptAsync, "asyncio", ["FLO-19", "FLO-25", "FLO-26"]),
        (_kept.SoundKeptAsync, "trio", ["FLO-24", "FLO-28"]),
    ],
    ids=["sqlite", "sqlite-async", "row-lease", "journal", "journal-asyncio", "journal-trio"],
)
def test_sound_engines_of_other_builds_are_not_accused(adapter: type[Any], backend: str, rules: list[str]) -> None:
    """On a database, and where each node looks into a journal for itself."""
    for rule in rules:
        finding = judged(RULES[rule], adapter, backend)
        assert finding.verdict is Verdict.PASS, f"{rule}: {finding.message}"


@pytest.mark.parametrize("rule", ["FLO-19", "FLO-24", "FLO-25", "FLO-28"])
def test_a_lease_that_ends_with_time_may_be_declared(rule: str) -> None:
    """No rule waits for it; what it did not see is said."""
    finding = judged(RULES[rule], LeaseForSomeTime)
    assert (finding.verdict, finding.grade) == (Verdict.PASS, "observed"), finding.message
    assert "as declared" in finding.evidence["observed_because"]


def test_who_joins_a_run_overwrites_nothing() -> None:
    """FLO-28 asks for the first run, and not for a refusal."""
    finding = judged(RULES["FLO-28"], JoinsIn)
    assert finding.verdict is Verdict.PASS, finding.message


@pytest.mark.parametrize(("rule", "verdict"), [("FLO-26", Verdict.INCONCLUSIVE), ("FLO-27", Verdict.NOT_TESTABLE)])
def test_where_nothing_was_seen_nothing_is_said(rule: str, verdict: Verdict) -> None:
    """A rule whose means don't reach the subject does not pass it."""
    finding = judged(RULES[rule], SavesElsewhere)
    assert finding.verdict is verdict, finding.message


# --- what a failure prints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "broken", "facts"),
    [
        ("FLO-19", resuming.BeginsFromTheTop, "fetch had ended, and resume('report-17') was called by the same engine"),
        ("FLO-19", resuming.KnowsOnlyWhatRan, "parse was given fetch=None; it needs fetch='fetch@page 1'"),
        ("FLO-24", resuming.LockFileStays, "its process had been killed; resume('report-17')"),
        ("FLO-24", resuming.FailureIsFinal, "its node parse had failed; resume('report-17') returned failed"),
        ("FLO-25", resuming.LockOfThreads, "was called by another process, and ran as well: parse"),
        ("FLO-25", resuming.LooksThenMarks, "was held before open (step 3), while resume('step3')"),
        ("FLO-25", RowLeaseInTwoSteps, "was held before a statement (step 3), while resume('step3')"),
        ("FLO-25", ReadsThenLocks, "was held before fcntl.flock (step 2), while resume('step2through')"),
        (
            "FLO-26",
            saving.SwallowsTheError,
            "no file could grow from the beginning, and run('page 1', run_id='report-17')",
        ),
        ("FLO-27", saving.WritesItAllEachTime, "times as many"),
        ("FLO-28", resuming.BeginsOver, "its nodes gave: fetch='fetch@page 2'"),
    ],
)
def test_a_failure_tells_what_happened(rule: str, broken: type[Any], facts: str) -> None:
    """A message that one would be glad to receive."""
    finding = judged(RULES[rule], broken)
    assert finding.verdict is Verdict.VIOLATED, finding.message
    assert facts in finding.message, finding.message
    assert "Usual cause:" in finding.message


# --- what they stand on -----------------------------------------------------------------------------------------------


def both_are_in_flight(lab: Lab) -> None:
    with elsewhere(lab) as others, folder() as path:
        story = Story(lab, "gated", gated=("fetch", "load"))
        attempt = others.engine(path).run(story)
        lab.until(lambda: len(lab.live()) == 2, "fetch and load are in flight")
        lab.open_all()
        lab.check(story.ends_well(attempt.answer()), "the run", "completes")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_probe_at_its_gate_in_another_process_holds_up_no_loop(backend: str) -> None:
    """Two nodes of one loop wait at once there."""
    finding = judged(replace(RULES["FLO-19"], function=both_are_in_flight), _kept.SoundKeptAsync, backend)
    assert finding.verdict is Verdict.PASS, finding.message
