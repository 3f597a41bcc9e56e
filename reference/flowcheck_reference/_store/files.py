"""Descriptors, and locks on files, that a forked child does not keep; and the few calls that make a write last.

A lock (`flock`) belongs to what the descriptor stands for, and that is shared with a child that was forked: should the
parent be killed, the child would hold on to a lock that it knows nothing of. So descriptors that are locked are written
down here, and a child closes its copies as its first act. A fork waits for nothing here, nor does it stand in the way.

Guarantees:
- From before it is opened until it is written down, a file's path is in `_opening`: a child that was forked in between
  finds its copy by that. A descriptor is unlocked before it is struck out, and struck out before it is closed: so a child
  closes no number that stands for something else by now, and what it fails to close holds no lock.
- While a file has a name that others look for, only the holder of its lock takes the name away. So who has the lock, and
  has then seen that the name still means this file, has it for himself (`lock`).

Linux. On network file systems it is as good as their `flock`.
"""
from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from itertools import count
from typing import Final

_kept: Final[set[int]] = set()
_opening: Final[dict[int, str]] = {}
_numbers: Final = count()


def _forked() -> None:
    """In the child, before anything else runs there."""
    halfway: set[tuple[int, int]] = set()
    for path in _opening.values():
        with suppress(OSError):  # not made yet
            halfway.add(_identity(os.stat(path)))
    found = [int(name) for name in os.listdir("/proc/self/fd")] if halfway else list(_kept)
    for fd in found:
        with suppress(OSError):  # the descriptor of that listing; and whatever else is wrong with one is not ours to mend
            if fd in _kept or _identity(os.fstat(fd)) in halfway:
                os.close(fd)
    _kept.clear()
    _opening.clear()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


os.register_at_fork(after_in_child=_forked)


def keep(path: str, flags: int, mode: int = 0o666) -> int:
    """Open; a forked child closes it."""
    number = next(_numbers)
    _opening[number] = path
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, mode)
        _kept.add(fd)
        return fd
    finally:
        _opening.pop(number, None)


def drop(fd: int) -> None:
    """Unlock and close. Quietly: what must be on the disk was synced before, and nobody can do anything about the rest."""
    with suppress(OSError):
        fcntl.flock(fd, fcntl.LOCK_UN)  # also for a copy that some library has forked without telling Python
    _kept.discard(fd)
    with suppress(OSError):
        os.close(fd)


def lock(path: str, flags: int, *, wait: bool) -> int:
    """Open the file and lock it; a descriptor for `drop`. Raises: BlockingIOError: somebody has it, and not `wait`."""
    while True:
        fd = keep(path, flags)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if names(path, fd):
                return fd
        except BaseException:
            drop(fd)
            raise
        drop(fd)  # whoever had it before has taken the name away


def names(path: str, fd: int) -> bool:
    """Is this the file that has the name?"""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False


def real_path(path: str) -> str:
    """The file itself, where `path` is a symbolic link (STO-18). It need not exist. Raises: OSError: links in a circle."""
    for _ in range(40):  # as many as Linux follows
        try:
            link = os.readlink(path)
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.ENOENT}:  # no link; not there yet
                return path
            raise
        path = os.path.join(os.path.dirname(path), link)  # noqa: PTH118, PTH120  a save takes this way: pathlib is slow
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def read_all(fd: int) -> bytes:
    """The whole file, wherever the descriptor stands."""
    parts: list[bytes] = []
    at = 0
    while part := os.pread(fd, max(1 << 16, os.fstat(fd).st_size - at), at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def write_all(fd: int, data: bytes) -> None:
    """All of it: a write may be short, on a disk that is all but full."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def sync_folder(fd: int) -> None:
    """Names that were made or changed in the folder last. Raises: OSError."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EBADF}:  # a file system that has no such call; PostgreSQL passes, too
            raise


def open_folder(path: str) -> int:
    """For `sync_folder` and `os.close`."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def sync_names(path: str) -> None:
    """Names in this folder last."""
    fd = open_folder(path)
    try:
        sync_folder(fd)
    finally:
        os.close(fd)


def make_folder(path: str) -> None:
    """Make the folder, and those above, where they are missing; so that they last."""
    if os.path.isdir(path):  # noqa: PTH112  paths are texts here
        return
    above = os.path.dirname(path)  # noqa: PTH120
    make_folder(above)
    with suppress(FileExistsError):
        os.mkdir(path)  # noqa: PTH102
    sync_names(above)


def explained(error: OSError, what: str, path: str) -> OSError:
    """The same error, of the same class, that also says what came of it."""
    return OSError(error.errno or errno.EIO, f"{what}: {error.strerror or error}", error.filename or path)
