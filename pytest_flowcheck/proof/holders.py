"""Who could end a wait on a descriptor or on shared memory: only processes of the tree, or somebody outside?

Guarantee: `untimed` is answered only if every process that holds the object is in the tree, and no process that we
may not look into can have inherited it.

Assumptions, beyond which no proof goes: nobody outside sends signals to the tree, opens a named object of it
(a listener's address, shared memory by name) from now on, or has one of its descriptors unreceived in a unix socket.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from pytest_flowcheck.proof import native, procfs
from pytest_flowcheck.proof.harness import object_key
from pytest_flowcheck.proof.sockets import Tcp, Unix, tcp_sockets, unix_sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pytest_flowcheck.proof.sighting import Kind

_PID = re.compile(rb"^Pid:\s*(-?\d+)", re.MULTILINE)
_ARMED = re.compile(rb"it_value: \((\d+), (\d+)\)")
_TARGET = re.compile(rb"tfd:\s*(\d+).*?ino:\s*([0-9a-f]+)")
_TARGET_OLD = re.compile(rb"tfd:\s*(\d+)")
_INODE = re.compile(r"\[(\d+)\]$")
_EPOLL_DEPTH = 5  # the kernel's own limit for epolls in epolls


class Reach(NamedTuple):
    """Who can end a wait, and on what it is."""

    kind: Kind
    text: str


_ORDER: tuple[Kind, ...] = ("blind", "external", "timed", "door", "untimed")


def weakest(reaches: Iterable[Reach], nothing: Reach) -> Reach:
    """A wait on several things ends with the first: the one of which we know least decides."""
    return min(reaches, key=lambda reach: _ORDER.index(reach.kind), default=nothing)


class Holders:
    """Which process holds what, gathered once per look and only as far as a wait asks for it."""

    def __init__(self, tree: frozenset[int], outside: frozenset[str], may_hide: Callable[[int], bool]) -> None:
        """`outside`: objects known to be held outside. `may_hide`: could an unreadable process hold ours?"""
        self._tree = tree
        self._outside = outside
        self._may_hide = may_hide
        self._by_object: dict[str, set[int]] | None = None
        self._hidden: str = ""
        self._unix: dict[int, Unix] | None = None
        self._tcp: dict[int, Tcp] | None = None

    def descriptor(self, pid: int, fd: int, *, blocking: str = "", depth: int = 0) -> Reach:
        """Who can make this descriptor ready. `blocking`: `in` or `out` for a wait inside the call itself."""
        try:
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
        except PermissionError:
            return Reach("blind", f"descriptor {fd}, which may not be read")
        except OSError:
            return Reach("external", f"descriptor {fd}, which is closed")
        what = f"descriptor {fd} ({link})"
        if link.startswith("socket:"):
            return self._socket(pid, fd, link, what, blocking)
        if link.startswith("pipe:"):
            return self._inside(link, what)
        if link == "anon_inode:[eventfd]":
            return self._inside(object_key(f"/proc/{pid}", fd) or "", what)
        if link == "anon_inode:[eventpoll]":
            return self.epoll(pid, fd, depth=depth + 1)
        if link == "anon_inode:[timerfd]":
            armed = _ARMED.search(procfs.read(f"/proc/{pid}/fdinfo/{fd}"))
            if armed is None or armed.groups() != (b"0", b"0"):
                return Reach("timed", f"{what}, a timer that is set")
            return self._inside(link, what)
        if "pidfd" in link:
            found = _PID.search(procfs.read(f"/proc/{pid}/fdinfo/{fd}"))
            inside = found is not None and int(found.group(1)) in self._tree
            return Reach("untimed" if inside else "external", what if inside else f"{what}, a process outside")
        return Reach("external", f"{what}, which anybody may make ready")

    def epoll(self, pid: int, fd: int, *, depth: int = 0) -> Reach:
        """Who can make any descriptor of an epoll set ready."""
        if depth > _EPOLL_DEPTH:
            return Reach("external", f"epoll {fd}, too deeply nested")
        info = procfs.read_all(f"/proc/{pid}/fdinfo/{fd}")
        targets = [(int(t), int(ino, 16)) for t, ino in _TARGET.findall(info)]
        if len(targets) != len(_TARGET_OLD.findall(info)):
            return Reach("blind", f"epoll {fd}, whose members this kernel does not tell")
        reaches = [self._member(pid, target, inode, depth) for target, inode in targets]
        worst = weakest(reaches, Reach("external", "nothing, that only a signal can end"))
        members = ", ".join(str(target) for target, _inode in targets)
        return Reach(worst.kind, f"epoll {fd} of {members}" if worst.kind == "untimed" else f"epoll {fd}: {worst.text}")

    def _member(self, pid: int, fd: int, inode: int, depth: int) -> Reach:
        """A number in an epoll set may have been closed and used again: compare the object."""
        try:
            now = os.stat(f"/proc/{pid}/fd/{fd}").st_ino
        except PermissionError:
            return Reach("blind", f"descriptor {fd}, which may not be read")
        except OSError:
            return Reach("external", f"descriptor {fd}, which is closed")
        if now != inode:
            return Reach("external", f"descriptor {fd}, which was another one when it was registered")
        return self.descriptor(pid, fd, depth=depth)

    def memory(self, pid: int, address: int) -> Reach:
        """Who can wake a waiter on this word, when the futex is not private to the process."""
        found = _mapping(pid, address)
        if found is None:
            return Reach("external", "a shared futex, unmapped")
        permissions, device, inode = found
        if "s" not in permissions:
            return Reach("untimed", "a futex in its own memory")
        if inode == "0":
            return Reach("external", "a futex in anonymous shared memory")
        tag = f" {device} {inode} ".encode()
        for other in procfs.pids():
            if other in self._tree:
                continue
            try:
                mapped = any(tag in procfs.read_all(f"{process}/maps") for process in procfs.folders(other))
            except PermissionError:
                if self._may_hide(other):
                    return Reach("blind", f"a shared futex, which process {other} may hold")
                continue
            except OSError:
                continue  # it ended
            if mapped:
                return Reach("external", f"a shared futex, also mapped by process {other}")
        return self._nobody_hides("a shared futex")

    def _inside(self, key: str, what: str) -> Reach:
        if key in self._outside:
            return Reach("external", f"{what}, open since the start")
        holders = self._holders().get(key, set())
        strangers = holders - self._tree
        if strangers or not holders:
            return Reach("external", f"{what}, also held by process {min(strangers, default=0)}")
        return self._nobody_hides(what)

    def _nobody_hides(self, what: str) -> Reach:
        self._holders()
        return Reach("blind", f"{what}, which {self._hidden} may hold") if self._hidden else Reach("untimed", what)

    def _holders(self) -> dict[str, set[int]]:
        if self._by_object is not None:
            return self._by_object
        found: dict[str, set[int]] = {}
        everybody = procfs.pids()
        if 1 not in everybody and self._may_hide(0):
            self._hidden = "a process that is not listed"
        for pid in everybody:
            try:
                for process in procfs.folders(pid):
                    for key in _keys(process):
                        found.setdefault(key, set()).add(pid)
            except PermissionError:
                if self._may_hide(pid):
                    self._hidden = f"process {pid}"
            except OSError:
                continue  # it ended
        self._by_object = found
        return found

    def _socket(self, pid: int, fd: int, link: str, what: str, blocking: str) -> Reach:
        if link in self._outside:
            return Reach("external", f"{what}, open since the start")
        if blocking:
            limit = native.socket_timeout(pid, fd, incoming=blocking == "in")
            if limit is None:
                return Reach("blind", f"{what}, whose timeout may not be read")
            if limit:
                return Reach("timed", f"{what}, which has a timeout")
        found = _INODE.search(link)
        inode = int(found.group(1)) if found else 0
        if self._unix is None:
            self._unix = unix_sockets()
        if (unix := self._unix.get(inode)) is not None:
            if unix.open_to_all:
                return Reach("external", f"{what}, to which anybody may send")
            return self._stream(link, what, unix.peer, listens=unix.listens)
        if self._tcp is None:
            self._tcp = tcp_sockets()
        if (tcp := self._tcp.get(inode)) is not None:
            if tcp.in_flight and not tcp.listens:
                return Reach("external", f"{what}, with bytes in flight")
            return self._stream(link, what, tcp.peer, listens=tcp.listens)
        return Reach("external", f"{what}, to which anybody may send")

    def _stream(self, link: str, what: str, peer: int, *, listens: bool) -> Reach:
        if listens:
            own = self._inside(link, what)
            return Reach("door", f"{what}, a listener") if own.kind == "untimed" else own
        if not peer:
            return Reach("external", f"{what}, whose other end is not here")
        own, other = self._inside(link, what), self._inside(f"socket:[{peer}]", f"{what} to socket:[{peer}]")
        return weakest((own, other), own)


def _keys(process: str) -> Iterator[str]:
    for name in os.listdir(f"{process}/fd"):
        try:
            key = object_key(process, name)
        except FileNotFoundError:
            continue  # closed meanwhile
        if key is not None:
            yield key


def _mapping(pid: int, address: int) -> tuple[str, str, str] | None:
    for line in procfs.read_all(f"/proc/{pid}/maps").decode(errors="replace").splitlines():
        first, last = line.split(None, 1)[0].split("-")
        if int(first, 16) <= address < int(last, 16):
            cells = line.split()
            return cells[1], cells[3], cells[4]
    return None
