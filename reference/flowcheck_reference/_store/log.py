"""A file of lines, each of them whole or not there (STO-08, 09, 19, 21).

    ["1c291ca3",{"node":"fetch","status":"ok"}]         a line is JSON: the entry's checksum, and the entry
    ["90ad6352",{"node":"pars#torn                      a saver was killed here, and the next one said so

A line is added with one write, to a file that was opened for appending, under a lock; so lines of several writers don't
mingle, and one that is cut short is the last. Its end of line is its last byte, so it is not taken for whole: the checksum
alone would not do, `12` may be all that came of `123`, and an entry that lacks only its end must not come to life when the
next one is added. Who adds to a file that doesn't end with an end of line marks what is there as torn, first.

Who fails to write or to sync cuts the file to what it was before: an entry that was refused is not there.
"""
from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from zlib import crc32

from .codec import JSON, decode
from .errors import CorruptStateError
from .files import drop, lock, names, real_path, sync_names, write_all

_LOG = logging.getLogger("flowcheck_reference.store")

_TORN = b"#torn"
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT


def line(entry: bytes) -> bytes:
    """An entry, as JSON without line breaks, as a line."""
    return b'["%08x",%b]\n' % (crc32(entry), entry)


def entry_of(text: bytes) -> bytes | None:
    """The entry of a line, without its end. None: it isn't whole."""
    entry = text[12:-1]
    return entry if text == line(entry)[:-1] else None


class Log:
    """The file of a run, kept open. Any thread may add; each process has a `Log` of its own.

    `seen`: the inode of the file whose name was synced by this store already: a new file's name must be, once.
    """

    def __init__(self, path: str, *, durable: bool, seen: int | None = None) -> None:
        self.path = path
        self.seen = seen
        self._durable = durable
        self._turn = threading.Lock()
        """The file's lock is the process's: between its threads, with one descriptor, this one decides."""
        self._fd: int | None = None
        self._closed = False

    def append(self, lines: bytes) -> None:
        """Add whole lines. Raises: OSError, and nothing was added."""
        with self._turn:
            fd = self._locked()
            try:
                self._add(fd, lines)
            finally:
                if self._closed:  # meanwhile
                    self._close()
                else:
                    with suppress(OSError):  # it fails only for a descriptor that somebody else has closed
                        fcntl.flock(fd, fcntl.LOCK_UN)

    def _locked(self) -> int:
        """The descriptor, locked. The file may have been folded since the last time: then it is another."""
        fd, self._fd = self._fd, None
        if fd is not None:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if names(self.path, fd):
                    self._fd = fd
                    return fd
            finally:
                if self._fd is None:
                    drop(fd)
        self._fd = lock(self.path, _FLAGS, wait=True)
        return self._fd

    def _add(self, fd: int, lines: bytes) -> None:
        status = os.fstat(fd)
        size = status.st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            lines = _TORN + b"\n" + lines
        try:
            write_all(fd, lines)
            if self._durable:
                os.fsync(fd)
                if self.seen != status.st_ino:  # whoever made it may have been killed before it came to this
                    sync_names(os.path.dirname(real_path(self.path)))  # noqa: PTH120
                    self.seen = status.st_ino
        except BaseException as error:
            try:
                os.ftruncate(fd, size)
            except OSError as again:
                error.add_note(f"the log could not be cut to what it was, either ({again}): readers pass over what is torn")
            raise

    def close(self) -> None:
        """Any number of times. Who still adds meanwhile opens the file once more, for that one time."""
        with self._turn:
            self._closed = True
            self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            drop(fd)


def entries(path: str) -> list[JSON]:
    """The whole ones, oldest first. Raises: CorruptStateError, OSError."""
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    lines.pop()  # what has no end; mostly nothing
    found = [entry_of(text) for text in lines]
    lost = sum(entry is None and not text.endswith(_TORN) for entry, text in zip(found, lines, strict=True))
    if lost:
        _LOG.warning("%s: %d of %d lines are damaged, and passed over", path, lost, len(lines))
    return decoded((entry for entry in found if entry is not None), path)


def decoded(found: Iterable[bytes], path: str) -> list[JSON]:
    """Entries whose checksum was right. Raises: CorruptStateError."""
    try:
        values: list[JSON] = decode(b"[%b]" % b",".join(found))
    except ValueError as error:
        msg = f"an entry of the log {path} can't be read: {error}"
        raise CorruptStateError(msg, path) from error
    return values


def remove(path: str) -> None:
    """Away with it; an entry that is being added comes before or goes into a new file."""
    try:
        fd = lock(path, os.O_RDONLY, wait=True)
    except FileNotFoundError:
        return
    try:
        os.unlink(path)  # noqa: PTH108
    finally:
        drop(fd)
