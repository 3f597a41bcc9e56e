"""Wrong in a forked process."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from flowcheck_reference.broken.store._sound import AsyncFiles, Files, Sound, SoundAsync
from pytest_flowcheck.protocols import breaks


class _ThreadLock(Files):
    """Threads of one process wait for each other here, before they wait for other processes."""

    lock = threading.Lock()

    def saving(self, run_id: str) -> AbstractContextManager[None]:
        return self.one_thread(run_id)

    @contextmanager
    def one_thread(self, run_id: str) -> Generator[None]:
        """The lock is held."""
        with self.lock, super().saving(run_id):
            yield


@breaks("STO-22")
class ALockOfTheHandle(Sound):
    """Nobody in the forked process will ever release it."""

    class Store(_ThreadLock):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.lock = threading.Lock()


@breaks("STO-22")
class ALockOfTheModule(SoundAsync):
    """Not even a fresh handle helps."""

    backends = ("asyncio",)  # that another process's trio loop waits for nothing, only that process knows: no proof

    class Store(AsyncFiles):
        class Blocking(_ThreadLock):
            pass
