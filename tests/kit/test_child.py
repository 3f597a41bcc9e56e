"""Interpreters of their own, started or forked: both begin and end like any other."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from pytest_flowcheck import subjects
from pytest_flowcheck.probes import kept
from pytest_flowcheck.probes.child import child
from pytest_flowcheck.probes.lab import Lab
from pytest_flowcheck.proof import descendants


def ends(_subject: Any, at_exit: Any, in_a_thread: Any) -> None:
    """A thread that is no daemon, an exit handler, a status."""
    atexit.register(at_exit)
    threading.Thread(target=in_a_thread).start()
    print("on the main thread:", threading.current_thread() is threading.main_thread())  # noqa: T201 - its output is looked at
    sys.exit(3)


def waits(_subject: Any, gate: Any) -> None:
    """For ever."""
    gate()


@pytest.fixture(params=[True, False], ids=["started", "forked"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    kept.keep_for(request.node.name)
    yield Lab(subjects.load("stdlib-threads"), thorough=request.param)
    kept.let_go()


def test_it_ends_like_any(lab: Lab) -> None:
    """Threads are joined, exit handlers run, the status is its own; the next one knows nothing of it."""
    for number in (1, 2):
        with child(
            lab, ends, lab.probe(f"at exit {number}", gated=False), lab.probe(f"thread {number}", gated=False)
        ) as process:
            assert process.status == 3
            assert process.output() == "on the main thread: True\n"
        assert lab.ended() == [name for n in range(1, number + 1) for name in (f"thread {n}", f"at exit {n}")]


def test_one_that_dies_before_it_has_read_its_task_tells_why() -> None:
    """Its status and its output are there as after any other end."""
    lost = replace(subjects.load("stdlib-threads"), spec="gone.with_the:wind")
    lab = Lab(lost, thorough=True)
    with child(lab, ends, b"more than a pipe holds" * 10_000, None) as process:
        assert process.status == 1
        assert "gone.with_the:wind" in process.output()


def test_leaving_ends_it(lab: Lab) -> None:
    """It is gone, and a forked one leaves only what it was forked from."""
    before = set(descendants())
    with child(lab, waits, lab.probe("gate")) as process:
        lab.timeline.wait_for(lambda: bool(lab.live()))
        assert not process.exited
        assert process.pid in descendants()
    assert process.status < 0 or process.status == 0  # its gate was opened when it was killed
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    assert set(descendants()) - before == kept.pids()
    assert len(kept.pids()) == (not lab.thorough)
