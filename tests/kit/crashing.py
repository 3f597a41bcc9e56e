"""Stores of one value, right and wrong, whose crash states are known: what `test_crash` and `test_faults` record and judge.

`python crashing.py` serves runs to be traced, one fork each: `store, folder`. `python crashing.py judge` loads what is in
the folders that it is told, all in one process.
"""

from __future__ import annotations

import dbm.dumb
import json
import os
import shelve
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

from pytest_flowcheck.proof.crash import mark
from pytest_flowcheck.proof.forkserver import serve

OLD, NEW = "o" * 1000, "n" * 900


class Store:
    """Saves and loads; the value is text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "state"

    def save(self, value: str) -> None:
        raise NotImplementedError

    def load(self) -> str:
        return self.file.read_text()

    def close(self) -> None:
        return


class Plain(Store):
    """Truncates, then writes."""

    def save(self, value: str) -> None:
        self.file.write_text(value)


class Replaced(Store):
    """Writes beside and renames; syncs what the class says."""

    sync_file = sync_folder = False

    def save(self, value: str) -> None:
        beside = self.folder / "state.tmp"
        try:
            with beside.open("w") as file:
                file.write(value)
                file.flush()
                if self.sync_file:
                    os.fsync(file.fileno())
            beside.replace(self.file)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        if self.sync_folder:
            fd = os.open(self.folder, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)


class SyncedFile(Replaced):
    sync_file = True


class Durable(SyncedFile):
    sync_folder = True


class Littering(Durable):
    """Leaves its temporary file behind when something fails, and says nothing."""

    def save(self, value: str) -> None:
        beside = self.folder / "state.tmp"
        try:
            with beside.open("w") as file:
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.file)
        except OSError:
            return


class FromElsewhere(Store):
    """The temporary file lies in another folder, un-synced."""

    def save(self, value: str) -> None:
        beside = self.folder.parent / f"{self.folder.name}.tmp"
        beside.write_text(value)
        beside.replace(self.file)


class InAThread(Replaced):
    """The whole save happens in a thread, while another one writes a file of its own."""

    sync_file = sync_folder = True

    def save(self, value: str) -> None:
        beside = threading.Thread(target=(self.folder / "beside").write_text, args=("x" * 10,))
        saver = threading.Thread(target=super().save, args=(value,))
        for thread in (beside, saver):
            thread.start()
        for thread in (beside, saver):
            thread.join()


class InAProcess(Store):
    """The shell writes, with a working directory and descriptors of its own."""

    def save(self, value: str) -> None:
        subprocess.run(
            ["/bin/sh", "-c", 'printf %s "$1" > state.tmp && mv state.tmp state', "sh", value],
            cwd=self.folder,
            check=True,
        )


class Sqlite(Store):
    journal, synchronous = "DELETE", "FULL"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.connection = sqlite3.connect(folder / "db", isolation_level=None)
        self.connection.execute(f"PRAGMA journal_mode={self.journal}")
        self.connection.execute(f"PRAGMA synchronous={self.synchronous}")
        self.connection.execute("CREATE TABLE IF NOT EXISTS state (id INTEGER PRIMARY KEY, value TEXT)")

    def save(self, value: str) -> None:
        self.connection.execute("INSERT OR REPLACE INTO state VALUES (1, ?)", (value,))

    def load(self) -> str:
        ((health,),) = self.connection.execute("PRAGMA integrity_check")
        ((value,),) = self.connection.execute("SELECT value FROM state")
        return value if health == "ok" else health

    def close(self) -> None:
        self.connection.close()


class SqliteOff(Sqlite):
    synchronous = "OFF"


class SqliteExtra(Sqlite):
    synchronous = "EXTRA"


class SqliteWal(Sqlite):
    journal = "WAL"


class SqliteWalOff(SqliteWal):
    synchronous = "OFF"


class Shelf(Store):
    """A shelf over dbm.dumb: an index and a data file, written one after the other, in place."""

    def save(self, value: str) -> None:
        with shelve.Shelf(dbm.dumb.open(str(self.folder / "shelf"), "c")) as shelf:
            shelf["run"] = value

    def load(self) -> str:
        with shelve.Shelf(dbm.dumb.open(str(self.folder / "shelf"), "r")) as shelf:
            return shelf["run"]


class Log(Store):
    """Lines of JSON; each save appends one. Reading believes every line."""

    parts = 1

    def save(self, value: str) -> None:
        line = json.dumps(value).encode() + b"\n"
        fd = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            for part in (line,) if self.parts == 1 else (line[:-1], line[-1:]):
                os.write(fd, part)
        finally:
            os.close(fd)

    def load(self) -> str:
        whole, _, torn = self.file.read_bytes().rpartition(b"\n")
        return json.loads(whole.split(b"\n")[-1]) + (" and a torn line" if torn else "")


class LogInTwo(Log):
    parts = 2


STORES = {
    store.__name__: store
    for store in (
        *(Plain, Replaced, SyncedFile, Durable, Littering, FromElsewhere, InAThread, InAProcess, Shelf, Log, LogInTwo),
        *(Sqlite, SqliteOff, SqliteExtra, SqliteWal, SqliteWalOff),
    )
}


def run(arguments: list[str]) -> None:
    """The operation that is recorded: one save over an old state. Says by a mark what it raised."""
    name, folder, *old = arguments
    store = STORES[name](Path(folder))
    for value in old:
        store.save(value)
    mark("begin")
    try:
        store.save(NEW)
    except Exception as error:
        mark(f"raised {type(error).__name__}")
    else:
        mark("end")


def judge() -> None:
    """Answers each folder with what is loaded from it."""
    for line in sys.stdin:
        name, folder = json.loads(line)
        try:
            store = STORES[name](Path(folder))
            try:
                answer = store.load()
            finally:
                store.close()
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        sys.stdout.write(json.dumps({OLD: "old", NEW: "new"}.get(answer, "bad: " + answer[:100])) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:] == ["judge"]:
        judge()
    else:
        serve(run)
