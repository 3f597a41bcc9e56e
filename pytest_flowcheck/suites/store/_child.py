"""Other processes that hold handles of the subject's store, and do as they are told.

    the rule -- control socket --> nursery: has imported the subject, opens nothing, has no thread
                                     | fork, for each worker (some milliseconds)
    the rule -- a socket each ---> worker: opens handles, calls them, can be killed

The same requests, one after the other, make the program that is traced (`traced`). Everything is pickled: JSON can't
carry surrogates or NaN. Errors travel as `Answer`s that know what kinds of error they are to the subject.
"""

from __future__ import annotations

import gc
import os
import pickle
import resource
import signal
import socket
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final

from pytest_flowcheck.protocols import Closed, Corrupt, Inexpressible, Invalid, NotFound, Refused, Unsupported, is_a

if TYPE_CHECKING:
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.subjects import Subject

KINDS: Final[tuple[type[BaseException], ...]] = (
    Invalid,
    Refused,
    Closed,
    NotFound,
    Corrupt,
    OSError,
    RecursionError,
    Inexpressible,
    Unsupported,
)
"""What a rule may ask of an error."""

ANSWER: Final = "answers:"
"""How marks begin that carry what a script was answered, in base64."""

MARK: Final = 160
"""How many of its characters one mark carries."""

Ask = tuple[Any, ...]
"""A method of the store, and its arguments: `("save", "run", {})`."""


@dataclass(frozen=True)
class Answer:
    """What a call of the store came to: a value, or an error as told."""

    value: Any = None
    error: str = ""
    """`FileNotFoundError: [Errno 2] ...`; empty if it returned."""
    kinds: frozenset[str] = frozenset()
    """Which of `KINDS` the error is, in itself or by the subject's table."""
    text: str = field(default="", repr=False)
    """`str(error)`."""

    @property
    def returned(self) -> bool:
        """It came back with a value."""
        return not self.error

    def is_a(self, *kinds: type[BaseException]) -> bool:
        """Whether it is an error of one of these kinds."""
        return any(kind.__name__ in self.kinds for kind in kinds)

    def __str__(self) -> str:
        return f"raised {self.error}" if self.error else f"returned {told(self.value)}"


