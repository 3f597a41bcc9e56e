"""A question that Python has no function for: a socket's own timeout, also in another process.

`SO_RCVTIMEO` ends a `recv` that looks untimed in its arguments. Source: socket(7), pidfd_getfd(2).
"""

from __future__ import annotations

import ctypes
import os
import socket

_PIDFD_GETFD = 438  # one number on every architecture
_TIMEVAL = 16


def _borrow(pid: int, fd: int) -> int:
    """A descriptor of ours for the other process's open file. Raises OSError where that is not permitted."""
    if pid == os.getpid():
        return os.dup(fd)
    handle = os.pidfd_open(pid)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        got = int(libc.syscall(ctypes.c_long(_PIDFD_GETFD), ctypes.c_int(handle), ctypes.c_int(fd), ctypes.c_uint(0)))
        if got < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        return got
    finally:
        os.close(handle)


def socket_timeout(pid: int, fd: int, *, incoming: bool) -> bool | None:
    """Whether the kernel itself ends a blocked call on this socket after a while; None if we may not know."""
    try:
        borrowed = _borrow(pid, fd)
    except OSError:
        return None
    option = socket.SO_RCVTIMEO if incoming else socket.SO_SNDTIMEO
    try:
        with socket.socket(fileno=borrowed) as same:
            return any(same.getsockopt(socket.SOL_SOCKET, option, _TIMEVAL))
    except OSError:
        return None
