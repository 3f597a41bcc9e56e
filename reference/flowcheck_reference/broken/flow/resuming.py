"""Wrong when runs are resumed, or ids are used again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from flowcheck_reference.broken.flow._kept import (
    Journal,
    KeepsRuns,
    KeepsRunsAsync,
    Remembers,
    SoundKept,
    SoundKeptAsync,
)
from pytest_flowcheck.protocols import Refused, breaks

NOBODY = 2**22 + 1
"""A pid that Linux never gives."""


@breaks("FLO-19")
class BeginsFromTheTop(SoundKept):
    """A resume is a new run with the old input."""

    class Flow(KeepsRuns):
        def outputs(self, journal: Journal) -> Mapping[str, Any]:
            return {}


@breaks("FLO-19")
class KnowsOnlyWhatRan(SoundKeptAsync):
    """It is written down which nodes are through, and not what they gave."""

    class Flow(KeepsRunsAsync):
        class Body(Remembers):
            def keep(self, value: Any) -> None:
                super().keep(None)


@breaks("FLO-24")
class LockFileStays(SoundKept):
    """The lock is that a file is there. A process that is killed takes no file away."""

    class Flow(KeepsRuns):
        class File(Journal):
            def lock(self) -> None:
                self.mark = self.path.with_suffix(".lock")
                self.mine = False
                try:
                    os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    raise Refused(f"{self.mark} is there: run {self.path.stem} is under way") from None
                self.mine = True

            def close(self) -> None:
                if self.mine:
                    self.mark.unlink()
                super().close()


@breaks("FLO-24")
class FailureIsFinal(SoundKeptAsync):
    """A node that failed is through: it failed."""

    class Flow(KeepsRunsAsync):
        class Body(Remembers):
            async def aio(self, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002 - the protocol's
                if str(failure := self.outputs.get(self.node)).startswith("failed: "):
                    raise RuntimeError(failure)
                try:
                    return await super().aio(input, upstream)
                except Exception as error:
                    self.keep(f"failed: {error}")
                    raise


@breaks("FLO-25")
class LockOfThreads(SoundKept):
    """The lock is in memory: another process has another memory."""

    class Flow(KeepsRuns):
        class File(Journal):
            held: ClassVar[set[Path]] = set()

            def lock(self) -> None:
                self.mine = self.path not in self.held
                if not self.mine:
                    raise Refused(f"run {self.path.stem} is under way")
                self.held.add(self.path)

            def close(self) -> None:
                if self.mine:
                    self.held.discard(self.path)
                super().close()


@breaks("FLO-25")
class LooksThenMarks(SoundKept):
    """A look whether somebody is at it, and only then the mark that one is: two may look before either has marked."""

    class Flow(KeepsRuns):
        class File(Journal):
            def lock(self) -> None:
                self.mark = self.path.with_suffix(".pid")
                self.mine = False
                if self.taken():
                    raise Refused(f"run {self.path.stem} is under way: see {self.mark}")
                self.mark.write_text(str(os.getpid()))
                self.mine = True

            def taken(self) -> bool:
                """A process that was killed takes no mark away, but its pid is nobody's then."""
                try:
                    os.kill(int(self.mark.read_text() or NOBODY), 0)
                except (FileNotFoundError, ProcessLookupError):
                    return False
                return True

            def close(self) -> None:
                if self.mine:
                    self.mark.unlink(missing_ok=True)
                super().close()


@breaks("FLO-28")
class BeginsOver(SoundKept):
    """A new run's journal is a new one, whatever has that name."""

    class Flow(KeepsRuns):
        class File(Journal):
            def vet(self, new: bool) -> None:
                if new:
                    os.ftruncate(self.descriptor, 0)
                    self.lines.clear()
                super().vet(new)
