"""Progress bars: what they say of a run."""

from __future__ import annotations

from io import StringIO

import pytest

from flowcheck_reference import Engine, Flow

pytest.importorskip("rich")

from rich.console import Console

from flowcheck_reference.progress import Bars


def test_a_bar_counts_what_has_ended_and_what_failed() -> None:
    """One line for each run: all nodes end, two of them badly."""

    def fails() -> None:
        raise ValueError

    flow = Flow("counted")
    flow.add(int, id="good", needs=[])
    flow.add(fails, id="bad")
    flow.add(fails, id="worse")
    flow.add(int, id="skipped", needs=["bad"])
    screen = StringIO()
    with Bars(Console(file=screen, force_terminal=True, width=100)) as bars, Engine(2, on_event=bars) as engine:
        assert engine.run(flow, on_error="continue").status == "failed"
        assert engine.run(flow, on_error="continue").status == "failed"
    drawn = screen.getvalue()
    for line in ("counted-1", "counted-2", "4/4", "2 failed"):
        assert line in drawn


def test_a_run_that_began_before_is_passed_over() -> None:
    """Bars that are put in later don't know its nodes."""
    bars = Bars(Console(file=StringIO()))
    events: list[object] = []
    with Engine(1, on_event=events.append) as engine:
        flow = Flow()
        flow.add(int, id="a", needs=[])
        engine.run(flow)
    assert [getattr(event, "kind", "") for event in events] == ["run started", "node started", "node ended", "run ended"]
    for event in events[1:]:
        bars(event)  # type: ignore[arg-type]
    assert not bars._lines
