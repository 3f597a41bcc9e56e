"""Subjects for `test_resume_rules`. Here, since other processes import them, and need nothing of a test for that."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, ClassVar

from flowcheck_reference import SqliteStore
from flowcheck_reference.broken.flow import _kept, resuming
from flowcheck_reference.subject import Reference, ReferenceAsync
from pytest_flowcheck.protocols import NotFound


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
