"""The reference engine as subjects: what `pytest --flowcheck` certifies when it is told nothing else.

`reference` is its blocking side, `reference-async` the one that is awaited, on asyncio and on trio; `reference` saves runs
in JSON files, `reference-sqlite` is the same store on SQLite. Each keeps every rule of its facets: that they can be kept is
what the engine is for.
"""
from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Executor as Anyone
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pytest_flowcheck.protocols import (
    JSON,
    Body,
    Closed,
    Corrupt,
    Failed,
    Invalid,
    NotFound,
    Ok,
    Outcome,
    Refused,
    Skipped,
    Unsupported,
)
from pytest_flowcheck.protocols import Halt as Halts
from pytest_flowcheck.protocols.client import Made
from pytest_flowcheck.protocols.flow import Graph, Run
from pytest_flowcheck.protocols.retry import RetryPolicy as Asked
from pytest_flowcheck.protocols.tracing import Sink

from . import __version__
from ._waiting import trio_runs_here
from .client import Clients
from .executor import Executor
from .fanout import AsyncFanout, Fanout, Halt, Record
from .flow import Engine, Flow, Result, result_of
from .isolation import Service, Session
from .looppool import Lease, LoopPool
from .retry import AsyncRetrier, Retrier, RetryPolicy
from .store import CorruptStateError, JsonStore, RunNotFoundError, Snapshot, SqliteStore, Store
from .tracing import Tracer

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet


S = TypeVar("S")
T = TypeVar("T")

RETRY = frozenset({"timeout", "bounded", "history", "context", "policy", "fence"})
FANOUT = frozenset({"halt", "continue", "coerce", "lazy", "nested", "context"})
FLOW = frozenset(
    {"attempts", "context", "continue", "executor", "lease", "mixed", "resize", "resources", "resume", "save", "sizing"}
)
ISOLATION = frozenset({"admission", "nested", "sessions", "standalone", "threads"})
LOOPPOOL = frozenset({"context", "drain", "nested", "resources", "ttl"})
STORE = frozenset({"durable", "live", "log", "processes"})
TRACING: Mapping[str, Mapping[str, str]] = {"tracing": {"after_close": "ignore"}}


class Reference:
    """The blocking side."""

    name: str = "reference"
    version: str = __version__
    claims: Mapping[str, AbstractSet[str]] = {
        "executor": frozenset({"threads", "cancel_futures", "initializer", "nested", "context", "resize"}),
        "retry": RETRY,
        "fanout": FANOUT,
        "flow": FLOW,
        "isolation": ISOLATION,
        "looppool": LOOPPOOL,
        "store": STORE | {"files"},
        "tracing": frozenset({"atexit", "fork"}),
    }
    declares = TRACING
    errors: Mapping[type[BaseException], tuple[type[BaseException], ...]] = {
        Invalid: (ValueError, TypeError),
        Closed: (RuntimeError,),
        Refused: (RuntimeError,),
        NotFound: (RunNotFoundError,),
        Corrupt: (CorruptStateError,),
    }
    variables: Mapping[str, str] = {"max_workers": "FLOWCHECK_MAX_WORKERS"}

    def executor(
        self, *, max_workers: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
    ) -> Executor:
        """A fresh executor."""
        return Executor(max_workers, initializer=initializer, initargs=initargs)

    @contextmanager
    def retry(self, *, max_workers: int) -> Generator[_Retry]:
        """A fresh retrier."""
        with Retrier(max_workers) as retrier:
            yield _Retry(retrier)

    @contextmanager
    def fanout(self) -> Generator[_Fanout]:
        """A fresh fan-out."""
        with Fanout() as fanout:
            yield _Fanout(fanout)

    @contextmanager
    def flow(
        self,
        *,
        max_workers: int | None = None,
        executor: Anyone | None = None,
        make: Body[[], Any] | None = None,
        given: Any = None,
        folder: Path | None = None,
    ) -> Generator[_Flow]:
        """A fresh engine."""
        with Engine(max_workers, executor=executor, resources=_given(given), store=self._runs(folder)) as engine:
            yield _Flow(engine, make or _unmade)

    def _runs(self, folder: Path | None) -> Store | None:
        """Where an engine keeps its runs."""
        return None if folder is None else JsonStore(folder)

    @contextmanager
    def isolation(
        self, *, max_concurrent_runs: int | None, limit: float | None = None, admit: Body[[str], Any] | None = None
    ) -> Generator[_Service]:
        """A fresh service, or a session on its own."""
        with _service(max_concurrent_runs, limit, admit) as service:
            yield _Service(service)

    @contextmanager
    def looppool(
        self,
        *,
        ttl: float | None,
        limit: float | None = None,
        make: Body[[str], Any] | None = None,
        finalize: Body[[Any], None] | None = None,
    ) -> Generator[_LoopPool]:
        """A fresh pool."""
        with LoopPool(ttl, limit=10.0 if limit is None else limit) as pool:
            yield _LoopPool(pool, make, finalize)

    @contextmanager
    def store(self, folder: Path) -> Generator[_Store]:
        """A handle on the runs in this folder."""
        with JsonStore(folder) as store:
            yield _Store(store)

    @contextmanager
    def tracing(
        self, *, sink: Sink, capacity: int | None = None, limit: float | None = None
    ) -> Generator[_Tracer]:
        """A fresh tracer."""
        with Tracer(sink, capacity=capacity or 16_384, limit=limit) as tracer:
            yield _Tracer(tracer)


