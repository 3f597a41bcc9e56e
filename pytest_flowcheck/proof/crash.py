"""Crash states: every state of a folder that a kill or a power loss during one operation could leave.

One operation of a subject is run once, in a child process below `strace`. Its system calls say what was done to the
folder and what was made durable, whatever the subject is written in. From them every state is rebuilt that a crash at
any point could have left, by the model of `filesystem.py`; the subject's own `load` then judges each of them.

    # in the traced child
    store.save("run", old)
    mark("begin")
    store.save("run", new)
    mark("end")

    # in the rule
    recording = record([sys.executable, "child.py", str(folder)], folder)
    for state in recording.states("power"):
        state.put(fresh_folder)         # and let the subject load it; `state.story` says how it comes about

Sources: Pillai et al., "All File Systems Are Not Created Equal" (ALICE), OSDI 2014; Mohan et al., "Finding
Crash-Consistency Bugs with Bounded Black-Box Crash Testing" (CrashMonkey and ACE), OSDI 2018.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_flowcheck.proof.filesystem import (
    File,
    Folder,
    Inode,
    Link,
    Mark,
    Operation,
    Story,
    Sync,
    Write,
    read_tree,
    walk,
    write_tree,
)
from pytest_flowcheck.proof.forkserver import ForkServer
from pytest_flowcheck.proof.losses import Enumeration, Raw, enter, paths
from pytest_flowcheck.proof.replay import BEGIN, Replay
from pytest_flowcheck.proof.strace import MARK, Call, Trace, TraceError, await_tracer, trace

Model = Literal["kill", "power"]
"""`kill`: the process dies, what it wrote stays (the page cache survives). `power`: what was not synced may be lost."""

END = "end"
"""With "begin", the marks between which the operation lies."""


def mark(name: str) -> None:
    """Called in the traced child: leaves `name` in the trace, and does nothing else.

    It asks whether a path below `/dev/null` may be accessed, which no file system can have: a system call that changes
    nothing, costs about a microsecond without a tracer, and is hit by no injected fault. So a child whose every `write`
    fails can still say what became of it: `mark(f"raised {type(error).__name__}")`.

    Args:
        name: any text of at most 200 bytes in UTF-8, without NUL. `"begin"` and `"end"` enclose the operation.
    """
    if name == BEGIN:
        await_tracer()
    os.access(os.fsdecode(MARK) + name, os.F_OK)


class CrashState:
    """What a crash could have left in the folder."""

    def __init__(self, recording: Recording, model: Model, raw: Raw) -> None:
        self._recording, self._raw = recording, raw
        self.model: Model = model
        self.supposed = raw.supposed
        """Whether it holds a file that is mapped into memory, whose contents nobody knows (see `Recording.mapped`).

        A load that goes wrong in such a state proves nothing: the state may be one that can't come about.
        """
        self.within_sector = raw.within_sector
        """Whether it needs less than a 512-byte sector of a file to be written: half of a write over older bytes, or the
        later of two writes there without the earlier one.

        Hardware mostly writes a sector whole, and file systems a page; POSIX promises neither.
        """

    @property
    def passed(self) -> tuple[str, ...]:
        """The marks that the child had passed when the crash came, oldest first, from `"begin"` on.

        Of marks without an operation between them all were passed, or none.
        """
        return self._recording.from_begin[: self._raw.passed + 1]

    @property
    def returned(self) -> bool:
        """Whether the operation had returned: the mark `"end"` was passed."""
        return END in self.passed

    @functools.cached_property
    def key(self) -> str:
        """Equal for two states of a recording if the folders are equal and the same marks had been passed."""
        digest = hashlib.blake2b(digest_size=16)
        contents = iter(self._raw.contents)
        seen: dict[Inode, str] = {}
        for path, inode in self._raw.rows:
            what = repr(inode.target) if isinstance(inode, Link) else type(inode).__name__
            if isinstance(inode, File):
                what += " of " + seen.setdefault(inode, path)
            digest.update(f"{path!r} {what}\0".encode())
            if isinstance(inode, File) and seen[inode] == path:
                data = next(contents)
                digest.update(b"%d " % len(data) + data)
        digest.update(str(self._raw.passed).encode())
        return digest.hexdigest()

    @functools.cached_property
    def files(self) -> Mapping[str, bytes]:
        """The contents of the files, by path relative to the folder, sorted."""
        contents = iter(self._raw.contents)
        data: dict[Inode, bytes] = {}
        found: dict[str, bytes] = {}
        for path, inode in self._raw.rows:
            if isinstance(inode, File):
                if inode not in data:
                    data[inode] = next(contents)
                found[path] = data[inode]
        return found

    @functools.cached_property
    def story(self) -> tuple[str, ...]:
        """Lines for a human: the operations so far, numbered; where the crash came; what was lost."""
        lines: list[str] = []
        number = marks = 0
        for step in self._recording.steps:
            if isinstance(step, Mark):
                if marks == self._raw.passed:
                    break
                marks += 1
                lines.append(f"   ({step.name})")
                continue
            if number == self._raw.last:
                break
            number += 1
            lines.append(f"{number}. {step.text}")
        return (*lines, *self._raw.how)

    def put(self, folder: str | os.PathLike[str]) -> None:
        """Write the state: afterwards `folder` holds exactly this tree.

        Args:
            folder: is made, if it isn't there. Symbolic links that led to the recorded folder by an absolute path lead
                to this one.

        Raises:
            FileExistsError: the folder is not empty.
        """
        contents = iter(self._raw.contents)
        files = dict.fromkeys(inode for _, inode in self._raw.rows if isinstance(inode, File))
        write_tree(folder, self._raw.rows, {file: next(contents) for file in files}, was=str(self._recording.folder))


@dataclass(frozen=True)
class Footprint:
    """What an operation left and what it cost."""

    left: tuple[str, ...]
    """Paths (relative to the folder, sorted) that are there at the end of the operation and were not at its begin."""
    gone: tuple[str, ...]
    """Paths that were there at its begin and are not at its end."""
    written: int
    """Bytes written into files of the folder by the operation, all writes together."""
    synced: int
    """How many calls of fsync, fdatasync, sync, syncfs, or writes through O_SYNC or O_DSYNC it made there."""


class RecordingError(RuntimeError):
    """The child could not be recorded; the text says why: how it ended, what it printed, which mark is missing."""


class Recording:
    """What one operation did to a folder. Made by `record`."""

    def __init__(self, folder: Path, story: Story, trace: Trace) -> None:
        self._story = story
        self._names = {story.root: story.root.base} | {
            inode: inode.base for inode in story.inodes if isinstance(inode, Folder)
        }
        self.folder = folder
        """The recorded folder, without symbolic links."""
        self.steps: Sequence[Operation | Mark] = story.steps
        """Operations and marks after `"begin"`, in the order in which they completed."""
        self.marks = tuple(story.marks)
        """All marks, in order, those before `"begin"` as well."""
        self.limits: list[str] = list(story.limits)
        """What was done to the folder that the model can't follow (io_uring, a descriptor from elsewhere, a final tree that
        differs from the model's, ...), a line each. If there is any, the states are not all, or not right: a rule then
        says NOT-TESTABLE and names it, never PASS; nor does it accuse.
        """
        self.calls: Sequence[Call] = trace.calls
        """Every traced system call of the child and all that it started, from its start on."""
        self.left_out: list[str] = []
        """What `states` left out because there were too many combinations, a line each; filled while it is consumed.

        To be named in the evidence. A PASS stays a PASS, over the states that were looked at.
        """
        self.status = trace.status
        """The child's exit status; negative: the signal that killed it."""
        self.output = trace.output
        """What the child wrote to stdout and stderr, the last 4 000 characters."""

    @functools.cached_property
    def from_begin(self) -> tuple[str, ...]:
        """The marks from `"begin"` on, in order."""
        return (BEGIN, *(step.name for step in self.steps if isinstance(step, Mark)))

    @functools.cached_property
    def operations(self) -> tuple[str, ...]:
        """What was done to the folder from `"begin"` to the end of the child, a line each, as in `CrashState.story`."""
        return tuple(step.text for step in self.steps if isinstance(step, Operation))

    @functools.cached_property
    def returned(self) -> int:
        """How many of `operations` the child had done when it passed `"end"`."""
        before = itertools.takewhile(lambda step: step != Mark(END), self.steps)
        return sum(isinstance(step, Operation) for step in before)

    @functools.cached_property
    def mapped(self) -> tuple[str, ...]:
        """Files of the folder that were mapped writable and shared: stores into memory leave no system call.

        States hold such a file as the system calls left it, and also as the child left it at last, as zeroes and as noise;
        all of these are `supposed`. Where every state loads well the contents plainly don't matter (as for SQLite's
        `-shm`, which is made anew): a PASS, of grade "observed". Where only supposed states go wrong the rule says
        NOT-TESTABLE.
        """
        return tuple(file.label for file in self._story.mapped)

    @functools.cached_property
    def footprint(self) -> Footprint:
        """What the operation left and what it cost, between `"begin"` and `"end"`."""
        names = {folder: dict(entries) for folder, entries in self._names.items()}
        before = set(paths(self._story.root, names))
        written = synced = 0
        for step in itertools.takewhile(lambda step: step != Mark(END), self.steps):
            for effect in step.effects if isinstance(step, Operation) else ():
                enter(effect, names)
                written += len(effect.data) if isinstance(effect, Write) else 0
                synced += isinstance(effect, Sync)
        now = set(paths(self._story.root, names))
        return Footprint(tuple(sorted(now - before)), tuple(sorted(before - now)), written, synced)

    def states(self, model: Model, *, bound: int = 600) -> Iterator[CrashState]:
        """Every state that a crash could leave from `"begin"` on, lazily, each once (see `CrashState.key`).

        The first one is the folder at the begin. States after the operation had returned come as well: these are what
        durability is judged by. What the child does after `"end"` (closing its handle, say) belongs to them.

        Args:
            model: `kill`: the state after each operation, and each write torn. `power`: those, and all that un-synced
                data, sizes and directory entries may make of them.
            bound: how many combinations of what became of the files are made exhaustively at one point; above it, all
                pairs of files with the others at their extremes, and `left_out` says so.
        """
        enumeration = Enumeration(self._story, self._names, self.left_out, bound)
        for raw in enumeration.kill() if model == "kill" else enumeration.power():
            yield CrashState(self, model, raw)


