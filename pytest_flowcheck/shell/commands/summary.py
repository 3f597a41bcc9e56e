"""Print certificates as Markdown, for the summary of a CI job: a table, and what each subject does not keep.

In GitHub Actions: flowcheck summary certificates >> "$GITHUB_STEP_SUMMARY". The exit code is 0 whatever the verdicts are: the
run of pytest has told them.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument(
        "certificate",
        nargs="+",
        type=Path,
        metavar="CERTIFICATE",
        help="a certificate.json, or a folder that holds one, or the folder of a report",
    )


def run(given: argparse.Namespace) -> int:
    """Print it."""
    from pytest_flowcheck.certificate import document, markdown
    from pytest_flowcheck.shell.finding import certificate_files
    from pytest_flowcheck.shell.printing import say

    say(markdown.summary([document.read(path) for path in certificate_files(given.certificate)]))
    return 0
