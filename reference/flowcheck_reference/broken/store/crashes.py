"""Wrong once the process is killed, or the power fails."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from flowcheck_reference.broken.store._sound import AsyncFiles, Files, Sound, SoundAsync, SoundTable, Table
from pytest_flowcheck.protocols import Refused, breaks


@breaks("STO-02", "STO-04", "STO-05", "STO-06", "STO-20")
class OpensForWriting(Sound):
    """`open(path, "w")`: the old state is gone before the new one is there, and what a kill leaves can't be saved over."""

    without = frozenset({"durable"})

    class Store(Files):
        def put_in_place(self, path: Path, data: bytes) -> None:
            with path.open("wb") as file:
                file.write(data)


@breaks("STO-02", "STO-04", "STO-05", "STO-06", "STO-20")
class WritesTheTemporaryElsewhere(SoundAsync):
    """On another file system, so that it can't be renamed and is copied: what `shutil.move` does then."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def put_in_place(self, path: Path, data: bytes) -> None:
                with tempfile.NamedTemporaryFile() as temporary:
                    temporary.write(data)
                    temporary.flush()
                    os.fsync(temporary.fileno())
                    with path.open("wb") as file:
                        file.write(Path(temporary.name).read_bytes())
                        file.flush()
                        self.sync(file.fileno())
                self.sync_folder(path.parent)


@breaks("STO-05", "STO-17")
class ReplacesWithoutSync(Sound):
    """The new name may be on disk before what it names is."""

    class Store(Files):
        def sync(self, descriptor: int) -> None:
            """Costs too much."""


@breaks("STO-05")
class ReplacesWithoutSyncAndPromisesLittle(SoundAsync):
    """Likewise; that it promises no durability does not excuse an empty file."""

    without = frozenset({"durable"})

    class Store(AsyncFiles):
        class Blocking(Files):
            def sync(self, descriptor: int) -> None:
                """Costs too much."""


@breaks("STO-17")
class SyncsTheFileOnly(Sound):
    """The folder, which has the name, is not synced."""

    class Store(Files):
        def sync_folder(self, folder: Path) -> None:
            """It will be, some day."""


@breaks("STO-05", "STO-17")
class TheDatabaseDoesNotSync(SoundTable):
    """`PRAGMA synchronous=OFF`."""

    class Store(Table):
        synchronous = "OFF"


@breaks("STO-17")
class TheJournalMayComeBack(SoundTable):
    """Where the journal's deletion is the commit, `synchronous=FULL` does not sync it."""

    class Store(Table):
        synchronous = "FULL"


@breaks("STO-20")
class RandomTemporaryNames(Sound):
    """Nobody knows the names that killed savers used."""

    class Store(Files):
        def temporary(self, path: Path) -> Path:
            return path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp")


@breaks("STO-06", "STO-20")
class ALockThatOutlivesItsOwner(SoundAsync):
    """A file that is there while somebody saves; it stays where he was killed, or could not remove it."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def saving(self, run_id: str) -> AbstractContextManager[None]:
                return self.exclusive(run_id)

            @contextmanager
            def exclusive(self, run_id: str) -> Generator[None]:
                """Until it is removed."""
                with super().saving(run_id):
                    lock = self.folder / f"{run_id}.busy"
                    try:
                        lock.touch(exist_ok=False)
                    except FileExistsError:
                        raise Refused(f"{lock} is there: somebody is saving {run_id}") from None
                    try:
                        yield
                    finally:
                        lock.unlink()
