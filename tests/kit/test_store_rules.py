"""The store's rules: sound stores of three builds keep them, and what a failure prints is true and of use."""

from __future__ import annotations

import json
import os
import pickle
import shelve
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bystanders import fresh_harness

from flowcheck_reference.broken.store import _sound, beside, crashes, failing, files, logs, machine, values
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.probes import kept
from pytest_flowcheck.probes.nursery import Answer, told
from pytest_flowcheck.proof import Harness, descendants, strace
from pytest_flowcheck.protocols import Adapter, Corrupt, Invalid, NotFound
from pytest_flowcheck.rules import rules_of
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.suites import store
from pytest_flowcheck.suites.store import _crash, _shared

RULES = {rule.id: rule for rule in rules_of(store)}
KEPT = {Verdict.PASS, Verdict.NOT_CLAIMED}

needs_strace = pytest.mark.skipif(strace.missing() is not None, reason=str(strace.missing()))


def loaded(adapter: type[Any], backend: str = "asyncio") -> subjects.Subject:
    return replace(subjects.first_probe(subjects.load(f"{adapter.__module__}:{adapter.__qualname__}")), backend=backend)


def harness() -> Harness:
    """As `fresh_harness`, but for trio's idle threads: it keeps them for the next call of whatever loop, so that one that
    an earlier test has left may do this one's work."""
    fresh = fresh_harness()
    for thread in threading.enumerate():
        if "trio" in thread.name.lower() and thread.native_id is not None:
            fresh.disown(thread.native_id)
    return fresh


def judged(rule: str, adapter: type[Any], backend: str = "asyncio") -> Finding:
    return judge(RULES[rule], loaded(adapter, backend), harness(), patience=15.0, uncaught=[])


# --- stores that do nothing wrong -------------------------------------------------------------------------------------


def accused(adapter: type[Any], backend: str = "asyncio", **expected: set[Verdict]) -> list[str]:
    """What rules say that do not keep quiet, one after the other: they share the processes that have imported the store."""
    findings = [judged(rule, adapter, backend) for rule in sorted(RULES)]
    return [f"{f.rule} {f.verdict}: {f.message}" for f in findings if f.verdict not in expected.get(f.rule, KEPT)]


def test_sound_files_keep_every_rule() -> None:
    """JSON files, written, synced and renamed under a lock, keep all that there is to keep."""
    passes = {rule: {Verdict.PASS} for rule in RULES}
    assert accused(_sound.Sound, **passes) == []


def test_a_sound_database_keeps_every_rule() -> None:
    """SQLite, all runs in one file. Only the fork in the middle of a save can't be asked: nobody sees its steps."""
    assert accused(_sound.SoundTable, **{"STO-22": {Verdict.NOT_TESTABLE}}) == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_sound_store_on_a_loop_keeps_every_rule(backend: str) -> None:
    """Awaited, on both loop libraries."""
    assert accused(_sound.SoundAsync, backend) == []


class InPlaceUnderALock(_sound.Sound):
    """Written in place: a kill tears it; but readers wait for the lock, so that none ever sees a half."""

    promises = frozenset({"log", "processes"})

    class Store(_sound.Files):
        def load(self, run_id: str) -> Any:
            with self.saving(self.key(run_id)):
                return super().load(run_id)

        def put_in_place(self, path: Path, data: bytes) -> None:
            with path.open("wb") as file:
                file.write(data)


@needs_strace
def test_a_lock_that_keeps_readers_out_is_respected() -> None:
    """What a kill would leave is no accusation where no reader could see it; what a kill leaves is another rule's."""
    assert judged("STO-02", InPlaceUnderALock).verdict is Verdict.PASS
    assert judged("STO-04", InPlaceUnderALock).verdict is Verdict.VIOLATED


class PlainJSON(Adapter):
    """What scripts do: `json.dump` into the file."""

    name = "plain-json"
    version = "1"
    claims = {"store": frozenset[str]()}
    errors = {NotFound: FileNotFoundError, Corrupt: json.JSONDecodeError, Invalid: (TypeError, ValueError)}

    @contextmanager
    def store(self, folder: Path) -> Iterator[Any]:
        class Plain:
            def save(self, run_id: str, state: Any) -> None:
                with (folder / f"{run_id}.json").open("w") as file:
                    json.dump(state, file)

            def load(self, run_id: str) -> Any:
                return json.loads((folder / f"{run_id}.json").read_text())

        yield Plain()


