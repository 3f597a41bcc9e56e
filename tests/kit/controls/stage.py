"""Where a control plays: it sets up its threads and processes, and an observer tries to prove that nothing can move."""

from __future__ import annotations

import collections
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pytest_flowcheck.proof import (
    Harness,
    Observer,
    Sighting,
    State,
    become_subreaper,
    descendants,
    kill_tree,
    procfs,
    wait_list,
)

SECONDS = 20.0
"""How long a dead control may take until it is dead and proven so; a live one, to begin."""

RESTLESS: set[str] = set()
"""Dead controls with a thread that looks at a flag of its own now and then: a look may meet it awake."""


@dataclass
class Stage:
    """What a control is given: threads that are the subject's, and what the outsider left before the start."""

    inherited: Any = None
    ready: threading.Event = field(default_factory=threading.Event)

    def thread(self, body: Callable[..., object], *args: object, name: str | None = None) -> threading.Thread:
        """A daemon thread of the subject."""
        started = threading.Thread(target=body, args=args, name=name, daemon=True)
        started.start()
        return started

    def waiter(self) -> threading.Event:
        """A thread that waits for an event without a deadline: what the control's live part may wake."""
        event = threading.Event()
        self.thread(lambda: [event.wait() and event.clear() for _ in iter(int, 1)], name="waiter")
        return event


Body = Callable[[Stage], object]


@dataclass(frozen=True)
class Control:
    """One subject. `truth`: may a proof that it can't move ever succeed."""

    name: str
    body: Body
    truth: str
    main: bool
    """The body stays in the main thread, and that thread is the subject's."""
    outsider: Callable[[], tuple[Any, Callable[[int], object]]] | None
    """Makes what the subject inherits, and says what a process outside does meanwhile (it is given the pid)."""
    subreaper: bool
    law: str


CONTROLS: dict[str, Control] = {}


def _register(truth: str, main: bool, outsider: Any, subreaper: bool) -> Callable[[Body], Body]:
    def decorate(body: Body) -> Body:
        name = body.__name__
        assert name not in CONTROLS, name
        CONTROLS[name] = Control(name, body, truth, main, outsider, subreaper, (body.__doc__ or "").strip())
        return body

    return decorate


def live(*, main: bool = False, outsider: Any = None, subreaper: bool = True) -> Callable[[Body], Body]:
    """A subject that will move again: a QUIESCENT sighting of it is a false proof."""
    return _register("live", main, outsider, subreaper)


def dead(*, main: bool = False, subreaper: bool = True, restless: bool = False) -> Callable[[Body], Body]:
    """A subject that can never move again: it must be proven so, again and again."""

    def decorate(body: Body) -> Body:
        if restless:
            RESTLESS.add(body.__name__)
        return _register("dead", main, None, subreaper)(body)

    return decorate


def every(seconds: float, act: Callable[[], object], subject: int | None = None) -> None:
    """What an outsider does; a daemon does it for as long as the subject is there."""
    while subject is None or _lives(subject):
        time.sleep(seconds)
        act()
    os._exit(0)


def _lives(pid: int) -> bool:
    try:
        return not procfs.stat(f"/proc/{pid}/stat").dead
    except OSError:
        return False


def judge(control: Control, observer: Observer, rounds: int) -> dict[str, Any]:
    """`rounds` attempts at a proof; a report of what was seen and whether that is right."""
    seen: collections.Counter[str] = collections.Counter()
    start = time.perf_counter()
    last = observer.prove(int)
    while control.truth == "dead" and last.state is not State.QUIESCENT and time.perf_counter() - start < SECONDS:
        last = observer.prove(int)
    first = time.perf_counter() - start
    accused: Sighting | None = None
    for _ in range(rounds):
        seen[last.state.name] += 1
        if last.state is State.QUIESCENT:
            accused = accused or last
        last = observer.prove(int)
    moving = set() if control.name not in RESTLESS else {"RUNNING"}
    right = not accused if control.truth == "live" else {"QUIESCENT"} <= set(seen) <= {"QUIESCENT"} | moving
    shown = accused or last
    return {
        "control": control.name,
        "truth": control.truth,
        "right": right,
        "seen": dict(seen),
        "seconds": round(first, 4),
        "reason": last.reason,
        "waits": [f"{wait.pid}/{wait.tid} {wait.kind} {wait.text}" for wait in shown.waits],
        "words": wait_list(shown),
    }


def play(control: Control, rounds: int) -> None:
    """Run the control in this process, print the report as one line of JSON, and leave with 0 if it is right."""
    inherited, outside = control.outsider() if control.outsider else (None, None)
    if outside is not None:
        subject = os.fork()
        if subject:
            _play_outside(subject, outside)
    become_subreaper(control.subreaper)
    harness = Harness.at_start()
    stage = Stage(inherited)
    if control.main:
        harness.disown(threading.get_native_id())
        threading.Thread(target=_watch, args=(control, stage, harness, rounds), daemon=True).start()
        control.body(stage)
        raise AssertionError("the body of this control should not have ended")
    control.body(stage)
    time.sleep(0.05)
    _report(control, harness, rounds)


def _watch(control: Control, stage: Stage, harness: Harness, rounds: int) -> None:
    stage.ready.wait(SECONDS)
    time.sleep(0.05)
    _report(control, harness, rounds)


def _report(control: Control, harness: Harness, rounds: int) -> None:
    report = judge(control, Observer(harness), rounds)
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()
    kill_tree(descendants())
    os._exit(0 if report["right"] else 1)


def _play_outside(subject: int, outside: Callable[[int], object]) -> None:
    threading.Thread(target=outside, args=(subject,), daemon=True).start()
    _pid, status = os.waitpid(subject, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def main(argv: list[str]) -> None:
    """`python -m controls [NAME [ROUNDS]]`."""
    if not argv:
        for control in CONTROLS.values():
            sys.stdout.write(f"{control.truth}  {control.name:32} {control.law}\n")
        return
    play(CONTROLS[argv[0]], int(argv[1]) if len(argv) > 1 else 10)
    sys.exit(2)
