"""TRC-05, 08, 14: sinks that raise, and sinks that emit."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.tracing._shared import (
    Sink,
    SinkError,
    awaited,
    event,
    listening,
    names,
    opened,
    twice,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("TRC-05")
def a_failing_sink_costs_one_batch(lab: Lab) -> None:
    """A sink that raises an Exception loses at most that batch, and later ones arrive.

    Intent: A collector that is restarted once a day must not end tracing for the rest of it.

    Usual cause: No `try` around the sink, so that the dispatcher ends with its first error; what was delivered before is kept and sent again.

    Proof: The sink is held with its first call, which then raises; more events wait, and one is emitted later. What was not in that call arrives, once; flush comes back each time.

    Source: OpenTelemetry specification, "Export() must not raise", and what SDKs do when it does.
    """
    with opened(lab, Sink(lab, held=True).fails(2)) as stage, listening():
        pushing = stage.stuck()
        stage.emitted("a", [1, 2])
        lab.open("sink #1")
        lab.until(lambda: "sink #2" in lab.live(), "the sink is called again", needs="TRC-03")
        stage.emitted("a", [3, 4])
        stage.go()
        lab.until(
            lambda: pushing.done,
            "the flush that was under way when the sink raised comes back",
            expected="later batches are delivered, and who waits for them is told",
            hung=True,
        )
        stage.flushed(needs=None, when=" after the sink raised")
        stage.emitted("a", [5], needs=None)
        stage.flushed(needs=None, when=" after the sink raised")
        lost, came = names(stage.sink.batches[1]), names(stage.sink.delivered)
        wanted = [each for each in ("first1", "a1", "a2", "a3", "a4", "a5") if each not in lost]
        lab.until(
            lambda: set(names(stage.sink.delivered)) >= set(wanted),
            f"the sink raised on {', '.join(lost)}; {', '.join(wanted)} arrive",
            expected="at most that batch is lost",
        )
        came = names(stage.sink.delivered)
        lab.check(
            not twice(came), f"after the sink raised, {', '.join(twice(came))} came again: {', '.join(came)}", "once"
        )


@rule("TRC-08")
def the_sink_may_emit(lab: Lab) -> None:
    """`emit`, `flush` and error callbacks from inside the sink do not deadlock.

    Intent: A sink that uses an HTTP client which is itself traced emits; a handler for errors logs, and the log is traced.

    Usual cause: A lock that is held while the sink runs, and taken by emit; flush that waits for the dispatcher, which is the one that called it.

    Proof: The sink emits, then flushes, from inside its first call; a later call raises, and whoever logs that, emits. Each comes back, and what was emitted inside arrives.

    Source: CPython's `queue.SimpleQueue`, which exists for being re-entrant; OpenTelemetry's "suppress instrumentation".
    """
    answers: list[str] = []

    def does(number: int, came: list[dict[str, Any]], on_loop: bool) -> Any:
        tracer = stage.it.raw
        if number == 1:
            return _inside(tracer) if on_loop else _on_thread(tracer)
        if "bad1" in names(came):
            raise SinkError("the sink failed on bad1")
        return None

    async def _inside(tracer: Any) -> None:
        await awaited(tracer.emit(event("inside", 1)))
        emitted.append("inside1")
        await awaited(tracer.flush())
        answers.append("flush")

    def _on_thread(tracer: Any) -> None:
        if _plain(tracer.emit(event("inside", 1))):
            emitted.append("inside1")
        if stage.it.colour == "blocking":
            try:
                tracer.flush()
            except Exception as error:  # noqa: BLE001 - it may refuse: it came back
                answers.append(f"flush raised {error!r}")
        answers.append("flush")

    emitted: list[str] = []
    logged: list[int] = []

    def on_record() -> None:
        if not logged:
            logged.append(1)
            if _plain(stage.it.raw.emit(event("callback", 1))):
                emitted.append("callback1")

    with opened(lab, Sink(lab, does=does)) as stage, listening(on_record):
        stage.emitted("a", [1])
        stage.flushed(needs="TRC-03" if "flush" in answers else None, when=" when the sink emits and flushes")
        stage.flushed(when=" after that")  # what the sink emitted is through before a call raises, and not lost with it
        stage.emitted("bad", [1])
        call = stage.flush()
        lab.rest(lambda: call.done)  # who emits in a callback is known by then
        lab.until(
            lambda: call.done,
            "flush() comes back when whoever logs the sink's error emits",
            hung=True,
            needs=None if logged else "TRC-05",
        )
        stage.emitted("a", [2])
        stage.flushed(needs=None, when=" once more")
        lab.until(lambda: "flush" in answers, "the sink's own emit and flush come back", hung=True)
        if not emitted:
            raise NotTestable("its sink is called on threads, where an emit that must be awaited can't be made")
        wanted = ["a1", "a2", *emitted]
        lab.until(  # also in the call that raises: whoever gathers for a while may give it bad1 and others at once
            lambda: set(wanted) <= set(names(stage.sink.arrived)),
            f"{', '.join(wanted)} arrive, although the sink emits, and raises on bad1",
            expected="what the sink emits arrives",
        )


def _plain(value: Any) -> bool:
    """Whether it is done: on a thread nothing can be awaited, and such a tracer is not asked."""
    if not inspect.isawaitable(value):
        return True
    if inspect.iscoroutine(value):
        value.close()
    return False


@rule("TRC-14", should=True)
def a_sink_error_is_told_once(lab: Lab) -> None:
    """A sink error is reported, and not once per event.

    Intent: Silence looks like a service without traffic; a line per event fills the disk that the collector was to spare.

    Usual cause: `except Exception: pass`; a log record for each event that failed.

    Proof: The sink is held while twenty events gather, and raises whatever it is given. Its error must be found among the logs, the warnings, on stderr or where uncaught errors go, fewer times than there are events.

    Source: OpenTelemetry specification, "Error handling": SDKs should log, and must not flood.
    """
    many = 20
    with opened(lab, Sink(lab, held=True).fails()) as stage, listening() as heard:
        pushing = stage.stuck()
        stage.emitted("a", range(1, many + 1))
        stage.go()
        lab.until(lambda: pushing.done, f"{pushing.what} comes back", needs="TRC-05")
        stage.flushed(needs="TRC-05")
        lab.settle()
        told = [*heard.reports(), *lab.uncaught]
        calls = len(stage.sink.batches)
        lab.check(
            bool(told),
            f"the sink raised in {calls} calls for {many + 1} events, and nothing tells of it",
            "a log record, a warning, a line on stderr or an uncaught error",
        )
        lab.check(
            len(told) < many,
            f"the sink raised for {many + 1} events, and {len(told)} reports tell of it, such as {told[-1]!r}",
            "fewer than there are events",
        )
