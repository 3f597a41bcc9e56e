"""Wrong only after this and that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowcheck_reference.broken.store._sound import AsyncFiles, Files, Sound, SoundAsync
from pytest_flowcheck.protocols import breaks


@breaks("STO-15")
class SkipsWhatItSavedLast(Sound):
    """A state that equals the last one is not written again, though that may have been another run's."""

    class Store(Files):
        last: bytes = b""

        def put_in_place(self, path: Path, data: bytes) -> None:
            if data != self.last:
                super().put_in_place(path, data)
            self.last = data


@breaks("STO-15")
class ASaveEndsTheLog(SoundAsync):
    """What was logged is taken to be in the state."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def save(self, run_id: str, state: Any) -> None:
                super().save(run_id, state)
                (self.folder / f"{run_id}.log").unlink(missing_ok=True)
