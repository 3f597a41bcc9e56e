"""Judge one rule of a certificate again, on the subject as it is installed now: the same scenario, drawn from the same seed.

This imports and runs the subject that the certificate names, from here: look at the command that is printed first before you
replay a stranger's. Exit code 0: the rule holds now. 1: it does not, or can't be told to. 5: it was not judged.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument(
        "certificate", type=Path, metavar="CERTIFICATE", help="a certificate.json, or a folder that holds one"
    )
    parser.add_argument("rule", metavar="RULE", help="such as EXE-04")
    parser.add_argument(
        "--subject", metavar="SUBJECT", help="judge this one instead of the one that the certificate names"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the command, and run nothing")


def run(given: argparse.Namespace) -> int:
    """Run pytest for that rule, and say what became of the verdict."""
    import shlex
    import subprocess
    import sys
    import tempfile

    from pytest_flowcheck.certificate import document
    from pytest_flowcheck.shell.printing import say

    certificate = document.read(given.certificate)
    rule = _rule(given.certificate, certificate, given.rule)
    asked = given.subject or certificate["subject"]["asked"]
    told = [f"--flowcheck-subject={asked}", f"--flowcheck-only={rule['id']}", f"--flowcheck-seed={certificate['seed']}"]
    subject = certificate["subject"]
    say(
        [
            f"then:    {rule['verdict']} on {subject['label']} {subject['version']}",
            f"replay:  {shlex.join(['pytest', '--flowcheck', *told])}",
            *(f"beware:  {line}" for line in _beware(certificate, rule)),
        ]
    )
    if given.dry_run:
        return 0
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="flowcheck-") as folder:
        command = [sys.executable, "-m", "pytest", "--flowcheck", *told, f"--flowcheck-report={folder}"]
        status = subprocess.run(command, check=False).returncode
        now = _now(Path(folder), rule["id"], subject["backend"])
    if now is None:
        say([f"now:     nothing was judged; pytest ended with exit code {status}"])
        return status or 5
    verdict, who = now
    say([f"now:     {verdict} on {who}{'' if verdict != rule['verdict'] else ', as it was then'}"])
    return status


def _rule(path: Path, certificate: dict[str, Any], wanted: str) -> dict[str, Any]:
    from difflib import get_close_matches

    from pytest_flowcheck.errors import UsageError

    rules: dict[str, dict[str, Any]] = {rule["id"]: rule for rule in certificate["rules"]}
    rule = rules.get(wanted.strip().upper())
    if rule is None:
        near = get_close_matches(wanted.upper(), rules, n=3, cutoff=0.5)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"it has {len(rules)}, of {', '.join(certificate['facets'])}"
        )
        raise UsageError(f"{path} has no rule {wanted!r}: {hint}")
    return rule


def _beware(certificate: dict[str, Any], rule: dict[str, Any]) -> list[str]:
    """Why the scenario need not be the same."""
    from pytest_flowcheck import __version__
    from pytest_flowcheck.certificate import digests
    from pytest_flowcheck.rules import bundled_rules

    if certificate["digests"]["kit"] == digests.kit():
        return []
    suites = digests.of_rules(bundled_rules())["suites"]
    if suites.get(rule["facet"]) == certificate["digests"]["suites"].get(rule["facet"]):
        return [
            f"the certificate is by another build of the kit ({certificate['kit']['version']}); the rule is the same"
        ]
    return [
        f"the rule is judged by other code here: the certificate is by {certificate['kit']['version']}, this is {__version__}"
    ]


def _now(folder: Path, rule: str, backend: str) -> tuple[str, str] | None:
    """The verdict of the replay, and on whom; None where there is none."""
    from pytest_flowcheck.certificate import document
    from pytest_flowcheck.certificate.verdicts import Verdict
    from pytest_flowcheck.errors import UsageError
    from pytest_flowcheck.shell.finding import certificate_files

    try:
        found = [document.read(path) for path in certificate_files([folder])]
    except UsageError:  # pytest has said why there is none
        return None
    certificate = next((one for one in found if one["subject"]["backend"] == backend), found[0])
    verdict = next((entry["verdict"] for entry in certificate["rules"] if entry["id"] == rule), Verdict.NOT_RUN.value)
    subject = certificate["subject"]
    return None if not Verdict(verdict).judged else (verdict, f"{subject['label']} {subject['version']}")
