"""`flowcheck doctor`: what this machine lacks, whom that concerns, and what to install."""

from __future__ import annotations

import importlib.util
import json
import sys
from importlib import metadata
from typing import Any

import pytest

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.probes import needs
from pytest_flowcheck.proof import procfs, strace
from pytest_flowcheck.rules import bundled_rules
from pytest_flowcheck.shell import examining
from pytest_flowcheck.subjects import registered


def test_rules_say_themselves_what_they_need() -> None:
    """Whole and in part, read off the rules' code: those that rebuild crash states, fork, kill, or read the kernel's files."""
    asked = {rule.id: needs.of_rule(rule) for rule in bundled_rules()}
    assert {rule for rule, its in asked.items() if "strace" in its.wholly} == {"STO-04", "STO-05", "STO-17"}
    assert {rule for rule, its in asked.items() if "strace" in its.in_part} == {
        "STO-02",
        "STO-06",
        "STO-09",
        "STO-20",
        "STO-21",
    }
    assert {rule for rule, its in asked.items() if "fork" in its.wholly} == {"EXE-37", "TRC-09"}
    assert {"STO-14", "FLO-25"} <= {rule for rule, its in asked.items() if "processes" in its.wholly}
    assert all(
        not its.wholly and not its.in_part for rule, its in asked.items() if rule.startswith(("RTY", "FAN", "LOP"))
    )


def test_every_need_is_asked_by_a_rule() -> None:
    """No need stands in the list that no rule has; and what is there raises nothing."""
    asked = [needs.of_rule(rule) for rule in bundled_rules()]
    for each in needs.NEEDS:
        assert any(each.name in its.wholly | its.in_part for its in asked), each.name
        if needs.lacking(each) is None:
            needs.need(each)


def test_no_rule_tells_a_need_by_itself() -> None:
    """Suites ask `need` and `lacking`, and neither strace nor the platform: else the doctor would not know."""
    import ast
    from pathlib import Path

    from pytest_flowcheck import suites

    for path in Path(suites.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "missing" and isinstance(node.value, ast.Name):
                assert node.value.id != "strace", f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Attribute) and node.attr in {"LINUX", "platform"}:
                assert not isinstance(node.value, ast.Name) or node.value.id not in {"procfs", "sys"}, (
                    f"{path.name}:{node.lineno}"
                )


@pytest.fixture
def without_strace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strace, "missing", lambda: "strace is not on the PATH: install it")


@pytest.mark.usefixtures("without_strace")
def test_what_is_missing_is_told_with_its_rules(flowcheck: Any) -> None:
    """The line that the rules say too, the rules, exit code 1; in JSON the same."""
    with pytest.raises(NotTestable, match="not on the PATH"):
        needs.need(needs.STRACE)
    done = flowcheck("doctor")
    assert done.status == 1
    line, wholly, in_part = done.out.partition("! strace")[2].splitlines()[:3]
    assert line.strip() == "strace is not on the PATH: install it"
    assert wholly.strip() == "NOT-TESTABLE: STO-04, STO-05, STO-17"
    assert in_part.strip().startswith("judged by less: STO-02, ")
    said = json.loads(flowcheck("doctor", "--json").out)
    assert said["testable"] is False
    (found,) = [each for each in said["machine"] if each["name"] == "strace"]
    assert (found["ok"], found["rules"]) == (False, ["STO-04", "STO-05", "STO-17"])


def test_the_exit_code_is_what_it_says(flowcheck: Any) -> None:
    """0 exactly where nothing is marked."""
    done = flowcheck("doctor")
    marked = any(line.startswith("!") for line in done.out.splitlines())
    assert (done.status, done.out.splitlines()[-1].startswith("every rule")) == ((1, False) if marked else (0, True))


def test_elsewhere_than_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """No /proc: what that costs is said, and the rules that need processes are named."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(procfs, "LINUX", False)
    monkeypatch.setattr(strace, "missing", strace.missing.__wrapped__)
    monkeypatch.setattr(strace, "LINUX", False)
    monkeypatch.delattr(needs.os, "pidfd_open")
    found = {each.name: each for each in examining.machine()}
    assert "INCONCLUSIVE" in found["proof"].says
    assert found["proc"].rules == ["FLO-11", "FLO-12"]
    assert "STO-14" in found["processes"].rules
    assert [found[name].ok for name in ("proof", "orphans", "proc", "processes", "strace")] == [False] * 5


def test_a_kernel_that_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a container hides what threads wait for, no absence can be proven, and that is said first."""

    def hidden(path: str) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(procfs, "read", hidden)
    found = {each.name: each for each in examining.machine()}["proof"]
    assert (found.ok, "can't be read (Permission denied)" in found.says) == (False, True)


def test_trio_concerns_those_that_are_tried_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that only some subjects are tried on is no reason to fail."""
    there = importlib.util.find_spec
    monkeypatch.setattr(needs, "find_spec", lambda name: None if name == "trio" else there(name))
    found = {each.name: each for each in examining.machine()}["trio"]
    assert (found.ok, found.only) == (None, "subjects that are tried on trio")
    assert "CLI-01" in found.rules


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1", "name the plugins"),
        ("PYTEST_ADDOPTS", "-p no:xdist", "takes the whole run with it"),
        ("PYTEST_ADDOPTS", "-n0", "takes the whole run with it"),
    ],
)
def test_plugins_that_get_in_the_way(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str) -> None:
    """Settings by which a certification is not there, or not contained."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", raising=False)
    monkeypatch.setenv(variable, value)
    assert any(found.ok is False and words in found.says for found in examining.plugins())
    monkeypatch.setenv(variable, "")
    assert all(words not in found.says for found in examining.plugins())


def test_subjects_and_what_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name of the kit, with its version here, or the extra that brings it."""
    found = {each.name: each for each in examining.subjects()}
    assert set(found) == set(registered())
    assert found["stdlib-threads"].installed
    real = metadata.version

    def version(name: str) -> str:
        if name in {"tenacity", "langgraph", "langgraph-checkpoint-sqlite"}:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = {each.name: each for each in examining.subjects()}
    assert found["tenacity"].install == "pip install 'pytest-flowcheck[tenacity]'"
    assert found["langgraph-sqlite"].install == "pip install 'pytest-flowcheck[langgraph,langgraph-checkpoint-sqlite]'"


def test_an_entry_point_that_breaks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A subject of somebody's that can't be imported costs its own line."""
    from pytest_flowcheck import subjects

    monkeypatch.setattr(subjects, "registered", lambda: {"theirs": "no_such_module_at_all:X"})
    (found,) = examining.subjects()
    assert (found.installed, "can't be imported" in found.says) == (False, True)


def test_bundled_adapters_have_an_extra() -> None:
    """What a bundled adapter needs, an extra of the kit brings."""
    brings = examining.extras()
    for found in examining.subjects():
        if found.install:
            assert "pytest-flowcheck[" in found.install, f"{found.name}: {found.install}"
    assert brings["stamina"] == "stamina"
    assert not {"mypy", "furo", "nox"} & set(brings)
