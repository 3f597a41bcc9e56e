"""Wrong about what goes on beside runs."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from flowcheck_reference.broken.isolation._sound import AsyncEngine, Engine, Job, Plain, PlainAsync, Sound
from pytest_flowcheck.protocols import Closed, breaks


@breaks("ISO-01")
class OnTheDefaultExecutor(PlainAsync):
    """Runs are on the loop's default executor, as OpenHands had them; so is whatever is quickly asked beside them."""

    class Service(AsyncEngine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.ops = self.pool
            self.loop.set_default_executor(self.pool)


@breaks("ISO-01")
class OpsAreRuns(Plain):
    """A short operation is let in like a run."""

    class Service(Engine):
        def short_op(self, *, session: str) -> object:
            return self.run(lambda: session, session=session)


@breaks("ISO-04")
class PartsInTheRunsPool(PlainAsync):
    """What a run does in parallel is submitted to the pool that it is on."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": frozenset({"nested"})}

    class Service(AsyncEngine):
        def parts(self, then: Sequence[Any]) -> None:
            for part in [self.pool.submit(part) for part in then]:
                part.result()


@breaks("ISO-06")
class OneFailsAllFail(PlainAsync):
    """Who waits for a run is cancelled when another one fails, as in a task group."""

    class Service(AsyncEngine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.callers: set[asyncio.Task[Any]] = set()

        async def carry(self, running: asyncio.Future[Any]) -> object:
            task = asyncio.current_task()
            assert task is not None
            self.callers.add(task)
            try:
                return await super().carry(running)
            except Exception:
                for other in self.callers - {task}:
                    other.cancel()
                raise
            finally:
                self.callers.discard(task)


@breaks("ISO-06")
class Swallowed(Plain):
    """A failure is logged, and whoever waits is told that all is well."""

    class Service(Engine):
        def failed(self, job: Job, error: BaseException) -> None:
            job.over.set_result(None)
            self.tell(job, error)


@breaks("ISO-06", "ISO-13")
class TheFirstFailureIsTheEnd(Plain):
    """After a failure the service counts as broken."""

    class Service(Engine):
        broken = False

        def failed(self, job: Job, error: BaseException) -> None:
            self.broken = True
            super().failed(job, error)

        def enter(self, job: Job) -> None:
            if self.broken:
                raise Closed("a run has failed")
            super().enter(job)


@breaks("ISO-07")
class Nameless(Sound):
    """A pool without a prefix."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": frozenset({"threads"})}

    class Service(Engine):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.pool = ThreadPoolExecutor(self.bound)

        def begin(self, job: Job) -> None:
            self.pool.submit(self.live, job)

        def leave(self) -> None:
            super().leave()
            self.pool.shutdown(wait=False)
