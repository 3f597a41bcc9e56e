"""Certificates made by hand, with every kind of evidence that a report shows."""

from __future__ import annotations

from typing import Any

from pytest_flowcheck.certificate import document
from pytest_flowcheck.certificate.accounting import account
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.rules import Rule, bundled_rules


def event(at: float, kind: str, probe: str, tid: int = 0, thread: str = "", **more: Any) -> dict[str, Any]:
    """An event of process 1."""
    return {"at": at, "kind": kind, "probe": probe, "pid": 1 if tid else 0, "tid": tid, "thread": thread, **more}


STORY = {"facts": "It did `this`.", "expected": "That.", "proof": "It is there.", "cause": "An off-by-one."}

DEADLOCK = {
    "story": STORY,
    "events": [
        event(0.001, "submitted", "outer 0", 10, "rule"),
        event(0.002, "started", "outer 0", 11, "pool-0", detail="gated"),
        event(0.003, "submitted", "outer 1", 10, "rule"),
        event(0.004, "started", "outer 1", 12, "pool-1", detail="gated"),
        event(0.005, "released", "outer 0", 10, "rule"),
        event(0.006, "released", "outer 1", 10, "rule"),
        event(0.007, "submitted", "inner", 11, "pool-0"),
        event(0.008, "note", "both wait"),
    ],
    "waits": [
        {"pid": 1, "tid": 11, "name": "pool-0", "line": "thread 'pool-0' waits in Future.result()", "on": [{"name": "inner"}]},
        {"pid": 1, "tid": 12, "name": "pool-1", "line": "thread 'pool-1' waits for a lock", "on": [{"tid": 11, "name": "lock"}]},
        {"pid": 1, "tid": 13, "name": "idler", "line": "thread 'idler' waits in Queue.get()", "on": []},
        {"pid": 0, "tid": 0, "name": "inner", "line": "inner is pending", "on": [{"tid": 12, "name": "busy worker"}]},
    ],
}  # fmt: skip

RETRY = {
    "story": STORY,
    "events": [
        event(0.001, "called", "call(fetch)", 20, "caller"),
        event(0.002, "started", "fetch #1", 21, "a loop", loop=True, detail="gated"),
        event(0.003, "raised", "fetch #1", 21, "a loop", loop=True, detail="CancelledError"),
        event(0.004, "started", "fetch #2", 21, "a loop", loop=True, detail="free"),
        event(0.005, "raised", "fetch #2", 21, "a loop", loop=True, detail="ValueError"),
        event(0.006, "failed", "call(fetch)", 20, "caller", detail="TimeLimitError"),
        event(0.007, "note", "call(fetch) raised TimeLimitError('too long')"),
    ],
    "example": "1 worker(s)\nstep  thread  operation\n   0       0  submit task 0\n   1       0  submit task 1",
    "script": "print('without pytest')",
}

CRASH = {
    "story": {**STORY, "facts": "the load raised Corrupt. It had come so far when the power failed:\n 1. create 'a'"},
    "events": [event(0.1, "note", "a fresh handle in each of 31 states")],
    "crash": {
        "model": "power",
        "returned": False,
        "story": [
            "1. create 'a'",
            "2. rename 'a' to 'b'",
            "power lost in operation 2",
            "data of 'b': none of 1 change",
        ],
        "files": [{"path": "b", "size": 0, "head": ""}, {"path": "c", "size": 3, "head": "old"}],
    },
}

SCHEDULE = {
    "story": STORY,
    "events": [event(0.1, "started", "warm", 31, "worker"), event(0.2, "ended", "warm", 31, "worker")],
    "schedule": {
        "key": "first:Pool.post+3#1",
        "leader": "dispatch()",
        "other": "stop()",
        "parked": "",
        "place": "pool.py, Pool.post: `loop = self.loop`",
        "line": 21,
        "source": [[20, "def post(self):"], [21, "    loop = self.loop"], [22, "    loop.call()"]],
        "blocked": False,
        "ends": {"dispatch()": "raised RuntimeError('closed')", "stop()": "returned None"},
    },
    "example": "dispatch() was parked before pool.py",
}


def certificate(
    label: str,
    found: dict[str, tuple[Verdict, dict[str, Any]]],
    *,
    rules: list[Rule] | None = None,
    claims: tuple[str, ...] = ("executor",),
    missing: tuple[str, ...] = (),
    version: str = "1.0",
    revision: str = "2026.1",
) -> dict[str, Any]:
    """One in which all rules of the claimed facets PASS but those given, and those `missing` are NOT-RUN."""
    by_facet: dict[str, list[Rule]] = {}
    for rule in rules or bundled_rules():
        by_facet.setdefault(rule.facet, []).append(rule)
    findings: dict[str, Finding] = {}
    for facet in claims:
        for rule in by_facet[facet]:
            verdict, evidence = found.get(rule.id, (Verdict.PASS, {}))
            message = "" if verdict is Verdict.PASS else f"{rule.id} {verdict.value}: the whole message"
            if rule.id not in missing:
                findings[rule.id] = Finding(rule.id, verdict, rule.level, message=message, evidence=evidence)
    subject = {"name": label, "version": version, "spec": "m:a", "asked": f"m:{label}", "label": label}
    claimed: dict[str, list[str]] = {facet: [] for facet in claims}
    return document.build(
        account=account(by_facet, claimed, findings),
        subject={**subject, "backend": "asyncio", "unclaimed": []},
        claims=claimed,
        seed=0,
        kit="1",
        revision=revision,
        packages={},
    )


def every_kind() -> list[dict[str, Any]]:
    """A sound subject, one that is broken in every way that a report draws, and one that was judged in part."""
    broken = {
        "EXE-03": (Verdict.HUNG, DEADLOCK),
        "EXE-05": (Verdict.VIOLATED, RETRY),
        "EXE-31": (Verdict.VIOLATED, SCHEDULE),
        "EXE-08": (Verdict.INCONCLUSIVE, {"because_of": "EXE-03"}),
        "EXE-09": (Verdict.VIOLATED, CRASH),
        "EXE-10": (Verdict.NOT_TESTABLE, {}),
    }
    return [
        certificate("sound", {}),
        certificate("broken", broken),
        certificate("partial", {}, missing=("EXE-01", "EXE-02")),
    ]
