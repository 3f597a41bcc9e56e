"""Reading quiescence: is there any thread in this process tree that can ever run again?

Why two equal samples prove a common moment. A sample of a thread is its system call line, then its state and its
context-switch counters. Equal counters in both samples mean that the thread never left a processor between the first
sample's counters and the second's; the second system call line is printed by the kernel only for a thread that is off
its processor and not runnable. So the thread was off, in that call, for all of the time between its two samples. The
first sample of *every* thread is complete before the second sample of *any* begins: there is a moment at which all of
them were blocked at once, in the calls that are then judged one by one. Threads or processes that come or go between
the samples mean that something ran.
Source: `task_current_syscall` in `lib/syscall.c`; `nvcsw` and `nivcsw` in `kernel/sched/core.c`.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import TYPE_CHECKING

from pytest_flowcheck.proof import procfs, syscalls
from pytest_flowcheck.proof.decode import reach_of
from pytest_flowcheck.proof.harness import Harness, Key
from pytest_flowcheck.proof.holders import Holders
from pytest_flowcheck.proof.pollers import excuse
from pytest_flowcheck.proof.processes import family
from pytest_flowcheck.proof.sighting import Sighting, State, Wait, conclude

if TYPE_CHECKING:
    from collections.abc import Callable

_TIMER_SIGNALS = (signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF) if procfs.LINUX else ()
_IO_SIGNALS = (signal.SIGIO, signal.SIGURG) if procfs.LINUX else ()
_BLIND = b"blind"
_RUNNING = b"running"
_STOPPED = b"stopped"
Sample = dict[Key, tuple[bytes, tuple[bytes, ...]]]


class Observer:
    """Looks at one process tree. Guarantee: a QUIESCENT sighting is a proof; nothing else is.

    Limits, known and accepted: those that `holders` lists; and a child that called `alarm()` without a handler, whose
    death no file of the kernel announces.
    """

    def __init__(self, harness: Harness | None = None, *, root: int | None = None) -> None:
        """`root`: whose tree to look at, by default this process's own (then the looking thread is left out)."""
        self._harness = harness or Harness()
        self._root = os.getpid() if root is None else root
        self._names = syscalls.table() if procfs.LINUX else None
        self._tree: list[int] = []
        """The last look's. Whom the samples are of is compared with who is there after them: it may be any list."""

    def look(self, gap: float = 0.001) -> Sighting:
        """Two samples, `gap` seconds apart (the thread that looks gives the interpreter free meanwhile)."""
        if self._names is None:
            return Sighting(State.BLIND, (), "no kernel states to read on this platform")
        me = (os.getpid(), threading.get_native_id())
        try:
            before = self._tree or family(self._root)
            skip = {key for key in self._harness.threads() if self._harness.owns(*key)} | {me}
            first = _sample(before, skip)
            select.select((), (), (), gap)
            if not _may_rest(first):
                return conclude(tuple(wait for key in sorted(first) if (wait := _moved(key, first[key], first[key]))))
            second = _sample(before, skip)
            self._sampled()
            after = self._tree = family(self._root)
        except ProcessLookupError:
            return Sighting(State.RUNNING, (), f"process {self._root} is gone")
        if set(before) != set(after):
            return Sighting(State.RUNNING, (), "processes came or went")
        moved = [_moved(key, first.get(key), second.get(key)) for key in first.keys() | second.keys()]
        waits = [wait for wait in moved if wait is not None]
        if waits:
            return conclude(tuple(sorted(waits, key=_place)))
        return conclude((*excuse(self._waits(second, frozenset(after), self._names)), *self._clocks(after)))

    def _sampled(self) -> None:
        """Called right behind the second sample: what it proves was so before this moment."""

    def prove(self, log_length: Callable[[], int], *, streak: int = 3) -> Sighting:
        """Look until `streak` QUIESCENT sightings in a row left the log as long as it was; or until one is not.

        Guarantee: returns QUIESCENT only if no event was logged between the first of these looks and the last.
        """
        length, seen = log_length(), 0
        while True:
            sighting = self.look()
            if sighting.state is not State.QUIESCENT:
                return sighting
            now = log_length()
            seen = seen + 1 if now == length else 0
            length = now
            if seen >= streak:
                return sighting

    def _waits(self, sample: Sample, tree: frozenset[int], names: dict[int, str]) -> list[Wait]:
        holders = Holders(tree, self._harness.external, self._may_hide)
        waits: list[Wait] = []
        for (pid, tid), (line, _switches) in sorted(sample.items()):
            if line == _STOPPED:
                waits.append(Wait(pid, tid, "external", "is stopped"))
                continue
            try:
                reach = reach_of(line, pid, holders, names)
            except PermissionError as error:
                waits.append(Wait(pid, tid, "blind", f"can't be read ({error.filename or error})"))
            except (ProcessLookupError, FileNotFoundError):
                waits.append(Wait(pid, tid, "running", "ended during the look"))
            except OSError as error:
                waits.append(Wait(pid, tid, "blind", f"can't be read ({error})"))
            else:
                waits.append(Wait(pid, tid, reach.kind, reach.text))
        return waits

    def _may_hide(self, pid: int) -> bool:
        """Could this process, which we may not look into, hold what a process of the tree opened?

        Only by inheritance: so not if it is older than the harness, nor if no orphan ever left the tree.
        """
        if self._harness.keeps_orphans and self._root == os.getpid():
            return False
        try:
            since = self._harness.since
            if since is None:
                since = procfs.stat(f"/proc/{self._root}/stat").start
            return pid == 0 or procfs.stat(f"/proc/{pid}/stat").start >= since
        except OSError:
            return True

    def _clocks(self, tree: list[int]) -> list[Wait]:
        """What could end any wait through a signal handler: interval timers, POSIX timers, signals of descriptors."""
        found: list[Wait] = []
        for pid in tree:
            try:
                found += self._clocks_of(pid)
            except PermissionError as error:
                found.append(Wait(pid, 0, "blind", f"can't be read ({error.filename})"))
            except OSError:
                found.append(_out_of_sight(pid))
        return found

    def _clocks_of(self, pid: int) -> list[Wait]:
        found: list[Wait] = []
        if not procfs.is_64_bit(pid):
            found.append(Wait(pid, 0, "external", "runs a 32-bit program, whose system calls are not understood"))
        caught = procfs.caught(procfs.read(f"/proc/{pid}/status"))
        if pid == os.getpid():
            if signal.getitimer(signal.ITIMER_REAL)[0] and not self._harness.owns_alarm():
                found.append(Wait(pid, 0, "timed", "has an interval timer (SIGALRM)"))
            if signal.getitimer(signal.ITIMER_VIRTUAL)[0] or signal.getitimer(signal.ITIMER_PROF)[0]:
                found.append(Wait(pid, 0, "timed", "has an interval timer of processor time"))
        else:
            found += [Wait(pid, 0, "timed", f"has a handler for {number.name}, so maybe a timer")
                      for number in _TIMER_SIGNALS if caught >> (number - 1) & 1]  # fmt: skip
        found += [Wait(pid, 0, "external", f"has a handler for {number.name}")
                  for number in _IO_SIGNALS if caught >> (number - 1) & 1]  # fmt: skip
        try:
            timers = procfs.read(f"/proc/{pid}/timers")
        except FileNotFoundError:
            found.append(Wait(pid, 0, "blind", "may have POSIX timers: this kernel does not list them"))
        else:
            if timers:
                found.append(Wait(pid, 0, "timed", "has a POSIX timer"))
        if any("io_uring" in link for link in _links(pid)):
            found.append(Wait(pid, 0, "external", "has an io_uring, whose work is not seen"))
        return found


