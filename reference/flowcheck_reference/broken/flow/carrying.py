"""Wrong in what carries nodes: contexts, executors, the other way in."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any

from flowcheck_reference.broken.flow._sound import AsyncEngine, Engine, Job, Sound, SoundBothWays, perform
from pytest_flowcheck.protocols import Failed, Ok, Outcome, breaks
from pytest_flowcheck.protocols.flow import Graph, Node


@breaks("FLO-13")
class OnlyTheFirstNodesSee(Sound):
    """The context is copied where a node is submitted: in the caller's thread for the first, in a worker for the rest."""

    class Flow(Engine):
        def submit(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Future[Any]:
            job.context = copy_context()
            return super().submit(job, node, upstream)


@breaks("FLO-13")
class TheFirstCallersContext(Sound):
    """The engine copies the context once, as its first run begins."""

    class Flow(Engine):
        context: Any = None

        def begin(self, graph: Graph, input: Any) -> Job:  # noqa: A002 - the protocol's
            job = super().begin(graph, input)
            self.context = job.context = self.context or job.context
            return job


@breaks("FLO-14")
class ReturnedIsRaised(SoundBothWays):
    """`gather(return_exceptions=True)`: what is an exception was raised. Its blocking way in knows the difference."""

    class Flow(AsyncEngine):
        async def outcome(self, job: Job, node: Node) -> Outcome[Any]:
            outcome = await super().outcome(job, node)
            raised = isinstance(outcome, Ok) and isinstance(outcome.value, BaseException)
            return Failed(outcome.value) if isinstance(outcome, Ok) and raised else outcome


@breaks("FLO-14")
class NoneIsNoOutput(SoundBothWays):
    """Its async way in passes on what is not None."""

    class Flow(AsyncEngine):
        def upstream(self, job: Job, node: Node) -> dict[str, Any]:
            return {need: value for need, value in super().upstream(job, node).items() if value is not None}


@breaks("FLO-20")
class ShutsDownWhateverItHas(Sound):
    """`self.executor.shutdown()` in close."""

    class Flow(Engine):
        def close(self) -> None:
            super().close()
            self.executor.shutdown()


@breaks("FLO-20")
class CountsTheWorkers(Sound):
    """Takes its limit from `executor._max_workers`, which some executors happen to have."""

    class Flow(Engine):
        def limit(self, job: Job) -> int:
            executor: Any = self.executor
            return min(int(executor._max_workers), self.max_workers)


@breaks("FLO-20")
class SubmitsItself(Sound):
    """What is submitted is a method of the engine, whose locks no other process can have."""

    class Flow(Engine):
        def submit(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Future[Any]:
            if self.own:
                return super().submit(job, node, upstream)
            return self.executor.submit(self.carry, job, node, upstream)

        def carry(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Any:
            """On a worker."""
            return perform(node.body, node.policy, node.kind, job.input, upstream)


@breaks("FLO-20")
class KeepsToItsOwn(Sound):
    """The caller's executor is taken for the first nodes; the rest run on whatever thread is there."""

    class Flow(Engine):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.helper = Engine(max_workers=1)

        def submit(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Future[Any]:
            return (
                self.helper.submit(job, node, upstream)
                if node.needs and not self.own
                else super().submit(job, node, upstream)
            )

        def close(self) -> None:
            super().close()
            self.helper.close()
