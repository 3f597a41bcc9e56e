"""What a store says no with.

    Exception
     ├─ StoreError
     │   ├─ InvalidRunIdError  (ValueError)    an id that no store keeps
     │   ├─ NotJsonError       (ValueError)    a value that would not load equal
     │   ├─ RunNotFoundError   (LookupError)   never saved
     │   ├─ CorruptStateError  (ValueError)    saved, but what is there can't be read; names the file
     │   ├─ StoreBusyError     (RuntimeError)  somebody else is in the way; try again later
     │   │   └─ LeaseHeldError                 somebody else holds the run
     │   └─ StoreClosedError   (RuntimeError)  used after close
     └─ OSError                                what the system refuses: no space, no permission, a broken disk
"""
from __future__ import annotations


class StoreError(Exception):
    """All that a store itself says no with."""


class InvalidRunIdError(StoreError, ValueError):
    """An id of a run that can't be kept: not a str, empty, too long, or no valid text."""


class NotJsonError(StoreError, ValueError):
    """A value that JSON can't keep, or would keep as another. Says where in the value, and what to give instead."""


class RunNotFoundError(StoreError, LookupError):
    """No state was ever saved for this run."""


class CorruptStateError(StoreError, ValueError):
    """What is there can't be read. It is kept as it is, until it is deleted or overwritten expressly.

    `path`: of the file.
    """

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[type[CorruptStateError], tuple[str, str]]:
        """It travels between processes."""
        return type(self), (str(self), self.path)


class StoreBusyError(StoreError, RuntimeError):
    """Others were in the way for longer than the store's patience. Nothing was changed: try again."""


class LeaseHeldError(StoreBusyError):
    """Somebody else holds the run, in this process or another."""


class StoreClosedError(StoreError, RuntimeError):
    """The store was closed."""
