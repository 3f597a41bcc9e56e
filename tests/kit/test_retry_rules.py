"""The rules of `retry`: differently built correct subjects keep them, and what a failure prints can be run."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bystanders import fresh_harness

from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.calls import reachable
from pytest_flowcheck.probes.lab import Lab
from pytest_flowcheck.rules import Rule, bundled_rules
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.subjects import Subject, first_probe, load
from pytest_flowcheck.suites.retry._shared import LIMITS, TooSlow, with_limits
from pytest_flowcheck.suites.retry.machine import Expected, model, slower

RULES = {rule.id: rule for rule in bundled_rules() if rule.facet == "retry"}
BROKEN = "flowcheck_reference.broken.retry"


def column(name: str, backend: str = "asyncio") -> Subject:
    return replace(first_probe(load(f"{BROKEN}.{name}")), backend=backend)


def judged(rule: Rule, subject: Subject) -> Finding:
    return judge(rule, subject, fresh_harness(), patience=10.0, uncaught=[])


@pytest.mark.parametrize(
    ("name", "backend", "silent"),
    [
        ("Sound", "asyncio", {"RTY-15"}),
        ("SoundAsync", "asyncio", {"RTY-04", "RTY-17", "RTY-19", "RTY-24"}),
        ("SoundAsync", "trio", {"RTY-04", "RTY-17", "RTY-19", "RTY-24"}),
        ("SoundOffloading", "asyncio", {"RTY-15"}),
    ],
)
def test_correct_subjects_keep_every_rule(name: str, backend: str, silent: set[str]) -> None:
    """Threads, coroutines, and a loop that hands to threads: all PASS, but for what can't be asked of the one colour."""
    subject = column(f"_sound:{name}", backend)
    findings = {id_: judged(rule, subject) for id_, rule in RULES.items()}
    wrong = [f for f in findings.values() if f.verdict is not Verdict.PASS and f.rule not in silent]
    assert not wrong, "\n\n".join(f"{f.rule} {f.verdict}: {f.message}" for f in wrong)
    assert {f.verdict for f in findings.values() if f.rule in silent} <= {Verdict.NOT_CLAIMED, Verdict.NOT_TESTABLE}


@pytest.mark.parametrize(
    ("broken", "sound", "backend"),
    [
        ("machine:GivesUpAfterTwoErrors", "_sound:Sound", "asyncio"),
        ("machine:AnErrorAfterATimeoutIsFinal", "_sound:SoundAsync", "asyncio"),
        ("machine:AnErrorAfterATimeoutIsFinal", "_sound:SoundAsync", "trio"),
    ],
)
def test_a_failing_scenario_can_be_run_without_pytest(broken: str, sound: str, backend: str, tmp_path: Path) -> None:
    """The script that RTY-05 prints shows the failure (status 1), and its absence in a correct subject (status 0)."""
    finding = judged(RULES["RTY-05"], column(broken, backend))
    assert finding.verdict is Verdict.VIOLATED, finding.message
    script = str(finding.evidence["script"])
    assert "pytest" not in script.replace("pytest_flowcheck.protocols", "")
    told = run(script, tmp_path)
    assert told.returncode == 1, told
    (module, name), (right, correct) = broken.split(":"), sound.split(":")
    mended = script.replace(f"{BROKEN}.{module} import {name}", f"{BROKEN}.{right} import {correct}")
    told = run(mended.replace(f"subject = {name}()", f"subject = {correct}()"), tmp_path)
    assert told.returncode == 0, told


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = folder / "script.py"
    path.write_text(script)
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)


def test_the_model_by_eye() -> None:
    """One attempt after the other until one returns; a busy machine only ever adds timeouts."""
    assert model(("raises", "returns", "returns")) == Expected("result 2", 2)
    assert model(("stuck", "raises")) == Expected("error 2", 2)
    assert model(("raises", "stuck")) == Expected("timeout 2", 2)
    assert set(slower(("raises", "returns"))) == {Expected("result 2", 2), Expected("timeout 2", 2)}


def test_a_busy_machine_is_no_evidence() -> None:
    """A scenario whose free attempt was timed out runs again with larger limits, and at last proves nothing."""
    lab, tried = Lab(column("_sound:Sound"), facet="retry"), list[float]()

    def slow(limit: float) -> None:
        tried.append(limit)
        if len(tried) < 3:
            raise TooSlow("it was slow")

    with_limits(lab, slow)
    assert tried == list(LIMITS[:3])

    def hopeless(_: float) -> None:
        raise TooSlow("it was slow")

    with pytest.raises(Inconclusive, match=r"it was slow, with a limit of 3\.2 s too"):
        with_limits(lab, hopeless)


def test_errors_are_reached_by_every_way() -> None:
    """`__cause__`, `__context__` and `exceptions`, in circles too."""
    first, second, third = KeyError(1), ValueError(2), OSError(3)
    group = ExceptionGroup("several", [third])
    second.__context__, first.__cause__, third.__context__ = group, second, first
    assert list(reachable(first)) == [first, second, group, third]
    assert list(reachable(None)) == []


def test_the_suite_is_complete() -> None:
    """25 rules, numbered without a gap."""
    assert sorted(RULES) == [f"RTY-{n:02}" for n in range(1, 26)]
