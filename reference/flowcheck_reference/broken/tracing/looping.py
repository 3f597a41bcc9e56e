"""Wrong on an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from flowcheck_reference.broken.tracing._sound import CountingOnLoops, OnLoops, SoundPump
from pytest_flowcheck.protocols import breaks


@breaks("TRC-01", "TRC-10", "TRC-12")
class PostsInACoroutine(OnLoops):
    """`async def emit`, and a blocking request in it."""

    class Tracer(CountingOnLoops):
        async def emit(self, event: Any) -> None:  # type: ignore[override]
            if self.closed:
                self.late()
            self.post([self.copy(event)])


@breaks("TRC-10")
class UsesUpTheDefaultExecutor(OnLoops):
    """Each event is handed to `loop.run_in_executor(None, ...)`, where it waits for its turn."""

    class Tracer(CountingOnLoops):
        def fresh(self) -> None:
            super().fresh()
            self.turn, self.loop = threading.Lock(), asyncio.get_running_loop()

        def start(self) -> None:
            self.loop.run_in_executor(None, self.serve)

        def serve(self) -> None:
            with self.turn:
                with self.changed:
                    event = self.events.popleft()
                self.deliver([event])


@breaks("TRC-15")
class LostWithTheLoop(SoundPump):
    """Events are sent by a task of the loop on which they were emitted, and gone with it."""

    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {}


@breaks("TRC-12", "TRC-18")
class JoinsOnTheLoop(OnLoops):
    """Close is a coroutine that joins the dispatcher's thread."""

    class Tracer(CountingOnLoops):
        async def close(self) -> Any:
            delivered = self.end()
            if delivered and self.thread is not None:
                self.thread.join()
            return delivered
