"""What a process holds, counted twice: leaks are growth, never mere existence.

"Is a thread alive?" would accuse every executor that reuses its workers; a difference of two censuses does not.
Process-wide helpers that the standard library starts once and keeps (multiprocessing's resource tracker and fork
server, loky's, and their pipes) are told apart, so that a rule can check that they don't grow either.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.proof import procfs
from pytest_flowcheck.proof.processes import descendants

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_flowcheck.proof.harness import Harness

_HELPER_COMMANDS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "loky.backend.resource_tracker")
_HELPERS = (
    ("multiprocessing.resource_tracker", "_resource_tracker", ("_fd",)),
    ("multiprocessing.forkserver", "_forkserver", ("_forkserver_alive_fd",)),
    ("loky.backend.resource_tracker", "_resource_tracker", ("_fd",)),
)


@dataclass(frozen=True, order=True)
class Held:
    """One thing that a process holds; equal in two censuses if it is the same thing."""

    kind: str
    """`thread`, `child process`, or the kind of a descriptor (`pipe`, `socket`, `file`, ...)."""
    number: int
    """The native thread id, the pid, or the descriptor."""
    identity: str
    """What tells it from a later thing of the same number: its start time, or the kernel object."""
    name: str
    """The thread's name, the whole command line, or what the descriptor leads to."""

    def __str__(self) -> str:
        """A line for a human."""
        if self.kind == "thread":
            return f"thread '{self.name}' ({self.number})"
        if self.kind == "child process":
            return f"child process {self.number} ({procfs.shortened(self.name)})"
        return f"{self.kind} descriptor {self.number} -> {self.name}"


@dataclass(frozen=True)
class Census:
    """What a process held at one moment, after garbage was collected."""

    threads: frozenset[Held]
    children: frozenset[Held]
    descriptors: frozenset[Held]
    loops: int
    """asyncio loops that are not closed."""
    tasks: int
    """asyncio tasks that are not done."""
    helpers: frozenset[Held]
    """What the standard library keeps for the whole process; in none of the other sets."""

    def growth_since(self, earlier: Census) -> list[str]:
        """What is there now and was not then, one line each; helpers left out.

        Descriptors of a kind are named only if there are more of that kind: one that was replaced is no growth.
        """
        lines = [str(held) for held in sorted(self.threads - earlier.threads)]
        lines += [str(held) for held in sorted(self.children - earlier.children)]
        more = Counter(held.kind for held in self.descriptors)
        more.subtract(held.kind for held in earlier.descriptors)
        lines += [str(held) for held in sorted(self.descriptors - earlier.descriptors) if more[held.kind] > 0]
        for what, now, then in (("event loop", self.loops, earlier.loops), ("task", self.tasks, earlier.tasks)):
            if now > then:
                lines.append(f"{now - then} more {what}{'s' if now - then > 1 else ''} than before")
        return lines

    def helper_growth_since(self, earlier: Census) -> list[str]:
        """Helpers that are there now and were not then. The first use may add some; every further round must not."""
        return [str(held) for held in sorted(self.helpers - earlier.helpers)]


def census(harness: Harness | None = None, *, quick: bool = False) -> Census:
    """Count what this process holds, after a garbage collection. The harness's threads are left out.

    Where there is no `/proc` (macOS, Windows) there are no children and no descriptors in it.

    Args:
        harness: whose threads aren't counted.
        quick: neither collect garbage nor look through memory: loops and tasks aren't counted, and what nobody refers to
            any more may be.
    """
    if not quick:
        gc.collect()
    tracker_fds = set(_helper_descriptors())
    children = frozenset(_children())
    helping = frozenset(child for child in children if any(word in child.name for word in _HELPER_COMMANDS))
    descriptors = frozenset(_descriptors())
    helping_fds = frozenset(held for held in descriptors if held.number in tracker_fds)
    loops = [] if quick else list(_open_loops())
    return Census(
        threads=frozenset(_threads(harness)),
        children=children - helping,
        descriptors=descriptors - helping_fds,
        loops=len(loops),
        tasks=_tasks(loops),
        helpers=helping | helping_fds,
    )


def _threads(harness: Harness | None) -> Iterator[Held]:
    me = os.getpid()
    names = {
        me if thread is threading.main_thread() else thread.native_id or 0: thread.name
        for thread in threading.enumerate()
    }
    for tid in procfs.tids(me) if procfs.LINUX else list(names):
        if harness is not None and harness.owns(me, tid):
            continue
        try:
            start = str(procfs.stat(f"/proc/{me}/task/{tid}/stat").start) if procfs.LINUX else ""
        except OSError:
            continue  # it ended meanwhile
        yield Held("thread", tid, start, names.get(tid, "not Python's"))


def _children() -> Iterator[Held]:
    for pid in descendants():
        try:
            start = str(procfs.stat(f"/proc/{pid}/stat").start)
        except OSError:
            continue  # it ended meanwhile
        yield Held("child process", pid, start, procfs.command(pid))


def _descriptors() -> Iterator[Held]:
    if not procfs.LINUX:
        return
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
        kind, found, _rest = link.partition(":")
        if link.startswith("anon_inode:"):
            kind = link.removeprefix("anon_inode:").strip("[]")
        yield Held(kind if found and not link.startswith("/") else "file", int(name), link, link)


def _helper_descriptors() -> Iterator[int]:
    for module, variable, attributes in _HELPERS:
        helper = getattr(sys.modules.get(module), variable, None)
        for attribute in attributes:
            fd = getattr(helper, attribute, None)
            if isinstance(fd, int):
                yield fd


def _open_loops() -> Iterator[Any]:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return
    for thing in gc.get_objects():
        if issubclass(type(thing), asyncio.AbstractEventLoop) and not thing.is_closed():
            yield thing


def _tasks(loops: Iterable[Any]) -> int:
    asyncio = sys.modules.get("asyncio")
    return sum(len(asyncio.all_tasks(loop)) for loop in loops) if asyncio is not None else 0
