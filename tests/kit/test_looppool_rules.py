"""The loop pool's rules: sound pools of other builds keep them, and what a failure prints is true and of use."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bystanders import fresh_harness
from scripting import ran, shows

from flowcheck_reference.broken.looppool import _sound, draining, holding, idling, racing, stopping
from flowcheck_reference.broken.looppool._sound import (
    ALL,
    AsyncEngine,
    Engine,
    Held,
    Sound,
    SoundAsync,
    Table,
    Warm,
)
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.protocols import Adapter, Inexpressible
from pytest_flowcheck.rules import rules_of
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.suites import looppool
from pytest_flowcheck.suites.looppool import idling as idle

RULES = {rule.id: rule for rule in rules_of(looppool)}
KEPT = {Verdict.PASS, Verdict.NOT_CLAIMED}


def loaded(adapter: type[Any], backend: str = "asyncio") -> subjects.Subject:
    return replace(subjects.first_probe(subjects.load(f"{adapter.__module__}:{adapter.__qualname__}")), backend=backend)


def judged(rule: str, adapter: type[Any], backend: str = "asyncio", *, thorough: bool = True) -> Finding:
    return judge(RULES[rule], loaded(adapter, backend), fresh_harness(), patience=15.0, uncaught=[], thorough=thorough)


# --- pools of other builds that do nothing wrong ----------------------------------------------------------------------


class Once(Adapter):
    """`asyncio.run` on a thread that is kept: the plainest pool there is. It promises nothing optional."""

    name = "once"
    version = "1"
    claims = {"looppool": frozenset()}

    class Pool(Engine):
        daemon = True

    @contextmanager
    def looppool(self, *, ttl: float | None, limit: float | None = None) -> Iterator[Any]:
        engine = self.Pool(ttl, 5.0 if limit is None else limit)
        try:
            yield engine
        finally:
            engine.stop()


class LetsThemFinish(Once):
    """Stop takes no more and lets what is in flight come to its end; what was left behind is cancelled then."""

    class Pool(Engine):
        def stop_now(self) -> None:
            with self.lock:
                self.stopped = True
                warms = list(self.all)
                for warm in warms:
                    if not warm.users:
                        self.retire(warm)
            for warm in warms:
                if warm.thread is not threading.current_thread() and not warm.users:
                    self.wait(warm)

        def leave(self, warm: Warm) -> None:
            super().leave(warm)
            with self.lock:
                if self.stopped and not warm.users:
                    self.retire(warm)


class CollectsFirst(Once):
    """Garbage is collected before a loop is drained: what nobody but the loop knows of is gone by then, and not by its doing."""

    class Pool(Engine):
        def drain(self, warm: Warm, deadline: float) -> None:
            gc.collect()
            super().drain(warm, deadline)


class Reopens(Once):
    """Stop is a pause."""

    declares = {"looppool": {"after_stop": "reopen"}}

    class Pool(Engine):
        def stop(self) -> None:
            super().stop()
            self.stopped = False


class AtOnce(Sound):
    """Clear finalises what is held, too."""

    declares = {"looppool": {"clear": "at_once"}}

    class Pool(Engine):
        def make_table(self) -> Table:
            return Clearing(self.ttl)


class Clearing(Table):
    def clear(self) -> list[_sound.Shared]:
        self.entries = {}
        return self.end_all()


@pytest.mark.parametrize(
    ("adapter", "rules"),
    [
        (Once, [*RULES]),
        (LetsThemFinish, ["LOP-04", "LOP-09", "LOP-16", "LOP-17"]),
        (CollectsFirst, ["LOP-05", "LOP-06", "LOP-11", "LOP-12"]),
        (Reopens, ["LOP-04", "LOP-09", "LOP-13", "LOP-16"]),
        (AtOnce, ["LOP-14", "LOP-15"]),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_pool_of_another_build_is_not_accused(adapter: type[Any], rules: list[str]) -> None:
    """It keeps every rule that it is held to."""
    wrong = {
        finding.rule: finding.message
        for finding in (judged(rule, adapter, thorough=False) for rule in rules)
        if finding.verdict not in KEPT
    }
    assert wrong == {}


@pytest.mark.parametrize("adapter", [Sound, SoundAsync])
def test_the_sound_pools_keep_every_rule(adapter: type[Any]) -> None:
    """What the broken ones start from does nothing wrong."""
    wrong = {rule: finding.message for rule in RULES if (finding := judged(rule, adapter)).verdict is not Verdict.PASS}
    assert wrong == {}


# --- more that is wrong -----------------------------------------------------------------------------------------------


class InSilence(SoundAsync):
    """Endless respawning is cut off, and nobody hears of it."""

    class Pool(AsyncEngine):
        def report(self, what: str) -> None:
            """Who would want to know?"""


class ClosedWithItsTasks(Sound):
    """The loop is closed as it stands."""

    claims = {"looppool": ALL - {"drain"}}

    class Pool(Engine):
        def drain(self, warm: Warm, deadline: float) -> None:
            for task in list(warm.tasks):
                task.cancel()
            if warm.tasks:
                warm.loop.run_until_complete(asyncio.wait(set(warm.tasks), timeout=self.limit))

        def close_loop(self, warm: Warm) -> None:
            warm.loop.close()


class GeneratorsAreForgotten(Sound):
    """The loop is closed, and generators that nobody finished are not."""

    class Pool(Engine):
        def close_generators(self, warm: Warm) -> None:
            """The garbage collector may."""


class HalfMade(Sound):
    """A loop that could not be made is still the one that the next caller finds."""

    class Pool(Engine):
        failure: BaseException | None = None

        def made(self) -> Warm:
            if self.failure is not None:
                raise self.failure
            try:
                return super().made()
            except OSError as error:
                self.failure = error
                raise


class NeverRenewed(SoundAsync):
    """The first idle moment starts the clock, and no dispatch stops it; it only looks that nobody is in the middle of one."""

    class Pool(AsyncEngine):
        def idle(self, warm: Warm) -> None:
            if warm.timer is None or not self.ttl:
                super().idle(warm)

        def enter(self) -> Warm:
            with self.lock:
                warm = self.current
                timer = warm.timer if warm is not None else None
                if warm is not None:
                    warm.timer = None
                warm = super().enter()
                warm.timer = timer
                return warm

        def expire(self, warm: Warm, uses: int) -> None:
            with self.lock:
                warm.timer = None
                if not warm.users and not warm.leaving:
                    self.retire(warm)


class ByKey(Sound):
    """A release counts down whatever stands under the key now, also one that was made after a clear."""

    class Pool(Engine):
        def release(self, lease: Held) -> None:
            with self.lock:
                ending = self.table.let_go(self.table.entries.get(lease.shared.key, lease.shared))
            self.finalise(ending)


class ACancelledReleaseIsNone(SoundAsync):
    """Release first waits for its turn; who is cancelled there holds on for ever."""

    class Pool(AsyncEngine):
        async def release(self, lease: Held) -> None:
            await self.dispatch(Turn())
            await super().release(lease)


class Turn:
    """Nothing, on the warm loop."""

    async def aio(self) -> None:
        """Here it is one's turn."""


