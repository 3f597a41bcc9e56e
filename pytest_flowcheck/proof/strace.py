"""System calls of a child and of all that it starts, in the order in which they completed, read by strace.

Strings come in hexadecimal, so that no byte of a path or of data is ever ambiguous; descriptors come with the path that
the kernel knows them by, so that a number that was used again is never taken for its predecessor.

Source: strace(1); ptrace(2).
"""

from __future__ import annotations

import functools
import os
import re
import select
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pytest_flowcheck.proof.processes import descendants, kill_tree
from pytest_flowcheck.proof.procfs import LINUX

STRING_LIMIT = 1 << 24
"""Bytes of one string that strace prints; a longer write is cut, and `Call.cut` says so."""

_PATHS = "open openat openat2 creat rename renameat renameat2 link linkat symlink symlinkat unlink unlinkat"
_FOLDERS = "mkdir mkdirat rmdir chdir fchdir chroot mknod mknodat truncate chmod fchmodat fchmodat2 umask"
_DATA = "write pwrite64 writev pwritev pwritev2 ftruncate fallocate copy_file_range sendfile splice fchmod"
_SYNCS = "fsync fdatasync sync syncfs sync_file_range msync"
_DESCRIPTORS = "close close_range dup dup2 dup3 fcntl fcntl64 lseek _llseek ioctl"
_MEMORY = "mmap mmap2 io_uring_setup"
_PROCESSES = "clone clone3 fork vfork execve execveat"
_MARKS = "access faccessat faccessat2"
_POSITIONS = "read readv"
_TRACED = ",".join(
    "?" + name
    for names in (_PATHS, _FOLDERS, _DATA, _SYNCS, _DESCRIPTORS, _MEMORY, _PROCESSES, _MARKS, _POSITIONS)
    for name in names.split()
)
_OPTIONS = (
    *("-f", "-qq", "-y", "-xx", "-s", str(STRING_LIMIT), "-e", "signal=none", "-e", "trace=" + _TRACED),
    *("-e", "raw=?read,?readv"),  # only how far the position moved counts
)

MARK = b"/dev/null/pytest-flowcheck/"
"""Below a path that can't be a folder: no file system has a file of such a name."""

ATTACH = "PYTEST_FLOWCHECK_ATTACH"
"""In the environment of a child that shall be traced from its mark "begin" on only: where it says that it is there."""


class TraceError(RuntimeError):
    """strace could not do it; the text says what it said, or that the child outlived patience."""


@dataclass(frozen=True, slots=True)
class Call:
    """One system call."""

    pid: int
    """The thread's id in the kernel."""
    name: str
    arguments: str
    """As strace prints them with `-xx -y`: strings in hexadecimal, descriptors with their paths."""
    result: int | None
    """What it returned; -1 for an error; None if it never did: its process was killed in it."""
    error: str | None
    """`ENOENT`, ...; None if it succeeded."""
    injected: bool
    """Whether strace refused it in the kernel's place."""

    @property
    def failed(self) -> bool:
        """Whether it changed nothing, as it returned an error or never returned."""
        return self.result is None or self.error is not None

    @property
    def args(self) -> list[str]:
        """The arguments one by one."""
        return split(self.arguments)

    @property
    def cut(self) -> bool:
        """Whether strace left out the end of a string: it was longer than `STRING_LIMIT`."""
        return '"...' in self.arguments

    @property
    def paths(self) -> list[bytes]:
        """The paths among the arguments, and those of descriptors."""
        found = [_unhex(path) for path in _DESCRIPTOR_PATH.findall(self.arguments)]
        return found + (strings(self.arguments) if self.name in _TAKES_PATHS else [])

    @property
    def readable(self) -> str:
        """The call for a human; strings of more than 60 bytes are cut."""

        def plain(found: re.Match[str]) -> str:
            data = _unhex(found[1])
            return repr(data[:60].decode(errors="backslashreplace")) + ("..." if len(data) > 60 else "")

        return f"{self.name}({_STRING.sub(plain, _DESCRIPTOR_PATH.sub('', self.arguments))})"


@dataclass(frozen=True)
class Trace:
    """What a run did."""

    calls: list[Call]
    unread: list[str]
    """Lines of strace's that could not be understood."""
    status: int
    """Exit status; negative: the signal that killed the child."""
    output: str
    """What it wrote to stdout and stderr, the last 4 000 characters."""


