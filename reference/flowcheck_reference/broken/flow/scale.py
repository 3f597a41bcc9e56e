"""Wrong with large graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowcheck_reference.broken.flow._sound import AsyncEngine, Engine, Job, Sound, SoundAsync
from pytest_flowcheck.protocols import Outcome, Skipped, breaks
from pytest_flowcheck.protocols.flow import Node


@breaks("FLO-18")
class SearchesInDepth(Sound):
    """A circle is looked for by a function that calls itself."""

    class Flow(Engine):
        def circle(self, nodes: Mapping[str, Node]) -> list[str]:
            done: set[str] = set()

            def visit(id_: str, path: tuple[str, ...]) -> list[str]:
                if id_ in path[-100:]:
                    return sorted(path[path.index(id_) :])
                if id_ not in done:
                    for need in nodes[id_].needs:
                        if found := visit(need, (*path[-100:], id_)):
                            return found
                    done.add(id_)
                return []

            return next((found for id_ in nodes if (found := visit(id_, ()))), list[str]())


@breaks("FLO-18")
class SkipsInDepth(SoundAsync):
    """A skipped node skips its dependents, which skip theirs."""

    class Flow(AsyncEngine):
        def failed(self, job: Job, id_: str, error: BaseException) -> None:
            job.error = job.error or error
            for user in job.users[id_]:
                if user not in job.outcomes:
                    job.outcomes[user] = Skipped(id_)
                    self.failed(job, user, error)


@breaks("FLO-33")
class WritesAllStatesEachTime(Sound):
    """After each node the states of all are put down for whoever may look, in graphs that a screen can show."""

    class Flow(Engine):
        progress: Mapping[str, str] = {}

        def settled(self, job: Job, id_: str, outcome: Outcome[Any]) -> None:
            super().settled(job, id_, outcome)
            if len(job.nodes) < 1000:
                self.progress = {known: "done" if known in job.outcomes else "waits" for known in job.nodes}
