"""Engines that keep every rule about saved runs, built differently: each node remembers.

The engines of `_sound` know nothing of it. They are given a graph whose bodies look into the run's journal first, and write
what they give there before they give it. The journal is a file, locked as long as it is open: its first line is the
input, each further one what a node gave.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from anyio import to_thread

from flowcheck_reference.broken.flow._sound import AsyncEngine, Engine, Sound, SoundAsync
from pytest_flowcheck.protocols import NotFound, Refused
from pytest_flowcheck.protocols.flow import Graph, Run


class Journal:
    """A run's file. Opening it takes its lock, which the kernel takes back with the process.

    Raises:
        Refused: somebody has it; or a new run is to have the name of an old one.
        NotFound: an old one is to be there.
    """

    def __init__(self, path: Path, *, new: bool) -> None:
        self.path, self.turn = path, threading.Lock()
        try:
            self.descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | (os.O_CREAT if new else 0), 0o644)
        except FileNotFoundError:
            raise NotFound(f"there is no run {path.stem}") from None
        try:
            self.lock()
            self.lines = [json.loads(line) for line in self.whole_lines()]
            self.vet(new)
        except BaseException:
            self.close()
            raise

    def lock(self) -> None:
        """For one at a time."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"run {self.path.stem} is under way") from None

    def whole_lines(self) -> list[bytes]:
        """Without what a kill tore; that is cut off, or the next line would go on where it ends."""
        data = os.pread(self.descriptor, os.fstat(self.descriptor).st_size, 0)
        *lines, torn = data.split(b"\n")
        if torn:
            os.ftruncate(self.descriptor, len(data) - len(torn))
        return lines

    def vet(self, new: bool) -> None:
        """An empty one is of a run that was never begun."""
        if new and self.lines:
            raise Refused(f"there is a run {self.path.stem}: resume it, or take another id")
        if not new and not self.lines:
            raise NotFound(f"run {self.path.stem} was never begun")

    def add(self, entry: Any) -> None:
        """One line; it lasts when this returns."""
        with self.turn:
            self.write(json.dumps(entry).encode() + b"\n")
            self.lines.append(entry)

    def write(self, line: bytes) -> None:
        end = os.fstat(self.descriptor).st_size
        try:
            if os.write(self.descriptor, line) < len(line):
                raise OSError(f"{self.path}: no room for a line")
            os.fsync(self.descriptor)
        except OSError:
            os.ftruncate(self.descriptor, end)
            raise

    def outputs(self) -> dict[str, Any]:
        """What nodes gave, by id."""
        return {entry["node"]: entry["gave"] for entry in self.lines[1:]}

    def close(self) -> None:
        os.close(self.descriptor)


class Remembers:
    """The body of a node that has a journal."""

    def __init__(self, body: Any, node: str, journal: Journal, outputs: Mapping[str, Any]) -> None:
        self.body, self.node, self.journal, self.outputs = body, node, journal, outputs
        self.__name__ = self.__qualname__ = body.__name__

    def __call__(self, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002 - the protocol's
        if self.node in self.outputs:
            return self.outputs[self.node]
        value = self.body(input, upstream)
        self.keep(value)
        return value

    async def aio(self, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002 - the protocol's
        if self.node in self.outputs:
            return self.outputs[self.node]
        value = await self.body.aio(input, upstream)
        await to_thread.run_sync(self.keep, value)
        return value

    def keep(self, value: Any) -> None:
        """It is through."""
        self.journal.add({"node": self.node, "gave": value})


class Keeps:
    """What both engines do alike."""

    folder: Path
    File: ClassVar[type[Journal]] = Journal
    Body: ClassVar[type[Remembers]] = Remembers

    @contextmanager
    def begun(self, graph: Graph, input: Any, run_id: str) -> Generator[Graph]:  # noqa: A002 - the protocol's
        """A new run's graph, whose nodes remember."""
        with self.opened(run_id, new=True) as journal:
            journal.add(input)
            yield self.remembering(graph, journal)

    @contextmanager
    def found(self, graph: Graph, run_id: str) -> Generator[tuple[Graph, Any]]:
        """The same of an old one, and its input."""
        with self.opened(run_id, new=False) as journal:
            yield self.remembering(graph, journal), journal.lines[0]

    @contextmanager
    def opened(self, run_id: str, *, new: bool) -> Generator[Journal]:
        journal = self.File(self.folder / f"{run_id}.run", new=new)
        try:
            yield journal
        finally:
            journal.close()

    def remembering(self, graph: Graph, journal: Journal) -> Graph:
        outputs = self.outputs(journal)
        return Graph(tuple(replace(node, body=self.Body(node.body, node.id, journal, outputs)) for node in graph.nodes))

    def outputs(self, journal: Journal) -> Mapping[str, Any]:
        """What needs not be run."""
        return journal.outputs()


class KeepsRuns(Keeps, Engine):
    """On threads."""

    def __init__(self, max_workers: int | None = None, folder: Path | None = None) -> None:
        super().__init__(max_workers)
        self.folder = folder or Path()

    def run(self, graph: Graph, input: Any = None, run_id: str | None = None) -> Run:  # noqa: A002 - the protocol's
        self.check(graph)
        if run_id is None:
            return super().run(graph, input)
        with self.begun(graph, input, run_id) as kept:
            return super().run(kept, input)

    def resume(self, graph: Graph, run_id: str) -> Run:
        with self.found(graph, run_id) as (kept, input):  # noqa: A001 - the protocol's
            return super().run(kept, input)


class KeepsRunsAsync(Keeps, AsyncEngine):
    """On the caller's loop."""

    def __init__(self, max_workers: int | None = None, folder: Path | None = None) -> None:
        super().__init__(max_workers)
        self.folder = folder or Path()

    async def run(self, graph: Graph, input: Any = None, run_id: str | None = None) -> Run:  # noqa: A002 - the protocol's
        self.check(graph)
        if run_id is None:
            return await super().run(graph, input)
        with self.begun(graph, input, run_id) as kept:
            return await super().run(kept, input)

    async def resume(self, graph: Graph, run_id: str) -> Run:
        with self.found(graph, run_id) as (kept, input):  # noqa: A001 - the protocol's
            return await super().run(kept, input)


class SoundKept(Sound):
    """A subject whose runs are saved, on threads."""

    Flow: ClassVar[type[Any]] = KeepsRuns
    can: ClassVar[AbstractSet[str]] = frozenset({"continue", "lease", "resume", "save"})


class SoundKeptAsync(SoundAsync):
    """The same, on the caller's loop."""

    Flow: ClassVar[type[Any]] = KeepsRunsAsync
    can: ClassVar[AbstractSet[str]] = frozenset({"continue", "lease", "resume", "save"})
