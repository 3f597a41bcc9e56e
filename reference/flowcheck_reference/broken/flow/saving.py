"""Wrong about what is saved."""

from __future__ import annotations

import os
from contextlib import suppress

from flowcheck_reference.broken.flow._kept import Journal, KeepsRuns, SoundKept
from pytest_flowcheck.protocols import breaks


@breaks("FLO-26")
class SwallowsTheError(SoundKept):
    """A journal that can't be written is no reason to stop."""

    class Flow(KeepsRuns):
        class File(Journal):
            def write(self, line: bytes) -> None:
                with suppress(OSError):
                    super().write(line)


@breaks("FLO-27")
class WritesItAllEachTime(SoundKept):
    """Beside the journal there is a copy for whoever wants to look, which is written anew after each line."""

    class Flow(KeepsRuns):
        class File(Journal):
            def write(self, line: bytes) -> None:
                super().write(line)
                there = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)
                self.path.with_suffix(".copy").write_bytes(there)
