"""Print certificates as Markdown, for the summary of a CI job: a table, and what each subject does not keep.

In GitHub Actions: flowcheck summary certificates >> "$GITHUB_STEP_SUMMARY". The exit code is 0 whatever the verdicts are: the
run of pytest has told them.
"""

from __future__ import annotations

import argparse

from pytest_flowcheck.shell.finding import certificate_files, certificates_are_named


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    certificates_are_named(parser)


def run(given: argparse.Namespace) -> int:
    """Print it."""
    from pytest_flowcheck.certificate import document, markdown
    from pytest_flowcheck.shell.printing import say

    say(markdown.summary([document.read(path) for path in certificate_files(given.certificate)]))
    return 0
