"""The tracing facet's rules: sound tracers of other builds keep them, and what a failure prints is true and of use."""

from __future__ import annotations

import gc
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bystanders import fresh_harness
from scripting import ran

from flowcheck_reference.broken.tracing import _sound, bounding, emitting, failing, interpreter, looping, waiting
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.proof import Harness
from pytest_flowcheck.protocols import Closed, Unsupported
from pytest_flowcheck.rules import rules_of
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.suites import tracing
from pytest_flowcheck.suites.tracing._play import table
from pytest_flowcheck.suites.tracing._shared import says_all

RULES = {rule.id: rule for rule in rules_of(tracing)}
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
KEPT = {Verdict.PASS, Verdict.NOT_CLAIMED}


def loaded(adapter: Any, backend: str = "asyncio") -> subjects.Subject:
    spec = adapter if isinstance(adapter, str) else f"{adapter.__module__}:{adapter.__qualname__}"
    return replace(subjects.first_probe(subjects.load(spec)), backend=backend)


def harness() -> Harness:
    """As `fresh_harness`, but for trio's idle threads, which may do this test's work."""
    fresh = fresh_harness()
    for thread in threading.enumerate():
        if "trio" in thread.name.lower() and thread.native_id is not None:
            fresh.disown(thread.native_id)
    return fresh


def judged(rule: str, adapter: Any, backend: str = "asyncio", *, thorough: bool = True) -> Finding:
    with warnings.catch_warnings(action="ignore"):
        finding = judge(RULES[rule], loaded(adapter, backend), harness(), patience=15.0, uncaught=[], thorough=thorough)
        if thorough:
            gc.collect()
    return finding


# --- tracers that do nothing wrong ------------------------------------------------------------------------------------


class Ignores(_sound.Plain):
    """What comes late is ignored, and a flush says how many are missing."""

    declares = {"tracing": {"after_close": "ignore"}}

    class Tracer(_sound.Counting):
        def late(self) -> None:
            self.lost += 1

        def flush(self) -> int:
            return 0 if super().flush() else self.accepted - self.done


class Retries(_sound.Plain):
    """A batch on which the sink raised is tried once more, in its place."""

    class Tracer(_sound.Counting):
        def post(self, batch: list[Any]) -> None:
            try:
                super().post(batch)
            except Exception:
                super().post(batch)


class Uncounted(_sound.Plain):
    """It can't say what it dropped, and drops nothing unless it must."""

    class Tracer(_sound.Counting):
        def dropped(self) -> int:
            raise Unsupported("nobody counts")


class DropsTheOldest(_sound.Plain):
    """With a full queue the oldest goes."""

    class Tracer(_sound.Counting):
        def has_room(self) -> bool:
            if len(self.events) >= self.capacity:
                self.events.popleft()
                self.lost += 1
                self.done += 1
            return True


class OneByOne(_sound.OnLoops):
    """The sink gets each event alone; emit is awaited, for nothing."""

    class Tracer(_sound.CountingOnLoops):
        batch = 1

        async def emit(self, event: Any) -> None:  # type: ignore[override]
            super().emit(event)


class Gathers(_sound.Plain):
    """An event waits for another one, or a flush of what was emitted before: what the sink emits shares a call with the next."""

    class Tracer(_sound.Counting):
        wanted = 0  # so many are to be through

        def take(self) -> list[Any]:
            with self.changed:
                self.changed.wait_for(lambda: len(self.events) > 1 or self.done < self.wanted or self.closed)
                return [self.events.popleft() for _ in range(min(len(self.events), self.batch))]

        def flush(self) -> Any:
            with self.changed:
                if threading.current_thread() is not self.thread:
                    self.wanted = self.accepted
                    self.changed.notify_all()
            return super().flush()


