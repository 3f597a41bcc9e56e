"""Wrong when a dispatch is made inside a dispatch."""

from __future__ import annotations

from flowcheck_reference.broken.looppool._sound import Engine, Plain, Warm
from pytest_flowcheck.protocols import breaks


@breaks("LOP-10")
class WaitsForItself(Plain):
    """It never asks on which thread it is called."""

    class Pool(Engine):
        def refuse_inside(self) -> None:
            """It is not."""

        def wait(self, warm: Warm) -> None:
            warm.over.wait()
