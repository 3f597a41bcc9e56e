"""States of runs that survive: in JSON files, or in a SQLite database (facet `store`).

    with JsonStore("runs") as store:                    # or SqliteStore("runs.db")
        with store.lease("report-17"):                  # nobody else, in any process, while this lasts
            store.save("report-17", {"input": 42})
            store.append("report-17", {"node": "fetch", "value": [1, 2]})
            ...
            store.fold("report-17", {"input": 42, "fetch": [1, 2]})

A run has a *state*, which is saved whole in the place of the one before, and a *log*, to which entries are added. What
`save` or `append` has returned from is there after a kill and a power loss; what they had not returned from is there
whole, or not at all. A run of n nodes that appends what became of each writes in proportion to n; saving the whole state
each time would write in proportion to n² (FLO-27). At the end `fold` puts the state in the place of both.

Which one? JSON files can be looked at, mended and copied with any tool; an `append` writes one line. SQLite keeps any
number of runs in one file, and notices damage inside a state, which a JSON file shows only where it is no JSON any more.

Values are JSON: None, bool, int, float, str, list, dict with str keys. They load equal, or they are refused: nothing is
turned into something else silently, not a tuple into a list (STO-01). orjson is used where it is installed.

Any thread and any process may use a store at any time, and a forked child goes on with its copy (STO-07, 22). All calls
block: on an event loop, make them in a thread. No lock of a store is held while another is waited for.

`_store` is the inside.
"""
from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeVar
from zlib import crc32

from ._store import leasing
from ._store.codec import JSON, Snapshot, bytes_of, decode
from ._store.errors import (
    CorruptStateError,
    InvalidRunIdError,
    LeaseHeldError,
    NotJsonError,
    RunNotFoundError,
    StoreBusyError,
    StoreClosedError,
    StoreError,
)
from ._store.files import explained, make_folder, read_all, real_path, sync_names
from ._store.log import Log, decoded, entries, line, remove
from ._store.names import file_name, run_id_of
from ._store.replacing import Stamp, UnsureError, reap_all, replace

if TYPE_CHECKING:
    from ._store.database import Journal

__all__ = [
    "CorruptStateError",
    "InvalidRunIdError",
    "JsonStore",
    "LeaseHeldError",
    "NotJsonError",
    "RunNotFoundError",
    "Snapshot",
    "SqliteStore",
    "Store",
    "StoreBusyError",
    "StoreClosedError",
    "StoreError",
]

T = TypeVar("T")


class Store(Protocol):
    """What an engine asks of a store. Every method raises InvalidRunIdError for an id that can't be kept (STO-11),
    StoreClosedError after `close`, OSError for what the system refuses, and StoreBusyError where others were in the way.
    """

    def save(self, run_id: str, state: JSON | Snapshot, *, overwrite: bool = False) -> None:
        """Put `state` in the place of what was there, all or nothing; it lasts when this has returned.

        What is there and can't be read is not overwritten unawares: that takes `overwrite=True`, or `delete` (STO-12).

        Raises: NotJsonError, before anything is touched: the state would not load equal; CorruptStateError; OSError,
        with the state before still there.
        """

    def load(self, run_id: str) -> JSON:
        """The last state saved. Raises: RunNotFoundError: never saved; CorruptStateError, naming the file."""

    def append(self, run_id: str, entry: JSON | Snapshot) -> None:
        """Add an entry to the run's log, behind all others; it lasts when this has returned. Raises: NotJsonError."""

    def extend(self, run_id: str, entries: Iterable[JSON | Snapshot]) -> None:
        """`append` each, at the price of one. Raises: NotJsonError, and none was added."""

    def entries(self, run_id: str) -> list[JSON]:
        """Those that are whole, oldest first; none for a run without. Raises: CorruptStateError."""
        raise NotImplementedError

    def fold(self, run_id: str, state: JSON | Snapshot, *, overwrite: bool = False) -> None:
        """Save `state`, which says what the log says, and then let the log go. Raises: as `save`.

        After a kill in between, both are there: what an entry says must be no harm when it is said twice.
        """

    def lease(self, run_id: str) -> AbstractContextManager[None]:
        """Be the one holder of the run, in all processes, while the `with` lasts (FLO-25).

        It is for those who ask for it: `save` and `append` don't. It ends with its process, too, however that ends, and
        is not a forked child's. The `with` may end in another thread than it began in.

        Raises: LeaseHeldError, at once: somebody else has it, in this process or another.
        """
        raise NotImplementedError

    def runs(self) -> list[str]:
        """The ids of all runs that have a state or a log, sorted."""
        raise NotImplementedError

    def delete(self, run_id: str) -> None:
        """Forget the run, if there is one: its state, readable or not, and its log. Raises: LeaseHeldError: it is held."""

    def close(self) -> None:
        """Take no more calls; what is under way comes to its end, a lease with its `with`. Any number of times."""