SOUND: list[tuple[type[Any], str]] = [
    (_sound.Sound, "asyncio"),
    (_sound.SoundListener, "asyncio"),
    (_sound.SoundOnLoops, "asyncio"),
    (_sound.SoundOnLoops, "trio"),
    (_sound.SoundPump, "asyncio"),
    (Ignores, "asyncio"),
    (Retries, "asyncio"),
    (DropsTheOldest, "asyncio"),
    (OneByOne, "asyncio"),
    (Gathers, "asyncio"),
]


@pytest.mark.parametrize(("adapter", "backend"), SOUND, ids=lambda value: getattr(value, "__name__", value))
def test_no_sound_tracer_is_accused(adapter: type[Any], backend: str) -> None:
    """Tracers that are built differently keep what they claim."""
    allowed = {*KEPT, *([Verdict.NOT_TESTABLE] if adapter in (_sound.SoundPump, OneByOne) else [])}
    for rule in RULES:
        if adapter is Retries and rule == "TRC-14":
            continue  # its sink raises whatever it does
        finding = judged(rule, adapter, backend, thorough=False)
        assert finding.verdict in allowed, f"{adapter.__name__} {rule}: {finding.verdict} {finding.message}"


def test_who_does_not_count_fails_only_where_something_is_dropped() -> None:
    """TRC-06 asks for a count; that there is none costs no other rule."""
    assert judged("TRC-06", Uncounted, thorough=False).verdict is Verdict.VIOLATED
    for rule in ("TRC-02", "TRC-05", "TRC-12"):
        assert judged(rule, Uncounted, thorough=False).verdict is Verdict.PASS


def test_who_serves_its_own_loop_only_is_not_asked_about_others() -> None:
    """It says so, and the message repeats it."""
    finding = judged("TRC-15", _sound.SoundPump)
    assert finding.verdict is Verdict.NOT_TESTABLE
    assert "loops = 'own'" in finding.message


def test_what_a_flush_may_give() -> None:
    """None, True and 0 claim that all is delivered; False and a number do not."""
    assert [says_all(value) for value in (None, True, 0, False, 3, "no")] == [True, True, True, False, False, False]


# --- what is printed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "broken", "verdict", "text"),
    [
        ("TRC-01", emitting.PostsOnTheCallersThread, Verdict.HUNG, "comes back while the sink is stuck with it"),
        ("TRC-02", emitting.LastInFirstOut, Verdict.VIOLATED, "a emitted a1 to a3; the sink got a"),
        ("TRC-03", waiting.ForgetsTheBatchInFlight, Verdict.VIOLATED, "came back while sink #"),
        ("TRC-04", interpreter.LostAtExit, Verdict.VIOLATED, "never reached the sink"),
        ("TRC-05", failing.EndsWithTheFirstError, Verdict.HUNG, "after the sink raised"),
        ("TRC-06", bounding.HoldsEverything, Verdict.VIOLATED, "it held 65 of 65"),
        ("TRC-06", bounding.DropsInSilence, Verdict.VIOLATED, "dropped() says 0"),
        ("TRC-07", waiting.NobodyReadsTheQueue, Verdict.HUNG, "emit after close() comes back"),
        ("TRC-08", waiting.FlushesBehindItself, Verdict.HUNG, "when the sink emits and flushes"),
        ("TRC-09", interpreter.WaitsForAThreadThatIsNotThere, Verdict.HUNG, "the forked child's emit"),
        ("TRC-10", looping.UsesUpTheDefaultExecutor, Verdict.VIOLATED, "stuck with 48 events"),
        ("TRC-11", bounding.StartsAThreadForEach, Verdict.LEAKED, "dispatcher of one event"),
        ("TRC-13", waiting.NeverTellsThatItGaveUp, Verdict.VIOLATED, "flush() returned None, and nothing says"),
        ("TRC-14", failing.SaysItForEach, Verdict.VIOLATED, "reports tell of it"),
        ("TRC-15", looping.LostWithTheLoop, Verdict.VIOLATED, "whose loop has ended"),
        ("TRC-16", emitting.KeepsTheCallersDict, Verdict.VIOLATED, "'late': True"),
        ("TRC-17", emitting.StartsWithoutALock, Verdict.VIOLATED, "started dispatcher and dispatcher"),
        ("TRC-18", looping.JoinsOnTheLoop, Verdict.HUNG, "while close() waits for the sink"),
    ],
)
def test_a_failure_names_events_and_calls(rule: str, broken: type[Any], verdict: Verdict, text: str) -> None:
    """A message that one would be glad to receive."""
    finding = judged(rule, broken)
    assert finding.verdict is verdict, finding.message
    assert text in finding.message, finding.message
    assert "Usual cause:" in finding.message


