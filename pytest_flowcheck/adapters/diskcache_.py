"""diskcache: a `Cache`, as it is when nothing is set: a write-ahead log with `synchronous=NORMAL`, large values in files."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final

from pytest_flowcheck.adapters._store import contended
from pytest_flowcheck.protocols import Adapter, Corrupt, ErrorMap, Invalid, NotFound, Refused
from pytest_flowcheck.protocols.store import Store

SUBJECTS: Final = {"diskcache": "DiskCache"}


class _Cache:
    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def save(self, run_id: str, state: Any) -> None:
        with contended():
            self._cache.set(run_id, state)

    def load(self, run_id: str) -> Any:
        with contended():
            return self._cache[run_id]


class DiskCache(Adapter):
    """`cache.set(run, state)`, `cache[run]`."""

    name = "diskcache"
    requires: ClassVar[Sequence[str]] = ("diskcache",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"store": frozenset({"processes"})}
    errors: ClassVar[ErrorMap] = {
        NotFound: KeyError,
        Refused: "Timeout",
        OSError: "OperationalError",
        Corrupt: ("DatabaseError", pickle.UnpicklingError, EOFError),
        Invalid: (TypeError, AttributeError, pickle.PicklingError, UnicodeEncodeError),
    }

    def warm_up(self) -> None:
        import_module("diskcache")

    @contextmanager
    def store(self, folder: Path) -> Generator[Store]:
        diskcache: Any = import_module("diskcache")  # it has no types
        with contended(), closing(diskcache.Cache(str(folder))) as cache:
            yield _Cache(cache)
