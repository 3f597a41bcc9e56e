"""json: `json.dump` into `open(path, "w")`, by hand: what most scripts do."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Final

from pytest_flowcheck.protocols import Adapter, Corrupt, ErrorMap, Invalid, NotFound
from pytest_flowcheck.protocols.store import Store

SUBJECTS: Final = {"json-dump": "JsonDump"}


class _Files:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, run_id: str, state: Any) -> None:
        with open(self._folder / f"{run_id}.json", "w") as file:
            json.dump(state, file)

    def load(self, run_id: str) -> Any:
        with open(self._folder / f"{run_id}.json") as file:
            return json.load(file)


class JsonDump(Adapter):
    """A file for each run, written over in its place."""

    name = "json-dump"
    version = platform.python_version()
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"store": frozenset({"files", "processes"})}
    errors: ClassVar[ErrorMap] = {
        NotFound: FileNotFoundError,
        Corrupt: (json.JSONDecodeError, UnicodeDecodeError),
        Invalid: (TypeError, ValueError),
    }

    def store(self, folder: Path) -> AbstractContextManager[Store]:
        return nullcontext(_Files(folder))
