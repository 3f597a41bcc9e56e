"""The picture of what happened: its model, in characters, and the graph of waits."""

from __future__ import annotations

from typing import Any

import pytest
from sample_certificates import CRASH, DEADLOCK, RETRY, event

from pytest_flowcheck.certificate.drawing import LEGEND, drawn
from pytest_flowcheck.certificate.timeline import FIRST, LAST, Bar, picture
from pytest_flowcheck.certificate.waits import graph


def bars(evidence: dict[str, Any]) -> dict[str, Bar]:
    made = picture(evidence)
    assert made is not None
    return {bar.name: bar for bar in made.bars}


def test_a_lane_for_each_thread_and_a_bar_for_each_task() -> None:
    """Submitted, started, released, over: each is a column; what never started has a lane of its own."""
    made = picture(DEADLOCK)
    assert made is not None
    assert [(lane.name, lane.kind, lane.rows) for lane in made.lanes] == [
        ("pool-0", "thread", 1),
        ("pool-1", "thread", 1),
        ("never started", "queue", 1),
    ]
    outer, inner = bars(DEADLOCK)["outer 0"], bars(DEADLOCK)["inner"]
    assert (outer.submitted, outer.started, outer.released, outer.over, outer.gated) == (0, 1, 4, -1, True)
    assert (inner.submitted, inner.started, inner.lane) == (6, -1, 2)
    assert made.columns[7] == (0.008, "both wait", "note")


def test_ends_have_their_own_words() -> None:
    """Cancelled, timed out and raised are told apart; attempts stand side by side on one loop; an echo of a call is none."""
    made = picture(RETRY)
    assert made is not None
    assert [lane.kind for lane in made.lanes] == ["thread", "loop"]
    ends = {name: (bar.how, bar.detail, bar.call) for name, bar in bars(RETRY).items()}
    assert ends == {
        "call(fetch)": ("timed out", "TimeLimitError", True),
        "fetch #1": ("cancelled", "CancelledError", False),
        "fetch #2": ("raised", "ValueError", False),
    }
    assert len(made.columns) == 6


def test_a_gate_that_was_open_already() -> None:
    """Who comes to an open gate never waits at it."""
    happened = [
        event(0.1, "released", "a"),
        event(0.2, "started", "a", 1, "t", detail="free"),
        event(0.3, "ended", "a", 1, "t"),
    ]
    assert (bars({"events": happened})["a"].gated, bars({"events": happened})["a"].released) == (False, -1)
    assert drawn({"events": happened})[0] == "t  []   a"


def test_what_overlaps_stands_below_each_other() -> None:
    """Two coroutines of one loop have a row each; a third that begins when one is over takes its row."""
    happened = [
        event(0.1, "started", "a", 1, "loop", loop=True),
        event(0.2, "started", "b", 1, "loop", loop=True),
        event(0.3, "ended", "a", 1, "loop", loop=True),
        event(0.4, "started", "c", 1, "loop", loop=True),
        event(0.5, "started", "a", 1, "loop", loop=True),
    ]
    made = picture({"events": happened})
    assert made is not None
    assert [(bar.name, bar.row, bar.over) for bar in made.bars] == [
        ("a", 0, 2),
        ("b", 1, -1),
        ("c", 0, -1),
        ("a", 2, -1),
    ]


def test_a_long_history_has_a_gap() -> None:
    """The first and the last columns are drawn; a bar over the gap is, one within it is not, nor is its thread."""
    happened = [event(0, "started", "long", 1, "one")]
    for number in range(100):
        happened += [
            event(number, "started", f"t{number}", 2 + number % 90, "many"),
            event(number, "ended", f"t{number}", 2 + number % 90),
        ]
    made = picture({"events": happened})
    assert made is not None
    assert (made.gap, len(made.columns)) == ((FIRST, 201 - FIRST - LAST), FIRST + LAST)
    assert {bar.name for bar in made.bars} == {"long", "t0", "t1", "t2", "t3", *(f"t{n}" for n in range(80, 100))}
    assert len(made.lanes) == len({(bar.lane) for bar in made.bars})
    assert "~" in drawn({"events": happened})[0]


@pytest.mark.parametrize(
    "evidence",
    [{}, CRASH, {"events": 3}, {"events": [3, {}, {"at": "x"}, {"at": 1, "kind": [], "probe": {}}]}, {"events": None}],
    ids=["none", "notes", "number", "rubbish", "null"],
)
def test_nothing_to_draw(evidence: dict[str, Any]) -> None:
    """Notes alone are no picture; what is no event is none, and harms nobody."""
    assert picture(evidence) is None
    assert drawn(evidence) == []


def test_a_begin_that_was_left_out() -> None:
    """Of a history that keeps the last events only, ends without a begin are drawn from the left edge."""
    assert bars({"events": [event(1, "ended", "a", 1, "t"), event(2, "started", "b", 1, "t")]})["a"].over == 0


def test_the_picture_in_characters() -> None:
    """A line for each row: queued, at its gate, runs, in flight still; then who waits for whom."""
    assert drawn(DEADLOCK) == [
        "pool-0         -[..====>  outer 0",
        "pool-1           -[.===>  outer 1",
        "never started        -->  inner",
        f"({LEGEND})",
        "pool-0 waits for inner: a circle",
        "pool-1 waits for pool-0 (lock): a circle",
        "inner waits for pool-1 (busy worker): a circle",
    ]
    assert drawn(RETRY)[:3] == ["caller  [====t   call(fetch)", "a loop   [c[x    fetch #1, fetch #2", f"({LEGEND})"]


def test_the_graph_of_waits() -> None:
    """Threads that wait for somebody, and for whom; those in a circle are marked; the others are counted."""
    waits = graph(DEADLOCK)
    assert waits is not None
    assert [node.name for node in waits.nodes] == ["pool-0", "pool-1", "inner"]
    assert [(edge.source, edge.target, edge.circular) for edge in waits.edges] == [
        (0, 2, True),
        (1, 0, True),
        (2, 1, True),
    ]
    assert waits.others == 1


def test_a_wait_for_nobody_is_no_circle() -> None:
    """An arrow to a process that is listed leads there, and to one that is not, to a node of its own."""
    waits = graph(
        {
            "waits": [
                {
                    "pid": 1,
                    "tid": 2,
                    "name": "main",
                    "line": "waits for process 9",
                    "on": [{"pid": 9, "name": "process 9"}],
                },
                {"pid": 9, "tid": 9, "name": "", "line": "process 9 waits (futex)", "on": [{"name": "a lock"}]},
            ]
        }
    )
    assert waits is not None
    assert [node.name for node in waits.nodes] == ["main", "process 9", "a lock"]
    assert [(edge.source, edge.target, edge.circular) for edge in waits.edges] == [(0, 1, False), (1, 2, False)]
    assert graph({}) is None
