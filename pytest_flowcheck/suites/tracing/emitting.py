"""TRC-01, 02, 16, 17: what an emit does, and what it does not wait for."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.proof import Outcome, code_of
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.tracing._play import for_all, in_order, orders
from pytest_flowcheck.suites.tracing._shared import emit, event, names, opened, twice

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.suites.tracing._shared import Stage


@rule("TRC-01")
def emit_never_waits_for_the_sink(lab: Lab) -> None:
    """`emit` returns while the sink is stuck.

    Intent: A collector that is down must not take the service down with it.

    Usual cause: The event is posted on the caller's thread; a lock that the dispatcher holds while it is in the sink.

    Proof: The sink waits at a gate. The event with which it is stuck, and twenty more behind it, must be handed over all the same; that an emit never returns is proven from the kernel.

    Source: dynamiq 673, whose `trace()` posts before it returns; OpenTelemetry specification, "Span processor": OnEnd must not block.
    """
    with opened(lab, held=True) as stage:
        pushing = stage.stuck(needs=None)
        stage.emitted("more", range(1, 21), needs=None)
        lab.check(bool(lab.live()), "the sink came back by itself", "it is held")
        stage.go()
        lab.until(lambda: pushing.done, f"{pushing.what} comes back", needs="TRC-03")


@rule("TRC-02", property=True)
def events_keep_their_order(lab: Lab) -> None:
    """Events reach the sink in order per emitting thread, each once, unless dropped and counted.

    Intent: "ended" before "started" makes a trace worthless, and a payment that is told twice is believed twice.

    Usual cause: A stack where a queue is meant; two dispatchers, or a pool of threads, for one queue; a batch that is sent again.

    Proof: The sink is held with the first event while more are emitted; if it is given these at the same time, they are let through first. Then drawn numbers of events are emitted, one after the other and by several threads at once, with the sink held and let go; what came is compared by emitter.

    Source: OpenTelemetry specification, "Export() will never be called concurrently for the same exporter instance".
    """
    with opened(lab, held=True) as stage:
        stage.emitted("a", [1])
        pushing = stage.flush()
        stage.emitted("a", [2])
        stage.emitted("a", [3])
        lab.rest(lambda: len(lab.live()) > 1)
        for number in range(len(lab.live()), 1, -1):
            lab.open(f"sink #{number}")
            lab.rest(lambda number=number: f"sink #{number}" in lab.ended())  # type: ignore[misc]
        stage.go()
        lab.until(lambda: pushing.done, f"{pushing.what} comes back", needs="TRC-03")
        stage.flushed()
        in_order(stage, {"a": 3})
    for_all(lab, orders(), examples=25, needs="TRC-03")


@rule("TRC-16", should=True)
def an_event_is_as_it_was_emitted(lab: Lab) -> None:
    """An event changed by the caller after `emit` arrives as emitted.

    Intent: A dict that is filled in step by step, and emitted at each, is the most natural thing to write.

    Usual cause: The queue holds the caller's object.

    Proof: While the sink is stuck an event is emitted, and its dict changed by the same thread, before the sink is let go. Its values are plain.

    Source: Python documentation, `logging.handlers.QueueHandler.prepare`: it formats the record before it is queued.
    """
    mine: dict[str, Any] = event("changed", 1)

    def change(_: Any) -> None:
        mine["n"] = 2
        mine["late"] = True

    with opened(lab, held=True) as stage:
        pushing = stage.stuck()
        call = stage.do("emit changed1, then change it", lambda tracer: tracer.emit(mine), change)
        lab.until(lambda: call.done, f"{call.what} comes back", needs="TRC-01")
        stage.returned(call, "TRC-01")
        stage.go()
        lab.until(lambda: pushing.done, f"{pushing.what} comes back", needs="TRC-03")
        stage.flushed()
        lab.until(lambda: any(each["by"] == "changed" for each in stage.sink.arrived), "it arrives", needs="TRC-03")
        came = [each for each in stage.sink.arrived if each["by"] == "changed"]
        lab.check(
            came == [event("changed", 1)],
            f"emitted was {event('changed', 1)}, which was then made {mine}; the sink got {came}",
            "the event as it was emitted",
        )


@rule("TRC-17")
def first_emits_start_one_dispatcher(lab: Lab) -> None:
    """First emits from many threads start one dispatcher.

    Intent: A server's first requests come at once.

    Usual cause: `if self._thread is None: self._thread = Thread(...)` without a lock.

    Proof: A first emit is parked at each line of the tracer's own code, while another thread's first emit is made; on a loop several tasks emit at once. Then there is one thread more at most, and both events come, once.

    Source: FINDINGS of the preemption sweep; TRC-11.
    """
    emitters = "abcd"
    with opened(lab) as stage:
        calls = [stage.emit(by, [1]) for by in emitters]
        for call in calls:
            lab.until(lambda call=call: call.done, f"{call.what} comes back", needs="TRC-01")  # type: ignore[misc]
        stage.flushed()
        _one_dispatcher(lab, stage)
        in_order(stage, dict.fromkeys(emitters, 1))
        if stage.it.colour == "async":
            return  # tasks of one loop, where nothing is preempted
        code = list(code_of(stage.it.raw))

    def judge(world: World, _: Outcome) -> str | None:
        stage = world.stage
        stage.flushed()
        if len(stage.threads()) > 1 and not lab.rest(lambda: len(stage.threads()) <= 1):
            return f"two first emits started {' and '.join(t.name for t in stage.threads())}"
        lab.until(lambda: {"a1", "b1"} <= set(names(stage.sink.delivered)), "a1 and b1, two first emits, arrive")
        came = names(stage.sink.delivered)
        return f"{', '.join(twice(came))} came twice" if twice(came) else None

    try:
        lab.sweep(
            lambda: World(lab),
            lambda world: emit("a", 1)(world.stage.it.raw),
            lambda world: emit("b", 1)(world.stage.it.raw),
            code=code,
            judge=judge,
            names=("emit a1", "emit b1"),
            leave=lambda world: world.stack.close(),
            threads=False,
            settle=False,
            limit=24,
            expected="one dispatcher, and both events, once",
            needs="TRC-02",
        )
    except NotTestable as why:
        lab.fresh()
        lab.note(f"not swept: {why}")  # the emits at once have judged what comes by itself
        lab.probes_ran += 1


class World:
    """A fresh tracer for one schedule."""

    def __init__(self, lab: Lab) -> None:
        self.stack = ExitStack()
        self.stage = self.stack.enter_context(opened(lab))


def _one_dispatcher(lab: Lab, stage: Stage) -> None:
    lab.rest(lambda: len(stage.threads()) <= 1)
    threads = stage.threads()
    lab.check(
        len(threads) <= 1,
        f"first emits at once left {len(threads)} threads: {', '.join(t.name for t in threads)}",
        "one dispatcher",
        leaked=True,
    )
