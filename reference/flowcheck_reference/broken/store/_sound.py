"""What the broken stores start from: three that keep every rule, with one method for each thing to spoil.

`Files` keeps a JSON file, a log and a lock file for each run. `Table` keeps all runs in one SQLite database. `AsyncFiles`
is `Files` on anyio's threads, awaited on asyncio and trio. None knows the reference engine.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from pathlib import Path
from typing import Any, ClassVar

from anyio import to_thread

from pytest_flowcheck.protocols import Corrupt, Invalid, NotFound, Refused


class Core:
    """What the stores decide alike: which values and which ids can be kept."""

    def encode(self, value: Any) -> bytes:
        """The value as JSON on one line; what JSON would alter is refused."""
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise Invalid(f"this value is no JSON: {error}") from error
        if json.loads(text) != value:
            raise Invalid("this value would not come back equal: JSON has string keys and lists only")
        return text.encode()

    def decode(self, data: bytes, path: Path) -> Any:
        """The value that was encoded."""
        try:
            return json.loads(data)
        except ValueError as error:
            raise Corrupt(f"{path} holds no state: {error}") from error

    def key(self, run_id: str) -> str:
        """The id, if it is a word that names a file everywhere; others are refused."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,99}", run_id):
            raise Invalid(f"{run_id!r} is no id: lower-case letters, digits, - and _, at most 100")
        return run_id