class OneLock(Sound):
    """Resources of all keys are made under one lock."""

    class Pool(Engine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.one_at_a_time = threading.Lock()

        def acquire(self, key: str) -> Held:
            with self.one_at_a_time:
                return super().acquire(key)


class FalsyOnALoop(SoundAsync):
    """`if entry.value`, in the other colour."""

    class Pool(AsyncEngine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.table = holding.Truthful(self.ttl)


@pytest.mark.parametrize(
    ("rule", "adapter", "told"),
    [
        ("LOP-05", InSilence, "nothing was logged, nor warned"),
        ("LOP-06", ClosedWithItsTasks, "at stop(), there was said: Task was destroyed but it is pending!"),
        ("LOP-11", GeneratorsAreForgotten, "the cleanup of an async generator that nobody finished ran"),
        ("LOP-14", ByKey, "finalised"),
        ("LOP-14", ACancelledReleaseIsNone, "finalised"),
        ("LOP-15", OneLock, "acquire('quick') comes back while make('slow') is held at its gate"),
        ("LOP-18", HalfMade, "a loop could not be made once, and after that"),
    ],
)
def test_it_is_found(rule: str, adapter: type[Any], told: str) -> None:
    """Each half of a rule bites, and says what it saw."""
    finding = judged(rule, adapter)
    assert finding.verdict in {Verdict.VIOLATED, Verdict.HUNG}, finding.message
    assert told in finding.message


def test_a_dispatch_that_does_not_renew_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a TTL that a busy machine can tell from three quarters of it."""
    monkeypatch.setattr(idle, "TTLS", (0.3,))
    finding = judged("LOP-03", NeverRenewed)
    assert finding.verdict is Verdict.VIOLATED, finding.message
    assert "the loop was reaped before it rang" in finding.message


@pytest.mark.parametrize(
    ("rule", "adapter", "verdict", "told"),
    [
        ("LOP-02", idling.ReapedByTheNextDispatch, Verdict.VIOLATED, "it is reaped without further calls"),
        ("LOP-02", idling.MillisecondsForSeconds, Verdict.VIOLATED, "was reaped before its own timer of"),
        ("LOP-03", idling.ReapedInUse, Verdict.VIOLATED, "a dispatch is held for longer than the TTL"),
        ("LOP-04", stopping.LeavesTheThread, Verdict.VIOLATED, "its thread has ended and its loop is closed"),
        ("LOP-05", draining.ForEver, Verdict.HUNG, "although a task always starts another"),
        ("LOP-09", racing.PostedTooLate, Verdict.VIOLATED, "dispatch(first) was parked before racing.py"),
        ("LOP-09", racing.ReapedUnderTheLock, Verdict.HUNG, "while the reap of the last loop is stuck"),
    ],
)
def test_a_failure_says_what_was_seen(rule: str, adapter: type[Any], verdict: Verdict, told: str) -> None:
    """A message that one would be glad to receive."""
    finding = judged(rule, adapter)
    assert finding.verdict is verdict, finding.message
    assert finding.grade == "proven"
    assert told in finding.message
    assert "Usual cause:" in finding.message


@pytest.mark.parametrize("broken", [holding.FalsyIsNothing, FalsyOnALoop])
def test_the_script_shows_the_same_without_pytest(broken: type[Any], tmp_path: Path) -> None:
    """The printed program fails on the broken pool, and on the sound one it ends well."""
    finding = judged("LOP-14", broken)
    assert finding.verdict is Verdict.VIOLATED, finding.message
    assert "TTL" in str(finding.evidence["example"])
    text = str(finding.evidence["script"])
    sound = SoundAsync if issubclass(broken, SoundAsync) else Sound
    assert shows(text, tmp_path)
    other = f"from {sound.__module__} import {sound.__name__}\n\nsubject = {sound.__name__}()"
    assert ran(text.replace(loaded(broken).source, other), tmp_path) == 0


# --- what can't be asked ----------------------------------------------------------------------------------------------


class NoLimit(Once):
    """It has no word for a limit."""

    def looppool(self, *, ttl: float | None, limit: float | None = None) -> Any:
        if limit is not None:
            raise Inexpressible("a reap takes as long as it takes")
        return super().looppool(ttl=ttl)


def test_what_a_pool_has_no_words_for_is_not_testable() -> None:
    """In its own words."""
    finding = judged("LOP-11", NoLimit)
    assert finding.verdict is Verdict.NOT_TESTABLE
    assert "a reap takes as long as it takes" in finding.message
