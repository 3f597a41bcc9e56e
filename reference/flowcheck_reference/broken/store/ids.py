"""Wrong in what becomes of a run's id."""

from __future__ import annotations

import unicodedata
from contextlib import AbstractContextManager
from typing import Any

from flowcheck_reference.broken.store._sound import AsyncFiles, Files, Sound, SoundAsync, SoundTable, Table
from pytest_flowcheck.protocols import Invalid, NotFound, breaks


@breaks("STO-11")
class AnyIdIsAPath(Sound):
    """The id is put into the file's name as it is."""

    class Store(Files):
        def key(self, run_id: str) -> str:
            return run_id

        def locked(self, run_id: str) -> AbstractContextManager[None]:
            return super().locked("all")

        def load(self, run_id: str) -> Any:
            try:
                return super().load(run_id)
            except OSError as error:
                raise NotFound(f"{run_id!r} was never saved") from error


@breaks("STO-11")
class IdsInLowerCase(SoundAsync):
    """So that they are the same on every file system."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def key(self, run_id: str) -> str:
                return super().key(run_id.lower())


@breaks("STO-11")
class CutsIds(SoundTable):
    """The column has room for 64 characters."""

    class Store(Table):
        def key(self, run_id: str) -> str:
            return super().key(run_id)[:64]


@breaks("STO-11")
class NormalisesIds(SoundTable):
    """Equal in their looks is equal."""

    class Store(Table):
        def key(self, run_id: str) -> str:
            return unicodedata.normalize("NFKC", super().key(run_id))


@breaks("STO-11")
class OddCharactersAreUnderscores(Sound):
    """Whatever can't be in a file's name becomes an underscore."""

    class Store(Files):
        def key(self, run_id: str) -> str:
            if not run_id or len(run_id.encode("utf-8", "replace")) > 100:
                raise Invalid(f"{run_id!r} is no id")
            return "".join(c if c.isascii() and c.isalnum() else "_" for c in run_id)
