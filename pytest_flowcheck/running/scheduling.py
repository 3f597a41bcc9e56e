# xdist ships no types: what comes from it is unknown in this file, and nowhere else.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""xdist's load scheduling, made right for workers that die, and for those that leave on purpose."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from xdist.scheduler import LoadScheduling  # type: ignore[import-untyped]  # xdist ships no types

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

STILLBORN: Final = 5
"""After so many deaths in a row before anything began, the item in front is blamed: a run must come to its end."""


class Scheduler(LoadScheduling):  # type: ignore[misc]
    """`load`, but an item that never began is given to another worker instead of being called crashed.

    A worker begins an item when it sends `logstart`. xdist takes the first item that a dead worker had in hand for the
    one that killed it, although a worker in which stuck threads remain leaves *before* it begins the next.
    """

    def __init__(self, config: pytest.Config, log: Any, begun: set[str], left: Callable[[str], bool]) -> None:
        super().__init__(config, log)
        self._begun, self._left = begun, left
        self._stillborn = 0

    def _send_tests(self, node: Any, num: int) -> None:
        """As xdist has it, but a worker that has just ended is no error: `remove_node` gives back what it was sent."""
        with suppress(OSError):
            super()._send_tests(node, num)

    def remove_node(self, node: Any) -> str | None:
        """Give back what the worker had in hand; returns the item that it died in, if any."""
        pending = self.node2pending.get(node)
        if not pending or self.collection is None:
            return self._crashed(node)
        first = self.collection[pending[0]]
        if first in self._begun:
            self._stillborn = 0
            return self._crashed(node)
        self._stillborn = 0 if self._left(node.gateway.id) else self._stillborn + 1
        if self._stillborn >= STILLBORN:
            self._stillborn = 0
            return self._crashed(node)
        self.node2pending.pop(node)
        self.pending[:0] = pending
        for other in self.node2pending:
            self.check_schedule(other)
        return None

    def _crashed(self, node: Any) -> str | None:
        """As xdist has it: the first that the worker had in hand."""
        crashed: str | None = super().remove_node(node)
        return crashed
