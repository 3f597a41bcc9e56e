"""Wrong at the end of the process, and after a fork."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import ClassVar

from flowcheck_reference.broken.tracing._sound import Counting, Plain
from pytest_flowcheck.protocols import breaks


@breaks("TRC-04")
class LostAtExit(Plain):
    """Its thread is a daemon, and nobody tells it that the process ends."""

    claimed: ClassVar[AbstractSet[str]] = frozenset({"atexit"})

    class Tracer(Counting):
        def at_exit(self) -> None:
            """Not asked."""


@breaks("TRC-09")
class WaitsForAThreadThatIsNotThere(Plain):
    """The child of a fork has its parent's queue, and nobody who reads it."""

    claimed: ClassVar[AbstractSet[str]] = frozenset({"fork"})

    class Tracer(Counting):
        def forked(self) -> None:
            """Not asked."""
