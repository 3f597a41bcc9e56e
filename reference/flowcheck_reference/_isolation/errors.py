"""What a service raises of its own."""

from __future__ import annotations

from concurrent.futures import CancelledError


class ServiceFullError(RuntimeError):
    """All slots are taken, and so are all places in the queue: the run was not accepted. Try later."""


class ServiceClosedError(RuntimeError):
    """The service was closed: it takes no run, and those that were waiting never ran."""


class RunCancelledError(CancelledError):
    """The run was cancelled: by `cancel`, by whoever waited for it, or by the end of the service. If it had begun, it may
    still be in flight, and keeps its slot until it has ended."""