class ReferenceSqlite:
    """The other store."""

    name: str = "reference-sqlite"
    version: str = __version__
    claims: Mapping[str, AbstractSet[str]] = {"store": STORE}
    errors = Reference.errors

    @contextmanager
    def store(self, folder: Path) -> Generator[_Store]:
        """A handle on the runs in a database in this folder."""
        with SqliteStore(folder / "runs.db") as store:
            yield _Store(store)


class ReferenceAsync:
    """The side that is awaited."""

    name: str = "reference-async"
    version: str = __version__
    claims: Mapping[str, AbstractSet[str]] = {
        "client": frozenset({"close", "slow_factory"}),
        "retry": RETRY,
        "fanout": FANOUT,
        "flow": FLOW,
        "isolation": ISOLATION,
        "looppool": LOOPPOOL,
        "tracing": frozenset(),
    }
    declares = TRACING
    errors = Reference.errors
    variables = Reference.variables
    sibling: type = Reference
    backends: tuple[str, ...] = ("asyncio", "trio")

    @contextmanager
    def client(self, factory: Body[[], Made]) -> Generator[Clients[Made]]:
        """A fresh cache of clients. It belongs to no loop, and so is opened without one."""
        clients = Clients(factory.aio)
        try:
            yield clients
        finally:
            clients.close()

    @asynccontextmanager
    async def retry(self, *, max_workers: int) -> AsyncGenerator[_AsyncRetry]:
        """A fresh retrier."""
        async with AsyncRetrier(max_workers) as retrier:
            yield _AsyncRetry(retrier)

    @asynccontextmanager
    async def fanout(self) -> AsyncGenerator[_AsyncFanout]:
        """A fresh fan-out."""
        async with AsyncFanout() as fanout:
            yield _AsyncFanout(fanout)

    @asynccontextmanager
    async def flow(
        self,
        *,
        max_workers: int | None = None,
        executor: Anyone | None = None,
        make: Body[[], Any] | None = None,
        given: Any = None,
        folder: Path | None = None,
    ) -> AsyncGenerator[_AsyncFlow]:
        """A fresh engine."""
        async with Engine(max_workers, executor=executor, resources=_given(given), store=self._runs(folder)) as engine:
            yield _AsyncFlow(engine, _unmade if make is None else make.aio)

    def _runs(self, folder: Path | None) -> Store | None:
        """Where an engine keeps its runs."""
        return None if folder is None else JsonStore(folder)

    @asynccontextmanager
    async def isolation(
        self, *, max_concurrent_runs: int | None, limit: float | None = None, admit: Body[[str], Any] | None = None
    ) -> AsyncGenerator[_AsyncService]:
        """A fresh service, or a session on its own."""
        async with _service(max_concurrent_runs, limit, None if admit is None else admit.aio) as service:
            yield _AsyncService(service)

    @asynccontextmanager
    async def looppool(
        self,
        *,
        ttl: float | None,
        limit: float | None = None,
        make: Body[[str], Any] | None = None,
        finalize: Body[[Any], None] | None = None,
    ) -> AsyncGenerator[_AsyncLoopPool]:
        """A fresh pool."""
        async with LoopPool(ttl, limit=10.0 if limit is None else limit) as pool:
            yield _AsyncLoopPool(pool, make, finalize)

    @asynccontextmanager
    async def tracing(
        self, *, sink: Sink, capacity: int | None = None, limit: float | None = None
    ) -> AsyncGenerator[_AsyncTracer]:
        """A fresh tracer."""
        async with Tracer(sink, capacity=capacity or 16_384, limit=limit) as tracer:
            yield _AsyncTracer(tracer)