def record(
    argv: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: str | os.PathLike[str] | None = None,
    patience: float = 60.0,
    server: ForkServer | None = None,
) -> Recording:
    """Run a child below strace and record what the operation between its marks does to `folder`.

    What is there at `"begin"` counts as durable: it was written long ago. The child may use threads and start processes;
    all of them are followed.

    Args:
        argv: the command; it calls `mark("begin")` and `mark("end")`.
        folder: must exist. Nobody but the child may change it meanwhile.
        env: the child's environment; default: this process's.
        stdin: what the child reads from its standard input.
        cwd: its working directory; default: this process's.
        patience: seconds after which the child and all its descendants are killed. A guard, no judgement.
        server: a child that imports once and forks for each run: a few hundredths of a second rather than an interpreter's
            start. `argv` is then what its `run` is given; `env`, `stdin` and `cwd` are the server's own.

    Raises:
        RecordingError: strace doesn't work here (ask `strace.missing()` first), the child outlived `patience`, or a mark
            is missing. An exit status other than 0 alone is no error: see `status`.
    """
    place = Path(os.path.realpath(folder))
    before = read_tree(place)
    try:
        if server is None:
            seen = trace(argv, env=env, stdin=stdin, cwd=cwd, patience=patience)
        else:
            seen = server.trace(argv, patience=patience)
    except TraceError as error:
        raise RecordingError(str(error)) from error
    start = os.path.realpath(cwd or Path.cwd()) if server is None else server.cwd
    story = Replay(place, before, seen.calls, start).run()
    for name in (BEGIN, END):
        if name not in story.marks:
            raise RecordingError(
                f"the child did not pass mark({name!r}): marks {story.marks}, exit status {seen.status}, "
                f"it printed {seen.output!r}"
            )
    story.limits += [f"a line of strace's was not understood: {line}" for line in seen.unread[:3]]
    story.limits += _differences(story, place)
    return Recording(place, story, seen)


def _differences(story: Story, place: Path) -> list[str]:
    """Where the model's last tree is not what is on disk: something was done that the trace doesn't show.

    What mapped files hold now is another thing that they might have held before.
    """
    told = dict(walk(story.root))
    found = dict(walk(read_tree(place)))
    lines = [f"{path!r} is there at last, but no system call seen made it" for path in found.keys() - told.keys()]
    lines += [
        f"{path!r} is not there at last, but no system call seen removed it" for path in told.keys() - found.keys()
    ]
    for path in told.keys() & found.keys():
        one, other = told[path], found[path]
        if type(one) is not type(other) or (
            isinstance(one, Link) and isinstance(other, Link) and one.target != other.target
        ):
            lines.append(f"{path!r} is at last something else than the system calls seen made of it")
        elif isinstance(one, File) and isinstance(other, File) and one.data != other.data:
            if one.mapped:
                one.elsewhere.append(other.data)
            else:
                lines.append(
                    f"{path!r} holds at last {len(other.data)} bytes that differ from the {len(one.data)} that the system "
                    "calls seen wrote"
                )
    return sorted(lines)
