"""What a finding keeps of its rule's bench: enough for a report to show what happened. `schema.json` says its form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import Inconclusive, Violated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.timeline import Event
    from pytest_flowcheck.proof import Waiting
    from pytest_flowcheck.rules import Rule

EVENTS: Final = 400
"""The last so many: what a violation is about is at the end."""

WAITS: Final = 60


def evidence(rule: Rule, lab: Lab, error: BaseException | None, hang: BaseException | None) -> dict[str, object]:
    """The evidence of one rule.

    Args:
        rule: which.
        lab: its bench, when it is over.
        error: what the verdict was read from; None for a PASS.
        hang: how the watcher ended it, if it did.
    """
    told = lab.timeline.told()
    if isinstance(error, Violated) and error.told is not None:
        told = error.told  # what the opened gates let happen later belongs to nobody
    kept: dict[str, object] = {
        "probes_ran": max(lab.probes_ran, len(lab.timeline.of("started"))),
        "events": [_event(event) for event in told[-EVENTS:]],
    }
    if isinstance(error, Violated):
        kept["story"] = {
            "facts": error.facts,
            "expected": error.expected,
            "proof": error.proof.partition("\n")[0] if error.waiting else error.proof,
            "cause": rule.usual_cause,
        }
        if error.waiting:
            kept["waits"] = _waits(lab, error.waiting, told)
        kept |= error.exhibits
    if lab.example:
        kept["example"] = lab.example
    if lab.script is not None:
        kept["script"] = lab.script()
    if uncaught := lab.uncaught:
        kept["uncaught"] = uncaught[:20]
    if lab.observed_because:
        kept["observed_because"] = lab.observed_because
    if hang is not None:
        kept["hang"] = str(hang)
    if isinstance(error, Inconclusive) and error.because_of is not None:
        kept["because_of"] = error.because_of
    return kept


def _event(event: Event) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "at": round(event.at, 6),
        "kind": event.kind,
        "probe": event.probe,
        "pid": event.pid,
        "tid": event.tid,
        "thread": event.thread,
    }
    if event.coroutine:
        shown["loop"] = True
    if event.detail:
        shown["detail"] = event.detail
    return shown


# --- who waits for whom ------------------------------------------------------------------------------------------------


def _waits(lab: Lab, waiting: Sequence[Waiting], told: Sequence[Event]) -> list[dict[str, Any]]:
    """The wait list, each wait with whom it is on: `tid` of a thread, `pid` of a process, or a `name`.

    A future stands for its task: for the thread that runs it, or, if nobody does, for itself. A lock stands for the
    thread whose `with` block holds it. What is pending while every worker of the executor runs a probe waits for one of
    them. A probe at its gate waits for the rule, and that is no riddle: it has no arrow.
    """
    runs = _running(told)
    tasks = {id(future): name for name, future in lab.futures.items()}
    holders = {held: wait for wait in waiting for held in wait.holds}
    entries: list[dict[str, Any]] = []
    queued: dict[str, str] = {}
    unknown: dict[int, str] = {}
    for wait in waiting[:WAITS]:
        on: list[dict[str, Any]] = []
        for target in wait.on:
            if target.kind == "thread":
                on.append({"tid": target.id, "name": target.name})
            elif target.kind == "process":
                on.append({"pid": target.id, "name": f"process {target.id}"})
            elif target.kind == "lock":
                holder = holders.get(target.id)
                holds = holder is not None and holder.tid != wait.tid
                on.append({"tid": holder.tid, "name": target.name} if holder and holds else {"name": target.name})
            else:
                known = tasks.get(target.id) or target.name
                name = known or unknown.setdefault(
                    target.id, f"{'running' if target.state == 'running' else 'pending'} future {len(unknown) + 1}"
                )
                runner = runs.get(name)
                if runner is not None:
                    on.append({"tid": runner, "name": name})
                else:
                    if target.state == "pending":
                        queued[name] = known or "it"
                    on.append({"name": name})
        entry: dict[str, Any] = {"pid": wait.pid, "tid": wait.tid, "name": wait.name, "line": wait.line, "on": on}
        if wait.place:
            entry["place"] = wait.place
        entries.append(entry)
    if 0 < lab.max_workers <= len(runs):
        busy = [{"tid": tid, "name": "busy worker"} for tid in dict.fromkeys(runs.values())]
        for name, shown in queued.items():
            line = f"{shown} is pending, and all {lab.max_workers} workers are busy"
            entries.append({"pid": 0, "tid": 0, "name": name, "line": line, "on": busy})
    return entries


def _running(told: Sequence[Event]) -> dict[str, int]:
    """Probe -> native id of the thread in which it is in flight."""
    runs: dict[str, int] = {}
    for event in told:
        if event.kind == "started":
            runs[event.probe] = event.tid
        elif event.kind in {"ended", "raised", "lost"}:
            runs.pop(event.probe, None)
    return runs
