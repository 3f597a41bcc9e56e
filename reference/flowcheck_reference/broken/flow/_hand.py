"""Two more engines that keep every rule, built by hand and differently: a coordinator over a queue of completions.

`Engine`: the thread that called `run` hands orders to a small crew of threads and reads their completions from a queue.
`AsyncEngine`: a task does so on the caller's loop, asyncio's or trio's, and has blocking nodes run in threads;
`ThreadedEngine` takes all nodes for blocking ones. None knows the reference engine, nor those of `_sound`.
"""

# ruff: noqa: A001, A002 - `id` and `input` are the protocol's names
from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, ClassVar

import anyio
import anyio.to_thread

from pytest_flowcheck.protocols import Adapter, Backend, Closed, Failed, Invalid, Ok, Outcome, Refused, Skipped
from pytest_flowcheck.protocols.flow import Graph, Node, Run

ALL = frozenset({"context", "continue", "mixed", "resize", "resources", "sizing"})

VARIABLE = "HAND_MAX_WORKERS"

_inside: ContextVar[tuple[object, ...]] = ContextVar("_inside", default=())
"""The engines whose nodes the current code runs in."""


@dataclass
class Running:
    """One run under way. Only its coordinator changes it."""

    nodes: dict[str, Node]
    input: Any
    limit: int
    waits_for: dict[str, set[str]]
    """By id, what a node still needs, as long as it needs something."""
    needed_by: dict[str, list[str]]
    ready: deque[Node]
    """What may be handed out."""
    context: Context
    completions: Any
    out: int = 0
    """How many nodes are handed out and not back."""
    done: dict[str, Outcome[Any]] = field(default_factory=dict[str, Outcome[Any]])
    limiter: Any = None

    def taken(self) -> tuple[Node, dict[str, Any]]:
        """The next ready node is handed out; with what it gets of the nodes that it needs."""
        node = self.ready.popleft()
        self.out += 1
        return node, {need: self.done[need].value for need in node.needs}  # type: ignore[union-attr]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

    def back(self, id: str, outcome: Outcome[Any]) -> None:
        """The node is done: the last need of some, or a failure on which others hang."""
        self.out -= 1
        self.done[id] = outcome
        if isinstance(outcome, Ok):
            for next_id in self.needed_by[id]:
                if (needs := self.waits_for.get(next_id)) is not None:
                    needs.discard(id)
                    if not needs:
                        del self.waits_for[next_id]
                        self.ready.append(self.nodes[next_id])
            return
        lost = deque([id])
        while lost:
            because = lost.popleft()
            for next_id in self.needed_by[because]:
                if self.waits_for.pop(next_id, None) is not None:
                    self.done[next_id] = Skipped(because, id=next_id)
                    lost.append(next_id)

    def answer(self) -> Run:
        """What became of it."""
        good = all(isinstance(outcome, Ok) for outcome in self.done.values())
        return Run("completed" if good else "failed", {id: self.done[id] for id in self.nodes if id in self.done})


def checked(value: object, source: str) -> int:
    """A number of workers; `source` is named where it is none."""
    try:
        number = int(value) if isinstance(value, int | str) else 0
    except ValueError:
        number = 0
    if number < 1:
        raise ValueError(f"{source} must be a whole number of at least 1, not {value!r}")
    return number


