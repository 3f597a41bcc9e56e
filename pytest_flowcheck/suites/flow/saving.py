"""FLO-26, 27: saves that fail, and how much is written."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.nursery import folder
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._saved import Story, elsewhere, here, run_in, shown
from pytest_flowcheck.suites.flow._worker import OUTPUT

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.nursery import Answer
    from pytest_flowcheck.suites.flow._saved import Others

FEW: Final = 25
"""Nodes."""

TIMES: Final = 4
"""So many times as many."""

AT_MOST: Final = 6.0
"""So many times the bytes. Where each node's end saves all outputs anew they are up to 16 times as many; where each save
has a price of its own beside, some pages of a database, say, ten times."""


@rule("FLO-26", "resume", "save")
def a_save_that_fails_is_reported(lab: Lab) -> None:
    """A save that fails is reported to the caller: a run is never a silent success without its state.

    Intent: Who is told "completed" deletes the input. If the disk was full, the output is then nowhere.

    Usual cause: `except OSError: log.warning(...)` around the save; a save in a background thread whose error nobody reads.

    Proof: No file of the process may grow (RLIMIT_FSIZE), from before the run begins, or from when its last node is at its gate. If the run is told as completed all the same, its state must be there: a fresh engine must answer a resume just as it answers that of a run which could be saved, and run no node.

    Source: spec-kit pull request 3224; fsync(2), "applications that want to know that their data is on the disk".
    """
    with elsewhere(lab) as others:
        with folder() as path:
            usual = Story(lab, "usual")
            attempt = others.engine(path).run(usual)
            if not usual.ends_well(attempt.answer()):
                raise Inconclusive(f"{attempt.what} {shown(attempt.answer())}", because_of="FLO-01")
            resumed = _resumed(lab, path, usual)
            if usual.times("report") > 1 or usual.forgotten(resumed):
                facts = f"the run had completed; then resume {shown(resumed)}, and report has started {usual.times('report')} times"
                raise Inconclusive(facts, because_of="FLO-19")
        failed = [_unsaved(lab, others, resumed, gated) for gated in (False, True)]
    if not any(failed):
        raise Inconclusive("no save could be made to fail: what the process writes to files is not its state")


def _resumed(lab: Lab, path: Path, story: Story) -> Answer:
    """What a fresh engine says of the run."""
    with here(lab, path) as engine:
        return engine.resume(story).answer()


def _unsaved(lab: Lab, others: Others, usual: Answer, gated: bool) -> bool:
    """Whether a run was reported whose process could not write; from the beginning, or from when its last node ran."""
    when = "when its last node, report, was in flight" if gated else "from the beginning"
    with folder() as path:
        story = Story(lab, "late" if gated else "early", gated=("report",) if gated else ())
        engine = others.engine(path)
        with ExitStack() as full:
            if not gated:
                full.enter_context(engine.without_room())
            attempt = engine.run(story)
            if gated:
                story.until_in_flight(attempt, "report")
                full.enter_context(engine.without_room())
            lab.open(story.call("report"))
            answer = attempt.answer()
        run = run_in(answer)
        if run is None or run.status != "completed":
            lab.note(f"no file could grow {when}: {attempt.what} {shown(answer)}")
            return True
        ran = len(lab.started())
        lab.open(story.call("report", 2))
        resumed = _resumed(lab, path, story)
        again = lab.started()[ran:]
        lab.check(
            not again and _alike(resumed, usual),
            f"no file could grow {when}, and {attempt.what} {shown(answer)}; then resume {shown(resumed)}"
            + (f", which ran {', '.join(again)}" if again else ""),
            f"the run is reported as failed, or its state is there: then resume {shown(usual)}, and runs nothing",
        )
        return False


def _alike(answer: Answer, usual: Answer) -> bool:
    """Both tell a run with the same end, or both raised the same."""
    one, other = run_in(answer), run_in(usual)
    if one is None or other is None:
        return one is other and answer.kinds == usual.kinds and answer.error.split(":")[0] == usual.error.split(":")[0]
    return one.status == other.status


@rule("FLO-27", "resume", should=True)
def bytes_grow_in_proportion_to_nodes(lab: Lab) -> None:
    """The bytes written for n nodes grow linearly in n. SHOULD.

    Intent: A run of ten thousand nodes that saves all that it has after each of them writes a terabyte, and spends its time on that.

    Usual cause: One document for the whole run, which every node's end writes anew.

    Proof: What a process gives to write calls (`wchar` of /proc/self/io) is counted, from opening the engine to leaving it, for a chain of 25 nodes and for one of 100, each of which gives a kilobyte. At most six times as much is linear; whole states each time are ten to sixteen times as much. No clock is read.

    Source: LevelDB and SQLite, whose logs are appended to; langgraph, "checkpoint size".
    """
    with elsewhere(lab) as others, folder() as path:
        bytes_of: dict[int, int] = {}
        for size in (2, FEW, FEW * TIMES):  # the first, for what is done once in a process
            answer, written = others.written(path / str(size), size)
            run = run_in(answer)
            if run is None or run.status != "completed":
                raise Inconclusive(f"a chain of {size} nodes {shown(answer)}", because_of="FLO-18")
            bytes_of[size] = written
            lab.note(f"{size} nodes: {written} bytes")
    few, many = bytes_of[FEW], bytes_of[FEW * TIMES]
    if many < FEW * TIMES * OUTPUT / 2:
        raise NotTestable(
            f"{FEW * TIMES} nodes gave {FEW * TIMES * OUTPUT} bytes, and {many} were written: it writes in another way"
        )
    lab.check(
        many <= AT_MOST * few,
        f"for {FEW} nodes that give {OUTPUT} bytes each {few} bytes were written, for {FEW * TIMES} nodes {many}: "
        f"{many / few:.1f} times as many",
        f"about {TIMES} times as many, at most {AT_MOST:g}",
    )
