"""TRC-10, 15, 18: from coroutines."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.probes.loops import run
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.tracing._shared import awaited, event, names, opened

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.suites.tracing._shared import Stage

MANY: Final = 48
"""More than asyncio's default executor has threads (32 at most), and than trio lets run in threads (40)."""


def _answers(lab: Lab, stage: Stage, while_: str) -> None:
    """Another coroutine of the loop runs: asked from outside, so that a frozen loop is a proven fact."""
    beside = stage.it.start("another coroutine", lambda _: None)
    lab.until(
        lambda: beside.done,
        f"the loop runs another coroutine while {while_}",
        expected="the loop serves its other coroutines",
        hung=True,
    )


@rule("TRC-10", "async")
def emit_never_blocks_the_loop(lab: Lab) -> None:
    """`emit` from a coroutine never blocks the loop, nor uses up its default executor.

    Intent: A loop that waits for a collector serves nobody; and with its default executor go name lookups and files.

    Usual cause: A blocking post in a coroutine; `loop.run_in_executor(None, post, event)`, whose threads are all stuck in the sink soon.

    Proof: The sink is stuck; 48 events are emitted, each by a task of its own. All come back, another coroutine runs, and a call handed to the loop's own threads comes back, too: asked from outside of the loop.

    Source: dynamiq 673; OpenHands 3169, whose default executor was used up.
    """
    with opened(lab, held=True) as stage:
        first = stage.emit("a", [1])
        _answers(lab, stage, "a coroutine emits")
        calls = [first, *(stage.emit("a", [number]) for number in range(2, MANY + 1))]
        lab.until(
            lambda: all(call.done for call in calls),
            f"{MANY} emits come back while the sink is stuck",
            expected="emit hands over and returns",
            hung=True,
        )
        for call in calls:
            stage.returned(call)
        _answers(lab, stage, "the sink is stuck")
        threads = stage.it.start("a call on the loop's own threads", lambda _: _in_a_thread(lab))
        lab.until(
            lambda: threads.done,
            f"{threads.what} comes back while the sink is stuck with {MANY} events",
            expected="the loop's default executor is left to others",
        )
        stage.go()
        stage.flushed()
        if not stage.sink.arrived:
            lab.until(lambda: bool(stage.sink.arrived), "the sink is given anything", needs="TRC-03")


async def _in_a_thread(lab: Lab) -> None:
    if lab.subject.backend == "trio":
        import trio

        await trio.to_thread.run_sync(int)
    else:
        await asyncio.get_running_loop().run_in_executor(None, int)


@rule("TRC-15", "async")
def a_loop_that_ends_takes_nothing_along(lab: Lab) -> None:
    """What a coroutine emitted is delivered though its loop ends at once.

    Intent: `asyncio.run(main())` in a script, a request handled on a loop of its own: the last event is the one of interest.

    Usual cause: `asyncio.create_task(self._post(event))`: when the loop ends, it cancels the task.

    Proof: A coroutine on a loop of its own emits three events, as its last act, while the sink is held; when the loop has ended the sink is let go, and all three must come.

    Source: dynamiq 673: lost in 0.45.0, delivered in 0.69.0.
    """
    if lab.declared("loops") == "own":
        raise NotTestable("declared: loops = 'own', and the tracer is flushed before its loop ends")
    with opened(lab, held=True) as stage:
        tracer = stage.it.raw

        async def main() -> None:
            for number in (1, 2, 3):
                await awaited(tracer.emit(event("a", number)))

        script = lab.call("a loop that emits a1 to a3, and ends", lambda: run(lab.subject.backend, main))
        lab.until(lambda: script.done, f"{script.what} comes to its end", hung=True, needs="TRC-10")
        stage.returned(script)
        stage.go()
        stage.flushed()
        lab.until(
            lambda: sorted(names(stage.sink.delivered)) == ["a1", "a2", "a3"],
            "a1, a2 and a3 arrive, whose loop has ended",
            expected="they are delivered",
        )


@rule("TRC-18", "async")
def aclose_never_blocks_the_loop(lab: Lab) -> None:
    """`aclose` delivers what was emitted and never blocks the loop.

    Intent: A service closes its tracer while it answers its last requests.

    Usual cause: `thread.join()` in a coroutine; `aclose` that cancels what is under way.

    Proof: The sink is stuck with one event, and two more wait, when close is awaited. Another coroutine of the same loop runs, asked from outside; then the sink is let go, close comes back, and all three are delivered. `flush` the same.

    Source: the stop of OpenTelemetry's processors, which joins a thread; TRC-03.
    """
    with opened(lab, held=True) as stage:
        stage.emitted("a", [1, 2, 3])
        for what, wait in (("flush()", stage.flush), ("close()", stage.close)):
            call = wait()
            lab.until(lambda call=call: bool(lab.live()) or call.done, "the sink is called", needs="TRC-03")  # type: ignore[misc]
            _answers(lab, stage, f"{what} waits for the sink")
            if what == "close()":
                stage.go()
        lab.until(lambda: call.done, "close() comes back, once the sink does", hung=True)
        stage.returned(call)
        came = names(stage.sink.delivered)
        lab.check(
            came == ["a1", "a2", "a3"], f"after close(), delivered was {', '.join(came) or 'nothing'}", "a1, a2, a3"
        )
