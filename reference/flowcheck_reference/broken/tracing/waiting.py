"""Wrong when somebody waits: flush, close, and what comes behind."""

from __future__ import annotations

import threading
from typing import Any

from flowcheck_reference.broken.tracing._sound import Counting, Plain
from pytest_flowcheck.protocols import Closed, breaks


@breaks("TRC-03", "TRC-12", "TRC-13")
class ForgetsTheBatchInFlight(Plain):
    """Flush waits until the queue is empty; the last batch is in the sink by then."""

    class Tracer(Counting):
        def wait(self) -> bool:
            inside = threading.current_thread() is self.thread
            with self.changed:
                return inside or self.changed.wait_for(lambda: not self.events, self.limit)

        def take(self) -> list[Any]:
            batch = super().take()
            with self.changed:
                self.changed.notify_all()
            return batch

        def close(self) -> Any:
            return self.end()


@breaks("TRC-03", "TRC-12")
class ClosesOnce(Plain):
    """The second close is an error, "because there must be a bug somewhere"."""

    class Tracer(Counting):
        def close(self) -> Any:
            if self.closed:
                raise Closed("it is closed already")
            return super().close()


@breaks("TRC-07", "TRC-12")
class NobodyReadsTheQueue(Plain):
    """Behind a close the emit waits until its event is through, and nobody looks for it any more."""

    class Tracer(Counting):
        def late(self) -> None:
            self.accepted += 1
            target = self.accepted
            self.changed.wait_for(lambda: self.done >= target)


@breaks("TRC-13")
class WaitsForEver(Plain):
    """There is a limit, and nobody looks at it."""

    class Tracer(Counting):
        def wait(self) -> bool:
            self.limit = None
            return super().wait()


@breaks("TRC-13")
class NeverTellsThatItGaveUp(Plain):
    """The limit is kept, and what came of the wait is thrown away."""

    class Tracer(Counting):
        def flush(self) -> None:
            super().flush()

        def close(self) -> None:
            super().close()


@breaks("TRC-08")
class FlushesBehindItself(Plain):
    """Flush waits for the sink's turn to be over, also if the sink calls it."""

    class Tracer(Counting):
        def wait(self) -> bool:
            with self.changed:
                target = self.accepted
                return self.changed.wait_for(lambda: self.done >= target, self.limit)


@breaks("TRC-11")
class LeavesItsThread(Plain):
    """Close takes no more and delivers; its dispatcher waits for the next event."""

    class Tracer(Counting):
        def take(self) -> list[Any]:
            batch = super().take()
            if not batch:
                threading.Event().wait()
            return batch

        def close(self) -> Any:
            return self.end()
