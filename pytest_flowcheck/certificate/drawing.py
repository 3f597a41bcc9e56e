"""The picture of a finding in characters, for a failure at `-v`: short, and in ASCII, which every terminal has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.certificate.timeline import Bar, Picture, picture
from pytest_flowcheck.certificate.waits import graph

if TYPE_CHECKING:
    from collections.abc import Mapping

LEGEND: Final = (
    "- queued  [ starts  . at its gate  = runs  ] ends  x fails  c cancelled  t timed out  ! lost  > in flight still"
)
ROWS: Final = 24
"""Lines at most."""

EDGES: Final = 8

_END: Final = {"raised": "x", "failed": "x", "lost": "!", "cancelled": "c", "timed out": "t"}


def drawn(evidence: Mapping[str, Any]) -> list[str]:
    """The lines of the picture; none if there is nothing to draw."""
    made = picture(evidence)
    lines = _lanes(made) if made is not None else []
    waits = graph(evidence)
    if waits is not None and waits.edges:
        arrows: dict[tuple[str, str, bool], list[str]] = {}
        for edge in waits.edges:
            key = waits.nodes[edge.source].name, edge.name, edge.circular
            arrows.setdefault(key, []).append(waits.nodes[edge.target].name)
        lines += [
            f"{source} waits for {', '.join(targets)}{f' ({name})' if name not in targets else ''}{': a circle' * circular}"
            for (source, name, circular), targets in list(arrows.items())[:EDGES]
        ]
    return lines


def _lanes(made: Picture) -> list[str]:
    columns = len(made.columns)
    rows: list[tuple[str, str, str]] = []
    for number, lane in enumerate(made.lanes):
        for row in range(lane.rows):
            bars = [bar for bar in made.bars if (bar.lane, bar.row) == (number, row)]
            line = [" "] * (columns + 1)
            for bar in bars:
                _put(line, bar, columns)
            if made.gap[1]:
                line[made.gap[0]] = "~"
            rows.append(
                (lane.name if row == 0 else "", "".join(line), ", ".join(dict.fromkeys(bar.name for bar in bars)))
            )
    left_out = len(rows) - ROWS
    width = max(len(name[:28]) for name, _, _ in rows)
    lines = [f"{name[:28]:{width}}  {line}  {names[:60]}".rstrip() for name, line, names in rows[:ROWS]]
    if left_out > 0:
        lines.append(f"... {left_out} more")
    return [*lines, f"({LEGEND}{f'  ~ {made.gap[1]} events' if made.gap[1] else ''})"]


def _put(line: list[str], bar: Bar, columns: int) -> None:
    end = bar.over if bar.over >= 0 else columns
    start = bar.started if bar.started >= 0 else end if bar.submitted >= 0 else 0
    if bar.submitted >= 0:
        line[bar.submitted : start] = "-" * (start - bar.submitted)
    if bar.started >= 0 or bar.submitted < 0:
        gate = (bar.released if start < bar.released <= end else end) if bar.gated else start
        line[start:end] = "." * (gate - start) + "=" * (end - gate)
        line[start] = "["
    line[end] = _END.get(bar.how, "]") if bar.over >= 0 else ">"
