"""STO-08, 09, 19, 21: entries of a log, from many writers, and behind a torn tail."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.probes.needs import STRACE, lacking
from pytest_flowcheck.probes.nursery import Answer, folder, told
from pytest_flowcheck.protocols import Refused
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.store._child import Ask
from pytest_flowcheck.suites.store._crash import judge, recorded
from pytest_flowcheck.suites.store._shared import (
    RUN,
    Handle,
    eager_threads,
    elsewhere,
    files,
    granted,
    handle,
    handles,
    listed,
    mapped,
    nursery,
    same,
    state,
    together,
    visit,
)
from pytest_flowcheck.suites.store.beside import Where, World, places, swept

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.proof.sweep import Outcome
    from pytest_flowcheck.suites.store._shared import Nursery, Worker


def _listed(answer: Answer) -> list[Any] | None:
    """The entries; None if there is an error instead."""
    sequence = answer.returned and issubclass(type(answer.value), Sequence)
    return list(listed(answer.value)) if sequence else None


# --- STO-08 -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writer:
    """One that appends some entries."""

    where: Where
    entries: int
    size: int

    def entry(self, number: int, place: int) -> dict[str, Any]:
        """Its n-th entry."""
        return {"writer": number, "n": place, "text": f"{number}.{place} " * self.size}


def _writers(lab: Lab) -> st.SearchStrategy[list[Writer]]:
    writer = st.builds(Writer, st.sampled_from(places(lab)), st.integers(3, 20), st.sampled_from([1, 20, 3000]))
    return st.lists(writer, min_size=2, max_size=4)


def _told(writers: Sequence[Writer]) -> str:
    return "\n".join(
        f"writer {number}, {writer.where}: {writer.entries} entries of {len(str(writer.entry(0, 0)))} characters"
        for number, writer in enumerate(writers)
    )


@rule("STO-08", "log", property=True)
def entries_are_whole_and_none_is_lost(lab: Lab) -> None:
    """Entries appended from many threads and processes are each whole, none lost, in order per writer.

    Intent: The log is what is left to tell what a run did; it is written by all its nodes at once.

    Usual cause: An entry and its newline in two writes, a buffered file that several threads share, or read, add, and write the whole.

    Proof: Writers are drawn, on one handle, on several, and in processes where handles in processes share; all start at once, while a reader reads. In the end each entry whose append returned is there once, in its writer's order, and nothing else is. One thread is parked at each line of the store's own code while another appends.

    Source: write(2) on O_APPEND; POSIX.1-2017, write(), "Atomic/non-atomic"; spec-kit run log.
    """

    def arrange() -> World:
        world = World(lab, 2)
        world.handles[0].must("append", RUN, "there before", needs="STO-08")
        return world

    def sound(world: World, outcome: Outcome) -> str | None:
        right = ["there before"]
        right += [
            text for end, text in ((outcome.first, "first"), (outcome.rival, "second")) if end and end.error is None
        ]
        (read,) = visit(lab, world.path, ("entries", RUN))
        found = _listed(read)
        if found is not None and found[:1] == right[:1] and sorted(map(str, found)) == sorted(right):
            return None
        return f"the entries {' and '.join(right)} were appended; reading them {read}"

    swept(
        lab,
        arrange,
        lambda world: world.handles[0].direct("append", RUN, "first"),
        lambda world: world.handles[1].direct("append", RUN, "second"),
        sound,
        ("append(first)", "append(second)"),
        "all entries whose append returned, each whole and once",
    )
    with ExitStack() as stack:
        others = stack.enter_context(nursery(lab)) if lab.claims("processes") else None
        stack.enter_context(eager_threads())
        for where in places(lab):
            _append_together(lab, others, [Writer(where, 15, 20)] * 3)
        forall(
            lab,
            lambda writers: _append_together(lab, others, writers),
            _writers(lab),
            examples=6,
            describe=_told,
            shrink=False,
        )


def _append_together(lab: Lab, others: Nursery | None, writers: Sequence[Writer]) -> None:
    with folder() as path, ExitStack() as stack:
        (shared,) = stack.enter_context(handles(lab, path, 1))
        reader = stack.enter_context(handle(lab, path))
        jobs: dict[str, Callable[[], list[Answer]]] = {}
        for number, writer in enumerate(writers):
            asks: list[Ask] = [("append", RUN, writer.entry(number, place)) for place in range(writer.entries)]
            if writer.where == "a process of its own":
                assert others is not None
                jobs[f"writer {number}"] = _elsewhere(others.worker(), path, asks)
            else:
                store = shared if writer.where == "one handle" else stack.enter_context(handle(lab, path))
                jobs[f"writer {number}"] = _here(store, asks)
        jobs["reader"] = _here(reader, [("entries", RUN)] * 8)
        done = together(lab, jobs)
        read = done.pop("reader")
        for name, answers in done.items():
            for answer in answers:
                lab.check(
                    answer.returned or answer.is_a(Refused), f"append by {name}, beside others, {answer}", "it returns"
                )
        kept = {
            number: [place for place, answer in enumerate(done[f"writer {number}"]) if answer.returned]
            for number in range(len(writers))
        }
        for early in read:
            _check(lab, writers, early, "while others appended", kept, partly=True)
        _check(lab, writers, visit(lab, path, ("entries", RUN))[0], "after all had appended", kept, partly=False)


def _check(
    lab: Lab, writers: Sequence[Writer], answer: Answer, when: str, kept: dict[int, list[int]], *, partly: bool
) -> None:
    """The entries are those that were appended, whole, in order for each writer; some may be yet to come."""
    if partly and answer.is_a(Refused):
        return
    found = _listed(answer)
    lab.check(found is not None, f"entries, {when}, {answer}", "the whole entries")
    seen: dict[int, list[int]] = {number: [] for number in kept}
    for entry in found or ():
        number: int = mapped(entry).get("writer", -1)
        place: int = mapped(entry).get("n", -1)
        lab.check(
            number in kept and same(entry, writers[number].entry(number, place)),
            f"entries, {when}, hold {told(entry)}, which nobody appended",
            "each entry as it was appended",
        )
        seen[number].append(place)
    for number, right in kept.items():
        lab.check(
            seen[number] == (right[: len(seen[number])] if partly else right),
            f"entries, {when}, hold no. {seen[number]} of writer {number}, in this order; it appended no. {right}",
            "each writer's entries, in its order, each once",
        )


def _here(store: Handle, asks: Sequence[Ask]) -> Callable[[], list[Answer]]:
    return lambda: [store.beside(*ask) for ask in asks]


def _elsewhere(worker: Worker, path: Path, asks: Sequence[Ask]) -> Callable[[], list[Answer]]:
    granted(worker.open(path), "opening the store", "STO-08")
    return lambda: cast("list[Answer]", worker.request("each", "it", list(asks)))


# --- torn tails: STO-09, 21 ---------------------------------------------------------------------------------------------

WHOLE: Final[list[Any]] = [{"n": 1, "text": "the first"}, 22, {"n": 3, "text": "a\nb"}]
LAST: Final = {"n": 4, "text": "torn by the crash", "number": 123456}
NEXT: Final = {"n": 5, "text": "appended after the crash"}

LOGGED: Final[tuple[Ask, ...]] = (("save", RUN, state(1)), *(("append", RUN, entry) for entry in WHOLE))
"""What is there before the append that is torn."""


def _cut(lab: Lab, path: Path, last: Any) -> Generator[tuple[str, bytes, Path]]:
    """A log that grew by one entry at the end of one file: that file without the last 1, 2, ... bytes of it.

    Yields:
        What was cut, what is left, and the file. Nothing, if the log is kept in another way.
    """
    for ask in LOGGED:
        granted(visit(lab, path, ask)[0], f"{ask[0]}", "STO-08")
    before = files(path)
    granted(visit(lab, path, ("append", RUN, last))[0], "append", "STO-08")
    grown = {name: data for name, data in files(path).items() if before.get(name) != data}
    if len(grown) != 1:
        return
    ((name, data),) = grown.items()
    old = before.get(name, b"")
    if not old or not data.startswith(old):
        return
    for end in range(len(old), len(data)):
        yield f"{len(data) - end} of {len(data) - len(old)} bytes", data[:end], name


@rule("STO-09", "log")
def a_torn_tail_is_tolerated(lab: Lab) -> None:
    """A torn tail (crash) is tolerated at reading; whole entries before it are kept.

    Intent: After a crash the log is read by those who want to know what happened; half a line at its end must not keep the other thousand from them.

    Usual cause: `[json.loads(line) for line in file]`.

    Proof: From the trace of an append every state that a kill can leave is rebuilt, the entry torn included; a fresh handle must read all entries before it, and nothing else but the torn one if it is whole. Where the log is a file that only grows, each number of bytes is cut off as well.

    Source: Pillai et al., OSDI 2014; the PostgreSQL and SQLite documentation on torn pages and WAL tails.
    """
    with elsewhere(lab) as other:
        cuts = _cuts_are_tolerated(lab)
        if (missing := lacking(STRACE)) is None:
            judge(
                lab,
                other,
                recorded(lab, LOGGED, (("append", RUN, LAST),)),
                "kill",
                (("entries", RUN),),
                lambda _state, answers: _read_wrong(answers[0], LAST),
                "all entries before the torn one",
            )
        elif not cuts:
            raise NotTestable(missing)


def _read_wrong(answer: Answer, last: Any, *more: Any) -> str | None:
    found = _listed(answer)
    if found is not None and any(same(found, [*WHOLE, *maybe, *more]) for maybe in ([], [last])):
        return None
    return f"{len(WHOLE)} entries had been appended before; reading them {answer}"


def _cuts_are_tolerated(lab: Lab) -> int:
    cuts = 0
    for last in (LAST, 123456):
        with folder() as path:
            for what, left, name in _cut(lab, path, last):
                name.write_bytes(left)
                (read,) = visit(lab, path, ("entries", RUN))
                wrong = _read_wrong(read, last)
                lab.check(
                    wrong is None,
                    f"{name.name} ended in an entry of which {what} were cut off, as by a crash while it was written; {wrong}",
                    "all entries before the torn one, and not a part of it",
                )
                cuts += 1
    return cuts


@rule("STO-21", "log")
def entries_stay_apart(lab: Lab) -> None:
    """An entry with newlines stays one entry; an append after a torn tail is whole.

    Intent: A stack trace is one entry; and the first entry after a crash is the one that tells of it.

    Usual cause: Texts are written as they are, a line each; or the next entry goes on in the line that the crash tore, and both are lost.

    Proof: Entries with every kind of line end, alone and inside, are appended and read. Every state that a kill can leave in the middle of an append is rebuilt from its trace, an entry is appended by a fresh handle, and read; so is a growing file with each number of bytes cut off.

    Source: JSON Lines; Unicode Standard Annex 14; `str.splitlines`.
    """
    odd = [
        "\n",
        "a\n",
        "\nb",
        "a\n\nb",
        "a\r\nb",
        "\r",
        "\v",
        "\f",
        "\x1c\x1d\x1e",
        "\x85",
        "\u2028",
        "\u2029",
        "",
        " ",
        '{"n": 1}\n{"n": 2}',
    ]
    entries: list[Any] = [*odd, {"a\nb": ["c\nd"]}, [], {}, None, 0]
    with folder() as path, handle(lab, path) as store:
        kept: list[Any] = []
        for entry in entries:
            answer = store.ask("append", RUN, entry)
            if not answer.returned:
                continue  # it may refuse an entry (STO-01), but not split it
            kept.append(entry)
            found = _listed(store.ask("entries", RUN))
            lab.check(
                found is not None and same(found, kept),
                f"the entry {told(entry)} was appended as no. {len(kept)}; the log then reads {told(found)}",
                f"one more entry: {told(entry)}",
            )
        if len(kept) < 2:
            raise Inconclusive("hardly an entry is taken", because_of="STO-08")
    cuts = 0
    for last in (LAST, 123456):
        with folder() as path:
            saved: dict[Path, bytes] = {}
            for what, left, name in _cut(lab, path, last):
                saved = saved or files(path)
                for other, data in saved.items():
                    other.write_bytes(data)
                name.write_bytes(left)
                appended, read = visit(lab, path, ("append", RUN, NEXT), ("entries", RUN))
                wrong = f"append {appended}" if not appended.returned else _read_wrong(read, last, NEXT)
                lab.check(
                    wrong is None,
                    f"{name.name} ended in an entry of which {what} were cut off; another entry was appended; {wrong}",
                    "the entries before the torn one, and the one appended after the crash",
                )
                cuts += 1
    if (missing := lacking(STRACE)) is None:
        with elsewhere(lab) as worker:
            judge(
                lab,
                worker,
                recorded(lab, LOGGED, (("append", RUN, LAST),)),
                "kill",
                (("append", RUN, NEXT), ("entries", RUN)),
                lambda _state, answers: (
                    _read_wrong(answers[1], LAST, NEXT) if answers[0].returned else f"the next append {answers[0]}"
                ),
                "the entries before the torn one, and the one appended after the crash",
            )
    elif not cuts:
        raise NotTestable(missing)


# --- STO-19 -------------------------------------------------------------------------------------------------------------


@rule("STO-19", "log")
def saves_and_appends_never_deadlock(lab: Lab) -> None:
    """Saves and appends running together never deadlock.

    Intent: A node logs while the run is being saved; a deadlock there stops everything and tells nothing.

    Usual cause: Two locks, taken by `save` in one order and by `append` in the other; or a lock that is no re-entrant one, taken by `save`, which logs.

    Proof: Threads on one handle and on several, and processes where handles in processes share, save and append to one run and to two; that they never come to an end is proven from the kernel. One thread is parked at each line of the store's own code while another goes on, which finds every pair of locks taken in two orders.

    Source: Coffman et al., "System Deadlocks" (1971).
    """

    def arrange() -> World:
        world = World(lab, 1)
        world.handles[0].must("save", RUN, state(0))
        return world

    swept(
        lab,
        arrange,
        lambda world: world.handles[0].direct("save", RUN, state(1)),
        lambda world: world.handles[0].direct("append", RUN, 1),
        lambda _world, _outcome: None,
        ("save()", "append()"),
        "both return",
        limit=200,  # every place, for one of them may be between two locks
    )
    asks: dict[str, list[Ask]] = {
        "saver": [("save", RUN, state(n, 50)) for n in range(lab.repeated(15))],
        "writer": [("append", RUN, n) for n in range(lab.repeated(15))],
        "both": [ask for n in range(lab.repeated(10)) for ask in (("append", "another", n), ("save", RUN, state(n)))],
    }
    for processes in (False, True) if lab.claims("processes") else (False,):
        # threads first: where the loops of other processes wait, that they wait for nothing else can't always be proven
        with eager_threads(), folder() as path, ExitStack() as stack:
            jobs: dict[str, Callable[[], list[Answer]]] = {}
            one, two = stack.enter_context(handles(lab, path, 2))
            for name, mine in asks.items():
                jobs[f"{name} on a handle"] = _here(one, mine)
                jobs[f"{name} on another handle"] = _here(two, mine)
            if processes:
                others = stack.enter_context(nursery(lab))
                for name in ("saver", "writer"):
                    jobs[f"{name} in a process"] = _elsewhere(others.worker(), path, asks[name])
            done = together(lab, jobs)
        for name, answers in done.items():
            if not any(answer.returned for answer in answers):
                raise Inconclusive(f"beside others, no call of a {name} returned: {answers[0]}", because_of="STO-07")
