"""Stores as they are found, and stores of unusual build: what the rules say of each is what is so."""

from __future__ import annotations

import re
import sys
from typing import Any, ClassVar

import odd_stores
import pytest
from test_store_rules import RULES, harness, needs_strace

from pytest_flowcheck import subjects
from pytest_flowcheck.adapters import sqlite3_
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.suites.store._shared import RUN

PASS, VIOLATED, NOT_TESTABLE = Verdict.PASS, Verdict.VIOLATED, Verdict.NOT_TESTABLE

pytestmark = needs_strace


def judged(rule: str, subject: str, *, thorough: bool = False) -> Finding:
    known = subjects.first_probe(subjects.load(subject))
    return judge(RULES[rule], known, harness(), patience=15.0, uncaught=[], thorough=thorough)


def of(adapter: type[Any]) -> str:
    return f"{adapter.__module__}:{adapter.__qualname__}"


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule", "verdict"),
    [
        ("json-dump", "STO-04", VIOLATED),  # `open(path, "w")` empties the file
        ("json-dump", "STO-13", PASS),
        ("json-dump", "STO-18", PASS),
        ("sqlite3", "STO-05", PASS),
        ("sqlite3", "STO-12", VIOLATED),  # "file is not a database": which one?
        ("sqlite3-extra", "STO-17", PASS),
        ("sqlite3-wal", "STO-17", PASS),
        ("sqlite3-off", "STO-05", VIOLATED),  # nothing is synced
        ("shelve", "STO-10", PASS),  # pickle keeps a list in itself
        ("shelve", "STO-16", PASS),
    ],
)
def test_stores_of_the_standard_library(name: str, rule: str, verdict: Verdict) -> None:
    """What was confirmed by hand, without the kit."""
    finding = judged(rule, name)
    assert finding.verdict is verdict, finding.message


@pytest.mark.skipif(sys.version_info < (3, 13), reason="dbm.sqlite3 came with 3.13")
@pytest.mark.parametrize("rule", ["STO-05", "STO-06"])
def test_dbm_sqlite3(rule: str) -> None:
    """What it leaves open when it fails is closed with the garbage, and is no litter."""
    finding = judged(rule, "dbm-sqlite3")
    assert finding.verdict is PASS, finding.message


@pytest.mark.parametrize("rule", ["STO-06", "STO-11", "STO-12"])
def test_a_cache_with_connections_of_threads_that_have_ended(rule: str) -> None:
    """They close whenever the garbage is collected, and change files then: that is no state lost and nothing outside."""
    pytest.importorskip("diskcache")
    finding = judged(rule, "diskcache")
    assert finding.verdict is (VIOLATED if rule == "STO-12" else PASS), finding.message
    assert rule != "STO-12" or "an error whose text names cache.db" in finding.message


def test_what_a_checkpoint_replaces_is_found() -> None:
    """A surrogate becomes a question mark: values that are known to be odd are tried always, not by luck."""
    pytest.importorskip("langgraph.checkpoint.sqlite")
    finding = judged("STO-01", "langgraph-checkpoint-sqlite", thorough=True)
    assert finding.verdict is VIOLATED
    assert re.search(r"save took .*\\ud.* load returned .*\?", finding.message), finding.message


class Overstated(sqlite3_.Full):
    """Claims of `synchronous=FULL` what SQLite's manual says of EXTRA only."""

    claims: ClassVar[dict[str, frozenset[str]]] = {"store": frozenset({"durable"})}


def test_full_synchronous_may_lose_the_last_commit_where_the_journal_is_deleted() -> None:
    """The folder is not synced behind the unlink that commits, so the journal may be there again."""
    finding = judged("STO-17", of(Overstated))
    assert finding.verdict is VIOLATED
    assert "remove 'runs.sqlite-journal'" in finding.message


# --- of unusual build -------------------------------------------------------------------------------------------------

SHOWN: dict[str, list[str]] = {
    "ByPid": ["STO-07", "STO-22"],  # Refused, and never for ever
    "Journal": ["STO-05", "STO-12"],  # a cut is a torn tail
    "Generations": ["STO-04", "STO-12"],
    "Retrying": ["STO-06"],
    "TwoSlots": ["STO-05"],
    "Staging": ["STO-17"],
    "Helped": ["STO-06"],  # a thread for each sync
    "Unnamed": ["STO-05"],
}
"""Of each the rules that were wrong about it, or could well be."""


@pytest.mark.parametrize(("name", "rule"), [(name, rule) for name, rules in SHOWN.items() for rule in rules])
def test_stores_of_unusual_build_are_not_accused(name: str, rule: str) -> None:
    """However odd it looks, nothing is lost."""
    finding = judged(rule, of(getattr(odd_stores, f"{name}Subject")))
    assert finding.verdict is PASS, finding.message


def test_what_is_written_through_a_mapping_is_not_known() -> None:
    """Neither accused nor cleared."""
    finding = judged("STO-17", of(odd_stores.MappedSubject))  # type: ignore[attr-defined]
    assert finding.verdict is NOT_TESTABLE, finding.message
    assert "mapped into memory" in finding.message


@pytest.mark.parametrize(
    ("name", "rule", "says"),
    [
        ("UnmendedJournal", "STO-20", "the next save returned, and then the load returned"),
        ("EarlyPointer", "STO-05", f"{RUN}."),
        ("SyncsAgain", "STO-06", "was synced again, with nothing written to it meanwhile"),
        ("OneSlot", "STO-04", "when 512 of"),
        ("NoBarrier", "STO-05", f"{RUN}.json holds no state"),
    ],
)
def test_one_flaw_is_found(name: str, rule: str, says: str) -> None:
    """And told as what it is."""
    finding = judged(rule, of(getattr(odd_stores, f"{name}Subject")), thorough=rule == "STO-06")  # each call, then
    assert finding.verdict is VIOLATED, finding.message
    assert says in finding.message
