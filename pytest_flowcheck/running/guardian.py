"""A thread of the controller that watches the workers from outside: for those that can't even say that they are stuck.

A call into native code that keeps the interpreter's lock and waits for ever stops every Python thread of its process,
the watcher of the rule among them. The pulse (see `journal`) stops too, and that is what is seen here. The proof is the
kernel's again: all threads that are not waiting for the interpreter's lock are quiescent, so nobody will ever give it
back. What can't be proven is ended once patience has run out, and reads INCONCLUSIVE.
"""

from __future__ import annotations

import os
import threading
from time import monotonic
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.certificate.verdicts import Verdict
from pytest_flowcheck.proof import Harness, Observer, State, descendants, kill_tree, wait_list
from pytest_flowcheck.proof.sighting import Wait, conclude
from pytest_flowcheck.running import journal
from pytest_flowcheck.running.resolve import ended

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_flowcheck.errors import Grade

LOOKS: Final = 3
"""Equal looks that make a proof."""

ROUND: Final = 0.25
"""Seconds between two rounds."""

SILENT: Final = 3 * journal.BEAT
"""Seconds without a pulse after which a proof is tried."""

MARGIN: Final = 10.0
"""Seconds beyond patience after which a worker without a pulse is ended without a proof."""

HURRY: Final = 3.0
"""Seconds that workers have to end when the session has."""


class Guardian:
    """Watches, kills what is proven stuck, and sweeps up what dead workers leave behind.

    Guarantees: a process is killed only if it is a worker, or below this process and neither there at the start, nor
    a worker, nor below one. `verdicts` holds an entry before the worker that it is about is killed.
    """

    def __init__(self, folder: Path, patience: float) -> None:
        self.verdicts: dict[str, tuple[Verdict, Grade, str]] = {}
        self._folder, self._patience = folder, patience
        self._before: set[int] = set()
        self._workers: dict[str, int] = {}
        self._ended: dict[str, str] = {}
        self._beats: dict[str, tuple[float, float]] = {}
        self._starting = 0
        self._hurry = 0.0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="flowcheck guardian")

    def start(self) -> None:
        """Begin to watch. Everything that runs below this process now is none of our business."""
        self._before = set(descendants())
        self._thread.start()

    def starting(self, count: int) -> None:
        """So many workers are about to be started: processes that are not known yet may be theirs."""
        with self._lock:
            self._starting += count

    def started(self, worker: str, pid: int) -> None:
        """One of them runs."""
        with self._lock:
            self._workers[worker] = pid
            self._starting = max(0, self._starting - 1)

    def hurry(self) -> None:
        """The session is over: workers that do not end soon are killed."""
        self._hurry = monotonic() + HURRY

    def close(self) -> None:
        """Stop watching, and end everything that is left below this process and was not there at the start."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        kill_tree([pid for pid in descendants() if pid not in self._before])

    def how(self, worker: str) -> str:
        """How a worker ended, in words. Waits for a moment: the end of its pipe comes before its own."""
        pid = self._workers.get(worker, 0)
        if worker not in self._ended and pid:
            self._ended[worker] = _how(pid, wait=True)
        return self._ended.get(worker, "ended")

    def _watch(self) -> None:
        while not self._stop.wait(ROUND):
            for worker, pid in list(self._workers.items()):
                if worker in self._ended:
                    continue
                if how := _how(pid, wait=False):
                    self._ended[worker] = how
                    self._sweep()
                elif self._hurry and monotonic() > self._hurry:
                    kill_tree([*descendants(pid), pid])
                else:
                    self._look(worker, pid)

    def _sweep(self) -> None:
        """End what dead workers left behind: it holds their pipes open, so that xdist would not learn of their end."""
        with self._lock:
            if self._starting:
                return  # the next round, or the end of the run, will do
            below = set(descendants())
            alive = [pid for worker, pid in self._workers.items() if worker not in self._ended]
            # what is below a live worker is still below it when we look the second time: it keeps its own orphans
            kept = {*alive, *self._before}.union(*(descendants(pid) for pid in alive))
            kill_tree(sorted(below - kept))

    def _look(self, worker: str, pid: int) -> None:
        page = journal.read(self._folder, worker)
        if not page.begun or worker in self.verdicts:
            return
        now = monotonic()
        latest = max(page.beat, page.begun)
        if self._beats.get(worker, (0.0, 0.0))[0] != latest:
            self._beats[worker] = latest, now
        silent = now - self._beats[worker][1]
        if silent < SILENT:
            return
        if waits := _proof(page):
            message = (
                "What it did:   native code holds the interpreter's lock and waits: no Python thread of the process can run\n"
                "Expected:      the call returns, or gives the lock back while it waits\n"
                "Why proof:     every thread that does not wait for the interpreter's lock sits in a wait without a deadline "
                "that only this process tree could end (read from the kernel, three equal looks in a row)\n"
                + "\n".join(f"    {line}" for line in waits)
            )
            self.verdicts[worker] = Verdict.HUNG, "proven", message
        elif silent > self._patience + MARGIN:
            message = (
                f"the interpreter that carries the subject gave no sign of life for {silent:.0f} s, and that it never "
                "will could not be proven; its process was ended"
            )
            self.verdicts[worker] = Verdict.INCONCLUSIVE, "observed", message
        else:
            return
        kill_tree([*descendants(pid), pid])


def _how(pid: int, *, wait: bool) -> str:
    """How a child ended, without collecting it (xdist does that); empty while it lives."""
    flags = os.WEXITED | os.WNOWAIT | os.WNOHANG
    deadline = monotonic() + 1.0
    while True:
        try:
            found = os.waitid(os.P_PID, pid, flags)
        except (ChildProcessError, AttributeError):
            return "ended"
        if found is not None:
            killed = found.si_code in {os.CLD_KILLED, os.CLD_DUMPED}
            return ended(-found.si_status if killed else found.si_status)
        if not wait:
            return ""
        if monotonic() > deadline:
            return "closed the connection to the kit, a descriptor that is not the subject's,"
        _pause(pid)


def _pause(pid: int) -> None:
    """Until the process ends, or a moment has passed."""
    import select

    try:
        handle = os.pidfd_open(pid)
    except (OSError, AttributeError):
        threading.Event().wait(0.05)
        return
    try:
        select.select([handle], [], [], 0.5)
    finally:
        os.close(handle)


class _Excused(Harness):
    """Threads that can do nothing before somebody gives the interpreter's lock back."""

    def __init__(self, keys: set[tuple[int, int]]) -> None:
        super().__init__()
        self._keys = keys

    def threads(self) -> list[tuple[int, int]]:
        return sorted(self._keys)

    def owns(self, pid: int, tid: int) -> bool:
        return (pid, tid) in self._keys


