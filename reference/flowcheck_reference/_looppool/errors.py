"""What dispatches raise of their own."""

from __future__ import annotations

from concurrent.futures import CancelledError


class DispatchCancelledError(CancelledError):
    """The coroutine was cancelled, and not by its caller's own cancellation: by `Dispatched.cancel`, by `stop`, or by
    whoever cancels the tasks of the loop."""


class PoolStoppedError(RuntimeError):
    """The pool was stopped: it takes no dispatch."""
