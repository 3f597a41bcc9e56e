# xdist ships no types: what comes from it is unknown in this file, and nowhere else.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""xdist's load scheduling, made right for workers that die, for those that leave on purpose, and for what rules share."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from xdist.scheduler import LoadScheduling  # type: ignore[import-untyped]  # xdist ships no types

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import pytest

STILLBORN: Final = 5
"""After so many deaths in a row before anything began, the item in front is blamed: a run must come to its end."""


class Scheduler(LoadScheduling):  # type: ignore[misc]
    """`load`, but an item that never began is given to another worker instead of being called crashed, and a worker goes on
    with the subject that it has loaded.

    A worker begins an item when it sends `logstart`. xdist takes the first item that a dead worker had in hand for the
    one that killed it, although a worker in which stuck threads remain leaves *before* it begins the next.

    For a facet of a subject a worker loads it, and starts processes that have imported it and fork for the rules (see
    `probes.kept`). If all workers were at the same one, each of them would do so for every subject of the run.
    """

    def __init__(
        self,
        config: pytest.Config,
        log: Any,
        begun: set[str],
        left: Callable[[str], bool],
        share: Callable[[str], Hashable],
    ) -> None:
        """`share`: for a node id, what it has in common with those that one worker should run."""
        super().__init__(config, log)
        self._begun, self._left, self._share = begun, left, share
        self._shares: list[Hashable] = []
        self._at: dict[Any, Hashable] = {}
        self._stillborn = 0

    def _send_tests(self, node: Any, num: int) -> None:
        """What the worker is at; else what no other is at; else, to help, the last of what there is.

        A worker that has just ended is no error: `remove_node` gives back what it was sent.
        """
        for _ in range(min(num, len(self.pending))):
            self.pending.insert(0, self.pending.pop(self._next(node)))
            with suppress(OSError):
                super()._send_tests(node, 1)

    def _next(self, node: Any) -> int:
        """The place of the worker's next item among those pending; there is one at least."""
        if not self._shares:
            self._shares = [self._share(nodeid) for nodeid in self.collection or ()]
        shares = self._shares
        mine, others = self._at.get(node), {self._at.get(other) for other in self.node2pending if other is not node}
        place = next((place for place, item in enumerate(self.pending) if shares[item] == mine), None)
        if place is None:
            free = (place for place, item in enumerate(self.pending) if shares[item] not in others)
            place = next(free, len(self.pending) - 1)
        self._at[node] = shares[self.pending[place]]
        return place

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
