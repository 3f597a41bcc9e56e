"""Wrong where two features meet."""

from __future__ import annotations

from flowcheck_reference.broken.fanout._sound import AsyncEngine, Engine, Run, Sound, SoundAsync
from pytest_flowcheck.protocols import Failed, Halt, breaks


@breaks("FAN-15")
class NobodyListensAfterAHalt(Sound):
    """An exception that escapes after another item has halted is recorded instead of raised."""

    class Fanout(Engine):
        def failed(self, run: Run, index: int, error: BaseException) -> None:
            if not isinstance(error, Halt) and any(isinstance(o, Failed) for o in run.outcomes.values()):
                run.outcomes[index] = Failed(error)
            else:
                super().failed(run, index, error)


@breaks("FAN-15")
class AnEscapeHidesTheHaltBeforeIt(SoundAsync):
    """Of an exception and a halt that comes after it but stands before it, only the halt is told, one item short."""

    class Fanout(AsyncEngine):
        def failed(self, run: Run, index: int, error: BaseException) -> None:
            if not isinstance(error, Halt) and any(isinstance(o, Failed) for o in run.outcomes.values()):
                return
            super().failed(run, index, error)
