"""STO-02, 03, 07, 14: readers and savers beside each other, in threads and processes."""

from __future__ import annotations

import json.encoder
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.probes.needs import STRACE, lacking
from pytest_flowcheck.probes.nursery import Answer, folder, told
from pytest_flowcheck.proof import faults
from pytest_flowcheck.proof.sweep import code_of
from pytest_flowcheck.protocols import Refused
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.store._crash import recorded, requests, visited
from pytest_flowcheck.suites.store._shared import (
    RUN,
    Handle,
    Scripts,
    among,
    eager_threads,
    elsewhere,
    granted,
    handle,
    handles,
    nursery,
    state,
    together,
    visit,
)
from pytest_flowcheck.suites.store.crashes import BEFORE, LOADS, NEW, OLD, OTHER, SAVE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.proof.sweep import Outcome
    from pytest_flowcheck.suites.store._shared import Nursery, Worker


# --- sweeping: one thread is parked at each line of the store's own code ------------------------------------------------


class World:
    """A folder of its own, and handles on it, for one schedule."""

    def __init__(self, lab: Lab, count: int) -> None:
        self.lab, self._stack = lab, ExitStack()
        self.path = self._stack.enter_context(folder())
        self.handles = [Handle(lab, self._stack.enter_context(lab.instance(folder=self.path))) for _ in range(count)]

    def leave(self) -> None:
        """Close the handles, remove the folder."""
        self._stack.close()


def swept(
    lab: Lab,
    arrange: Callable[[], World],
    first: Callable[[World], Any],
    rival: Callable[[World], Any],
    judge: Callable[[World, Outcome], str | None],
    names: tuple[str, str],
    expected: str,
    limit: int = 60,
    also: tuple[ModuleType, ...] = (),
) -> str | None:
    """Sweep, if that is possible here.

    Args:
        also: modules of the standard library that the store may do its work in.

    Returns:
        Why it is not; None if nothing was found.
    """
    with folder() as path, handle(lab, path) as store:
        code = code_of(store.it.raw)
    if not code:
        return "none of the store's code is Python's"
    try:
        done = lab.sweep(
            arrange,
            first,
            rival,
            code=(*code, *also),
            judge=judge,
            names=names,
            leave=World.leave,
            allowed=(Refused,),
            both=True,
            limit=limit // 2 if "async" in lab.subject.claims[lab.facet] else limit,  # which has a loop for each schedule
            expected=expected,
        )
    except NotTestable as why:
        return str(why)
    lab.note(f"{names[1]} at every step of {names[0]}, and the reverse: {done}")
    return None


# --- STO-02 -------------------------------------------------------------------------------------------------------------


@rule("STO-02")
def a_reader_sees_the_old_state_or_the_new(lab: Lab) -> None:
    """A concurrent reader sees the old state or the new one, never a mixture, an empty file or a missing one.

    Intent: A dashboard reads what a run is saving; it must not see a run without nodes, or stop with a parse error.

    Usual cause: `open(path, "w")` empties the file first; or the old file is removed before the new one gets its name.

    Proof: A reader that comes between two system calls of a saver finds the folder as it is then: every such state, and each write half done, is rebuilt from a traced save and loaded. If all are whole, no reader can see anything else. If one is not, a lock may keep readers out: then a saver is held for a moment after each of its system calls while another process loads, and both save and load until one load goes wrong. And one thread is parked at each line of the store's own code while another loads.

    Source: rename(2): "there is no point at which another process attempting to access newpath will find it missing"; spec-kit pull request 3224.
    """

    def arrange() -> World:
        world = World(lab, 2)
        world.handles[0].must("save", RUN, OLD)
        return world

    def judge(_world: World, outcome: Outcome) -> str | None:
        loaded = outcome.rival
        if loaded is None or loaded.error is not None or among(Answer(loaded.value), [OLD, NEW]):
            return None
        return f"the load returned {told(loaded.value)}"

    unswept = swept(
        lab,
        arrange,
        lambda world: world.handles[0].direct("save", RUN, NEW),
        lambda world: world.handles[1].direct("load", RUN),
        judge,
        ("save(new)", "load()"),
        "the old state or the new one",
    )
    if lacking(STRACE) is None:
        try:
            if _whole_between_calls(lab):
                return
            _read_between_calls(lab)
        except NotTestable as why:
            lab.note(str(why))
    _read_while_saving(lab)
    if lab.grade == "proven":
        lab.grade = "observed"
        lab.observed_because = (
            f"no load went wrong beside many saves; {unswept or 'every line was tried in one process'}"
        )


