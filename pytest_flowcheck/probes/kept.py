"""Processes of the kit's own that outlive a rule: dear to start, and the same for all rules of a facet on one subject.

They have imported the subject, and do nothing but fork what does the work; so no rule finds in them what another did.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar, cast


class Process(AbstractContextManager[object], Protocol):
    """A process that is started on entering, and ended on leaving."""

    @property
    def pid(self) -> int: ...

    @property
    def alive(self) -> bool: ...


P = TypeVar("P", bound=Process)

_kept: dict[str, Process] = {}
_owner: Hashable = None
_keeper = os.getpid()


def keep_for(owner: Hashable) -> None:
    """From now on for this one: what is kept for another is ended."""
    global _owner  # noqa: PLW0603 - processes are the whole process's
    if owner != _owner:
        let_go()
        _owner = owner


def kept(name: str, make: Callable[[], P]) -> P:
    """The process of this name, started when it is first asked for, and again if it has ended."""
    global _keeper  # noqa: PLW0603
    process = _kept.get(name)
    if process is None or _keeper != os.getpid() or not process.alive:
        if _keeper != os.getpid():  # a fork: what was kept is its parent's
            _kept.clear()
        elif process is not None:
            _end(name)
        _keeper = os.getpid()
        process = make()
        process.__enter__()
        _kept[name] = process
    return cast("P", process)  # by that name it was made


def _end(name: str) -> None:
    """End this one, if there is one."""
    process = _kept.pop(name, None)
    if process is not None and _keeper == os.getpid():
        process.__exit__(None, None, None)


def pids() -> set[int]:
    """Those that are kept; their children are not."""
    return {process.pid for process in _kept.values()}


@atexit.register
def let_go() -> None:
    """End all."""
    for name in list(_kept):
        _end(name)