class _Tracer:
    """With no limit of its own unless the kit asks for one: what is not delivered in time is a question of its own."""

    def __init__(self, tracer: Tracer[Any]) -> None:
        self._tracer = tracer
        self.emit = tracer.emit

    def flush(self) -> int:
        return self._tracer.flush()

    def close(self) -> int:
        return self._tracer.close()

    def dropped(self) -> int:
        return self._tracer.dropped


class _AsyncTracer(_Tracer):
    async def flush(self) -> int:  # type: ignore[override]
        return await self._tracer.aflush()

    async def close(self) -> int:  # type: ignore[override]
        return await self._tracer.aclose()


class _Store:
    """A store, and the states that an engine keeps in memory while it runs (`live`)."""

    def __init__(self, store: JsonStore | SqliteStore) -> None:
        self._store = store
        self.save, self.load = store.save, store.load
        self.append, self.entries = store.append, store.entries
        self._live: dict[str, dict[str, JSON]] = {}
        self._changing, self._saving = threading.Lock(), threading.Lock()

    def put(self, run_id: str, key: str, value: JSON) -> None:
        with self._changing:
            self._live.setdefault(run_id, {})[key] = value

    def flush(self, run_id: str) -> None:
        """What is serialised is one moment's; who changes it waits for that only, not for the disk."""
        with self._saving:
            with self._changing:
                state = Snapshot(self._live.get(run_id, {}))
            self._store.save(run_id, state)


class _LoopPool:
    def __init__(self, pool: LoopPool, make: Body[[str], Any] | None, finalize: Body[[Any], None] | None) -> None:
        self._pool = pool
        self._resources = pool.resources(_aio(make), None if finalize is None else finalize.aio)

    def dispatch(self, body: Body[[], T]) -> T:
        return self._pool.dispatch(body.aio)

    def stop(self) -> list[str] | None:
        return self._pool.stop() or None

    def acquire(self, key: str) -> Lease[Any]:
        return self._resources.acquire(key)

    def release(self, lease: Lease[Any]) -> None:
        lease.release()

    def clear(self) -> None:
        self._resources.clear()


class _AsyncLoopPool(_LoopPool):
    async def dispatch(self, body: Body[[], T]) -> T:  # type: ignore[override]
        return await self._pool.adispatch(body.aio)

    async def stop(self) -> list[str] | None:  # type: ignore[override]
        return await self._pool.astop() or None

    async def acquire(self, key: str) -> Lease[Any]:  # type: ignore[override]
        return await self._resources.aacquire(key)

    async def release(self, lease: Lease[Any]) -> None:  # type: ignore[override]
        lease.release()

    async def clear(self) -> None:  # type: ignore[override]
        await self._resources.aclear()


def _aio(body: Body[[str], Any] | None) -> Callable[[str], Any]:
    return _unmade if body is None else body.aio


def _service(max_concurrent_runs: int | None, limit: float | None, admit: Callable[[str], Any] | None) -> Service:
    """As it is asked for. Alone, a session has a service of its own, which is what is opened and closed then."""
    if max_concurrent_runs is None:
        return Session("alone").service
    return Service(max_concurrent_runs, limit=10.0 if limit is None else limit, admit=admit)


