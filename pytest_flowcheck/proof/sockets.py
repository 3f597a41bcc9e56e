"""Who is at the other end of a socket: the kernel's tables of unix and TCP sockets.

Sources: unix_diag(7) over sock_diag(7), which needs no privilege; `/proc/net/tcp` as in `net/ipv4/tcp_ipv4.c`.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from pytest_flowcheck.proof import procfs

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_REQUEST_DUMP = 0x301
_SHOW_NAME, _SHOW_PEER = 1, 4
_ATTR_NAME, _ATTR_PEER = 0, 2
_MSG_ERROR, _MSG_DONE = 2, 3
_LISTEN = 10
_SECONDS = 2.0


class Unix(NamedTuple):
    """A unix socket: its peer's inode (0: none, or not yet accepted)."""

    peer: int
    listens: bool
    open_to_all: bool
    """A datagram socket with a name: whoever knows the name may send to it."""


class Tcp(NamedTuple):
    """A TCP socket: its peer's inode (0: not on this machine, or not yet accepted)."""

    peer: int
    listens: bool
    in_flight: bool
    """Bytes that left one end and did not arrive at the other."""


def unix_sockets() -> dict[int, Unix]:
    """All unix sockets of this network namespace, by inode. Raises OSError where the kernel does not tell."""
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _SHOW_NAME | _SHOW_PEER, 0, 0)
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
    found: dict[int, Unix] = {}
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as link:
        link.settimeout(_SECONDS)
        link.sendall(header + request)
        while True:
            data = link.recv(1 << 17)
            offset = 0
            while offset < len(data):
                length, kind = struct.unpack_from("=IH", data, offset)
                if kind == _MSG_DONE:
                    return found
                if kind == _MSG_ERROR:
                    raise OSError("the kernel refused to list unix sockets")
                inode, entry = _unix(data, offset + 16, offset + length)
                found[inode] = entry
                offset += (length + 3) & ~3


def _unix(data: bytes, start: int, end: int) -> tuple[int, Unix]:
    _family, kind, state, _pad, inode = struct.unpack_from("=BBBBI", data, start)
    attribute, peer, named = start + 16, 0, False
    while attribute + 4 <= end:
        length, which = struct.unpack_from("=HH", data, attribute)
        if which == _ATTR_PEER:
            (peer,) = struct.unpack_from("=I", data, attribute + 4)
        elif which == _ATTR_NAME:
            named = length > 4
        attribute += max(4, (length + 3) & ~3)
    return inode, Unix(peer, state == _LISTEN, kind == socket.SOCK_DGRAM and named)


def tcp_sockets() -> dict[int, Tcp]:
    """All TCP sockets of this network namespace, by inode."""
    rows: dict[int, tuple[str, str, str, str]] = {}
    ends: dict[tuple[str, str], tuple[int, str]] = {}
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        try:
            lines = procfs.read_all(table).decode().splitlines()[1:]
        except OSError:
            continue  # no IPv6 here
        for line in lines:
            cells = line.split()
            local, remote, state, queues, inode = _v4(cells[1]), _v4(cells[2]), cells[3], cells[4], int(cells[9])
            rows[inode] = (local, remote, state, queues)
            if state != "0A":
                ends[local, remote] = (inode, queues)
    found: dict[int, Tcp] = {}
    for inode, (local, remote, state, queues) in rows.items():
        peer, theirs = ends.get((remote, local), (0, ""))
        in_flight = any(q and not q.startswith("00000000:") for q in (queues, theirs))
        found[inode] = Tcp(peer, state == "0A", in_flight)
    return found


def _v4(address: str) -> str:
    """An IPv4 address that stands in the IPv6 table, as it stands in the IPv4 table."""
    return address.removeprefix("0000000000000000FFFF0000")
