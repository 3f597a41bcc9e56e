"""STO-06: disks that are full or broken, permissions that are missing, in the middle of a save."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.needs import STRACE, lacking
from pytest_flowcheck.probes.nursery import Answer, folder, told
from pytest_flowcheck.proof import faults
from pytest_flowcheck.proof.crash import END
from pytest_flowcheck.proof.strace import mark_of
from pytest_flowcheck.protocols import Refused
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.store._child import Ask
from pytest_flowcheck.suites.store._crash import recorded, requests
from pytest_flowcheck.suites.store._shared import RUN, Scripts, among, files, granted, nursery, state, visit
from pytest_flowcheck.suites.store.crashes import BEFORE, LOADS, NEW, OLD, OTHER, SAVE

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.proof.crash import Recording
    from pytest_flowcheck.proof.faults import Fault
    from pytest_flowcheck.proof.strace import Call
    from pytest_flowcheck.suites.store._shared import Nursery, Worker

ONCE, LASTING = 24, 8
"""Faults that are injected: in one call, and in all from one on. Of more, the first, the last, and some evenly between."""

AFTER: Final = state(5, 10)
SETTLE: Final[tuple[Ask, ...]] = (("load", RUN), ("save", RUN, AFTER), ("load", RUN))
"""What the same handle is asked for once the condition has passed."""


@rule("STO-06")
def a_save_that_fails_says_so_and_harms_nothing(lab: Lab) -> None:
    """Disk full, I/O error, permission denied at any operation: a clear error, the old state intact, no litter, and once the condition has passed the next save works.

    Intent: Disks are full at night; in the morning the run must be where it was, and go on.

    Usual cause: An error of `write` or `fsync` that is logged and forgotten; an `fsync` that is tried until it succeeds; a file that was emptied before; a temporary file that stays for each failure.

    Proof: Files may not grow beyond so many bytes, for many numbers (RLIMIT_FSIZE): each save that fails must say so as OSError, and leave the old state to be loaded. Then the kernel is made to refuse single system calls of a save, one after the other (ENOSPC, EIO, EACCES, by strace). A fault that comes after the new state took its place, as in the fsync of the directory, may leave the new one. Where an fsync failed and the save returned, the data was not just synced again: the kernel tells such an error once, and may have dropped what it could not write. The next save must work, and leave no more files than it does where nothing ever failed.

    Source: Prabhakaran et al., "IRON File Systems", SOSP 2005; Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
    """
    missing = lacking(STRACE)
    with nursery(lab) as others:
        failed = _no_room(lab, others)
        if missing is None:
            failed += _refused(lab, others.worker())
    if missing is None:
        if not failed:
            raise Inconclusive("no save could be made to fail")
    elif not failed:
        raise NotTestable(missing)
    else:
        lab.grade, lab.observed_because = "observed", f"only limits to the size of files were tried: {missing}"


def _spread(plans: Sequence[Fault], most: int) -> list[Fault]:
    """So many, evenly, the first and the last among them."""
    if len(plans) <= most:
        return list(plans)
    return [plans[round(place * (len(plans) - 1) / (most - 1))] for place in range(most)]


# --- no room ------------------------------------------------------------------------------------------------------------


def _no_room(lab: Lab, others: Nursery) -> int:
    """How many saves failed because files may not grow."""
    sizes = [0, 1, 10, 100, 500, 1000, 2000, 3000, 4000, 6000, 9000, 13000, 20000, 40000]
    failed = 0
    with folder() as path:
        granted(visit(lab, path, ("save", "another", OTHER))[0], "save", "STO-01")
        granted(visit(lab, path, ("save", RUN, OLD))[0], "save", "STO-01")
        saver = others.worker()
        granted(saver.open(path), "opening the store", "STO-01")
        for value in (OLD, AFTER, OLD):
            saver.must("save", RUN, value)
        usual = len(files(path))  # while a handle is open: a database has files beside it then
        for size in sizes:
            new = state(4, 400)
            saver.request("limit", size)
            saved = saver.ask("save", RUN, new)
            saver.request("limit", None)
            where = f"a save while no file may grow beyond {size} bytes"
            failed += not saved.returned
            _judge(lab, where, saved, visit(lab, path, ("load", RUN), ("load", "another")), [OLD], new)
            settled = [saver.ask(*ask) for ask in SETTLE]
            if len(files(path)) > usual:
                saver.request("collect")
            _recovers(lab, where, settled, path, usual)
            saver.must("save", RUN, OLD)
    return failed


def _judge(lab: Lab, where: str, saved: Answer, loads: Sequence[Answer], old: Sequence[Any], new: Any) -> None:
    """What one save came to under a fault, and what a fresh handle loads after that."""
    loaded, beside = loads
    if saved.returned:
        lab.check(
            among(loaded, [new]),
            f"{where} returned as if nothing had happened; then the load {loaded}",
            "it raises, or has saved the new state",
        )
    else:
        lab.check(
            saved.is_a(OSError, Refused),
            f"{where} raised {saved.error}",
            "OSError (in itself or by the table `errors`), for what the system refuses",
        )
        lab.check(
            among(loaded, [*old, new]),
            f"{where} raised {saved.error}; then the load by a fresh handle {loaded}",
            f"the old state, intact: {told(old[-1])}",
        )
    lab.check(
        among(beside, [OTHER]),
        f"{where} {'returned' if saved.returned else 'raised'}; then the load of another run {beside}",
        "other runs as they were",
    )


def _recovers(lab: Lab, where: str, settled: Sequence[Answer], path: Path, usual: int) -> None:
    """The same handle, once the condition has passed."""
    loaded, again, last = settled
    lab.check(
        loaded.returned,
        f"after {where}, the same handle's load {loaded}",
        "the old state, or the new one if it took its place",
    )
    lab.check(
        again.returned, f"after {where} the condition passed, and the same handle's next save {again}", "it works"
    )
    lab.check(among(last, [AFTER]), f"after {where} and a save that worked, the load {last}", told(AFTER))
    there = files(path)
    names = ", ".join(sorted(name.name for name in there))
    lab.check(
        len(there) <= usual,
        f"after {where} and a save that worked there are {len(there)} files: {names}",
        f"{usual}, as where nothing failed: no litter",
    )


# --- single system calls ------------------------------------------------------------------------------------------------


def _refused(lab: Lab, other: Worker) -> int:
    """How many saves failed because the system refused a call."""
    recording = recorded(lab, BEFORE, SAVE)
    failed, scripts = 0, Scripts(lab)
    for lasting, most in ((True, LASTING), (False, ONCE)):
        plans = [fault for fault in faults.plans(recording, lasting=lasting) if fault.condition != "KILL"]
        for fault in _spread(plans, lab.repeated(most)):
            failed += _refuse(lab, scripts, other, recording, fault)
    return failed


def _refuse(
    lab: Lab, scripts: Scripts, other: Worker, recording: Recording, fault: Fault, *, passes: bool = True
) -> bool:
    """Whether the fault hit the save. `passes`: it can be told that the condition is over once the save is."""
    passes = passes and not fault.lasting
    with folder() as path:
        argv = scripts.argv(requests(path, BEFORE, SAVE, SETTLE if passes else ()))
        run = faults.inject(argv, fault, recording, path, server=scripts.server)
        answers = scripts.answers(run.marks)
        if not run.hit:
            lab.note(f"{fault}: not hit, the save goes another way each time")
            return False
        if passes and len(run.hits) > 1:
            # calls are counted in each thread for itself, so one that the store starts for each save meets it again
            return _refuse(lab, scripts, other, recording, fault, passes=False)
        lab.check(
            answers is not None,
            f"{fault}: the process that saved ended with status {run.status}: {run.output[-300:]}",
            "the save raises, and the process goes on",
        )
        assert answers is not None
        saved, *settled = answers[2 + len(BEFORE) :]
        lab.note(f"{fault}: save {'returned' if saved.returned else f'raised {saved.error}'}")
        again = _synced_again(run.records, path) if saved.returned and not recording.mapped else None
        lab.check(
            again is None,
            f"{fault}: {again} was synced again, with nothing written to it meanwhile, and the save returned",
            "it raises, or writes the data once more",
        )
        if not passes:
            more = " and all like it after that" if fault.lasting else ""
            where = f"a save in which the system refused one call{more} ({fault})"
            _judge(lab, where, saved, other.visit(path, *LOADS), [OLD], NEW)
            return True
        where = f"a save in which the system refused one call ({fault})"
        _judge(lab, where, saved, [settled[1], other.visit(path, LOADS[1])[0]], [OLD], NEW)
        _recovers(lab, where, settled[1 : 1 + len(SETTLE)], path, _files_left(recording))
    return True


def _synced_again(calls: Sequence[Call], folder: Path) -> str | None:
    """A file whose sync failed, and that was synced again before the save was over, without having been written to."""
    lost: set[bytes] = set()
    for call in calls:
        if mark_of(call) == END:
            return None
        if call.name not in ("fsync", "fdatasync"):
            lost -= set(call.paths) if call.name in _CHANGES else set()
        elif call.injected:
            lost |= set(call.paths)
        elif not call.failed and (found := lost & set(call.paths)):
            name = Path(os.fsdecode(found.pop()))
            if name != folder and not name.is_dir():
                return name.name
    return None


_CHANGES: Final = frozenset(("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range"))


def _files_left(recording: Recording) -> int:
    """Files in the folder once the recorded save, which met no fault, was over."""
    *_, last = recording.states("kill")
    return len(last.files)
