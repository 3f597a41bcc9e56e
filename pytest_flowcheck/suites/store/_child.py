"""What the rules ask of a store in other processes; and the same requests, one after the other, as a program that is traced."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import signal
import socket
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import Any, ClassVar, Final

from pytest_flowcheck.probes.holding import Step
from pytest_flowcheck.probes.nursery import Answer, Server, forked, request_in, server_in

ANSWER: Final = "answers:"
"""How marks begin that carry what a script was answered, in base64."""

MARK: Final = 160
"""How many of its characters one mark carries."""

Ask = tuple[Any, ...]
"""A method of the store, and its arguments: `("save", "run", {})`."""


class StoreServer(Server):
    """Holds handles."""

    facet: ClassVar[str] = "store"

    def call(self, handle: str, method: str, *args: Any) -> Answer:
        """One call."""
        return self._ask(handle, method, lambda store: getattr(store, method)(*args))

    def each(self, handle: str, asks: Sequence[Ask]) -> list[Answer]:
        """Several calls, one after the other."""
        return [self.call(handle, *ask) for ask in asks]

    def visit(self, folder: str, asks: Sequence[Ask]) -> list[Answer]:
        """A fresh handle on this folder, these calls, and the handle is left again."""
        opened = self.open("visit", folder)
        if not opened.returned:
            return [replace(opened, error=f"{opened.error} (when the store was opened)")] * len(asks)
        answers = self.each("visit", asks)
        closed = self.close("visit")
        return answers if closed.returned else [*answers[:-1], closed]

    def visits(self, folders: Sequence[str], asks: Sequence[Ask]) -> list[list[Answer]]:
        """The same in each of these folders."""
        return [self.visit(folder, asks) for folder in folders]

    def limit(self, size: int | None, deadly: bool = False) -> None:
        """No file may grow beyond so many bytes: writing fails with EFBIG or, if `deadly`, the kernel kills this process."""
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if deadly else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))

    def collect(self) -> None:
        """Collect garbage: a connection that an error still held is closed, and its files are removed."""
        gc.collect()

    def mark(self, name: str) -> None:
        """A mark in the trace."""
        from pytest_flowcheck.proof import crash

        crash.mark(name)

    def fork_within(self, handle: str, folder: str, step: int, before: Sequence[Ask], after: Sequence[Ask]) -> Any:
        """Fork while another thread is in the middle of `before`, at a step (see `Step`); the forked process does `after`
        once that thread is through.

        Returns:
            None if the save has fewer steps; else the step's name, what `before` came to, and in the forked process
            what `after` came to with the inherited handle and with a fresh one.
        """
        name = self.hold(folder, step, "each", handle, before)
        if name is None:
            self.go()
            return None
        here, there = socket.socketpair()
        pid = forked()
        if pid == 0:
            here.close()
            Step.forget()
            there.recv(1)  # the other save is over: what is refused from here on has no reason to be
            _answer_and_end(there, lambda: self._after_fork(handle, folder, after))
        there.close()
        mine = self.go()
        with here:
            with suppress(BrokenPipeError):  # it has ended already, and tells nothing
                here.sendall(b"g")
            theirs = _read_all(here)
        os.waitpid(pid, 0)
        return name, mine, pickle.loads(theirs) if theirs else None  # noqa: S301 - our own child wrote it

    def _after_fork(self, handle: str, folder: str, asks: Sequence[Ask]) -> tuple[list[Answer], list[Answer]]:
        inherited = self.handles[handle][2] is None  # a loop's thread is not
        return (self.each(handle, asks) if inherited else []), self.visit(folder, asks)


def _answer_and_end(line: socket.socket, work: Callable[[], Any]) -> None:
    """In a forked process: tell what `work` gives, and end without anything that the parent would also do at its end."""
    with suppress(BaseException):
        line.sendall(pickle.dumps(work()))
    os._exit(0)


def _read_all(line: socket.socket) -> bytes:
    return b"".join(iter(lambda: line.recv(65536), b""))


def traced() -> None:
    """The child of a `ForkServer`: each run is a script of requests. Arguments: the header, and then the requests.

    The answers to all are told by marks at the end: no write for them is part of the trace, or fails by a fault.
    """
    from pytest_flowcheck.proof import crash, forkserver

    kind, subject = server_in(BytesIO(b64decode(sys.argv[1])))

    def run(arguments: list[str]) -> None:
        source, server, given = BytesIO(b64decode(arguments[0])), kind(subject), list[Any]()
        while (request := request_in(source)) is not None:
            method, *args = request
            given.append(getattr(server, method)(*args))
        answers = b64encode(pickle.dumps(given)).decode()
        for start in range(0, len(answers), MARK):
            crash.mark(ANSWER + answers[start : start + MARK])
        crash.mark(ANSWER + ".")

    forkserver.serve(run)


if __name__ == "__main__":
    # not as __main__: what is pickled here must be importable at home
    from pytest_flowcheck.suites.store import _child  # noqa: PLW0406

    _child.traced()
