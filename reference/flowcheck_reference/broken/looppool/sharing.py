"""Wrong in what dispatches share."""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import Any

from flowcheck_reference.broken.looppool._sound import AsyncEngine, Engine, KeptAsync, Plain, Warm
from pytest_flowcheck.protocols import breaks


@breaks("LOP-01", "LOP-07")
class ALoopForEach(Plain):
    """A loop and a thread per dispatch, as wool had it."""

    class Pool(Engine):
        def enter(self) -> Warm:
            with self.lock:
                self.current = None
                return super().enter()

        def idle(self, warm: Warm) -> None:
            self.retire(warm)


@breaks("LOP-07")
class BoundToTheFirstLoop(KeptAsync):
    """Where many are in flight, each waits for an asyncio.Event of the pool; the first loop on which one does so owns it."""

    class Pool(AsyncEngine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.turn = asyncio.Event()

        async def call(self, warm: Warm, body: Any) -> Any:
            if len(warm.tasks) > 2:
                self.turn.clear()
                asyncio.get_running_loop().call_soon(self.turn.set)
                await self.turn.wait()
            return await body.aio()


@breaks("LOP-20")
class ContextOfTheThread(Plain):
    """Coroutines run in one context, the pool's."""

    class Pool(Engine):
        ours = Context()

        def context(self) -> Context:
            return self.ours
