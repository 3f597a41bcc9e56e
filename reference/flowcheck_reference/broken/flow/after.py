"""Wrong after a run that failed or was cancelled."""

from __future__ import annotations

from collections import deque
from typing import Any

from flowcheck_reference.broken.flow._sound import AsyncEngine, Engine, Job, Sound, SoundAsync
from pytest_flowcheck.protocols import breaks
from pytest_flowcheck.protocols.flow import Graph, Run


@breaks("FLO-07")
class TheGraphStaysDirty(SoundAsync):
    """The states of the last run are kept with its graph, and a run that fails does not clear them. (dynamiq 0.45)"""

    class Flow(AsyncEngine):
        def __init__(self, max_workers: int | None = None) -> None:
            super().__init__(max_workers)
            self.dirty: dict[Graph, Job] = {}

        def begin(self, graph: Graph, input: Any) -> Job:  # noqa: A002 - the protocol's
            return self.dirty.get(graph) or super().begin(graph, input)

        async def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
            run = await super().run(graph, input)
            if run.status == "failed":
                self.dirty = {graph: Job({}, None, {}, {}, deque(), outcomes=dict(run.nodes), error=run.error)}
            return run


@breaks("FLO-07")
class FailedOnceFailedForEver(Sound):
    """Ids of failed nodes are remembered, so that their dependents can be told quickly."""

    class Flow(Engine):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.bad: dict[str, BaseException] = {}

        def begin(self, graph: Graph, input: Any) -> Job:  # noqa: A002 - the protocol's
            job = super().begin(graph, input)
            job.error = next((error for id_, error in self.bad.items() if id_ in job.nodes), None)
            return job

        def failed(self, job: Job, id_: str, error: BaseException) -> None:
            super().failed(job, id_, error)
            self.bad[id_] = error

        def answer(self, job: Job) -> Run:
            return Run("failed" if job.error else "completed", job.outcomes, job.error)


@breaks("FLO-07")
class FailuresKeepTheirSlots(SoundAsync):
    """A slot is given back by nodes that return."""

    class Flow(AsyncEngine):
        lost = 0

        def begin(self, graph: Graph, input: Any) -> Job:  # noqa: A002 - the protocol's
            job = super().begin(graph, input)
            self.max_workers = max(1, self.max_workers - self.lost)
            self.lost = 0
            return job

        def failed(self, job: Job, id_: str, error: BaseException) -> None:
            super().failed(job, id_, error)
            self.lost += 1
