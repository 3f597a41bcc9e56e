"""What the broken flows start from: two engines that keep every rule, with one method for each thing to spoil.

`Engine` is in continuation style: a node that has ended starts those that waited for it, from its own thread, on a
`ThreadPoolExecutor` or the caller's executor. `AsyncEngine` starts a task for each, in a task group, on asyncio and
trio. Neither knows the other, nor the reference engine.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import AsyncGenerator, Generator, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

import anyio
import anyio.to_thread
from anyio.lowlevel import checkpoint

from pytest_flowcheck.protocols import Closed, Failed, Invalid, Ok, Outcome, Refused, Skipped
from pytest_flowcheck.protocols.flow import Graph, Kind, Node, Run
from pytest_flowcheck.protocols.retry import RetryPolicy

INSIDE: ContextVar[Any] = ContextVar("INSIDE", default=None)
"""The engine whose node this is."""


@dataclass
class Job:
    """One run under way. `lock` guards the counters where there are threads."""

    nodes: dict[str, Node]
    input: Any
    missing: dict[str, int]
    """How many of a node's needs are still to come."""
    users: dict[str, list[str]]
    """Who needs it."""
    ready: deque[str]
    live: int = 0
    outcomes: dict[str, Outcome[Any]] = field(default_factory=dict[str, Outcome[Any]])
    error: BaseException | None = None
    """The first node's own error."""
    context: Any = field(default_factory=copy_context)
    lock: Any = field(default_factory=threading.RLock)
    over: threading.Event = field(default_factory=threading.Event)
    slots: Any = None
    group: Any = None


class Core:
    """What both engines decide alike."""

    def begin(self, graph: Graph, input: Any) -> Job:  # noqa: A002 - the protocol's
        """A run, before its first node.

        Raises:
            Invalid: the graph makes no sense.
        """
        nodes = self.check(graph)
        users: dict[str, list[str]] = {id_: [] for id_ in nodes}
        for node in nodes.values():
            for need in node.needs:
                users[need].append(node.id)
        missing = {id_: len(node.needs) for id_, node in nodes.items()}
        return Job(nodes, input, missing, users, deque(id_ for id_, count in missing.items() if not count))

    def check(self, graph: Graph) -> dict[str, Node]:
        """Its nodes by id; refuse ids that are there twice, needs that are not there, and cycles."""
        nodes = {node.id: node for node in graph.nodes}
        if twice := [id_ for id_, count in Counter(node.id for node in graph.nodes).items() if count > 1]:
            raise Invalid(f"more than one node is called {', '.join(twice)}")
        for node in graph.nodes:
            if unknown := [need for need in node.needs if need not in nodes]:
                raise Invalid(f"{node.id} needs {', '.join(unknown)}, which is not there")
        if circle := self.circle(nodes):
            raise Invalid(f"these nodes need each other: {', '.join(circle)}")
        return nodes

    def circle(self, nodes: Mapping[str, Node]) -> list[str]:
        """The nodes on circles, and between them: what is left once all is taken away that nobody needs, or that needs nobody."""
        needs = {id_: set(node.needs) for id_, node in nodes.items()}
        users: dict[str, set[str]] = {id_: set() for id_ in nodes}
        for id_, needed in needs.items():
            for need in needed:
                users[need].add(id_)
        for one, other in ((needs, users), (users, needs)):
            free = [id_ for id_, links in one.items() if not links]
            while free:
                gone = free.pop()
                for neighbour in other.pop(gone, ()):
                    one[neighbour].discard(gone)
                    if not one[neighbour]:
                        free.append(neighbour)
                del one[gone]
        return sorted(needs.keys() & users.keys())

    def upstream(self, job: Job, node: Node) -> dict[str, Any]:
        """What its needs gave."""
        given: dict[str, Any] = {}
        for need in node.needs:
            outcome = job.outcomes[need]
            assert isinstance(outcome, Ok)
            given[need] = outcome.value
        return given

    def settled(self, job: Job, id_: str, outcome: Outcome[Any]) -> None:
        """A node has come to its end: who waited for it is ready now, or will never be."""
        job.outcomes[id_] = outcome
        job.live -= 1
        if isinstance(outcome, Failed):
            self.failed(job, id_, outcome.error)
            return
        for user in job.users[id_]:
            job.missing[user] -= 1
            if not job.missing[user]:
                job.ready.append(user)

    def failed(self, job: Job, id_: str, error: BaseException) -> None:
        """All that depends on it is skipped, near and far; all else goes on."""
        job.error = job.error or error
        lost = [(user, id_) for user in job.users[id_]]
        while lost:
            user, because = lost.pop()
            if user not in job.outcomes:
                job.outcomes[user] = Skipped(because)
                lost += [(further, user) for further in job.users[user]]

    def answer(self, job: Job) -> Run:
        """Once nothing runs any more."""
        failed = any(isinstance(outcome, Failed) for outcome in job.outcomes.values())
        return Run("failed" if failed else "completed", job.outcomes, job.error)


