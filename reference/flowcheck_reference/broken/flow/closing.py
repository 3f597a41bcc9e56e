"""Wrong at close, and in what stays."""

# ruff: noqa: A002 - `id` and `input` are the protocol's names
from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from flowcheck_reference.broken.flow._hand import AsyncEngine, Core, Crew, Engine, Hand, HandAsync, Running
from pytest_flowcheck.protocols import Closed, breaks
from pytest_flowcheck.protocols.flow import Graph, Run


@breaks("FLO-10")
class OnlyClosesOnce(Hand):
    """The second close finds nothing to close. Its context looks first."""

    class Flow(Engine):
        def close(self) -> None:
            if not self.crew.limit:
                raise RuntimeError("the engine is not open")
            super().close()

    @contextmanager
    def _opened(self, *options: Any) -> Generator[Any]:
        engine = self.Flow(*options)
        try:
            yield engine
        finally:
            if engine.crew.limit:
                engine.close()


@breaks("FLO-10")
class LeavesItsThreads(Hand):
    """No run begins any more, and the threads are not told."""

    class Flow(Engine):
        closed = False

        def lent(self, run: Running) -> AbstractContextManager[None]:
            if self.closed:
                raise Closed("the engine is closed")
            return super().lent(run)

        def close(self) -> None:
            self.closed = True


@breaks("FLO-10")
class RunsOnAfterClose(HandAsync):
    """Close frees what it can, and nobody looks whether it has been called."""

    backends = ("asyncio",)

    class Flow(AsyncEngine):
        async def close(self) -> None:
            await super().close()
            self.closed = False


@breaks("FLO-36")
class CloseSendsTheWorkersHome(Hand):
    """Threads end at close, and the coordinator waits for a completion that nobody will send."""

    class Flow(Engine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.crew = GoesHome(self.limit)


class GoesHome(Crew):
    """Size nought once it is closed, whoever still runs."""

    def size(self) -> int:
        return super().size() if self.limit else 0

    def close(self) -> None:
        with self.changed:
            self.limit = 0
            self.changed.notify_all()
            self.gone.wait_for(lambda: not self.threads)


@breaks("FLO-36")
class ClosedMeansCompleted(HandAsync):
    """A coordinator that finds the engine closed hands out no more, and calls what it has a completed run."""

    backends = ("asyncio",)

    class Flow(AsyncEngine):
        async def coordinate(self, run: Running) -> None:
            self.look(run)
            await super().coordinate(run)

        def look(self, run: Running) -> None:
            """Have the run drop what is ready once the engine is closed."""
            taken, back = run.taken, run.back

            def drop(id: str, outcome: Any) -> None:
                back(id, outcome)
                if self.closed:
                    run.ready.clear()

            run.taken, run.back = taken, drop  # type: ignore[method-assign]


def remember(engine: Core, run: Running) -> Running:
    """For a report that nobody asks for."""
    vars(engine).setdefault("runs_so_far", []).append(run)
    return run


@breaks("FLO-16")
class RemembersEveryRun(Hand):
    """A list of all runs."""

    class Flow(Engine):
        def plan(self, graph: Graph, input: Any, max_workers: Any) -> Running:
            return remember(self, super().plan(graph, input, max_workers))


@breaks("FLO-16")
class CachesWhatItPlanned(HandAsync):
    """Graphs are kept by their number, so that no graph need be checked twice; they are never the same again."""

    backends = ("asyncio",)

    class Flow(AsyncEngine):
        def plan(self, graph: Graph, input: Any, max_workers: Any) -> Running:
            cache: dict[int, Graph] = vars(self).setdefault("cache", {})
            return super().plan(cache.setdefault(id(graph), graph), input, max_workers)


@breaks("FLO-16")
class AWatcherPerRun(HandAsync):
    """Each run begins a task that waits for news of it, and nobody ends it."""

    backends = ("asyncio",)

    class Flow(AsyncEngine):
        async def run(self, graph: Graph, input: Any = None, *, max_workers: int | None = None) -> Run:
            watchers: list[asyncio.Task[Any]] = vars(self).setdefault("watchers", [])
            watchers.append(asyncio.ensure_future(asyncio.Event().wait()))
            return await super().run(graph, input, max_workers=max_workers)
