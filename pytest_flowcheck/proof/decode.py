"""From the line in `/proc/<pid>/task/<tid>/syscall` to who can end that wait.

Guarantee: a call that is not understood in every argument that matters is `external`, never `untimed`.
Sources: proc_pid_syscall(5), futex(2), and the manual page of each call for the order of its arguments.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from pytest_flowcheck.proof import procfs
from pytest_flowcheck.proof.holders import Holders, Reach, weakest

if TYPE_CHECKING:
    from collections.abc import Callable

_FUTEX_PRIVATE, _FUTEX_COMMAND = 0x80, 0x7F
_FUTEX_WAITS = frozenset({0, 6, 9, 11, 13})  # WAIT, LOCK_PI, WAIT_BITSET, WAIT_REQUEUE_PI, LOCK_PI2
_SIGNAL_ONLY = Reach("external", "nothing, that only a signal can end")
_MANY = 4096


class Call(NamedTuple):
    """One system call in which a thread waits."""

    name: str
    pid: int
    a: list[int]
    """The six arguments, as unsigned words."""
    holders: Holders

    def has_deadline(self, index: int) -> bool:
        """Whether the argument points to a time (no pointer means: for ever)."""
        return self.a[index] != 0

    def ready(self, fd: int) -> Reach:
        """Who can make a descriptor ready."""
        return self.holders.descriptor(self.pid, fd)

    def word(self, address: int, flags: int) -> Reach:
        """Who can wake a waiter on a word of memory."""
        if flags & _FUTEX_PRIVATE:
            return Reach("untimed", "a private futex")
        return self.holders.memory(self.pid, address)


def reach_of(line: bytes, pid: int, holders: Holders, names: dict[int, str]) -> Reach:
    """Who can end the wait in this line. Raises OSError when the process is gone or may not be read."""
    words = line.split()
    number = int(words[0])
    if number < 0:
        return Reach("running", "is blocked outside of any system call")
    name = names.get(number)
    if name is None:
        return Reach("external", f"waits in system call {number}, which is not understood")
    arguments = [int(word, 16) for word in words[1:7]]
    decoder = _DECODERS.get(name)
    found = decoder(Call(name, pid, arguments, holders)) if decoder else _FIXED.get(name, Reach("external", ""))
    verb = "sleeps" if "sleep" in name else "waits"
    return Reach(found.kind, f"{verb} ({name}{': ' if found.text else ''}{found.text})")


def _signed(value: int) -> int:
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def _until(reach: Reach, timed: bool) -> Reach:
    """A deadline makes a wait timed, unless somebody outside may end it before."""
    return Reach("timed", f"{reach.text}, with a deadline") if timed and reach.kind in {"untimed", "door"} else reach


def _futex(call: Call) -> Reach:
    command = call.a[1] & _FUTEX_COMMAND
    if command not in _FUTEX_WAITS:
        return Reach("external", f"futex operation {command}")
    return _until(call.word(call.a[0], call.a[1]), call.has_deadline(3))


def _futex_wait(call: Call) -> Reach:
    return _until(call.word(call.a[0], call.a[3]), call.has_deadline(4))


def _futex_waitv(call: Call) -> Reach:
    count = call.a[1]
    raw = procfs.memory(call.pid, call.a[0], 24 * count) if 0 < count <= 128 else b""
    if len(raw) != 24 * count or not raw:
        return Reach("external", "words that can't be read")
    words = (call.word(address, flags) for _value, address, flags, _reserved in struct.iter_unpack("=QQII", raw))
    return _until(weakest(words, _SIGNAL_ONLY), call.has_deadline(3))


def _epoll_wait(call: Call) -> Reach:
    reach, patience = call.holders.epoll(call.pid, _signed(call.a[0])), _signed(call.a[3])
    if patience >= 0 and reach.kind in {"untimed", "door"}:
        return Reach("timed", f"{reach.text}, with a deadline of {patience} ms")
    return reach


def _epoll_pwait2(call: Call) -> Reach:
    return _until(call.holders.epoll(call.pid, _signed(call.a[0])), call.has_deadline(3))


def _poll(call: Call) -> Reach:
    timed = _signed(call.a[2]) >= 0 if call.name == "poll" else call.has_deadline(2)
    count = call.a[1] & 0xFFFFFFFF
    if count > _MANY:
        return Reach("external", f"{count} descriptors")
    raw = procfs.memory(call.pid, call.a[0], 8 * count) if count else b""
    if len(raw) != 8 * count:
        return Reach("external", "descriptors that can't be read")
    fds = [fd for fd, _events, _ready in struct.iter_unpack("=ihh", raw) if fd >= 0]
    return _until(weakest(map(call.ready, fds), _SIGNAL_ONLY), timed)


def _select(call: Call) -> Reach:
    count = _signed(call.a[0])
    if not 0 <= count <= _MANY:
        return Reach("external", f"{count} descriptors")
    fds: set[int] = set()
    size = (count + 7) // 8
    for address in call.a[1:4]:
        if address and size:
            raw = procfs.memory(call.pid, address, size)
            if len(raw) != size:
                return Reach("external", "descriptors that can't be read")
            fds |= {fd for fd in range(count) if raw[fd // 8] >> (fd % 8) & 1}
    return _until(weakest(map(call.ready, sorted(fds)), _SIGNAL_ONLY), call.has_deadline(4))


def _incoming(call: Call) -> Reach:
    return call.holders.descriptor(call.pid, _signed(call.a[0]), blocking="in")


def _outgoing(call: Call) -> Reach:
    return call.holders.descriptor(call.pid, _signed(call.a[0]), blocking="out")


_DECODERS: dict[str, Callable[[Call], Reach]] = {
    "futex": _futex,
    "futex_wait": _futex_wait,
    "futex_waitv": _futex_waitv,
    "epoll_wait": _epoll_wait,
    "epoll_pwait": _epoll_wait,
    "epoll_pwait2": _epoll_pwait2,
    "poll": _poll,
    "ppoll": _poll,
    "select": _select,
    "pselect6": _select,
    **dict.fromkeys(("read", "readv", "recvfrom", "recvmsg", "accept", "accept4"), _incoming),
    **dict.fromkeys(("write", "writev", "sendto", "sendmsg"), _outgoing),
}

_FIXED: dict[str, Reach] = {
    # A child is in the tree by definition, and can't end unless one of its threads, or a killer, runs.
    **dict.fromkeys(("wait4", "waitid"), Reach("untimed", "a child to end")),
    **dict.fromkeys(("nanosleep", "clock_nanosleep", "restart_syscall"), Reach("timed", "")),
    **dict.fromkeys(("pause", "rt_sigsuspend", "rt_sigtimedwait"), Reach("external", "a signal")),
}
