"""Event loops that begin and end as the rule says: one after the other on a thread, or at once on several.

A thread of these is what a script is that calls `asyncio.run` (or `trio.run`) again and again; each loop that runs on it
takes calls, as tasks of its own, and is asked from outside: that it froze is never for a coroutine on it to say.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from importlib.util import find_spec
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_flowcheck.errors import AdapterError, Judgement
from pytest_flowcheck.probes.calls import ThreadCall
from pytest_flowcheck.probes.instance import AsyncioLoop, Looping, TrioLoop
from pytest_flowcheck.probes.loops import new_loop
from pytest_flowcheck.probes.needs import TRIO, need

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab

T = TypeVar("T")


def kinds(lab: Lab) -> list[str]:
    """The loops to try: of the subject's backend, and of uvloop where that is installed and asyncio is meant."""
    backend = lab.subject.backend
    return [backend, "uvloop"] if backend == "asyncio" and lab.thorough and find_spec("uvloop") else [backend]


class Thread:
    """A thread on which loops run one after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)
        self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # what it refers to must not outlive it: a loop, say

    def do(self, job: Callable[[], None]) -> None:
        """Do this once what was asked before is done."""
        self._jobs.put(job)

    def end(self, *, wait: bool = True) -> None:
        """Let it end."""
        self._jobs.put(None)
        if wait:
            self._thread.join()


class _Turn(threading.Thread):
    """A loop's turn on such a thread, where `Looping` would start one of its own."""

    def __init__(self, thread: Thread, begin: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._on, self._begin = thread, begin

    def start(self) -> None:
        """Begin, once the turn before is over."""
        self._on.do(self._begin)

    def join(self, timeout: float | None = None) -> None:
        """Nothing: `Looping` knows by itself when the turn is over, and the thread stays."""


class _OnThread(Looping):
    """A loop that runs on a thread of `Thread`'s."""

    def __init__(self, lab: Lab, manager: AbstractAsyncContextManager[Any], thread: Thread) -> None:
        super().__init__(lab, manager)
        self._thread = _Turn(thread, self._run)

    def let_go(self) -> None:
        """Have it end, and don't wait for that: it may be frozen."""
        for call in self._calls:
            if not call.done:
                call.cancel()
        self._leave()


class _AsyncioRun(_OnThread, AsyncioLoop):
    """As `asyncio.run` does it: what is left behind is cancelled, asynchronous generators are closed, then the loop is."""

    kind = "asyncio"

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=new_loop(self.kind)) as runner:
            self._loop = runner.get_loop()
            self._tasks: set[asyncio.Task[None]] = set()
            self._loop.set_exception_handler(self._note)
            self._left = asyncio.Event()
            runner.run(self._main())


class _UvloopRun(_AsyncioRun):
    kind = "uvloop"


class _TrioRun(_OnThread, TrioLoop):
    """As `trio.run` does it."""


_RUNS: dict[str, type[_OnThread]] = {"asyncio": _AsyncioRun, "uvloop": _UvloopRun, "trio": _TrioRun}


@asynccontextmanager
async def _given(raw: Any) -> AsyncGenerator[Any]:
    yield raw


class Loop:
    """One event loop of the kit's, from its begin to its end."""

    def __init__(self, lab: Lab, cache: Any, name: str, thread: Thread, kind: str) -> None:
        self.name, self.thread, self._lab = name, thread, lab
        self._run = _RUNS[kind](lab, _given(cache), thread)
        self._run.__enter__()
        self.over = False

    def start(self, what: str, ask: Callable[[Any], Any]) -> Call[Any]:
        """Begin `ask(cache)` as a task on this loop; awaits what it gives."""
        return self._run.start(f"{what} on {self.name}", ask).giving(self._told)

    def _told(self, value: Any) -> None:
        """What a `get` is told to have raised may be a slip of the adapter. Raises: AdapterError."""
        errors = [getattr(one, "refused", None) for one in (value if isinstance(value, list) else [value])]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        for error in errors:
            if error is not None and isinstance(fault := self._lab.whose(error), AdapterError):
                raise fault

    def answers(self, *, while_: str, needs: str | None = None) -> None:
        """Another coroutine of this loop runs: asked from outside, so that a frozen loop is a proven fact (HUNG).

        `needs`: the rule whose affair that is, where it is claimed.
        """
        beside = self.start("another coroutine", lambda _: None)
        self._lab.until(
            lambda: beside.done,
            f"{self.name} runs another coroutine while {while_}",
            expected="a loop that waits for a client serves its other coroutines",
            hung=True,
            needs=needs if self._lab.claims("slow_factory") else None,
        )

    def end(self) -> None:
        """As when its `run` comes to its end. Calls that are still under way are cancelled."""
        if not self.over:
            self.over = True
            self._run.__exit__(None, None, None)
            self._lab.note(f"{self.name} has ended")

    def let_go(self) -> None:
        """Have it end, and don't wait for that."""
        if not self.over:
            self.over = True
            self._run.let_go()


class Loops:
    """The loops of a rule, each of one kind. Those that have ended are kept until `forget`, so that none of those that
    come is at their address: that is CLI-03's business."""

    def __init__(self, lab: Lab, cache: Any, kind: str) -> None:
        self._lab, self.cache, self._kind = lab, cache, kind
        self.threads: list[Thread] = []
        self.begun: list[Loop] = []
        self._count = 0

    def thread(self) -> Thread:
        """One more thread."""
        thread = Thread(f"thread {chr(ord('A') + len(self.threads))} of loops")
        self.threads.append(thread)
        return thread

    def begin(self, thread: Thread | None = None) -> Loop:
        """A new loop, on a thread whose last loop has ended; or on a new thread."""
        self._count += 1
        loop = Loop(self._lab, self.cache, f"loop {self._count}", thread or self.thread(), self._kind)
        self.begun.append(loop)
        return loop

    def forget(self) -> None:
        """End those that run, and keep none."""
        for loop in self.begun:
            loop.end()
        self.begun.clear()
        self._count = 0

    def abandon(self) -> None:
        """Have them end, and wait for none: one that is frozen never does."""
        for loop in self.begun:
            loop.let_go()
        for thread in self.threads:
            thread.end(wait=False)
        self.begun.clear()
        self.threads.clear()

    def close(self) -> None:
        """End them all."""
        self.forget()
        for thread in self.threads:
            thread.end()
        self.threads.clear()


@contextmanager
def loops(lab: Lab, cache: Any, kind: str = "") -> Generator[Loops]:
    """Loops that call this cache; of the subject's backend, unless another kind is said."""
    if (kind or lab.subject.backend) == "trio":
        need(TRIO)
    opened = Loops(lab, cache, kind or lab.subject.backend)
    try:
        yield opened
    except Judgement as judgement:
        lab.judgement = lab.judgement or judgement
        lab.open_all()
        opened.abandon()
        raise
    finally:
        lab.open_all()
        opened.close()


def on_thread(lab: Lab, what: str, function: Callable[[], T]) -> T:
    """Make a call that starts loops of its own, on one thread that has none; HUNG if it provably never comes back."""
    return ThreadCall(lab, what, function).result()
