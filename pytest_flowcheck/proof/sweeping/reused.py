"""Threads that trio keeps for the next call that needs one, kept away from the schedules of a sweep.

A thread is traced, and numbered, from its start on. One that has idled in trio's cache since an earlier schedule would do the
subject's work unseen: no line of it could be chosen. asyncio's executors end with their loop, and need no such care.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

_IDLE = 0.2
"""Seconds after which a thread of a schedule that has nothing to do any more may end; trio's own ten would gather hundreds."""


@contextmanager
def short_lived() -> Generator[None]:
    """Inside, threads that idle end soon."""
    module = _module()
    if module is None or not isinstance(getattr(module, "IDLE_TIMEOUT", None), int | float):
        yield
        return
    before, module.IDLE_TIMEOUT = module.IDLE_TIMEOUT, _IDLE
    try:
        yield
    finally:
        module.IDLE_TIMEOUT = before


@contextmanager
def kept_away() -> Generator[None]:
    """Inside, whoever asks trio for a thread is given a new one. Those that idle now are given back at the end."""
    idle = _idle()
    away: dict[Any, None] = {}
    while idle:
        try:
            worker, _ = idle.popitem()
        except KeyError:  # another loop has just taken the last one
            break
        away[worker] = None
    try:
        yield
    finally:
        idle.update(away)  # one that looked meanwhile whether it should end did not find itself, and waits on


def _idle() -> dict[Any, None]:
    workers = getattr(getattr(_module(), "THREAD_CACHE", None), "_idle_workers", None)
    return workers if isinstance(workers, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _module() -> Any:
    return sys.modules.get("trio._core._thread_cache")
