"""A drawn life of a tracer, what the model says of it, and how it is played with a subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pytest_flowcheck.errors import Inconclusive, Violated
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.protocols import Closed
from pytest_flowcheck.suites.tracing import _script
from pytest_flowcheck.suites.tracing._shared import Sink, SinkError, Stage, listening, names, opened, says_all, twice

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab

Step: TypeAlias = tuple[str, tuple[int, ...]]
"""`("emit", (2, 0, 1))`: emitter a emits two more events, and c one, at once. `("flush", ())` · `("close", ())` · `("hold", ())`:
the sink's calls wait from now on · `("go", ())`: none does any more, and who waits for the sink comes back · `("fail", ())`:
the sink's next call raises."""

Scenario: TypeAlias = tuple[Step, ...]

EMITTERS: Final = "abc"

CHANCES: Final = 6


def orders() -> SearchStrategy[Scenario]:
    """Emits by several at once, with the sink held and let go."""
    burst = st.tuples(*[st.integers(0, 4)] * len(EMITTERS)).map(lambda counts: ("emit", counts))
    plain = st.sampled_from(["hold", "go"]).map(lambda what: (what, ()))
    return st.lists(st.one_of(burst, burst, plain), min_size=2, max_size=6).map(tuple)


def lives() -> SearchStrategy[Scenario]:
    """Anything."""
    words = ["emit"] * 5 + ["flush"] * 3 + ["hold"] * 3 + ["go"] * 2 + ["fail"] * 2 + ["close"] * 2 + [""]
    step = st.tuples(st.sampled_from(words), st.integers(1, 3), st.integers(0, 2))
    return st.tuples(*[step] * 10).map(_sensible)


def _sensible(drawn: tuple[tuple[str, int, int], ...]) -> Scenario:
    """Without what makes no sense where it stands."""
    kept, held = list[Step](), False
    for what, first, second in drawn:
        if what == "emit":
            kept.append((what, (first, second)))
        elif what and (what != "go" or held) and (what != "hold" or not held):
            held = what == "hold" or (held and what != "go")
            kept.append((what, ()))
    return tuple(kept)


def told(step: Step) -> str:
    """In words."""
    what, counts = step
    if what == "emit":
        who = [f"{by} emits {n}" for by, n in zip(EMITTERS, counts, strict=False) if n]
        return ", ".join(who) + (" at once" if len(who) > 1 else "") if who else "nobody emits"
    return {
        "hold": "the sink is held from now on",
        "go": "the sink is let go, and whoever waits for it comes back",
        "fail": "the sink's next call raises",
    }.get(what, f"{what}()")


def table(scenario: Scenario) -> str:
    """The scenario for a failure message."""
    return "\n".join(map(told, scenario)) or "nothing, but a close()"


def for_all(
    lab: Lab,
    strategy: SearchStrategy[Scenario],
    *,
    examples: int,
    needs: str | None = None,
    first: Sequence[Scenario] = (),
) -> None:
    """Play drawn scenarios, each with a fresh tracer.

    `first`: scenarios that are played before, whatever is drawn.
    `needs`: the rule whose affair it is that a flush or close does not come back, or too early; None: that is a finding.
    """

    # so often a flush that waits for the sink is given its chance to come back too early: each costs a proof of stillness
    chances: list[None] = [None] * (lab.repeated(CHANCES) if needs is None else 0)

    def scenario(drawn: Scenario) -> None:
        try:
            Play(lab, needs, chances).play(drawn)
        except Violated:
            chances.extend([None] * CHANCES)  # smaller examples need theirs, too
            raise

    def reproduce(drawn: Scenario) -> str:
        return _script.program(lab, drawn)

    for known in first:
        forall(lab, scenario, st.just(known), examples=1, describe=table, reproduce=reproduce)
    forall(lab, scenario, strategy, examples=examples, describe=table, reproduce=reproduce)


