"""Wrong about the files themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowcheck_reference.broken.store._sound import AsyncFiles, Files, Sound, SoundAsync, SoundTable, Table
from pytest_flowcheck.protocols import Corrupt, breaks


@breaks("STO-12")
class StartsAgainFromNothing(Sound):
    """A state that can't be read is an empty one."""

    class Store(Files):
        def decode(self, data: bytes, path: Path) -> Any:
            try:
                return super().decode(data, path)
            except Corrupt:
                if path.suffix != ".json":
                    raise
                return {}


@breaks("STO-12")
class SavesOverWhatIsBroken(SoundAsync):
    """The load tells, and the next save destroys what could have been mended."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def look(self, path: Path) -> None:
                """It will be replaced anyway."""


@breaks("STO-12")
class SaysNotWhichFile(SoundTable):
    """Something is malformed."""

    class Store(Table):
        def load(self, run_id: str) -> Any:
            try:
                return super().load(run_id)
            except Corrupt:
                raise Corrupt("database disk image is malformed") from None


@breaks("STO-13")
class TheModeOfNewFiles(Sound):
    """Whatever the old one's was."""

    class Store(Files):
        def mode(self, path: Path) -> int:
            return 0o644


@breaks("STO-13")
class PrivateForEver(SoundAsync):
    """As `mkstemp` makes it."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def mode(self, path: Path) -> int:
                return 0o600


@breaks("STO-18")
class ReplacesTheLink(Sound):
    """A rename does not follow links."""

    class Store(Files):
        def real(self, path: Path) -> Path:
            return path
