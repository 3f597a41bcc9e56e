"""Wrong when something fails."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from flowcheck_reference.broken.looppool._sound import AsyncEngine, Engine, Plain, PlainAsync, Warm
from pytest_flowcheck.protocols import breaks


@breaks("LOP-08")
class AnErrorEndsTheLoop(Plain):
    """What a coroutine raises is told, and the loop is given up."""

    class Pool(Engine):
        def failed(self, warm: Warm, future: Future[Any], error: BaseException) -> None:
            if isinstance(error, Exception):
                with self.lock:
                    self.retire(warm)
            super().failed(warm, future, error)


@breaks("LOP-08")
class ACancelledCallerIsForgotten(PlainAsync):
    """Nobody tells the coroutine that its caller is gone."""

    class Pool(AsyncEngine):
        def cancel(self, warm: Warm, future: Future[Any]) -> None:
            """It will come to its end some day."""


@breaks("LOP-18")
class StoppedForGood(Plain):
    """The thread runs the loop once; whoever stops the loop ends the thread, and the pool doesn't look."""

    class Pool(Engine):
        def live(self, warm: Warm) -> None:
            asyncio.set_event_loop(warm.loop)
            with suppress(BaseException):
                warm.loop.run_forever()
            if warm.leaving:
                self.end(warm)

        def enter(self) -> Warm:
            with self.lock:
                warm = self.current
                if warm is None or self.stopped or warm.thread.is_alive():
                    return super().enter()
                warm.users += 1
                warm.uses += 1
                return warm

        def wait(self, warm: Warm) -> None:
            if not warm.thread.is_alive() and not warm.over.is_set():
                self.end(warm)
            super().wait(warm)


@breaks("LOP-19")
class ExitGoesThrough(Plain):
    """`except Exception`: SystemExit goes on to the loop, and nobody tells the caller."""

    class Pool(Engine):
        def failed(self, warm: Warm, future: Future[Any], error: BaseException) -> None:
            if not isinstance(error, Exception):
                raise error
            super().failed(warm, future, error)

        def carried(self, warm: Warm, future: Future[Any], task: asyncio.Task[None]) -> None:
            if not task.cancelled() and isinstance(task.exception(), SystemExit | KeyboardInterrupt):
                warm.tasks.discard(task)
                return
            super().carried(warm, future, task)