def told(value: Any, most: int = 120) -> str:
    """A value in a message: its repr, in the middle of which something may be left out."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    if not text.isascii():
        text = text.encode("utf-8", "backslashreplace").decode()  # surrogates can't be printed
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def failure(error: BaseException, subject: Subject) -> Answer:
    """The answer that this error is."""
    text = told_error(error)
    return Answer(
        error=f"{type(error).__name__}: {text}" if text else type(error).__name__,
        kinds=frozenset(kind.__name__ for kind in KINDS if is_a(error, kind, subject.errors)),
        text=str(error).encode("utf-8", "backslashreplace").decode(),
    )


def told_error(error: BaseException) -> str:
    """The text of an error on one line."""
    return " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())[:300]


class Server:
    """What a worker can be asked for: each public method is a request. Handles are known by names that the rule gives."""

    facet: ClassVar[str] = "store"
    """Whose instances the handles are; another facet's rules have a class of their own."""
    options: ClassVar[Mapping[str, Any]] = {}
    """What its opener takes beside the folder."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.handles: dict[str, tuple[ExitStack, Any, Instance | None]] = {}
        """What closes it, the store, and the loop that it is on."""
        self._held: tuple[_Step, threading.Thread, list[Answer]]

    def open(self, handle: str, folder: str) -> Answer:
        """A fresh handle on this folder."""
        stack = ExitStack()
        try:
            opened = self.subject.open(self.facet, folder=Path(folder), **self.options)
            if hasattr(opened, "__enter__"):
                self.handles[handle] = stack, stack.enter_context(opened), None
            else:
                it = stack.enter_context(self._on_a_loop(opened))
                self.handles[handle] = stack, it.raw, it
        except Exception as error:  # noqa: BLE001 - what a store raises is the rule's to judge
            return failure(error, self.subject)
        return Answer()

    def _on_a_loop(self, opened: Any) -> AbstractContextManager[Instance]:
        from pytest_flowcheck.probes import instance
        from pytest_flowcheck.probes.lab import Lab

        return instance.opened(Lab(self.subject, facet=self.facet), opened, self.subject.spec, self.subject.backend)

    def close(self, handle: str) -> Answer:
        """Leave the handle; one that could not be opened is none."""
        stack, *_ = self.handles.pop(handle, (ExitStack(), None, None))
        try:
            stack.close()
        except Exception as error:  # noqa: BLE001 - what a store raises is the rule's to judge
            return failure(error, self.subject)
        return Answer()

    def call(self, handle: str, method: str, *args: Any) -> Answer:
        """One call."""
        return self.ask(handle, method, lambda store: getattr(store, method)(*args))

    def ask(self, handle: str, what: str, how: Callable[[Any], Any]) -> Answer:
        """The same, asked in any way; `what` names it. No request: a function doesn't travel."""
        if handle not in self.handles:
            return Answer(error="the handle could not be opened")
        _, store, loop = self.handles[handle]
        try:
            if loop is None:
                # on this very thread: injected faults are counted for each thread
                return Answer(how(store))
            return Answer(loop.start(what, how).result())
        except Exception as error:  # noqa: BLE001 - what a store raises is the rule's to judge
            return failure(error, self.subject)

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

    def hold(self, handle: str, folder: str, step: int, asks: Sequence[Ask]) -> str | None:
        """Begin these calls on a thread of their own, and hold it at a step (see `_Step`) until `go`.

        Returns:
            The step's name; None if there are fewer, and all is done.
        """
        held, answers = _Step(folder, step), list[Answer]()
        thread = threading.Thread(target=lambda: answers.extend(self.each(handle, asks)), daemon=True)
        self._held = held, thread, answers
        held.begin()
        thread.start()
        threading.Thread(target=_when_over, args=(thread, held.reached), daemon=True).start()
        held.reached.wait()
        return held.name or None

    def go(self) -> list[Answer]:
        """Let go what is held, and wait for what its calls come to."""
        held, thread, answers = self._held
        held.end()
        thread.join()
        return answers

    def fork_within(self, handle: str, folder: str, step: int, before: Sequence[Ask], after: Sequence[Ask]) -> Any:
        """Fork while another thread is in the middle of `before`, at a step (see `_Step`); the forked process does `after`
        once that thread is through.

        Returns:
            None if the save has fewer steps; else the step's name, what `before` came to, and in the forked process
            what `after` came to with the inherited handle and with a fresh one.
        """
        name = self.hold(handle, folder, step, before)
        if name is None:
            self.go()
            return None
        here, there = socket.socketpair()
        pid = _fork()
        if pid == 0:
            here.close()
            _Step.current = None  # the hook is inherited, the thread is not
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


class _Step:
    """Holds the first thread that comes to the n-th step of whatever works below `folder`: opening, renaming, removing a file.

    Steps are seen by an audit hook (PEP 578), which runs in the thread that does them, in C code's behalf too. A hook
    can't be removed, so there is one for all.
    """

    current: _Step | None = None
    hooked = False

    def __init__(self, folder: str, number: int) -> None:
        self.folder, self.number, self.name = folder, number, ""
        self.reached, self.go = threading.Event(), threading.Event()
        self.count = 0

    def begin(self) -> None:
        """From now on."""
        _Step.current = self
        if not _Step.hooked:
            _Step.hooked = True
            sys.addaudithook(_Step.hook)

    def end(self) -> None:
        """Nothing is held from now on."""
        _Step.current = None
        self.go.set()

    @staticmethod
    def hook(event: str, args: tuple[Any, ...]) -> None:
        """Called at every audited event of this process."""
        step = _Step.current
        if step is None or event not in ("open", "os.rename", "os.remove", "os.link", "fcntl.flock", "fcntl.lockf"):
            return
        paths = [os.fsdecode(arg) for arg in args if isinstance(arg, str | bytes)]
        if not event.startswith("fcntl.") and not any(path.startswith(step.folder) for path in paths):
            return
        step.count += 1
        if step.count == step.number:
            step.name = event
            step.reached.set()
            step.go.wait()


def _when_over(thread: threading.Thread, event: threading.Event) -> None:
    thread.join()
    event.set()


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of exactly what the rule is about
        return os.fork()


