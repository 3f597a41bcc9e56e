"""Which threads, descriptors and timers are the test harness's: they can't end a wait of the subject.

The rule is narrow on purpose. "All that existed" would be wrong: a thread that an earlier rule leaked is the
subject's, and can still wake what the subject waits for.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Self

from pytest_flowcheck.proof import procfs
from pytest_flowcheck.proof.processes import family, is_subreaper

Key = tuple[int, int]
_EVENTFD_ID = re.compile(rb"eventfd-id:\s*(\d+)")


def thread_start(pid: int, tid: int) -> int | None:
    """When the thread began, in clock ticks; None if it is gone. Tells two threads apart that had one id."""
    try:
        return procfs.stat(f"/proc/{pid}/task/{tid}/stat").start
    except (OSError, ValueError):
        return None


def object_key(process: str, fd: int | str) -> str | None:
    """A name of the kernel object behind a descriptor, equal in all processes that hold it; None for none.

    `process` is a folder of `/proc`, such as `/proc/7` or `/proc/7/task/8`.
    """
    link = os.readlink(f"{process}/fd/{fd}")
    if link.startswith(("pipe:", "socket:")) or link == "anon_inode:[timerfd]":
        return link
    if link == "anon_inode:[eventfd]":
        found = _EVENTFD_ID.search(procfs.read(f"{process}/fdinfo/{fd}"))
        return f"eventfd:[{found.group(1).decode()}]" if found else f"eventfd of {process}:{fd}"
    return None


class Harness:
    """Which threads, descriptors and timers belong to the test harness and so can't end the subject's waits.

    Guarantees: a thread is the harness's if it was there at the start, was adopted, or appeared between two rules
    while no thread of the subject ran. A thread once known as the subject's stays so for ever.
    """

    def __init__(self) -> None:
        self.external: frozenset[str] = frozenset()
        """Kernel objects open at the start: somebody outside may hold their other end."""
        self.since: int | None = None
        """When it started, in clock ticks; processes older than that can't hold what came later."""
        self.keeps_orphans = False
        """Whether this process was a subreaper from the start on: then no descendant ever leaves the tree."""
        self._ours: dict[Key, int] = {}
        self._subject: dict[Key, int] = {}
        self._at_end: dict[Key, object] = {}
        self._alarm: Any = None

    @classmethod
    def at_start(cls, tids: Iterable[int] | None = None, *, but: Collection[int] = ()) -> Self:
        """Call it in `pytest_configure`, before any subject exists (and after `become_subreaper`).

        Args:
            tids: the threads of this process that were there before any subject; None for all that are there now.
            but: of those, the ones that may be a subject's all the same.
        """
        harness = cls()
        if not procfs.LINUX:
            return harness
        me = os.getpid()
        for pid in family(me) if tids is None else ():
            harness._take(pid)
        for tid in tids or ():
            harness.adopt(tid)
        for tid in but:
            harness.disown(tid)
        harness.rule_ended()  # who is not the harness's now is never taken for it
        held: set[str] = set()
        for fd in os.listdir("/proc/self/fd"):
            try:
                key = object_key("/proc/self", fd)
            except OSError:
                continue  # the descriptor of the listing itself
            if key is not None:
                held.add(key)
        harness.external = frozenset(held)
        harness.since = _now_ticks()
        harness.keeps_orphans = is_subreaper()
        return harness

    @classmethod
    def as_of(cls, at: int, threads: Mapping[int, int], objects: frozenset[str]) -> Self:
        """The same from what was noted earlier in this process: where nothing of ours may be imported at the start.

        Args:
            at: when, in clock ticks since boot.
            threads: native ids of those that are the harness's, and when each began, in clock ticks.
            objects: what was open, by `object_key`.
        """
        harness = cls()
        harness.since, harness.external = at, objects
        harness._ours = {(os.getpid(), tid): start for tid, start in threads.items()}
        return harness

    def _take(self, pid: int) -> None:
        for tid, start in _threads(pid).items():
            if (pid, tid) not in self._subject:
                self._ours[pid, tid] = start

    def adopt(self, tid: int) -> None:
        """A native thread id of this process that is ours, e.g. of the server that probes report to."""
        start = thread_start(os.getpid(), tid) if procfs.LINUX else None
        if start is not None:
            self._ours[os.getpid(), tid] = start
            self._subject.pop((os.getpid(), tid), None)

    def disown(self, tid: int) -> None:
        """A thread of this process that runs the subject from now on (the main thread, where a rule needs it)."""
        self._ours.pop((os.getpid(), tid), None)

    def between_rules(self, tids: Iterable[int] | None = None) -> None:
        """Call it just before a rule begins: what came since `rule_ended()` is the harness's.

        Args:
            tids: the threads of this process that are, where not all that came need be.

        Such are pytest-timeout's timer thread or its SIGALRM, and faulthandler's watchdog. If a thread that the
        subject left behind has run in between, new threads may be its own: then none is taken.
        """
        if not procfs.LINUX:
            return
        me = os.getpid()
        for tid in tids or ():
            self.adopt(tid)
        if tids is None and all(_fingerprint(*key) == before for key, before in self._at_end.items()):
            self._take(me)
        handler: Any = signal.getsignal(signal.SIGALRM)
        if signal.getitimer(signal.ITIMER_REAL)[0] and callable(handler):
            self._alarm = handler
            _reset_in_children(handler)
        else:
            self._alarm = None

    def rule_ended(self) -> None:
        """Call it just after a rule: every thread that is not the harness's now is the subject's for ever."""
        if not procfs.LINUX:
            return
        me = os.getpid()
        for tid, start in _threads(me).items():
            if self._ours.get((me, tid)) != start:
                self._ours.pop((me, tid), None)
                self._subject[me, tid] = start
        alive = {key: start for key, start in self._subject.items() if thread_start(*key) == start}
        self._subject = alive
        self._at_end = {key: _fingerprint(*key) for key in alive}

    def living(self) -> list[int]:
        """The native ids of this process's threads, whosever they are."""
        return list(_threads(os.getpid())) if procfs.LINUX else []

    def threads(self) -> list[Key]:
        """The ids that may be the harness's (`owns` tells whether one still is)."""
        return list(self._ours)

    def owns(self, pid: int, tid: int) -> bool:
        """Whether this very thread (not one that got its id later) is the harness's."""
        start = self._ours.get((pid, tid))
        return start is not None and thread_start(pid, tid) == start

    def owns_alarm(self) -> bool:
        """Whether an armed SIGALRM would run the handler that the harness had set before the rule."""
        return self._alarm is not None and signal.getsignal(signal.SIGALRM) is self._alarm


