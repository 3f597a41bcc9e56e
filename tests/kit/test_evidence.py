"""What a finding keeps for reports: who asked for what, who waits for whom, and what makes a crash or a race plain."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from bystanders import fresh_harness
from test_judge import judged, rule, subject, use

from flowcheck_reference.broken.client.beside import AwaitsUnderAThreadLock
from flowcheck_reference.broken.executor.workers import OneTooMany
from flowcheck_reference.broken.looppool.racing import PostedTooLate
from flowcheck_reference.broken.store.crashes import ReplacesWithoutSync
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate import document
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.certificate.waits import graph
from pytest_flowcheck.errors import Inconclusive, Violated
from pytest_flowcheck.probes.lab import Lab
from pytest_flowcheck.probes.timeline import Event
from pytest_flowcheck.proof import Observer, State, Waiting, procfs, strace, waits_of
from pytest_flowcheck.proof.waitlist import On
from pytest_flowcheck.rules import bundled_rules
from pytest_flowcheck.running.evidence import evidence as evidence_of
from pytest_flowcheck.running.judge import judge

pytestmark = pytest.mark.skipif(not procfs.LINUX, reason="proof reads the Linux kernel's thread states")


def keeps_the_schema(finding: Finding) -> dict[str, Any]:
    schema = document.schema()
    jsonschema.Draft202012Validator({**schema["$defs"]["evidence"], "$defs": schema["$defs"]}).validate(
        finding.evidence
    )
    return finding.evidence


def of_rule(rule_id: str, engine: Any) -> dict[str, Any]:
    """The evidence of a rule that a broken engine must fail."""
    (wanted,) = [known for known in bundled_rules() if known.id == rule_id]
    spec = f"{engine.__module__}:{engine.__qualname__}"
    finding = judge(wanted, subjects.load(spec), fresh_harness(), patience=10.0)
    assert finding.verdict.broken, finding.message
    return keeps_the_schema(finding)


def kinds(evidence: dict[str, Any], name: str) -> list[str]:
    return [event["kind"] for event in evidence["events"] if event["probe"] == name]


def test_what_was_asked_and_let_go_is_told_and_not_judged_by() -> None:
    """Submitted, started, released and ended; calls with their ends; a cancel. The history that rules see has none of it."""
    seen: list[str] = []

    def function(lab: Lab) -> None:
        with lab.executor(max_workers=1) as executor:
            held = lab.submit(executor, "held")
            lab.until(lambda: "held" in lab.live(), "it started")
            lab.submit(executor, "never").cancel()
            lab.open("held")
            lab.finish(held, "held")
            lab.call("a call", lambda: 1 // 0).join()
        seen.extend(event.kind for event in lab.timeline.events)
        lab.check(False, "facts", "expected")

    evidence = keeps_the_schema(judged(function))
    assert kinds(evidence, "held") == ["submitted", "started", "released", "ended"]
    assert kinds(evidence, "never") == ["submitted", "cancelled"]
    assert kinds(evidence, "a call") == ["called", "failed"]
    assert [event.get("detail") for event in evidence["events"] if event["kind"] == "failed"] == ["ZeroDivisionError"]
    assert seen == ["started", "ended", "note"]
    assert evidence["story"] == {
        "facts": "facts",
        "expected": "expected",
        "proof": "it is in the recorded history: what has happened can't be an accident of timing",
        "cause": "The usual cause.",
    }


def test_a_probe_says_whether_its_gate_is_shut() -> None:
    """When it starts: `free` if it has none, or one that is open already."""

    def function(lab: Lab) -> None:
        with lab.executor(max_workers=1) as executor:
            lab.open("early")
            lab.finish(lab.submit(executor, "early"), "early")
            lab.finish(lab.submit(executor, "free", gated=False), "free")
            lab.submit(executor, "held")
            lab.until(lambda: "held" in lab.live(), "it started")
            lab.check(False, "facts", "expected")

    started = [event for event in judged(function).evidence["events"] if event["kind"] == "started"]
    assert [(event["probe"], event["detail"]) for event in started] == [
        ("early", "free"),
        ("free", "free"),
        ("held", "gated"),
    ]


def test_what_comes_after_the_judgement_is_left_out() -> None:
    """The gates open once it fell, and what then happens proves nothing."""

    def function(lab: Lab) -> None:
        with lab.executor(max_workers=1) as executor:
            lab.submit(executor, "held")
            lab.until(lambda: "held" in lab.live(), "it started")
            lab.check(False, "facts", "expected")

    assert kinds(judged(function).evidence, "held") == ["submitted", "started"]


def test_who_waits_for_whom() -> None:
    """A nested task waits for a queued one, and that for a worker, which is the first one's."""

    queued: list[Future[Any]] = []

    def wait() -> object:
        return queued[0].result()

    def function(lab: Lab) -> None:
        with lab.executor(max_workers=1) as executor:
            outer = lab.submit(executor, "outer", does=wait)
            queued.append(lab.submit(executor, "inner", gated=False))
            lab.open("outer")
            lab.finish(outer, "outer")

    finding = judged(function)
    queued[0].cancel()  # the worker can go
    assert finding.verdict is Verdict.HUNG
    waits = graph(keeps_the_schema(finding))
    assert waits is not None
    names = [node.name for node in waits.nodes]
    assert [(names[edge.source].partition("-")[0], names[edge.target].partition("-")[0]) for edge in waits.edges] == [
        ("ThreadPoolExecutor", "inner"),
        ("inner", "ThreadPoolExecutor"),
    ]
    assert all(edge.circular for edge in waits.edges)