def _whole_between_calls(lab: Lab) -> bool:
    """Whether each state that the folder passes through between two system calls loads as the old one or the new."""
    recording = recorded(lab, BEFORE, SAVE)
    with elsewhere(lab) as other:
        for crash, (loaded, _) in visited(lab, other, recording.states("kill"), LOADS):
            if not among(loaded, [OLD, NEW]):
                lab.note(f"between two calls of a save ({crash.story[-1]}) the load {loaded}, if no lock keeps it out")
                return False
    return True


def _read_between_calls(lab: Lab) -> None:
    """Loads in one process, while another is held after each system call of its save: a lock keeps them out, or they tell."""
    held = HELD
    plans = {(fault.call, fault.occurrence): fault for fault in faults.plans(recorded(lab, BEFORE, SAVE))}
    scripts = Scripts(lab)
    with folder() as path, elsewhere(lab) as reader:
        for value in (OLD, OTHER):
            (saved,) = reader.visit(path, ("save", RUN if value is OLD else "another", value))
            granted(saved, "save", "STO-01")
        argv = scripts.argv(requests(path, BEFORE[-1:], SAVE))
        for (name, occurrence), fault in plans.items():
            loads: list[Answer] = []
            while len(loads) < MANY:
                tampering = f"{name}:delay_exit={held}:when={occurrence}"
                saving = lab.call(
                    f"a save held after: {fault.where}",
                    lambda how=tampering: scripts.server.trace(argv, tampering=[how], from_begin=True),  # type: ignore[misc]
                )
                loads = []
                while not saving.done or not loads:
                    loads += reader.visit(path, ("load", RUN))
                saving.join()
                for loaded in loads:
                    lab.check(
                        loaded.is_a(Refused) or among(loaded, [OLD, NEW]),
                        f"while another process saved, and was held for a moment after: {fault.where}, a load {loaded}",
                        "the old state or the new one",
                    )
                if held >= 16 * HELD:
                    break
                if len(loads) < MANY:
                    held *= 2


def _read_while_saving(lab: Lab) -> None:
    """Many loads in one process, beside many saves in another."""
    states = [state(1, 3000), state(2, 2000)]
    with folder() as path, nursery(lab) as others:
        saver, reader = others.worker(), others.worker()
        for one in (saver, reader):
            granted(one.open(path), "opening the store", "STO-01")
        saver.must("save", RUN, states[0])
        rounds = lab.repeated(10)
        for _ in range(rounds):
            saving = saver.begin("10 saves", "each", "it", [("save", RUN, states[n % 2]) for n in range(1, 11)])
            loads = 0
            while not saving.done or not loads:
                for loaded in cast("list[Answer]", reader.request("each", "it", [("load", RUN)] * 10)):
                    loads += 1
                    if not loaded.is_a(Refused):
                        lab.check(
                            among(loaded, states),
                            f"while another process saved, a load {loaded}",
                            "the old state or the new one",
                        )
            saving.join()


HELD = 100_000
"""Microseconds for which a saver is held after a system call: several loads. Twice as long where loads take long."""

MANY = 12
"""So many loads beside a save, one of which was held: then some came while it was."""


# --- STO-03 -------------------------------------------------------------------------------------------------------------


