"""Compare two certificates, or two folders of a report: which rules were broken, mended, came or went.

Exit code 0: no MUST rule got worse. 1: one that was kept is not any more, or can't be told to be (broken, unsettled, lost).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_flowcheck.certificate.comparing import Comparison


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("before", type=Path, metavar="BEFORE", help="a certificate.json, or a folder")
    parser.add_argument("after", type=Path, metavar="AFTER", help="the same for what came later")
    parser.add_argument("--markdown", action="store_true", help="as Markdown, for an issue or a CI job's summary")


def run(given: argparse.Namespace) -> int:
    """Print what changed."""
    from pytest_flowcheck.certificate import markdown
    from pytest_flowcheck.certificate.comparing import compare
    from pytest_flowcheck.shell.printing import say

    found = [compare(a, b) for a, b in _pairs(given.before, given.after)]
    for one in found:
        say(markdown.comparison(one) if given.markdown else _text(one))
    return 1 if any(one.worse for one in found) else 0


def _pairs(before: Path, after: Path) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    from pytest_flowcheck.certificate import document
    from pytest_flowcheck.errors import UsageError
    from pytest_flowcheck.shell.finding import certificate_files

    old, new = ([document.read(path) for path in certificate_files([where])] for where in (before, after))
    if len(old) == len(new) == 1:
        return [(old[0], new[0])]
    a, b = ({one["subject"]["label"]: one for one in side} for side in (old, new))
    if unmatched := sorted(set(a) ^ set(b)):
        where = {label: before if label in a else after for label in unmatched}
        told = ", ".join(f"{label} (only in {where[label]})" for label in unmatched)
        raise UsageError(
            f"the two folders hold certificates of different subjects: {told}; name the certificates to compare"
        )
    return [(a[label], b[label]) for label in sorted(a)]


def _text(found: Comparison) -> Iterator[str]:
    from pytest_flowcheck.certificate import markdown
    from pytest_flowcheck.certificate.comparing import CHANGES

    yield markdown.heading(found)
    yield from (f"  beware: {line}" for line in found.beware)
    for change, meaning in CHANGES.items():
        if lines := found.of(change):
            yield f"  {change} ({len(lines)}): {meaning}"
        for line in lines:
            yield f"    {line.rule} {line.before} -> {line.after} ({line.level}) {line.sentence}"
            if line.worse and (did := markdown.what_it_did(line.message)):
                yield f"        {did}"
    yield f"  {markdown.unchanged(found)}"
