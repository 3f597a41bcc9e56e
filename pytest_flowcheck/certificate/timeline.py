"""The picture of what happened: a lane for each thread, loop and process, a bar for each probe and call, in their order.

Only the *model* is made here, as plain data: which lane, which row, from which column to which. The terminal draws it
in characters (`drawing.py`), the report's page draws it as SVG: two pens, one picture. A column is an event, not a span
of time: order is what rules judge by, and a millisecond must be as wide as the minute after it.

A lane says where something ran, so an attempt has no lane of its own: whether the next one started in another thread, or
in that of the stuck one, is what a reader looks for. It has a row of its own instead. The kit's callers, each a thread that
lives for one call, share a lane: as many lanes as calls would tell nothing that the calls do not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, cast

FIRST: Final = 8
LAST: Final = 40
"""Columns that are drawn at most: the first and the last so many, and one for all between them."""

THROUGH: Final = 12
"""Bars that begin in that one column and never end are drawn so often at most: a loop may have a thousand in flight."""

ATTEMPTS: Final = 8
"""Rows that attempts of one task have to themselves at most; then they begin again at the top."""

_OVER: Final = {"ended", "raised", "lost", "returned", "failed"}
_CANCELLATIONS: Final = {"CancelledError", "Cancelled"}
_TIMED_OUT: Final = re.compile(r"time_?d?_?(out|limit)", re.IGNORECASE)
_ATTEMPT: Final = re.compile(r"(.*) #\d+", re.DOTALL)
_CALLER: Final = "caller: "
"""How the names of threads begin in which the kit makes one call (`probes.calls`)."""

_CALLS: Final = {"called", "returned", "failed"}


@dataclass
class Bar:
    """One probe's or call's way: submitted, started, let go, over. Columns count from 0; -1: never, or not drawn."""

    name: str
    lane: int = -1
    """-1: it never started."""
    row: int = 0
    """Within its lane: bars that overlap stand below each other, and so do attempts of one task."""
    tid: int = 0
    """Of the thread in which it ran; 0: it never started."""
    call: bool = False
    """A call into the subject, rather than a probe that the subject runs."""
    submitted: int = -1
    gated: bool = False
    """It waits at its gate until it is released."""
    started: int = -1
    released: int = -1
    over: int = -1
    """-1: in flight at the end."""
    how: str = ""
    """How it ended: ended, raised, lost, returned, failed, cancelled, timed out."""
    detail: str = ""
    """The name of the error."""

    @property
    def begin(self) -> int:
        """Its first column."""
        return min(column for column in (self.submitted, self.started, self.over) if column >= 0)


@dataclass
class Lane:
    """One thread, the kit's callers, or what never started."""

    name: str
    kind: str
    """`thread`, `loop`, `process` for the main thread of another one, `callers`, or `queue` for what never started."""
    pid: int = 0
    rows: int = 1


@dataclass
class Picture:
    """What is to be drawn."""

    lanes: list[Lane] = field(default_factory=list[Lane])
    bars: list[Bar] = field(default_factory=list[Bar])
    columns: list[tuple[float, str, str]] = field(default_factory=list[tuple[float, str, str]])
    """Seconds since the history began, the event in words, and its kind: what the column stands for."""
    gap: tuple[int, int] = (-1, 0)
    """The column that stands for several events, and for how many."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def picture(evidence: Mapping[str, Any]) -> Picture | None:
    """The picture of a finding's evidence; None if nothing happened that could be drawn."""
    events = _without_echoes(list(_events(evidence)))
    if not any(event["kind"] in {"started", "called"} for event in events):
        return None
    hidden = max(0, len(events) - FIRST - LAST)
    if hidden == 1:  # it takes no more room than a gap would
        hidden = 0
    place = {
        number: number if number < FIRST or not hidden else max(FIRST, number - hidden + 1)
        for number in range(len(events))
    }
    made = Picture(columns=[(event["at"], words(event), event["kind"]) for event in events])
    if hidden:
        made.columns[FIRST : FIRST + hidden] = [(events[FIRST]["at"], f"{hidden} events", "gap")]
        made.gap = FIRST, hidden
    _fill(made, events, place)
    return made


def words(event: Mapping[str, Any]) -> str:
    """An event in words."""
    if event["kind"] == "note":
        return str(event["probe"])
    detail = f" {event['detail']}" if event.get("detail") and event["kind"] != "started" else ""
    return f"{event['probe']}{':' * (event['kind'] in _CALLS)} {event['kind']}{detail}"


