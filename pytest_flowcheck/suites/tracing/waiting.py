"""TRC-03, 07, 13: flush and close, and what comes behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.protocols import Closed
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.tracing._shared import LIMIT, listening, names, opened, says_all

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.suites.tracing._shared import Heard, Stage


@rule("TRC-03")
def flush_and_close_wait_for_delivery(lab: Lab) -> None:
    """`flush` and `close` return after all emitted before is delivered; `close` is idempotent.

    Intent: A short script, a serverless function and a test each end with one of the two, and look at the sink next.

    Usual cause: flush waits until the queue is empty, while its last batch is still in the sink; a second close that waits for a thread which is no more.

    Proof: The sink is held with one event, and two more wait, when flush is called: it may not come back. Let go, it must, and then all three are delivered. The same with close, and a close that comes in beside it; then once more.

    Source: OpenTelemetry specification, ForceFlush and Shutdown; Python issue bpo-30520 on `QueueListener.stop`.
    """
    with opened(lab, held=True) as stage:
        _delivers(lab, stage, "flush()", [1, 2, 3])
        lab.gates.shut_all()
        _delivers(lab, stage, "close()", [4, 5, 6], behind=[1, 2, 3])
        again = stage.close(", once more")
        lab.until(lambda: again.done, "a second close() comes back", expected="close is idempotent", hung=True)
        stage.returned(again)


def _delivers(lab: Lab, stage: Stage, what: str, numbers: list[int], behind: list[int] | None = None) -> None:
    stage.emitted("a", numbers)
    calls = [stage.flush()] if what == "flush()" else [stage.close(), stage.close(", beside")]
    lab.until(lambda: bool(lab.live()) or calls[0].done, "the sink is called")
    lab.settle()
    early = [call.what for call in calls if call.done]
    lab.check(
        len(early) < len(calls),  # of two that close at once one may leave the wait to the other
        f"{' and '.join(early)} came back while {', '.join(lab.live()) or 'nothing'} was in flight; "
        f"delivered was {', '.join(stage.settled()) or 'nothing'}",
        f"it returns after {', '.join(f'a{n}' for n in numbers)} are delivered",
    )
    stage.go()
    wanted = [f"a{n}" for n in [*(behind or []), *numbers]]
    for call in calls:
        lab.until(lambda call=call: call.done, f"{call.what} comes back, once the sink does", hung=True)  # type: ignore[misc]
        stage.returned(call)
    delivered: list[str] = max((call.value[1] for call in calls), key=len)
    lab.check(
        sorted(delivered) == wanted,
        f"when {' and '.join(call.what for call in calls)} came back, delivered was {', '.join(delivered) or 'nothing'}",
        ", ".join(wanted),
    )


@rule("TRC-07")
def emit_behind_close(lab: Lab) -> None:
    """`emit` after `close` raises or is ignored, as declared, and never hangs.

    Intent: Somebody always emits last: a finaliser, a worker that is slow to end.

    Usual cause: The event is put into a queue that nobody reads any more; once that is full, the emit waits for ever.

    Proof: After close, and again when the tracer was closed before its first event, events are emitted until it is clear that they come back; what is declared to be ignored does not reach the sink.

    Source: OpenTelemetry specification, "After Shutdown, calls to OnEnd are not allowed, SDKs should ignore these calls".
    """
    for used in (True, False):
        with opened(lab) as stage:
            if used:
                stage.emitted("a", [1])
            closing = stage.close()
            lab.until(lambda closing=closing: closing.done, "close() comes back", needs="TRC-03")  # type: ignore[misc]
            stage.returned(closing, "TRC-03")
            for number in (2, 3):
                _late(lab, stage, number, "close()" if used else "close() of a tracer that was never used")
            if lab.declared("after_close") == "ignore":
                lab.settle()
            came = [each for each in names(stage.sink.arrived) if each != "a1"]
            lab.check(not came, f"emitted after close(), {', '.join(came)} reached the sink", "nothing does")
            if used and not stage.sink.arrived:
                raise Inconclusive("close() came back, and the sink was given nothing", because_of="TRC-03")


def _late(lab: Lab, stage: Stage, number: int, after: str) -> None:
    call = stage.emit("a", [number])
    lab.until(lambda: call.done, f"emit after {after} comes back", expected="it never hangs", hung=True)
    if lab.declared("after_close") == "ignore":
        lab.check(call.error is None, f"emit after {after} raised {call.error!r}", "it is ignored, as declared")
    else:
        lab.check(
            lab.is_a(call.error, Closed),
            f"emit after {after} {'returned' if call.error is None else f'raised {call.error!r}'}",
            "Closed, or what the subject's `errors` map it to: declared is after_close = 'raise'",
        )


@rule("TRC-13")
def waits_are_bounded(lab: Lab) -> None:
    """With a stuck sink `flush` and `close` return within their limit and say that not all was delivered.

    Intent: A collector that answers no more must not keep a service from stopping, and whoever looks for lost events wants to hear of them.

    Usual cause: `queue.join()`, `thread.join()`; a timeout whose outcome is thrown away.

    Proof: The tracer is opened with a limit of 0.05 s, and its sink waits at a gate that is not opened. flush and close come back, by a value that isn't None, True or 0, an exception, a warning or a log record: the rule waits for the event, and measures nothing.

    Source: OpenTelemetry specification, "ForceFlush should complete or abort within some timeout"; `threading.Thread.join` tells nothing.
    """
    with opened(lab, held=True, limit=LIMIT) as stage:
        with listening() as heard:
            first = stage.stuck()
            lab.until(lambda: first.done, "flush() comes back within its limit, while the sink is stuck", hung=True)
            _says(lab, first, heard, "flush()")
        stage.emitted("more", [1, 2])  # not before: who looks only at the queue would find it empty or not, by chance
        with listening() as heard:
            closing = stage.close()
            lab.until(lambda: closing.done, "close() comes back within its limit, while the sink is stuck", hung=True)
            _says(lab, closing, heard, "close()")
        stage.go()


def _says(lab: Lab, call: Call[list[object]], heard: Heard, what: str) -> None:
    if call.error is not None:
        return
    value = call.value[0]
    lab.check(
        not says_all(value) or bool(heard.reports()),
        f"the sink is stuck, {what} returned {value!r}, and nothing says that events were not delivered",
        "a value that isn't None, True or 0, an exception, a warning or a log record",
    )