class _Service:
    def __init__(self, service: Service) -> None:
        self._service = service

    def run(self, body: Body[[], Any], *, session: str, then: Sequence[Body[[], Any]] = ()) -> object:
        return self._service.run(self._whole(body, then), session=session)

    def _whole(self, body: Body[[], Any], then: Sequence[Body[[], Any]]) -> Callable[[], object]:
        def whole() -> object:
            value = body()
            self._service.map(lambda part: part(), then)
            return value

        return whole if then else body

    def start(self, body: Body[[], Any], *, session: str) -> None:
        self._service.start(body, session=session)

    def short_op(self, *, session: str) -> object:
        return self._service.short(self._states, session)

    def _states(self, session: str) -> list[str]:
        return [run.state for run in (*self._service.running, *self._service.waiting) if run.session == session]

    def queued(self) -> int:
        return self._service.queued

    def cancel(self, *, session: str) -> None:
        self._service.cancel(session)


class _AsyncService(_Service):
    """Its runs are coroutines, on loops of their own; on trio, plain functions: trio's loops never wait without a timer, and
    so nothing could be proven of them."""

    async def run(self, body: Body[[], Any], *, session: str, then: Sequence[Body[[], Any]] = ()) -> object:
        async def whole() -> object:
            value = await body.aio()
            await asyncio.gather(*(self._service.arun(part.aio) for part in then))
            return value

        return await self._service.arun(self._whole(body, then) if trio_runs_here() else whole, session=session)

    async def start(self, body: Body[[], Any], *, session: str) -> None:  # type: ignore[override]
        await self._service.astart(body if trio_runs_here() else body.aio, session=session)

    async def short_op(self, *, session: str) -> object:
        return await self._service.ashort(self._states, session)


class _Retry:
    def __init__(self, retrier: Retrier) -> None:
        self._retrier = retrier

    def call(self, body: Body[[], T], policy: Asked) -> T:
        return self._retrier.call(_policy(policy), body)


class _AsyncRetry:
    def __init__(self, retrier: AsyncRetrier) -> None:
        self._retrier = retrier

    async def call(self, body: Body[[], T], policy: Asked) -> T:
        return await self._retrier.call(_policy(policy), body.aio)


def _policy(asked: Asked) -> RetryPolicy:
    """The kit asks for a constant backoff."""
    return RetryPolicy(
        attempts=asked.attempts,
        timeout=asked.timeout,
        on=asked.retry_on,
        wait_initial=asked.backoff,
        wait_max=asked.backoff,
        wait_jitter=0.0,
        wait_exp_base=1.0,
    )


class _Fanout:
    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout

    def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> list[Outcome[T]]:
        def one(item: S) -> T:
            try:
                return body(item)
            except Halts as halt:
                raise Halt(halt.how) from halt

        on_error = _on_error(continue_on_error)
        return _outcomes(self._fanout.run(one, items, max_concurrency=max_concurrency, on_error=on_error))


class _AsyncFanout:
    def __init__(self, fanout: AsyncFanout) -> None:
        self._fanout = fanout

    async def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> list[Outcome[T]]:
        async def one(item: S) -> T:
            try:
                return await body.aio(item)
            except Halts as halt:
                raise Halt(halt.how) from halt

        on_error = _on_error(continue_on_error)
        return _outcomes(await self._fanout.run(one, items, max_concurrency=max_concurrency, on_error=on_error))


def _on_error(continues: bool) -> Literal["raise", "continue"]:
    return "continue" if continues else "raise"


def _outcomes(records: Iterable[Record[T]]) -> list[Outcome[T]]:
    """In the kit's words: a halt is told by the error that the body raised."""
    outcomes: list[Outcome[T]] = []
    for record in records:
        error = record.error
        if error is None:
            outcomes.append(Ok(record.value, record.id))  # type: ignore[arg-type]
        else:
            own = error.__cause__ if isinstance(error, Halt) and error.__cause__ is not None else error
            how = record.status if record.status != "ok" else "failed"
            outcomes.append(Failed(own, how, record.id))
    return outcomes


