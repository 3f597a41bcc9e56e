"""Subjects for `test_resume_rules`. Here, since other processes import them, and need nothing of a test for that."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from flowcheck_reference import SqliteStore
from flowcheck_reference.broken.flow import _kept, resuming
from flowcheck_reference.subject import Reference, ReferenceAsync
from pytest_flowcheck.protocols import NotFound, Refused


class OnSqlite(Reference):
    """The reference engine on the other store."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": Reference.claims["flow"]}

    def _runs(self, folder: Path | None) -> SqliteStore | None:
        return None if folder is None else SqliteStore(folder / "runs.db")


class OnSqliteAsync(ReferenceAsync):
    """The same, awaited."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": ReferenceAsync.claims["flow"]}

    def _runs(self, folder: Path | None) -> SqliteStore | None:
        return None if folder is None else SqliteStore(folder / "runs.db")


class LeaseForSomeTime(resuming.LockFileStays):
    """A lease that a killed process holds until its time is over."""

    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"flow": {"lease": "timed"}}


class JoinsIn(_kept.SoundKept):
    """A run that is there already is gone on with, whatever it is begun with: as workflow ids in some systems."""

    class Flow(_kept.KeepsRuns):
        def run(self, graph: Any, input: Any = None, run_id: str | None = None) -> Any:  # noqa: A002 - the protocol's
            if run_id is not None:
                try:
                    return self.resume(graph, run_id)
                except NotFound:
                    pass
            return super().run(graph, input, run_id)


class SavesElsewhere(_kept.SoundKept):
    """Its journal is in memory that processes share: full disks don't concern it, and nobody counts its bytes."""

    class Flow(_kept.KeepsRuns):
        class File(_kept.Journal):
            def write(self, line: bytes) -> None:
                del line


class RowLease(_kept.SoundKept):
    """Who is at a run is a row of a database, whose connection stays open. To look and to write is one transaction."""

    class Flow(_kept.KeepsRuns):
        class File(_kept.Journal):
            together = True

            def lock(self) -> None:
                self.mine = False
                database = _database(self.path.parent)
                with self.transaction(database):
                    ((pid,),) = database.execute(
                        "SELECT max(pid) FROM leases WHERE run = ?", (self.path.stem,)
                    ).fetchall()
                    if pid is not None and Path(f"/proc/{pid}").exists():
                        raise Refused(f"run {self.path.stem} is under way in process {pid}")
                    database.execute("INSERT INTO leases VALUES (?, ?)", (self.path.stem, os.getpid()))
                self.mine = True

            @contextmanager
            def transaction(self, database: sqlite3.Connection) -> Generator[None]:
                with database:
                    if self.together:
                        database.execute("BEGIN IMMEDIATE")
                    yield

            def close(self) -> None:
                if self.mine:
                    _database(self.path.parent).execute("DELETE FROM leases WHERE run = ?", (self.path.stem,))
                super().close()


class RowLeaseInTwoSteps(RowLease):
    """The same without a transaction."""

    class Flow(RowLease.Flow):
        class File(RowLease.Flow.File):
            together = False


_databases: dict[tuple[int, Path], sqlite3.Connection] = {}


def _database(folder: Path) -> sqlite3.Connection:
    """Opened once in each process."""
    key = os.getpid(), folder
    if key not in _databases:
        connection = sqlite3.connect(folder / "leases.db", isolation_level=None, check_same_thread=False)
        connection.execute("CREATE TABLE IF NOT EXISTS leases (run TEXT, pid INTEGER)")
        _databases[key] = connection
    return _databases[key]


class ReadsThenLocks(_kept.SoundKept):
    """What is through is read before the lock is taken: it may be more by then."""

    class Flow(_kept.KeepsRuns):
        class File(_kept.Journal):
            early: list[bytes] | None = None

            def lock(self) -> None:
                self.early = super().whole_lines()
                super().lock()

            def whole_lines(self) -> list[bytes]:
                return super().whole_lines() if self.early is None else self.early