def _out_of_sight(pid: int) -> Wait:
    """Why the files of a process are not there: it ended, or its main thread did before the others."""
    try:
        half = procfs.stat(f"/proc/{pid}/stat").state == "Z"
    except OSError:
        half = False
    if half:
        return Wait(pid, 0, "blind", "can't be read: its main thread has ended before the others")
    return Wait(pid, 0, "running", "ended during the look")


def _links(pid: int) -> list[str]:
    links: list[str] = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
    return links


def _sample(tree: list[int], skip: set[Key]) -> Sample:
    """The system call line and the switch counters of every thread that is not skipped."""
    found: Sample = {}
    for pid in tree:
        try:
            listed = procfs.tids(pid)
        except OSError:
            continue  # it ended: the comparison of the trees tells
        for tid in listed:
            if (pid, tid) in skip:
                continue
            try:
                line = procfs.read(f"/proc/{pid}/task/{tid}/syscall")
                status = procfs.read(f"/proc/{pid}/task/{tid}/status")
            except PermissionError:
                found[pid, tid] = (_BLIND, ())
                continue
            except OSError:
                continue  # it ended: the comparison of the samples tells
            state = procfs.state_of(status)
            if state in "ZXx":
                continue
            if state in "Tt":
                line = _STOPPED
            elif state != "S":
                line = _RUNNING
            found[pid, tid] = (line, procfs.switches(status))
    return found


def _may_rest(sample: Sample) -> bool:
    return not any(line.startswith((_RUNNING, _BLIND)) for line, _switches in sample.values())


def _moved(key: Key, first: tuple[bytes, object] | None, second: tuple[bytes, object] | None) -> Wait | None:
    """Why this thread was not at rest between the samples, or None if it was."""
    if first is None or second is None:
        return Wait(*key, "running", "came or went")
    if _BLIND in {first[0], second[0]}:
        return Wait(*key, "blind", "can't be read (not permitted)")
    if first != second or second[0].startswith(_RUNNING):
        return Wait(*key, "running", "runs")
    return None


def _place(wait: Wait) -> Key:
    return wait.pid, wait.tid
