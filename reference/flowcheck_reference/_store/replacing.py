"""A file's bytes: all of the new, or all of the old, whatever happens (STO-02, 04, 05, 06, 07, 17, 20).

    1  look at the old file             it is what this store wrote, or it is read, and must be sound (STO-12)
    2  .run.0.tmp, made and locked      in the same folder, so that a rename is one step of the file system
    3  write, fsync                     before the name: else a power loss could leave the name, and nothing in it
    4  rename                           the moment at which the new is there, for all readers at once
    5  fsync of the folder              before it returns: the rename itself lasts

Killed before 4, the old is there; after it, the new. What fails before 4 takes its temporary file away. What fails at 5
puts the old bytes back: who is told that a save failed must not find it done.

A temporary file of a saver that was killed is known by its lock, which nobody has: the next save of the run takes it
away. The names are numbered, not random: a saver takes the first that no living one has, so what the dead have left can
be found without reading the folder, and is never more than what were killed at once.

Races:
1. A saver has made its file and not locked it yet; another takes it for a left-over. Whichever locks it first has it:
   the saver finds it locked, or its name gone, and makes another.
2. Two find the same left-over. The second to get the lock finds that the name is gone, or means another file: `names`.
3. Two savers: each renames a whole file. The later rename is the state; nobody waits.
"""
from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from errno import EIO
from itertools import count
from typing import NamedTuple

from .files import drop, keep, names, open_folder, read_all, real_path, sync_folder, write_all


class Stamp(NamedTuple):
    """By which a saver knows its own file again. The time is set by the saver, to the nanosecond: the kernel's own
    clock for files ticks a thousand times as slowly on most, and would not show a change right behind a save."""

    inode: int
    size: int
    modified: int


def stamp(fd: int) -> Stamp:
    """As the file is now."""
    status = os.fstat(fd)
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns)


class Temporary:
    """A new file beside the one that it is to replace, for this saver alone.

    `stem`: the run's name. `mode`: permissions, from which the umask is taken.
    """

    def __init__(self, folder: str, stem: str, mode: int) -> None:
        for number in count():
            self.path: str = temporary_name(folder, stem, number)
            while True:
                try:
                    self.fd: int = keep(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
                except FileExistsError:
                    if reap(self.path):
                        continue
                    break  # its saver lives: the next number
                if self._is_mine():
                    return
                drop(self.fd)

    def _is_mine(self) -> bool:
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return names(self.path, self.fd)
        except BlockingIOError:  # race 1
            return False
        except BaseException:  # a file system without locks
            self.remove()
            drop(self.fd)
            raise

    def fill(self, data: bytes, like: os.stat_result | None) -> Stamp:
        """Write, give it the old file's mode and owner, and see that it lasts."""
        write_all(self.fd, data)
        now = time.time_ns()
        os.utime(self.fd, ns=(now, now))
        if like is not None:
            own = os.fstat(self.fd)
            if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
                with suppress(PermissionError):  # only root gives files away: then it is the saver's, as a new one is
                    os.fchown(self.fd, like.st_uid, like.st_gid)
            if stat.S_IMODE(own.st_mode) != stat.S_IMODE(like.st_mode):
                os.fchmod(self.fd, stat.S_IMODE(like.st_mode))
        os.fsync(self.fd)
        return stamp(self.fd)

    def remove(self) -> None:
        """Take it away; if even that fails, the next saver does it."""
        with suppress(OSError):
            os.unlink(self.path)  # noqa: PTH108  a save takes this way


def temporary_name(folder: str, stem: str, number: int) -> str:
    """No run's: those have no dot in front."""
    return f"{folder}/.{stem}.{number}.tmp"


def reap(path: str) -> bool:
    """Take a temporary file away, if its saver is dead. Is the name free?"""
    try:
        fd = keep(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return True
    except OSError:  # somebody else's, or no file at all: leave it alone, there are more numbers
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if names(path, fd):
            os.unlink(path)  # noqa: PTH108
    except (BlockingIOError, PermissionError, IsADirectoryError):  # its saver lives; or it isn't ours to take
        return False
    else:
        return True
    finally:
        drop(fd)


def reap_all(folder: str, stem: str) -> None:
    """What dead savers have left of this run."""
    for number in count():
        path = temporary_name(folder, stem, number)
        if not os.path.lexists(path):
            return
        reap(path)


def replace(
    path: str, stem: str, data: bytes, *, known: Stamp | None, vet: Callable[[bytes], object] | None, durable: bool
) -> Stamp:
    """Put `data` in the place of what the file holds.

    `known`: as this saver last left the file; if it is otherwise, `vet` is called with its bytes, and may raise.
    Raises: what `vet` raises; OSError, with the old bytes still there.
    """
    target = real_path(path)
    folder = os.path.dirname(target)  # noqa: PTH120  a save takes this way: pathlib is slow
    try:
        before: int | None = os.open(target, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        before = None
    try:
        if before is not None and vet is not None and (known is None or stamp(before) != known):
            vet(read_all(before))
        descriptor = open_folder(folder)
        try:
            return _swap(target, folder, stem, data, before, descriptor, durable=durable)
        finally:
            os.close(descriptor)
    finally:
        if before is not None:
            os.close(before)


def _swap(
    target: str, folder: str, stem: str, data: bytes, before: int | None, descriptor: int, *, durable: bool
) -> Stamp:
    like = None if before is None else os.fstat(before)
    temporary = Temporary(folder, stem, 0o666 if like is None else stat.S_IMODE(like.st_mode) & 0o777)
    try:
        try:
            mark = temporary.fill(data, like)
            os.replace(temporary.path, target)  # noqa: PTH105
        except BaseException:
            temporary.remove()
            raise
        if durable:
            try:
                sync_folder(descriptor)
            except OSError as error:
                known = _undone(error, target, folder, stem, before, temporary.fd)
                raise known from (None if known is error else error)
        return mark
    finally:
        drop(temporary.fd)


class UnsureError(OSError):
    """Not saved for sure, nor undone: the new bytes are there, whole, but may not survive a power loss."""


def _undone(error: OSError, target: str, folder: str, stem: str, before: int | None, ours: int) -> OSError:
    """The folder could not be synced: put the old bytes back, unless another saver has been there since."""
    try:
        if not names(target, ours):
            return error
        if before is None:
            os.unlink(target)  # noqa: PTH108
            return error
        old = Temporary(folder, stem, 0o600)
        try:
            old.fill(read_all(before), os.fstat(before))
            os.replace(old.path, target)  # noqa: PTH105
        except BaseException:
            old.remove()
            raise
        finally:
            drop(old.fd)
    except OSError as again:  # not even that can be written
        unsure = UnsureError(error.errno or EIO, error.strerror or str(error), folder)
        unsure.add_note(f"putting the old bytes back failed, too: {again}")
        return unsure
    return error
