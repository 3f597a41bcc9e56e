"""Injected faults: the n-th file-changing system call of an operation fails, or the process dies there.

A recording says which calls the operation makes in its folder. For each of them `plans` gives the faults that this call
can meet; `inject` runs the child again with one of them, and reads from that run's own trace whether the right call was
hit. Works for Python and native subjects alike: it is the kernel that refuses.

Source: strace(1), "Tampering"; Prabhakaran et al., "IRON File Systems", SOSP 2005 (fail-partial disks).
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pytest_flowcheck.proof.crash import END, Recording, RecordingError
from pytest_flowcheck.proof.filesystem import File, Folder, Mark, Operation, read_tree, walk, write_tree
from pytest_flowcheck.proof.forkserver import ForkServer
from pytest_flowcheck.proof.replay import BEGIN
from pytest_flowcheck.proof.strace import Call, Trace, TraceError, mark_of, trace_from_begin

Condition = Literal["ENOSPC", "EIO", "EACCES", "KILL"]
"""Disk full, I/O error, permission denied; or SIGKILL as the call is entered: it has no effect any more."""


# fmt: off
_WRITES: Final = frozenset((
    "write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile", "copy_file_range", "fallocate",
))
_SYNCS: Final = frozenset(("fsync", "fdatasync", "syncfs"))
_NEEDS_SPACE: Final = _WRITES | frozenset((
    "open", "openat", "openat2", "creat", "mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat",
    "rename", "renameat", "renameat2", "ftruncate", "truncate", "fsync", "fdatasync",
))
_LOOKS_UP: Final = frozenset((
    "open", "openat", "openat2", "creat", "mkdir", "mkdirat", "rmdir", "link", "linkat", "symlink",
    "symlinkat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "truncate", "mknod", "mknodat",
))
# fmt: on


@dataclass(frozen=True)
class Fault:
    """One call of the recorded operation, and what shall become of it."""

    number: int
    """Which of `Recording.operations` it is, from 1 on."""
    call: str
    """The system call's name."""
    condition: Condition
    lasting: bool
    """Whether every later call *of that name in any thread* that has made as many fails as well.

    One to stdout too; so a child reports by `mark`.
    """
    where: str
    """The call as a human reads it: `write 4096 bytes at 0 into 'state.json'`."""
    occurrence: int
    """Which call of that name, counted in its thread from `"begin"` on, from 1 on."""

    def __str__(self) -> str:
        """A line for a human."""
        what = "the process is killed" if self.condition == "KILL" else self.condition
        return f"{what} {'from operation' if self.lasting else 'at operation'} {self.number}{' on' * self.lasting}: {self.where}"


@dataclass(frozen=True)
class Injected:
    """A run with a fault."""

    fault: Fault
    hit: bool
    """Whether the intended call was hit first: in the folder, and after as many others of its name as were recorded.

    Read from this run's own trace. Where it is False nothing was shown; `hits` says what was hit instead.
    """
    hits: tuple[str, ...]
    """The calls that were tampered with, in order, as strace shows them."""
    marks: tuple[str, ...]
    """All marks of the child, in order, from `"begin"` on."""
    records: tuple[Call, ...]
    """All calls of the child from `"begin"` on."""
    status: int
    """The child's exit status; negative: the signal that killed it."""
    output: str
    """What it wrote to stdout and stderr, the last 4 000 characters."""


def plans(recording: Recording, *, lasting: bool = False) -> list[Fault]:
    """The faults that the operation can meet, in the order of its calls.

    For each file-changing call between the marks, in the folder: EIO; ENOSPC where it may need space (write, create, mkdir,
    link, rename, a change of size, fsync); EACCES where a path is looked up; and KILL. For `lasting` the same but KILL,
    failing from there on: writes and syncs only, since a process whose every `openat` fails is no full disk.

    Args:
        recording: of the operation, without faults.
        lasting: whether the condition stays.
    """
    counted: Counter[tuple[int, str]] = Counter()
    occurrences: dict[int, int] = {}
    begun = False
    for index, call in enumerate(recording.calls):
        begun = begun or mark_of(call) == BEGIN
        if begun:
            counted[call.pid, call.name] += 1
            occurrences[index] = counted[call.pid, call.name]
    found: list[Fault] = []
    for number, step in enumerate(_operations(recording.steps), 1):
        name = step.call.name
        conditions: list[Condition] = [] if name == "sync" else ["EIO"]  # sync(2) can't fail
        if name in _NEEDS_SPACE:
            conditions.append("ENOSPC")
        if name in _LOOKS_UP:
            conditions.append("EACCES")
        if not lasting:
            conditions.append("KILL")
        elif name not in _WRITES | _SYNCS:
            continue
        found += [Fault(number, name, one, lasting, step.text, occurrences[step.index]) for one in conditions]
    return found


