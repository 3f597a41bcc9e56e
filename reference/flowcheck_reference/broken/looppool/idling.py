"""Wrong about idle loops."""

from __future__ import annotations

import threading

from flowcheck_reference.broken.looppool._sound import AsyncEngine, Engine, Kept, KeptAsync, Warm
from pytest_flowcheck.protocols import breaks


@breaks("LOP-02")
class ReapedByTheNextDispatch(Kept):
    """Whether the TTL is over is looked at when somebody dispatches, and so never, if nobody does."""

    class Pool(Engine):
        def idle(self, warm: Warm) -> None:
            """The next dispatch would see to it."""


@breaks("LOP-02")
class MillisecondsForSeconds(KeptAsync):
    """The TTL is divided by a thousand on its way."""

    class Pool(AsyncEngine):
        def idle(self, warm: Warm) -> None:
            ttl, self.ttl = self.ttl, self.ttl and self.ttl / 1000
            super().idle(warm)
            self.ttl = ttl


@breaks("LOP-03")
class ReapedInUse(Kept):
    """The TTL counts from the loop's birth, whoever uses it."""

    class Pool(Engine):
        def made(self) -> Warm:
            warm = super().made()
            if self.ttl:
                timer = threading.Timer(self.ttl, self.too_old, (warm,))
                timer.daemon = True
                timer.start()
            return warm

        def too_old(self, warm: Warm) -> None:
            with self.lock:
                self.retire(warm)
