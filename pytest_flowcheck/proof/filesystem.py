"""A folder as inodes, and what system calls do to it: the words in which crash states are told.

An *effect* is the smallest thing that a crash may keep or lose: one write, one change of size, one change of directory
entries (a rename is one, in both of its directories), one sync. An *operation* is a system call's effects.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pytest_flowcheck.proof.strace import Call


class Inode:
    """What a name leads to; equal to itself only."""

    def __init__(self, mode: int, label: str) -> None:
        self.mode = mode
        """Permission bits, the latest."""
        self.label = label
        """A name for humans: the path at which it was seen first."""


class File(Inode):
    """A regular file."""

    def __init__(self, mode: int, label: str, data: bytes = b"") -> None:
        super().__init__(mode, label)
        self.data = data
        """What it holds in the page cache, after the operations so far."""
        self.base = b""
        """What it held when the operation began; empty for a file that was not there."""
        self.known = True
        """Whether `data` is all known: False for a file of elsewhere whose beginning was not seen."""
        self.mapped = False
        """Whether it was ever mapped writable and shared: stores into memory are not seen."""
        self.elsewhere: list[bytes] = []
        """What it was found to hold at other times, for files that were mapped."""


class Folder(Inode):
    """A directory."""

    def __init__(self, mode: int, label: str, parent: Folder | None = None) -> None:
        super().__init__(mode, label)
        self.parent = parent
        self.entries: dict[str, Inode] = {}
        self.base: dict[str, Inode] = {}


class Link(Inode):
    """A symbolic link."""

    def __init__(self, target: str, label: str) -> None:
        super().__init__(0o777, label)
        self.target = target


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """Bytes into a file."""

    file: File
    offset: int
    data: bytes
    joints: tuple[int, ...] = ()
    """Where the buffers of a gathered write meet."""


@dataclass(frozen=True, slots=True, eq=False)
class Resize:
    """A new size: the end is cut off, or zeroes are added."""

    file: File
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Zero:
    """A hole, or zeroes, inside a file."""

    file: File
    offset: int
    size: int


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Names that from now on lead to another inode, or to none; all at once."""

    changes: tuple[tuple[Folder, str, Inode | None], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Sync:
    """An inode, or everything (None), is made durable."""

    inode: Inode | None


DataEffect: TypeAlias = Write | Resize | Zero
Effect: TypeAlias = DataEffect | Entries | Sync


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One system call that did something to the folder."""

    text: str
    """For a human: `write 12 bytes at 0 into 'state.json'`."""
    effects: tuple[Effect, ...]
    call: Call
    index: int
    """Which of the trace's calls it is."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark that the child left."""

    name: str


def after(data: bytes, effect: DataEffect) -> bytes:
    """What a file holds after an effect."""
    if isinstance(effect, Write):
        if effect.offset == len(data):
            return data + effect.data
        head = data[: effect.offset].ljust(effect.offset, b"\0")
        return head + effect.data + data[effect.offset + len(effect.data) :]
    if isinstance(effect, Resize):
        return data[: effect.size].ljust(effect.size, b"\0")
    end = min(effect.offset + effect.size, len(data))
    return data[: effect.offset] + bytes(max(0, end - effect.offset)) + data[end:]


def read_tree(folder: Path) -> Folder:
    """The folder as it is on disk now. Sockets, pipes and devices are left out: they hold nothing."""
    root = Folder(stat.S_IMODE(folder.stat().st_mode), ".")
    seen: dict[tuple[int, int], File] = {}

    def fill(node: Folder, place: str, prefix: str) -> None:
        with os.scandir(place) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            label = prefix + entry.name
            status = entry.stat(follow_symlinks=False)
            mode = stat.S_IMODE(status.st_mode)
            if entry.is_symlink():
                node.entries[entry.name] = Link(os.readlink(entry.path), label)
            elif entry.is_dir():
                below = Folder(mode, label, node)
                node.entries[entry.name] = below
                fill(below, entry.path, label + "/")
            elif entry.is_file():
                key = status.st_dev, status.st_ino
                if key not in seen:
                    seen[key] = File(mode, label, Path(entry.path).read_bytes())
                node.entries[entry.name] = seen[key]

    fill(root, str(folder), "")
    return root


def walk(root: Folder) -> Iterator[tuple[str, Inode]]:
    """All paths below the root and their inodes, parents first, sorted within each folder."""
    yield from _walk(root, "")


def _walk(folder: Folder, prefix: str) -> Iterator[tuple[str, Inode]]:
    for name in sorted(folder.entries):
        node = folder.entries[name]
        yield prefix + name, node
        if isinstance(node, Folder):
            yield from _walk(node, f"{prefix}{name}/")


def write_tree(
    folder: str | os.PathLike[str],
    rows: Sequence[tuple[str, Inode]],
    data: Mapping[File, bytes],
    *,
    was: str | None = None,
) -> None:
    """Write a tree into a folder that is empty or not there.

    Args:
        folder: where.
        rows: paths and inodes, parents first.
        data: what the files hold.
        was: the folder to which absolute symbolic links of the tree led, if they shall lead to this one now.

    Raises:
        FileExistsError: the folder is not empty.
    """
    # os, not pathlib: thousands of states are written in a row, and pathlib takes twice the time
    place = os.path.abspath(folder)  # noqa: PTH100
    os.makedirs(place, exist_ok=True)  # noqa: PTH103
    with os.scandir(place) as entries:
        if next(entries, None) is not None:
            raise FileExistsError(errno.EEXIST, "a state is written into an empty folder only", place)
    written: dict[Inode, str] = {}
    for path, inode in rows:
        target = f"{place}/{path}"
        if isinstance(inode, Folder):
            os.mkdir(target, inode.mode | 0o700)  # noqa: PTH102
        elif isinstance(inode, Link):
            leads = inode.target
            if was is not None and (leads == was or leads.startswith(was + "/")):
                leads = place + leads[len(was) :]
            os.symlink(leads, target)  # noqa: PTH211
        elif inode in written:
            os.link(written[inode], target)
        elif isinstance(inode, File):
            written[inode] = target
            _write_file(target, data[inode], inode.mode)


def _write_file(path: str, data: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        if mode != 0o600:
            os.fchmod(fd, mode)
    finally:
        os.close(fd)


@dataclass(slots=True)
class Story:
    """What a child did to a folder."""

    root: Folder
    steps: list[Operation | Mark] = field(default_factory=list[Operation | Mark])
    """From the mark "begin" on, which is not among them."""
    marks: list[str] = field(default_factory=list[str])
    """All of them."""
    limits: list[str] = field(default_factory=list[str])
    mapped: list[File] = field(default_factory=list[File])
    inodes: list[Inode] = field(default_factory=list[Inode])
    """All that were ever seen, also those that no name leads to."""
