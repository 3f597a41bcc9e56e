"""How a loop is woken from another thread."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress


class Bell:
    """Has the loop call `answer`, once for however many rings until it comes round.

    On Linux it is an eventfd that the loop reads: half of what `call_soon_threadsafe` costs, which makes a handle, copies a
    context, and reads its socket until that raises. Elsewhere it is `call_soon_threadsafe`.

    Guarantees: ringing is safe from any thread as long as anybody has the bell, also when its loop is closed: the
    descriptor is shut with the last reference, so that a late ring can't reach somebody else's.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, answer: Callable[[], object]) -> None:
        self._loop, self._answer = loop, answer
        self._fd = -1
        if hasattr(os, "eventfd"):
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            try:
                loop.add_reader(self._fd, self._rung)
            except NotImplementedError:  # a loop that reads no descriptors
                self._fd = self._shut()

    def ring(self) -> None:
        """From any thread."""
        if self._fd >= 0:
            os.eventfd_write(self._fd, 1)
        else:
            with suppress(RuntimeError):  # the loop is closed: nobody is to be woken
                self._loop.call_soon_threadsafe(self._answer)

    def silence(self) -> None:
        """The loop hears it no more. On the loop's thread."""
        if self._fd >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self._fd)

    def _rung(self) -> None:
        with suppress(BlockingIOError):  # a fork's child has read it
            os.eventfd_read(self._fd)
        self._answer()

    def _shut(self) -> int:
        os.close(self._fd)
        return -1

    def __del__(self) -> None:
        if self._fd >= 0:
            self._shut()
