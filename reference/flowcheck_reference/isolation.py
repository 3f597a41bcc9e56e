"""Long runs that hold up nothing else: the `isolation` facet.

    with Service(max_concurrent_runs=4, queue=16) as service:
        service.run(build, project)                   # waits for the end of it; raises what it raised
        run = service.start(index, session="alice")   # doesn't wait; a failure is logged
        service.short(status, "alice")                # answered whatever the runs do
        service.queued, service.running               # seen at any time
        service.cancel("alice")                       # never waits

A *run* takes a slot, for as long as it is in flight. Of slots there are `max_concurrent_runs`, whoever asks: each session,
each way to start one. Who finds none free waits in the queue, in order and counted, or is refused.

    run / start ──► admit? ──► slot free? ──► thread "<name>-run_<i>" ──► over: the slot is the longest waiting's, at once
                                    └───────► queue ──► full: ServiceFullError

Three sets of threads, none of which ever does another's work: that of the runs, that of the parts of runs (`map`), and that
of short operations. So a stuck run holds one slot, and nothing else. An async function runs on an event loop of its own, on
its run's thread: it may block, and blocks nobody.

A run inside a run is a part of it: it is called there and then, in the same slot. `map` fans out over the threads for parts,
with the run's own thread as the first of them: so it goes on even if no other is free. Neither can deadlock.

Leaving takes no more, cancels what waits and what runs, and waits for that at most `limit` seconds. What is in flight then is
reported, and written off: the threads are nobody's any more, and end when what is stuck in them does.

Admission is decided in one step under the lock, behind the hook: however long `admit` takes, and whether it is awaited, nothing
is taken before it returns.

Source: OpenHands, pull request 3169: a dedicated pool with a bound for a server's conversations.
"""

from __future__ import annotations

import inspect
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import count
from math import isfinite
from time import monotonic
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, TypeVarTuple, cast, overload

from ._isolation.ending import end_by
from ._isolation.errors import RunCancelledError, ServiceClosedError, ServiceFullError
from ._isolation.pending import Pending
from ._isolation.run import Run, cancelling, current
from ._isolation.working import work
from ._sizing import checked
from ._waiting import outcome, trio_runs_here
from .executor import Executor, Worker, here
from .fanout import Fanout, Record

__all__ = ["Run", "RunCancelledError", "Service", "ServiceClosedError", "ServiceFullError", "Session", "cancelling"]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Admit = Callable[[str], object]

_LOG = logging.getLogger(__name__)


