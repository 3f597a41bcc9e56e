"""dbm: `shelve` on the backend that Python chooses, and `dbm.sqlite3`; opened for each call, as their documentation shows."""

from __future__ import annotations

import json
import pickle
import platform
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final

from pytest_flowcheck.adapters._store import contended, text
from pytest_flowcheck.protocols import Adapter, Corrupt, ErrorMap, Invalid, NotFound
from pytest_flowcheck.protocols.store import Store

SUBJECTS: Final = {"shelve": "Shelve", "dbm-sqlite3": "DbmSqlite3"}


class _Shelf:
    def __init__(self, folder: Path) -> None:
        self._path = str(folder / "runs")

    def save(self, run_id: str, state: Any) -> None:
        import shelve

        with shelve.open(self._path) as shelf:  # noqa: S301 - the kit wrote it
            shelf[run_id] = state

    def load(self, run_id: str) -> Any:
        import shelve

        with shelve.open(self._path) as shelf:  # noqa: S301 - the kit wrote it
            return shelf[run_id]


class _Dbm:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "runs.db"

    def save(self, run_id: str, state: Any) -> None:
        dbm: Any = import_module("dbm.sqlite3")  # typeshed has it from 3.13 on
        with contended(), dbm.open(self._path, "c") as database:
            database[run_id] = text(state)

    def load(self, run_id: str) -> Any:
        dbm: Any = import_module("dbm.sqlite3")
        with contended(), dbm.open(self._path, "c") as database:
            return json.loads(database[run_id])


def _backend() -> str:
    """Which one makes a new shelf: the first that this Python was built with, in the order of `dbm`."""
    for name in ("dbm.sqlite3", "dbm.gnu", "dbm.ndbm"):
        try:
            import_module(name)
        except ImportError:  # it is newer, or needs a library that is not there
            continue
        return name
    return "dbm.dumb"


class Shelve(Adapter):
    """`with shelve.open(path) as shelf: shelf[run] = state`, on `dbm.sqlite3`, `dbm.gnu`, `dbm.ndbm` or `dbm.dumb`."""

    name = "shelve"
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"store": frozenset()}
    errors: ClassVar[ErrorMap] = {
        NotFound: KeyError,
        Corrupt: ("error", pickle.UnpicklingError, EOFError),  # each backend has an `error` of its own
        Invalid: (TypeError, AttributeError, pickle.PicklingError, UnicodeEncodeError),
    }

    def __init__(self) -> None:
        self.version = f"{platform.python_version()} on {_backend()}"  # what a shelf can do is what that can

    def store(self, folder: Path) -> AbstractContextManager[Store]:
        return nullcontext(_Shelf(folder))


class DbmSqlite3(Adapter):
    """`with dbm.sqlite3.open(path, "c") as database: database[run] = text`. The module is new in Python 3.13."""

    name = "dbm-sqlite3"
    version = platform.python_version()
    requires_python: ClassVar[tuple[int, ...]] = (3, 13)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"store": frozenset({"processes"})}
    errors: ClassVar[ErrorMap] = {
        NotFound: KeyError,
        Corrupt: ("error", "DatabaseError"),  # its own, and SQLite's where it opens the file
        Invalid: UnicodeEncodeError,
    }

    def store(self, folder: Path) -> AbstractContextManager[Store]:
        return nullcontext(_Dbm(folder))
