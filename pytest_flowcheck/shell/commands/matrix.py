"""Make one page of many certificates, as `report.html` is of those of one run: rules by subjects, and what is behind each cell.

Certificates of other machines, days and releases stand side by side; of two releases of a subject the version tells them apart.

Exit code 0 when the page is written, whatever it shows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pytest_flowcheck.shell.finding import certificate_files, certificates_are_named


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    certificates_are_named(parser)
    parser.add_argument("--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (report.html)")


def run(given: argparse.Namespace) -> int:
    """Write it."""
    from pytest_flowcheck.certificate import document, html
    from pytest_flowcheck.errors import UsageError
    from pytest_flowcheck.shell.printing import say

    certificates = [document.read(path) for path in certificate_files(given.certificate)]
    try:
        page = html.write(certificates, given.out)
    except OSError as error:
        raise UsageError(f"--out: can't write {str(given.out)!r}: {error.strerror or error}") from error
    say([f"{page}: {len(certificates)} certificate{'s' * (len(certificates) != 1)}"])
    return 0
