"""Have these threads of this process come to rest, so that none goes on until another one lets it?

Much less than `observer` asks, and asked much more often: who could end the waits doesn't matter, as nothing is proven
here. That a thread rests only says that it is time for the next one to go on.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.proof import procfs, syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

Sample = tuple[bytes, tuple[bytes, ...]]

RESTLESS: Final = 100
"""A thread that was seen to have run between two looks so often, such as one that polls, is no longer waited for. One that
wants to run, and is given no processor, is."""
_RESTLESS_TOO: Final = 20
"""So often the next time."""
HOPELESS: Final = 20 * RESTLESS
"""After so many looks who matters is not waited for either: it may spin for what another, parked, will do. That only lets the
other go on. Where nobody matters more than others a judge comes next, and he must not come too early: no such bound."""


def tids() -> set[int]:
    """The native ids of the threads of this process."""
    return set(procfs.tids(os.getpid()))


class Rest:
    """Looks at the threads of one schedule."""

    def __init__(self, whose: Callable[[], set[int]]) -> None:
        """`whose`: the threads."""
        self._whose = whose
        self._last: dict[int, Sample] = {}
        self._since: dict[int, float] = {}
        """When the thread was first seen in the wait in which it still is."""
        self._looks = self._still = self._changes = 0
        self._moves: Counter[int] = Counter()
        self._of: int | None = None
        self.restless = RESTLESS
        """After so many moves a thread is no longer waited for."""

    def begin(self, of: int | None = None) -> None:
        """A series of looks: ask `reached` again and again, with a pause that gives the interpreter free. `of`: the
        thread that matters, should others never rest."""
        self._of, self._looks, self._still, self._changes = of, 0, 0, 0
        self._moves.clear()

    def reached(self) -> bool:
        """One look: does each thread sit in the wait in which it sat at the last one, and has none come or gone?"""
        self._looks += 1
        samples = {tid: sample for tid in self._whose() if (sample := _sample(tid)) is not None}
        now = monotonic()
        awake = {tid for tid, sample in samples.items() if not self._sits(tid, sample, now)}
        changed = samples.keys() != self._last.keys()
        self._changes += changed
        self._last = samples
        if not (awake or changed) or (self._of is not None and self._looks > HOPELESS):
            return True
        if (changed and self._changes <= self.restless) or any(
            tid == self._of or self._moves[tid] <= self.restless for tid in awake
        ):
            return False
        if self._of is None or self._still >= self.restless // 2:
            self.restless = _RESTLESS_TOO
            return True
        return False

    def _sits(self, tid: int, sample: Sample, now: float) -> bool:
        last = self._last.get(tid)
        if sample[0] == b"running" or last != sample:
            self._since[tid] = now
            self._moves[tid] += last is not None and last[1] != sample[1]
            return False
        self._still += tid == self._of
        return self._rests(tid, sample, now)

    def _rests(self, tid: int, sample: Sample, now: float) -> bool:
        """A thread that waits for the interpreter does so on a futex, with a deadline of one switch interval, over and
        over: it is seen to wake if one looks for long enough."""
        return not _waits_on_a_timed_futex(sample[0]) or now - self._since[tid] > 2.5 * sys.getswitchinterval()


def _sample(tid: int) -> Sample | None:
    try:
        line = procfs.read(f"/proc/self/task/{tid}/syscall")
        status = procfs.read(f"/proc/self/task/{tid}/status")
    except OSError:
        return None  # it is over
    state = procfs.state_of(status)
    if state in "ZXx":
        return None
    return (line if state == "S" else b"running"), procfs.switches(status)


def _waits_on_a_timed_futex(line: bytes) -> bool:
    names = syscalls.table() or {}
    words = line.split()
    if len(words) < 5 or not words[0].isdigit():
        return False
    name = names.get(int(words[0]), "")
    return name.startswith("futex") and (name != "futex" or int(words[4], 16) != 0)
