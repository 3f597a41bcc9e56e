"""A run's id as a file name, and back (STO-11).

A name has lower-case letters, digits, `-` and `_`; each other byte of the id's UTF-8 is written as `%` and two hex
digits, as in a URL. So `report-17` is itself, and no two ids share a name, on file systems that ignore case (`A` is `%41`,
never `a`) or rewrite Unicode (nothing is left to rewrite) either. No name has a dot: what is behind the first one says what
the file is for, and an id can neither climb out of the folder, hide in it, nor pass for a file of another run.
"""
from __future__ import annotations

from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from .errors import InvalidRunIdError

LONGEST: Final = 200
"""Bytes of a name. File systems take 255, and there are endings to come, in front of names of temporary files a dot."""

_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")
_DEVICES: Final = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))})
"""Names that Windows keeps for itself, whatever the ending. A folder may be carried there."""


def file_name(run_id: object) -> str:
    """The name for the files of a run, without an ending. Raises: InvalidRunIdError."""
    if not isinstance(run_id, str):
        msg = f"a run's id must be a str, not {type(run_id).__name__}"
        raise InvalidRunIdError(msg)
    return _encoded(run_id)


def run_id_of(name: str) -> str | None:
    """The id whose name this is. None: it is no id's."""
    try:
        run_id = unquote_to_bytes(name).decode()
        return run_id if _encoded(run_id) == name else None
    except (UnicodeError, InvalidRunIdError):
        return None


@lru_cache(1024)
def _encoded(run_id: str) -> str:
    if not run_id:
        msg = "a run's id must not be empty"
        raise InvalidRunIdError(msg)
    if "\0" in run_id:
        msg = f"a run's id must not hold a NUL: {run_id!r:.80}"
        raise InvalidRunIdError(msg)
    try:
        data = run_id.encode()
    except UnicodeEncodeError as error:
        msg = f"a run's id must be valid text, without lone surrogates: {run_id!a:.80}"
        raise InvalidRunIdError(msg) from error
    name = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in data)
    if name in _DEVICES or name[0] == "-":  # a file called -rf is no joy in a shell
        name = f"%{data[0]:02x}{name[1:]}"
    if len(name) > LONGEST:
        msg = (
            f"a run's id is too long: {run_id!r:.40}… takes {len(name)} bytes of a file name, of {LONGEST}; lower-case "
            "letters, digits, - and _ take one each, other characters three for each byte"
        )
        raise InvalidRunIdError(msg)
    return name
