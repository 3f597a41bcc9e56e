"""What the adapters of the `store` facet share: states as text, and SQLite's one error for all that goes wrong."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from pytest_flowcheck.protocols import Invalid, Refused


def text(state: Any) -> str:
    """A state as JSON, for libraries that keep text. What JSON would alter is refused, so that the library is judged.

    Raises:
        Invalid: it would not come back equal.
    """
    try:
        encoded = json.dumps(state, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(f"this is no JSON: {error}") from error
    if json.loads(encoded) != state:
        raise Invalid("JSON would alter this: it has keys of text and lists only")
    return encoded


@contextmanager
def contended() -> Generator[None]:
    """Tells "try again" from what is broken: SQLite's errors are of one type, and so are those made of them.

    Raises:
        Refused: another connection is in the way.
    """
    try:
        yield
    except Exception as error:
        if "database is locked" in str(error):
            raise Refused(str(error)) from error
        raise