class _Flow:
    def __init__(self, engine: Engine, make: Callable[[], Any]) -> None:
        self._engine, self._make = engine, make

    def run(
        self, graph: Graph, input: Any = None, *, max_workers: int | None = None, run_id: str | None = None  # noqa: A002
    ) -> Run:
        try:
            flow = _flow(graph, aio=False)
            result = self._engine.run(flow, input, run_id=run_id, max_workers=max_workers, on_error="continue")
        except BaseException as error:  # noqa: BLE001  a node's SystemExit, say
            result = _attached(error)
        return _run(result)

    def resume(self, graph: Graph, run_id: str) -> Run:
        try:
            result = self._engine.resume(_flow(graph, aio=False), run_id, on_error="continue")
        except BaseException as error:  # noqa: BLE001  as above
            result = _attached(error)
        return _run(result)

    def close(self) -> None:
        self._engine.close()

    def resource(self) -> Any:
        return self._engine.resource("shared", self._make)


class _AsyncFlow:
    def __init__(self, engine: Engine, make: Callable[[], Any]) -> None:
        self._engine, self._make = engine, make

    async def run(
        self, graph: Graph, input: Any = None, *, max_workers: int | None = None, run_id: str | None = None  # noqa: A002
    ) -> Run:
        try:
            flow = _flow(graph, aio=True)
            result = await self._engine.arun(flow, input, run_id=run_id, max_workers=max_workers, on_error="continue")
        except BaseException as error:  # noqa: BLE001  a node's SystemExit, say
            result = _attached(error)
        return _run(result)

    async def resume(self, graph: Graph, run_id: str) -> Run:
        try:
            result = await self._engine.aresume(_flow(graph, aio=True), run_id, on_error="continue")
        except BaseException as error:  # noqa: BLE001  as above
            result = _attached(error)
        return _run(result)

    async def close(self) -> None:
        await self._engine.aclose()

    async def resource(self) -> Any:
        return await self._engine.aresource("shared", self._make)


def _attached(error: BaseException) -> Result:
    """The result that a node's SystemExit has with it, which is raised whatever `on_error` says; or raise `error`."""
    result = result_of(error)
    if result is None:
        raise error
    return result


def _given(given: Any) -> dict[str, Any]:
    return {} if given is None else {"shared": given}


def _unmade(*_: object) -> Any:
    raise Unsupported("nobody said how to make it")


def _flow(graph: Graph, *, aio: bool) -> Flow:
    """The kit's graph, in the engine's terms."""
    flow = Flow("certified")
    for node in graph.nodes:
        as_async = aio if node.kind == "own" else node.kind == "async"
        policy = None if node.policy == Asked() else _policy(node.policy)
        call = (_AsyncNode if as_async else _Node)(node.body, node.needs)
        flow.add(call, id=node.id, needs=("input", *node.needs), policy=policy)
    return flow


class _Node:
    """A body, called as the engine calls its nodes. Pickles as the body does."""

    def __init__(self, body: Body[[Any, Mapping[str, Any]], Any], needs: tuple[str, ...]) -> None:
        self.body, self.needs = body, needs
        self.__name__ = self.__qualname__ = body.__name__

    def __call__(self, value: Any, *outputs: Any) -> Any:
        return self.body(value, dict(zip(self.needs, outputs, strict=True)))


class _AsyncNode(_Node):
    async def __call__(self, value: Any, *outputs: Any) -> Any:
        return await self.body.aio(value, dict(zip(self.needs, outputs, strict=True)))


def _run(result: Result) -> Run:
    """In the kit's words."""
    nodes: dict[str, Outcome[Any]] = {}
    for own, node in result.nodes.items():
        if node.status == "ok":
            nodes[own] = Ok(node.value)
        elif node.error is not None:
            nodes[own] = Failed(node.error, "cancelled" if node.status == "cancelled" else "failed")
        else:
            nodes[own] = Skipped(node.because)
    return Run(result.status, nodes, result.error)
