"""Wrong only where two kinds of attempts meet."""

from __future__ import annotations

from typing import Any

from flowcheck_reference.broken.retry import _sound
from flowcheck_reference.broken.retry._sound import Sound, SoundAsync
from pytest_flowcheck.protocols import Body, breaks
from pytest_flowcheck.protocols.retry import RetryPolicy


@breaks("RTY-05")
class GivesUpAfterTwoErrors(Sound):
    """What comes after two errors is run, and its result forgotten."""

    class Engine(_sound.Engine):
        def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
            errors: list[Exception] = []

            def counted() -> Any:
                try:
                    value = body()
                except Exception as error:
                    errors.append(error)
                    raise
                if len(errors) > 1:
                    raise errors[-1]
                return value

            counted.__name__ = body.__name__
            return super().call(counted, policy)  # type: ignore[arg-type]


@breaks("RTY-05")
class AnErrorAfterATimeoutIsFinal(SoundAsync):
    """Once an attempt has timed out, the next error ends the call."""

    class Engine(_sound.AsyncEngine):
        def again(self, error: BaseException, policy: RetryPolicy) -> bool:
            after = error.__context__
            if isinstance(after, TimeoutError) and not isinstance(error, TimeoutError):
                return False
            return super().again(error, policy)
