"""The picture of what happened: its model, in characters, and the graph of waits."""

from __future__ import annotations

from typing import Any

import pytest
from sample_certificates import CRASH, DEADLOCK, RETRY, event

from pytest_flowcheck.certificate.drawing import LEGEND, drawn
from pytest_flowcheck.certificate.timeline import ATTEMPTS, FIRST, LAST, THROUGH, Bar, picture
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
    """Cancelled, timed out and raised are told apart; an echo of a call is none."""
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


def test_attempts_have_rows_of_their_own() -> None:
    """On one thread or loop the next attempt stands below the one before, though that is over; other tasks fill the rows."""
    happened: list[dict[str, Any]] = []
    for number, name in enumerate(["fetch #1", "other", "fetch #2", "another", "fetch #3"]):
        happened += [event(number, "started", name, 1, "t"), event(number, "ended", name, 1, "t")]
    assert {name: bar.row for name, bar in bars({"events": happened}).items()} == {
        "fetch #1": 0,
        "other": 0,
        "fetch #2": 1,
        "another": 0,
        "fetch #3": 2,
    }
    assert [line.partition("  ")[2].split() for line in drawn({"events": happened})[:3]] == [
        ["[][]", "[]", "fetch", "#1,", "other,", "another"],
        ["[]", "fetch", "#2"],
        ["[]", "fetch", "#3"],
    ]
    many = [event(n, kind, f"a #{n}", 1, "t") for n in range(20) for kind in ("started", "ended")]
    assert [bar.row for bar in bars({"events": many}).values()] == [n % ATTEMPTS for n in range(20)]


def test_attempts_in_threads_of_their_own_stand_together() -> None:
    """The lanes of one task's attempts follow each other, whatever began in between; a lane that serves others stays."""
    happened = [
        event(n, "started", name, n + 1, thread)
        for n, (name, thread) in enumerate(
            [("a #1", "a1"), ("b #1", "b1"), ("shared #1", "s"), ("b #2", "b2"), ("a #2", "a2"), ("a #3", "a3")]
        )
    ]
    happened.append(event(7, "started", "a #4", 3, "s"))
    made = picture({"events": happened})
    assert made is not None
    assert [lane.name for lane in made.lanes] == ["a1", "a2", "a3", "b1", "b2", "s"]
    assert {bar.name: made.lanes[bar.lane].name for bar in made.bars if bar.name != "a #4"} == {
        event["probe"]: event["thread"] for event in happened[:-1]
    }


def test_callers_share_a_lane() -> None:
    """Threads that the kit starts for one call each: a row for those that overlap. One that runs a task itself stays apart."""
    happened = [
        event(0, "called", "run 0", 11, "caller: run 0"),
        event(1, "started", "a", 12, "pool-0"),
        event(2, "called", "run 1", 13, "caller: run 1"),
        event(3, "returned", "run 0", 11, "caller: run 0"),
        event(4, "called", "run 2", 14, "caller: run 2"),
        event(5, "called", "run 3", 15, "caller: run 3"),
        event(6, "started", "itself", 15, "caller: run 3"),
    ]
    made = picture({"events": happened})
    assert made is not None
    assert [(lane.name, lane.kind, lane.rows) for lane in made.lanes] == [
        ("callers", "callers", 2),
        ("pool-0", "thread", 1),
        ("caller: run 3", "thread", 2),
    ]
    assert [(bar.name, bar.lane, bar.row, bar.tid) for bar in made.bars] == [
        ("run 0", 0, 0, 11),
        ("a", 1, 0, 12),
        ("run 1", 0, 1, 13),
        ("run 2", 0, 0, 14),
        ("run 3", 2, 0, 15),
        ("itself", 2, 1, 15),
    ]


def test_another_process_is_called_so() -> None:
    """The main thread of a worker process has whatever name it was forked with: its lane is named by the process."""
    happened = [
        event(0, "called", "submit", 11, "caller: submit"),
        event(1, "started", "a", 7, "caller: submit") | {"pid": 7},
        event(2, "started", "b", 8, "QueueFeeder") | {"pid": 7},
        event(3, "started", "c", 1, "MainThread"),
    ]
    made = picture({"events": happened})
    assert made is not None
    assert [(lane.name, lane.kind) for lane in made.lanes] == [
        ("caller: submit", "thread"),
        ("process 7", "process"),
        ("QueueFeeder", "thread"),
        ("MainThread", "thread"),
    ]