class Core:
    """What both engines decide alike."""

    def __init__(self, max_workers: int | None = None, make: Any = None, given: Any = None) -> None:
        self.limit = self.size(max_workers)
        self.make, self.given = make, given
        self.made: list[Any] = []

    def size(self, max_workers: Any) -> int:
        """How many workers, by argument, environment or default."""
        if max_workers is not None:
            return checked(max_workers, "max_workers")
        if (text := os.environ.get(VARIABLE)) is not None:
            return checked(text, f"the environment variable {VARIABLE}")
        return min(32, len(os.sched_getaffinity(0)) + 4)

    def run_limit(self, max_workers: Any) -> int:
        """How many workers for one run."""
        return self.limit if max_workers is None else checked(max_workers, "max_workers")

    def plan(self, graph: Graph, input: Any, max_workers: Any) -> Running:
        """A run, before its first node.

        Raises:
            Invalid: the graph makes no sense.
            Refused: a node asks, which may hold the last worker.
        """
        if self in _inside.get():
            raise Refused("a node of a run can't start a run of the same engine")
        nodes = {node.id: node for node in graph.nodes}
        if len(nodes) < len(graph.nodes):
            ids = [node.id for node in graph.nodes]
            raise Invalid(f"used twice: {', '.join(sorted({id for id in ids if ids.count(id) > 1}))}")
        waits_for = {id: set(node.needs) for id, node in nodes.items()}
        needed_by: dict[str, list[str]] = {id: [] for id in nodes}
        for id, needs in waits_for.items():
            for need in needs:
                if need not in nodes:
                    raise Invalid(f"{id} needs {need}, which there is not")
                needed_by[need].append(id)
        self.refuse_cycles(waits_for, needed_by)
        ready = deque(nodes[id] for id, needs in waits_for.items() if not needs)
        waits_for = {id: needs for id, needs in waits_for.items() if needs}
        limit, queue = self.run_limit(max_workers), self.queue(len(nodes))
        return Running(nodes, input, limit, waits_for, needed_by, ready, copy_context(), queue)

    def refuse_cycles(self, waits_for: Mapping[str, set[str]], needed_by: Mapping[str, Iterable[str]]) -> None:
        """Take away what needs nothing, again and again: a cycle is what remains."""
        count = {id: len(needs) for id, needs in waits_for.items()}
        free = deque(id for id, needs in count.items() if not needs)
        while free:
            id = free.popleft()
            del count[id]
            for next_id in needed_by[id]:
                count[next_id] -= 1
                if not count[next_id]:
                    free.append(next_id)
        if count:
            raise Invalid(f"on a cycle, or behind one: {', '.join(count)}")

    def queue(self, size: int) -> Any:
        """Where completions come in."""
        raise NotImplementedError


class Crew:
    """Threads that take orders in turn.

    Guarantees: as many threads as there are orders, up to the largest limit of the runs under way; without a run, up to
    the crew's own; none once it is closed and the last run is over.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        lock = threading.Lock()
        self.changed, self.gone = threading.Condition(lock), threading.Condition(lock)
        """Threads wait for the one, who closes for the other."""
        self.orders: deque[Callable[[], None]] = deque()
        self.runs: list[int] = []
        self.threads = self.idle = 0

    def size(self) -> int:
        """How many threads there may be; `changed` is held."""
        return max(self.runs, default=self.limit)

    @contextmanager
    def lent(self, limit: int) -> Generator[None]:
        """Inside, a run is under way."""
        with self.changed:
            if not self.limit:
                raise Closed("the engine is closed")
            self.runs.append(limit)
        try:
            yield
        finally:
            with self.changed:
                self.runs.remove(limit)
                self.changed.notify_all()
                self.gone.notify_all()

    def give(self, order: Callable[[], None]) -> None:
        """Have it done by the next free thread."""
        with self.changed:
            self.orders.append(order)
            if len(self.orders) > self.idle and self.threads < self.size():
                self.threads += 1
                threading.Thread(target=self.work, name=f"hand {self.threads}", daemon=True).start()
            self.changed.notify()

    def work(self) -> None:
        """A thread's life."""
        while (order := self.take()) is not None:
            order()
            del order

    def take(self) -> Callable[[], None] | None:
        """The next order; None once the thread is one too many."""
        with self.changed:
            self.idle += 1
            self.wait()
            self.idle -= 1
            if self.threads > self.size():
                self.threads -= 1
                self.changed.notify_all()
                self.gone.notify_all()
                return None
            return self.orders.popleft()

    def wait(self) -> None:
        """Until there is an order, or a thread too many; `changed` is held."""
        self.changed.wait_for(lambda: self.orders or self.threads > self.size())

    def close(self) -> None:
        """Let the runs under way end, and then the threads."""
        with self.changed:
            self.limit = 0
            self.changed.notify_all()
            self.gone.wait_for(lambda: not self.threads and not self.runs)