def _answer_and_end(line: socket.socket, work: Callable[[], Any]) -> None:
    """In a forked process: tell what `work` gives, and end without anything that the parent would also do at its end."""
    with suppress(BaseException):
        line.sendall(pickle.dumps(work()))
    os._exit(0)


def _read_all(line: socket.socket) -> bytes:
    return b"".join(iter(lambda: line.recv(65536), b""))


# --- programs ---------------------------------------------------------------------------------------------------------


def _subject(source: IO[bytes]) -> Subject:
    """The subject that `header` tells, in two pickles: the second can only be read once `sys.path` is as at home."""
    sys.path[:] = pickle.load(source)  # noqa: S301 - written by our own parent
    from pytest_flowcheck.subjects import again

    told_of: Subject = pickle.load(source)  # noqa: S301 - written by our own parent
    return again(told_of)


def header(subject: Subject, server: type[Server] = Server) -> bytes:
    """What `_subject` reads, and what workers are to serve."""
    claims = {facet: frozenset(capabilities) for facet, capabilities in subject.claims.items()}
    return pickle.dumps(sys.path) + pickle.dumps(replace(subject, target=None, claims=claims)) + pickle.dumps(server)


def traced() -> None:
    """The child of a `ForkServer`: each run is a script of requests. Arguments: the header, and then the requests.

    The answers to all are told by marks at the end: no write for them is part of the trace, or fails by a fault.
    """
    from pytest_flowcheck.proof import crash, forkserver

    subject = _subject(BytesIO(b64decode(sys.argv[2])))
    _import_what_workers_need(subject, Server.facet)

    def run(arguments: list[str]) -> None:
        source, server, given = BytesIO(b64decode(arguments[0])), Server(subject), list[Any]()
        while (request := _next(source)) is not None:
            method, *args = request
            given.append(getattr(server, method)(*args))
        answers = b64encode(pickle.dumps(given)).decode()
        for start in range(0, len(answers), MARK):
            crash.mark(ANSWER + answers[start : start + MARK])
        crash.mark(ANSWER + ".")

    forkserver.serve(run)


def _serve(server: Server, line: IO[bytes]) -> None:
    """Until there are no more requests."""
    while (request := _next(line)) is not None:
        method, *args = request
        line.write(pickle.dumps(getattr(server, method)(*args)))
        line.flush()


def _next(requests: IO[bytes]) -> Ask | None:
    try:
        request: Ask = pickle.load(requests)  # noqa: S301 - written by our own parent
    except EOFError:
        return None
    return request


def nursery() -> None:
    """A byte on the control socket (stdin) with a descriptor: fork a worker that serves it, and tell its pid."""
    control = socket.socket(fileno=os.dup(0))
    with control.makefile("rb") as source:  # nothing comes behind the header until we say that we are ready
        subject = _subject(source)
        kind: type[Server] = pickle.load(source)  # noqa: S301 - written by our own parent
    _import_what_workers_need(subject, kind.facet)
    control.sendall(b"r")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps workers
    while True:
        message, descriptors, _flags, _address = socket.recv_fds(control, 1, 1)
        if not message:
            os._exit(0)
        pid = _fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            os.close(0)
            os.open(os.devnull, os.O_RDONLY)
            with socket.socket(fileno=descriptors[0]) as line, line.makefile("rwb") as stream:
                with suppress(BrokenPipeError, ConnectionResetError):  # the rule is over
                    _serve(kind(subject), stream)  # type: ignore[arg-type]
                os._exit(0)
        os.close(descriptors[0])
        control.sendall(pid.to_bytes(8, "little"))


def _import_what_workers_need(subject: Subject, facet: str) -> None:
    """Here, once, and not in each of them. Starts no thread."""
    if (warm_up := getattr(subject.target, "warm_up", None)) is not None:
        warm_up()
    if "async" in subject.claims[facet]:
        import anyio
        import anyio.lowlevel

        from pytest_flowcheck.probes import lab as _  # noqa: F401  # pyright: ignore[reportUnusedImport]

        with suppress(ImportError):
            anyio.run(anyio.lowlevel.checkpoint, backend=subject.backend)


if __name__ == "__main__":
    # not as __main__: what is pickled here must be importable at home
    from pytest_flowcheck.suites.store import _child  # noqa: PLW0406

    _child.traced() if "--traced" in sys.argv else _child.nursery()
