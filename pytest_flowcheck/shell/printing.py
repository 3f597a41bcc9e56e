"""What a command says: lines that a terminal can show, whatever the texts in them are made of."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pytest_flowcheck.certificate.card import fit

if TYPE_CHECKING:
    from collections.abc import Iterable


def say(lines: Iterable[str]) -> None:
    """Print these to stdout. A text may come from a stranger's certificate: no escape sequence of it reaches the terminal."""
    encoding = getattr(sys.stdout, "encoding", None)
    sys.stdout.write("".join(f"{line}\n" for line in fit(map(harmless, lines), encoding)))


def complain(who: str, text: str) -> None:
    """Print one line for each of the text's to stderr."""
    encoding = getattr(sys.stderr, "encoding", None)
    sys.stderr.write("".join(f"{who}: {line}\n" for line in fit(map(harmless, text.splitlines()), encoding)))


def harmless(line: str) -> str:
    """A line without characters that do something to a terminal, or to the order of what is read."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in line)