def perform(body: Any, policy: RetryPolicy, kind: Kind, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002
    """On a worker: the attempts of one node. Picklable, for executors of processes."""
    for number in range(1, policy.attempts + 1):
        try:
            return attempt(body, policy, kind, input, upstream)
        except policy.retry_on:
            if number == policy.attempts:
                raise
            threading.Event().wait(policy.backoff)
    raise ValueError(f"attempts={policy.attempts}")


def attempt(body: Any, policy: RetryPolicy, kind: Kind, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002
    """One attempt; where it has a limit, on a thread of its own, which is left to itself when the limit is over."""
    if policy.timeout is None:
        return call(body, kind, input, upstream)
    ends: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            ends.put((call(body, kind, input, upstream), None))
        except BaseException as error:
            ends.put((None, error))

    threading.Thread(target=copy_context().run, args=(run,), daemon=True, name="flow attempt").start()
    try:
        value, error = ends.get(timeout=policy.timeout)
    except Empty:
        raise TimeoutError(f"{body.__name__} took longer than {policy.timeout:g} s") from None
    if error is not None:
        raise error
    return value


def call(body: Any, kind: Kind, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002
    """Call the body, or await it on a loop of its own."""
    return anyio.run(body.aio, input, upstream) if kind == "async" else body(input, upstream)


class Engine(Core):
    """On threads."""

    def __init__(self, max_workers: int | None = None, executor: Executor | None = None) -> None:
        self.max_workers = max_workers or min(32, len(os.sched_getaffinity(0)) + 4)
        self.own = executor is None
        self.executor = executor or ThreadPoolExecutor(self.max_workers, "flow worker")
        self.closed, self.jobs, self.changed = False, 0, threading.Condition()

    def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
        if INSIDE.get() is self:
            raise Refused("a node may not start a run of the engine that carries it: all workers may be its like")
        job = self.begin(graph, input)
        with self.changed:
            if self.closed:
                raise Closed("run after close")
            self.jobs += 1
        try:
            with job.lock:
                self.advance(job)
            job.over.wait()
        finally:
            with self.changed:
                self.jobs -= 1
                self.changed.notify_all()
        return self.answer(job)

    def advance(self, job: Job) -> None:
        """Start what is ready and has room; `job.lock` is held."""
        while job.ready and job.live < self.limit(job):
            job.live += 1
            self.launch(job, job.nodes[job.ready.popleft()])
        if not job.live and not job.ready:
            job.over.set()

    def limit(self, job: Job) -> int:
        """How many nodes of a run may be in flight."""
        return self.max_workers

    def launch(self, job: Job, node: Node) -> None:
        """Give the node to a worker."""
        future = self.submit(job, node, self.upstream(job, node))
        future.add_done_callback(partial(self.landed, job, node.id))

    def submit(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Future[Any]:
        """In the caller's context where the executor is our own; another one may have no way to carry that."""
        what: Any = node.body, node.policy, node.kind, job.input, upstream
        if not self.own:
            return self.executor.submit(perform, *what)
        context = job.context.copy()
        context.run(INSIDE.set, self)
        return self.executor.submit(context.run, perform, *what)

    def landed(self, job: Job, id_: str, future: Future[Any]) -> None:
        """On the worker that ran the node."""
        error = future.exception()
        with job.lock:
            self.settled(job, id_, Ok(future.result()) if error is None else Failed(error))
            self.advance(job)

    def close(self) -> None:
        """Let runs finish, then free the threads that are ours."""
        with self.changed:
            self.closed = True
            self.changed.wait_for(lambda: not self.jobs)
        if self.own:
            self.executor.shutdown()


class AsyncEngine(Core):
    """On the caller's loop."""

    def __init__(self, max_workers: int | None = None) -> None:
        self.max_workers = max_workers or min(32, len(os.sched_getaffinity(0)) + 4)
        self.closed = False

    async def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
        if self.closed:
            raise Closed("run after close")
        job = self.begin(graph, input)
        job.slots = anyio.Semaphore(self.max_workers)
        await self.go(job)
        await checkpoint()  # where only threads were waited for, nobody has told of a cancellation yet
        return self.answer(job)

    async def go(self, job: Job) -> None:
        """Run all of it."""
        async with anyio.create_task_group() as job.group:
            self.advance(job)

    def advance(self, job: Job) -> None:
        """Start a task for each node that is ready."""
        while job.ready:
            job.live += 1
            job.group.start_soon(self.work, job, job.nodes[job.ready.popleft()])

    async def work(self, job: Job, node: Node) -> None:
        """The node's task."""
        async with job.slots:
            outcome = await self.outcome(job, node)
        self.settled(job, node.id, outcome)
        self.advance(job)

    async def outcome(self, job: Job, node: Node) -> Outcome[Any]:
        """Run it, and say what became of it; only cancellation passes."""
        try:
            return Ok(await self.perform(job, node, self.upstream(job, node)))
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # SystemExit too is the node's own end
            return Failed(error)

    async def perform(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Any:
        """Its attempts."""
        policy = node.policy
        for number in range(1, policy.attempts + 1):
            try:
                return await self.attempt(job, node, upstream)
            except policy.retry_on:
                if number == policy.attempts:
                    raise
                with anyio.move_on_after(policy.backoff):
                    await anyio.Event().wait()
        raise ValueError(f"attempts={policy.attempts}")

    async def attempt(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Any:
        """One attempt; what is awaited is cancelled when its limit is over, what is called is left to itself."""
        if node.policy.timeout is None:
            return await self.call(job, node, upstream)
        with anyio.move_on_after(node.policy.timeout) as limit:
            return await self.call(job, node, upstream)
        assert limit.cancelled_caught
        raise TimeoutError(f"{node.id} took longer than {node.policy.timeout:g} s")

    async def call(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Any:
        """Await the body here, or call it on a thread."""
        if node.kind != "blocking":
            return await node.body.aio(job.input, upstream)
        return await anyio.to_thread.run_sync(
            node.body,
            job.input,
            upstream,
            abandon_on_cancel=node.policy.timeout is not None,
            limiter=anyio.CapacityLimiter(1),
        )

    async def close(self) -> None:
        """No more runs."""
        self.closed = True


class Sound:
    """A subject whose flow is `Flow`, on threads."""

    Flow: ClassVar[type[Any]] = Engine
    can: ClassVar[AbstractSet[str]] = frozenset({"attempts", "context", "continue", "executor", "mixed"})
    without: ClassVar[AbstractSet[str]] = frozenset()
    """Capabilities that this bug would break as well, and that are therefore not claimed."""
    version: ClassVar[str] = "broken on purpose"
    backends: ClassVar[tuple[str, ...]] = ("asyncio",)

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        return {"flow": self.can - self.without}

    def flow(self, **options: Any) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]:
        return self._opened(options)

    @contextmanager
    def _opened(self, options: Mapping[str, Any]) -> Generator[Any]:
        flow = self.Flow(**options)
        try:
            yield flow
        finally:
            flow.close()


class SoundAsync(Sound):
    """A subject whose flow is `Flow`, on the caller's loop."""

    Flow: ClassVar[type[Any]] = AsyncEngine
    can: ClassVar[AbstractSet[str]] = frozenset({"attempts", "context", "continue", "mixed"})
    backends: ClassVar[tuple[str, ...]] = ("asyncio", "trio")

    def flow(self, **options: Any) -> AbstractAsyncContextManager[Any]:
        return self._opened_async(options)

    @asynccontextmanager
    async def _opened_async(self, options: Mapping[str, Any]) -> AsyncGenerator[Any]:
        flow = self.Flow(**options)
        try:
            yield flow
        finally:
            await flow.close()


class SoundBothWays(SoundAsync):
    """One that names its blocking way in."""

    sibling: ClassVar[type] = Sound