def _operations(steps: Sequence[Operation | Mark]) -> list[Operation]:
    """Those of the operation itself, before the mark "end"."""
    before = itertools.takewhile(lambda step: step != Mark(END), steps)
    return [step for step in before if isinstance(step, Operation)]


def inject(
    argv: Sequence[str],
    fault: Fault,
    recording: Recording,
    folder: str | os.PathLike[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: str | os.PathLike[str] | None = None,
    patience: float = 60.0,
    draws: int = 3,
    server: ForkServer | None = None,
) -> Injected:
    """Run the child with the fault; `folder` is left as the run left it.

    strace attaches at `mark("begin")`, so that only the operation's calls are counted. It counts in each thread for itself:
    where several threads write, another one may come to its n-th call first. Then the folder is put back as it was, and
    the run is drawn again.

    Args:
        argv: the command, as it was recorded but for the folder's name.
        fault: one of `plans(recording)`.
        recording: where the fault comes from.
        folder: the folder that the child works in: another one than the recorded, with the same contents.
        env: the child's environment; default: this process's.
        stdin: what the child reads from its standard input.
        cwd: its working directory; default: this process's.
        patience: seconds after which the child and all that it started are killed.
        draws: how often at most. After the last one `Injected.hit` may be False.
        server: as for `record`; with it a run takes a few hundredths of a second.

    Raises:
        RecordingError: strace doesn't work or may not attach here, the child ended before `"begin"`, or it outlived
            `patience`.
    """
    place = Path(os.path.realpath(folder))
    before = read_tree(place)
    what = "signal=KILL" if fault.condition == "KILL" else f"error={fault.condition}"
    tampering = f"{fault.call}:{what}:when={fault.occurrence}{'+' if fault.lasting else ''}"
    for draw in range(1, draws + 1):
        try:
            if server is None:
                seen = trace_from_begin(argv, [tampering], env=env, stdin=stdin, cwd=cwd, patience=patience)
            else:
                seen = server.trace(argv, tampering=[tampering], from_begin=True, patience=patience)
        except TraceError as error:
            raise RecordingError(str(error)) from error
        injected = _judged(fault, recording, seen, place)
        if injected.hit or draw == draws:
            return injected
        _put_back(before, place)
    raise ValueError(f"draws={draws}: at least one")


def _judged(fault: Fault, recording: Recording, seen: Trace, place: Path) -> Injected:
    """Whether the first call that was tampered with is the one that was meant."""
    hits = [index for index, call in enumerate(seen.calls) if _tampered(call, fault)]
    meant = _operations(recording.steps)[fault.number - 1]
    return Injected(
        fault,
        bool(hits)
        and meant.call.name == fault.call
        and _inside(seen.calls[hits[0]], place)
        and _earlier(seen.calls, hits[0]) == _earlier(recording.calls, meant.index),
        tuple(seen.calls[index].readable for index in hits),
        tuple(name for name in map(mark_of, seen.calls) if name is not None),
        tuple(seen.calls),
        seen.status,
        seen.output,
    )


def _tampered(call: Call, fault: Fault) -> bool:
    return call.name == fault.call and (call.result is None if fault.condition == "KILL" else call.injected)


def _inside(call: Call, place: Path) -> bool:
    """Whether it is about the folder, as far as its arguments tell: relative paths don't."""
    folder = os.fsencode(place)
    seen = [path for path in call.paths if path.startswith(b"/")]
    return not seen or any(path == folder or path.startswith(folder + b"/") for path in seen)


def _earlier(calls: Sequence[Call], index: int) -> int:
    """How many calls of that name, in all threads, came between `"begin"` and this one."""
    count = 0
    for call in calls[:index]:
        if mark_of(call) == BEGIN:
            count = 0
        count += call.name == calls[index].name
    return count


def _put_back(before: Folder, place: Path) -> None:
    for entry in place.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    write_tree(place, list(walk(before)), {inode: inode.data for _, inode in walk(before) if isinstance(inode, File)})
