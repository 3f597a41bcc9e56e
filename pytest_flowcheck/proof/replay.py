"""From system calls to what they did to a folder.

Each process has its descriptors, its working directory and its umask, shared or copied as clone(2) says; an open file
has one position, shared by all descriptors that were duplicated from it. A descriptor counts as the folder's only if the
kernel itself, at that call, knew it by a path there.
"""

from __future__ import annotations

import functools
import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from pytest_flowcheck.proof.filesystem import (
    Effect,
    Entries,
    File,
    Folder,
    Inode,
    Link,
    Mark,
    Operation,
    Resize,
    Story,
    Sync,
    Write,
    Zero,
    after,
    walk,
)
from pytest_flowcheck.proof.strace import Call, descriptor, mark_of, string, strings

BEGIN = "begin"

Place: TypeAlias = Folder | str
"""A folder of the tree, or the absolute path of one elsewhere."""

_LINKS_AT_MOST = 40
_OWN_DESCRIPTOR = re.compile(r"/(?:proc/(?:self|thread-self|\d+)|dev)/fd/(\d+)$")
_OFFSET = re.compile(r"\[(-?\d+)")


@dataclass(eq=False, slots=True)
class _Open:
    """An open file description: what duplicated descriptors share."""

    inode: Inode
    position: int | None = 0
    """None where it is not known: the descriptor came from elsewhere."""
    append: bool = False
    synced: bool = False


@dataclass(eq=False, slots=True)
class _Surroundings:
    """A working directory and an umask: what threads share."""

    cwd: Place
    umask: int


@dataclass(eq=False, slots=True)
class _Process:
    table: dict[int, _Open] = field(default_factory=dict[int, _Open])
    closing: set[int] = field(default_factory=set[int])
    """Descriptors that are closed by execve(2)."""
    surroundings: _Surroundings = field(default_factory=lambda: _Surroundings("/", 0o022))


_Handler: TypeAlias = Callable[[Call, _Process, list[str]], None]


@dataclass(slots=True)
class _Found:
    """Where a path leads: a name in a folder of the tree (None for the root itself), and what is there."""

    folder: Folder | None
    name: str
    inode: Inode | None
    path: str


