"""Threads of the standard library that wake up by the clock, look at a flag of their own, and sleep again.

Their clock is no reason to doubt: what they look at can only be changed by a thread that runs.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

from pytest_flowcheck.proof.sighting import Wait

if TYPE_CHECKING:
    from collections.abc import Sequence


def excuse(waits: Sequence[Wait]) -> list[Wait]:
    """The waits, with those of known pollers as `untimed`.

    Known: the main thread of a `multiprocessing` manager's server, which waits a second for its stop flag, over and
    over (`Server.serve_forever` in `multiprocessing/managers.py`). It is one if this process started the manager, the
    wait has a deadline, and the server's accepting thread already waits at its door: then what it was given to run
    first has ended.
    """
    if not any(wait.kind == "timed" and wait.pid == wait.tid for wait in waits):
        return list(waits)
    at_a_door = {wait.pid for wait in waits if wait.kind == "door"}
    suspects = {wait.pid for wait in waits if wait.kind == "timed" and wait.pid == wait.tid} & at_a_door
    servers = _servers() & suspects if suspects else set[int]()
    return [
        Wait(wait.pid, wait.tid, "untimed", "looks at a manager's stop flag once a second")
        if wait.kind == "timed" and wait.pid == wait.tid and wait.pid in servers and "futex" in wait.text
        else wait
        for wait in waits
    ]


def _servers() -> set[int]:
    """The processes of the managers that this process started and still holds."""
    managers = sys.modules.get("multiprocessing.managers")
    if managers is None:
        return set()
    processes = (
        getattr(thing, "_process", None) for thing in gc.get_objects() if issubclass(type(thing), managers.BaseManager)
    )
    return {process.pid for process in processes if process is not None and process.pid is not None}