def _prefix(value: Any) -> int | None:
    """How many puts of `k0000`, `k0001`, ... the state holds; None if these are not the first so many."""
    if not isinstance(value, dict):
        return None
    found = cast("dict[str, Any]", value)
    return len(found) if all(found.get(f"k{number:04}") == number for number in range(len(found))) else None


@rule("STO-03", "live")
def a_state_that_changes_is_saved_consistently(lab: Lab) -> None:
    """While the state is changed through the subject's interface, saves never raise and each holds one consistent state.

    Intent: Nodes end while the state is being saved; neither the save nor what they tell may be lost to that.

    Usual cause: The living dict is dumped: "dictionary changed size during iteration"; or it is copied in several steps, with a change in between.

    Proof: Keys are put one after the other while flushes go on. Each saved state must hold the first so many keys: no fewer than were put before the flush began, no more than had begun to be put when it came back. One thread is parked at each line of the store's own code while the other puts or flushes; and threads do both at once.

    Source: spec-kit pull request 3224: `json.dump(self._state)` beside fan-out threads.
    """
    base = 5

    def arrange() -> World:
        world = World(lab, 1)
        for number in range(base):
            world.handles[0].must("put", RUN, f"k{number:04}", number, needs="STO-03")
        return world

    def put(world: World) -> None:
        for number in (base, base + 1):
            world.handles[0].direct("put", RUN, f"k{number:04}", number)

    def judge(world: World, _outcome: Outcome) -> str | None:
        (loaded,) = visit(lab, world.path, ("load", RUN))
        held = _prefix(loaded.value) if loaded.returned else None
        if held is not None and base <= held <= base + 2:
            return None
        return f"{base} keys were put before the flush, two meanwhile; the load {loaded}"

    swept(
        lab,
        arrange,
        lambda world: world.handles[0].direct("flush", RUN),
        put,
        judge,
        ("flush()", "put() of two keys"),
        "flush returns, and what it saved holds the keys of some moment",
        also=(json.encoder,),  # where a living dict is walked through, in Python if it is written with an indent
    )
    with eager_threads(), folder() as path, handle(lab, path) as store:
        _flush_while_putting(lab, path, store, lab.repeated(600))


def _flush_while_putting(lab: Lab, path: Path, store: Handle, keys: int) -> None:
    begun = done = 0

    def putting() -> None:
        nonlocal begun, done
        for number in range(keys):
            begun += 1
            answer = store.beside("put", RUN, f"k{number:04}", number)
            lab.check(answer.returned, f"put of a key while a flush went on {answer}", "it returns")
            done += 1

    putter = lab.call(f"{keys} puts", putting)
    last, flushes = False, 0
    while not last:
        last = putter.done
        before = done
        flushed = store.ask("flush", RUN)
        after = begun
        lab.check(flushed.returned, f"flush, while key {after} of {keys} was put, {flushed}", "it returns")
        (loaded,) = visit(lab, path, ("load", RUN))
        held = _prefix(loaded.value) if loaded.returned else None
        lab.check(
            held is not None and before <= held <= after,
            f"{before} keys had been put when the flush began, {after} at most when it came back; the load {loaded}",
            "the first so many keys, one consistent state of a moment during the flush",
        )
        flushes += 1
    putter.result()
    lab.note(f"{flushes} flushes while {keys} keys were put")


# --- STO-07 -------------------------------------------------------------------------------------------------------------

Where: TypeAlias = Literal["one handle", "a handle of its own", "a process of its own"]


@dataclass(frozen=True)
class Saver:
    """One that saves some states, one after the other."""

    where: Where
    saves: int
    size: int


def places(lab: Lab) -> list[Where]:
    """Where savers and writers may be."""
    here: list[Where] = ["one handle", "a handle of its own"]
    return [*here, "a process of its own"] if lab.claims("processes") else here


