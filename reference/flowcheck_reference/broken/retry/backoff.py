"""Wrong in the time between attempts, or in how many run at once."""

from __future__ import annotations

import threading
from typing import Any

import anyio

from flowcheck_reference.broken.retry import _sound
from flowcheck_reference.broken.retry._sound import Attempt, Sound, SoundAsync
from pytest_flowcheck.protocols import Body, breaks
from pytest_flowcheck.protocols.retry import RetryPolicy


@breaks("RTY-11")
class WaitsAfterTheLastAttempt(Sound):
    """The sleep comes before the check of whether there is another attempt."""

    class Engine(_sound.Engine):
        def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            try:
                return super().attempt(body, policy, number)
            except BaseException:
                if number == policy.attempts:
                    self.pause(policy.backoff)
                raise


@breaks("RTY-11")
class WaitsBeforeTheFirstAttempt(SoundAsync):
    """The sleep stands at the head of the loop's body."""

    class Engine(_sound.AsyncEngine):
        async def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            if number == 1:
                await self.pause(policy.backoff)
            return await super().attempt(body, policy, number)


@breaks("RTY-11")
class IgnoresBackoff(Sound):
    """Attempt follows attempt at once."""

    class Engine(_sound.Engine):
        def pause(self, seconds: float) -> None:
            """Nobody waits."""


@breaks("RTY-20")
class RetriesBesideThePool(Sound):
    """Only first attempts are counted: a retry has a thread of its own beside the pool."""

    class Engine(_sound.Engine):
        def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            if number > 1:
                self.slots.release()  # what the attempt is about to take
                try:
                    return super().attempt(body, policy, number)
                finally:
                    self.slots.acquire()
            return super().attempt(body, policy, number)


@breaks("RTY-20")
class CountsNothing(SoundAsync):
    """The bound is taken and forgotten."""

    class Engine(_sound.AsyncEngine):
        def __init__(self, max_workers: int) -> None:
            super().__init__(1_000_000)


@breaks("RTY-22")
class TheWorkerRunsTheLoop(Sound):
    """The whole call, its backoff included, is what takes a place in the pool."""

    class Engine(_sound.Engine):
        def __init__(self, max_workers: int) -> None:
            super().__init__(max_workers)
            self.places = threading.Semaphore(max_workers)

        def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
            with self.places:
                return super().call(body, policy)


@breaks("RTY-22")
class TheLimiterRunsTheLoop(SoundAsync):
    """The same on a loop."""

    class Engine(_sound.AsyncEngine):
        def __init__(self, max_workers: int) -> None:
            super().__init__(max_workers)
            self.places = anyio.Semaphore(max_workers)

        async def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
            async with self.places:
                return await super().call(body, policy)


@breaks("RTY-23")
class Hedges(Sound):
    """An attempt that does not answer soon gets company, *to be safe*, where no limit is set."""

    class Engine(_sound.Engine):
        def begin(self, body: Body[[], Any]) -> Attempt:
            attempt = super().begin(body)
            self.hedge(attempt, body)
            return attempt

        def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            if policy.timeout is not None or policy.attempts == 1 or number > 1:
                self.slots.acquire()
                attempt = super().begin(body)
                if not attempt.in_time(policy.timeout):
                    raise self.late(body, number, policy)
                if attempt.error is not None:
                    raise attempt.error
                return attempt.value
            return super().attempt(body, policy, number)

        def hedge(self, attempt: Attempt, body: Body[[], Any]) -> None:
            """After a moment, if a place is free."""
            soon = 0.02
            if not attempt.over.wait(soon) and self.slots.acquire(blocking=False):
                super().begin(body)
