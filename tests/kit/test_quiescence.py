"""The laws of proof: what moves is never accused, what can't move is always proven, what can't be seen is BLIND."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from bystanders import fresh_harness
from controls import clocks, dead, live, outside
from controls.stage import CONTROLS, Control

import pytest_flowcheck
from pytest_flowcheck.proof import (
    Observer,
    Sighting,
    State,
    Wait,
    become_subreaper,
    descendants,
    kill_tree,
    procfs,
    syscalls,
)
from pytest_flowcheck.proof import observer as observer_module

if TYPE_CHECKING:
    from collections.abc import Iterator

assert clocks
assert dead
assert live
assert outside

pytestmark = pytest.mark.skipif(not procfs.LINUX, reason="proof reads the Linux kernel's thread states")

ROUNDS = int(os.environ.get("FLOWCHECK_CONTROL_ROUNDS", "5"))
HERE = Path(__file__).parent
PATH = os.pathsep.join([str(HERE), str(Path(pytest_flowcheck.__path__[0]).parent)])


def play(control: Control, rounds: int = ROUNDS) -> dict[str, Any]:
    """A control in a process of its own; its report."""
    done = subprocess.run(
        [sys.executable, "-m", "controls", control.name, str(rounds)],
        env={**os.environ, "PYTHONPATH": PATH},
        capture_output=True,
        text=True,
        timeout=60 + rounds,
        check=False,
    )
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


@pytest.mark.parametrize("name", [name for name, control in CONTROLS.items() if control.truth == "live"])
def test_what_moves_is_never_accused(name: str) -> None:
    """A subject that a clock, a process or anybody outside will wake is never QUIESCENT, however often one looks."""
    report = play(CONTROLS[name])
    assert report["right"], report
    assert "QUIESCENT" not in report["seen"], report


@pytest.mark.parametrize("name", [name for name, control in CONTROLS.items() if control.truth == "dead"])
def test_what_can_not_move_is_proven(name: str) -> None:
    """A subject in which nothing can move is QUIESCENT at the first proof and at every one after it."""
    report = play(CONTROLS[name])
    assert report["right"], report


def test_every_control_has_a_law() -> None:
    """A control says in a sentence why its subject lives, or why it is dead."""
    assert len(CONTROLS) > 60
    assert all(control.law.endswith(".") for control in CONTROLS.values())


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """An event that the test's threads wait for, set at the end."""
    event = threading.Event()
    yield event
    event.set()


def waiting_thread(event: threading.Event) -> threading.Thread:
    """A thread that waits for the event, and has begun to."""
    begun = threading.Event()
    thread = threading.Thread(target=lambda: (begun.set(), event.wait()), daemon=True)
    thread.start()
    begun.wait()
    return thread


def here(sighting: Sighting) -> list[Wait]:
    """The waits of this process: helper processes that other tests have started are no part of the question."""
    return [wait for wait in sighting.waits if wait.pid == os.getpid()]


def settled(observer: Observer) -> Sighting:
    """A sighting at which nothing ran: threads need a moment until they wait."""
    sighting = observer.prove(int)
    while sighting.state is State.RUNNING:
        sighting = observer.prove(int)
    return sighting


def test_threads_of_the_start_are_the_harnesss(release: threading.Event) -> None:
    """A thread that existed at the start is not looked at; one that came after is."""
    before = waiting_thread(release)
    harness = fresh_harness()
    after = waiting_thread(release)
    seen = {wait.tid for wait in here(settled(Observer(harness)))}
    assert before.native_id not in seen
    assert after.native_id in seen


def test_threads_between_two_rules_are_the_harnesss(release: threading.Event) -> None:
    """What appears between two rules is the harness's, even if it has a deadline; what a rule leaves is not."""
    harness = fresh_harness()
    left = waiting_thread(release)
    settled(Observer(harness))
    harness.rule_ended()
    timer = threading.Timer(60, int)
    timer.start()
    try:
        harness.between_rules()
        sighting = settled(Observer(harness))
        assert sighting.state is State.QUIESCENT, sighting
        assert {wait.tid for wait in here(sighting)} == {left.native_id}
    finally:
        timer.cancel()


def test_a_thread_that_a_leaked_thread_may_have_started_is_the_subjects() -> None:
    """If a thread that a rule left behind ran between two rules, a new thread is not taken for the harness's."""
    harness = fresh_harness()
    go, gone, release = threading.Event(), threading.Event(), threading.Event()
    begun = threading.Event()

    def leaked() -> None:
        begun.set()
        go.wait()
        waiting_thread(release)
        gone.set()
        release.wait()

    threading.Thread(target=leaked, daemon=True).start()
    begun.wait()
    harness.rule_ended()
    go.set()
    gone.wait()
    harness.between_rules()
    assert len(here(settled(Observer(harness)))) == 2
    release.set()


