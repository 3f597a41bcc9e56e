"""Wrong about the end, of runs and of the service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from flowcheck_reference.broken.isolation._sound import AsyncEngine, Engine, Job, Plain, PlainAsync, SoundAsync
from pytest_flowcheck.protocols import breaks


@breaks("ISO-05")
class LeavingWaits(PlainAsync):
    """The pool is a context manager's, which waits for its threads, whatever they do."""

    class Service(AsyncEngine):
        async def leave(self) -> None:
            await super().leave()
            self.pool.shutdown(wait=True)


@breaks("ISO-05")
class TheDispatcherStays(Plain):
    """Each service has a thread that looks after it, and that nobody ends."""

    class Service(Engine):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            threading.Thread(target=threading.Event().wait, daemon=True, name="dispatcher").start()


@breaks("ISO-05")
class ThreadsBeforeEntering(Plain):
    """The constructor starts the threads."""

    def isolation(self, **options: Any) -> AbstractContextManager[Any]:  # type: ignore[override]
        return Warm(super().isolation(**options))


class Warm(AbstractContextManager[Any]):
    """A service with a thread from the first moment on."""

    def __init__(self, service: AbstractContextManager[Any]) -> None:
        self.service, self.over = service, threading.Event()
        self.thread = threading.Thread(target=self.over.wait, daemon=True, name="dispatcher")
        self.thread.start()

    def __enter__(self) -> Any:
        return self.service.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        self.over.set()
        self.thread.join()
        self.service.__exit__(None, None, None)

    def __del__(self) -> None:
        self.over.set()


@breaks("ISO-13")
class LostWithTheWaiter(PlainAsync):
    """A slot is handed to the first in the queue, also if he has been cancelled there."""

    class Service(AsyncEngine):
        def lost(self, entry: tuple[str, asyncio.Future[None]]) -> None:
            """He has not been there."""

        def release(self) -> None:
            if not self.waiting:
                self.running -= 1
                return
            _, turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(None)


@breaks("ISO-13")
class LostWithTheError(Plain):
    """The slot is given back behind the last line of the run, which an error never reaches."""

    class Service(Engine):
        def live(self, job: Job) -> None:
            try:
                value = job.body()
            except BaseException as error:
                self.failed(job, error)
            else:
                self.end()
                job.over.set_result(value)


@breaks("ISO-03", "ISO-13")
class GivenBackTwice(Plain):
    """Cancel gives the slot back, and the end of the run does so again."""

    class Service(Engine):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.jobs: set[str] = set()

        def begin(self, job: Job) -> None:
            self.jobs.add(job.session)
            super().begin(job)

        def cancel(self, *, session: str) -> None:
            super().cancel(session=session)
            if session in self.jobs:
                self.end()


@breaks("ISO-13")
class LostInTheHook(SoundAsync):
    """The slot is taken first, and then the hook is awaited; if that raises, nobody gives the slot back."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": frozenset({"admission"})}

    class Service(AsyncEngine):
        async def run(self, body: Any, *, session: str, then: Sequence[Any] = ()) -> object:
            await self.acquire(session)
            await self.ask(session)
            return await self.carry(self.loop.run_in_executor(self.pool, self.live, body, then))
