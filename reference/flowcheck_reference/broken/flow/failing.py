"""Wrong once a node has failed."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from flowcheck_reference.broken.flow._sound import AsyncEngine, Engine, Job, Sound, SoundAsync
from pytest_flowcheck.protocols import Failed, Ok, Outcome, Skipped, breaks
from pytest_flowcheck.protocols.flow import Node, Run


@breaks("FLO-03")
class FailedCountsAsDone(Sound):
    """A node waits until its needs are no longer running."""

    class Flow(Engine):
        def failed(self, job: Job, id_: str, error: BaseException) -> None:
            job.error = job.error or error
            for user in job.users[id_]:
                job.missing[user] -= 1
                if not job.missing[user]:
                    job.ready.append(user)

        def upstream(self, job: Job, node: Node) -> dict[str, Any]:
            outcomes = [(need, job.outcomes[need]) for need in node.needs]
            return {need: outcome.value for need, outcome in outcomes if isinstance(outcome, Ok)}


@breaks("FLO-03")
class SkipsTheNextLevelOnly(SoundAsync):
    """A skipped node has come to its end, and whoever waited for it goes on."""

    class Flow(AsyncEngine):
        def failed(self, job: Job, id_: str, error: BaseException) -> None:
            job.error = job.error or error
            for user in job.users[id_]:
                job.outcomes[user] = Skipped(id_)
                for further in job.users[user]:
                    job.missing[further] -= 1
                    if not job.missing[further]:
                        job.ready.append(further)

        def upstream(self, job: Job, node: Node) -> dict[str, Any]:
            outcomes = [(need, job.outcomes[need]) for need in node.needs]
            return {need: outcome.value for need, outcome in outcomes if isinstance(outcome, Ok)}


@breaks("FLO-03")
class DoesNotSayWhy(Sound):
    """Skipped is skipped."""

    class Flow(Engine):
        def answer(self, job: Job) -> Run:
            run = super().answer(job)
            said = {id_: Skipped() if isinstance(o, Skipped) else o for id_, o in run.nodes.items()}
            return Run(run.status, said, run.error)


@breaks("FLO-03")
class CountsErrors(SoundAsync):
    """ "1 of 7 nodes failed", and nothing of the error."""

    class Flow(AsyncEngine):
        def answer(self, job: Job) -> Run:
            run = super().answer(job)
            failed = sum(1 for o in run.nodes.values() if isinstance(o, Failed))
            error = RuntimeError(f"{failed} of {len(job.nodes)} nodes failed")
            said = {id_: Failed(error) if isinstance(o, Failed) else o for id_, o in run.nodes.items()}
            return Run(run.status, said, error if failed else None)


@breaks("FLO-03", "FLO-38")
class TheLastNodeDecides(Sound):
    """The run is what its last node was; that one was only skipped."""

    class Flow(Engine):
        def answer(self, job: Job) -> Run:
            run = super().answer(job)
            last = [o for id_, o in run.nodes.items() if not job.users[id_]]
            failed = any(isinstance(o, Failed) for o in last)
            return Run("failed" if failed else "completed", run.nodes, run.error)


@breaks("FLO-29")
class StartsNothingAfterAFailure(Sound):
    """`if error: break` in the loop that starts nodes."""

    class Flow(Engine):
        def failed(self, job: Job, id_: str, error: BaseException) -> None:
            super().failed(job, id_, error)
            job.ready.clear()

        def advance(self, job: Job) -> None:
            if job.error is not None:
                job.ready.clear()
            super().advance(job)


@breaks("FLO-29")
class CancelsTheOthers(SoundAsync):
    """A task group as it is: the first failure cancels its siblings."""

    class Flow(AsyncEngine):
        async def outcome(self, job: Job, node: Node) -> Outcome[Any]:
            outcome = await super().outcome(job, node)
            if isinstance(outcome, Failed):
                job.group.cancel_scope.cancel()
            return outcome


@breaks("FLO-38")
class CatchesExceptionOnly(Sound):
    """`except Exception` around the node: what else it raises is counted by nobody."""

    class Flow(Engine):
        def landed(self, job: Job, id_: str, future: Future[Any]) -> None:
            if isinstance(future.exception() or Exception(), Exception):
                super().landed(job, id_, future)


@breaks("FLO-38")
class ExitIsNoError(SoundAsync):
    """A node that calls `sys.exit()` is done."""

    class Flow(AsyncEngine):
        async def outcome(self, job: Job, node: Node) -> Outcome[Any]:
            outcome = await super().outcome(job, node)
            return Ok(None) if isinstance(outcome, Failed) and isinstance(outcome.error, SystemExit) else outcome
