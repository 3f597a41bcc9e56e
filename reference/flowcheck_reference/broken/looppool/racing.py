"""Wrong when a dispatch meets the reaper, or stop."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

from flowcheck_reference.broken.looppool._sound import AsyncEngine, Engine, KeptAsync, Plain, Warm
from pytest_flowcheck.protocols import breaks


@breaks("LOP-09")
class PostedTooLate(Plain):
    """The loop is looked up in one step and posted to in another; between them it may have been closed."""

    class Pool(Engine):
        def post(self, body: Any) -> tuple[Warm, Future[Any]]:
            warm = self.enter()
            future: Future[Any] = Future()
            context = self.context()
            warm.futures.add(future)
            warm.loop.call_soon_threadsafe(self.begin, warm, future, body, context)
            return warm, future


@breaks("LOP-09")
class ReapedUnderTheLock(KeptAsync):
    """The reaper holds the pool's lock until the loop is drained; a cleanup that is stuck holds everybody."""

    class Pool(AsyncEngine):
        def drain(self, warm: Warm, deadline: float) -> None:
            if self.stopped:
                super().drain(warm, deadline)
                return
            with self.lock:
                while tasks := asyncio.all_tasks(warm.loop):
                    for task in tasks:
                        task.cancel()
                    warm.loop.run_until_complete(asyncio.wait(tasks))