class Replay:
    """Follows the calls of a trace. `story` is the result.

    Args:
        folder: the one that is watched, without symbolic links.
        before: what it held before the trace began.
        calls: all that was traced.
        cwd: where the first process began.
    """

    def __init__(self, folder: Path, before: Folder, calls: Sequence[Call], cwd: str) -> None:
        self._place = str(folder)
        self._place_bytes = os.fsencode(folder)
        self.story = Story(before)
        self._calls: Sequence[Call] = calls
        self._births: dict[int, deque[Call]] = {}
        for call in calls:
            if call.name in ("clone", "clone3", "fork", "vfork") and call.result is not None and call.result > 0:
                self._births.setdefault(call.result, deque()).append(call)
        self._cwd = cwd
        self._processes: dict[int, _Process] = {}
        self._elsewhere: dict[str, File] = {}
        self._elsewhere_ever: list[File] = []
        self._inodes = self.story.inodes
        self._inodes += [self.story.root, *(inode for _, inode in walk(self.story.root))]
        self._handlers = self._table()
        self._begun = False
        self._index = 0

    def _table(self) -> dict[str, _Handler]:
        """Who understands which call. All others change nothing in a folder."""
        table: dict[str, _Handler] = {}
        handlers: dict[str, _Handler] = {
            "open openat openat2 creat": self._call_open,
            "close close_range": self._call_close,
            "dup dup2 dup3 fcntl fcntl64": self._call_dup,
            "lseek _llseek": self._call_lseek,
            "read readv": self._call_read,
            "write pwrite64 writev pwritev pwritev2": self._call_write,
            "sendfile copy_file_range splice": self._call_copy,
            "truncate ftruncate": self._call_truncate,
            "fallocate": self._call_fallocate,
            "fsync fdatasync sync syncfs": self._call_sync,
            "mmap mmap2": self._call_mmap,
            "io_uring_setup ioctl chroot": self._call_unmodelled,
            "mkdir mkdirat": self._call_mkdir,
            "symlink symlinkat": self._call_symlink,
            "mknod mknodat": self._call_mknod,
            "unlink unlinkat rmdir": self._call_unlink,
            "rename renameat renameat2": self._call_rename,
            "link linkat": self._call_link,
            "chmod fchmod fchmodat fchmodat2": self._call_chmod,
            "chdir fchdir": self._call_chdir,
            "umask": self._call_umask,
            "clone clone3 fork vfork": self._call_clone,
            "execve execveat": self._call_execve,
        }
        for names, handler in handlers.items():
            table.update(dict.fromkeys(names.split(), handler))
        return table

    def run(self) -> Story:
        """All calls, in order."""
        for index, call in enumerate(self._calls):
            self._index = index
            self._step(call)
        ours = self._ours()
        self.story.steps = [s for s in self.story.steps if isinstance(s, Mark) or self._matters(s, ours)]
        return self.story

    def _ours(self) -> set[Inode | None]:
        """The inodes that are, or were, in the folder: all but files that stayed elsewhere."""
        elsewhere = set(self._elsewhere_ever)
        entered: set[Inode | None] = {inode for inode in self._inodes if inode not in elsewhere}
        for step in self.story.steps:
            for effect in step.effects if isinstance(step, Operation) else ():
                if isinstance(effect, Entries):
                    entered.update(inode for _, _, inode in effect.changes)
        return entered

    @staticmethod
    def _matters(operation: Operation, entered: set[Inode | None]) -> bool:
        """Whether it touches the folder; not a file that lies elsewhere for good."""
        return any(
            isinstance(effect, Entries)
            or (effect.inode is None or effect.inode in entered if isinstance(effect, Sync) else effect.file in entered)
            for effect in operation.effects
        )

    # ------------------------------------------------------------------------------------------------ processes

    def _process(self, pid: int) -> _Process:
        process = self._processes.get(pid)
        if process is not None:
            return process
        births = self._births.get(pid)
        if not births:
            process = _Process(surroundings=_Surroundings(self._cwd_place(), _own_umask()))
        else:
            birth = births.popleft()
            parent = self._process(birth.pid)
            shares_files = "CLONE_FILES" in birth.arguments
            shares_place = "CLONE_FS" in birth.arguments
            process = _Process(
                parent.table if shares_files else dict(parent.table),
                parent.closing if shares_files else set(parent.closing),
                parent.surroundings
                if shares_place
                else _Surroundings(parent.surroundings.cwd, parent.surroundings.umask),
            )
        self._processes[pid] = process
        return process

    def _cwd_place(self) -> Place:
        found = self._resolve("/", self._cwd, follow=True)
        return found.inode if found is not None and isinstance(found.inode, Folder) else self._cwd

    # ------------------------------------------------------------------------------------------------ paths

    def _resolve(self, base: Place, path: str, *, follow: bool) -> _Found | None:
        """None for what lies outside of the folder, or below a name that leads nowhere."""
        place: Place = "/" if path.startswith("/") else base
        parts = deque(part for part in path.split("/") if part not in ("", "."))
        links = 0
        while parts:
            part = parts.popleft()
            if isinstance(place, str):
                place = os.path.dirname(place) if part == ".." else os.path.join(place, part)  # noqa: PTH118, PTH120
                if place == self._place:
                    place = self.story.root
                    continue
                target = _link_outside(place)
            elif part == "..":
                place = os.path.dirname(self._place) if place.parent is None else place.parent  # noqa: PTH120
                continue
            else:
                inode = place.entries.get(part)
                if isinstance(inode, Link) and (parts or follow):
                    target = inode.target
                elif not parts:
                    return _Found(place, part, inode, self._path_of(place, part))
                elif isinstance(inode, Folder):
                    place = inode
                    continue
                else:
                    return None
            if target is None:
                continue
            links += 1
            if links > _LINKS_AT_MOST:
                return None
            parts.extendleft(reversed([part for part in target.split("/") if part not in ("", ".")]))
            if target.startswith("/"):
                place = "/"
            elif isinstance(place, str):
                place = os.path.dirname(place)  # noqa: PTH120
        return None if isinstance(place, str) else _Found(None, "", place, self._path_of(place))

    def _path_of(self, folder: Folder, name: str = "") -> str:
        parts = [name] if name else []
        while folder.parent is not None:
            parts.append(next((n for n, inode in folder.parent.entries.items() if inode is folder), "(gone)"))
            folder = folder.parent
        return "/".join(reversed(parts)) or "."

    def _elsewhere_at(self, process: _Process, dirfd: str | None, path: str) -> str:
        """The absolute path of what lies outside of the folder."""
        base = process.surroundings.cwd if dirfd is None else self._base(process, dirfd)
        place = self._place if isinstance(base, Folder) else base
        return os.path.normpath(os.path.join(place, os.fsdecode(string(path) or b"")))  # noqa: PTH118

    def _base(self, process: _Process, argument: str) -> Place:
        """The folder that a `dirfd` argument stands for."""
        number, path = descriptor(argument)
        if number is None:
            return process.surroundings.cwd
        known = self._opened(process, argument)
        if known is not None and isinstance(known.inode, Folder):
            return known.inode
        return os.fsdecode(path) if path is not None else "/"

    def _at(self, process: _Process, path: str, dirfd: str | None = None, *, follow: bool = True) -> _Found | None:
        name = os.fsdecode(string(path) or b"")
        base = process.surroundings.cwd if dirfd is None else self._base(process, dirfd)
        own = _OWN_DESCRIPTOR.match(name)
        if follow and own is not None:
            known = process.table.get(int(own[1]))
            return None if known is None else _Found(None, "", known.inode, known.inode.label)
        if not name:
            known = None if dirfd is None else self._opened(process, dirfd)
            return None if known is None else _Found(None, "", known.inode, known.inode.label)
        return self._resolve(base, name, follow=follow)

    def _opened(self, process: _Process, argument: str) -> _Open | None:
        """What a descriptor leads to, if that is the folder's."""
        number, path = descriptor(argument)
        if number is None:
            return None
        known = process.table.get(number)
        if path is None:
            return known
        inside = path == self._place_bytes or path.startswith(self._place_bytes + b"/")
        if known is not None and (inside or os.fsdecode(path) in self._elsewhere):
            return known
        process.table.pop(number, None)
        if not inside:
            return None
        found = self._resolve("/", os.fsdecode(path), follow=False)
        if found is None or found.inode is None:
            return None
        process.table[number] = _Open(found.inode, None)
        return process.table[number]

    def _file(self, process: _Process, argument: str) -> tuple[_Open, File] | None:
        known = self._opened(process, argument)
        return (known, known.inode) if known is not None and isinstance(known.inode, File) else None

    # ------------------------------------------------------------------------------------------------ effects

    def _limit(self, text: str) -> None:
        if text not in self.story.limits:
            self.story.limits.append(text)

    def _do(self, call: Call, text: str, *effects: Effect) -> None:
        for effect in effects:
            if isinstance(effect, Write | Resize | Zero):
                effect.file.data = after(effect.file.data, effect)
            elif isinstance(effect, Entries):
                for folder, name, inode in effect.changes:
                    if inode is None:
                        folder.entries.pop(name, None)
                        continue
                    folder.entries[name] = inode
                    if isinstance(inode, Folder):
                        inode.parent = folder
                    if isinstance(inode, File) and not inode.known:
                        self._limit(f"{inode.label!r} came from elsewhere, and what it held was not seen")
        if self._begun:
            self.story.steps.append(Operation(text, effects, call, self._index))

    def _new(self, inode: Inode) -> None:
        self._inodes.append(inode)

    def _begin(self) -> None:
        self._begun = True
        self.story.steps.clear()
        for inode in self._inodes:
            if isinstance(inode, File):
                inode.base = inode.data
            elif isinstance(inode, Folder):
                inode.base = dict(inode.entries)

    def _step(self, call: Call) -> None:
        mark = mark_of(call)
        if mark is not None:
            self.story.marks.append(mark)
            if mark == BEGIN and not self._begun:
                self._begin()
            elif self._begun:
                self.story.steps.append(Mark(mark))
            return
        handler = self._handlers.get(call.name)
        if handler is None or call.failed:
            return
        handler(call, self._process(call.pid), call.args)

    # ------------------------------------------------------------------------------------------------ opening

    def _open(self, call: Call, process: _Process, dirfd: str | None, path: str, flags: str, mode: str) -> None:
        assert call.result is not None
        process.table.pop(call.result, None)
        _note(process.closing, call.result, "O_CLOEXEC" in flags)
        if "O_PATH" in flags:
            return
        found = self._at(process, path, dirfd, follow="O_NOFOLLOW" not in flags)
        writes = "O_WRONLY" in flags or "O_RDWR" in flags
        bits = _octal(mode) & ~process.surroundings.umask
        if found is None:
            if writes and "O_TMPFILE" not in flags:
                self._open_elsewhere(call, process, dirfd, path, flags, bits)
            return
        inode = found.inode
        if "O_TMPFILE" in flags:
            inode = File(bits, "(a file without a name)")
            self._new(inode)
        elif inode is None:
            if "O_CREAT" not in flags or found.folder is None:
                return
            inode = File(bits, found.path)
            self._new(inode)
            self._do(call, f"create {found.path!r}", Entries(((found.folder, found.name, inode),)))
        elif isinstance(inode, File) and "O_TRUNC" in flags and writes and inode.data:
            self._do(call, f"truncate {found.path!r} to 0 bytes", Resize(inode, 0))
        process.table[call.result] = _Open(inode, 0, "O_APPEND" in flags, "O_SYNC" in flags or "O_DSYNC" in flags)

    def _open_elsewhere(
        self, call: Call, process: _Process, dirfd: str | None, path: str, flags: str, bits: int
    ) -> None:
        """A file outside of the folder that may be moved into it later: a temporary one, say."""
        assert call.result is not None
        place = self._elsewhere_at(process, dirfd, path)
        if place.startswith(("/dev/", "/proc/", "/sys/")) and not place.startswith("/dev/shm/"):  # noqa: S108
            return
        file = self._elsewhere.get(place)
        if file is None or "O_EXCL" in flags:
            file = File(bits, place)
            file.known = "O_TRUNC" in flags or "O_EXCL" in flags
            self._elsewhere[place] = file
            self._elsewhere_ever.append(file)
            self._new(file)
        elif "O_TRUNC" in flags and file.data:
            self._do(call, f"truncate {place!r} to 0 bytes", Resize(file, 0))
        process.table[call.result] = _Open(file, 0, "O_APPEND" in flags, "O_SYNC" in flags or "O_DSYNC" in flags)

    def _call_open(self, call: Call, process: _Process, args: list[str]) -> None:
        if call.name == "creat":
            self._open(call, process, None, args[0], "O_WRONLY|O_CREAT|O_TRUNC", args[1])
        elif call.name == "open":
            self._open(call, process, None, args[0], args[1], args[2] if len(args) > 2 else "0")
        elif call.name == "openat2":
            mode = re.search(r"mode=(\d+)", args[2])
            self._open(call, process, args[0], args[1], args[2], mode[1] if mode else "0")
        else:
            self._open(call, process, args[0], args[1], args[2], args[3] if len(args) > 3 else "0")

    # ------------------------------------------------------------------------------------------------ descriptors

    def _call_close(self, call: Call, process: _Process, args: list[str]) -> None:
        number, _ = descriptor(args[0])
        if call.name == "close":
            process.table.pop(number if number is not None else -1, None)
        elif "CLOEXEC" not in args[2]:
            last = int(args[1], 0) if args[1].lstrip("-").isdigit() else 1 << 32
            for fd in [fd for fd in process.table if (number or 0) <= fd <= last]:
                del process.table[fd]

    def _call_dup(self, call: Call, process: _Process, args: list[str]) -> None:
        if call.name.startswith("fcntl"):
            if args[1] == "F_SETFL":
                known = self._opened(process, args[0])
                if known is not None:
                    known.append = "O_APPEND" in args[2]
                return
            if args[1] == "F_SETFD":
                number, _ = descriptor(args[0])
                _note(process.closing, number, "FD_CLOEXEC" in args[2])
                return
            if not args[1].startswith("F_DUPFD"):
                return
        assert call.result is not None
        known = self._opened(process, args[0])
        _note(process.closing, call.result, "CLOEXEC" in call.arguments)
        if known is None:
            process.table.pop(call.result, None)
        else:
            process.table[call.result] = known

    def _call_lseek(self, call: Call, process: _Process, args: list[str]) -> None:
        known = self._opened(process, args[0])
        if known is None:
            return
        moved = _OFFSET.search(args[2]) if call.name == "_llseek" and len(args) > 2 else None
        known.position = int(moved[1]) if moved else call.result

    def _call_read(self, call: Call, process: _Process, args: list[str]) -> None:
        known = self._opened(process, args[0])
        if known is not None and known.position is not None and call.result is not None:
            known.position += call.result

    # ------------------------------------------------------------------------------------------------ data

    def _written(
        self,
        call: Call,
        known: _Open,
        file: File,
        data: bytes,
        at: int | None,
        *,
        joints: tuple[int, ...] = (),
        synced: bool = False,
    ) -> None:
        """`at`: None for the position of the descriptor."""
        if known.append:
            offset = len(file.data)
        elif at is not None:
            offset = at
        elif known.position is None:
            self._limit(f"a descriptor of {file.label!r} came by a way that is not seen: where it writes is not known")
            offset = len(file.data)
        else:
            offset = known.position
        if at is None:
            known.position = offset + len(data)
        if not data:
            return
        how = " (synced)" if known.synced or synced else ""
        effects: list[Effect] = [Write(file, offset, data, joints)]
        if how:
            effects.append(Sync(file))
        where = "the end" if offset == len(file.data) and offset else str(offset)
        self._do(call, f"write {len(data)} bytes at {where} into {self._name(file)!r}{how}", *effects)

    def _name(self, inode: Inode) -> str:
        """The path by which it can be reached now, else the one by which it was seen first."""
        for path, other in walk(self.story.root):
            if other is inode:
                return path
        return "." if inode is self.story.root else inode.label

    def _call_write(self, call: Call, process: _Process, args: list[str]) -> None:
        target = self._file(process, args[0])
        if target is None:
            return
        assert call.result is not None
        parts = strings(args[1])
        data = b"".join(parts)[: call.result]
        if call.cut or len(data) < call.result:
            self._limit(f"a write of {call.result} bytes into {target[1].label!r} is longer than what strace prints")
            data = data.ljust(call.result, b"\0")
        joints = tuple(sum(map(len, parts[:n])) for n in range(1, len(parts)))
        at = int(args[3]) if call.name.startswith("p") else None
        if at == -1:
            at = None
        flags = args[-1] if call.name == "pwritev2" else ""
        if "RWF_APPEND" in flags:
            at = len(target[1].data)
        self._written(call, *target, data, at, joints=tuple(j for j in joints if j < len(data)), synced="SYNC" in flags)

    def _call_copy(self, call: Call, process: _Process, args: list[str]) -> None:
        into, source = (args[0], args[1]) if call.name == "sendfile" else (args[2], args[0])
        at_source, at = (args[2], "NULL") if call.name == "sendfile" else (args[1], args[3])
        assert call.result is not None
        known_source = self._file(process, source)
        target = self._file(process, into)
        given = _OFFSET.search(at_source)
        start = int(given[1]) if given else known_source[0].position if known_source else None
        if known_source is not None and given is None and known_source[0].position is not None:
            known_source[0].position += call.result
        if target is None or call.result == 0:
            return
        if call.name == "splice":
            self._limit(f"data came into {target[1].label!r} by splice(2), which shows no bytes")
            data = bytes(call.result)
        elif known_source is not None and start is not None:
            data = known_source[1].data[start : start + call.result].ljust(call.result, b"\0")
        else:
            data = self._read_elsewhere(source, start, call.result, target[1])
        placed = _OFFSET.search(at)
        self._written(call, *target, data, int(placed[1]) if placed else None)

    def _read_elsewhere(self, source: str, start: int | None, size: int, target: File) -> bytes:
        """What a file outside of the folder holds now stands for what it held then."""
        _, path = descriptor(source)
        try:
            with open(path or b"", "rb") as file:
                # without an offset it was most likely copied from front to back
                file.seek(len(target.data) if start is None else start)
                data = file.read(size)
        except OSError:
            data = b""
        if len(data) < size:
            self._limit(f"data came into {target.label!r} from a file elsewhere that can't be read any more")
        return data.ljust(size, b"\0")

    def _call_truncate(self, call: Call, process: _Process, args: list[str]) -> None:
        if call.name == "truncate":
            found = self._at(process, args[0])
            file = found.inode if found is not None else None
        else:
            target = self._file(process, args[0])
            file = target[1] if target is not None else None
        size = int(args[1])
        if isinstance(file, File) and size != len(file.data):
            self._do(call, f"truncate {self._name(file)!r} to {size} bytes", Resize(file, size))

    def _call_fallocate(self, call: Call, process: _Process, args: list[str]) -> None:
        target = self._file(process, args[0])
        if target is None:
            return
        file, mode, offset, size = target[1], args[1], int(args[2]), int(args[3])
        if "COLLAPSE" in mode or "INSERT" in mode:
            self._limit(f"fallocate({mode}) on {file.label!r} is not modelled")
            return
        effects: list[Effect] = []
        if "PUNCH_HOLE" in mode or "ZERO_RANGE" in mode:
            effects.append(Zero(file, offset, size))
        if "KEEP_SIZE" not in mode and offset + size > len(file.data):
            effects.append(Resize(file, offset + size))
        if effects:
            self._do(call, f"allocate {size} bytes at {offset} in {self._name(file)!r}", *effects)

    def _call_sync(self, call: Call, process: _Process, args: list[str]) -> None:
        if call.name == "sync":
            self._do(call, "sync everything", Sync(None))
            return
        known = self._opened(process, args[0])
        if known is None:
            return
        if call.name == "syncfs":
            self._do(call, "sync the file system", Sync(None))
            return
        what = "folder " if isinstance(known.inode, Folder) else ""
        self._do(call, f"{call.name} {what}{self._name(known.inode)!r}", Sync(known.inode))

    def _call_mmap(self, _call: Call, process: _Process, args: list[str]) -> None:
        if "MAP_SHARED" not in args[3] or "PROT_WRITE" not in args[2]:
            return
        target = self._file(process, args[4])
        if target is not None:
            self._map(target[1])

    def _map(self, file: File) -> None:
        if not file.mapped:
            file.mapped = True
            file.elsewhere.append(file.data)
            self.story.mapped.append(file)

    def _call_unmodelled(self, call: Call, process: _Process, args: list[str]) -> None:
        if call.name == "io_uring_setup":
            self._limit("the child uses io_uring, whose operations are no system calls")
        elif call.name == "ioctl" and "CLONE" in args[1]:
            target = self._file(process, args[0])
            if target is not None:
                self._limit(
                    f"{target[1].label!r} was cloned from another file by ioctl({args[1]}), which is not modelled"
                )
        elif call.name == "chroot":
            self._limit("the child changed its root")

    # ------------------------------------------------------------------------------------------------ names

    def _enter(self, call: Call, text: str, found: _Found | None, inode: Inode) -> None:
        if found is not None and found.folder is not None:
            self._new(inode)
            self._do(call, f"{text} {found.path!r}", Entries(((found.folder, found.name, inode),)))

    def _call_mkdir(self, call: Call, process: _Process, args: list[str]) -> None:
        dirfd, (path, mode) = (args[0], args[1:3]) if call.name == "mkdirat" else (None, args[:2])
        found = self._at(process, path, dirfd, follow=False)
        bits = _octal(mode) & ~process.surroundings.umask
        self._enter(
            call, "make folder", found, Folder(bits, found.path if found else "", found.folder if found else None)
        )

    def _call_symlink(self, call: Call, process: _Process, args: list[str]) -> None:
        target, (dirfd, path) = args[0], (args[1:3] if call.name == "symlinkat" else (None, args[1]))
        found = self._at(process, path or "", dirfd, follow=False)
        self._enter(
            call, "make symbolic link", found, Link(os.fsdecode(string(target) or b""), found.path if found else "")
        )

    def _call_mknod(self, call: Call, process: _Process, args: list[str]) -> None:
        dirfd, path, mode = (args[0], args[1], args[2]) if call.name == "mknodat" else (None, args[0], args[1])
        if "S_IFREG" in mode or "S_IF" not in mode:
            found = self._at(process, path, dirfd, follow=False)
            self._enter(call, "create", found, File(0o600, found.path if found else ""))

    def _call_unlink(self, call: Call, process: _Process, args: list[str]) -> None:
        dirfd, path = (args[0], args[1]) if call.name == "unlinkat" else (None, args[0])
        found = self._at(process, path, dirfd, follow=False)
        if found is None:
            place = self._elsewhere_at(process, dirfd, path)
            self._elsewhere.pop(place, None)
        elif found.folder is not None and found.inode is not None:
            self._do(call, f"remove {found.path!r}", Entries(((found.folder, found.name, None),)))

    def _two(self, call: Call, process: _Process, args: list[str]) -> tuple[_Found | None, _Found | None, str, str]:
        """Where the two paths of a rename or link lead, and the absolute paths of those that lie elsewhere."""
        if call.name in ("rename", "link"):
            pairs: tuple[tuple[str | None, str], tuple[str | None, str]] = ((None, args[0]), (None, args[1]))
        else:
            pairs = ((args[0], args[1]), (args[2], args[3]))
        follow = call.name == "linkat" and len(args) > 4 and "AT_SYMLINK_FOLLOW" in args[4]
        old = self._at(process, pairs[0][1], pairs[0][0], follow=follow)
        new = self._at(process, pairs[1][1], pairs[1][0], follow=False)
        old_place, new_place = (self._elsewhere_at(process, dirfd, path) for dirfd, path in pairs)
        return old, new, old_place, new_place

    def _call_rename(self, call: Call, process: _Process, args: list[str]) -> None:
        old, new, old_place, new_place = self._two(call, process, args)
        if old is None or old.folder is None:
            if new is None or new.folder is None:
                file = self._elsewhere.pop(old_place, None)
                if file is not None:
                    self._elsewhere[new_place] = file
                return
            inode: Inode = self._elsewhere.get(old_place) or self._stranger(old_place)
            self._do(
                call, f"rename {old_place!r} (elsewhere) to {new.path!r}", Entries(((new.folder, new.name, inode),))
            )
            self._elsewhere.pop(old_place, None)
            return
        if old.inode is None:
            return
        if new is None or new.folder is None:
            self._do(
                call, f"rename {old.path!r} to {new_place!r} (elsewhere)", Entries(((old.folder, old.name, None),))
            )
            if isinstance(old.inode, File):
                self._elsewhere[new_place] = old.inode
            return
        if old.inode is new.inode:
            return  # two names of one file: rename(2) does nothing
        if "RENAME_EXCHANGE" in call.arguments:
            text = f"exchange {old.path!r} and {new.path!r}"
            changes = ((old.folder, old.name, new.inode), (new.folder, new.name, old.inode))
        else:
            text = f"rename {old.path!r} to {new.path!r}"
            changes = ((old.folder, old.name, None), (new.folder, new.name, old.inode))
        self._do(call, text, Entries(changes))

    def _stranger(self, place: str) -> File:
        """A file that came from elsewhere, of which nothing was seen."""
        file = File(0o600, place)
        file.known = False
        self._new(file)
        return file

    def _call_link(self, call: Call, process: _Process, args: list[str]) -> None:
        old, new, old_place, _ = self._two(call, process, args)
        if new is None or new.folder is None:
            return
        inode = old.inode if old is not None else self._elsewhere.get(old_place)
        if inode is None:
            inode = self._stranger(old_place)
        self._do(call, f"link {inode.label!r} as {new.path!r}", Entries(((new.folder, new.name, inode),)))

    def _call_chmod(self, call: Call, process: _Process, args: list[str]) -> None:
        inode: Inode | None
        if call.name == "fchmod":
            known = self._opened(process, args[0])
            inode, mode = (known.inode if known is not None else None), args[1]
        else:
            dirfd, path, mode = (None, args[0], args[1]) if call.name == "chmod" else (args[0], args[1], args[2])
            found = self._at(process, path, dirfd)
            inode = found.inode if found is not None else None
        if inode is not None:
            inode.mode = _octal(mode)

    # ------------------------------------------------------------------------------------------------ surroundings

    def _call_chdir(self, call: Call, process: _Process, args: list[str]) -> None:
        if call.name == "fchdir":
            process.surroundings.cwd = self._base(process, args[0])
            return
        found = self._at(process, args[0])
        if found is not None and isinstance(found.inode, Folder):
            process.surroundings.cwd = found.inode
        else:
            process.surroundings.cwd = self._elsewhere_at(process, None, args[0])

    def _call_umask(self, _call: Call, process: _Process, args: list[str]) -> None:
        process.surroundings.umask = _octal(args[0])

    def _call_clone(self, call: Call, _process: _Process, _args: list[str]) -> None:
        """The child's descriptors are those of now, even if it does nothing before they change."""
        if call.result is not None and call.result > 0:
            self._process(call.result)

    def _call_execve(self, _call: Call, process: _Process, _args: list[str]) -> None:
        process.table = {fd: opened for fd, opened in process.table.items() if fd not in process.closing}
        process.closing = set()


def _note(numbers: set[int], number: int | None, there: bool) -> None:
    if number is not None:
        (numbers.add if there else numbers.discard)(number)


def _octal(text: str) -> int:
    """Permission bits, also of `S_ISVTX|0777`."""
    last = text.rpartition("|")[2]
    return int(last, 8) if last.isdigit() else 0


@functools.cache
def _link_outside(path: str) -> str | None:
    """Where a symbolic link outside of the folder leads."""
    if path.startswith("/proc"):
        return None
    try:
        return os.readlink(path)
    except OSError:
        return None


def _own_umask() -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