def _events(evidence: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """Those of the right form: a certificate may come from anywhere."""
    for event in entries(evidence.get("events")):
        if isinstance(event.get("at"), (int, float)):
            known = {"kind": "", "probe": "", "pid": 0, "tid": 0, "thread": "", "loop": False, "detail": ""}
            yield {"at": event["at"], **{key: _as(event.get(key), empty) for key, empty in known.items()}}


def entries(value: object) -> list[dict[str, Any]]:
    """The objects in a list of a certificate."""
    found = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", entry) for entry in found if isinstance(entry, dict)]


def _as(value: Any, empty: Any) -> Any:
    return value if type(value) is type(empty) else empty


def _without_echoes(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without notes that a call came back, where the call itself stands beside them, and without gates that nobody was at."""
    live: set[str] = set()
    heard: list[dict[str, Any]] = []
    for event in events:
        if event["kind"] == "released" and event["probe"] not in live:
            continue
        heard.append(event)
        if event["kind"] == "started":
            live.add(event["probe"])
        elif event["kind"] in _OVER:
            live.discard(event["probe"])
    calls = {event["probe"] for event in events if event["kind"] in {"returned", "failed"}}
    echoes = tuple(f"{call} {end}" for call in calls for end in ("returned", "raised"))
    return [event for event in heard if event["kind"] != "note" or not event["probe"].startswith(echoes)]


def _fill(made: Picture, events: Sequence[Mapping[str, Any]], place: Mapping[int, int]) -> None:
    home = next((event["pid"] for event in events if event["kind"] in {"called", "submitted", "released"}), 0)
    lanes: dict[tuple[int, int], int] = {}
    current: dict[tuple[str, bool], Bar] = {}
    bars: list[Bar] = []

    def lane(event: Mapping[str, Any]) -> int:
        who = event["pid"], event["tid"]
        if who not in lanes:
            lanes[who] = len(made.lanes)
            main = bool(home) and event["pid"] not in {0, home} and event["pid"] == event["tid"]
            name = f"process {event['pid']}" if main else event["thread"] or f"thread {event['tid']}"
            made.lanes.append(Lane(name, "process" if main else "thread", event["pid"]))
        if event["loop"]:
            made.lanes[lanes[who]].kind = "loop"
        return lanes[who]

    def bar(event: Mapping[str, Any], *, call: bool = False) -> Bar:
        key = event["probe"], call
        if key not in current:
            current[key] = Bar(event["probe"], call=call)
            bars.append(current[key])
        return current[key]

    for number, event in enumerate(events):
        kind, column = event["kind"], place[number]
        if kind == "submitted":
            current.pop((event["probe"], False), None)
            bar(event).submitted = column
        elif kind in {"started", "called"}:
            known = current.get((event["probe"], kind == "called"))
            if known is not None and (known.lane >= 0 or known.how):  # the same once more
                del current[event["probe"], kind == "called"]
            it = bar(event, call=kind == "called")
            it.started, it.lane, it.gated = column, lane(event), event["detail"] == "gated"
            it.tid = event["tid"]
        elif kind == "released" and (event["probe"], False) in current:
            it = bar(event)
            it.released, it.gated = column, True
        elif kind in _OVER | {"cancelled"}:
            it = bar(event, call=kind in {"returned", "failed"})
            if it.lane >= 0 or kind == "cancelled":
                it.over, it.detail, it.how = column, event["detail"], _how(kind, event["detail"])
            if it.lane < 0 and kind != "cancelled":  # its begin was left out
                it.lane, it.over, it.how, it.detail = lane(event), column, _how(kind, event["detail"]), event["detail"]
                it.tid = event["tid"]
    _gather_callers(made, bars, home)
    _place(made, bars)


def _how(kind: str, detail: str) -> str:
    if detail in _CANCELLATIONS:
        return "cancelled"
    return "timed out" if kind in {"raised", "failed"} and _TIMED_OUT.search(detail) else kind


def _gather_callers(made: Picture, bars: Sequence[Bar], home: int) -> None:
    """One lane for the threads that did no more than make a call for the kit, if there are several."""
    ran = {bar.lane for bar in bars if not bar.call}
    callers = [
        number
        for number, lane in enumerate(made.lanes)
        if lane.kind == "thread" and lane.pid == home and lane.name.startswith(_CALLER) and number not in ran
    ]
    if len(callers) < 2:
        return
    for bar in bars:
        if bar.lane in callers:
            bar.lane = callers[0]
    made.lanes[callers[0]] = Lane("callers", "callers", home)


def _place(made: Picture, bars: Sequence[Bar]) -> None:
    """Give each bar a row of its lane; leave out those that lie in the gap."""
    last = len(made.columns)
    queue = -1
    gap, hidden = made.gap
    through = 0
    taken: dict[int, list[int]] = {}
    attempts: dict[tuple[int, str], set[int]] = {}
    for bar in bars:
        seen = [column for column in (bar.submitted, bar.started, bar.over) if column >= 0]
        if not seen:
            continue
        if hidden and bar.begin == gap == max(seen):
            through += bar.over < 0 and bar.lane >= 0
            if bar.over >= 0 or bar.lane < 0 or through > THROUGH:
                continue
        if bar.lane < 0:
            if queue < 0:
                queue = len(made.lanes)
                made.lanes.append(Lane("never started", "queue"))
            bar.lane = queue
        ends = taken.setdefault(bar.lane, [])
        begin, end = bar.begin, bar.over if bar.over >= 0 else last
        attempt = None if bar.call else _ATTEMPT.fullmatch(bar.name)
        others = attempts.setdefault((bar.lane, attempt[1]), set()) if attempt is not None else set[int]()
        if len(others) >= ATTEMPTS:
            others.clear()
        free = (row for row, until in enumerate(ends) if until <= begin and row not in others)
        bar.row = next(free, len(ends))
        others.add(bar.row)
        ends[bar.row : bar.row + 1] = [max(end, begin + 1)]
        made.bars.append(bar)
    for number, ends in taken.items():
        made.lanes[number].rows = len(ends)
    kept = _together(sorted(taken), made.bars)  # a thread all of whose bars lie in the gap has no lane
    made.lanes = [made.lanes[number] for number in kept]
    for bar in made.bars:
        bar.lane = kept.index(bar.lane)


def _together(lanes: Sequence[int], bars: Sequence[Bar]) -> list[int]:
    """The lanes in their order, but those of threads that served one attempt beneath those of its task's earlier attempts."""
    tasks: dict[int, list[str]] = {}
    for bar in bars:
        attempt = None if bar.call else _ATTEMPT.fullmatch(bar.name)
        tasks.setdefault(bar.lane, []).append(attempt[1] if attempt is not None else "")
    ordered: list[int] = []
    last: dict[str, int] = {}
    for lane in lanes:
        task = tasks[lane][0] if len(set(tasks[lane])) == 1 else ""
        ordered.insert(ordered.index(last[task]) + 1 if task in last else len(ordered), lane)
        if task:
            last[task] = lane
    return ordered
