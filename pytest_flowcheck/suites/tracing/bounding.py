"""TRC-06, 11: what a stuck sink may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.tracing._shared import listening, opened

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab

CAPACITY: Final = 8
EMITTED: Final = 64


@rule("TRC-06")
def memory_is_bounded(lab: Lab) -> None:
    """Memory is bounded under a stuck sink; what is dropped is counted and visible.

    Intent: A collector that is down for an hour must not cost the service its memory; and whoever reads the trace wants to know that it has holes.

    Usual cause: `queue.Queue()` without a size; `except Full: pass`.

    Proof: The tracer is opened for 8 events or so. Its sink is stuck, and 64 more are emitted; then it is let go. What came and what `dropped()` counts must be all of them, and no more than three times 8 may have been held.

    Source: OpenTelemetry specification, maxQueueSize: "After the size is reached, spans are dropped".
    """
    with opened(lab, held=True, capacity=CAPACITY) as stage, listening():
        pushing = stage.stuck()
        stage.emitted("more", [1, 2])
        stage.emitted("more", range(3, EMITTED + 1), needs=None)
        stage.go()
        lab.until(lambda: pushing.done, f"{pushing.what} comes back", needs="TRC-03")
        stage.flushed()
        came, dropped = len(stage.sink.arrived), stage.dropped()
        lab.check(
            came <= 3 * CAPACITY,
            f"opened for {CAPACITY} events, it held {came} of {EMITTED + 1} for a sink that was stuck",
            f"it holds about {CAPACITY}, at most {3 * CAPACITY}, and drops the rest",
        )
        lab.check(
            came + dropped == EMITTED + 1,
            f"{EMITTED + 1} events were emitted, {came} reached the sink, and dropped() says {dropped}",
            f"it says {EMITTED + 1 - came}",
        )


@rule("TRC-11")
def one_dispatcher_that_ends(lab: Lab) -> None:
    """At most one dispatcher thread per tracer, gone after `close`.

    Intent: A thread per event is no lighter than posting it; one that outlives its tracer is a leak in each test and reload.

    Usual cause: `Thread(target=post, args=(event,)).start()`; close that sets a flag which the dispatcher, blocked in `get`, never reads.

    Proof: While the sink is stuck, three emits are made; again after a flush. There may be one thread more than before the tracer was opened, the loop's own not counted. After close it must end, or it is proven that it never will.

    Source: EXE-17; `logging.handlers.QueueListener`.
    """
    with opened(lab, held=True) as stage:
        pushing = stage.stuck()
        for turn in (1, 2):
            for number in (1, 2, 3):
                stage.emitted("more", [10 * turn + number])
            lab.rest(lambda: len(stage.threads()) > 1)
            threads = stage.threads()
            lab.check(
                len(threads) <= 1,
                f"with the sink {'stuck' if turn == 1 else 'at work'}, the tracer has {len(threads)} threads: "
                f"{', '.join(t.name for t in threads)}",
                "one dispatcher at most",
                leaked=True,
            )
            stage.go()
            lab.until(lambda: pushing.done, f"{pushing.what} comes back", needs="TRC-03")
            stage.flushed()
        threads = stage.threads()
        closing = stage.close()
        lab.until(lambda: closing.done, "close() comes back", needs="TRC-03")
        threads += [thread for thread in stage.threads() if thread not in threads]
        for thread in threads:
            lab.call(f"the thread {thread.name!r}", thread.join)  # its end is an event, then
        lab.until(
            lambda: not any(thread.is_alive() for thread in threads),
            f"after close() the dispatcher is gone; there was {', '.join(t.name for t in threads) or 'none'}",
            expected="its thread has ended",
        )
