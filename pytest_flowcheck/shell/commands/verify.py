"""Check that a certificate is what it says: form, arithmetic, digests; and say what no look at it can tell.

Exit code 0: it holds as far as can be told here. 1: it contradicts itself, or the kit that it names and that is installed here.
"""

from __future__ import annotations

import argparse

from pytest_flowcheck.shell.finding import certificate_files, certificates_are_named


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    certificates_are_named(parser)


def run(given: argparse.Namespace) -> int:
    """Print a line for each check."""
    from pytest_flowcheck.certificate import document
    from pytest_flowcheck.certificate.verifying import UNKNOWABLE, verify
    from pytest_flowcheck.shell.printing import say

    words = {True: "holds", False: "FAILS", None: "unknown"}
    wrong = 0
    for path in certificate_files(given.certificate):
        found = document.load(path)
        subject = found["subject"]
        say([f"{path}: {subject['label']} {subject['version']}, judged {found['run']['judged_at']}"])
        checks = verify(found)
        wrong += any(check.holds is False for check in checks)
        say(f"  {words[check.holds]:8} {check.about}: {check.says}" for check in checks)
    say(["what can't be known:", *(f"  {line}" for line in UNKNOWABLE)])
    return 1 if wrong else 0
