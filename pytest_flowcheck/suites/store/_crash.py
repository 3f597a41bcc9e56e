"""Crash states of a store's operations: recorded once, judged by the thousand in one other process."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.needs import STRACE, need
from pytest_flowcheck.probes.nursery import Answer, folder
from pytest_flowcheck.proof import crash
from pytest_flowcheck.suites.store._child import Ask
from pytest_flowcheck.suites.store._shared import Scripts

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.proof.crash import CrashState, Model, Recording
    from pytest_flowcheck.suites.store._shared import Worker

MOST: Final = 1500
"""States judged for one recording and model; more are sampled evenly, and the history says so."""

BATCH: Final = 60

_known: dict[object, Recording] = {}
"""The last recordings of this process: rules ask several questions of one save."""


def requests(path: Path, before: Sequence[Ask], during: Sequence[Ask], after: Sequence[Ask] = ()) -> list[Ask]:
    """What a traced program does in this folder."""
    return [
        ("open", "it", str(path)),
        *(("call", "it", *ask) for ask in before),
        ("mark", "begin"),
        *(("call", "it", *ask) for ask in during),
        ("mark", "end"),
        *(("call", "it", *ask) for ask in after),
        ("close", "it"),
    ]


def recorded(lab: Lab, before: Sequence[Ask], during: Sequence[Ask]) -> Recording:
    """What these calls, in a handle that made those before, do to an empty folder.

    Raises:
        NotTestable: strace is missing, or the store works in ways that can't be followed; says how.
        Inconclusive: the calls did not succeed.
    """
    need(STRACE)
    subject = lab.subject
    key = subject.spec, subject.backend, repr(before), repr(during)
    if key not in _known:
        while len(_known) >= 8:
            del _known[next(iter(_known))]
        _known[key] = _record(lab, before, during)
    recording = _known[key]
    if recording.limits:
        raise NotTestable(f"what a crash leaves can't be told of this store: {'; '.join(recording.limits)}")
    return recording


def _record(lab: Lab, before: Sequence[Ask], during: Sequence[Ask]) -> Recording:
    scripts = Scripts(lab)
    with folder() as path:
        recording = crash.record(scripts.argv(requests(path, before, during)), path, server=scripts.server)
        answers = scripts.answers(recording.marks)
    if answers is None:
        raise Inconclusive(
            f"the process that was traced ended with status {recording.status}: {recording.output[-600:]}",
            because_of="STO-01",
        )
    for ask, answer in zip((*before, *during), _calls(answers), strict=True):
        if not answer.returned:
            raise Inconclusive(f"{ask[0]} {answer} while it was traced", because_of="STO-01")
    return recording


def _calls(answers: Sequence[object]) -> Iterator[Answer]:
    """The answers of calls: those of the marks, and of opening and closing, are none."""
    return (answer for answer in answers[1:-1] if isinstance(answer, Answer))


def judge(
    lab: Lab,
    other: Worker,
    recording: Recording,
    model: Model,
    asks: Sequence[Ask],
    wrong: Callable[[CrashState, Sequence[Answer]], str | None],
    expected: str,
    *,
    only: Callable[[CrashState], bool] = lambda _: True,
    most: int = MOST,
) -> int:
    """Have `other` make these calls in each state, with a fresh handle; `wrong` says what is wrong with the answers.

    Args:
        lab: the rule's bench.
        other: another process.
        recording: what was done.
        model: which crash.
        asks: the calls.
        wrong: None if nothing is.
        expected: what the rule asks for.
        only: which states are of interest.
        most: how many.

    Returns:
        How many were judged.

    Raises:
        Violated: one is wrong; its story is told.
        NotTestable: only such are wrong as are made up, because a file is mapped into memory.
    """
    supposed: list[str] = []
    judged = 0
    for state, answers in visited(lab, other, _sample(recording, model, only, lab.repeated(most)), asks):
        judged += 1
        if (says := wrong(state, answers)) is None:
            continue
        if state.supposed:
            supposed.append(says)
        else:
            lab.exhibits["crash"] = exhibit(state)
            lab.check(False, _tell(state, says), expected, proof=_PROOF[model])
    left_out = "".join(f"; {line}" for line in recording.left_out)
    lab.note(f"{judged} states that a {_CRASH[model]} can leave were judged{left_out}")
    if supposed:
        raise NotTestable(
            f"{', '.join(recording.mapped)}: what stands in files that are mapped into memory is not known, and with "
            f"some contents {supposed[0]}"
        )
    if recording.mapped and lab.grade == "proven":
        lab.grade = "observed"
        lab.observed_because = (
            f"{', '.join(recording.mapped)}: mapped into memory; all contents that were tried are harmless"
        )
    return judged


def visited(
    lab: Lab, other: Worker, states: Iterator[CrashState], asks: Sequence[Ask]
) -> Iterator[tuple[CrashState, list[Answer]]]:
    """Each state, and what these calls came to in it."""
    with folder() as home:
        for number in count():
            if not (batch := list(islice(states, BATCH))):
                return
            paths = [home / f"{number}-{place}" for place in range(len(batch))]
            for state, path in zip(batch, paths, strict=True):
                state.put(path)
            lab.note(f"a fresh handle in each of {len(batch)} states: {', '.join(ask[0] for ask in asks)}")
            yield from zip(batch, other.visits(paths, *asks), strict=True)
            for path in paths:
                shutil.rmtree(path, ignore_errors=True)


_CRASH: Final = {"kill": "kill", "power": "power loss"}
_PROOF: Final = {
    "kill": "the operations are those that were recorded of this save, and a kill can fall between any two of them, or "
    "cut a write short; a fresh handle then found this",
    "power": "the operations are those that were recorded of this save; of what is not yet synced, a disk may hold any "
    "part when the power fails, and this is one; a fresh handle then found this",
}


def _sample(recording: Recording, model: Model, only: Callable[[CrashState], bool], most: int) -> Iterator[CrashState]:
    """The states, evenly thinned if there are more than `most`. No state that needs a torn sector: nobody promises less."""

    def wanted() -> Iterator[CrashState]:
        return (state for state in recording.states(model) if not state.within_sector and only(state))

    there_are = sum(1 for _ in wanted())
    return islice(wanted(), 0, None, max(1, -(-there_are // most)))


_SHOWN: Final = 400
"""Bytes of a file that a report shows."""


def exhibit(state: CrashState) -> dict[str, object]:
    """The state for a report: what had been done, what was lost, and what is in the folder."""
    return {
        "model": state.model,
        "returned": state.returned,
        "story": [line for line in state.story if not line.startswith("   (answers:")],
        "files": [
            {"path": path, "size": len(data), "head": data[:_SHOWN].decode("utf-8", "backslashreplace")}
            for path, data in state.files.items()
        ],
    }


def _tell(state: CrashState, says: str) -> str:
    crashed = "the process was killed" if state.model == "kill" else "the power failed"
    story = "\n".join(f"                 {line}" for line in state.story)
    return f"{says}. It had come so far when {crashed}:\n{story}"