def _threads(pid: int) -> dict[int, int]:
    try:
        listed = procfs.tids(pid)
    except OSError:
        return {}
    starts = {tid: thread_start(pid, tid) for tid in listed}
    return {tid: start for tid, start in starts.items() if start is not None}


def _fingerprint(pid: int, tid: int) -> object:
    """Equal at two moments only if the thread did not run between them."""
    try:
        return (
            procfs.read(f"/proc/{pid}/task/{tid}/syscall"),
            procfs.switches(procfs.read(f"/proc/{pid}/task/{tid}/status")),
        )
    except OSError:
        return None


def _now_ticks() -> int:
    uptime = float(procfs.read("/proc/uptime").split()[0])
    return int(uptime * os.sysconf("SC_CLK_TCK"))


_alarms: dict[str, Callable[[Any], bool]] = {}
_registered: list[bool] = []


def _reset_in_children(handler: Any) -> None:
    forget_alarm_in_children("of the rule", lambda now: now is handler)


def forget_alarm_in_children(whose: str, is_ours: Callable[[Any], bool]) -> None:
    """A fork inherits the harness's handler but not its timer; without it "catches SIGALRM" tells who has a timer.

    Args:
        whose: replaces what was said before under this name.
        is_ours: whether a handler of SIGALRM is the harness's; must not raise.
    """
    if not _registered:
        _registered.append(True)
        os.register_at_fork(after_in_child=_forget_alarm)
    _alarms[whose] = is_ours


def _forget_alarm() -> None:
    handler: Any = signal.getsignal(signal.SIGALRM)
    if threading.current_thread() is threading.main_thread() and any(ours(handler) for ours in _alarms.values()):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