class JsonStore:
    """Runs as files in a folder: `report-17.json` is a state, `report-17.log` a log, of a line of JSON for each entry.

    `folder`: made where it is missing. `durable`: False lets a power loss take the last saves and entries, some seconds'
    worth, and costs less; a save is still all or nothing, and nothing is lost in a kill.

    A state's file may be mended by hand, and may be a symbolic link, which is followed; its mode is kept (STO-13, 18). A
    log's line begins with a checksum, and one that is damaged is passed over, with a warning in the log of
    `flowcheck_reference.store`. Ids keep lower-case letters, digits, `-` and `_` as they are in the file's name, other
    characters as in a URL (`%41` for `A`), 200 bytes of it at most.
    """

    def __init__(self, folder: str | os.PathLike[str], *, durable: bool = True) -> None:
        self._folder: Final = os.path.abspath(folder)  # noqa: PTH100  paths are texts here
        self._durable: Final = durable
        self._closed = False
        self._stamps: Final = _Memory[Stamp]()
        """As this store left the states: who finds one so needs not read it again before it is replaced."""
        self._logs: Final = _Memory[int]()
        """Inodes of logs whose names have been synced."""
        self._held: Final[dict[str, tuple[int, Log]]] = {}
        """The logs of runs whose lease was taken here, and by which process."""
        make_folder(self._folder)

    def save(self, run_id: str, state: JSON | Snapshot, *, overwrite: bool = False) -> None:
        """See `Store.save`."""
        name, path = self._place(run_id, "json")
        data = bytes_of(state) + b"\n"
        try:
            self._stamps[run_id] = replace(
                path,
                name,
                data,
                known=self._stamps.get(run_id),
                vet=None if overwrite else lambda before: _read_file(before, run_id, path),
                durable=self._durable,
            )
        except UnsureError as error:
            what = f"run {run_id!r} was not saved for sure; the new state is there, but may not survive a power loss"
            raise explained(error, what, path) from error
        except OSError as error:
            what = f"run {run_id!r} was not saved, what was saved before is intact"
            raise explained(error, what, path) from error

    def load(self, run_id: str) -> JSON:
        """See `Store.load`."""
        _, path = self._place(run_id, "json")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            msg = f"run {run_id!r} was never saved in {self._folder}"
            raise RunNotFoundError(msg) from None
        try:
            data = read_all(fd)
        finally:
            os.close(fd)
        return _read_file(data, run_id, path)

    def append(self, run_id: str, entry: JSON | Snapshot) -> None:
        """See `Store.append`."""
        self.extend(run_id, (entry,))

    def extend(self, run_id: str, entries: Iterable[JSON | Snapshot]) -> None:
        """See `Store.extend`."""
        _, path = self._place(run_id, "log")
        lines = b"".join([line(bytes_of(entry)) for entry in entries])
        if not lines:
            return
        try:
            pid, log = self._held.get(run_id, (0, None))
            if log is not None and pid == os.getpid():
                log.append(lines)
                return
            log = Log(path, durable=self._durable, seen=self._logs.get(run_id))
            try:
                log.append(lines)
            finally:
                log.close()
            if log.seen is not None:
                self._logs[run_id] = log.seen
        except OSError as error:
            raise explained(error, f"nothing was added to the log of run {run_id!r}", path) from error

    def entries(self, run_id: str) -> list[JSON]:
        """See `Store.entries`."""
        _, path = self._place(run_id, "log")
        return entries(path)

    def fold(self, run_id: str, state: JSON | Snapshot, *, overwrite: bool = False) -> None:
        """See `Store.fold`."""
        self.save(run_id, state, overwrite=overwrite)
        remove(f"{self._folder}/{file_name(run_id)}.log")

    @contextmanager
    def lease(self, run_id: str) -> Generator[None]:
        """See `Store.lease`. The holder's log stays open meanwhile, which makes its appends cheaper."""
        name, path = self._place(run_id, "lease")
        with leasing.lease(path, run_id):
            pid = os.getpid()
            log = Log(f"{self._folder}/{name}.log", durable=self._durable, seen=self._logs.get(run_id))
            self._held[run_id] = pid, log
            try:
                yield
            finally:
                if os.getpid() == pid:
                    del self._held[run_id]
                    log.close()

    def runs(self) -> list[str]:
        """See `Store.runs`."""
        self._check()
        stems = {
            stem for stem, _, ending in (name.partition(".") for name in os.listdir(self._folder)) if ending in _OF_A_RUN
        }
        return sorted(run_id for run_id in map(run_id_of, stems) if run_id is not None)

    def delete(self, run_id: str) -> None:
        """See `Store.delete`. Of a state that is a symbolic link, the link goes, and the file that it led to stays.

        The state goes first. After a kill in between there is a log without a state: no run, but none that has forgotten
        what it has done either; delete it again.
        """
        name, path = self._place(run_id, "json")
        pid, _ = self._held.get(run_id, (0, None))
        with nullcontext() if pid == os.getpid() else leasing.lease(f"{self._folder}/{name}.lease", run_id):
            self._stamps.pop(run_id, None)
            reap_all(os.path.dirname(real_path(path)), name)  # noqa: PTH120
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108
            remove(f"{self._folder}/{name}.log")
            if self._durable:
                sync_names(self._folder)

    def close(self) -> None:
        """See `Store.close`."""
        self._closed = True

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """`close`."""
        self.close()

    def _place(self, run_id: str, ending: str) -> tuple[str, str]:
        """The run's name, and one of its files."""
        self._check()
        name = file_name(run_id)
        return name, f"{self._folder}/{name}.{ending}"

    def _check(self) -> None:
        if self._closed:
            msg = f"this store was closed: {self._folder}"
            raise StoreClosedError(msg)