def test_a_long_history_has_a_gap() -> None:
    """The first and the last columns are drawn, and one for the rest; a bar over it is, one within it is not, nor its thread."""
    happened = [event(0, "started", "long", 1, "one")]
    for number in range(100):
        happened += [
            event(number, "started", f"t{number}", 2 + number % 90, "many"),
            event(number, "ended", f"t{number}", 2 + number % 90),
        ]
    made = picture({"events": happened})
    assert made is not None
    assert (made.gap, len(made.columns)) == ((FIRST, 201 - FIRST - LAST), FIRST + 1 + LAST)
    assert made.columns[FIRST] == (3, "153 events", "gap")
    assert {bar.name for bar in made.bars} == {"long", "t0", "t1", "t2", "t3", *(f"t{n}" for n in range(80, 100))}
    assert len(made.lanes) == len({(bar.lane) for bar in made.bars})
    assert drawn({"events": happened})[0].startswith("one   [=======~=====")


def test_what_begins_or_ends_in_the_gap_does_so_there() -> None:
    """It is not in flight at the end, nor there from the beginning; what begins there and goes on is drawn, if it isn't many."""
    happened = [event(0, "started", "ends", 1, "one")]
    happened += [event(n, "started", f"early {n}", 2, "two") for n in range(10)]
    happened += [event(11, "ended", "ends", 1, "one"), event(12, "started", "begins", 1, "one")]
    happened += [event(n, "started", f"still {n}", n + 10, f"t{n}") for n in range(90)]
    happened += [event(200, "ended", "begins", 1, "one")]
    made = picture({"events": happened})
    assert made is not None
    found = {bar.name: bar for bar in made.bars}
    assert (found["ends"].started, found["ends"].over) == (0, FIRST)
    assert (found["begins"].started, found["begins"].over) == (FIRST, len(made.columns) - 1)
    through = [bar for bar in made.bars if bar.started == FIRST and bar.over < 0]
    assert len(through) == THROUGH
    assert sum(bar.started > FIRST for bar in made.bars) == LAST - 1
    assert drawn({"events": happened})[0].startswith("one  [=======~======")
    short = [event(n, "started", f"{n}", n, "t") for n in range(FIRST + LAST + 1)]
    unbroken = picture({"events": short})
    assert unbroken is not None
    assert (len(unbroken.columns), unbroken.gap) == (FIRST + LAST + 1, (-1, 0))


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
    assert drawn(RETRY)[:4] == [
        "caller  [====t   call(fetch)",
        "a loop   [c      fetch #1",
        "           [x    fetch #2",
        f"({LEGEND})",
    ]


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


def test_futures_without_a_name_are_one_node() -> None:
    """A loop that waits for many of which nothing is known: one node that says so. Those that another waits for too are not."""

    def waits(tid: int, name: str, *on: str) -> dict[str, Any]:
        return {"pid": 1, "tid": tid, "name": name, "line": "", "on": [{"name": each} for each in on]}

    made = graph(
        {
            "waits": [
                waits(2, "loop", *(f"pending future {n}" for n in range(1, 16)), "running future 16", "named"),
                waits(3, "other", "pending future 15", "pending future 17", "pending future 18"),
                waits(4, "one", "running future 19"),
            ]
        }
    )
    assert made is not None
    assert [(node.name, node.says) for node in made.nodes[3:]] == [
        ("pending future 15", "not done; nobody is seen to work on it"),
        ("named", ""),
        ("14 pending futures", "not done; nobody is seen to work on them"),
        ("running future", "a worker has taken it; which one can't be seen"),
        ("2 pending futures", "not done; nobody is seen to work on them"),
        ("running future 19", "a worker has taken it; which one can't be seen"),
    ]
    edges = [(made.nodes[edge.source].name, made.nodes[edge.target].name) for edge in made.edges]
    assert edges.count(("other", "pending future 15")) == edges.count(("loop", "14 pending futures")) == 1
    assert len(edges) == 4 + 2 + 1
