"""Wrong when something is emitted."""

from __future__ import annotations

import threading
from typing import Any

from flowcheck_reference.broken.tracing._sound import Counting, Plain
from pytest_flowcheck.protocols import breaks


@breaks("TRC-01", "TRC-12")
class PostsOnTheCallersThread(Plain):
    """`emit` is a request to the collector."""

    class Tracer(Counting):
        def emit(self, event: Any) -> None:
            if self.closed:
                self.late()
            self.post([self.copy(event)])


@breaks("TRC-01", "TRC-08", "TRC-12", "TRC-13")
class HoldsItsLockInTheSink(Plain):
    """The lock of the queue is held while the sink works."""

    class Tracer(Counting):
        def post(self, batch: list[Any]) -> None:
            with self.changed:
                super().post(batch)


@breaks("TRC-02", "TRC-12")
class LastInFirstOut(Plain):
    """A stack, where a queue is meant."""

    class Tracer(Counting):
        def take(self) -> list[Any]:
            with self.changed:
                self.changed.wait_for(lambda: self.events or self.closed)
                return [self.events.pop() for _ in range(min(len(self.events), self.batch))]


@breaks("TRC-16")
class KeepsTheCallersDict(Plain):
    """What is queued is the caller's own object."""

    class Tracer(Counting):
        def copy(self, event: Any) -> Any:
            return event


@breaks("TRC-17")
class StartsWithoutALock(Plain):
    """Two first emits each find no dispatcher. The two never post at once, so that nothing else is to be seen of it."""

    class Tracer(Counting):
        def fresh(self) -> None:
            super().fresh()
            self.posting = threading.Lock()

        def emit(self, event: Any) -> None:
            if self.thread is None and not self.closed:
                thread = threading.Thread(target=self.serve, daemon=True, name="dispatcher")
                self.thread = thread
                thread.start()
            super().emit(event)

        def serve(self) -> None:
            while True:
                with self.posting:
                    batch = self.take()
                    if not batch:
                        return
                    self.deliver(batch)