@pytest.mark.parametrize(("state", "waits"), [("pending", ["caller", "task"]), ("cancelled", ["caller"])])
def test_only_what_is_pending_waits_for_a_worker(state: str, waits: list[str]) -> None:
    """A cancelled future that somebody waits for waits for nobody: no circle is made up."""
    lab, task = Lab(subject()), Future[Any]()
    lab.max_workers, lab.futures = 1, {"task": task}
    found = Violated("f", expected="e", proof="p")
    found.told = (Event(0.1, "started", "held", 1, 5, "worker"),)
    found.waiting = (Waiting(1, 9, "caller", "it waits", (On("future", id(task), "", state),)),)
    entries: Any = evidence_of(rule(use), lab, found, None)["waits"]
    assert [entry["name"] for entry in entries] == waits
    assert entries[0]["on"] == [{"name": "task"}]
    assert [entry["on"] for entry in entries[1:]] == [[{"tid": 5, "name": "busy worker"}]] * (len(waits) - 1)


def test_two_locks_in_two_orders() -> None:
    """The thread that waits for a lock waits for the one whose `with` block holds it, whatever the lock can tell of itself."""
    harness = fresh_harness()
    a, b = threading.Lock(), threading.Lock()
    meet = threading.Barrier(2)

    def first() -> None:
        with suppress(RuntimeError), a:  # it is released below
            meet.wait()
            with b:
                return

    def second() -> None:
        with b:
            meet.wait()
            with a:
                return

    threads = [threading.Thread(target=it, name=it.__name__, daemon=True) for it in (first, second)]
    for thread in threads:
        thread.start()
    observer = Observer(harness)
    sighting = observer.prove(int)
    while sighting.state is not State.QUIESCENT:
        sighting = observer.prove(int)
    waits = {wait.name: wait for wait in waits_of(sighting, harness)}
    assert {name: [on.kind for on in waits[name].on] for name in ("first", "second")} == {
        "first": ["lock"],
        "second": ["lock"],
    }
    assert waits["first"].on[0].id == id(b)
    assert id(b) in waits["second"].holds
    assert waits["second"].on[0].id == id(a)
    assert id(a) in waits["first"].holds
    a.release()  # any thread may: they go on, and end
    for thread in threads:
        thread.join()


def test_a_task_that_awaits_under_a_threads_lock_holds_it() -> None:
    """No frame of its loop's thread shows that: the task is suspended, and it is the thread that the other one waits for."""
    evidence = of_rule("CLI-04", AwaitsUnderAThreadLock)
    waits = graph(evidence)
    assert waits is not None
    (held,) = [edge for edge in waits.edges if edge.name == "self.making"]
    assert "with self.making" in waits.nodes[held.source].says
    assert "task 'get on loop 1'" in waits.nodes[held.target].says


@pytest.mark.parametrize(("state", "name"), [("pending", "pending future 1"), ("running", "running future 1")])
def test_a_future_without_a_name_is_named_by_its_state(state: str, name: str) -> None:
    """One that a worker of the subject's has taken is not told to be pending."""
    lab = Lab(subject())
    found = Violated("f", expected="e", proof="p")
    found.waiting = (Waiting(1, 9, "caller", "it waits", (On("future", 77, "", state),)),)
    entries: Any = evidence_of(rule(use), lab, found, None)["waits"]
    assert entries[0]["on"] == [{"name": name}]


def test_an_rlock_names_its_owner() -> None:
    """It says itself who holds it."""
    harness = fresh_harness()
    lock, taken, over = threading.RLock(), threading.Event(), threading.Event()

    def owner() -> None:
        with lock:
            taken.set()
            over.wait()

    def waiter() -> None:
        taken.wait()
        with lock:
            return

    threads = [threading.Thread(target=it, name=it.__name__, daemon=True) for it in (owner, waiter)]
    for thread in threads:
        thread.start()
    observer = Observer(harness)
    while observer.prove(int).state is not State.QUIESCENT:
        continue
    found = {wait.name: wait for wait in waits_of(observer.prove(int), harness)}
    assert [(on.kind, on.name, on.id) for on in found["waiter"].on] == [("thread", "owner", threads[0].native_id)]
    over.set()
    for thread in threads:
        thread.join()


def test_the_example_that_fails_keeps_its_own_history() -> None:
    """Of a property, the events are those of the failing example, not of whichever ran last."""
    evidence = of_rule("EXE-03", OneTooMany)
    assert kinds(evidence, "task 1")[-1] == "started"
    assert "1 workers" in evidence["example"]


def test_a_race_shows_the_line() -> None:
    """The parked line with its neighbours, and how both operations ended."""
    schedule = of_rule("LOP-09", PostedTooLate)["schedule"]
    (parked,) = [text for line, text in schedule["source"] if line == schedule["line"]]
    assert parked.strip() in schedule["place"]
    assert len(schedule["source"]) > 2
    assert set(schedule["ends"]) == {schedule["leader"], schedule["other"]}
    assert "closed" in schedule["ends"][schedule["leader"]]


@pytest.mark.skipif(strace.missing() is not None, reason="strace traces the save")
def test_a_crash_shows_what_it_left() -> None:
    """The operations so far, what was lost, and the files that the load found."""
    found = of_rule("STO-05", ReplacesWithoutSync)
    crash = found["crash"]
    assert crash["model"] == "power"
    assert "of what is not yet synced, a disk may hold any part" in found["story"]["proof"]
    assert crash["story"][0].startswith("1. ")
    assert any("power lost" in line for line in crash["story"])
    assert {Path(file["path"]).suffix for file in crash["files"]} >= {".json"}


def test_a_lost_precondition_is_named() -> None:
    """And there is no story: nobody is accused."""

    def function(lab: Lab) -> None:
        raise Inconclusive("why", because_of="EXE-01")

    evidence = keeps_the_schema(judged(function))
    assert evidence["because_of"] == "EXE-01"
    assert "story" not in evidence