class Engine(Core):
    """On threads."""

    def __init__(self, max_workers: int | None = None, make: Any = None, given: Any = None) -> None:
        super().__init__(max_workers, make, given)
        self.crew = Crew(self.limit)
        self.making = threading.Lock()

    def run(self, graph: Graph, input: Any = None, *, max_workers: int | None = None) -> Run:
        run = self.plan(graph, input, max_workers)
        with self.lent(run):
            self.coordinate(run)
        return run.answer()

    def lent(self, run: Running) -> AbstractContextManager[None]:
        """The threads, for a run."""
        return self.crew.lent(run.limit)

    def coordinate(self, run: Running) -> None:
        """Hand out what is ready, take in what is done, until nothing is out."""
        while True:
            while run.ready and run.out < run.limit:
                self.hand_out(run, *run.taken())
            if not run.out:
                return
            run.back(*self.next(run))

    def next(self, run: Running) -> tuple[str, Outcome[Any]]:
        """The next completion."""
        completion: tuple[str, Outcome[Any]] = run.completions.get()
        return completion

    def hand_out(self, run: Running, node: Node, upstream: Mapping[str, Any]) -> None:
        """Order the node."""
        self.crew.give(lambda: run.completions.put((node.id, self.work(run, node, upstream))))

    def work(self, run: Running, node: Node, upstream: Mapping[str, Any]) -> Outcome[Any]:
        """On a thread: run the node."""
        try:
            return Ok(run.context.copy().run(self.call, node, run.input, upstream), id=node.id)
        except BaseException as error:
            return Failed(error, id=node.id)

    def call(self, node: Node, input: Any, upstream: Mapping[str, Any]) -> Any:
        """In the node's context: call its body."""
        _inside.set((*_inside.get(), self))
        return asyncio.run(node.body.aio(input, upstream)) if node.kind == "async" else node.body(input, upstream)

    def queue(self, size: int) -> Any:
        return SimpleQueue[tuple[str, Outcome[Any]]]()

    def resource(self) -> Any:
        """What all runs share."""
        if self.given is not None:
            return self.given
        with self.making:
            if not self.made:
                self.made.append(self.make())
        return self.made[0]

    def close(self) -> None:
        self.crew.close()


