"""The numbers of the system calls in which a thread can wait, per architecture; anything else counts as external.

Sources: `asm/unistd_64.h` (x86-64) and `asm-generic/unistd.h` (arm64) of the Linux 6.12 headers.
"""

from __future__ import annotations

import os

X86_64 = {
    0: "read",
    1: "write",
    7: "poll",
    19: "readv",
    20: "writev",
    23: "select",
    34: "pause",
    35: "nanosleep",
    43: "accept",
    44: "sendto",
    45: "recvfrom",
    46: "sendmsg",
    47: "recvmsg",
    61: "wait4",
    128: "rt_sigtimedwait",
    130: "rt_sigsuspend",
    202: "futex",
    219: "restart_syscall",
    230: "clock_nanosleep",
    232: "epoll_wait",
    247: "waitid",
    270: "pselect6",
    271: "ppoll",
    281: "epoll_pwait",
    288: "accept4",
    441: "epoll_pwait2",
    449: "futex_waitv",
    455: "futex_wait",
    # Waits that are recognised only so that a reader gets a name: all of them are external.
    42: "connect",
    65: "semop",
    70: "msgrcv",
    72: "fcntl",
    73: "flock",
    220: "semtimedop",
    208: "io_getevents",
    243: "mq_timedreceive",
    426: "io_uring_enter",
}

ARM64 = {
    22: "epoll_pwait",
    63: "read",
    64: "write",
    65: "readv",
    66: "writev",
    72: "pselect6",
    73: "ppoll",
    95: "waitid",
    98: "futex",
    101: "nanosleep",
    115: "clock_nanosleep",
    128: "restart_syscall",
    133: "rt_sigsuspend",
    137: "rt_sigtimedwait",
    202: "accept",
    206: "sendto",
    207: "recvfrom",
    211: "sendmsg",
    212: "recvmsg",
    242: "accept4",
    260: "wait4",
    441: "epoll_pwait2",
    449: "futex_waitv",
    455: "futex_wait",
    4: "io_getevents",
    25: "fcntl",
    32: "flock",
    183: "mq_timedreceive",
    188: "msgrcv",
    192: "semtimedop",
    193: "semop",
    203: "connect",
    426: "io_uring_enter",
}

TABLES = {"x86_64": X86_64, "amd64": X86_64, "aarch64": ARM64, "arm64": ARM64}


def table() -> dict[int, str] | None:
    """This machine's numbers, or None where we have none (then every look is BLIND)."""
    uname = getattr(os, "uname", None)
    return TABLES.get(uname().machine.lower()) if uname is not None else None
