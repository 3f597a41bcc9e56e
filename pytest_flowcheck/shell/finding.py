"""Certificates where a command is told to look for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_flowcheck.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable


def certificates_are_named(parser: argparse.ArgumentParser) -> None:
    """Declare the argument `certificate` of a command: paths for `certificate_files`."""
    parser.add_argument(
        "certificate",
        nargs="+",
        type=Path,
        metavar="CERTIFICATE",
        help="a certificate.json, or a folder that holds one, or the folder of a report",
    )


def certificate_files(given: Iterable[Path]) -> list[Path]:
    """The files that these paths mean: each a file, a folder with `certificate.json`, or a report's folder with several such.

    Raises:
        UsageError: a folder holds none. That a file is one is found out by reading it.
    """
    found: list[Path] = []
    for path in given:
        if not path.is_dir():
            found.append(path)
            continue
        own = path / "certificate.json"
        below = [own] if own.exists() else sorted(path.glob("*/certificate.json"))
        if not below:
            raise UsageError(
                f"{path}: no certificate.json in it or in its folders; `pytest --flowcheck-report={path}` writes them"
            )
        found += below
    return list(dict.fromkeys(found))
