"""What several rules of this suite share: handles here and in other processes, and values that are equal."""

from __future__ import annotations

import gc
import pickle
import sys
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

from pytest_flowcheck.errors import FlowcheckError, Inconclusive, Judgement
from pytest_flowcheck.probes import nursery as processes
from pytest_flowcheck.probes.calls import ThreadCall, offered
from pytest_flowcheck.probes.kept import kept
from pytest_flowcheck.probes.nursery import Answer, expressible, failure, header, told
from pytest_flowcheck.proof.forkserver import ForkServer
from pytest_flowcheck.protocols import NotFound
from pytest_flowcheck.suites.store._child import ANSWER, Ask, StoreServer

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab

T = TypeVar("T")

RUN: Final = "report-17"
"""An id that every store must take."""

_MODULE: Final = "pytest_flowcheck.suites.store._child"


def state(step: int, size: int = 3) -> dict[str, Any]:
    """An ordinary state, told apart from others by its step, and whole only if all its parts are of that step."""
    return {
        "step": step,
        "done": [f"node {n} of step {step}" for n in range(size)],
        "open": {"next": f"step {step + 1}"},
    }


# --- files ------------------------------------------------------------------------------------------------------------


def files(path: Path) -> dict[Path, bytes]:
    """Every file below the folder, with what is in it; symbolic links to files count as files."""
    return {found: found.read_bytes() for found in sorted(path.rglob("*")) if found.is_file()}


# --- handles ----------------------------------------------------------------------------------------------------------


class Handle:
    """A handle in this process."""

    def __init__(self, lab: Lab, it: Instance) -> None:
        self.lab, self.it = lab, it

    def start(self, method: str, *args: Any) -> Call[Any]:
        """Begin a call."""
        shown = ", ".join(told(arg, 60) for arg in args)
        return self.it.start(f"{method}({shown})", lambda store: getattr(store, method)(*args))

    def ask(self, method: str, *args: Any) -> Answer:
        """Make a call and wait for its end; HUNG if it provably has none."""
        return answered(self.lab, self.start(method, *args))

    def beside(self, method: str, *args: Any) -> Answer:
        """As `ask`, for threads beside the rule's own: that one waits for them, and for it a hang is proven."""
        lab = self.lab
        if self.it.colour == "async":
            call = self.start(method, *args)
            lab.timeline.wait_for(lambda: call.done)
            return answered(lab, call, waiting=False)
        try:
            value = offered(self.it.raw, method, "store")(*args)
        except FlowcheckError:
            raise
        except Exception as error:  # noqa: BLE001 - what a store raises is the rule's to judge
            return failure(error, lab.subject)
        return Answer(value)

    def direct(self, method: str, *args: Any) -> Any:
        """The value of a call, or its own error, for threads that a sweep parks: the kit is not between it and the store."""
        if self.it.colour == "blocking":
            return offered(self.it.raw, method, "store")(*args)
        call = self.start(method, *args)
        self.lab.timeline.wait_for(lambda: call.done)
        if call.error is not None:
            raise call.error
        return call.value

    def must(self, method: str, *args: Any, needs: str = "STO-01") -> Any:
        """The value of a call that the rule needs.

        Raises:
            Inconclusive: it raised; that is for rule `needs` to judge.
        """
        return granted(self.ask(method, *args), f"{method}({', '.join(told(arg, 60) for arg in args)})", needs)


def answered(lab: Lab, call: Call[Any], *, waiting: bool = True) -> Answer:
    """What the call came to. If waited for, its thread is gone, and with it what a store keeps for each thread."""
    if waiting:
        call.join()
        if isinstance(call, ThreadCall):
            call.thread.join()
    lab.probes_ran += 1
    if call.returned:
        return Answer(call.value)
    error = call.error
    assert error is not None
    if not isinstance(error, Exception):
        raise error
    return failure(error, lab.subject)


def granted(answer: Answer, what: str, needs: str) -> Any:
    """The value of an answer that the rule needs.

    Raises:
        Inconclusive: it is an error.
    """
    if not answer.returned:
        raise Inconclusive(f"{what} {answer}", because_of=needs)
    return answer.value


@contextmanager
def handle(lab: Lab, path: Path) -> Generator[Handle]:
    """A fresh handle on the folder, in this process."""
    with lab.instance(folder=path) as it:
        yield Handle(lab, it)


@contextmanager
def handles(lab: Lab, path: Path, count: int) -> Generator[list[Handle]]:
    """As many, all open at once."""
    with ExitStack() as stack:
        yield [stack.enter_context(handle(lab, path)) for _ in range(count)]


def visit(lab: Lab, path: Path, *asks: Ask) -> list[Answer]:
    """Open a fresh handle in this process, make these calls, leave it. What opening raises is the answer to all."""
    with ExitStack() as stack:
        try:
            it = stack.enter_context(lab.instance(folder=path))
        except (FlowcheckError, Judgement):
            raise
        except Exception as error:  # noqa: BLE001 - what a store raises is the rule's to judge
            lab.probes_ran += 1
            opened = failure(error, lab.subject)
            return [replace(opened, error=f"{opened.error} (when the store was opened)")] * len(asks)
        return [Handle(lab, it).ask(*ask) for ask in asks]


