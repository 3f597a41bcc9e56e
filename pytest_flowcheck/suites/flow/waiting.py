"""FLO-11, 12: engines that wait by the clock, or without waiting."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple, Self

from pytest_flowcheck.probes.needs import PROC, need
from pytest_flowcheck.proof import Harness, Observer, Sighting, Wait, descendants, procfs
from pytest_flowcheck.proof.waitlist import where
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._shared import begin, completed, fan, let_all_go, node, some_in_flight, starts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab

Key = tuple[int, int]
"""(pid, native thread id)"""

GAP = 0.0005
"""Seconds between the two samples of a look: shorter than a sleep that is worth finding."""

IN_VAIN = 300
"""After so many looks in a row during which no node moved, whether the run hangs is for `join` to prove."""


def threads() -> set[Key]:
    """All threads of this process and of those below it."""
    found: set[Key] = set()
    for pid in (os.getpid(), *descendants()):
        try:
            found |= {(pid, tid) for tid in procfs.tids(pid)}
        except OSError:
            continue  # it ended
    return found


def who(tid: int) -> str:
    """A thread by name, and where its Python code is."""
    name, ident = next(((t.name, t.ident) for t in threading.enumerate() if t.native_id == tid), ("", None))
    frame = sys._current_frames().get(ident or -1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the only way to see it
    at = f" at {where(frame.f_code.co_filename, frame.f_lineno)} in {frame.f_code.co_name}" if frame is not None else ""
    return f"thread {name or tid!r}{at}"


class Pause(NamedTuple):
    """Between two nodes nothing ran and nothing could, until a clock would wake somebody."""

    position: int
    """So many nodes had ended."""
    text: str


class Sleepers(Harness):
    """Leaves out who sleeps all the time: what earlier rules left in this process may be a hundred threads.

    Reading them all takes longer than the pauses that are looked for. So who slept at the start is not looked at, and before
    anything is concluded the kernel's counters say whether he slept all along.
    """

    still: dict[Key, tuple[bytes, ...]]

    @classmethod
    def at_start(cls, tids: Iterable[int] | None = None, *, but: Collection[int] = ()) -> Self:
        """Call it before the subject has opened anything."""
        harness = super().at_start(tids, but=but)
        harness.still = dict(_asleep(threads()))
        return harness

    def threads(self) -> list[Key]:
        """Who need not be looked at."""
        return list(self.still)

    def owns(self, pid: int, tid: int) -> bool:
        """Whether it need not be looked at."""
        return (pid, tid) in self.still

    def woken(self) -> bool:
        """Whether any of them has run meanwhile, or ended; they are looked at from now on."""
        asleep = dict(_asleep(self.still))
        woken = [key for key, switches in self.still.items() if asleep.get(key) != switches]
        for key in woken:
            del self.still[key]
        return bool(woken)


def _asleep(keys: Iterable[Key]) -> Iterator[tuple[Key, tuple[bytes, ...]]]:
    """Those of these threads that sleep, and how often each has left a processor."""
    for pid, tid in keys:
        try:
            status = procfs.read(f"/proc/{pid}/task/{tid}/status")
        except OSError:
            continue  # it ended
        if procfs.state_of(status) == "S":
            yield (pid, tid), procfs.switches(status)


class Stamping(Observer):
    """Notes how long the history was just after the samples: what the waits mean is found out later, and takes longer."""

    def __init__(self, lab: Lab) -> None:
        self.sleepers = Sleepers.at_start()
        super().__init__(self.sleepers)
        self._lab, self.length = lab, -1

    def _sampled(self) -> None:
        self.length = len(self._lab.timeline)


def pauses(lab: Lab, call: Call[object], observer: Stamping, ours: set[Key]) -> Iterator[Pause]:
    """Such moments of the run under way, as they are seen."""
    vain, length = 0, -1
    while not call.done and vain < IN_VAIN:
        before = len(lab.timeline)
        vain, length = (vain + 1, length) if before == length else (0, before)
        ended = len(lab.ended())
        if lab.live() or call.done:
            continue
        observer.length = -1
        timed = only_clocks(observer.look(GAP), ours)
        # what held before the samples and after them held at their moment: no probe moved, nor did the call come back
        if timed and observer.length == before:
            yield Pause(ended, "; ".join(f"{who(wait.tid)} {wait.text}" for wait in timed))


def only_clocks(sighting: Sighting, ours: set[Key]) -> list[Wait]:
    """The timed waits of the subject's threads, if nothing but a clock could end any of its waits.

    The kit's own threads must be off the processor too: a thread that wants the interpreter while another of them has it also
    sits in a timed wait.
    """
    if not all(wait.kind in {"untimed", "door", "timed", "external"} for wait in sighting.waits):
        return []
    theirs = [wait for wait in sighting.waits if (wait.pid, wait.tid) not in ours]
    if any(wait.kind == "external" for wait in theirs):
        return []
    return [wait for wait in theirs if wait.kind == "timed"]


@rule("FLO-11", cluster="exempt")
def no_polling_quantum_per_node(lab: Lab) -> None:
    """In `run` and `arun`, a chain of n no-op nodes performs no timed wait per node (no polling quantum).

    Intent: An engine that looks every three milliseconds whether a node has ended makes a flow of a thousand small nodes last three seconds.

    Usual cause: `while pending: sleep(0.003)`; `wait(timeout=0.01)` in a loop, because a completion has no way to wake the coordinator.

    Proof: During a chain of ungated nodes the kernel is asked what every thread does. A moment is counted if all of them were blocked at once while no node was in flight and the run was not over, and one of the subject's was in a wait with a deadline: then nothing but a clock could let the run go on. Two such moments behind different nodes are proof by presence, however fast or slow the machine is.

    Source: dynamiq 0.45 to 0.69, `time.sleep(0.003)` in `Flow.run_sync`.
    """
    need(PROC)
    size = 200
    ours, observer = threads(), Stamping(lab)  # before the subject has opened anything
    seen: dict[int, str] = {}
    with lab.instance(max_workers=2) as it:
        nodes = [node(lab, f"n{i}", *([f"n{i - 1}"] if i else []), gated=False) for i in range(size)]
        call = begin(it, nodes, what=f"run of a chain of {size} nodes")
        for pause in pauses(lab, call, observer, ours):
            seen.setdefault(pause.position, pause.text)
            if len(seen) > 1 and observer.sleepers.woken():
                seen.clear()  # one who was not looked at has run: these moments prove nothing
            lab.check(
                len(seen) < 2,
                "; ".join(
                    f"behind node {position} of {size} nothing ran, and nothing would have, but for a clock: {text}"
                    for position, text in seen.items()
                ),
                "the end of a node itself makes the next one start",
            )
        completed(lab, call, needs="FLO-01")
        lab.check(len(starts(lab)) >= size, f"only {len(starts(lab))} of {size} nodes ran", "all of them")


class Activity(NamedTuple):
    """What a thread has done so far, as the kernel counts it."""

    switches: int
    """How often it left a processor."""
    ticks: int
    """Its processor time."""


def activity(ours: set[Key]) -> dict[Key, Activity]:
    """Of every thread that is not ours."""
    found: dict[Key, Activity] = {}
    for pid, tid in threads() - ours:
        folder = f"/proc/{pid}/task/{tid}"
        try:
            status, stat = procfs.read(f"{folder}/status"), procfs.read(f"{folder}/stat")
        except OSError:
            continue  # it ended
        fields = stat[stat.rindex(b")") + 2 :].split()
        found[pid, tid] = Activity(sum(map(int, procfs.switches(status))), int(fields[11]) + int(fields[12]))
    return found


MANY = 20
"""So often no thread wakes by accident while nothing moves."""


@rule("FLO-12", cluster="exempt")
def no_work_while_all_nodes_are_gated(lab: Lab) -> None:
    """While all nodes are gated, CPU time and context switches of the engine's threads don't grow.

    Intent: A flow that waits for a slow service for an hour must cost nothing meanwhile.

    Usual cause: The coordinator asks again and again: `sleep(0)` in a loop, `wait(timeout=0.01)`, `asyncio.sleep(0.003)`.

    Proof: That nothing can run any more is read from the kernel; where timers forbid it, its counters of processor time and context switches are compared for each thread of the subject, while nothing moves. One thread that has woken 20 times, or that wakes in each of three rounds, is presence; a watchdog that sleeps to a far deadline is no finding.

    Source: dynamiq 0.45 to 0.69, `time.sleep(0.003)` in `Flow.run_sync`.
    """
    need(PROC)
    ours = threads()
    with lab.instance(max_workers=2) as it:
        nodes = fan(lab, "n", 3)
        call = begin(it, nodes)
        some_in_flight(lab, call, nodes, 2)
        awake: set[Key] | None = None
        for _ in range(3):
            before = activity(ours)
            if lab.settle() == "proven":
                break
            after = activity(ours)
            grown = {
                key: Activity(now.switches - before[key].switches, now.ticks - before[key].ticks)
                for key, now in after.items()
                if key in before and now != before[key]
            }
            for (_, tid), did in grown.items():
                lab.check(
                    max(did) < MANY,
                    f"while all nodes in flight were at their gates, {who(tid)} left a processor {did.switches} times and "
                    f"took {did.ticks} ticks of processor time",
                    "nothing: it waits until it is told",
                )
            awake = set(grown) if awake is None else awake & set(grown)
            if not awake:
                break
        else:
            lab.check(
                not awake,
                f"while all nodes in flight were at their gates, {', '.join(who(tid) for _, tid in awake or ())} "
                "ran in each of three rounds",
                "nothing runs",
            )
        let_all_go(lab, call, nodes)
