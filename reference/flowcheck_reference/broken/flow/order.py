"""Wrong in what runs, when, and at how many a time."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

import anyio

from flowcheck_reference.broken.flow._sound import AsyncEngine, Engine, Job, Sound, SoundAsync, call
from pytest_flowcheck.protocols import Ok, breaks
from pytest_flowcheck.protocols.flow import Graph, Node


@breaks("FLO-01")
class TrustsTheOrderOfTheGraph(Sound):
    """A need that the graph names further down is not there yet, and is not waited for."""

    class Flow(Engine):
        def begin(self, graph: Graph, input: Any) -> Job:  # noqa: A002 - the protocol's
            job = super().begin(graph, input)
            known: set[str] = set()
            for node in graph.nodes:
                job.missing[node.id] = len(known.intersection(node.needs))
                if not job.missing[node.id] and node.needs:
                    job.ready.append(node.id)
                known.add(node.id)
            return job

        def upstream(self, job: Job, node: Node) -> dict[str, Any]:
            outcomes = [(need, job.outcomes.get(need)) for need in node.needs]
            return {need: outcome.value for need, outcome in outcomes if isinstance(outcome, Ok)}


@breaks("FLO-01")
class OutputsAsTheyCame(SoundAsync):
    """Outputs are collected in order of completion, and paired with the needs in order of declaration."""

    class Flow(AsyncEngine):
        def upstream(self, job: Job, node: Node) -> dict[str, Any]:
            if len(node.needs) == 1:
                return super().upstream(job, node)
            came = [o.value for id_, o in job.outcomes.items() if id_ in node.needs and isinstance(o, Ok)]
            return dict(zip(node.needs, came, strict=False))


@breaks("FLO-01")
class LosesANeedNamedFirst(Sound):
    """A node is linked to the needs that it names; the first of four is taken for its own name."""

    class Flow(Engine):
        def upstream(self, job: Job, node: Node) -> dict[str, Any]:
            given = super().upstream(job, node)
            return dict(list(given.items())[len(given) > 2 :])


@breaks("FLO-02")
class OneAfterTheOther(Sound):
    """Nodes are run in topological order, one at a time."""

    class Flow(Engine):
        def limit(self, job: Job) -> int:
            return 1


@breaks("FLO-02")
class OneTooMany(SoundAsync):
    """The node whose slot is given back a moment later counts as ended already."""

    without = frozenset({"mixed"})

    class Flow(AsyncEngine):
        def __init__(self, max_workers: int) -> None:
            super().__init__(max_workers + (max_workers > 1))


@breaks("FLO-02")
class WakesOnlyOne(Sound):
    """A node that has ended starts one that is ready, though two may have become so."""

    class Flow(Engine):
        def advance(self, job: Job) -> None:
            if not job.outcomes:
                super().advance(job)
            elif job.ready and job.live < self.limit(job):
                job.live += 1
                self.launch(job, job.nodes[job.ready.popleft()])
            elif not job.live:
                job.over.set()


@breaks("FLO-02", "FLO-21")
class InWaves(Sound):
    """All that is ready runs, then the next wave. (dynamiq 0.45)"""

    class Flow(Engine):
        def advance(self, job: Job) -> None:
            if not job.live or not job.outcomes:
                job.slots = len(job.ready)  # what is left of this wave to start
            while job.slots and job.live < self.limit(job):
                job.slots -= 1
                job.live += 1
                self.launch(job, job.nodes[job.ready.popleft()])
            if not job.live and not job.ready:
                job.over.set()


@breaks("FLO-02", "FLO-21")
class GathersWaves(SoundAsync):
    """`await gather(*wave)`, and the next."""

    class Flow(AsyncEngine):
        async def go(self, job: Job) -> None:
            while job.ready:
                async with anyio.create_task_group() as job.group:
                    super().advance(job)

        def advance(self, job: Job) -> None:
            """The next wave is started from outside."""


@breaks("FLO-22")
class AsyncNodesBesideThePool(Sound):
    """Blocking nodes wait for a worker, async ones are begun at once on loops of their own."""

    class Flow(Engine):
        def advance(self, job: Job) -> None:
            while job.ready and job.nodes[job.ready[0]].kind == "async":
                job.live += 1
                self.launch(job, job.nodes[job.ready.popleft()])
            super().advance(job)

        def submit(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Future[Any]:
            if node.kind != "async":
                return super().submit(job, node, upstream)
            future: Future[Any] = Future()

            def work() -> None:
                try:
                    future.set_result(call(node.body, node.kind, job.input, upstream))
                except BaseException as error:
                    future.set_exception(error)

            threading.Thread(target=copy_context().run, args=(work,), name="flow async node").start()
            return future


@breaks("FLO-22")
class ThreadsBesideTheLoop(SoundAsync):
    """The semaphore is for what runs on the loop; blocking nodes have their threads, and those have a limit of their own."""

    class Flow(AsyncEngine):
        async def work(self, job: Job, node: Node) -> None:
            if node.kind == "blocking":
                outcome = await self.outcome(job, node)
                self.settled(job, node.id, outcome)
                self.advance(job)
            else:
                await super().work(job, node)
