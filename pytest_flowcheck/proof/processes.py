"""Process trees: who is below whom, orphans that stay in reach, and an end that leaves nothing behind."""

from __future__ import annotations

import ctypes
import os
import select
import signal
from typing import TYPE_CHECKING

from pytest_flowcheck.proof import procfs

if TYPE_CHECKING:
    from collections.abc import Iterable

_SET_CHILD_SUBREAPER, _GET_CHILD_SUBREAPER = 36, 37
_REAP_SECONDS = 5.0


def family(root: int) -> list[int]:
    """`root` and all live processes below it. Raises ProcessLookupError when the root itself is dead.

    Guarantee: a process that lives from the beginning to the end of the call, and whose ancestors do, is listed.

    Who is no descendant now never will be: a process is born below the one that forks it (with CLONE_PARENT beside it), and
    orphans go to one of their ancestors. So strangers are remembered (see `_strangers`), and a call costs what the family
    costs, not what the machine has processes. The dead are remembered with them: nobody is below a zombie, and a run of tests
    may leave a hundred.
    """
    with os.scandir("/proc") as entries:
        listed = [(int(entry.name), entry.inode()) for entry in entries if entry.name.isdigit()]
    strangers = _known_strangers.get(root, frozenset())
    dead: set[_Place] = set()
    parents: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for place in listed:
        if place in strangers:
            continue
        pid = place[0]
        try:
            stat = procfs.stat(f"/proc/{pid}/stat")
        except OSError:
            continue  # it ended while we listed: not alive
        if stat.dead:
            dead.add(place)
            continue
        parents[pid] = stat.parent
        children.setdefault(stat.parent, []).append(pid)
    if root not in parents:
        _known_strangers.pop(root, None)
        raise ProcessLookupError(root)
    found = [root]
    for pid in found:
        found += children.get(pid, ())
    _known_strangers[root] = _strangers(listed, strangers, parents, root) | {
        place for place in dead if place[1] > _NO_INODE
    }
    return found


_Place = tuple[int, int]
"""A pid and the inode of its folder in `/proc`. The kernel drops the folder with the process (`proc_flush_pid`), and gives
the next one of that pid a new inode: so they name a process for ever. Numbers up to `_NO_INODE` are what a listing says that
could not look the folder up (`proc_fill_cache`): they name nothing."""

_NO_INODE = 1

_known_strangers: dict[int, frozenset[_Place]] = {}
"""By root: processes that are not below it."""


def _strangers(listed: list[_Place], known: frozenset[_Place], parents: dict[int, int], root: int) -> frozenset[_Place]:
    """Those whose every ancestor was seen, up to one that has none here or is a stranger, and is not `root`.

    An ancestor that ended meanwhile tells nothing: its children may just be on their way to a subreaper in the family. (In the
    next call they have arrived: a process becomes a zombie after its children were given away, `exit_notify`.)
    """
    far = {pid for pid, inode in listed if (pid, inode) in known}

    def is_stranger(pid: int) -> bool:
        seen: list[int] = []
        while pid not in far and pid != 0:
            if pid == root or pid not in parents:
                return False
            seen.append(pid)
            pid = parents[pid]
        far.update(seen)
        return True

    return frozenset(
        place
        for place in listed
        if place[1] > _NO_INODE and (place in known or (place[0] != root and is_stranger(place[0])))
    )


def descendants(root: int | None = None) -> list[int]:
    """The live processes below `root` (default: this one), zombies left out. Empty where there is no `/proc`."""
    if not procfs.LINUX:
        return []
    try:
        return family(os.getpid() if root is None else root)[1:]
    except ProcessLookupError:
        return []


def become_subreaper(on: bool = True) -> bool:
    """Make orphaned descendants children of this process, so that they stay in its tree; False where unsupported.

    Without it an orphan is adopted by init: it leaves the tree while it may still hold a pipe of ours.
    Source: prctl(2), PR_SET_CHILD_SUBREAPER.
    """
    if not procfs.LINUX:
        return False
    try:
        return int(ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, ctypes.c_ulong(on), 0, 0, 0)) == 0
    except (OSError, AttributeError):
        return False


def is_subreaper() -> bool:
    """Whether orphans come to this process."""
    if not procfs.LINUX:
        return False
    answer = ctypes.c_int(0)
    try:
        return ctypes.CDLL(None).prctl(_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0) == 0 and answer.value != 0
    except (OSError, AttributeError):
        return False


def kill_tree(pids: Iterable[int]) -> list[int]:
    """Kill these processes and reap those that are our children; the pids that were there to be killed, in order.

    Guarantee: when this returns, each of ours is gone (or in an uninterruptible system call for five seconds).
    """
    killed: list[int] = []
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        except (ProcessLookupError, PermissionError):
            continue
        killed.append(pid)
    for pid in killed:
        _reap(pid)
    return killed


def _reap(pid: int) -> None:
    """Collect one child, waiting for its end on a pidfd where there are any."""
    try:
        handle = os.pidfd_open(pid)
    except (OSError, AttributeError):
        handle = -1
    try:
        if handle >= 0:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(_REAP_SECONDS * 1000)
        os.waitpid(pid, os.WNOHANG if handle >= 0 else 0)
    except (ChildProcessError, AttributeError):
        return  # not our child, or reaped by the module that started it
    finally:
        if handle >= 0:
            os.close(handle)
