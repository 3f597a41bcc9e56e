"""Wrong when the sink is stuck for long."""

from __future__ import annotations

import threading

from flowcheck_reference.broken.tracing._sound import Counting, Plain
from pytest_flowcheck.protocols import breaks


@breaks("TRC-06")
class HoldsEverything(Plain):
    """A queue without a size."""

    class Tracer(Counting):
        def has_room(self) -> bool:
            return True


@breaks("TRC-06")
class DropsInSilence(Plain):
    """`except Full: pass`."""

    class Tracer(Counting):
        def drop(self) -> None:
            """Who would miss it?"""


@breaks("TRC-06")
class WaitsForRoom(Plain):
    """`put` where `put_nowait` is meant: with a full queue the caller waits for the sink."""

    class Tracer(Counting):
        def has_room(self) -> bool:
            return self.changed.wait_for(lambda: len(self.events) < self.capacity)

        def finished(self, count: int) -> None:
            super().finished(count)
            with self.changed:
                self.changed.notify_all()


@breaks("TRC-11")
class StartsAThreadForEach(Plain):
    """Each event has a thread of its own, which waits for its turn."""

    class Tracer(Counting):
        def fresh(self) -> None:
            super().fresh()
            self.turn = threading.Lock()

        def start(self) -> None:
            threading.Thread(target=self.serve, daemon=True, name="dispatcher of one event").start()

        def serve(self) -> None:
            with self.turn:
                with self.changed:
                    event = self.events.popleft()
                self.thread = threading.current_thread()
                self.deliver([event])
                self.thread = None