class Service:
    """A bounded number of long runs, and short operations beside them. From any number of threads and event loops.

    `max_concurrent_runs`: so many runs are in flight, at most.
    `queue`: so many more wait for a slot, in order; 0: none, what finds no slot is refused; None: any number.
    `admit(session)`: asked before each run; what it raises refuses the run. It may take its time, on a thread of the caller's;
    and be async, for `arun` and `astart`.
    `limit`: seconds that `close` waits for what is in flight.
    `name`: of its threads.

    No thread is started before it is needed.

    Guarantees, all under `_lock`, which is held for a few steps and never while anything is called or waited for:

    - `_running` are the runs that hold a slot. While somebody waits, every slot is held: whoever gives one back hands it to
      the first in `_waiting` in the same step.
    - A run is in one of the two from when it is accepted until it has ended or was withdrawn.
    - Once `_closed`, none is accepted.
    """

    _numbers = count()

    def __init__(
        self,
        max_concurrent_runs: int,
        *,
        queue: int | None = None,
        admit: Admit | None = None,
        limit: float = 10.0,
        name: str | None = None,
    ) -> None:
        self.max_concurrent_runs: Final = checked(max_concurrent_runs, "max_concurrent_runs")
        self.queue: Final = None if queue is None else _places(queue)
        self.limit: Final = _seconds(limit)
        self.name: Final = name or f"flowcheck-service-{next(self._numbers)}"
        self._admit = admit
        self._lock = threading.Lock()
        self._running: set[Run[Any]] = set()
        self._waiting: deque[Run[Any]] = deque()
        self._closed = False
        self._threads = Executor(self.max_concurrent_runs, f"{self.name}-run", daemon=True)
        self._parts = Executor(2 * self.max_concurrent_runs, f"{self.name}-part", daemon=True)
        self._ops = Executor(4, f"{self.name}-op", daemon=True)
        self._fanout = Fanout(self._parts)
        _services.add(self)

    # --- runs --------------------------------------------------------------------------------------------------------------

    @overload
    def run(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts, session: str = "") -> T: ...

    @overload
    def run(self, fn: Callable[[*Ts], T], *args: *Ts, session: str = "") -> T: ...

    def run(self, fn: Callable[[*Ts], Any], *args: *Ts, session: str = "") -> Any:
        """Have `fn(*args)` done as a run, in the caller's context; give its value. Blocks this thread.

        Raises: what it raised, the same object; ServiceFullError, ServiceClosedError; what `admit` raised;
        RunCancelledError; RuntimeError if the system gives no thread. Who is interrupted while he waits cancels the run.
        """
        if self._inside():
            return _called_here(fn, args)
        run = self._accept(fn, args, session, loud=False, hook=True)
        try:
            return run.result()
        except BaseException:
            run.cancel()  # of no effect if this is its own error
            raise

    @overload
    async def arun(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts, session: str = "") -> T: ...

    @overload
    async def arun(self, fn: Callable[[*Ts], T], *args: *Ts, session: str = "") -> T: ...

    async def arun(self, fn: Callable[[*Ts], Any], *args: *Ts, session: str = "") -> Any:
        """As `run`, awaited on any loop, asyncio's or trio's. Who is cancelled cancels the run, and does not wait for it."""
        if self._inside():
            value = fn(*args)
            return await value if inspect.isawaitable(value) else value
        await self._aadmitted(session)
        return await outcome(self._accept(fn, args, session, loud=False, hook=False))

    @overload
    def start(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts, session: str = "") -> Run[T]: ...

    @overload
    def start(self, fn: Callable[[*Ts], T], *args: *Ts, session: str = "") -> Run[T]: ...

    def start(self, fn: Callable[[*Ts], Any], *args: *Ts, session: str = "") -> Run[Any]:
        """As `run`, without waiting. The run goes on though nobody keeps what is returned; a failure of it is logged.

        Inside a run it is one of its own, with a slot of its own.

        Raises: ServiceFullError, ServiceClosedError; what `admit` raised; RuntimeError if the system gives no thread.
        """
        return self._accept(fn, args, session, loud=True, hook=True)

    @overload
    async def astart(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts, session: str = "") -> Run[T]: ...

    @overload
    async def astart(self, fn: Callable[[*Ts], T], *args: *Ts, session: str = "") -> Run[T]: ...

    async def astart(self, fn: Callable[[*Ts], Any], *args: *Ts, session: str = "") -> Run[Any]:
        """As `start`, where `admit` is to be awaited."""
        await self._aadmitted(session)
        return self._accept(fn, args, session, loud=True, hook=False)

    def map(
        self, fn: Callable[[S], T], items: Iterable[S], *, max_concurrency: int | None = None
    ) -> list[T]:
        """Inside a run: `fn(item)` for each, in parallel, in item order. The run's thread takes part, so it always goes on.

        `max_concurrency`: so many at once; None: twice `max_concurrent_runs`, as many as there are threads for parts.
        Raises: what an item raised, once nothing of it runs.
        """
        wide = self._parts.max_workers if max_concurrency is None else max_concurrency
        records: list[Record[T]] = self._fanout.run(fn, items, max_concurrency=wide)
        return [cast("T", record.value) for record in records]

    def cancel(self, session: str) -> int:
        """Cancel the runs of this session, waiting and running; see `Run.cancel`. How many there were. Never waits."""
        with self._lock:
            found = [run for run in (*self._waiting, *self._running) if run.session == session]
        return sum(run.cancel() for run in found)

    # --- beside them -------------------------------------------------------------------------------------------------------

    def short(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function that is soon over, on threads that no run ever has. Blocks this one; raises what it raises.

        Raises: RuntimeError when closed.
        """
        return self._ops.submit(fn, *args, **kwargs).result()

    async def ashort(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `short`, awaited on any loop."""
        return await outcome(Pending(self._ops.submit(fn, *args, **kwargs)))

    def session(self, name: str) -> Session:
        """The same for one name."""
        return Session(name, self)

    @property
    def queued(self) -> int:
        """How many runs wait for a slot."""
        return len(self._waiting)

    @property
    def waiting(self) -> list[Run[Any]]:
        """Those that wait, the next one first."""
        with self._lock:
            return list(self._waiting)

    @property
    def running(self) -> list[Run[Any]]:
        """Those that hold a slot."""
        with self._lock:
            return list(self._running)

    # --- the end -----------------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> list[str]:
        """Take no more; cancel what waits and what runs; wait for that at most `limit` seconds, for all together.

        Any thread, any number of times. A thread of the service's own does not wait for itself.

        Returns: what is still in flight, a line for each; also logged. Nearly always nothing.
        """
        with self._lock:
            self._closed = True
            waiting, running = list(self._waiting), list(self._running)
            self._waiting.clear()
        for run in waiting:
            self._forget(run)
            run.settle(None, ServiceClosedError(f"{self.name} was closed before the run of {run.session!r} began"))
        for run in running:
            run.cancel()
        self._fanout.close()
        deadline = monotonic() + self.limit
        stuck = end_by(self._threads, deadline, cancels=False)  # a run that is cancelled ends by itself, and gives its slot back
        stuck += [worker for pool in (self._parts, self._ops) for worker in end_by(pool, deadline, cancels=True)]
        lines = [self._told(worker) for worker in stuck]
        for line in lines:
            _LOG.warning("%s was closed, and %s", self.name, line)
        return lines

    async def aclose(self) -> list[str]:
        """As `close`, awaited on any loop. Who is cancelled does not wait for the end of it."""
        closing = Executor(1, f"{self.name} close")
        try:
            return await outcome(Pending(closing.submit(self.close)))
        finally:
            closing.shutdown(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.aclose()

    # --- a run's way -------------------------------------------------------------------------------------------------------

    def _inside(self) -> bool:
        """Whether the caller is in a run of this service. What a run has left behind elsewhere is in none, once it is over."""
        run = current.get()
        return run is not None and run.service is self and run.state != "over"

    async def _aadmitted(self, session: str) -> None:
        if self._admit is not None:
            admitted = self._admit(session)
            if inspect.isawaitable(admitted):
                await admitted

    def _accept(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        session: str,
        *,
        loud: bool,
        hook: bool,
    ) -> Run[Any]:
        """The hook, and then, in one step: a slot, a place in the queue, or a refusal."""
        if hook and self._admit is not None and inspect.isawaitable(admitted := self._admit(session)):
            if inspect.iscoroutine(admitted):
                admitted.close()
            msg = "admit is async: it can be awaited by arun and astart only"
            raise TypeError(msg)
        run: Run[Any] = Run(self, session, fn, args, trio=trio_runs_here(), loud=loud)
        with self._lock:
            if self._closed:
                msg = f"{self.name} was closed: it takes no more runs"
                raise ServiceClosedError(msg)
            begins = len(self._running) < self.max_concurrent_runs
            if begins:
                run.state = "running"
                self._running.add(run)
            elif self.queue is None or len(self._waiting) < self.queue:
                self._waiting.append(run)
            else:
                msg = f"{self.name} is full: {self.max_concurrent_runs} run, and {self.queue} wait"
                raise ServiceFullError(msg)
        if begins:
            try:
                self._threads.submit(self._live, run)
            except BaseException as error:
                self._lost(run, error)
                if self.closed and isinstance(error, RuntimeError):
                    msg = f"{self.name} was closed before the run of {session!r} began"
                    raise ServiceClosedError(msg) from error
                raise
        return run

    def _live(self, run: Run[Any] | None) -> None:
        """On a thread for runs: this one, and those that take its slot after it."""
        while run is not None:
            run.worker = here.worker
            value, error = work(run)
            successor = self._ended(run)  # first: whoever hears of the end finds the slot free
            if not run.settle(value, error) and error is not None and not isinstance(error, RunCancelledError):
                _LOG.warning("the run of session %r was cancelled, and failed then", run.session, exc_info=error)
            elif run.loud and error is not None and not isinstance(error, RunCancelledError):
                _LOG.error("the run of session %r failed", run.session, exc_info=error)
            del value, error
            run = successor

    def _ended(self, run: Run[Any]) -> Run[Any] | None:
        """Its slot is the longest waiting's, or free."""
        with self._lock:
            run.state = "over"
            run.worker = None
            self._running.discard(run)
            if not self._waiting:
                return None
            successor = self._waiting.popleft()
            successor.state = "running"
            self._running.add(successor)
            return successor

    def _lost(self, run: Run[Any], error: BaseException) -> None:
        """The system gives no thread for it. Who would have its slot gets none either, but hears of it."""
        lost: Run[Any] | None = run
        while lost is not None:
            lost.settle(None, error)
            lost = self._ended(lost)

    def withdraw(self, run: Run[Any]) -> None:
        """It is not wanted: it leaves the queue, if it is in it."""
        with self._lock:
            if run in self._waiting:
                self._waiting.remove(run)
                run.state = "over"
                run.call = None
            elif run.state == "running":
                run.state = "cancelling"

    def _forget(self, run: Run[Any]) -> None:
        with self._lock:
            run.state = "over"
            run.call = None

    def _told(self, worker: Worker) -> str:
        for run in self.running:
            if run.worker is worker:
                return f"a run of session {run.session!r} is still in flight, on thread {worker.name!r}"
        return f"thread {worker.name!r} is still busy"

    def forked(self) -> None:
        """In a child process: the parent's runs are the parent's."""
        self._lock = threading.Lock()
        self._running, self._waiting = set(), deque()


class Session:
    """What a service does, for one name; or alone, with one slot and a queue of its own, opened by `with`.

    with Session("notebook") as session:
        session.run(train)
    """

    def __init__(self, name: str = "alone", service: Service | None = None) -> None:
        self.name: Final = name
        self._own = service is None
        self.service: Final = Service(1, name=f"flowcheck-session-{name}") if service is None else service

    @overload
    def run(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T: ...

    @overload
    def run(self, fn: Callable[[*Ts], T], *args: *Ts) -> T: ...

    def run(self, fn: Callable[[*Ts], Any], *args: *Ts) -> Any:
        """As `Service.run`."""
        return self.service.run(fn, *args, session=self.name)

    @overload
    async def arun(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T: ...

    @overload
    async def arun(self, fn: Callable[[*Ts], T], *args: *Ts) -> T: ...

    async def arun(self, fn: Callable[[*Ts], Any], *args: *Ts) -> Any:
        """As `Service.arun`."""
        return await self.service.arun(fn, *args, session=self.name)

    @overload
    def start(self, fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> Run[T]: ...

    @overload
    def start(self, fn: Callable[[*Ts], T], *args: *Ts) -> Run[T]: ...

    def start(self, fn: Callable[[*Ts], Any], *args: *Ts) -> Run[Any]:
        """As `Service.start`."""
        return self.service.start(fn, *args, session=self.name)

    def short(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Service.short`."""
        return self.service.short(fn, *args, **kwargs)

    async def ashort(self, fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `Service.ashort`."""
        return await self.service.ashort(fn, *args, **kwargs)

    def cancel(self) -> int:
        """Cancel the runs of this session."""
        return self.service.cancel(self.name)

    def close(self) -> list[str]:
        """Cancel its runs; and, alone, close what it runs on: see `Service.close`."""
        if self._own:
            return self.service.close()
        self.cancel()
        return []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._own:
            await self.service.aclose()
        else:
            self.cancel()


def _called_here(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """A run inside a run, on its thread."""
    value = fn(*args)
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        msg = "run() of an async function inside a run: await arun() there, or the function itself"
        raise TypeError(msg)
    return value


def _seconds(limit: Any) -> float:
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not isfinite(limit) or limit < 0:
        msg = f"limit must be a number of seconds, 0 or more; got {limit!r}"
        raise ValueError(msg)
    return float(limit)


def _places(queue: Any) -> int:
    if isinstance(queue, bool) or not isinstance(queue, int) or queue < 0:
        msg = f"queue must be how many runs may wait, 0 or more, or None for any number; got {queue!r}"
        raise ValueError(msg)
    return queue


_services: weakref.WeakSet[Service] = weakref.WeakSet()


def _forked() -> None:
    for service in list(_services):
        service.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