class SqliteStore:
    """Runs as rows of a SQLite database.

    `path`: of its file; made where it is missing. SQLite has files beside it while it is open.
    `journal`: of a database that is made; one that is there keeps its own. "wal": a commit is one write and one fsync, and
    nobody who reads waits. "delete": for network file systems, where there is no memory to share.
    `timeout`: seconds for which an operation waits for its turn among writers before it raises StoreBusyError.
    `durable`: False lets a power loss take the last operations, and costs less; the database stays whole.

    Each operation is a transaction. `close` it: SQLite then puts its files in order.
    Raises: CorruptStateError, StoreError for a file that is no database of runs; OSError.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, journal: Journal = "wal", timeout: float = 5.0, durable: bool = True
    ) -> None:
        from ._store.database import Database  # who keeps files only pays for no database

        if os.fspath(path) == ":memory:":
            msg = "a database in memory survives nothing: give the path of a file"
            raise ValueError(msg)
        if journal not in {"wal", "delete"}:
            msg = f"journal must be 'wal' or 'delete', not {journal!r}"
            raise ValueError(msg)
        self._path: Final = os.path.abspath(path)  # noqa: PTH100  paths are texts here
        self._database: Final = Database(self._path, journal=journal, timeout=timeout, durable=durable)
        self._known: Final = _Memory[tuple[int, int]]()
        """Revision and checksum of the states that were saved here: who finds them so needs not read the state."""
        self._held: Final[dict[str, int]] = {}
        """Runs whose lease was taken here, and by which process."""

    def save(self, run_id: str, state: JSON | Snapshot, *, overwrite: bool = False) -> None:
        """See `Store.save`."""
        self._put(run_id, state, overwrite=overwrite, fold=False)

    def fold(self, run_id: str, state: JSON | Snapshot, *, overwrite: bool = False) -> None:
        """See `Store.fold`. Here it is one transaction: there is no in between."""
        self._put(run_id, state, overwrite=overwrite, fold=True)

    def _put(self, run_id: str, state: JSON | Snapshot, *, overwrite: bool, fold: bool) -> None:
        file_name(run_id)
        data = bytes_of(state)
        with self._database.writing() as connection:
            row: tuple[int, int] | None = connection.execute(_SELECT_MARK, (run_id,)).fetchone()
            if row is not None and not overwrite and self._known.get(run_id) != row:
                self._read(connection.execute(_SELECT, (run_id,)).fetchone(), run_id)
            mark = (1 if row is None else row[0] + 1, crc32(data))
            connection.execute(_UPSERT, (run_id, *mark, data))
            if fold:
                connection.execute("DELETE FROM log WHERE run_id = ?", (run_id,))
        self._known[run_id] = mark

    def load(self, run_id: str) -> JSON:
        """See `Store.load`."""
        file_name(run_id)
        rows = self._database.fetch(_SELECT, (run_id,))
        if not rows:
            msg = f"run {run_id!r} was never saved in {self._path}"
            raise RunNotFoundError(msg)
        return self._read(rows[0], run_id)

    def _read(self, row: tuple[int, bytes], run_id: str) -> JSON:
        checksum, data = row
        if checksum != crc32(data):
            raise _corrupt(run_id, self._path, "its checksum is another")
        return _read(data, run_id, self._path)

    def append(self, run_id: str, entry: JSON | Snapshot) -> None:
        """See `Store.append`."""
        self.extend(run_id, (entry,))

    def extend(self, run_id: str, entries: Iterable[JSON | Snapshot]) -> None:
        """See `Store.extend`."""
        file_name(run_id)
        rows = [(run_id, crc32(data), data, run_id) for data in map(bytes_of, entries)]
        if rows:
            with self._database.writing() as connection:
                connection.executemany(_APPEND, rows)

    def entries(self, run_id: str) -> list[JSON]:
        """See `Store.entries`."""
        file_name(run_id)
        rows: list[tuple[int, bytes]] = self._database.fetch(_ENTRIES, (run_id,))
        for checksum, data in rows:
            if checksum != crc32(data):
                raise _corrupt(run_id, self._path, "the checksum of an entry of its log is another")
        return decoded((data for _, data in rows), self._path)

    @contextmanager
    def lease(self, run_id: str) -> Generator[None]:
        """See `Store.lease`. A small file beside the database, as long as it lasts."""
        path = self._lease_path(run_id)
        self._database.check()
        with leasing.lease(path, run_id):
            pid = self._held[run_id] = os.getpid()
            try:
                yield
            finally:
                if os.getpid() == pid:
                    del self._held[run_id]

    def _lease_path(self, run_id: str) -> str:
        """A name of constant length, as there is that of the database, too; what it says need not be read back."""
        file_name(run_id)
        return f"{self._path}-{sha256(run_id.encode()).hexdigest()[:32]}.lease"

    def runs(self) -> list[str]:
        """See `Store.runs`."""
        rows: list[tuple[str]] = self._database.fetch(_RUNS)
        return sorted(run_id for (run_id,) in rows)

    def delete(self, run_id: str) -> None:
        """See `Store.delete`. One transaction."""
        path = self._lease_path(run_id)
        with (
            nullcontext() if self._held.get(run_id) == os.getpid() else leasing.lease(path, run_id),
            self._database.writing() as connection,
        ):
            self._known.pop(run_id, None)
            connection.execute("DELETE FROM state WHERE run_id = ?", (run_id,))
            connection.execute("DELETE FROM log WHERE run_id = ?", (run_id,))

    def close(self) -> None:
        """See `Store.close`."""
        self._database.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """`close`."""
        self.close()


_BEGINS_A_NUMBER: Final = tuple(b"%c" % byte for byte in b"-0123456789")
_OF_A_RUN: Final = frozenset({"json", "log"})

_SELECT_MARK: Final = "SELECT revision, checksum FROM state WHERE run_id = ?"
_SELECT: Final = "SELECT checksum, CAST(state AS BLOB) FROM state WHERE run_id = ?"
_UPSERT: Final = """
    INSERT INTO state (run_id, revision, checksum, state) VALUES (?, ?, ?, ?) ON CONFLICT (run_id)
    DO UPDATE SET revision = excluded.revision, checksum = excluded.checksum, state = excluded.state