def _savers(lab: Lab) -> st.SearchStrategy[list[Saver]]:
    saver = st.builds(Saver, st.sampled_from(places(lab)), st.integers(2, 8), st.sampled_from([1, 40, 2000]))
    return st.lists(saver, min_size=2, max_size=4)


def _told(savers: Sequence[Saver]) -> str:
    return "\n".join(
        f"saver {number}, {saver.where}: {saver.saves} saves of {saver.size} entries"
        for number, saver in enumerate(savers)
    )


@rule("STO-07", property=True)
def savers_never_mix(lab: Lab) -> None:
    """Savers in several threads and processes never mix or share a temporary name; a save succeeds or fails with a contention error; afterwards the state is whole, and is that of a save no other followed.

    Intent: Two workers take the same run, or a retry overlaps with what it retries; one of the two states must be there afterwards, whole.

    Usual cause: One temporary name, `state.json.tmp`, for all savers: one renames what the other is writing, and the other's rename finds nothing.

    Proof: Savers are drawn, on one handle, on several, and in processes where handles in processes share; all start at once. One process is held before each file that its save opens, renames, removes or locks, while another one saves. Errors other than Refused, and a state at the end that is not the last successful save of one of them, are facts. One thread is parked at each line of the store's own code while another saves.

    Source: spec-kit pull request 3224; Python library reference, `os.replace`.
    """
    old, mine, theirs = state(0), state(1, 30), state(2)

    def arrange() -> World:
        world = World(lab, 2)
        world.handles[0].must("save", RUN, old)
        return world

    def judge(world: World, outcome: Outcome) -> str | None:
        ends = (outcome.first, outcome.rival)
        legal = [value for end, value in zip(ends, (mine, theirs), strict=True) if end is None or end.error is None]
        (loaded,) = visit(lab, world.path, ("load", RUN))
        return None if among(loaded, legal or [old]) else f"afterwards the load {loaded}"

    swept(
        lab,
        arrange,
        lambda world: world.handles[0].direct("save", RUN, mine),
        lambda world: world.handles[1].direct("save", RUN, theirs),
        judge,
        ("save(first)", "save(second)"),
        "both saves return, or one is Refused; the state is one of the two",
    )
    with ExitStack() as stack:
        others = stack.enter_context(nursery(lab)) if lab.claims("processes") else None
        stack.enter_context(eager_threads())
        if others is not None:
            _save_between_steps(lab, others)
        for where in places(lab):
            _save_together(lab, others, [Saver(where, 8, 40)] * 3)
        forall(
            lab,
            lambda savers: _save_together(lab, others, savers),
            _savers(lab),
            examples=6,
            describe=_told,
            shrink=False,
        )


def _save_between_steps(lab: Lab, others: Nursery) -> None:
    """A process is held in the middle of its save while another one saves, until that is done or blocked."""
    with folder() as path:
        holder, rival = others.worker(), others.worker()
        for one in (holder, rival):
            granted(one.open(path), "opening the store", "STO-01")
        before = state(0)
        holder.must("save", RUN, before)
        for step in range(1, lab.repeated(12) + 1):
            mine, theirs = state(2 * step, 40), state(2 * step + 1)
            name = holder.request("hold", str(path), step, "each", "it", [("save", RUN, mine)])
            saving = rival.begin("save", "call", "it", "save", RUN, theirs)
            if name is not None:
                lab.rest(lambda saving=saving: saving.done)  # type: ignore[misc]
            held = f"a process was held in its save before {name} (step {step})"
            (first,) = cast("list[Answer]", holder.request("go"))
            second: Answer = saving.result()
            if name is None:
                return
            lab.note(f"{held} while another saved; the saves {first}, {second}")
            for saved in (first, second):
                lab.check(
                    saved.returned or saved.is_a(Refused),
                    f"{held} while another saved: a save {saved}",
                    "it returns, or is Refused because another saver is in the way",
                )
            legal = [v for v, saved in ((mine, first), (theirs, second)) if saved.returned] or [before]
            (loaded,) = visit(lab, path, ("load", RUN))
            lab.check(
                among(loaded, legal),
                f"{held} while another saved; afterwards the load {loaded}",
                f"a state that was saved, whole: {' or '.join(map(told, legal))}",
            )
            before = loaded.value


