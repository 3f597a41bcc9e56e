"""Wrong with coroutines."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from flowcheck_reference.broken.retry import _sound
from flowcheck_reference.broken.retry._sound import SoundAsync
from pytest_flowcheck.protocols import Body, breaks
from pytest_flowcheck.protocols.retry import RetryPolicy


@breaks("RTY-15")
class ShieldsTheAttempt(SoundAsync):
    """`wait_for(shield(...))`: the attempt runs on beside the next."""

    backends: ClassVar[tuple[str, ...]] = ("asyncio",)

    class Engine(_sound.AsyncEngine):
        async def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            async with self.slots:
                attempt = asyncio.ensure_future(body.aio())
                try:
                    return await asyncio.wait_for(asyncio.shield(attempt), policy.timeout)
                except TimeoutError as error:
                    if attempt.done():
                        raise
                    raise self.late(body, number, policy) from error


@breaks("RTY-06", "RTY-15")
class DoesNotWaitForTheCleanup(SoundAsync):
    """A timed-out attempt's task is cancelled, and not awaited."""

    backends: ClassVar[tuple[str, ...]] = ("asyncio",)

    class Engine(_sound.AsyncEngine):
        async def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            async with self.slots:
                attempt = asyncio.ensure_future(body.aio())
                try:
                    await asyncio.wait([attempt], timeout=policy.timeout)
                finally:
                    if not attempt.done():
                        attempt.cancel()
                if not attempt.done():
                    raise self.late(body, number, policy)
                return attempt.result()


@breaks("RTY-15")
class TurnsCancellationIntoAnError(SoundAsync):
    """`except BaseException: raise RetryError`: whoever cancelled the call never hears of it."""

    class Engine(_sound.AsyncEngine):
        async def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
            try:
                return await super().call(body, policy)
            except Exception:
                raise
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException:
                raise RuntimeError("the call failed") from None
