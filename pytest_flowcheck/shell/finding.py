"""Certificates where a command is told to look for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


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