class Shelf(Adapter):
    """A `shelve`, opened for each call."""

    name = "shelve"
    version = "1"
    claims = {"store": frozenset[str]()}
    errors = {NotFound: KeyError, Invalid: (pickle.PicklingError, TypeError, AttributeError)}

    @contextmanager
    def store(self, folder: Path) -> Iterator[Any]:
        import dbm.dumb

        class Pickles:
            def opened(self) -> Any:
                return shelve.Shelf(dbm.dumb.open(str(folder / "runs"), "c"))  # type: ignore[arg-type]

            def save(self, run_id: str, state: Any) -> None:
                with self.opened() as shelf:
                    shelf[run_id] = state

            def load(self, run_id: str) -> Any:
                with self.opened() as shelf:
                    return shelf[run_id]

        yield Pickles()


@needs_strace
@pytest.mark.parametrize("adapter", [PlainJSON, Shelf])
@pytest.mark.parametrize("rule", ["STO-04", "STO-05"])
def test_what_everybody_writes_is_caught(rule: str, adapter: type[Any]) -> None:
    """A state that is emptied before it is written, or spread over two files, is lost to a kill."""
    finding = judged(rule, adapter)
    assert finding.verdict is Verdict.VIOLATED, finding.message
    assert "when the p" in finding.message  # the process was killed, the power failed


@pytest.mark.parametrize(
    "rule", ["STO-13", "STO-14", "STO-17", "STO-18", "STO-03", "STO-08", "STO-09", "STO-19", "STO-21"]
)
def test_what_is_not_claimed_is_not_judged(rule: str) -> None:
    """A store without a log, without durability, and so on, is held to the rest."""
    assert judged(rule, PlainJSON).verdict is Verdict.NOT_CLAIMED


# --- machines where less can be seen ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["STO-04", "STO-05", "STO-17"])
def test_without_strace_nothing_is_passed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crash states need the trace: without it the rule says what to install, and nothing of the subject."""
    monkeypatch.setattr(strace, "missing", lambda: "strace is not installed: apt install strace")
    monkeypatch.setattr(_crash, "_known", {})
    finding = judged(rule, _sound.Sound)
    assert finding.verdict is Verdict.NOT_TESTABLE
    assert "apt install strace" in finding.message


@pytest.mark.parametrize(
    ("rule", "adapter"), [("STO-06", failing.WhatWasWrittenIsEnough), ("STO-20", crashes.RandomTemporaryNames)]
)
def test_what_needs_no_strace_is_judged_without(rule: str, adapter: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits to the size of files make saves fail, and kill savers, on every Linux; then a pass is only observed."""
    monkeypatch.setattr(strace, "missing", lambda: "strace is not installed: apt install strace")
    assert judged(rule, adapter).verdict is Verdict.VIOLATED
    assert judged(rule, _sound.Sound).verdict is Verdict.PASS


# --- what a failure says ------------------------------------------------------------------------------------------------


@needs_strace
@pytest.mark.parametrize(
    ("rule", "adapter", "words"),
    [
        ("STO-04", crashes.OpensForWriting, ["truncate 'report-17.json' to 0 bytes", "killed after operation 1"]),
        ("STO-05", crashes.ReplacesWithoutSync, ["rename 'report-17.tmp' to 'report-17.json'", "power"]),
        ("STO-17", crashes.SyncsTheFileOnly, ["fsync 'report-17.tmp'", "step 2"]),
        ("STO-06", failing.SwallowsTheError, ["returned as if nothing had happened"]),
        ("STO-07", beside.OneTemporaryName, ["was parked before _sound.py, Files.write", "key: "]),
        ("STO-09", logs.EveryLineIsAnEntry, ["bytes were cut off", "as by a crash"]),
        ("STO-12", files.SaysNotWhichFile, ["runs.sqlite was filled with noise", "names runs.sqlite"]),
        ("STO-20", crashes.RandomTemporaryNames, ["files then", ".report-17."]),
    ],
)  # fmt: skip
def test_a_message_says_what_happened(rule: str, adapter: type[Any], words: list[str]) -> None:
    """The operation at which it went wrong, the file's name, and what was expected stand in the message."""
    finding = judged(rule, adapter)
    assert finding.verdict is Verdict.VIOLATED
    for word in words:
        assert word in finding.message, finding.message


SOUND = {_sound.Files: "Sound", _sound.Table: "SoundTable", _sound.AsyncFiles: "SoundAsync"}


