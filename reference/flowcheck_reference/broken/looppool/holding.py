"""Wrong about keyed resources."""

from __future__ import annotations

from flowcheck_reference.broken.looppool._sound import Engine, Shared, Sharing, Table
from pytest_flowcheck.protocols import breaks


@breaks("LOP-14")
class FalsyIsNothing(Sharing):
    """`if entry.value`: an empty resource is made again for each who asks."""

    class Pool(Engine):
        def make_table(self) -> Table:
            return Truthful(self.ttl)


class Truthful(Table):
    def usable(self, shared: Shared) -> bool:
        return not shared.ended and (not shared.made or bool(shared.value))


@breaks("LOP-14", "LOP-15")
class TheFirstFailureEndsIt(Sharing):
    """Resources are finalised in a loop; the first finalizer that raises ends it."""

    class Pool(Engine):
        def finalise(self, ending: list[Shared]) -> None:
            for shared in ending:
                self.finalize(shared.value)
