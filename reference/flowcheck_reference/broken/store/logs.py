"""Wrong in how entries are appended, and in how they are read after a crash."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from flowcheck_reference.broken.store._sound import AsyncFiles, Files, Sound, SoundAsync
from pytest_flowcheck.protocols import Corrupt, breaks


@breaks("STO-08", "STO-21")
class ALineInTwoWrites(Sound):
    """The entry, and then its newline, while others do the same; so what is torn may be one that is being written."""

    class Store(Files):
        def appending(self, run_id: str) -> AbstractContextManager[None]:
            return nullcontext()

        def mend(self, file: Any) -> None:
            """Only a torn entry is cut off, not one whose newline is on its way."""
            file.seek(0)
            _, _, tail = file.read().rpartition(b"\n")
            try:
                json.loads(tail or b"0")
            except ValueError:
                file.truncate(os.fstat(file.fileno()).st_size - len(tail))

        def add(self, file: Any, line: bytes) -> None:
            super().add(file, line[:-1])
            super().add(file, b"\n")

        def parse(self, data: bytes, path: Path) -> list[Any]:
            return [self.decode(line, path) for line in data.split(b"\n")[:-1] if line]


@breaks("STO-08")
class ReadsAddsAndWritesTheWhole(SoundAsync):
    """Of two that do so at once, one loses its entry."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def append(self, run_id: str, entry: Any) -> None:
                line = self.line(entry)
                path = self.folder / f"{self.key(run_id)}.log"
                before = path.read_bytes() if path.exists() else b""
                whole = before[: before.rfind(b"\n") + 1] + line
                with self.appending(run_id):
                    self.put_in_place(path, whole)


@breaks("STO-09")
class EveryLineIsAnEntry(Sound):
    """One that was torn by a crash is an error."""

    class Store(Files):
        def entries(self, run_id: str) -> list[Any]:
            with self.appending(self.key(run_id)):
                return super().entries(run_id)

        def parse(self, data: bytes, path: Path) -> list[Any]:
            return [self.decode(line, path) for line in data.split(b"\n") if line]


@breaks("STO-09")
class WhatCanBeReadIsWhole(SoundAsync):
    """123 is read, too, where 123456 was torn."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def entries(self, run_id: str) -> list[Any]:
                with self.appending(self.key(run_id)):
                    return super().entries(run_id)

            def parse(self, data: bytes, path: Path) -> list[Any]:
                whole, _, tail = data.rpartition(b"\n")
                found = super().parse(whole + b"\n", path) if whole else []
                try:
                    return [*found, self.decode(tail, path)]
                except Corrupt:
                    return found


@breaks("STO-09")
class ATornTailIsAnEmptyLog(Sound):
    """What is before it is lost with it."""

    class Store(Files):
        def entries(self, run_id: str) -> list[Any]:
            with self.appending(self.key(run_id)):
                return super().entries(run_id)

        def parse(self, data: bytes, path: Path) -> list[Any]:
            return super().parse(data, path) if data.endswith(b"\n") else []


@breaks("STO-21")
class GoesOnInTheTornLine(Sound):
    """The next entry stands in the line that the crash tore, and is lost with it."""

    class Store(Files):
        def mend(self, file: Any) -> None:
            """Nothing to mend."""

        def parse(self, data: bytes, path: Path) -> list[Any]:
            found: list[Any] = []
            for line in data.split(b"\n")[:-1]:
                try:
                    found.append(self.decode(line, path))
                except Corrupt:
                    continue
            return found


@breaks("STO-21")
class SplitsAtEveryLineEnd(SoundAsync):
    """Texts are kept readable, and `splitlines` knows more line ends than the newline."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def line(self, entry: Any) -> bytes:
                super().line(entry)
                return json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"

            def parse(self, data: bytes, path: Path) -> list[Any]:
                whole = data[: data.rfind(b"\n") + 1].decode("utf-8", "surrogatepass")
                return [self.decode(line.encode("utf-8", "surrogatepass"), path) for line in whole.splitlines()]


@breaks("STO-15", "STO-21")
class TextsAsTheyAre(Sound):
    """A text is a line, or two."""

    class Store(Files):
        def line(self, entry: Any) -> bytes:
            line = super().line(entry)
            return b"'" + entry.encode("utf-8", "replace") + b"\n" if isinstance(entry, str) else line

        def decode(self, data: bytes, path: Path) -> Any:
            return data[1:].decode("utf-8", "replace") if data[:1] == b"'" else super().decode(data, path)


class _TwoLocks(Files):
    """A lock for states and one for logs, beside the run's own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.states, self.logs = threading.Lock(), threading.Lock()

    def see(self) -> None:
        """Whether the folder is still there: a system call, beside which other threads run."""
        self.folder.stat()


@breaks("STO-19", "STO-22")
class TwoLocksInTwoOrders(Sound):
    """A save takes the one and then the other, an append the other and then the one; a forked process takes none again."""

    class Store(_TwoLocks):
        @contextmanager
        def saving(self, run_id: str) -> Generator[None]:
            with self.states:
                self.see()
                with self.logs, super().saving(run_id):
                    yield

        @contextmanager
        def appending(self, run_id: str) -> Generator[None]:
            with self.logs:
                self.see()
                with self.states, super().appending(run_id):
                    yield


@breaks("STO-19")
class TwoLocksInTwoOrdersOnThreads(SoundAsync):
    """The same below a loop."""

    class Store(AsyncFiles):
        class Blocking(_TwoLocks):
            @contextmanager
            def saving(self, run_id: str) -> Generator[None]:
                with self.states:
                    self.see()
                    with self.logs, super().saving(run_id):
                        yield

            @contextmanager
            def appending(self, run_id: str) -> Generator[None]:
                with self.logs:
                    self.see()
                    with self.states, super().appending(run_id):
                        yield
