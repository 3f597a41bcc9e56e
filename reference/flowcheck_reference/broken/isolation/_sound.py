"""What the broken services start from: two that keep every rule, with one method for each thing to spoil.

`Engine` counts slots under a lock and has a thread for each run, which hands its slot on to the longest waiting. `AsyncEngine`
has a dedicated ThreadPoolExecutor and counts slots on its asyncio loop. Neither knows the reference service.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, ClassVar

from pytest_flowcheck.protocols import Closed, Invalid, Refused

ALL = frozenset({"admission", "nested", "sessions", "standalone", "threads"})

_LOG = logging.getLogger(__name__)


def checked(bound: Any) -> int:
    """A number of runs."""
    if isinstance(bound, bool) or not isinstance(bound, int) or bound < 1:
        raise Invalid(f"max_concurrent_runs must be a whole number of at least 1, not {bound!r}")
    return bound


@dataclass(eq=False)
class Job:
    """A run, from when it was accepted."""

    body: Any
    session: str
    then: Sequence[Any] = ()
    awaited: bool = True
    """Somebody waits for its end."""
    over: Future[Any] = field(default_factory=Future[Any])


class Engine:
    """For threads."""

    def __init__(self, bound: Any, limit: float | None, admit: Any, *, refuses: bool = False) -> None:
        self.bound = self.check(bound)
        self.limit, self.admit, self.refuses = 5.0 if limit is None else limit, admit, refuses
        self.lock = threading.Lock()
        self.running = 0
        self.waiting: deque[Job] = deque()
        self.threads: set[threading.Thread] = set()
        self.closed = False
        self.ops = ThreadPoolExecutor(2, "sound-op")

    def check(self, bound: Any) -> int:
        return checked(bound)

    # --- what is asked of it -----------------------------------------------------------------------------------------------

    def run(self, body: Any, *, session: str, then: Sequence[Any] = ()) -> object:
        job = Job(body, session, then)
        self.enter(job)
        return job.over.result()

    def start(self, body: Any, *, session: str) -> None:
        self.enter(Job(body, session, awaited=False))

    def short_op(self, *, session: str) -> object:
        return self.ops.submit(str, session).result()

    def queued(self) -> int:
        return len(self.waiting)

    def cancel(self, *, session: str) -> None:
        """Who waits is told at once; a thread can't be cancelled."""
        with self.lock:
            found = [job for job in self.waiting if job.session == session]
            for job in found:
                self.waiting.remove(job)
        for job in found:
            job.over.set_exception(CancelledError(f"the run of {session} was cancelled"))

    # --- a run's way -------------------------------------------------------------------------------------------------------

    def enter(self, job: Job) -> None:
        """Let it in."""
        self.ask(job)
        with self.lock:
            if self.closed:
                raise Closed("the service was left")
            if self.running < self.bound:
                self.running += 1
                free = True
            else:
                free = False
                self.full(job)
        if free:
            self.begin(job)

    def ask(self, job: Job) -> None:
        """The hook."""
        if self.admit is not None:
            self.admit(job.session)

    def full(self, job: Job) -> None:
        """There is no slot. Under the lock."""
        if self.refuses:
            raise Refused(f"all {self.bound} runs are taken")
        self.waiting.append(job)

    def begin(self, job: Job) -> None:
        thread = threading.Thread(target=self.live, args=(job,), daemon=True, name=f"sound-run {job.session}")
        with self.lock:
            self.threads = {thread for thread in self.threads if thread.is_alive()} | {thread}
            thread.start()

    def live(self, job: Job) -> None:
        """On its thread."""
        try:
            value = job.body()
            self.parts(job)
        except BaseException as error:
            self.end()
            self.failed(job, error)
        else:
            self.end()
            job.over.set_result(value)

    def parts(self, job: Job) -> None:
        """What a run does in parallel."""
        if job.then:
            with ThreadPoolExecutor(len(job.then), "sound-part") as parts:
                list(parts.map(_call, job.then))

    def failed(self, job: Job, error: BaseException) -> None:
        job.over.set_exception(error)
        if not job.awaited:
            self.tell(job, error)

    def tell(self, job: Job, error: BaseException) -> None:
        _LOG.error("the run of %s failed", job.session, exc_info=error)

    def end(self) -> None:
        """A slot is free: the longest waiting has it."""
        with self.lock:
            job = self.next_one()
            if job is None:
                self.running -= 1
        if job is not None:
            self.begin(job)

    def next_one(self) -> Job | None:
        """Of those that wait. Under the lock."""
        return self.waiting.popleft() if self.waiting else None

    # --- the end -----------------------------------------------------------------------------------------------------------

    def leave(self) -> None:
        with self.lock:
            self.closed = True
            waiting = list(self.waiting)
            self.waiting.clear()
            threads = list(self.threads)
        for job in waiting:
            job.over.set_exception(Closed("the service was left"))
        self.wait(threads)
        self.ops.shutdown(wait=False)

    def wait(self, threads: list[threading.Thread]) -> None:
        """For those that end."""
        deadline = monotonic() + self.limit
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))


