"""Wrong only after this and that."""

from __future__ import annotations

import asyncio
from typing import Any

from flowcheck_reference.broken.client._sound import Entry, Sound, Tidied
from pytest_flowcheck.protocols import breaks


@breaks("CLI-11")
class BehindACloseNothingIsKept(Sound):
    """`close` marks the cache; what is made from then on is given, and not remembered."""

    class Cache(Tidied):
        marked = False

        def close(self) -> None:
            super().close()
            self.marked = True

        def made(self, entry: Entry, making: asyncio.Task[Any]) -> None:
            super().made(entry, making)
            if self.marked:
                entry.making = None