def _save_together(lab: Lab, others: Nursery | None, savers: Sequence[Saver]) -> None:
    with folder() as path, ExitStack() as stack:
        (shared,) = stack.enter_context(handles(lab, path, 1))
        shared.must("save", RUN, state(0))
        jobs: dict[str, Callable[[], list[Answer]]] = {}
        given: dict[str, list[Any]] = {}
        for number, saver in enumerate(savers):
            name = f"saver {number}, {saver.where}"
            given[name] = [state(100 * (number + 1) + n, saver.size) for n in range(saver.saves)]
            if saver.where == "a process of its own":
                assert others is not None
                jobs[name] = _elsewhere(others.worker(), path, given[name])
            else:
                store = shared if saver.where == "one handle" else stack.enter_context(handle(lab, path))
                jobs[name] = _here(store, given[name])
        legal: list[Any] = []
        for name, answers in together(lab, jobs).items():
            for value, saved in zip(given[name], answers, strict=True):
                lab.check(
                    saved.returned or saved.is_a(Refused),
                    f"{name}: save of step {value['step']}, beside other savers, {saved}",
                    "it returns, or is Refused because another saver is in the way",
                )
            legal += [value for value, saved in zip(given[name], answers, strict=True) if saved.returned][-1:]
        legal = legal or [state(0)]
        (loaded,) = visit(lab, path, ("load", RUN))
        lab.check(
            among(loaded, legal),
            f"after all had saved, the load by a fresh handle {loaded}",
            f"the last state of one of the savers, step {', '.join(str(value['step']) for value in legal)}, whole",
        )


def _here(store: Handle, values: Sequence[Any]) -> Callable[[], list[Answer]]:
    return lambda: [store.beside("save", RUN, value) for value in values]


def _elsewhere(worker: Worker, path: Path, values: Sequence[Any]) -> Callable[[], list[Answer]]:
    granted(worker.open(path), "opening the store", "STO-01")
    return lambda: cast("list[Answer]", worker.request("each", "it", [("save", RUN, value) for value in values]))


# --- STO-14 -------------------------------------------------------------------------------------------------------------


@rule("STO-14", "processes")
def a_load_sees_what_was_saved_before(lab: Lab) -> None:
    """A load begun after a save has returned, in any handle or process, sees it or a later one.

    Intent: One process runs, another one resumes or reports; neither may look at yesterday's copy.

    Usual cause: A handle that remembers what it loaded or saved itself, and never looks whether it is still so.

    Proof: Two handles here and one in each of two other processes save in turn; after each save all four load, and so does a fresh handle. All know the run from loading it before.

    Source: Lamport, "On Interprocess Communication" (1986): regular registers; sqlite.org/isolation.html.
    """
    with folder() as path, handles(lab, path, 2) as here, nursery(lab) as others:
        there = [others.worker(), others.worker()]
        for worker in there:
            granted(worker.open(path), "opening the store", "STO-01")
        everyone: list[tuple[str, Handle | Worker]] = [
            *((f"handle {number}", store) for number, store in enumerate(here)),
            *((f"process {number}", worker) for number, worker in enumerate(there)),
        ]
        step = 0
        for _ in range(lab.repeated(3)):
            for saver, store in everyone:
                step += 1
                store.must("save", RUN, state(step))
                loads = [(reader, one.ask("load", RUN)) for reader, one in everyone]
                loads.append(("a fresh handle", visit(lab, path, ("load", RUN))[0]))
                for reader, loaded in loads:
                    lab.check(
                        among(loaded, [state(step)]),
                        f"{saver} saved step {step}, and that returned; then the load by {reader} {loaded}",
                        f"step {step}",
                    )
