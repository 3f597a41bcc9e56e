"""Flows: functions that need each other's results, run in order, side by side where they can (facet `flow`).

    flow = Flow("report")

    @flow.node(policy=RetryPolicy(attempts=3, timeout=10.0))
    def fetch(input): ...                           # `input` is what the run was given

    @flow.node
    async def parse(fetch): ...                     # needs what its parameters are named after

    with Engine(max_workers=8) as engine:
        result = engine.run(flow, "https://…")      # or  await engine.arun(flow, …), on asyncio and trio
        print(result["parse"], result.nodes["fetch"].attempts)

There is no coordinator and nothing polls. Whoever ends a node counts down what was waiting for it, goes on with one node
that this made ready, and has others started where there is room. So a chain of blocking nodes costs no thread switch,
and nodes that don't depend on each other overlap.

A run that has an id is kept in a store, and resumed from there, after an error, a kill or a power loss:

    with JsonStore("runs") as store, Engine(store=store) as engine:
        engine.run(flow, "https://…", run_id="report-17")
        ...
        engine.resume(flow, "report-17")            # nodes that were through are not run again

Here is what the user sees; `_flow` is the inside.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent import futures
from contextlib import suppress
from functools import partial
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from ._attempts import Crew
from ._flow.graph import Flow, FlowError, Node
from ._flow.results import NodeResult, NotSavedError, Result, RunExistsError, result_of, values_of
from ._flow.run import Entry, Event, Run, check, inside
from ._flow.shared import Shared
from ._flow.threads import ThreadCarrier
from ._policy import RetryPolicy
from ._sizing import checked, resolve
from ._window import OUTSIDE, OnError
from .executor import Executor, Pool, here

if TYPE_CHECKING:
    from ._flow.graph import Plan
    from ._flow.keeping import Keeper, KeptRun
    from ._flow.tasks import TaskCarrier
    from .fanout import Fanout
    from .looppool import LoopPool
    from .store import Store

__all__ = [
    "Engine",
    "Event",
    "Flow",
    "FlowError",
    "Node",
    "NodeResult",
    "NotSavedError",
    "Result",
    "RetryPolicy",
    "RunExistsError",
    "Running",
    "result_of",
]

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


class Engine:
    """Runs flows, any number at a time, on one set of threads. Use it by `with` or `async with`, or `close` it.

    `max_workers`: so many nodes at once, blocking and async, in each run; and so many threads, for all runs. None
    reads `FLOWCHECK_MAX_WORKERS`, else takes the number of usable CPUs + 4, at most 32.
    `executor`: its workers make the blocking calls instead, and it stays the caller's: it is never shut down. With
    another than this package's a node may have no timeout, as a worker can't be taken from it; where its workers are
    processes or machines, functions, arguments and results must pickle, and context variables don't travel. Then
    `max_workers` None is no limit: the executor's own holds.
    `resources`: what `resource(name, …)` and `client(name, …)` give, instead of what would be made there.
    `on_event(event)`: called for what happens (`Event`), in whichever thread it happens in; so it must be quick. What it
    raises is logged.
    `store`: where runs with a `run_id` are kept. It stays the caller's, and is not closed with the engine.
    `max_abandoned`: while so many threads are stuck in attempts that were given up, a node with a timeout is not begun:
    it fails with `TooManyAbandonedError`.

    Raises: ValueError, TypeError: a number of workers that is none, naming where it came from; TypeError: no executor.
    """

    _numbers: ClassVar[count[int]] = count()

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        executor: futures.Executor | None = None,
        resources: Mapping[str, Any] | None = None,
        on_event: Callable[[Event], object] | None = None,
        store: Store | None = None,
        max_abandoned: int = 256,
    ) -> None:
        if executor is not None and not callable(getattr(executor, "submit", None)):
            msg = f"executor must be a concurrent.futures.Executor, not {type(executor).__name__}"
            raise TypeError(msg)
        bound = checked(max_abandoned, "max_abandoned")
        self._foreign = executor if executor is not None and not isinstance(executor, Executor) else None
        self._size: float
        if self._foreign is not None:
            self._size = float("inf") if max_workers is None else checked(max_workers)
            self._own, workers = True, Executor(1)  # for nobody, unless the flow has what only threads can do
        elif isinstance(executor, Executor):
            self._own, workers = False, executor
            self._size = executor.max_workers if max_workers is None else checked(max_workers)
        else:
            size = resolve(max_workers)
            self._own, workers = True, Executor(size, f"flowcheck-engine-{next(self._numbers)}", daemon=True)
            self._size = size
        self._crew = Crew(workers, bound)
        self._on_event = on_event
        self._store = store
        self._shared = Shared(resources or {}, _LOG)
        self._runs: dict[Run, tuple[Pool, int | None]] = {}
        """Those that are not over: in which pool, and in the event loop of which thread, if they are awaited."""
        self._wanted: dict[Run, int] = {}
        """The limits of those that want more threads than there are."""
        self._named = count(1)
        self._closed = False
        self._quiet = threading.Condition(threading.RLock())
        self._loops: LoopPool | None = None
        self._fans: Fanout | None = None

    @property
    def max_workers(self) -> float:
        """How many nodes of a run are in flight at once, at most, unless the run says otherwise."""
        return self._size

    # -- running

    def run(
        self,
        flow: Flow,
        input: Any = None,  # noqa: A002
        *,
        run_id: str | None = None,
        max_workers: int | None = None,
        on_error: OnError = "raise",
    ) -> Result:
        """Run it all, and wait.

        `input`: for the nodes that need it. `max_workers`: for this run only; more than the engine's own is had, too,
        for as long as the run takes.
        `on_error`: "raise" ends the run with the first error: no node begins any more, async nodes that run are cancelled,
        blocking ones are waited for; the error is raised itself, with others noted on it, and `result_of(error)` tells the
        rest. "continue" goes on with all that doesn't depend on what failed, and returns the result, `status` "failed".
        `run_id`: keep it in the engine's store under this id, for `resume`: each output is saved before anything is built on
        it. Input and outputs must be JSON values then. An id is used once.

        KeyboardInterrupt here ends the run in the same way; a second one doesn't wait.

        Raises: FlowError, before anything runs; what a node raised; RuntimeError: the engine is closed, or there is no
        thread; ValueError, TypeError for arguments without sense. With a `run_id` also RunExistsError: it was begun before;
        LeaseHeldError: it is under way, here or in another process; NotSavedError: something could not be saved, and the
        run has failed, whatever `on_error` is, unless it is one output that is no JSON value: then its node has failed.
        """
        self._refuse_blocking()
        if run_id is None:
            return self._ran(self._prepared(flow, input, max_workers, on_error))
        return self._ran(self._begun(flow, input, run_id, max_workers, on_error))

    def resume(self, flow: Flow, run_id: str, *, max_workers: int | None = None, on_error: OnError = "raise") -> Result:
        """Go on with a run that was begun with a `run_id`, in whichever process, with the same flow and its own input.

        Nodes that were through give what they gave, and are not run again. Those that had failed or were cancelled are, and
        all that were not reached, as `run` does it; so is one that was in the middle when its process was killed: it should
        bear to be run twice. A run that had completed gives its result once more. The functions may be others by now, the
        nodes and what they need may not.

        Raises: as `run`; RunNotFoundError: there is no such run; LeaseHeldError: it is under way, here or in another process
        (FLO-25); FlowError: it was begun with another flow.
        """
        self._refuse_blocking()
        return self._ran(self._resumed(flow, run_id, max_workers, on_error))

    def start(
        self,
        flow: Flow,
        input: Any = None,  # noqa: A002
        *,
        run_id: str | None = None,
        max_workers: int | None = None,
        on_error: OnError = "raise",
    ) -> Running:
        """As `run`, without waiting: ask what is given for the result, or cancel it."""
        self._refuse_blocking()
        if run_id is None:
            return self._started(self._prepared(flow, input, max_workers, on_error))
        return self._started(self._begun(flow, input, run_id, max_workers, on_error))

    def _ran(self, run: Run) -> Result:
        """Begin it, and wait."""
        try:
            return self._started(run).result()
        except BaseException:
            if not run.over:  # KeyboardInterrupt, in between
                run.stop("cancelled")
            raise
        finally:
            del self, run  # an error's traceback has this frame

    def _started(self, run: Run) -> Running:
        pool = self._crew.pool
        try:
            tasks: TaskCarrier | None = None
            if run.plan.awaits:
                from ._flow.tasks import TaskCarrier

                tasks = TaskCarrier(run, started=lambda carrier: self._loop_pool().submit(carrier.serve))
                run.rings.append(tasks.ring)
            run.rings.append(lambda: self._leave(run) if run.over else None)
            self._enter(run, pool, None)
            self._carry(run, tasks, pool)()
        except BaseException:
            run.stop("cancelled")  # an interrupt may have come when a worker had it
            self._leave(run)
            raise
        return Running(run, pool)

    async def arun(
        self,
        flow: Flow,
        input: Any = None,  # noqa: A002
        *,
        run_id: str | None = None,
        max_workers: int | None = None,
        on_error: OnError = "raise",
    ) -> Result:
        """As `run`, awaited, on asyncio and trio: async nodes are tasks of this event loop, blocking ones run on threads.

        Cancelling it cancels the async nodes, and comes through when their cleanup has ended; a blocking node that runs
        can't be cancelled, and is waited for. Cancellation is anyio's: it comes again at each await, so a cleanup that awaits
        must be shielded.
        """
        if run_id is None:
            run = self._prepared(flow, input, max_workers, on_error)
        else:
            keeper, plan, limit = self._keeper(flow, run_id, max_workers, on_error)
            await _apart(lambda: keeper.begin(input))
            run = self._kept(keeper, {}, True, plan, input, limit, on_error)
        try:
            return await self._awaited(run)
        finally:
            del self, run  # an error's traceback has this frame

    async def aresume(
        self, flow: Flow, run_id: str, *, max_workers: int | None = None, on_error: OnError = "raise"
    ) -> Result:
        """As `resume`, awaited as `arun`."""
        keeper, plan, limit = self._keeper(flow, run_id, max_workers, on_error)
        value, through = await _apart(keeper.resume)
        try:
            return await self._awaited(self._kept(keeper, through, True, plan, value, limit, on_error))
        finally:
            del self  # an error's traceback has this frame

    async def _awaited(self, run: Run) -> Result:
        from ._flow.tasks import TaskCarrier

        tasks = TaskCarrier(run)
        run.rings.append(tasks.ring)
        try:
            self._enter(run, self._crew.pool, threading.get_ident())
            await tasks.serve(self._carry(run, tasks, None))
        finally:
            self._leave(run)
        try:
            return run.verdict()
        finally:
            del self, run, tasks  # an error's traceback has this frame

    def resource(self, name: str, make: Callable[[], T]) -> T:
        """What all runs share under this name: one that was given to the engine, else what `make()` gives, which is
        called when it is first asked for, and once, however many ask. For nodes and callers alike.

        What was made is closed with the engine, if it has a `close`. If `make` raises, the next who asks tries again.
        Raises: what `make` raises; RuntimeError: it would wait for something that its own thread is making.
        """
        return self._shared.get(name, make)

    async def aresource(self, name: str, make: Callable[[], Awaitable[T] | T]) -> T:
        """As `resource`, awaited; `make` may be async. What has an `aclose` is closed by the engine's `aclose`."""
        return await self._shared.aget(name, make)

    async def client(
        self,
        name: str,
        factory: Callable[[], Awaitable[T] | T],
        *,
        close: Callable[[T], Awaitable[object] | object] | None = None,
    ) -> T:
        """What the async nodes of one event loop share under this name, such as an `httpx.AsyncClient`: one that was given to
        the engine, else what `factory()` gives, which is called once on each loop that asks (`Clients`).

        All runs that aren't awaited have one loop; those that are, their caller's. It is closed, by `close` or its `aclose`,
        on its own loop when the engine is closed; clients of other loops than the engine's own and that of who awaits
        `Engine.aclose` are closed soon, or dropped if their loop has ended.
        Raises: what `factory` raises; RuntimeError: the engine is closed, or no loop runs here.
        """
        return await self._shared.client(name, factory, close)

    def _prepared(self, flow: object, value: Any, max_workers: int | None, on_error: str) -> Run:
        plan, limit = self._checked(flow, max_workers, on_error)
        return Run(plan, value, limit, on_error == "continue", self._on_event, f"{plan.name}-{next(self._named)}", _LOG)

    def _checked(self, flow: object, max_workers: int | None, on_error: str) -> tuple[Plan, float]:
        if not isinstance(flow, Flow):
            msg = f"what to run must be a Flow, not {type(flow).__name__}"
            raise TypeError(msg)
        if on_error not in {"raise", "continue"}:
            msg = f"on_error must be 'raise' or 'continue', not {on_error!r}"
            raise ValueError(msg)
        limit = self._size if max_workers is None else checked(max_workers)
        plan = flow.compiled()
        if self._foreign is not None:
            check(plan, type(self._foreign).__name__)
        if plan.watched:
            self._crew.watchdog.ensure()
        return plan, limit

    def _begun(self, flow: Flow, value: Any, run_id: str, max_workers: int | None, on_error: str) -> KeptRun:
        keeper, plan, limit = self._keeper(flow, run_id, max_workers, on_error)
        keeper.begin(value)
        return self._kept(keeper, {}, plan.awaits, plan, value, limit, on_error)

    def _resumed(self, flow: Flow, run_id: str, max_workers: int | None, on_error: str) -> KeptRun:
        keeper, plan, limit = self._keeper(flow, run_id, max_workers, on_error)
        value, through = keeper.resume()
        return self._kept(keeper, through, plan.awaits, plan, value, limit, on_error)

    def _keeper(self, flow: object, run_id: str, max_workers: int | None, on_error: str) -> tuple[Keeper, Plan, float]:
        """Before anything is read or written."""
        from ._flow.keeping import Keeper

        if self._store is None:
            msg = f"nothing keeps run {run_id!r}: give the engine a store, as in Engine(store=JsonStore('runs'))"
            raise ValueError(msg)
        self._refuse_closed()
        plan, limit = self._checked(flow, max_workers, on_error)
        return Keeper(self._store, run_id, plan), plan, limit

    def _kept(
        self, keeper: Keeper, through: dict[int, Any], aside: bool, plan: Plan, value: Any, limit: float, on_error: str
    ) -> KeptRun:
        from ._flow.keeping import KeptRun

        return KeptRun(keeper, through, aside, plan, value, limit, on_error == "continue", self._on_event, _LOG)

    def _carry(self, run: Run, tasks: TaskCarrier | None, pool: Pool | None) -> Callable[[], object]:
        """Give it carriers. What begins it: on a worker of `pool`, or here."""
        begin: Callable[[], object]
        if self._foreign is not None:
            from ._flow.foreign import ForeignCarrier

            foreign = ForeignCarrier(
                run,
                self._foreign,
                self._crew.watchdog,
                lambda entry: _elsewhere(run, tasks, entry),
                self._crew.executor,
            )
            run.rings.append(foreign.withdraw)
            carry: Callable[[Entry], object] = foreign.launch
            begin = foreign.start
        else:
            threads = ThreadCarrier(run, self._crew, self._fan_out)
            run.rings.append(threads.withdraw)
            carry = threads.launch
            begin = run.begin if pool is None else partial(threads.begin, pool)
        if tasks is None:
            run.launch = carry
        else:
            run.launch = lambda entry: (_elsewhere(run, tasks, entry) or carry)(entry)
        return begin

    def _fan_out(self, run: Run, k: int, items: Iterable[Any]) -> list[Any]:
        """Make the calls of a fan-out node, on the same workers."""
        node = run.plan.nodes[k]
        wide = run.limit if node.max_concurrency is None else node.max_concurrency
        call = self._fanout()._call(  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
            node.policy, node.fn, items, wide, "raise", whole=True
        )

        def ring() -> None:
            if run.stopped and not call.stopped_at(OUTSIDE):
                call.stop(OUTSIDE, futures.CancelledError("the run was stopped"))

        run.rings.append(ring)
        try:
            ring()  # who stopped it before this saw nothing
            return values_of(call.gather())
        finally:
            with suppress(ValueError):
                run.rings.remove(ring)
            del ring

    # -- from the first run to the end

    def _enter(self, run: Run, pool: Pool, thread: int | None) -> None:
        """It begins. First it is there, then it looks: so `close` waits for it, or it sees `close`. Raises: then `_leave`."""
        self._runs[run] = pool, thread
        self._refuse_closed()
        if self._own and self._foreign is None and run.limit > self._size:
            with self._quiet:
                self._wanted[run] = int(run.limit)
                self._resize()

    def _refuse_closed(self) -> None:
        if self._closed:
            msg = "this engine was closed: it takes no more runs"
            raise RuntimeError(msg)

    def _refuse_blocking(self) -> None:
        if self._loops is not None and self._loops.runs_here():
            msg = "a run that is waited for inside an async node would block the event loop of all async nodes: await arun()"
            raise RuntimeError(msg)

    def _leave(self, run: Run) -> None:
        """It is over, or does not begin."""
        self._runs.pop(run, None)
        if run.keeps and not run.arrays.began:
            run.let_go()
        if run in self._wanted:
            with self._quiet:
                if self._wanted.pop(run, None) is not None:
                    self._resize()
        if self._closed:
            with self._quiet:
                self._quiet.notify_all()

    def _resize(self) -> None:
        self._crew.executor.resize(max([int(self._size), *self._wanted.values()]))

    def _fanout(self) -> Fanout:
        with self._quiet:
            if self._fans is None:
                from .fanout import Fanout

                self._fans = Fanout(self._crew.executor, max_abandoned=self._crew.max_abandoned)
            return self._fans

    def _loop_pool(self) -> LoopPool:
        """Its loop, for the async nodes of all runs that are not awaited. What nodes leave on it lives as long as the engine."""
        with self._quiet:
            if self._loops is None:
                from .looppool import LoopPool

                self._loops = LoopPool(ttl=None)
                weakref.finalize(self, self._loops.stop, wait=False).atexit = False
            return self._loops

    def close(self) -> None:
        """Take no more runs, wait for those that are under way, end the threads. Any thread, any number of times.

        In a forked child it waits for none of the parent's runs. Attempts that were given up aren't waited for.

        Raises: RuntimeError: called inside a node, or in the thread of an event loop that awaits a run, it would wait for
        itself; use `aclose` there.
        """
        pool, me = self._crew.pool, threading.get_ident()
        self._refuse_inside()
        if any(thread == me for where, thread in tuple(self._runs.values()) if where is pool):
            msg = "close() in the thread that awaits a run would wait for itself: use aclose()"
            raise RuntimeError(msg)
        self._close(pool)
        self._shared.close()

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop.

        Raises: RuntimeError: called inside a node, it would wait for itself.
        """
        from ._flow.tasks import in_a_thread

        self._refuse_inside()
        self._closed = True
        import anyio

        # With nothing to wait for it is done in a moment: also where the scope around it was cancelled already.
        with anyio.CancelScope(shield=not self._runs):
            await in_a_thread(lambda: self._close(self._crew.pool), "flowcheck-close")
        await self._shared.aclose()

    def _refuse_inside(self) -> None:
        run, pool, loops = inside.get(), self._crew.pool, self._loops
        while run is not None and (run.over or self._runs.get(run, (None,))[0] is not pool):
            run = run.outer
        if (
            run is not None
            or here.pool is pool
            or self._crew.watchdog.runs_here()
            or (loops is not None and loops.runs_here())
        ):
            msg = "an engine that is closed inside one of its nodes would wait for itself"
            raise RuntimeError(msg)

    def _close(self, pool: Pool) -> None:
        self._closed = True
        with self._quiet:
            while any(where is pool for where, _ in tuple(self._runs.values())):
                self._quiet.wait()
            loops, self._loops = self._loops, None
            fans, self._fans = self._fans, None
        if loops is not None:
            if self._shared.has_clients and loops.warm:
                loops.dispatch(self._shared.aclose_clients)
            loops.stop()
        if fans is not None:
            fans.close()
        self._crew.watchdog.close()
        if self._own:
            self._crew.executor.shutdown()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """`close`."""
        self.close()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """`aclose`."""
        await self.aclose()


class Running:
    """A run that was started. Safe from any thread."""

    def __init__(self, run: Run, pool: Pool) -> None:
        self._run, self._pool = run, pool

    @property
    def id(self) -> str:
        """Unique in the engine."""
        return self._run.name

    def done(self) -> bool:
        """Is it over?"""
        return self._run.over

    def cancel(self) -> None:
        """No node begins any more, async ones are cancelled; blocking ones that run go on to their end."""
        self._run.stop("cancelled")

    def result(self, timeout: float | None = None) -> Result:
        """Wait for it; see `Engine.run`. A run that was cancelled gives its result, `status` "cancelled".

        KeyboardInterrupt here cancels it, and waits for what runs; a second one doesn't wait.

        Raises: TimeoutError: it isn't over after `timeout` seconds; it goes on.
        """
        until = None if timeout is None else monotonic() + timeout
        try:
            over = self._wait(until)
        except BaseException:
            self.cancel()
            self._wait(None)
            raise
        if not over:
            msg = f"{self._run.name} is not over after {timeout:g} s"
            raise TimeoutError(msg)
        try:
            return self._run.verdict()
        finally:
            del self  # an error's traceback has this frame

    # -- what a pool asks of what a worker waits for

    def queued(self) -> bool:
        """Does it need a worker? It may, any time: so whoever waits for it lends his."""
        return not self._run.over

    def _wait(self, until: float | None) -> bool:
        """A worker of the engine lends its slot meanwhile: the run may need it (FLO-37)."""
        run, pool = self._run, self._pool
        park = threading.Lock()
        park.acquire()

        def ring() -> None:
            try:
                park.release()
            except RuntimeError:  # he hasn't come to it since the last time
                return

        run.rings.append(ring)
        try:
            if here.pool is not pool:
                return self._sleep(park, until)
            lends, roused = pool.wait_begins(self)
            try:
                if not roused:
                    pool.serve(self)
                return self._sleep(park, until)
            finally:
                pool.wait_ends(lends)
        finally:
            if not run.over:  # then nobody rings any more
                with suppress(ValueError):
                    run.rings.remove(ring)

    def _sleep(self, park: threading.Lock, until: float | None) -> bool:
        while not self._run.over:
            if until is None:
                park.acquire()
            elif not park.acquire(timeout=min(max(0.0, until - monotonic()), threading.TIMEOUT_MAX)):
                return self._run.over
        return True


async def _apart(do: Callable[[], T]) -> T:
    """What it gives, in a thread: it waits for a disk. Whoever is cancelled meanwhile learns it at the next await."""
    import anyio

    from ._flow.tasks import in_a_thread

    given: list[T] = []
    with anyio.CancelScope(shield=True):
        await in_a_thread(lambda: given.append(do()), "flowcheck-keep")
    return given.pop()


def _elsewhere(run: Run, tasks: TaskCarrier | None, entry: Entry) -> Callable[[Entry], object] | None:
    """Who carries it, if it is not for the executor."""
    if tasks is None or not (run.plan.asynchronous[entry.node] if not isinstance(entry, int) else run.plan.asynchronous[entry]):
        return None
    return tasks.launch