class Play:
    """One scenario under way. The model is a list of what was accepted, in order, and whether the tracer is closed."""

    def __init__(self, lab: Lab, needs: str | None, chances: list[None]) -> None:
        self.lab, self._needs, self._chances = lab, needs, chances
        self.emitted: dict[str, int] = {}
        """How many events of each emitter were accepted before a close had begun."""
        self.perhaps: dict[str, int] = {}
        """How many more were emitted while a close was under way, or after it: they may have come through."""
        self.closing: Call[Any] | None = None
        self.pending: list[tuple[Call[Any], dict[str, int]]] = []
        """Flushes and closes that wait for the sink, and what was accepted before each."""
        self.failing = False
        self.held = False

    def play(self, scenario: Scenario) -> None:
        """From the opening to a close."""
        sink = Sink(self.lab, does=self._work)
        with opened(self.lab, sink) as self.stage, listening():
            for what, counts in scenario:
                self._step(what, counts)
            self._step("go", ())
            if self._needs is None:
                self._step("close", ())
            else:
                self._step("flush", ())
            in_order(self.stage, self.emitted, perhaps=self.perhaps)

    def _work(self, number: int, came: list[dict[str, Any]], _: bool) -> None:
        if self.failing:
            self.failing = False
            raise SinkError(f"call {number} failed on {', '.join(names(came))}")

    def _step(self, what: str, counts: tuple[int, ...]) -> None:
        if what == "emit":
            self._emit(counts)
        elif what == "hold":
            self.lab.gates.shut_all()
            self.held = self.stage.sink.held = True
        elif what == "go":
            self._one_by_one()
            self.held = self.stage.sink.held = False
            self.stage.go()
            for call, before in self.pending:
                self._comes(call, before)
            self.pending.clear()
        elif what == "fail":
            if not self.held and self.closing is None:
                self._step("flush", ())  # or it might be the call before that fails
            self.failing = True
        else:
            call = self.stage.flush() if what == "flush" else self.stage.close()
            before = dict(self.emitted)
            if what == "close" and self.closing is None:
                self.closing = call
            if self.held:
                self.pending.append((call, before))
            else:
                self._comes(call, before)

    def _one_by_one(self) -> None:
        """Let the sink's calls go one after the other, each only when whoever waits too short a time has come back."""

        def over() -> bool:
            return all(call.done for call, _ in self.pending)

        while self._chances and not over() and (live := self.lab.live()):
            self._chances.pop()
            if not self.lab.rest(over):
                self.lab.open(*live)
                self.lab.rest(lambda live=live: over() or self.lab.live() not in ([], live))  # type: ignore[misc]

    def _emit(self, counts: tuple[int, ...]) -> None:
        calls: dict[str, tuple[Call[Any], int]] = {}
        for by, count in zip(EMITTERS, counts, strict=False):
            if count:
                first = self.emitted.get(by, 0) + self.perhaps.get(by, 0) + 1
                calls[by] = self.stage.emit(by, range(first, first + count)), count
        for by, (call, count) in calls.items():
            self._wait(call, "TRC-01")
            if self.closing is None:
                self.stage.returned(call, "TRC-01" if self._needs else None)
                self.emitted[by] = self.emitted.get(by, 0) + count
                continue
            self.perhaps[by] = self.perhaps.get(by, 0) + count
            closed, raises = self.closing.done, self.lab.declared("after_close") == "raise"
            right = self.lab.is_a(call.error, Closed) if raises else call.error is None
            self.lab.check(
                right or (not closed and call.error is None),
                f"after close(), {call.what} {'returned' if call.error is None else f'raised {call.error!r}'}",
                "it raises Closed, as declared" if raises else "it is ignored, as declared",
            )

    def _wait(self, call: Call[Any], blame: str) -> None:
        self.lab.until(
            lambda: call.done,
            f"{call.what} comes back",
            hung=True,
            needs=blame if self._needs else None,
        )

    def _comes(self, call: Call[Any], before: Mapping[str, int]) -> None:
        """A flush or close, whose sink is not held: all that was accepted before is delivered, or was lost in the sink."""
        self._wait(call, "TRC-03")
        if self.closing is not None and self.lab.is_a(call.error, Closed) and call.what == "flush()":
            return  # it says that it is closed
        value = self.stage.returned(call, self._needs)
        if self._needs is not None or not says_all(value[0]):
            return
        if call.what == "close()" and call is not self.closing:
            return  # the first one waits; this one has come back
        missing = [
            each
            for by, count in before.items()
            for each in (f"{by}{n}" for n in range(1, count + 1))
            if each not in value[1]
        ]
        self.lab.check(
            not missing or len(missing) <= self.stage.counted(),
            f"when {call.what} came back, {', '.join(missing)} had not come to the sink's end: neither delivered nor failed; "
            f"dropped() says {self.stage.counted() if missing else 0}",
            "all that was emitted before is delivered, lost in a sink that raised, or counted as dropped",
        )


def in_order(stage: Stage, emitted: Mapping[str, int], *, perhaps: Mapping[str, int] | None = None) -> None:
    """What came, by emitter: in order, once, and everything but what failed or was dropped and counted.

    `perhaps`: how many more may have come.
    """
    lab, sink = stage.lab, stage.sink
    wanted = {by: [f"{by}{n}" for n in range(1, count + 1)] for by, count in emitted.items()}
    lost = set(names(sink.failed))

    def missing() -> list[str]:
        came = {*names(sink.delivered), *lost}
        return [each for events in wanted.values() for each in events if each not in came]

    if (gone := missing()) and len(gone) > stage.counted():
        lab.until(
            lambda: len(missing()) <= len(gone) - 1 or not missing(),
            f"{', '.join(gone)} arrive, which dropped() does not count",
            expected="each event comes, unless it is dropped and counted",
        )
        if (gone := missing()) and len(gone) > stage.counted():
            raise Inconclusive(f"{', '.join(gone)} had not come when flush() returned", because_of="TRC-03")
    came = names(sink.delivered)
    lab.check(not twice(came), f"{', '.join(twice(came))} came twice: {', '.join(came)}", "each event comes once")
    for by, events in wanted.items():
        mine = [each for each in came if each.startswith(by)]
        most = len(events) + (perhaps or {}).get(by, 0)
        lab.check(
            mine == sorted(mine, key=lambda each: int(each[1:])),
            f"{by} emitted {events[0] if events else ''} to {by}{most}; the sink got {', '.join(mine)}",
            "the order in which they were emitted",
        )
        unknown = [each for each in mine if int(each[1:]) > most]
        lab.check(not unknown, f"the sink got {', '.join(unknown)}, which nobody emitted", "what was emitted")
