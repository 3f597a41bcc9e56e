"""One holder for a run, in all processes, and none that is dead (FLO-25).

A lease is a lock on a file (`flock`). The kernel takes it back with the process that had it, however that ended: no
heartbeat, no time after which it counts as abandoned, no file with a pid that may belong to another by now. That is why
the SQLite store has its leases in such files, too: a row would stay when its holder is killed, and a transaction that is
kept open would lock out every other run.

A child that is forked meanwhile does not have it (`files`), and leaving the `with` there does nothing. The file goes with
the lease; a holder that is killed leaves it behind, empty of meaning, and the next one uses it.
"""
from __future__ import annotations

import os
import platform
from collections.abc import Generator
from contextlib import contextmanager, suppress

from .errors import LeaseHeldError
from .files import drop, lock, names


@contextmanager
def lease(path: str, run_id: str) -> Generator[None]:
    """Hold it while the `with` lasts. Raises: LeaseHeldError, at once, saying who has it; OSError."""
    try:
        fd = lock(path, os.O_RDWR | os.O_CREAT, wait=False)
    except BlockingIOError:
        msg = f"run {run_id!r} is held by {_holder(path)}: one at a time"
        raise LeaseHeldError(msg) from None
    pid = os.getpid()
    try:
        with suppress(OSError):  # a disk may be full: it is only for whoever is refused, and reads it
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {pid} on {platform.node()}\n".encode(), 0)
        yield
    finally:
        if os.getpid() == pid:
            try:
                if names(path, fd):
                    os.unlink(path)  # noqa: PTH108
            finally:
                drop(fd)


def _holder(path: str) -> str:
    """What the holder says of itself. It may not have come to it yet."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline(200).strip() or "somebody else"
    except OSError:
        return "somebody else"