def _call(body: Any) -> Any:
    return body()


class AsyncEngine:
    """For an asyncio loop."""

    def __init__(self, bound: Any, limit: float | None, admit: Any) -> None:
        self.bound = checked(bound)
        self.limit, self.admit = 5.0 if limit is None else limit, admit
        self.loop = asyncio.get_running_loop()
        self.pool = ThreadPoolExecutor(self.bound, "sound-run")
        self.ops = ThreadPoolExecutor(2, "sound-op")
        self.running = 0
        self.waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self.started: set[asyncio.Task[Any]] = set()
        self.closed = False

    # --- what is asked of it -----------------------------------------------------------------------------------------------

    async def run(self, body: Any, *, session: str, then: Sequence[Any] = ()) -> object:
        await self.ask(session)
        await self.acquire(session)
        return await self.carry(self.loop.run_in_executor(self.pool, self.live, body, then))

    async def start(self, body: Any, *, session: str) -> None:
        task = self.loop.create_task(self.run(body, session=session))
        self.started.add(task)
        task.add_done_callback(self.ended)

    async def short_op(self, *, session: str) -> object:
        return await self.loop.run_in_executor(self.ops, str, session)

    def queued(self) -> int:
        return len(self.waiting)

    async def cancel(self, *, session: str) -> None:
        for name, turn in list(self.waiting):
            if name == session and not turn.done():
                turn.cancel()

    # --- a run's way -------------------------------------------------------------------------------------------------------

    async def ask(self, session: str) -> None:
        """The hook."""
        if self.admit is not None:
            await self.admit.aio(session)

    async def acquire(self, session: str) -> None:
        """A slot; who is cancelled while he waits gives on what he was just given."""
        if self.closed:
            raise Closed("the service was left")
        if self.running < self.bound:
            self.running += 1
            return
        turn: asyncio.Future[None] = self.loop.create_future()
        entry = session, turn
        self.waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            self.lost(entry)
            raise

    def lost(self, entry: tuple[str, asyncio.Future[None]]) -> None:
        """He who waited was cancelled."""
        _, turn = entry
        if turn.done() and not turn.cancelled():
            self.release()
        if entry in self.waiting:
            self.waiting.remove(entry)

    def release(self) -> None:
        """A slot is free: the longest waiting has it."""
        while self.waiting:
            _, turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

    async def carry(self, running: asyncio.Future[Any]) -> object:
        """The slot is free when the thread is, whoever waits for that."""
        running.add_done_callback(self.came_back)
        return await asyncio.shield(running)

    def came_back(self, running: asyncio.Future[Any]) -> None:
        if not running.cancelled():
            running.exception()  # whoever waited has it
        self.release()

    def live(self, body: Any, then: Sequence[Any]) -> Any:
        """On a thread of the pool."""
        value = body()
        if then:
            self.parts(then)
        return value

    def parts(self, then: Sequence[Any]) -> None:
        """What a run does in parallel."""
        with ThreadPoolExecutor(len(then), "sound-part") as parts:
            list(parts.map(_call, then))

    def ended(self, task: asyncio.Task[Any]) -> None:
        self.started.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a run failed", exc_info=error)

    # --- the end -----------------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        self.closed = True
        for task in self.started:
            task.cancel()
        for _, turn in self.waiting:
            turn.cancel()
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.ops.shutdown(wait=False)


class Sound:
    """The service for threads, as a subject."""

    name = "sound-service"
    version = "1"
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": ALL}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"isolation": {"overflow": "queue"}}

    Service: type[Engine] = Engine

    @contextmanager
    def isolation(
        self, *, max_concurrent_runs: int | None, limit: float | None = None, admit: Any = None
    ) -> Generator[Any]:
        bound = 1 if max_concurrent_runs is None else max_concurrent_runs
        engine = self.Service(bound, limit, admit, refuses=self.declares["isolation"]["overflow"] == "refuse")
        try:
            yield engine
        finally:
            engine.leave()


class SoundAsync:
    """The service for loops, as a subject."""

    name = "sound-service-async"
    version = "1"
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": ALL}

    Service: type[AsyncEngine] = AsyncEngine

    @asynccontextmanager
    async def isolation(
        self, *, max_concurrent_runs: int | None, limit: float | None = None, admit: Any = None
    ) -> AsyncGenerator[Any]:
        engine = self.Service(1 if max_concurrent_runs is None else max_concurrent_runs, limit, admit)
        try:
            yield engine
        finally:
            await engine.leave()


class Refusing(Sound):
    """Runs beyond the bound are refused."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": frozenset({"threads"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"isolation": {"overflow": "refuse"}}


# A broken service claims what its bug is about and little else: what is not claimed need not be judged to show it.


class Plain(Sound):
    """It promises nothing optional."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": frozenset()}


class PlainAsync(SoundAsync):
    """The same, awaited."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": frozenset()}
