"""STO-22: a fork in the middle of a save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.nursery import Answer, folder
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.store._shared import RUN, among, granted, nursery, state, visit

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.suites.store._shared import Nursery

LAST: Final = (state(3),)
"""What the forked process saves, once the save that was forked in is over."""

STEPS: Final = 8
"""Forks are made at so many steps of a save, from the first on."""


@rule("STO-22", should=True)
def a_forked_process_can_save(lab: Lab) -> None:
    """A process forked while a save holds its locks can save.

    Intent: Web servers and process pools fork at any moment; one of their children that hangs in its first save hangs for ever.

    Usual cause: A lock object that another thread held at the fork: in the child nobody will ever release it.

    Proof: A thread is held at each step of a save (opening, locking, renaming a file: audit hooks show them) while the main thread forks; then it goes on, and when its save is over the forked process saves: by the handle that it inherited, or is told clearly that it may not, and by a fresh one. That it never comes back is proven from the kernel.

    Source: POSIX.1-2017, fork(), rationale on threads; `os.register_at_fork`; sqlite.org/howtocorrupt.html, section 2.6.
    """
    with nursery(lab) as others:
        forks = 0
        for step in range(1, lab.repeated(STEPS) + 1):
            with folder() as path:
                if not _fork_at(lab, others, path, step):
                    break
            forks += 1
        if not forks:
            raise NotTestable("no step of a save can be seen by an audit hook: it is made of native code throughout")
        lab.note(f"forked at {forks} steps of a save")


def _fork_at(lab: Lab, others: Nursery, path: Path, step: int) -> bool:
    """Whether a save has so many steps."""
    worker = others.worker()
    granted(worker.open(path), "opening the store", "STO-01")
    worker.must("save", RUN, state(1))
    before, after = [("save", RUN, state(2))], [("save", RUN, state(3)), ("load", RUN)]
    call: Call[Any] = worker.begin(
        f"fork at step {step} of a save", "fork_within", "it", str(path), step, before, after
    )
    lab.until(
        lambda: call.done,
        f"the process that was forked at step {step} of a save saves",
        expected="it saves, or is told clearly that it can't",
        hung=True,
    )
    forked = call.result()
    if forked is None:
        return False
    name, (mine,), theirs = forked
    if not mine.returned:
        raise Inconclusive(f"the save that was forked in {mine}", because_of="STO-01")
    where = f"in a process forked at step {step} ({name}) of a save"
    lab.check(theirs is not None, f"{where}, the next save ended the process", "it saves")
    inherited, fresh = theirs
    _judge(lab, f"{where}, with the inherited handle,", inherited, or_an_error=True)
    _judge(lab, f"{where}, with a fresh handle,", fresh)
    (loaded,) = visit(lab, path, ("load", RUN))
    lab.check(
        among(loaded, LAST),
        f"{where}, both saves returned; after that a load {loaded}",
        "the state that was saved last",
    )
    return True


def _judge(lab: Lab, where: str, answers: Any, *, or_an_error: bool = False) -> None:
    if not answers:
        return
    saved, loaded = answers
    assert isinstance(saved, Answer)
    if not saved.returned:
        lab.check(or_an_error and bool(saved.kinds), f"{where} the next save {saved}", "it returns")
        return
    lab.check(
        among(loaded, LAST),
        f"{where} the save returned, and the load {loaded}",
        "what it saved",
    )
