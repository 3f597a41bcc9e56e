"""Wrong when the system refuses."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from flowcheck_reference.broken.store._sound import AsyncFiles, Files, Sound, SoundAsync, SoundTable, Table
from pytest_flowcheck.protocols import Refused, breaks


@breaks("STO-06")
class SwallowsTheError(Sound):
    """A save that fails looks like one that did not."""

    class Store(Files):
        def put_in_place(self, path: Path, data: bytes) -> None:
            with suppress(OSError):
                super().put_in_place(path, data)


@breaks("STO-06")
class WhatWasWrittenIsEnough(Sound):
    """`os.write` may take less than it is given, and says so."""

    class Store(Files):
        def write(self, temporary: Path, data: bytes, mode: int) -> None:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            try:
                os.write(descriptor, data)
                os.fchmod(descriptor, mode)
                self.sync(descriptor)
            finally:
                os.close(descriptor)


@breaks("STO-06")
class LeavesItsTemporary(SoundAsync):
    """Each save that fails leaves a file; only what savers of other processes left is removed."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def put_in_place(self, path: Path, data: bytes) -> None:
                for left in path.parent.glob(f".{path.stem}.*.tmp"):
                    if left.name.split(".")[2] != str(os.getpid()):
                        left.unlink()
                temporary = path.with_name(f".{path.stem}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
                self.write(temporary, data, self.mode(path))
                self.replace(temporary, path)
                self.sync_folder(path.parent)


@breaks("STO-06")
class NeverTriesAgain(SoundTable):
    """A handle that has failed once refuses for ever."""

    class Store(Table):
        failed = False

        def save(self, run_id: str, state: Any) -> None:
            if self.failed:
                raise Refused("this store has failed before")
            try:
                super().save(run_id, state)
            except OSError:
                self.failed = True
                raise
