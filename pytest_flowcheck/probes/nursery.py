"""Other processes that hold instances of the subject, and do as they are told.

    the rule -- control socket --> nursery: has imported the subject, opens nothing, has no thread
                                     | fork, for each worker (some milliseconds)
    the rule -- a socket each ---> worker: opens instances, calls them, can be killed

What a worker can be asked for is the public methods of a `Server`; a suite has its own subclass. Everything is pickled: JSON
can't carry surrogates or NaN. Errors travel as `Answer`s that know what kinds of error they are to the subject.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final, Generic, Self, TypeVar, cast

from pytest_flowcheck.errors import AdapterError, NotTestable, Violated
from pytest_flowcheck.probes.blame import slip
from pytest_flowcheck.probes.calls import absence, own_word
from pytest_flowcheck.probes.holding import Step
from pytest_flowcheck.probes.kept import kept
from pytest_flowcheck.probes.needs import PROCESSES, need
from pytest_flowcheck.proof import descendants, kill_tree
from pytest_flowcheck.protocols import Closed, Corrupt, Inexpressible, Invalid, NotFound, Refused, Unsupported, is_a

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.subjects import Subject

_MODULE: Final = "pytest_flowcheck.probes.nursery"

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
    AdapterError,
)
"""What a rule may ask of an error."""


# --- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What a call of an instance came to: a value, or an error as told."""

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
    text = _told_error(error)
    return Answer(
        error=f"{type(error).__name__}: {text}" if text else type(error).__name__,
        kinds=frozenset(kind.__name__ for kind in KINDS if is_a(error, kind, subject.errors)),
        text=str(error).encode("utf-8", "backslashreplace").decode(),
    )


def _told_error(error: BaseException) -> str:
    """The text of an error on one line."""
    return " ".join(str(error).encode("utf-8", "backslashreplace").decode().split())[:300]


def expressible(answer: Any) -> None:
    """Look through what a worker answered, lists of answers included.

    Raises:
        NotTestable: the subject's terms can't express what it was asked for.
        Violated: it does not offer it.
        AdapterError: the adapter broke its side of the protocol there.
    """
    for one in _answers(answer):
        if one.is_a(AdapterError):
            raise AdapterError(one.text)
        if one.is_a(Inexpressible):
            raise NotTestable(f"the subject can't express it: {one.text}")
        if one.is_a(Unsupported):
            raise Violated(
                f"the subject does not offer it: {one.text}",
                expected="what the rule asks for is offered, or its capability is not claimed",
                proof="the adapter says so",
            )


def _answers(answer: Any) -> Iterable[Answer]:
    if isinstance(answer, Answer):
        yield answer
    elif isinstance(answer, list):
        for part in _parts(answer):
            yield from _answers(part)


def _parts(answer: Any) -> list[Any]:
    parts: list[Any] = answer
    return parts


# --- what a rule has ----------------------------------------------------------------------------------------------------


@contextmanager
def folder() -> Generator[Path]:
    """An empty folder, on a memory file system where there is one: a rule saves thousands of times. Removed at the end."""
    memory = "/dev/shm"  # noqa: S108 - a folder of our own is made there
    where = memory if os.path.ismount(memory) and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="flowcheck-store-", dir=where, ignore_cleanup_errors=True) as path:
        yield Path(path)


class Lost(Violated):
    """A worker ended before it answered."""

    def __init__(self, facts: str) -> None:
        super().__init__(facts, expected="the process goes on", proof="it ended, and nobody had killed it")


