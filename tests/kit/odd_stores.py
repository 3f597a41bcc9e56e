"""Stores of unusual build. The first part does nothing wrong, however odd it looks; of the second, each has one flaw.

What they have in common, ids and JSON and locks, is that of `_sound.Files`; what is odd is how a state gets on disk.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from flowcheck_reference.broken.store._sound import Files, Sound
from pytest_flowcheck.protocols import Corrupt, NotFound, Refused

PLAIN: AbstractSet[str] = frozenset({"durable", "processes"})


# --- right, and odd ---------------------------------------------------------------------------------------------------


class ByPid(Files):
    """One saver by a lock file that tells its owner's pid. It is broken once that process is gone, or if it is this one
    and no save of it is under way: then the file could not be removed."""

    held: ClassVar[set[tuple[int, Path]]] = set()

    @contextmanager
    def locked(self, run_id: str) -> Generator[None]:
        lock, mine = self.folder / f"{run_id}.pid", self.folder / "breaking.pid"
        with self.flocked("breaking"):
            if self.is_held(lock):
                raise Refused(f"{lock} is held")
            mine.write_text(str(os.getpid()))
            mine.replace(lock)  # never half written
            self.held.add((os.getpid(), lock))
        try:
            yield
        finally:
            with self.flocked("breaking"):
                self.held.discard((os.getpid(), lock))
                with suppress(OSError):
                    lock.unlink()

    def is_held(self, lock: Path) -> bool:
        try:
            owner = int(lock.read_text() or 0)  # empty, if it was not on disk when the power failed
            os.kill(owner, 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        return owner > 0 and (owner != os.getpid() or (owner, lock) in self.held)


class Journal(Files):
    """All states in one file that is only appended to: the last whole record of a run is its state."""

    MAGIC = b"journal 1\n"
    HEAD = struct.Struct("<II")

    @property
    def path(self) -> Path:
        return self.folder / "states.journal"

    def save(self, run_id: str, state: Any) -> None:
        record = self.encode([self.key(run_id), state])
        with self.locked("journal"):
            new = not self.path.exists()
            with self.path.open("ab+", buffering=0) as file:
                file.seek(0)
                end = self.whole(file.read())[1]
                file.truncate(end)
                try:
                    self.put(
                        file,
                        (self.MAGIC if end == 0 else b"") + self.HEAD.pack(len(record), zlib.crc32(record)) + record,
                    )
                except OSError:
                    file.truncate(end)
                    raise
            if new:
                self.sync_folder(self.folder)

    def put(self, file: Any, data: bytes) -> None:  # type: ignore[override]
        while data:
            data = data[file.write(data) :]
        os.fsync(file.fileno())

    def load(self, run_id: str) -> Any:
        run_id = self.key(run_id)
        try:
            records, _ = self.whole(self.path.read_bytes())
        except FileNotFoundError:
            records = []
        for run, state in reversed(records):
            if run == run_id:
                return state
        raise NotFound(f"{run_id} was never saved")

    def whole(self, data: bytes) -> tuple[list[Any], int]:
        """The whole records, and where they end. What is cut off behind them was torn by a crash."""
        if not data.startswith(self.MAGIC):
            if self.MAGIC.startswith(data):
                return [], 0
            raise Corrupt(f"{self.path} is no journal")
        records: list[Any] = []
        end = len(self.MAGIC)
        while end + self.HEAD.size <= len(data):
            length, checksum = self.HEAD.unpack_from(data, end)
            record = data[end + self.HEAD.size : end + self.HEAD.size + length]
            if not length or len(record) < length or zlib.crc32(record) != checksum:
                break
            records.append(json.loads(record))
            end += self.HEAD.size + length
        return records, end


class Generations(Files):
    """A file for each save, and one that points to the newest: that is replaced."""

    def put_in_place(self, path: Path, data: bytes) -> None:
        number = self.current(path) + 1
        fresh, pointer = path.with_suffix(f".{number}"), path.with_suffix(".current")
        self.write_new(fresh, data)
        self.write_new(path.with_suffix(".next"), str(number).encode())
        path.with_suffix(".next").replace(pointer)
        self.sync_folder(path.parent)
        self.clear(path, number)

    def write_new(self, path: Path, data: bytes) -> None:
        try:
            self.write(path, data, 0o644)
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def clear(self, path: Path, number: int) -> None:
        for other in path.parent.glob(f"{path.stem}.*"):
            if other.suffix[1:].isdigit() and other.suffix != f".{number}":
                with suppress(OSError):  # the new state is in its place: the next save tries again
                    other.unlink()

    def current(self, path: Path) -> int:
        pointer = path.with_suffix(".current")
        try:
            text = pointer.read_bytes()
        except FileNotFoundError:
            return 0
        if not text.isdigit():
            raise Corrupt(f"{pointer} points nowhere")
        return int(text)

    def read(self, path: Path) -> Any:
        while True:
            if not (number := self.current(path)):
                raise NotFound(f"{path.stem} was never saved")
            fresh = path.with_suffix(f".{number}")
            try:
                return self.decode(fresh.read_bytes(), fresh)
            except FileNotFoundError:
                if self.current(path) == number:
                    raise Corrupt(f"{fresh} is gone") from None


class Retrying(Files):
    """A save that meets an I/O error begins again, with a new file."""

    def put_in_place(self, path: Path, data: bytes) -> None:
        for left in reversed(range(3)):
            try:
                super().put_in_place(path, data)
            except OSError:
                if not left:
                    raise
            else:
                return


class TwoSlots(Files):
    """A file with two places that are written in turn, by a descriptor that stays open."""

    SLOT = 1 << 18
    HEAD = struct.Struct("<QII")

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.descriptors: dict[Path, int] = {}

    def close(self) -> None:
        for descriptor in self.descriptors.values():
            os.close(descriptor)

    def opened(self, path: Path) -> int:
        if path not in self.descriptors:
            opened = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            if self.descriptors.setdefault(path, opened) != opened:
                os.close(opened)
        return self.descriptors[path]

    def slot(self, number: int, data: bytes) -> bytes:
        return self.HEAD.pack(number, len(data), zlib.crc32(data + str(number).encode())) + data

    def put_in_place(self, path: Path, data: bytes) -> None:
        if not path.exists():
            slots = self.slot(1, data).ljust(self.SLOT, b"\0") + self.slot(2, data)
            return super().put_in_place(path, slots)
        number = self.newest(path)[0] + 1
        self.overwrite(self.opened(path), self.slot(number, data), (number + 1) % 2 * self.SLOT)
        return None

    def overwrite(self, descriptor: int, data: bytes, at: int) -> None:
        while data:
            written = os.pwrite(descriptor, data, at)
            data, at = data[written:], at + written
        os.fdatasync(descriptor)

    def read(self, path: Path) -> Any:
        return self.decode(self.newest(path)[1], path)

    def newest(self, path: Path) -> tuple[int, bytes]:
        try:
            descriptor = self.opened(path)
        except FileNotFoundError:
            raise NotFound(f"{path.stem} was never saved") from None
        for _ in range(1000):  # both are being written over again only beside savers who never pause
            if whole := [found for at in (0, self.SLOT) if (found := self.whole(os.pread(descriptor, self.SLOT, at)))]:
                return max(whole)
        raise Corrupt(f"{path} has no whole state")

    def whole(self, slot: bytes) -> tuple[int, bytes] | None:
        if len(slot) < self.HEAD.size:
            return None
        number, length, checksum = self.HEAD.unpack_from(slot)
        data = slot[self.HEAD.size : self.HEAD.size + length]
        return (number, data) if length and zlib.crc32(data + str(number).encode()) == checksum else None


class Mapped(TwoSlots):
    """The same, written through a mapping."""

    def overwrite(self, descriptor: int, data: bytes, at: int) -> None:
        if (missing := at + len(data) - os.fstat(descriptor).st_size) > 0:
            os.pwrite(descriptor, bytes(missing), at + len(data) - missing)
        with mmap.mmap(descriptor, 0) as memory:
            memory[at : at + len(data)] = data
            memory.flush()
        os.fsync(descriptor)


class Staging(Files):
    """New files are written in a folder of their own, below, and moved up."""

    def temporary(self, path: Path) -> Path:
        stage = path.parent / "staging"
        if not stage.exists():
            stage.mkdir(exist_ok=True)
            self.sync_folder(path.parent)
        return stage / path.name

    def sync_folder(self, folder: Path) -> None:
        super().sync_folder(folder)
        if (folder / "staging").exists():
            super().sync_folder(folder / "staging")


class Helped(Files):
    """Another thread does the syncing, and the save waits for it."""

    def on_a_thread(self, do: Callable[..., None], *args: Any) -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(do, *args).result()

    def sync(self, descriptor: int) -> None:
        self.on_a_thread(super().sync, descriptor)

    def sync_folder(self, folder: Path) -> None:
        self.on_a_thread(super().sync_folder, folder)


class Unnamed(Files):
    """A file without a name (O_TMPFILE), with its room set aside first, gets one when it is whole; each write is durable."""

    def write(self, temporary: Path, data: bytes, mode: int) -> None:
        descriptor = os.open(temporary.parent, os.O_TMPFILE | os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC, mode)
        try:
            os.posix_fallocate(descriptor, 0, len(data))
            rest = data
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            temporary.unlink(missing_ok=True)
            os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=descriptor)  # by linkat, which follows
        finally:
            os.close(descriptor)


# --- wrong, each in one thing -----------------------------------------------------------------------------------------


class UnmendedJournal(Journal):
    """Appends behind a torn tail, where nobody looks any more."""

    def save(self, run_id: str, state: Any) -> None:
        record = self.encode([self.key(run_id), state])
        with self.locked("journal"):
            new = not self.path.exists() or not self.path.stat().st_size
            with self.path.open("ab", buffering=0) as file:
                self.put(file, (self.MAGIC if new else b"") + self.HEAD.pack(len(record), zlib.crc32(record)) + record)
            self.sync_folder(self.folder)


class EarlyPointer(Generations):
    """Points to a file that may not be on disk yet."""

    def write_new(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        if path.suffix == ".next":
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


class SyncsAgain(Files):
    """What fsync could not write is dropped by the kernel; a second fsync has nothing left to fail for."""

    def sync(self, descriptor: int) -> None:
        try:
            os.fsync(descriptor)
        except OSError:
            os.fsync(descriptor)


class OneSlot(TwoSlots):
    """Writes over the newest state, and keeps the oldest."""

    def put_in_place(self, path: Path, data: bytes) -> None:
        if not path.exists():
            super().put_in_place(path, data)
        else:
            self.overwrite(self.opened(path), self.slot(self.newest(path)[0] + 1, data), 0)


class NoBarrier(Files):
    """Data and what says where it is are synced at once: the second may be on disk, and not the first."""

    HEAD = struct.Struct("<QQ")

    def put_in_place(self, path: Path, data: bytes) -> None:
        if not path.exists():
            super().put_in_place(path, self.HEAD.pack(self.HEAD.size, len(data)) + data)
            return
        with path.open("r+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            file.write(data)
            file.seek(0)
            file.write(self.HEAD.pack(end, len(data)))
            os.fsync(file.fileno())

    def read(self, path: Path) -> Any:
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{path.stem} was never saved") from None
        if len(data) < self.HEAD.size:
            raise Corrupt(f"{path} is cut")
        at, length = self.HEAD.unpack_from(data)
        return self.decode(data[at : at + length], path)


class OddSubject(Sound):
    """Claims what all of them keep; made for each by `subject`."""

    promises: ClassVar[AbstractSet[str]] = PLAIN

    @contextmanager
    def _opened(self, folder: Path) -> Iterator[Any]:  # type: ignore[override]
        store = self.Store(folder)
        try:
            yield store
        finally:
            if isinstance(store, TwoSlots):
                store.close()


def _subject(store: type[Files]) -> type[OddSubject]:
    return type(f"{store.__name__}Subject", (OddSubject,), {"Store": store, "__module__": __name__})


RIGHT: Mapping[str, type[Files]] = {
    store.__name__: store
    for store in (ByPid, Journal, Generations, Retrying, TwoSlots, Mapped, Staging, Helped, Unnamed)
}
WRONG: Mapping[str, type[Files]] = {
    store.__name__: store for store in (UnmendedJournal, EarlyPointer, SyncsAgain, OneSlot, NoBarrier)
}
globals().update({f"{name}Subject": _subject(store) for name, store in {**RIGHT, **WRONG}.items()})
