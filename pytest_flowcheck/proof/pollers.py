"""Threads that wake up by the clock, look at a flag of their own, and sleep again.

Their clock is no reason to doubt: what they look at can only be changed by a thread that runs.
"""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.proof.sighting import Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from types import FrameType

TRIO_LONGEST: Final = "a deadline of 86400000 ms"
"""How long a trio loop waits for events at most, as `decode` words it: a loop without deadlines waits exactly so long."""

_resting: dict[int, bool] = {}
"""Loops of the kit's own, by native thread id: whether they wait for events and nothing else."""


@contextmanager
def known_loop() -> Generator[Callable[[bool], None]]:
    """On the thread of a loop that waits with a deadline although nothing is due: yields what says whether it rests.

    The loop must say True only while it waits, and no timer of its own is set.
    """
    me = threading.get_native_id()

    def rest(resting: bool) -> None:
        _resting[me] = resting

    rest(False)
    try:
        yield rest
    finally:
        del _resting[me]


def excuse(waits: Sequence[Wait]) -> list[Wait]:
    """The waits, with those of known pollers as `untimed`.

    Known: a trio loop of this process on which no deadline is set, while the kernel says that it waits for a day. A loop of
    the kit's own says so itself; of any other the runner is asked, also where it is another loop's guest and waits on a
    thread of trio's cache (anyio's pytest plugin runs it so). Of another process's loop the day is enough: it waits for less
    as soon as there is a deadline before that.

    Known too: an idle thread of trio's cache, which waits ten seconds for a job and then ends. It is one if it is in a
    futex with a deadline, and its innermost Python frame is the cache's own loop, which it leaves for the length of a job.

    Known too: the main thread of a `multiprocessing` manager's server, which waits a second for its stop flag, over and
    over (`Server.serve_forever` in `multiprocessing/managers.py`). It is one if this process started the manager, the
    wait has a deadline, and the server's accepting thread already waits at its door: then what it was given to run
    first has ended.
    """
    waits = list(waits)
    if any(wait.kind == "timed" and TRIO_LONGEST in wait.text for wait in waits):
        resting = {tid for tid, rests in tuple(_resting.items()) if rests} | _loops_without_deadlines()
        waits = [_rested(wait, resting) for wait in waits]
    if any(wait.kind == "timed" and wait.pid == os.getpid() for wait in waits):
        idle = _idle_in_trios_cache()
        waits = [
            Wait(wait.pid, wait.tid, "untimed", "waits for a job: an idle thread of trio's cache")
            if wait.kind == "timed" and wait.pid == os.getpid() and wait.tid in idle and "futex" in wait.text
            else wait
            for wait in waits
        ]
    if not any(wait.kind == "timed" and wait.pid == wait.tid for wait in waits):
        return waits
    at_a_door = {wait.pid for wait in waits if wait.kind == "door"}
    suspects = {wait.pid for wait in waits if wait.kind == "timed" and wait.pid == wait.tid} & at_a_door
    servers = _servers() & suspects if suspects else set[int]()
    return [
        Wait(wait.pid, wait.tid, "untimed", "looks at a manager's stop flag once a second")
        if wait.kind == "timed" and wait.pid == wait.tid and wait.pid in servers and "futex" in wait.text
        else wait
        for wait in waits
    ]


def _rested(wait: Wait, resting: set[int]) -> Wait:
    theirs = wait.pid != os.getpid()
    if wait.kind == "timed" and TRIO_LONGEST in wait.text and (theirs or wait.tid in resting):
        return Wait(wait.pid, wait.tid, "untimed", "waits for events: a trio loop without deadlines")
    return wait


def _loops_without_deadlines() -> set[int]:
    """Native ids of threads of this process that wait for a trio loop's events, while no task of that loop has a deadline."""
    return {tid for tid, runner, _guest in _waiting_loops() if math.isinf(runner.deadlines.next_deadline())}


def _waiting_loops() -> Iterator[tuple[int, Any, bool]]:
    """Who waits for a trio loop's events: the native id, trio's runner, and whether the loop is another one's guest."""
    frames = sys._current_frames()  # noqa: SLF001 - the only way to see where another thread is  # pyright: ignore[reportPrivateUsage]
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None and (runner := runner_of(frame)) is not None:
            yield thread.native_id or 0, runner, frame.f_back is not None and "runner" not in frame.f_back.f_locals


def runner_of(frame: FrameType) -> Any:
    """trio's runner, where this innermost frame of a thread waits for the events of its loop; else None.

    The runner is a local of `trio.run`; of a guest, the waiting function closes over its state.
    """
    manager = getattr(sys.modules.get("trio._core._io_epoll"), "EpollIOManager", None)
    wait = getattr(getattr(manager, "get_events", None), "__code__", None)
    if wait is None or frame.f_code is not wait or frame.f_back is None:
        return None
    around = frame.f_back.f_locals
    return around.get("runner") or getattr(around.get("self"), "runner", None)


def kept_by_trio() -> set[int]:
    """Native ids of threads of this process that trio keeps: idle ones of its cache, and those that wait for a guest's events."""
    return _idle_in_trios_cache() | {tid for tid, _runner, guest in _waiting_loops() if guest}


def _idle_in_trios_cache() -> set[int]:
    """Native ids of threads of this process that wait for trio to give them something to do."""
    cache = sys.modules.get("trio._core._thread_cache")
    loop = getattr(getattr(getattr(cache, "WorkerThread", None), "_work", None), "__code__", None)
    if loop is None:
        return set()
    frames = sys._current_frames()  # noqa: SLF001 - the only way to see where another thread is  # pyright: ignore[reportPrivateUsage]
    return {
        thread.native_id or 0
        for thread in threading.enumerate()
        if thread.ident in frames and frames[thread.ident].f_code is loop
    }


def _servers() -> set[int]:
    """The processes of the managers that this process started and still holds."""
    managers = sys.modules.get("multiprocessing.managers")
    if managers is None:
        return set()
    processes = (
        getattr(thing, "_process", None) for thing in gc.get_objects() if issubclass(type(thing), managers.BaseManager)
    )
    return {process.pid for process in processes if process is not None and process.pid is not None}