class Worker:
    """Another process with instances of its own. One request at a time; a worker without instances is cheap."""

    def __init__(self, lab: Lab, pid: int, line: socket.socket, output: IO[bytes]) -> None:
        self.lab, self.pid, self._line, self._output = lab, pid, line, output
        self._stream = line.makefile("rwb")
        self._pidfd = os.pidfd_open(pid)

    def request(self, method: str, *args: Any) -> Any:
        """Make a request and wait for its answer, untimed.

        Raises:
            Lost: the process ended instead.
            NotTestable, Violated: see `expressible`.
        """
        try:
            self._stream.write(pickle.dumps((method, *args)))
            self._stream.flush()
            answer = pickle.load(self._stream)  # noqa: S301 - our own process wrote it
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._output.seek(0)
            said = self._output.read().decode(errors="replace")[-600:]
            raise Lost(f"process {self.pid} ended while it was asked to {method}: {said}") from None
        self.lab.probes_ran += 1
        expressible(answer)
        return answer

    def begin(self, what: str, method: str, *args: Any) -> Call[Any]:
        """The same, beside what the rule does meanwhile."""
        return self.lab.call(f"{what} (process {self.pid})", lambda: self.request(method, *args))

    def open(self, path: Path, name: str = "it") -> Answer:
        """Open an instance of this name."""
        return cast("Answer", self.request("open", name, str(path)))

    def kill(self) -> None:
        """SIGKILL, and wait for its end: its locks are gone then."""
        with suppress(ProcessLookupError):  # it has ended by itself
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self.ended()

    def ended(self) -> None:
        """Wait for its end, untimed."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        poll.poll()

    def leave(self) -> None:
        """Hang up; the process ends by itself."""
        self._stream.close()
        self._line.close()
        os.close(self._pidfd)


W = TypeVar("W", bound=Worker)


class Nursery(Generic[W]):
    """Where workers come from: a process that has imported the subject and forks. Each rule has its own workers."""

    def __init__(self, lab: Lab, home: _Home, stack: ExitStack, worker: type[W]) -> None:
        self.lab, self._home, self._stack, self._worker = lab, home, stack, worker

    def worker(self) -> W:
        """A new process."""
        here, pid = self._home.fork()
        worker = self._worker(self.lab, pid, here, self._home.output)
        self._stack.callback(worker.leave)
        return worker


@contextmanager
def nursery(lab: Lab, server: type[Server], worker: type[W]) -> Generator[Nursery[W]]:
    """Other processes. Leaving kills them all.

    Args:
        lab: the rule's bench.
        server: what they can be asked for; importable by its name.
        worker: by what they are asked.

    Raises:
        NotTestable: nothing of the kind is possible here.
    """
    need(PROCESSES)
    home = kept(f"nursery of {server.__name__}", lambda: _Home(lab.subject, server))
    with ExitStack() as stack:
        stack.callback(home.end_workers)
        yield Nursery(lab, home, stack, worker)


class _Home:
    """The process that forks workers; its side is `main`."""

    def __init__(self, subject: Subject, server: type[Server]) -> None:
        self._subject, self._server = subject, server

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._control, there = map(stack.enter_context, socket.socketpair())
            self.output = stack.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                stdin=there.fileno(),
                stdout=self.output,
                stderr=self.output,
                env=environment(),
            )
            self.pid = self._process.pid
            stack.callback(self._process.wait)
            stack.callback(kill_tree, [self.pid])
            there.close()
            self._control.sendall(header(self._subject, self._server))
            if self._control.recv(1) != b"r":
                raise Lost(f"the subject could not be loaded: {self._said()}")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end_workers()
        self._stack.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def fork(self) -> tuple[socket.socket, int]:
        """A socket that leads to a new worker, and its pid."""
        here, there = socket.socketpair()
        try:
            with there:
                socket.send_fds(self._control, [b"f"], [there.fileno()])
            pid = int.from_bytes(self._control.recv(8), "little")
        except OSError:
            pid = 0
        if not pid:
            here.close()
            raise Lost(f"no worker could be forked: {self._said()}")
        return here, pid

    def end_workers(self) -> None:
        """Kill them, and all that they started."""
        kill_tree(descendants(self.pid))

    def _said(self) -> str:
        self.output.seek(0)
        return self.output.read().decode(errors="replace")[-600:]


def environment() -> dict[str, str]:
    """For a Python that imports what this one can."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p or "." for p in sys.path), "PYTHONDONTWRITEBYTECODE": "1"}


# --- what a worker does -------------------------------------------------------------------------------------------------