def _proof(page: journal.Page) -> list[str]:
    """The wait list, if it is proven that the interpreter's lock will never be given back; else nothing.

    The pulse is late, so its thread waits for that lock, and with it whoever waits at the same address. Threads that
    were there before any subject need the lock too before they can do anything; but for one that has it: on a busy machine
    the main thread keeps it for seconds while it loads a large library, and then it runs, or waits for the disk.
    """
    at = _address(page.pid, page.pulse_tid)
    if at is None:
        return []
    excused = {(page.pid, tid) for tid in page.tids}
    for name in os.listdir(f"/proc/{page.pid}/task"):
        other = _address(page.pid, int(name))
        # a condition variable has two words, four bytes apart, at which its waiters take turns
        if other is not None and abs(other - at) <= 8:
            excused.add((page.pid, int(name)))
    observer = Observer(_Excused(excused), root=page.pid)
    waits: tuple[Wait, ...] = ()
    for _ in range(LOOKS):
        if any(_state(page.pid, tid) != "S" for _, tid in excused):
            return []
        sighting = observer.look()
        # A timer of the worker itself (pytest-timeout's) ends no wait: Python's handlers run under that very lock.
        waits = tuple(w for w in sighting.waits if (w.pid, w.tid, w.kind) != (page.pid, 0, "timed"))
        if not waits or conclude(waits).state is not State.QUIESCENT:
            return []
    return wait_list(conclude(waits))


def _state(pid: int, tid: int) -> str:
    """What the kernel says that a thread does: R, S, D and so on; S also for one that is gone, and does nothing."""
    try:
        with open(f"/proc/{pid}/task/{tid}/stat") as file:
            return file.read().rpartition(") ")[2][0]
    except OSError:
        return "S"


def _address(pid: int, tid: int) -> int | None:
    """The address at which a thread waits in the kernel; None if it runs or is gone."""
    try:
        with open(f"/proc/{pid}/task/{tid}/syscall") as file:
            words = file.read().split()
    except OSError:
        return None
    return int(words[1], 16) if len(words) > 2 else None