class Files(Core):
    """A file for each run, replaced as a whole; one saver of a run at a time, by a lock that dies with its process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory: dict[str, dict[str, Any]] = {}
        self.changing, self.flushing = threading.Lock(), threading.Lock()

    # --- states

    def save(self, run_id: str, state: Any) -> None:
        run_id = self.key(run_id)
        data = self.encode(state)
        with self.saving(run_id):
            path = self.real(self.folder / f"{run_id}.json")
            self.look(path)
            self.put_in_place(path, data)

    def load(self, run_id: str) -> Any:
        run_id = self.key(run_id)
        return self.read(self.folder / f"{run_id}.json")

    def read(self, path: Path) -> Any:
        """The state in this file."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{path.stem} was never saved") from None
        return self.decode(data, path)

    def look(self, path: Path) -> None:
        """What can't be read is not overwritten."""
        with suppress(NotFound):
            self.read(path)

    def real(self, path: Path) -> Path:
        """Where the file is, should its name be a symbolic link."""
        return Path(os.path.realpath(path))

    def saving(self, run_id: str) -> AbstractContextManager[None]:
        """One saver of a run at a time."""
        return self.locked(run_id)

    def appending(self, run_id: str) -> AbstractContextManager[None]:
        """One writer of a run's log at a time."""
        return self.locked(run_id)

    def locked(self, run_id: str) -> AbstractContextManager[None]:
        """The run's lock is held."""
        return self.flocked(run_id)

    @contextmanager
    def flocked(self, run_id: str) -> Generator[None]:
        """The kernel's lock on a file of that name, which may stay."""
        descriptor = os.open(self.folder / f"{run_id}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # not by closing: a forked process has the descriptor, too
            os.close(descriptor)

    def put_in_place(self, path: Path, data: bytes) -> None:
        """Write, make durable, replace, make that durable."""
        temporary = self.temporary(path)
        try:
            self.write(temporary, data, self.mode(path))
            self.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        self.sync_folder(path.parent)

    def temporary(self, path: Path) -> Path:
        """The lock makes one name enough, and what a killed saver left is written over."""
        return path.with_suffix(".tmp")

    def mode(self, path: Path) -> int:
        """As it is, or as usual."""
        try:
            return path.stat().st_mode & 0o7777
        except FileNotFoundError:
            return 0o644

    def write(self, temporary: Path, data: bytes, mode: int) -> None:
        with temporary.open("wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            self.sync(file.fileno())

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def replace(self, temporary: Path, path: Path) -> None:
        temporary.replace(path)

    def sync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # --- logs

    def append(self, run_id: str, entry: Any) -> None:
        run_id = self.key(run_id)
        line = self.line(entry)
        path = self.folder / f"{run_id}.log"
        with self.appending(run_id):
            new = not path.exists()
            with path.open("ab+", buffering=0) as file:
                self.mend(file)
                self.add(file, line)
                self.sync(file.fileno())
            if new:
                self.sync_folder(self.folder)

    def line(self, entry: Any) -> bytes:
        return self.encode(entry) + b"\n"

    def mend(self, file: Any) -> None:
        """An entry that a crash tore is not whole: away with it, or the next one would go on where it ends."""
        file.seek(0)
        data: bytes = file.read()
        if data and not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)

    def add(self, file: Any, line: bytes) -> None:
        """All of it, or nothing: a full disk takes half a line, too."""
        end = os.fstat(file.fileno()).st_size
        try:
            written = file.write(line)
            if written < len(line):
                file.write(line[written:])
        except OSError:
            file.truncate(end)
            raise

    def entries(self, run_id: str) -> list[Any]:
        run_id = self.key(run_id)
        path = self.folder / f"{run_id}.log"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return []
        return self.parse(data, path)

    def parse(self, data: bytes, path: Path) -> list[Any]:
        """Whole lines; what stands behind the last newline was torn by a crash."""
        return [self.decode(line, path) for line in data.split(b"\n")[:-1]]

    # --- a state in memory

    def put(self, run_id: str, key: str, value: Any) -> None:
        with self.changing:
            self.memory.setdefault(run_id, {})[key] = value

    def flush(self, run_id: str) -> None:
        with self.flushing:  # or an older copy could be saved after a newer one
            self.save(run_id, self.snapshot(run_id))

    def snapshot(self, run_id: str) -> Any:
        """What is in memory now."""
        with self.changing:
            return dict(self.memory.get(run_id, {}))


class Table(Core):
    """All runs in one SQLite database; a connection for each call, so that no thread and no fork shares one."""

    synchronous = "EXTRA"
    """Not FULL: where the journal is deleted to commit, only EXTRA makes the deletion durable."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "runs.sqlite"

    def key(self, run_id: str) -> str:
        """A database takes almost any text."""
        if not run_id or not run_id.isprintable():
            raise Invalid(f"{run_id!r} is no id: printable characters")
        return run_id

    @contextmanager
    def connected(self) -> Generator[sqlite3.Connection]:
        """A connection in a transaction; an error of SQLite's as what it is."""
        connection = None
        try:
            connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            connection.execute(f"PRAGMA synchronous={self.synchronous}")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("CREATE TABLE IF NOT EXISTS states (run TEXT PRIMARY KEY, state BLOB)")
            connection.execute("CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, run TEXT, entry BLOB)")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise Refused(f"{self.path} is in use: {error}") from error
            raise OSError(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"{self.path} is no database of states: {error}") from error
        finally:
            if connection is not None:
                connection.close()

    def save(self, run_id: str, state: Any) -> None:
        run_id = self.key(run_id)
        data = self.encode(state)
        with self.connected() as connection:
            connection.execute("INSERT OR REPLACE INTO states VALUES (?, ?)", (run_id, data))

    def load(self, run_id: str) -> Any:
        run_id = self.key(run_id)
        with self.connected() as connection:
            row = connection.execute("SELECT state FROM states WHERE run = ?", (run_id,)).fetchone()
        if row is None:
            raise NotFound(f"{run_id} was never saved")
        return self.decode(row[0], self.path)

    def append(self, run_id: str, entry: Any) -> None:
        run_id = self.key(run_id)
        data = self.encode(entry)
        with self.connected() as connection:
            connection.execute("INSERT INTO log (run, entry) VALUES (?, ?)", (run_id, data))

    def entries(self, run_id: str) -> list[Any]:
        run_id = self.key(run_id)
        with self.connected() as connection:
            rows = connection.execute("SELECT entry FROM log WHERE run = ? ORDER BY id", (run_id,)).fetchall()
        return [self.decode(entry, self.path) for (entry,) in rows]


class AsyncFiles:
    """The same files, for a loop."""

    Blocking: ClassVar[type[Files]] = Files

    def __init__(self, folder: Path) -> None:
        self.files = self.Blocking(folder)

    async def run(self, call: Callable[..., Any], *args: Any) -> Any:
        """On a thread; a save that has begun is not abandoned."""
        return await to_thread.run_sync(call, *args)

    async def save(self, run_id: str, state: Any) -> None:
        await self.run(self.files.save, run_id, state)

    async def load(self, run_id: str) -> Any:
        return await self.run(self.files.load, run_id)

    async def append(self, run_id: str, entry: Any) -> None:
        await self.run(self.files.append, run_id, entry)

    async def entries(self, run_id: str) -> list[Any]:
        found: list[Any] = await self.run(self.files.entries, run_id)
        return found

    async def put(self, run_id: str, key: str, value: Any) -> None:
        self.files.put(run_id, key, value)

    async def flush(self, run_id: str) -> None:
        await self.run(self.files.flush, run_id)


class Sound:
    """A subject whose store is `Store`, blocking."""

    Store: ClassVar[type[Any]] = Files
    promises: ClassVar[AbstractSet[str]] = frozenset({"durable", "files", "live", "log", "processes"})
    without: ClassVar[AbstractSet[str]] = frozenset()
    """Capabilities that this bug would break as well, and that are therefore not claimed."""
    version: ClassVar[str] = "broken on purpose"
    backends: ClassVar[tuple[str, ...]] = ("asyncio",)

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        return {"store": self.promises - self.without}

    def store(self, folder: Path) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]:
        return self._opened(folder)

    @contextmanager
    def _opened(self, folder: Path) -> Generator[Any]:
        yield self.Store(folder)


class SoundTable(Sound):
    """A subject whose store is a database."""

    Store: ClassVar[type[Any]] = Table
    promises: ClassVar[AbstractSet[str]] = frozenset({"durable", "log", "processes"})


class SoundAsync(Sound):
    """A subject whose store is awaited."""

    Store: ClassVar[type[Any]] = AsyncFiles
    backends: ClassVar[tuple[str, ...]] = ("asyncio", "trio")

    def store(self, folder: Path) -> AbstractAsyncContextManager[Any]:
        return self._opened_async(folder)

    @asynccontextmanager
    async def _opened_async(self, folder: Path) -> AsyncGenerator[Any]:
        yield self.Store(folder)
