"""sqlite3: states and logs in two tables. One subject for each way to make a commit safe.

The journal and `synchronous` decide what a power loss can take, so they are what the subjects differ in. As SQLite's
manual says (https://sqlite.org/pragma.html#pragma_synchronous): `OFF` may leave a broken database; `FULL` never does, but
where the journal is deleted to commit, a power loss soon after may bring it back, and roll the commit back; `EXTRA` syncs
the folder after that, and a write-ahead log at `FULL` is synced by each commit. So only the last two claim `durable`.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pytest_flowcheck.adapters._store import contended, text
from pytest_flowcheck.protocols import Adapter, Corrupt, ErrorMap, Invalid, NotFound
from pytest_flowcheck.protocols.store import Log

if TYPE_CHECKING:
    import sqlite3

SUBJECTS: Final = {
    "sqlite3": "Full",
    "sqlite3-extra": "Extra",
    "sqlite3-wal": "WriteAheadLog",
    "sqlite3-off": "Off",
}


class _Tables:
    """One connection in autocommit mode for all threads: each statement is a transaction, and SQLite serialises them."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def save(self, run_id: str, state: Any) -> None:
        with contended():
            self._database.execute("INSERT OR REPLACE INTO states VALUES (?, ?)", (run_id, text(state)))

    def load(self, run_id: str) -> Any:
        with contended():
            row = self._database.execute("SELECT state FROM states WHERE run = ?", (run_id,)).fetchone()
        if row is None:
            raise NotFound(f"{run_id!r} was never saved")
        return json.loads(row[0])

    def append(self, run_id: str, entry: Any) -> None:
        with contended():
            self._database.execute("INSERT INTO log (run, entry) VALUES (?, ?)", (run_id, text(entry)))

    def entries(self, run_id: str) -> Sequence[Any]:
        with contended():
            rows = self._database.execute("SELECT entry FROM log WHERE run = ? ORDER BY id", (run_id,)).fetchall()
        return [json.loads(entry) for (entry,) in rows]


class Full(Adapter):
    """As it is when nothing is set: a rollback journal, `synchronous=FULL`."""

    name = "sqlite3"
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"store": frozenset({"log", "processes"})}
    errors: ClassVar[ErrorMap] = {
        OSError: "OperationalError",
        Corrupt: "DatabaseError",
        Invalid: UnicodeEncodeError,
    }
    journal_mode: ClassVar[str] = "DELETE"
    synchronous: ClassVar[str] = "FULL"

    def __init__(self) -> None:
        import sqlite3

        self.version = sqlite3.sqlite_version

    @contextmanager
    def store(self, folder: Path) -> Generator[Log]:
        import sqlite3

        path = folder / "runs.sqlite"
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)) as database:
            with contended():
                database.execute(f"PRAGMA journal_mode={self.journal_mode}")
                database.execute(f"PRAGMA synchronous={self.synchronous}")
                database.execute("CREATE TABLE IF NOT EXISTS states (run TEXT PRIMARY KEY, state TEXT)")
                database.execute("CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, run TEXT, entry TEXT)")
            yield _Tables(database)


class Extra(Full):
    """A rollback journal, `synchronous=EXTRA`: the folder is synced once the journal is deleted."""

    name = "sqlite3-extra"
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"store": frozenset({"durable", "log", "processes"})}
    synchronous = "EXTRA"


class WriteAheadLog(Extra):
    """A write-ahead log, `synchronous=FULL`: each commit syncs it."""

    name = "sqlite3-wal"
    journal_mode = "WAL"
    synchronous = "FULL"


class Off(Full):
    """A rollback journal, `synchronous=OFF`: nothing is ever synced."""

    name = "sqlite3-off"
    synchronous = "OFF"