class Server:
    """What a worker can be asked for: each public method is a request. Instances are known by names that the rule gives."""

    facet: ClassVar[str]
    """Whose instances they are."""
    options: ClassVar[Mapping[str, Any]] = {}
    """What its opener takes beside the folder."""
    statements: ClassVar[bool] = False
    """Whether `hold` does so before statements of `sqlite3`, too."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.handles: dict[str, tuple[ExitStack, Any, Instance | None]] = {}
        """What closes it, the instance, and the loop that it is on."""
        self._held: tuple[Step, threading.Thread, list[Any]]

    def open(self, handle: str, folder: str) -> Answer:
        """A fresh instance on this folder."""
        stack = ExitStack()
        try:
            opened = self.subject.open(self.facet, folder=Path(folder), **self.options)
            if hasattr(opened, "__enter__"):
                self.handles[handle] = stack, stack.enter_context(opened), None
            else:
                it = stack.enter_context(self._on_a_loop(opened))
                self.handles[handle] = stack, it.raw, it
        except Exception as error:  # noqa: BLE001 - what a subject raises is the rule's to judge
            return failure(slip(error, self.subject) or error, self.subject)
        return Answer()

    def _on_a_loop(self, opened: Any) -> AbstractContextManager[Instance]:
        from pytest_flowcheck.probes import instance
        from pytest_flowcheck.probes.lab import Lab

        return instance.opened(Lab(self.subject, facet=self.facet), opened, self.subject.spec, self.subject.backend)

    def close(self, handle: str) -> Answer:
        """Leave the instance; one that could not be opened is none."""
        stack, *_ = self.handles.pop(handle, (ExitStack(), None, None))
        try:
            stack.close()
        except Exception as error:  # noqa: BLE001 - what a subject raises is the rule's to judge
            return failure(error, self.subject)
        return Answer()

    def hold(self, folder: str, step: int, method: str, *args: Any) -> str | None:
        """Begin a request on a thread of its own, and hold it at a step (see `Step`) until `go`.

        Returns:
            The step's name; None if there are fewer, and all is done.
        """
        held, answers = Step(folder, step, statements=self.statements), list[Any]()
        thread = threading.Thread(target=lambda: answers.append(getattr(self, method)(*args)), daemon=True)
        self._held = held, thread, answers
        held.begin()
        thread.start()
        threading.Thread(target=_when_over, args=(thread, held.reached), daemon=True).start()
        held.reached.wait()
        return held.name or None

    def go(self) -> Any:
        """Let go what is held, and wait for what that request is answered."""
        held, thread, answers = self._held
        held.end()
        thread.join()
        (answer,) = answers
        return answer

    def _ask(self, handle: str, what: str, how: Callable[[Any], Any]) -> Answer:
        """Call an instance in any way; `what` names it."""
        if handle not in self.handles:
            return Answer(error="the handle could not be opened")
        _, it, loop = self.handles[handle]
        try:
            if loop is None:
                # on this very thread: injected faults are counted for each thread
                return Answer(how(it))
            return Answer(loop.start(what, how).result())
        except Exception as error:  # noqa: BLE001 - what a subject raises is the rule's to judge
            fault = absence(error, it, self.facet, how) or slip(error, self.subject)
            return failure(fault or own_word(error), self.subject)


def _when_over(thread: threading.Thread, event: threading.Event) -> None:
    thread.join()
    event.set()


def forked() -> int:
    """As `os.fork`, from a process that may have threads."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of exactly what the rules are about
        return os.fork()


# --- programs -----------------------------------------------------------------------------------------------------------


def header(subject: Subject, server: type[Server]) -> bytes:
    """What `server_in` reads."""
    claims = {facet: frozenset(capabilities) for facet, capabilities in subject.claims.items()}
    return pickle.dumps(sys.path) + pickle.dumps(replace(subject, target=None, claims=claims)) + pickle.dumps(server)


def server_in(source: IO[bytes]) -> tuple[type[Server], Subject]:
    """What is to be served, and of whom. All that this needs is imported here, once; starts no thread.

    Three pickles: the others can only be read once `sys.path` is as at home.
    """
    sys.path[:] = pickle.load(source)  # noqa: S301 - written by our own parent
    from pytest_flowcheck.subjects import again

    subject: Subject = again(pickle.load(source))  # noqa: S301 - written by our own parent
    server: type[Server] = pickle.load(source)  # noqa: S301 - written by our own parent
    if (warm_up := getattr(subject.target, "warm_up", None)) is not None:
        warm_up()
    if "async" in subject.claims[server.facet]:
        import anyio
        import anyio.lowlevel

        from pytest_flowcheck.probes import lab as _  # noqa: F401  # pyright: ignore[reportUnusedImport]

        with suppress(ImportError):
            anyio.run(anyio.lowlevel.checkpoint, backend=subject.backend)
    return server, subject


def request_in(source: IO[bytes]) -> tuple[Any, ...] | None:
    """The next one: a method's name and its arguments; None if there are no more."""
    try:
        request: tuple[Any, ...] = pickle.load(source)  # noqa: S301 - written by our own parent
    except EOFError:
        return None
    return request


def _serve(server: Server, line: IO[bytes]) -> None:
    """Until there are no more requests."""
    while (request := request_in(line)) is not None:
        method, *args = request
        line.write(pickle.dumps(getattr(server, method)(*args)))
        line.flush()


def main() -> None:
    """A byte on the control socket (stdin) with a descriptor: fork a worker that serves it, and tell its pid."""
    control = socket.socket(fileno=os.dup(0))
    with control.makefile("rb") as source:  # nothing comes behind the header until we say that we are ready
        server, subject = server_in(source)
    control.sendall(b"r")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps workers
    while True:
        message, descriptors, _flags, _address = socket.recv_fds(control, 1, 1)
        if not message:
            os._exit(0)
        pid = forked()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            os.close(0)
            os.open(os.devnull, os.O_RDONLY)
            with socket.socket(fileno=descriptors[0]) as line, line.makefile("rwb") as stream:
                with suppress(BrokenPipeError, ConnectionResetError):  # the rule is over
                    _serve(server(subject), stream)  # type: ignore[arg-type]
                os._exit(0)
        os.close(descriptors[0])
        control.sendall(pid.to_bytes(8, "little"))


if __name__ == "__main__":
    # not as __main__: what is pickled here must be importable at home
    from pytest_flowcheck.probes import nursery as _nursery  # noqa: PLW0406

    _nursery.main()