# ---------------------------------------------------------------------------------------------------- reading

_LINE = re.compile(r"(\d+)\s+(.*)", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>\s?(.*)", re.DOTALL)
_UNFINISHED = re.compile(r"(\w+)\((.*?)\s*<unfinished \.\.\.>\s*(?:= \?)?\s*$", re.DOTALL)
_COMPLETE = re.compile(
    r"(\w+)\((.*)\)\s+= (0x[0-9a-f]+|-?\d+|\?)(?:<[^ ]*>(?:\(deleted\))?)?(?: (E[A-Z0-9]+))?(.*)$", re.DOTALL
)
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR_PATH = re.compile(r"<((?:\\x[0-9a-f]{2})+)>")
_TAKES_PATHS = frozenset((_PATHS + " " + _FOLDERS).split())
_FD = re.compile(r"(?:0x([0-9a-f]+)|(-?\d+)|AT_FDCWD)(?:<([^>]*)>(\(deleted\))?)?")


def parse(lines: Iterator[str] | Sequence[str]) -> tuple[list[Call], list[str]]:
    """The calls in the order in which they completed, and the lines that could not be understood.

    Calls that were interrupted by other threads' lines are joined. One whose process ended in it comes last of that
    thread, without a result.
    """
    calls: list[Call] = []
    unread: list[str] = []
    open_calls: dict[int, tuple[str, str]] = {}
    known: set[int] = set()
    for raw in lines:
        line = raw.rstrip("\n")
        found = _LINE.match(line)
        if found is None:
            if line.strip():
                unread.append(line[:200])
            continue
        pid, rest = int(found[1]), found[2]
        first = pid not in known
        known.add(pid)
        if rest.startswith(("+++", "---")):
            if rest.startswith("+++") and "superseded" not in rest and pid in open_calls:
                calls.append(Call(pid, *open_calls.pop(pid), None, None, False))
            continue
        resumed = _RESUMED.match(rest)
        if resumed is not None:
            if pid not in open_calls:
                if not first:  # else it began before strace attached
                    unread.append(line[:200])
                continue
            name, begun = open_calls.pop(pid)
            rest = f"{name}({begun}{resumed[2]}"
        elif "<unfinished ...>" in rest:
            begun_call = _UNFINISHED.match(rest)
            if begun_call is None:
                unread.append(line[:200])
            elif rest.rstrip().endswith("= ?"):
                calls.append(Call(pid, begun_call[1], begun_call[2], None, None, False))
            else:
                open_calls[pid] = (begun_call[1], begun_call[2])
            continue
        complete = _COMPLETE.match(rest)
        if complete is None:
            unread.append(line[:200])
            continue
        name, arguments, result, error, tail = complete.groups()
        number = None if result == "?" else _number(result)
        if number is None and error is None and "ERESTART" in tail:
            error = "ERESTART"
        calls.append(Call(pid, name, arguments, number, error, "INJECTED" in tail))
    calls += [Call(pid, *begun, None, None, False) for pid, begun in open_calls.items()]
    return calls, unread


def _number(text: str) -> int:
    """umask(2) is the one whose result is shown in octal."""
    return int(text, 8 if text.startswith("0") and text.isdigit() else 0)


def split(arguments: str) -> list[str]:
    """At the commas outside of brackets. Strings hold none: they are in hexadecimal."""
    parts: list[str] = []
    depth = start = 0
    for index, character in enumerate(arguments):
        if character in "[{(":
            depth += 1
        elif character in "]})":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(arguments[start:index].strip())
            start = index + 1
    last = arguments[start:].strip()
    return [*parts, last] if last or parts else []


def string(argument: str) -> bytes | None:
    """The bytes of a quoted argument; None for a NULL or an address."""
    found = _STRING.match(argument)
    return None if found is None else _unhex(found[1])


def strings(argument: str) -> list[bytes]:
    """All quoted parts of an argument, as in a list of buffers."""
    return [_unhex(found) for found in _STRING.findall(argument)]


def descriptor(argument: str) -> tuple[int | None, bytes | None]:
    """The number (None for AT_FDCWD) and the path that the kernel knows it by; for a deleted file its last one."""
    found = _FD.match(argument)
    if found is None:
        return None, None
    number = int(found[1], 16) if found[1] else int(found[2]) if found[2] else None
    return number, None if found[3] is None else _unhex(found[3])


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", "")) if text.startswith("\\x") else text.encode()


def mark_of(call: Call) -> str | None:
    """The name, if this call is a mark."""
    if call.name not in ("access", "faccessat", "faccessat2"):
        return None
    for path in strings(call.arguments):
        if path.startswith(MARK):
            return path[len(MARK) :].decode(errors="replace")
    return None


# ---------------------------------------------------------------------------------------------------- running


def _strace() -> str:
    return shutil.which("strace") or "strace"


@functools.cache
def missing() -> str | None:
    """None where strace works, else one line that says what is missing and what to install or permit. Tried once."""
    if not LINUX:
        return "system calls are traced on Linux only"
    if shutil.which("strace") is None:
        return "strace is not on the PATH: install it (the package `strace` of apt, dnf, apk, pacman)"
    try:
        done = subprocess.run(
            [_strace(), "-f", "-qq", "-o", "/dev/null", "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"strace does not run: {error}"
    said = (done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"])[0]
    if done.returncode:
        return (
            f"strace may not trace here ({said}): in a container permit it by --cap-add=SYS_PTRACE, or by a seccomp "
            "profile that allows ptrace; elsewhere see /proc/sys/kernel/yama/ptrace_scope"
        )
    return None


@functools.cache
def _fast() -> tuple[str, ...]:
    """The option by which only traced calls stop the child (from strace 5.3 on), if there is one."""
    done = subprocess.run(
        [_strace(), "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "true"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return () if done.returncode else ("--seccomp-bpf",)


@contextmanager
def guarded(pid: int, patience: float) -> Generator[threading.Event]:
    """Kill a process and all below it when patience (seconds) has run out; the event says whether it has."""
    expired = threading.Event()

    def end() -> None:
        expired.set()
        kill_tree([*descendants(pid), pid])

    guard = threading.Timer(patience, end)
    guard.daemon = True
    guard.start()
    try:
        yield expired
    finally:
        guard.cancel()


@contextmanager
def _guarded(process: subprocess.Popen[bytes], patience: float) -> Generator[threading.Event]:
    """The same, and in any case at the end."""
    with guarded(process.pid, patience) as expired:
        try:
            yield expired
        finally:
            if process.poll() is None:
                kill_tree([*descendants(process.pid), process.pid])
            process.wait()


def _said(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read().decode(errors="replace")[-4000:]


def _feed(process: subprocess.Popen[bytes], stdin: bytes) -> None:
    """All of it, then end of file. A child that doesn't read it is its own affair."""
    assert process.stdin is not None
    try:
        with process.stdin as pipe:
            pipe.write(stdin)
    except BrokenPipeError:
        return


def trace(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: str | os.PathLike[str] | None = None,
    patience: float = 60.0,
) -> Trace:
    """Run a command below strace, from its first system call on.

    Args:
        argv: the command.
        env: its environment; default: this process's.
        stdin: what it reads from its standard input.
        cwd: its working directory.
        patience: seconds after which it is killed, with all that it started.

    Raises:
        TraceError: strace doesn't work here, or the command outlived `patience`.
    """
    why = missing()
    if why is not None:
        raise TraceError(why)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        log = Path(folder, "log")
        process = _start([_strace(), *_fast(), *_OPTIONS, "-o", str(log), "--", *argv], env, cwd, output)
        with _guarded(process, patience) as expired:
            _feed(process, stdin)
            status = process.wait()
        if expired.is_set():
            raise TraceError(_outlived(patience, output))
        if not log.exists():
            raise TraceError(f"strace left no log; it printed: {_said(output)!r}")
        return Trace(*read_log(log), status, _said(output))


def _outlived(patience: float, output: IO[bytes]) -> str:
    return f"the traced child did not end in {patience:g} s and was killed; it printed: {_said(output)!r}"


def read_log(log: Path) -> tuple[list[Call], list[str]]:
    """What strace wrote, as by `parse`."""
    with log.open(encoding="ascii", errors="backslashreplace") as lines:
        return parse(lines)


def _start(
    argv: Sequence[str], env: Mapping[str, str] | None, cwd: str | os.PathLike[str] | None, output: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=output, stderr=output, env=env, cwd=cwd)


# ---------------------------------------------------------------------------------------------------- attaching

_SET_PTRACER = 0x59616D61


def await_tracer() -> None:
    """In the child: wait until the tracer is there, if one was announced in the environment; once."""
    place = os.environ.pop(ATTACH, None)
    if place is None:
        return
    import ctypes

    # where only ancestors may trace (Yama's ptrace_scope 1) the child permits it itself
    ctypes.CDLL(None).prctl(_SET_PTRACER, ctypes.c_ulong(-1 & (2 ** (8 * ctypes.sizeof(ctypes.c_ulong)) - 1)), 0, 0, 0)
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(place)
        line.recv(1)


def trace_from_begin(
    argv: Sequence[str],
    tampering: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    cwd: str | os.PathLike[str] | None = None,
    patience: float = 60.0,
) -> Trace:
    """Run a command that traces nothing until its mark "begin"; there strace attaches to it and all that it started.

    strace counts the calls of each thread from the moment at which it attaches. So `when=2` means the second one of the
    operation, whatever the interpreter did to start.

    Args:
        argv, env, stdin, cwd, patience: as for `trace`.
        tampering: what goes behind `-e inject=`.

    Raises:
        TraceError: strace doesn't work or may not attach here, the command ended before "begin", or it outlived `patience`.
    """
    why = missing()
    if why is not None:
        raise TraceError(why)
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryFile() as output,
        socket.socket(socket.AF_UNIX) as server,
    ):
        place, log = str(Path(folder, "s")), Path(folder, "log")
        server.bind(place)
        server.listen(1)
        process = _start(argv, {**(os.environ if env is None else env), ATTACH: place}, cwd, output)
        with _guarded(process, patience) as expired:
            _feed(process, stdin)
            if not connects(server, process.pid):
                why = "did not come to" if expired.is_set() else "ended before"
                raise TraceError(f"the child {why} its mark 'begin'; it printed: {_said(output)!r}")
            line = server.accept()[0]
            status = follow([process.pid, *descendants(process.pid)], line, log, tampering, patience, process.wait)
        if expired.is_set():
            raise TraceError(_outlived(patience, output))
        return Trace(*read_log(log), status, _said(output))


def follow(
    family: Sequence[int],
    line: socket.socket,
    log: Path,
    tampering: Sequence[str],
    patience: float,
    wait: Callable[[], int],
) -> int:
    """Attach strace to processes that wait in `await_tracer`, let them go, and give what `wait` gives.

    Args:
        family: all of them.
        line: the connection of the one that waits; it is closed.
        log: where strace writes.
        tampering: what goes behind `-e inject=`.
        patience: seconds after which strace is killed, and with it the family.
        wait: blocks until the family has ended.

    Raises:
        TraceError: strace may not attach.
    """
    options = [part for one in tampering for part in ("-e", f"inject={one}")]
    options += [part for pid in family for part in ("-p", str(pid))]
    tracer = subprocess.Popen(
        [_strace(), *(option for option in _OPTIONS if option != "-qq"), "-o", str(log), *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with line, tracer, _guarded(tracer, patience):
        assert tracer.stderr is not None
        said = [text for pid in family for text in _until_attached(tracer.stderr, pid)]
        line.send(b"g")
        status = wait()
        tracer.communicate()
    refused = [text for text in said if "ptrace(" in text]
    if refused:
        raise TraceError(f"strace may not attach to a running process here: {refused[0]}")
    return status


def connects(server: socket.socket, pid: int, line: socket.socket | None = None, patience: float | None = None) -> bool:
    """Whether somebody connects before the process ends, before `line` says something, and within `patience` seconds."""
    ended = os.pidfd_open(pid)
    try:
        poll = select.poll()
        for number in (server.fileno(), ended, *([] if line is None else [line.fileno()])):
            poll.register(number, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(None if patience is None else patience * 1000)}
        return server.fileno() in ready
    finally:
        os.close(ended)


def _until_attached(stderr: IO[bytes], pid: int) -> list[str]:
    """What strace says until it has attached to `pid`, or has said why it can't."""
    said: list[str] = []
    for raw in stderr:
        said.append(raw.decode(errors="replace").strip())
        if f"Process {pid} attached" in said[-1] or ("ptrace(" in said[-1] and f"{pid})" in said[-1]):
            break
    return said
