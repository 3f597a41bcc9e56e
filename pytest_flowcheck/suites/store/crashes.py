"""STO-04, 05, 17, 20: what a kill or a power loss in the middle of a save leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.needs import STRACE, lacking
from pytest_flowcheck.probes.nursery import Answer, Lost, folder, told
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.store._child import Ask
from pytest_flowcheck.suites.store._crash import judge, recorded
from pytest_flowcheck.suites.store._shared import (
    RUN,
    among,
    elsewhere,
    files,
    granted,
    is_nothing,
    nursery,
    state,
)

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.proof.crash import CrashState
    from pytest_flowcheck.suites.store._shared import Nursery, Worker

OLDEST, OLD, NEW, OTHER = state(1), state(2, 40), state(3, 24), state(9)
"""Three saves of one run, the last one shorter than the one before; and the state of another run."""

BEFORE: Final[tuple[Ask, ...]] = (("save", "another", OTHER), ("save", RUN, OLDEST), ("save", RUN, OLD))
SAVE: Final[tuple[Ask, ...]] = (("save", RUN, NEW),)
LOADS: Final[tuple[Ask, ...]] = (("load", RUN), ("load", "another"))


def _whole(answers: Sequence[Answer], legal: Sequence[Any], unknown: Answer | None = None) -> str | None:
    """What is wrong with the loads of the run that was being saved and of the other one.

    `unknown`: what the load of a run says that was never saved, where that is right as well.
    """
    mine, other = answers
    if not among(mine, legal) and (unknown is None or not is_nothing(mine, unknown)):
        return f"the load {mine}"
    return None if among(other, [OTHER]) else f"the load of another run, which nobody was saving, {other}"


def _unknown(other: Worker) -> Answer:
    """What the load of a run says that was never saved."""
    with folder() as empty:
        return other.visit(empty, ("load", RUN))[0]


@rule("STO-04")
def a_kill_leaves_the_old_state_or_the_new(lab: Lab) -> None:
    """Killed at any point of a save: the old state or the new loads.

    Intent: Runs are killed: by a deployment, the OOM killer, an impatient user. They are saved for exactly that case.

    Usual cause: `open(path, "w")` empties the file before the new state is there.

    Proof: A save is traced once, in a process of its own. From its system calls each state is rebuilt that the folder passes through, writes torn in the middle included, and a fresh handle loads from every one. So is the first save of a run, before which there was none.

    Source: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014 (ALICE).
    """
    with elsewhere(lab) as other:
        unknown = _unknown(other)
        judge(
            lab,
            other,
            recorded(lab, BEFORE, SAVE),
            "kill",
            LOADS,
            lambda _state, answers: _whole(answers, [OLD, NEW]),
            "the old state or the new one, and that of other runs as it was",
        )
        judge(
            lab,
            other,
            recorded(lab, BEFORE[:1], SAVE),
            "kill",
            LOADS,
            lambda _state, answers: _whole(answers, [NEW], unknown),
            "NotFound or the new state, and that of other runs as it was",
        )


@rule("STO-05")
def a_power_loss_leaves_a_saved_state(lab: Lab) -> None:
    """At any power loss the old state or a saved one loads, never garbage or nothing.

    Intent: After the lights are back, the run goes on from some state that was saved; an empty file means all is lost.

    Usual cause: Replaced without fsync of the new file first: the directory has the new name on disk before the data is.

    Proof: From the system calls of a traced save each state is rebuilt that the disk could hold, with un-synced data lost, cut, or there in part, and directory entries early or late, as file systems may; a fresh handle loads from every one.

    Source: Pillai et al., OSDI 2014; LWN 322823, "ext4 and data loss" (2009); sqlite.org/atomiccommit.html.
    """
    with elsewhere(lab) as other:
        unknown = _unknown(other)
        judge(
            lab,
            other,
            recorded(lab, BEFORE, SAVE),
            "power",
            LOADS,
            lambda _state, answers: _whole(answers, [OLD, NEW]),
            "the old state or the new one, and that of other runs as it was",
        )
        judge(
            lab,
            other,
            recorded(lab, BEFORE[:1], SAVE),
            "power",
            LOADS,
            lambda _state, answers: _whole(answers, [NEW], unknown),
            "NotFound or the new state, and that of other runs as it was",
        )


@rule("STO-17", "durable")
def what_save_returned_from_is_there(lab: Lab) -> None:
    """Once `save` has returned, that state survives a power loss.

    Intent: Who tells a customer "done" after `save` must not take it back.

    Usual cause: The file is synced and the directory that holds its new name is not; a database's `synchronous` below what its journal needs.

    Proof: As in STO-05, and only the states that a power loss can leave after the save has returned: each must load as the new state, also where it is the run's first.

    Source: fsync(2): "Calling fsync() does not necessarily ensure that the entry in the directory containing the file has also reached disk"; sqlite.org/pragma.html#pragma_synchronous.
    """

    def after(crash: CrashState) -> bool:
        return crash.returned

    with elsewhere(lab) as other:
        for before in (BEFORE, BEFORE[:1]):
            judge(
                lab,
                other,
                recorded(lab, before, SAVE),
                "power",
                LOADS,
                lambda _state, answers: _whole(answers, [NEW]),
                f"the state that was saved: {told(NEW)}",
                only=after,
            )


@rule("STO-20")
def leftovers_neither_block_nor_grow(lab: Lab) -> None:
    """After a kill, no left-over (temporary file, lock) blocks the next save or grows over crashes.

    Intent: A run that is killed every night must not fill the disk, and must start in the morning.

    Usual cause: A lock file that its owner removes at the end; a temporary file with a random name that nobody ever removes.

    Proof: Savers are killed by the kernel as they write beyond a limit (RLIMIT_FSIZE, SIGXFSZ), some at the first byte, some further on, again and again in one folder, with saves that succeed in between; files are counted. From every state that a kill can leave by the trace of a save, a fresh handle saves and loads.

    Source: setrlimit(2); spec-kit `*.tmp` files; `lockfile`, which its author gave up for this.
    """
    with folder() as home, nursery(lab) as others:
        killed = 0
        for size in (0, 1, 1500, 5000):
            path = home / str(size)
            path.mkdir()
            killed += _count_leftovers(lab, others, path, size)
        missing = lacking(STRACE)
        if missing is not None and not killed:
            raise NotTestable(f"no limit to the size of files kills a saver of this store, and {missing}")
        if missing is None:
            recording = recorded(lab, BEFORE, SAVE)
            judge(
                lab,
                others.worker(),
                recording,
                "kill",
                (("save", RUN, OLDEST), ("load", RUN)),
                lambda _state, answers: _blocked(answers),
                "the next save works as ever",
                most=60,
            )


def _blocked(answers: Sequence[Answer]) -> str | None:
    saved, loaded = answers
    if not saved.returned:
        return f"the next save {saved}"
    return None if among(loaded, [OLDEST]) else f"the next save returned, and then the load {loaded}"


def _count_leftovers(lab: Lab, others: Nursery, path: Path, size: int) -> int:
    """How many savers of six were killed."""
    counts: list[int] = []
    killed = 0
    for crash in range(6):
        saver = others.worker()
        granted(saver.open(path), "opening the store", "STO-01")
        for run, value in (("another", OTHER), (RUN, OLD)):
            saved = saver.ask("save", run, value)
            if not saved.returned and killed < crash:
                raise Inconclusive(
                    f"a save beyond {size} bytes killed nobody, and then one {saved}", because_of="STO-06"
                )
            lab.check(
                saved.returned,
                f"after {killed} kills in the middle of a save, the next one {saved}",
                "it works as ever",
            )
        counts.append(len(files(path)))
        saver.request("limit", size, True)
        try:
            saver.ask("save", RUN, state(crash, 150))
        except Lost:
            saver.ended()
            killed += 1
        else:
            saver.kill()
    if killed == 0:
        return 0
    lab.note(f"{killed} savers were killed as they wrote beyond {size} bytes; files after each next save: {counts}")
    names = ", ".join(sorted(name.name for name in files(path))[:8])
    lab.check(
        counts[-1] <= counts[2],
        f"savers were killed in the middle of a save, and others saved after each; there were {counts} files then: {names}",
        "what a killed saver leaves is used again or removed: the number of files does not grow",
    )
    return killed
