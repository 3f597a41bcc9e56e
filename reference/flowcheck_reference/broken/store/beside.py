"""Wrong when others read, save or change the state at the same time."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from flowcheck_reference.broken.store._sound import AsyncFiles, Files, Sound, SoundAsync
from pytest_flowcheck.protocols import NotFound, breaks


@breaks("STO-02", "STO-04", "STO-05", "STO-06")
class RemovesBeforeItRenames(Sound):
    """As on systems where a rename does not replace."""

    class Store(Files):
        def replace(self, temporary: Path, path: Path) -> None:
            path.unlink(missing_ok=True)
            temporary.rename(path)


@breaks("STO-02")
class ReadsInTwoGoes(Sound):
    """The file is opened once for its first half and once for its second."""

    class Store(Files):
        def read(self, path: Path) -> Any:
            try:
                half = path.stat().st_size // 2
                with path.open("rb") as file:
                    data = file.read(half)
                with path.open("rb") as file:
                    file.seek(half)
                    data += file.read()
            except FileNotFoundError:
                raise NotFound(f"{path.stem} was never saved") from None
            return self.decode(data, path)


@breaks("STO-03")
class DumpsTheLivingState(Sound):
    """No copy is made: the encoder walks through what nodes are changing."""

    class Store(Files):
        def snapshot(self, run_id: str) -> Any:
            return self.memory.get(run_id, {})


@breaks("STO-03")
class CopiesInTwoSteps(SoundAsync):
    """Late keys first, then early ones: what is put between the two leaves a gap."""

    class Store(AsyncFiles):
        class Blocking(Files):
            def snapshot(self, run_id: str) -> Any:
                living = self.memory.setdefault(run_id, {})
                keys = list(living)
                early = {key: living[key] for key in keys[: len(keys) // 2]}
                late = {key: living[key] for key in list(living)[len(keys) // 2 + 1 :]}
                return early | late if len(keys) > 200 else dict(living)


@breaks("STO-03")
class AlwaysOneFlushBehind(Sound):
    """`flush` saves what the flush before it has seen."""

    class Store(Files):
        seen: Any = None

        def snapshot(self, run_id: str) -> Any:
            before: Any = self.seen or {}
            self.seen = super().snapshot(run_id)
            return before


class _Unlocked(Files):
    """Savers don't wait for each other."""

    def saving(self, run_id: str) -> AbstractContextManager[None]:
        return nullcontext()


@breaks("STO-07")
class OneTemporaryName(Sound):
    """All savers of a run write into the same file."""

    class Store(_Unlocked):
        pass


@breaks("STO-07")
class SaversOfAProcessTakeTurns(Sound):
    """And other processes use the same temporary name meanwhile."""

    class Store(_Unlocked):
        @contextmanager
        def saving(self, run_id: str) -> Generator[None]:
            with _turns[-1]:
                yield


_turns = [threading.Lock()]
os.register_at_fork(after_in_child=lambda: _turns.append(threading.Lock()))


@breaks("STO-07")
class OneTemporaryNameBelowALoop(SoundAsync):
    """On the threads to which the loop gives its saves."""

    class Store(AsyncFiles):
        class Blocking(_Unlocked):
            pass


@breaks("STO-14")
class RemembersWhatItLoaded(Sound):
    """Once loaded or saved, a state is never looked at again."""

    class Store(Files):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.known: dict[str, bytes] = {}

        def save(self, run_id: str, state: Any) -> None:
            super().save(run_id, state)
            self.known[run_id] = self.encode(state)

        def load(self, run_id: str) -> Any:
            if run_id not in self.known:
                self.known[run_id] = self.encode(super().load(run_id))
            return self.decode(self.known[run_id], self.folder / run_id)


@breaks("STO-14")
class AnswersFromMemoryForAWhile(SoundAsync):
    """A load that comes soon after another one is answered from memory."""

    class Store(AsyncFiles):
        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self.known: dict[str, tuple[int, Any]] = {}

        async def save(self, run_id: str, state: Any) -> None:
            await super().save(run_id, state)
            self.known.pop(run_id, None)

        async def load(self, run_id: str) -> Any:
            used, state = self.known.get(run_id, (3, None))
            if used >= 3:
                used, state = 0, await super().load(run_id)
            self.known[run_id] = used + 1, state
            return self.files.decode(self.files.encode(state), self.files.folder)
