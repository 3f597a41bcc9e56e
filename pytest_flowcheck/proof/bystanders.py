"""The harness of a process that runs a user's tests: who, among its many threads, can't wake what one of them waits for."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Any, Final, Self

from pytest_flowcheck.proof.harness import Harness, forget_alarm_in_children

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_flowcheck.proof.harness import Key


class Bystanders(Harness):
    """Who, in a user's own run of pytest, can't wake what a test waits for.

    Narrow on purpose: the threads that were there before the first line of the user's code, our own, those of two known
    plugins, and those that the user vouches for. A thread that another test, or a wider fixture, started is none of them.
    """

    @classmethod
    def as_of(cls, at: int, threads: Mapping[int, int], objects: frozenset[str]) -> Self:
        """What was there then is none of the tests'; see `Harness.as_of`."""
        if hasattr(signal, "SIGALRM"):
            forget_alarm_in_children("pytest-timeout's", _is_pytest_timeouts)
        return super().as_of(at, threads, objects)

    def threads(self) -> list[Key]:
        """As of now: pytest-timeout starts a timer for each test."""
        for thread in threading.enumerate():
            function = thread.function if isinstance(thread, threading.Timer) else getattr(thread, "_target", None)
            if getattr(function, "__module__", None) in _PLUGINS and thread.native_id:
                self.adopt(thread.native_id)
        return super().threads()

    def owns_alarm(self) -> bool:
        """Whether SIGALRM is pytest-timeout's."""
        return _is_pytest_timeouts(signal.getsignal(signal.SIGALRM))


_PLUGINS: Final = frozenset({"pytest_timeout", "pytest_rerunfailures"})
"""Plugins of pytest whose threads tell nothing but them: the one's timer, the other's server for workers of xdist."""


def _is_pytest_timeouts(function: Any) -> bool:
    return getattr(function, "__module__", None) == "pytest_timeout"
