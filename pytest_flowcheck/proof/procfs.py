"""The few reads of `/proc` that proof is made of, as cheap as Python can do them.

`os.open` and `os.read` cost a third of `open`: a look reads two files per thread, twice.
Source: proc(5), and `fs/proc/array.c` for the fields of `stat`.
"""

from __future__ import annotations

import os
import re
import sys
from typing import NamedTuple

LINUX = sys.platform == "linux"

_STATE = re.compile(rb"^State:\s*(\w)", re.MULTILINE)
_SWITCHES = re.compile(rb"ctxt_switches:\s*(\d+)")
_CAUGHT = re.compile(rb"^SigCgt:\s*([0-9a-f]+)", re.MULTILINE)


def read(path: str) -> bytes:
    """A file that the kernel hands out in one piece (`stat`, `status`, `syscall`). Raises OSError as `open` would."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def read_all(path: str) -> bytes:
    """A file of many lines, whole: the kernel hands such out page by page, and a page need not be full."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(fd, 65536)]
        while parts[-1]:
            parts.append(os.read(fd, 65536))
        return b"".join(parts)
    finally:
        os.close(fd)


def memory(pid: int, address: int, length: int) -> bytes:
    """Bytes of a process's memory; short where the mapping ends."""
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, length, address)
    finally:
        os.close(fd)


class Stat(NamedTuple):
    """What we need of `/proc/<pid>/stat`."""

    state: str
    parent: int
    threads: int
    start: int
    """Clock ticks after boot: with the pid it names a process or a thread for ever, though pids are used again."""

    @property
    def dead(self) -> bool:
        """A zombie. A process whose *main thread* alone has ended also reads Z, but has more threads than that one."""
        return self.state in "ZXx" and self.threads <= 1


def stat(path: str) -> Stat:
    """Parse a `stat` file (of a process or of one thread). Raises OSError when it is gone."""
    raw = read(path)
    fields = raw[raw.rindex(b")") + 2 :].split()
    return Stat(fields[0].decode(), int(fields[1]), int(fields[17]), int(fields[19]))


def pids() -> list[int]:
    """Every process that this one may list."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def tids(pid: int) -> list[int]:
    """The threads of a process. Raises OSError when it is gone."""
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def folders(pid: int) -> list[str]:
    """The folders that show what a process holds. Raises OSError when it is gone.

    One, unless its main thread has ended before the others: then its own folder shows nothing, but theirs do.
    """
    if stat(f"/proc/{pid}/stat").state != "Z":
        return [f"/proc/{pid}"]
    return [f"/proc/{pid}/task/{tid}" for tid in tids(pid) if tid != pid]


def state_of(status: bytes) -> str:
    """The one-letter state in a `status` file."""
    found = _STATE.search(status)
    return found.group(1).decode() if found else "?"


def switches(status: bytes) -> tuple[bytes, ...]:
    """The two context-switch counters in a `status` file: they grow whenever the thread leaves a processor."""
    return tuple(_SWITCHES.findall(status))


def caught(status: bytes) -> int:
    """The signals for which the process has a handler, as a bit set (bit n-1 is signal n)."""
    found = _CAUGHT.search(status)
    return int(found.group(1), 16) if found else -1


def command(pid: int) -> str:
    """The whole command line, or the bare name where it can't be had."""
    try:
        words = read(f"/proc/{pid}/cmdline").rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        words = ""
    return words or f"process {pid}"


def shortened(command: str) -> str:
    """A command line for a message: the program without its folders, and the first 80 characters."""
    program, space, rest = command.partition(" ")
    words = program.rpartition("/")[2] + space + rest
    return words[:77] + "..." if len(words) > 80 else words


def is_64_bit(pid: int) -> bool:
    """Whether the process runs a 64-bit program: a 32-bit one numbers its system calls differently."""
    fd = os.open(f"/proc/{pid}/exe", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 5) == b"\x7fELF\x02"
    finally:
        os.close(fd)
