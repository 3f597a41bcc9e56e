"""Wrong in what runs share."""

from __future__ import annotations

from typing import Any

from flowcheck_reference.broken.flow._hand import AsyncEngine, Engine, Hand, HandAsync
from pytest_flowcheck.protocols import breaks


@breaks("FLO-15")
class MadeTwice(Hand):
    """`if not made: made = make()`, without a lock."""

    class Flow(Engine):
        def resource(self) -> Any:
            if self.given is not None:
                return self.given
            if not self.made:
                self.made.append(self.make())
            return self.made[-1]


@breaks("FLO-15")
class MadeTwiceOnTheLoop(HandAsync):
    """The same with an `await` between the look and the note."""

    backends = ("asyncio",)

    class Flow(AsyncEngine):
        async def resource(self) -> Any:
            if self.given is not None:
                return self.given
            if not self.made:
                self.made.append(await self.make.aio())
            return self.made[0]


@breaks("FLO-15")
class EmptyIsNone(Hand):
    """`given or make()`: an empty pool that was given counts as none."""

    class Flow(Engine):
        def __init__(self, max_workers: int | None = None, make: Any = None, given: Any = None) -> None:
            super().__init__(max_workers, make, given or None)
