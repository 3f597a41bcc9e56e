"""Badges: what a certificate says in a few characters, as SVG and as the JSON of a shields.io endpoint.

A badge is grey where the certificate does not say it of what is there now: a part of the rules was not run, or it is of
another release of the subject, or by another revision of the rules.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.certificate import document
from pytest_flowcheck.certificate.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_DOT: Final = "\N{MIDDLE DOT}"
_GREY: Final = "lightgrey"
_COLOURS: Final = {"passed": "brightgreen", "with-expected-failures": "yellow", "failed": "red"}
_SHOWN: Final = {"brightgreen": "#2f8f3a", "yellow": "#8a5a00", "red": "#c5303a", _GREY: "#6b7280"}
"""White text on each of these is readable (a contrast of 4 and more)."""


@dataclass(frozen=True)
class Badge:
    """Label, message and colour, as shields.io calls them."""

    label: str
    message: str
    color: str

    def endpoint(self) -> dict[str, Any]:
        """For `https://img.shields.io/endpoint?url=...`."""
        return {"schemaVersion": 1, "label": self.label, "message": self.message, "color": self.color}

    def svg(self) -> str:
        """The badge drawn here, for who does not want to ask a server."""
        left, right = _width(self.label), _width(self.message)
        label, message = html.escape(self.label), html.escape(self.message)
        words = "".join(
            f'<text x="{x + 6}" y="14" textLength="{width - 12}" lengthAdjust="spacingAndGlyphs">{text}</text>'
            for x, width, text in ((0, left, label), (left, right, message))
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" '
            f'aria-label="{label}: {message}"><title>{label}: {message}</title>'
            f'<clipPath id="r"><rect width="{left + right}" height="20" rx="3"/></clipPath><g clip-path="url(#r)">'
            f'<rect width="{left}" height="20" fill="#3d434c"/>'
            f'<rect x="{left}" width="{right}" height="20" fill="{_SHOWN[self.color]}"/></g>'
            f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">{words}</g></svg>\n'
        )


def badges(
    certificate: Mapping[str, Any], *, version: str | None = None, revision: str | None = None
) -> dict[str, Badge]:
    """The badges of a certificate, by file name without an ending: `badge`, and one more for each facet if it claims several.

    Args:
        certificate: as `document.build` makes it.
        version: of the subject that is to bear the badge; by default the certificate's own.
        revision: of the rules that are to be kept; by default the certificate's own.
    """
    stale = ""
    if revision is not None and revision != certificate["revision"]:
        stale = f" {_DOT} not {revision}"
    if version is not None and version != certificate["subject"]["version"]:
        stale = f" {_DOT} of {certificate['subject']['version']}"
    not_run = {rule["facet"] for rule in certificate["rules"] if rule["verdict"] == Verdict.NOT_RUN.value}
    claimed = {name: facet for name, facet in certificate["facets"].items() if facet["status"] != "not-claimed"}
    safe = document.folder_names(claimed)  # a stranger's facet may be called `../../x`
    made = {
        f"badge-{safe[name]}": _badge(
            name, certificate["revision"], facet["status"], facet, stale, partial=name in not_run
        )
        for name, facet in sorted(claimed.items())
    }
    if len(claimed) == 1:
        return {"badge": next(iter(made.values()))}
    statuses = {facet["status"] for facet in claimed.values()}
    worst = next(
        (status for status in ("failed", "with-expected-failures", "passed") if status in statuses), "nothing-judged"
    )
    score = {key: sum(facet[key] for facet in claimed.values()) for key in ("passed", "total")}
    label = f"{len(claimed)} facets" if claimed else "flowcheck"
    return {"badge": _badge(label, certificate["revision"], worst, score, stale, partial=bool(not_run)), **made}


def write(
    certificate: Mapping[str, Any], folder: Path, *, version: str | None = None, revision: str | None = None
) -> dict[Path, Badge]:
    """Write `badge.svg` and `badge.json` into a folder, which is made if it isn't there, and those of single facets.

    Args:
        certificate: as `document.build` makes it.
        folder: the certificate's, or another.
        version: as of `badges`.
        revision: as of `badges`.

    Returns:
        The pictures, by path. Each file is written whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[Path, Badge] = {}
    for name, badge in badges(certificate, version=version, revision=revision).items():
        written[document.write_whole(folder / f"{name}.svg", badge.svg())] = badge
        document.write_whole(folder / f"{name}.json", json.dumps(badge.endpoint(), ensure_ascii=False) + "\n")
    return written


def _badge(label: str, revision: str, status: str, score: Mapping[str, int], stale: str, *, partial: bool) -> Badge:
    if not score["total"]:
        return Badge(label, f"{revision} {_DOT} nothing judged", _GREY)
    told = f"{stale} {_DOT} partial" if partial else stale
    message = f"{revision} {_DOT} {score['passed']}/{score['total']}{told}"
    return Badge(label, message, _GREY if told else _COLOURS.get(status, _GREY))


def _width(text: str) -> int:
    """About as wide as Verdana at 11 pixels draws it, and 6 pixels at each side; `textLength` makes it so exactly."""
    narrow = sum(character in "ijl.,:;'|!() " for character in text)
    return round(7.2 * (len(text) - narrow) + 4.2 * narrow) + 12
