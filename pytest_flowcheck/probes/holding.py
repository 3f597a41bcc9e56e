"""A thread held in the middle of what it does to files or a database, so that others come between two of its steps."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from itertools import count
from types import FrameType
from typing import Any, Final

EVENTS: Final = frozenset(("open", "os.rename", "os.remove", "os.link", "fcntl.flock", "fcntl.lockf"))
"""Audited events that are steps: before each of them a thread can be held."""


STATEMENTS: Final = frozenset(("execute", "executemany", "executescript"))
"""Methods of a connection or a cursor of `sqlite3` that are steps, too."""


class Step:
    """Holds the first thread that comes to the n-th step of whatever works below `folder`: opening, renaming, removing a file.

    Steps are seen by an audit hook (PEP 578), which runs in the thread that does them, in C code's behalf too. A hook
    can't be removed, so there is one for all. A statement of a database is no audited event; a profile function sees it
    (`sys.setprofile`), in threads that begin later; from Python 3.12 on in all. Within a transaction nobody is held:
    the database itself keeps others out then, for seconds, and that is no place to get in.

    Args:
        folder: what happens to files elsewhere is no step. (Of a lock only the descriptor is told: each counts.)
        number: from 1 on.
        statements: statements of `sqlite3` are steps, too.
    """

    _current: Step | None = None
    _hooked = False

    def __init__(self, folder: str, number: int, *, statements: bool = False) -> None:
        self.folder, self.number, self.statements = folder, number, statements
        self.name = ""
        """What the thread is held before; empty as long as none is."""
        self.reached, self.go = threading.Event(), threading.Event()
        self._count = count(1)
        self._own = 0

    def begin(self) -> None:
        """From now on, in all threads of this process but the one at hand, which is to let the other go."""
        self._own = threading.get_ident()
        Step._current = self
        if not Step._hooked:
            Step._hooked = True
            sys.addaudithook(Step._hook)
        if self.statements:
            _profile(Step._called)

    def end(self) -> None:
        """Nothing is held from now on."""
        if self.statements:
            _profile(None)
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
        step.come_to(event)

    @staticmethod
    def _called(_frame: FrameType, event: str, function: Any) -> None:
        """Called at every call and return of a thread that is profiled."""
        step = Step._current
        if step is None or event != "c_call" or function.__name__ not in STATEMENTS:
            return
        if (sqlite3 := sys.modules.get("sqlite3")) is None:
            return
        what = function.__self__
        with suppress(sqlite3.Error):  # it is closed: the call itself will say so
            connection = what.connection if isinstance(what, sqlite3.Cursor) else what
            if isinstance(connection, sqlite3.Connection) and not connection.in_transaction:
                step.come_to("a statement")

    def come_to(self, name: str) -> None:
        """The thread at hand comes to a step of this name."""
        if threading.get_ident() != self._own and next(self._count) == self.number:
            self.name = name
            self.reached.set()
            self.go.wait()


def _profile(function: Any) -> None:
    """In all threads where that can be had, else in those that begin from now on."""
    if sys.version_info >= (3, 12):
        threading.setprofile_all_threads(function)
    else:
        threading.setprofile(function)