class AsyncEngine(Core):
    """On the caller's loop."""

    own: ClassVar[str] = "async"
    """What a node of no kind is."""

    abandons: ClassVar[bool] = False
    """Whether a cancelled run comes back before its blocking nodes do."""

    def __init__(self, max_workers: int | None = None, make: Any = None, given: Any = None) -> None:
        super().__init__(max_workers, make, given)
        self.limiter = anyio.CapacityLimiter(self.limit)
        self.making = anyio.Lock()
        self.changed = anyio.Condition()
        self.runs, self.closed = 0, False

    async def run(self, graph: Graph, input: Any = None, *, max_workers: int | None = None) -> Run:
        if self.closed:
            raise Closed("the engine is closed")
        run = self.plan(graph, input, max_workers)
        run.limiter = self.limiter_of(run, max_workers)
        self.runs += 1
        try:
            await self.coordinate(run)
        finally:
            for end in run.completions:
                end.close()
            self.runs -= 1
            with anyio.CancelScope(shield=True):
                async with self.changed:
                    self.changed.notify_all()
        return run.answer()

    def limiter_of(self, run: Running, max_workers: int | None) -> Any:
        """What bounds the nodes of the run: what bounds all runs, or a limit of its own."""
        return self.limiter if max_workers is None else anyio.CapacityLimiter(run.limit)

    async def coordinate(self, run: Running) -> None:
        """Hand out what is ready, take in what is done, until nothing is out."""
        async with anyio.create_task_group() as group:
            while True:
                while run.ready:
                    group.start_soon(self.work, run, *run.taken())
                if not run.out:
                    return
                run.back(*await self.next(run))

    async def next(self, run: Running) -> tuple[str, Outcome[Any]]:
        """The next completion."""
        completion: tuple[str, Outcome[Any]] = await run.completions[1].receive()
        return completion

    async def work(self, run: Running, node: Node, upstream: Mapping[str, Any]) -> None:
        """A task: run the node and send what became of it."""
        _inside.set((*_inside.get(), self))
        try:
            outcome = await self.call(run, node, upstream)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            outcome = Failed(error, id=node.id)
        run.completions[0].send_nowait((node.id, outcome))

    async def call(self, run: Running, node: Node, upstream: Mapping[str, Any]) -> Outcome[Any]:
        """Run the body, on the loop or in a thread, within the limit."""
        if (self.own if node.kind == "own" else node.kind) == "async":
            async with run.limiter:
                return Ok(await node.body.aio(run.input, upstream), id=node.id)
        return await self.in_thread(run, node, upstream)

    async def in_thread(self, run: Running, node: Node, upstream: Mapping[str, Any]) -> Outcome[Any]:
        """Run the body in a thread."""

        def call() -> Outcome[Any]:
            try:
                return Ok(node.body(run.input, upstream), id=node.id)
            except BaseException as error:
                return Failed(error, id=node.id)

        return await anyio.to_thread.run_sync(call, limiter=run.limiter, abandon_on_cancel=self.abandons)

    def queue(self, size: int) -> Any:
        return anyio.create_memory_object_stream[tuple[str, Outcome[Any]]](size)

    async def resource(self) -> Any:
        """What all runs share."""
        if self.given is not None:
            return self.given
        async with self.making:
            if not self.made:
                self.made.append(await self.make.aio())
        return self.made[0]

    async def close(self) -> None:
        """Let the runs under way end."""
        self.closed = True
        async with self.changed:
            while self.runs:
                await self.changed.wait()


class ThreadedEngine(AsyncEngine):
    """The same where nodes are plain functions: what `arun` of an engine for blocking nodes does."""

    own = "blocking"


class Hand(Adapter):
    """A subject whose engine is `Flow`, on threads."""

    Flow: ClassVar[type[Any]] = Engine
    without: ClassVar[AbstractSet[str]] = frozenset()
    """Capabilities that this bug would break as well, and that are therefore not claimed."""
    version = "broken on purpose"
    backends: ClassVar[Sequence[Backend]] = ("asyncio",)
    variables: ClassVar[Mapping[str, str]] = {"max_workers": VARIABLE}

    @property
    def name(self) -> str:  # type: ignore[override]
        return type(self).__name__

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:  # type: ignore[override]
        return {"flow": ALL - self.without}

    def flow(
        self, *, max_workers: int | None = None, make: Any = None, given: Any = None
    ) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]:
        return self._opened(max_workers, make, given)

    @contextmanager
    def _opened(self, *options: Any) -> Generator[Any]:
        engine = self.Flow(*options)
        try:
            yield engine
        finally:
            engine.close()


class HandAsync(Hand):
    """A subject whose engine is `Flow`, on the caller's loop."""

    Flow: ClassVar[type[Any]] = AsyncEngine
    backends: ClassVar[Sequence[Backend]] = ("asyncio", "trio")
    sibling = Hand

    def flow(
        self, *, max_workers: int | None = None, make: Any = None, given: Any = None
    ) -> AbstractAsyncContextManager[Any]:
        return self._opened_async(max_workers, make, given)

    @asynccontextmanager
    async def _opened_async(self, *options: Any) -> AsyncGenerator[Any]:
        engine = self.Flow(*options)
        try:
            yield engine
        finally:
            with anyio.CancelScope(shield=True):
                await engine.close()


class HandThreaded(HandAsync):
    """A subject that is awaited, and whose nodes are blocking ones."""

    Flow: ClassVar[type[Any]] = ThreadedEngine
