"""Wrong where runs are beside each other, or inside."""

from __future__ import annotations

from typing import Any

import anyio

from flowcheck_reference.broken.flow._sound import INSIDE, AsyncEngine, Engine, Job, Sound, SoundAsync
from pytest_flowcheck.protocols import Ok, Outcome, breaks
from pytest_flowcheck.protocols.flow import Graph, Node, Run


@breaks("FLO-06")
class ResultsOnSelf(Sound):
    """The engine has one dict of results, which is cleared as a run begins. (dynamiq 0.45)"""

    class Flow(Engine):
        def begin(self, graph: Graph, input: Any) -> Job:  # noqa: A002 - the protocol's
            self.results: dict[str, Any] = {}
            return super().begin(graph, input)

        def settled(self, job: Job, id_: str, outcome: Outcome[Any]) -> None:
            self.results[id_] = outcome.value if isinstance(outcome, Ok) else None
            super().settled(job, id_, outcome)

        def upstream(self, job: Job, node: Node) -> dict[str, Any]:
            return {need: self.results.get(need) for need in node.needs}


@breaks("FLO-06")
class InputOnSelf(Sound):
    """The input is put down on the engine, and picked up on the next line: only another run that begins right there sees it."""

    class Flow(Engine):
        input: Any = None

        def begin(self, graph: Graph, input: Any) -> Job:  # noqa: A002 - the protocol's
            self.input = input
            return super().begin(graph, self.input)


@breaks("FLO-06")
class OneErrorForAll(SoundAsync):
    """`self.error`, set by whoever fails and cleared as a run begins."""

    class Flow(AsyncEngine):
        error: BaseException | None = None

        def begin(self, graph: Graph, input: Any) -> Job:  # noqa: A002 - the protocol's
            self.error = None
            return super().begin(graph, input)

        def failed(self, job: Job, id_: str, error: BaseException) -> None:
            super().failed(job, id_, error)
            self.error = error

        def answer(self, job: Job) -> Run:
            run = super().answer(job)
            return Run("failed" if self.error else "completed", run.nodes, self.error)


@breaks("FLO-37")
class WaitsForItsOwnWorkers(Sound):
    """A node's run queues behind the node."""

    class Flow(Engine):
        def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
            INSIDE.set(None)
            return super().run(graph, input)


@breaks("FLO-37")
class OneSemaphoreForAllRuns(SoundAsync):
    """The slots are the engine's: nodes hold them while they wait for a run whose nodes want one."""

    class Flow(AsyncEngine):
        slots: Any = None

        async def work(self, job: Job, node: Node) -> None:
            if self.slots is None:
                self.slots = anyio.Semaphore(self.max_workers)
            job.slots = self.slots
            await super().work(job, node)