def at_rest(lab: Lab, path: Path, *asks: Ask) -> list[Answer]:
    """As `visit`, and what the store still holds of threads that have ended is given up: the files are as they stay."""
    answers = visit(lab, path, *asks)
    gc.collect()
    return answers


# --- other processes --------------------------------------------------------------------------------------------------


class Worker(processes.Worker):
    """Another process with handles of its own."""

    def ask(self, *ask: Any, name: str = "it") -> Answer:
        """Call the handle of this name."""
        return cast("Answer", self.request("call", name, *ask))

    def must(self, *ask: Any, needs: str = "STO-01") -> Any:
        """As `Handle.must`."""
        return granted(self.ask(*ask), f"{ask[0]}({', '.join(told(arg, 60) for arg in ask[1:])})", needs)

    def visit(self, path: Path, *asks: Ask) -> list[Answer]:
        """As `visit`, there."""
        return cast("list[Answer]", self.request("visit", str(path), asks))

    def visits(self, paths: Sequence[Path], *asks: Ask) -> list[list[Answer]]:
        """The same in each of many folders, by one request."""
        return cast("list[list[Answer]]", self.request("visits", [str(path) for path in paths], asks))


Nursery: TypeAlias = processes.Nursery[Worker]


@contextmanager
def nursery(lab: Lab) -> Generator[Nursery]:
    """Other processes. Leaving kills them all."""
    with processes.nursery(lab, StoreServer, Worker) as others:
        yield others


@contextmanager
def elsewhere(lab: Lab) -> Generator[Worker]:
    """One other process."""
    with nursery(lab) as others:
        yield others.worker()


class Scripts:
    """Where programs are traced that make requests of a `Server`, one after the other."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        subject = b64encode(header(lab.subject, StoreServer)).decode()
        self.server = kept(
            "traced", lambda: ForkServer([sys.executable, "-m", _MODULE, subject], env=processes.environment())
        )

    def argv(self, requests: Iterable[Ask]) -> list[str]:
        """What is run: `record(scripts.argv(...), folder, server=scripts.server)`."""
        return [b64encode(b"".join(map(pickle.dumps, requests))).decode()]

    def answers(self, marks: Iterable[str]) -> list[Any] | None:
        """What it was answered, as its marks tell; None if it ended early."""
        chunks = [mark.removeprefix(ANSWER) for mark in marks if mark.startswith(ANSWER)]
        if chunks[-1:] != ["."]:
            return None
        given = pickle.loads(b64decode("".join(chunks[:-1])))  # noqa: S301 - our own process wrote it
        self.lab.probes_ran += len(given)
        expressible(given)
        return cast("list[Any]", given)


# --- values -----------------------------------------------------------------------------------------------------------


def listed(value: Any) -> list[Any]:
    """A value that is a list."""
    found: list[Any] = value
    return found


def mapped(value: Any) -> dict[Any, Any]:
    """A value that is a dict; another one holds nothing."""
    found: dict[Any, Any] = value if _both(dict, value, value) else {}
    return found


def _both(kind: type, one: Any, other: Any) -> bool:
    return isinstance(one, kind) and isinstance(other, kind)


def _key(key: Any) -> tuple[str, Any]:
    """By which keys are compared: True is not 1."""
    return type(key).__name__, key


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: NaN equals NaN, True is not 1, and 1.0 is 1, since JSON has only numbers."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, float) and isinstance(other, float) and one != one:  # noqa: PLR0124 - NaN is not itself
        return other != other  # noqa: PLR0124
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other
    if _both(list, one, other):
        mine, theirs = listed(one), listed(other)
        return len(mine) == len(theirs) and all(map(same, mine, theirs))
    if _both(dict, one, other):
        left, right = mapped(one), mapped(other)
        if len(left) != len(right):
            return False
        keys = {_key(key): value for key, value in right.items()}
        return all(_key(key) in keys and same(value, keys[_key(key)]) for key, value in left.items())
    return type(one) is type(other) and bool(one == other)


def among(answer: Answer, values: Iterable[Any]) -> bool:
    """Whether a load gave one of these."""
    return answer.returned and any(same(answer.value, value) for value in values)


def is_nothing(answer: Answer, unknown: Answer) -> bool:
    """Whether the load says that nothing is there: as it does for a run that nobody knows. (How it should is STO-16.)"""
    if answer.is_a(NotFound):
        return True
    if answer.returned:
        return unknown.returned and same(answer.value, unknown.value)
    return answer.error.partition(":")[0] == unknown.error.partition(":")[0]


# --- at the same time -------------------------------------------------------------------------------------------------


@contextmanager
def eager_threads() -> Generator[None]:
    """Inside, the interpreter offers the GIL after every microsecond, so that threads come in between of each other."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def together(lab: Lab, jobs: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Do these jobs at the same time, each on a thread of its own, and wait for all; HUNG if one provably has no end.

    No job begins before all threads are there.
    """
    start = threading.Barrier(len(jobs))

    def job(do: Callable[[], T]) -> Callable[[], T]:
        def run() -> T:
            start.wait()
            return do()

        return run

    calls = {name: lab.call(name, job(do)) for name, do in jobs.items()}
    return {name: call.result() for name, call in calls.items()}
