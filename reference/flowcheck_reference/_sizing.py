"""How many workers: the argument, else `FLOWCHECK_MAX_WORKERS`, else a default from the usable CPUs (EXE-33, FLO-09).

One function decides and one sentence complains, so that whoever reads the error knows which of the three to mend.
"""
from __future__ import annotations

import os
from operator import index
from typing import Final, SupportsIndex

VARIABLE: Final = "FLOWCHECK_MAX_WORKERS"


class WorkersValueError(ValueError):
    """A number of workers that is no number of workers. Says where it came from."""


class WorkersTypeError(TypeError):
    """Something that is not a whole number was given as a number of workers. Says where it came from."""


def usable_cpus() -> int:
    """The CPUs that this process may run on: the affinity mask, where there is one, and not the machine's count."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # no such call outside Linux
        return os.cpu_count() or 1


def default_workers() -> int:
    """The standard library's formula: threads mostly wait, so a few more than there are CPUs, and never a crowd."""
    return min(32, usable_cpus() + 4)


def checked(value: object, source: str = "max_workers") -> int:
    """`value` as a number of workers; `source` is named in the error.

    Only whole numbers: a bool is a mistake, and 2.0 or NaN came out of a computation that should round for itself.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        msg = f"{source} must be a whole number of at least 1, not {value!r} ({type(value).__name__})"
        raise WorkersTypeError(msg)
    count = index(value)
    if count < 1:
        msg = f"{source} must be at least 1, not {count}"
        raise WorkersValueError(msg)
    return count


def resolve(argument: int | None = None) -> int:
    """The number of workers to use. The argument wins over the variable, the variable over the default."""
    if argument is not None:
        return checked(argument)
    text = os.environ.get(VARIABLE)
    if text is None:
        return default_workers()
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()):
        msg = (
            f"the environment variable {VARIABLE} must be a whole number of at least 1, not {text!r}: "
            "mend it or unset it"
        )
        raise WorkersValueError(msg)
    return checked(int(digits), f"the environment variable {VARIABLE}")
