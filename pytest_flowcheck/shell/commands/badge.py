"""Write a certificate's badges anew: grey where it is not of the subject's version, or the rules' revision, that is here now.

The version is asked of the subject that the certificate names: this imports it, from here, as `replay` does. Give `--version`
where that is not wanted, or where the subject is not installed. Exit code 0 when the badges are written, whatever they say.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.shell.finding import certificate_files, certificates_are_named

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_flowcheck.certificate.badge import Badge

PATIENCE: Final = 20.0
"""Seconds after which a subject that is still being imported is given up: then its version can't be compared."""

_UNKNOWN: Final = "unknown"
"""What stands for the version of a subject that belongs to no distribution."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    certificates_are_named(parser)
    parser.add_argument(
        "--version", metavar="VERSION", help="of the subject that is to bear the badge (default: ask what is installed)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where to, for one certificate (default: the certificate's folder)",
    )


def run(given: argparse.Namespace) -> int:
    """Write them, and print a line for each."""
    from pytest_flowcheck.certificate import badge, document
    from pytest_flowcheck.errors import UsageError
    from pytest_flowcheck.rules import REVISION
    from pytest_flowcheck.shell.printing import complain, harmless, say

    files = certificate_files(given.certificate)
    certificates = [document.read(path) for path in files]  # all of them, before anything is written
    if given.out is not None and len(files) > 1:
        raise UsageError(
            f"--out: one folder for the badges of {len(files)} certificates; name one of them, or no folder"
        )
    if given.version is not None and not given.version.strip():
        raise UsageError("--version: got an empty word; expected the subject's version, such as 2.0")
    subjects = {one["subject"]["asked"] for one in certificates}
    if given.version and len(subjects) > 1:
        raise UsageError(
            f"--version: one version for certificates of {len(subjects)} subjects; name those of one subject at a time"
        )
    versions = {} if given.version else _installed(subjects)
    for path, certificate in zip(files, certificates, strict=True):
        subject = certificate["subject"]
        now, why = versions.get(subject["asked"], (given.version, ""))
        if not given.version and _UNKNOWN in {now, subject["version"]}:
            now, why = None, "it is unknown" if now else why
        if now is None:
            told = f"{subject['label']}: its version could not be compared: {why}; give it by --version"
            complain(f"flowcheck {given.command}", harmless(told))
        folder = path.parent if given.out is None else given.out
        try:
            written = badge.write(certificate, folder, version=now, revision=REVISION)
        except OSError as error:
            option = "" if given.out is None else "--out: "
            raise UsageError(f"{option}can't write badges to {str(folder)!r}: {error.strerror or error}") from error
        say(_line(where, made, subject["version"], now) for where, made in written.items())
    return 0


def _installed(asked: Iterable[str]) -> dict[str, tuple[str | None, str]]:
    """The version of each subject as it is installed here; or None, and why it can't be told."""
    from pytest_flowcheck.running import resolve

    found: dict[str, tuple[str | None, str]] = {}
    for one in sorted(asked):
        answer = resolve.ask({"load": one, "extra": {}}, Path.cwd(), PATIENCE)
        columns = answer.get("columns")
        why = "" if columns else answer.get("usage") or answer["problem"]
        found[one] = (columns[0]["version"], "") if columns else (None, " ".join(why.split()))
    return found


def _line(path: Path, made: Badge, version: str, now: str | None) -> str:
    """Where a badge is, what it says, and what is there now if it is of something else."""
    other = f": it is {now} now" if now is not None and now != version else ""
    return f"{path}: {made.label} {made.message} ({made.color}{other})"
