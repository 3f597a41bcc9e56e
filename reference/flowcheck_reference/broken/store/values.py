"""Wrong in what they take, and in what they give back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flowcheck_reference.broken.store._sound import AsyncFiles, Files, Sound, SoundAsync, SoundTable, Table
from pytest_flowcheck.protocols import Corrupt, Invalid, NotFound, breaks


@breaks("STO-01")
class KeysBecomeTexts(Sound):
    """What JSON makes of a key is what is saved."""

    class Store(Files):
        def encode(self, value: Any) -> bytes:
            try:
                return json.dumps(value, allow_nan=False).encode()
            except (TypeError, ValueError) as error:
                raise Invalid(str(error)) from error


@breaks("STO-01")
class NumbersBecomeFloats(SoundTable):
    """All numbers are read as floats, as in JavaScript."""

    class Store(Table):
        def decode(self, data: bytes, path: Path) -> Any:
            super().decode(data, path)
            return json.loads(data, parse_int=self.number)

        def number(self, digits: str) -> float | int:
            """Small ones are told as ints again."""
            number = float(digits)
            return int(number) if abs(number) < 1e21 else number


@breaks("STO-01")
class KeepsTheCallersObject(Sound):
    """The last state is remembered, for as long as the file is the same: the very object, whoever changes it."""

    class Store(Files):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.remembered: dict[str, tuple[Any, Any]] = {}

        def file(self, run_id: str) -> Any:
            """Which file it is."""
            found = (self.folder / f"{run_id}.json").stat()
            return found.st_ino, found.st_mtime_ns, found.st_size

        def save(self, run_id: str, state: Any) -> None:
            super().save(run_id, state)
            self.remembered[run_id] = self.file(run_id), state

        def load(self, run_id: str) -> Any:
            if run_id in self.remembered and self.remembered[run_id][0] == self.file(run_id):
                return self.remembered[run_id][1]
            return super().load(run_id)


@breaks("STO-10")
class SavesTheReprOfAnything(SoundAsync):
    """What JSON doesn't know is saved as its repr."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def encode(self, value: Any) -> bytes:
                try:
                    return super().encode(value)
                except Invalid as error:
                    if not isinstance(error.__cause__, TypeError) or "keys must be" in str(error):
                        raise
                    return json.dumps(value, default=repr).encode()


@breaks("STO-10")
class RefusesWhenItIsTooLate(Sound):
    """The old state is moved out of the way before the new one is serialised."""

    class Store(Files):
        def save(self, run_id: str, state: Any) -> None:
            path = self.folder / f"{self.key(run_id)}.json"
            try:
                data = self.encode(state)
            except Invalid:
                path.unlink(missing_ok=True)
                raise
            with self.saving(run_id):
                path = self.real(path)
                self.look(path)
                self.put_in_place(path, data)


@breaks("STO-16")
class NeverSavedIsEmpty(Sound):
    """A run that nobody knows has an empty state."""

    class Store(Files):
        def load(self, run_id: str) -> Any:
            try:
                return super().load(run_id)
            except NotFound:
                return {}


@breaks("STO-16")
class NeverSavedIsBroken(SoundTable):
    """One error for all that can't be loaded."""

    class Store(Table):
        def load(self, run_id: str) -> Any:
            try:
                return super().load(run_id)
            except NotFound as error:
                raise Corrupt(f"{self.path}: {error}") from error