"""
_APPEND: Final = """
    INSERT INTO log (run_id, number, checksum, entry)
    SELECT ?, coalesce(max(number), 0) + 1, ?, ? FROM log WHERE run_id = ?
"""
_ENTRIES: Final = "SELECT checksum, CAST(entry AS BLOB) FROM log WHERE run_id = ? ORDER BY number"
_RUNS: Final = "SELECT run_id FROM state UNION SELECT run_id FROM log"


class _Memory(dict[str, T]):
    """What a store remembers of runs, of so many at most: it may always look again."""

    def __setitem__(self, run_id: str, value: T) -> None:
        super().__setitem__(run_id, value)
        while len(self) > 1024:
            self.pop(next(iter(tuple(self))), None)


def _read_file(data: bytes, run_id: str, path: str) -> JSON:
    """A state from a file of its own. Raises: CorruptStateError."""
    if data[:1] in _BEGINS_A_NUMBER and not data.endswith(b"\n"):
        raise _corrupt(run_id, path, "a number without its end of line may be the beginning of a longer one")
    return _read(data, run_id, path)


def _read(data: bytes, run_id: str, path: str) -> JSON:
    """A state. Raises: CorruptStateError."""
    if not data:
        raise _corrupt(run_id, path, "it is empty")
    try:
        return decode(data)
    except ValueError as error:
        raise _corrupt(run_id, path, str(error)) from error


def _corrupt(run_id: str, path: str, why: str) -> CorruptStateError:
    msg = (
        f"what was saved of run {run_id!r} can't be read: {path}: {why}. It is kept as it is: mend it, save with "
        "overwrite=True, or delete the run"
    )
    return CorruptStateError(msg, path)