class ForgetsOnTrio(_sound.SoundOnLoops):
    """Its third event, on either loop library."""

    class Tracer(_sound.CountingOnLoops):
        def put(self, event: Any) -> None:
            if event["n"] == 3:
                self.accepted -= 1
            else:
                super().put(event)


class ForgetsOnThreads(_sound.Plain):
    """Its fourth, blocking: so many are emitted only where that was drawn."""

    class Tracer(_sound.Counting):
        def put(self, event: Any) -> None:
            if event["n"] == 4:
                self.accepted -= 1
            else:
                super().put(event)


@pytest.mark.parametrize(
    ("rule", "broken", "backend"),
    [
        ("TRC-02", ForgetsOnThreads, "asyncio"),
        ("TRC-12", failing.SendsAgain, "asyncio"),
        ("TRC-12", waiting.ClosesOnce, "asyncio"),
        ("TRC-12", ForgetsOnTrio, "asyncio"),
        ("TRC-12", ForgetsOnTrio, "trio"),
    ],
)
def test_the_script_shows_the_same_without_pytest(rule: str, broken: Any, backend: str, tmp_path: Path) -> None:
    """The printed program fails on the broken tracer, and on the sound one it ends well."""
    finding = judged(rule, broken, backend)
    assert finding.verdict is Verdict.VIOLATED, finding.message
    text = str(finding.evidence["script"])
    assert all(line in finding.message for line in (f"    {row}".rstrip() for row in text.splitlines()))
    assert ran(text, tmp_path, logs=True) == 1
    sound = "SoundOnLoops" if broken is ForgetsOnTrio else "Sound"
    other = f"from {_sound.__name__} import {sound}\n\nsubject = {sound}()"
    assert ran(text.replace(loaded(broken).source, other), tmp_path, logs=True) == 0


def test_a_scenario_reads_as_a_story() -> None:
    """What is held is let go before one waits for it."""
    steps = (("hold", ()), ("emit", (2, 1)), ("flush", ()), ("go", ()), ("fail", ()), ("close", ()))
    assert table(steps).splitlines() == [
        "the sink is held from now on",
        "a emits 2, b emits 1 at once",
        "flush()",
        "the sink is let go, and whoever waits for it comes back",
        "the sink's next call raises",
        "close()",
    ]


# --- bundled subjects -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule", "verdict"),
    [
        ("logging-queue-listener", "TRC-01", Verdict.PASS),
        ("logging-queue-listener", "TRC-03", Verdict.PASS),
        ("logging-queue-listener", "TRC-13", Verdict.HUNG),
        ("otel-batch", "TRC-01", Verdict.PASS),
        ("otel-batch", "TRC-04", Verdict.PASS),
        ("otel-batch", "TRC-13", Verdict.HUNG),
    ],
)
def test_what_is_bundled_reads_as_it_was_confirmed(name: str, rule: str, verdict: Verdict) -> None:
    """Each of these was seen by hand, without the kit."""
    if name == "otel-batch":
        pytest.importorskip("opentelemetry.sdk")
    assert judged(rule, name, thorough=False).verdict is verdict


def test_closed_is_what_a_sound_tracer_says() -> None:
    """The kit's own error, which needs no table."""
    with _sound.Sound().tracing(sink=lambda batch: None) as tracer:
        tracer.close()
        with pytest.raises(Closed):
            tracer.emit({})