def test_an_adopted_thread_is_the_harnesss_and_a_disowned_one_is_not(release: threading.Event) -> None:
    """`adopt` takes one thread out of the picture, `disown` puts it back."""
    harness = fresh_harness()
    thread = waiting_thread(release)
    assert thread.native_id is not None
    harness.adopt(thread.native_id)
    assert not here(settled(Observer(harness)))
    harness.disown(thread.native_id)
    assert [wait.tid for wait in here(settled(Observer(harness)))] == [thread.native_id]


def test_the_harnesss_alarm_is_no_reason_to_doubt(release: threading.Event) -> None:
    """An alarm that was set before the rule is the harness's; one that the subject sets is a timer."""
    harness = fresh_harness()
    waiting_thread(release)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    held = signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        harness.between_rules()
        assert settled(Observer(harness)).state is State.QUIESCENT
        signal.signal(signal.SIGALRM, lambda *_: None)
        assert settled(Observer(harness)).state is State.TIMERS
    finally:
        signal.setitimer(signal.ITIMER_REAL, *held)
        signal.signal(signal.SIGALRM, before)


def test_a_forked_child_does_not_inherit_the_harnesss_alarm(release: threading.Event) -> None:
    """The handler of the harness's alarm does not make every forked worker look as if it had a timer."""
    harness = fresh_harness()
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    held = signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        harness.between_rules()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(read, 1)
            os._exit(0)
        try:
            sighting = settled(Observer(harness))
            assert sighting.state is State.QUIESCENT, sighting
        finally:
            os.write(write, b"x")
            os.waitpid(pid, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, *held)
        signal.signal(signal.SIGALRM, before)


def test_a_parent_proves_a_deadlock_that_keeps_the_interpreter() -> None:
    """A thread stuck in C without giving up the interpreter is proven from the parent process."""
    code = (
        "import ctypes as c; m = c.create_string_buffer(64); l = c.PyDLL(None); l.pthread_mutex_lock(m);"
        "print(flush=True); l.pthread_mutex_lock(m)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        sighting = settled(Observer(root=child.pid))
        child.kill()
    assert sighting.state is State.QUIESCENT, sighting


def test_a_root_that_is_gone_is_not_proven() -> None:
    """A process that has ended is RUNNING, with the reason: its end is an event, not a silence."""
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    sighting = Observer(root=child.pid).look()
    assert (sighting.state, "gone" in sighting.reason) == (State.RUNNING, True)


def test_an_event_between_two_looks_starts_the_proof_again(release: threading.Event) -> None:
    """Proof needs a streak of looks during which nothing was logged."""
    harness = fresh_harness()
    waiting_thread(release)
    lengths = iter([0, 1, 2, 2, 3, 3, 3, 3])
    asked: list[int] = []

    def length() -> int:
        asked.append(next(lengths))
        return asked[-1]

    observer = Observer(harness)
    settled(observer)
    assert observer.prove(length).state is State.QUIESCENT
    assert asked == [0, 1, 2, 2, 3, 3, 3, 3]


def test_where_nothing_can_be_read_a_look_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another system, or another processor, every look is BLIND and says so."""
    monkeypatch.setattr(observer_module.procfs, "LINUX", False)
    assert Observer().look().state is State.BLIND
    monkeypatch.undo()
    monkeypatch.setattr(os, "uname", type("Uname", (), {"machine": "riscv64"}))
    assert Observer().look().state is State.BLIND


def test_both_architectures_know_the_same_waits() -> None:
    """A system call that proves on one architecture proves on the other, if it exists there."""
    only_x86 = {"poll", "select", "epoll_wait", "pause"}
    assert set(syscalls.X86_64.values()) - set(syscalls.ARM64.values()) == only_x86
    assert set(syscalls.ARM64.values()) <= set(syscalls.X86_64.values())


def test_a_look_is_cheap(release: threading.Event) -> None:
    """A look at ten threads costs the processor a few milliseconds at most, besides its gap."""
    harness = fresh_harness()
    for _ in range(10):
        waiting_thread(release)
    observer = Observer(harness)
    observer.look()
    start = time.thread_time()
    for _ in range(10):
        observer.look()
    assert (time.thread_time() - start) / 10 < 0.02


def test_a_killed_tree_is_gone() -> None:
    """`kill_tree` ends the whole tree and leaves no zombie of ours behind."""
    assert become_subreaper()
    code = "import subprocess, sys; subprocess.Popen(['sleep', '100']); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        below = [pid for pid in descendants() if pid == child.pid or pid in descendants(child.pid)]
        assert len(below) == 2
        assert kill_tree(below) == below
        assert not set(below) & set(descendants())
        assert kill_tree(below) == []


def test_a_lost_future_in_this_very_process_is_proven() -> None:
    """Proof needs no process of its own: it works where the tests run."""
    harness = fresh_harness()
    lost: Future[int] = Future()
    threading.Thread(target=lost.result, daemon=True).start()
    sighting = settled(Observer(harness))
    assert sighting.state is State.QUIESCENT, sighting
    lost.set_result(0)
