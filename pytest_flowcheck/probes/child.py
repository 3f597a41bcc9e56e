"""Scenarios that need an interpreter of their own: exit without shutdown, an interrupt, a fork.

A scenario is a module-level function `scenario(subject, *args)`; it runs on the main thread of a fresh interpreter and
speaks only through the probes among its arguments, which report to, and wait at, the rule's own gates.

To start an interpreter and to import the subject takes most of such a rule's time. So where a rule needs not be thorough,
the interpreter is a fork of one that has done so already (`kept`); it begins and ends like any other.
"""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, Self

from pytest_flowcheck.probes.kept import kept
from pytest_flowcheck.proof import descendants, kill_tree

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.subjects import Subject

_MODULE: Final = "pytest_flowcheck.probes.child"
_FORKS: Final = "--forks"


class _Process(Protocol):
    @property
    def pid(self) -> int: ...

    def wait(self) -> int: ...


class Child:
    """A running scenario."""

    def __init__(self, lab: Lab, process: _Process, output: IO[bytes]) -> None:
        self.pid = process.pid
        self._process, self._output = process, output
        self.exit: Call[int] = lab.call("the process", process.wait)

    @property
    def exited(self) -> bool:
        """Whether it has ended."""
        return self.exit.done

    @property
    def status(self) -> int:
        """Its exit status; negative: the signal that killed it. Only once it has ended."""
        return self.exit.result()

    def output(self) -> str:
        """What it wrote to stdout and stderr so far, the last 2 000 characters."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-2000:]


@contextmanager
def child(lab: Lab, scenario: Callable[..., None], *args: Any) -> Generator[Child]:
    """Run `scenario(subject, *args)` in a fresh interpreter. Leaving kills it and all that it started."""
    message = pickle.dumps((scenario.__module__, scenario.__name__)) + pickle.dumps(args)
    with tempfile.TemporaryFile() as output:
        read, write = os.pipe()
        with os.fdopen(write, "wb") as pipe, os.fdopen(read, "rb") as source:
            process: _Process
            if lab.thorough or not hasattr(os, "fork"):
                message = _header(lab.subject) + message
                process = subprocess.Popen(
                    [sys.executable, "-m", _MODULE], stdin=source, stdout=output, stderr=output, env=_environment()
                )
            else:
                process = kept("interpreters", lambda: _Nest(lab.subject)).fork(source, output)
            source.close()
            try:
                with suppress(BrokenPipeError):  # it has died already, as its status and its output tell
                    pipe.write(message)
                    pipe.close()
                yield Child(lab, process, output)
            finally:
                lab.open_all()
                kill_tree([*descendants(process.pid), process.pid])
                process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path)}


def _header(subject: Subject) -> bytes:
    """A pickle for itself: `sys.path` must be set before the probes and their tasks can be imported."""
    return pickle.dumps((sys.path, subject.spec, dict(subject.claims)))


class _Nest:
    """The process that forks interpreters which have imported the subject. One at a time."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def __enter__(self) -> Self:
        self._control, there = socket.socketpair()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, _FORKS],
                stdin=there.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )
        self.pid = self._process.pid
        self._control.sendall(_header(self._subject))
        if self._control.recv(1) != b"r":
            self.__exit__()
            raise RuntimeError(f"{self._subject.spec} could not be loaded in another process")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._control.close()
        kill_tree([*descendants(self.pid), self.pid])
        self._process.wait()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fork(self, source: IO[bytes], output: IO[bytes]) -> _Forked:
        """An interpreter with these as its standard input and output."""
        socket.send_fds(self._control, [b"f"], [source.fileno(), output.fileno()])
        return _Forked(_number(self._control), self._control)


class _Forked:
    """What `subprocess.Popen` is for a child of our own."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid, self._control = pid, control
        self._status: int | None = None
        self._asking = threading.Lock()

    def wait(self) -> int:
        """Its exit status; negative: the signal that killed it."""
        with self._asking:
            if self._status is None:
                self._status = _number(self._control)
            return self._status


def _number(control: socket.socket) -> int:
    return int.from_bytes(control.recv(8, socket.MSG_WAITALL), "little", signed=True)


def main() -> None:
    """The child's side: read what to run from stdin, run it, end like any program."""
    subject = _until_forked() if _FORKS in sys.argv else _load(sys.stdin.buffer)
    module, name = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by our own parent
    import importlib

    args = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by our own parent
    getattr(importlib.import_module(module), name)(subject, *args)


def _load(source: IO[bytes]) -> Subject:
    path, spec, claims = pickle.load(source)  # noqa: S301 - written by our own parent
    sys.path[:] = path
    from pytest_flowcheck import subjects

    return subjects.with_claims(subjects.load(spec), _claims(claims))


def _until_forked() -> Subject:
    """Fork whenever the control socket, which is standard input, asks for it; returns in the forks."""
    control = socket.socket(fileno=os.dup(0))
    with control.makefile("rb") as source:  # nothing comes behind the header until we say that we are ready
        subject = _load(source)
    control.sendall(b"r")
    while True:
        message, descriptors, _flags, _address = socket.recv_fds(control, 1, 2)
        if not message:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            control.close()
            for target, descriptor in zip((0, 1, 2), (*descriptors, descriptors[1]), strict=True):
                os.dup2(descriptor, target)
            for descriptor in descriptors:
                os.close(descriptor)
            return subject
        for descriptor in descriptors:
            os.close(descriptor)
        control.sendall(pid.to_bytes(8, "little", signed=True))
        _, status = os.waitpid(pid, 0)
        control.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "little", signed=True))


def _claims(claims: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    return {facet: frozenset(capabilities) for facet, capabilities in claims.items()}


if __name__ == "__main__":
    # not as __main__: worker processes that a scenario starts by spawn import the main module again
    from pytest_flowcheck.probes import child as _child  # noqa: PLW0406

    _child.main()
