"""Wrong on trio."""

from __future__ import annotations

from typing import Any

from flowcheck_reference.broken.client._sound import OnLoops, SoundOnLoops
from pytest_flowcheck.protocols import breaks


@breaks("CLI-12")
class MadeOnAHelperThread(SoundOnLoops):
    """Clients are made on a thread, "since making one blocks": they are there before they know their loop."""

    backends = ("trio",)
    without = frozenset({"slow_factory"})

    class Cache(OnLoops):
        async def make(self) -> Any:
            import anyio

            return await anyio.to_thread.run_sync(self.factory)
