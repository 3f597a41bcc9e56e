"""A thread held in the middle of what it does to files, so that others come between two of its steps."""

from __future__ import annotations

import os
import sys
import threading
from itertools import count
from typing import Any, Final

EVENTS: Final = frozenset(("open", "os.rename", "os.remove", "os.link", "fcntl.flock", "fcntl.lockf"))
"""Audited events that are steps: before each of them a thread can be held."""


class Step:
    """Holds the first thread that comes to the n-th step of whatever works below `folder`: opening, renaming, removing a file.

    Steps are seen by an audit hook (PEP 578), which runs in the thread that does them, in C code's behalf too. A hook
    can't be removed, so there is one for all.

    Args:
        folder: what happens to files elsewhere is no step. (Of a lock only the descriptor is told: each counts.)
        number: from 1 on.
    """

    _current: Step | None = None
    _hooked = False

    def __init__(self, folder: str, number: int) -> None:
        self.folder, self.number = folder, number
        self.name = ""
        """What the thread is held before; empty as long as none is."""
        self.reached, self.go = threading.Event(), threading.Event()
        self.count = count(1)

    def begin(self) -> None:
        """From now on, in all threads of this process."""
        Step._current = self
        if not Step._hooked:
            Step._hooked = True
            sys.addaudithook(Step._hook)

    def end(self) -> None:
        """Nothing is held from now on."""
        Step.forget()
        self.go.set()

    @staticmethod
    def forget() -> None:
        """In a forked process: the hook is inherited, the threads are not."""
        Step._current = None

    @staticmethod
    def _hook(event: str, args: tuple[Any, ...]) -> None:
        """Called at every audited event of this process."""
        step = Step._current
        if step is None or event not in EVENTS:
            return
        paths = [os.fsdecode(arg) for arg in args if isinstance(arg, str | bytes)]
        if not event.startswith("fcntl.") and not any(path.startswith(step.folder) for path in paths):
            return
        if next(step.count) == step.number:
            step.name = event
            step.reached.set()
            step.go.wait()