@pytest.mark.parametrize(
    ("rule", "adapter", "backend"),
    [
        ("STO-01", values.KeysBecomeTexts, "asyncio"),
        ("STO-01", values.NumbersBecomeFloats, "asyncio"),
        ("STO-15", machine.SkipsWhatItSavedLast, "asyncio"),
        ("STO-15", machine.ASaveEndsTheLog, "asyncio"),
        ("STO-15", machine.ASaveEndsTheLog, "trio"),
    ],
)
def test_a_script_shows_the_same_without_pytest(
    rule: str, adapter: type[_sound.Sound], backend: str, tmp_path: Path
) -> None:
    """The printed program fails on the broken store, and comes to what it should on a sound one."""
    finding = judged(rule, adapter, backend)
    program = str(finding.evidence["script"])
    (tmp_path / "script.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    wrong = run()
    assert wrong.returncode == 1, wrong.stdout + wrong.stderr
    assert "WRONG" in wrong.stdout
    sound = next(name for base, name in SOUND.items() if issubclass(adapter.Store, base))
    (tmp_path / "script.py").write_text(
        program.replace(f"from {adapter.__module__} import {adapter.__name__}", f"from {_sound.__name__} import {sound}")
        .replace(f"subject = {adapter.__name__}()", f"subject = {sound}()")
    )  # fmt: skip
    right = run()
    assert right.returncode == 0, right.stdout + right.stderr


# --- parts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (None, 0, False),
        (float("nan"), float("nan"), True),
        (-0.0, 0, True),
        (2**53 + 1, float(2**53 + 1), False),
        ([1, [2]], [1, [2]], True),
        ([1], (1,), False),
        ({"1": 1}, {1: 1}, False),
        ({1: "a"}, {True: "a"}, False),
        ({"a": float("nan")}, {"a": float("nan")}, True),
        ("é", "e\u0301", False),
        ("\ud800", "\ud800", True),
    ],
)
def test_equal_is_what_json_means_by_it(one: Any, other: Any, equal: bool) -> None:
    """Numbers are numbers, truth is none, keys are texts."""
    assert _shared.same(one, other) is equal
    assert _shared.same(other, one) is equal


def test_values_are_told_without_what_no_terminal_prints() -> None:
    """Lone surrogates are escaped, and long values are cut in their middle."""
    told("\ud800").encode()
    told({"a": "\udfff"}).encode()
    assert len(told("x" * 10_000)) < 200


def test_a_worker_that_dies_is_told() -> None:
    """A store that ends its process costs one verdict."""
    finding = judged("STO-14", EndsItsProcess)
    assert finding.verdict is Verdict.VIOLATED
    assert "ended while it was asked to" in finding.message


class EndsItsProcess(_sound.Sound):
    """In processes of the kit's own."""

    class Store(_sound.Files):
        def load(self, run_id: str) -> Any:
            with suppress(LookupError):
                super().load(run_id)
            if sys.argv[0].endswith("nursery.py"):
                os._exit(7)
            return super().load(run_id)


def test_no_process_and_no_folder_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rule with many processes there is but the one that they were forked from, and its folders are gone."""
    made: list[Path] = []

    def mkdtemp(*args: Any, **more: Any) -> str:
        made.append(Path(make(*args, **more)))
        return str(made[-1])

    make = tempfile.mkdtemp
    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    kept.let_go()
    before = set(descendants())
    assert judged("STO-15", _sound.Sound).verdict is Verdict.PASS
    (nursery,) = kept.pids()
    assert set(descendants()) - before == {nursery}
    assert judged("STO-14", _sound.Sound).verdict is Verdict.PASS
    assert kept.pids() == {nursery}
    assert judged("STO-14", _sound.SoundTable).verdict is Verdict.PASS
    assert nursery not in {*kept.pids(), *descendants()}
    kept.let_go()
    assert set(descendants()) <= before
    assert made
    assert not [path for path in made if path.exists()]


def test_errors_are_of_the_kinds_that_the_subject_says() -> None:
    """An answer from another process knows what its error is by the subject's table, without the object."""
    from pytest_flowcheck.probes.nursery import failure

    subject = loaded(PlainJSON)
    missing = failure(FileNotFoundError(2, "gone", "x.json"), subject)
    assert missing.is_a(NotFound)
    assert missing.is_a(OSError)
    assert not missing.is_a(Corrupt)
    assert pickle.loads(pickle.dumps(missing)) == missing
    assert Answer(1).returned
