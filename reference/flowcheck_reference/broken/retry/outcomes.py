"""Wrong in what a call gives, which errors, and how many attempts."""

from __future__ import annotations

import asyncio
import threading
from contextvars import Context
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

from flowcheck_reference.broken.retry import _sound
from flowcheck_reference.broken.retry._sound import Attempt, Sound, SoundAsync
from pytest_flowcheck.protocols import Body, breaks
from pytest_flowcheck.protocols.retry import RetryPolicy


@breaks("RTY-01")
class TakesFalsyForFailed(Sound):
    """`if result:` where *did it raise* was meant."""

    class Engine(_sound.Engine):
        def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            value = super().attempt(body, policy, number)
            if not value and number < policy.attempts:
                raise ValueError("no result")
            return value


@breaks("RTY-02", "RTY-05", "RTY-11")
class CountsRetries(Sound):
    """`attempts` counted as *re*-tries: one more than asked, and a backoff before it."""

    class Engine(_sound.Engine):
        def checked(self, policy: RetryPolicy) -> RetryPolicy:
            policy = super().checked(policy)
            return replace(policy, attempts=policy.attempts + 1)


@breaks("RTY-02", "RTY-05")
class KeepsTheFirstError(SoundAsync):
    """The first error is raised in the end, not the last."""

    class Engine(_sound.AsyncEngine):
        async def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
            try:
                return await super().call(body, policy)
            except Exception as error:
                chain: list[BaseException] = [error]
                while (earlier := chain[-1].__context__) is not None:
                    chain.append(earlier)
                if len(chain) == 1 or any(isinstance(e, TimeoutError) for e in chain):
                    raise
            for later, earlier in pairwise(chain):
                earlier.__context__ = later
            chain[0].__context__ = None
            raise chain[-1]


@breaks("RTY-12")
class RetriesExits(Sound):
    """A bare `except`: Ctrl-C and `sys.exit()` are one more failure."""

    class Engine(_sound.Engine):
        def again(self, error: BaseException, policy: RetryPolicy) -> bool:
            return not isinstance(error, Exception) or super().again(error, policy)


@breaks("RTY-12")
class RetriesCancellation(SoundAsync):
    """The same on a loop: a cancelled attempt is tried again."""

    class Engine(_sound.AsyncEngine):
        def again(self, error: BaseException, policy: RetryPolicy) -> bool:
            return not isinstance(error, Exception) or super().again(error, policy)


@breaks("RTY-12")
class DiesOfSystemExit(Sound):
    """`except Exception` on the attempt's thread: SystemExit ends the thread, and the caller waits for ever."""

    class Engine(_sound.Engine):
        def begin(self, body: Body[[], Any]) -> Attempt:
            def mortal() -> Any:
                try:
                    return body()
                except SystemExit:
                    threading.Event().wait()  # as good as dead: nobody will hear of it

            mortal.__name__ = body.__name__
            return super().begin(mortal)  # type: ignore[arg-type]


@breaks("RTY-13")
class TakesAnyPolicy(Sound):
    """Policies are used, never looked at."""

    class Engine(_sound.Engine):
        def checked(self, policy: RetryPolicy) -> RetryPolicy:
            try:
                attempts = max(1, int(policy.attempts))
            except (ValueError, TypeError):
                attempts = 1
            limit: Any = policy.timeout
            return replace(policy, attempts=attempts, timeout=limit if isinstance(limit, float) and limit > 0 else None)


@breaks("RTY-14")
class StartsThreadsWithoutContext(Sound):
    """The attempt's thread is started with a context of its own."""

    class Engine(_sound.Engine):
        def begin(self, body: Body[[], Any]) -> Attempt:
            attempt = Attempt(body, self.slots.release)
            threading.Thread(target=attempt.run, daemon=True).start()
            return attempt


@breaks("RTY-14")
class StartsTasksWithoutContext(SoundAsync):
    """The attempt is a task with a context of its own."""

    backends: ClassVar[tuple[str, ...]] = ("asyncio",)

    class Engine(_sound.AsyncEngine):
        async def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            async with self.slots:
                attempt = asyncio.create_task(_awaited(body), context=Context())
                limit = asyncio.timeout(policy.timeout)
                try:
                    async with limit:
                        return await attempt
                except TimeoutError:
                    if limit.expired():
                        raise self.late(body, number, policy) from None
                    raise


async def _awaited(body: Body[[], Any]) -> Any:
    return await body.aio()


@breaks("RTY-14")
class LosesTheContextAfterATimeout(Sound):
    """The worker that replaces a stuck one is started by a watchdog, in the watchdog's context."""

    class Engine(_sound.Engine):
        def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            if policy.timeout is None or number == 1:
                return super().attempt(body, policy, number)
            self.slots.acquire()
            attempt = Attempt(body, self.slots.release)
            threading.Thread(target=attempt.run, daemon=True).start()
            if not attempt.in_time(policy.timeout):
                raise self.late(body, number, policy)
            if attempt.error is not None:
                raise attempt.error
            return attempt.value


@breaks("RTY-16")
class RetriesEveryError(Sound):
    """The policy is not asked."""

    class Engine(_sound.Engine):
        def again(self, error: BaseException, policy: RetryPolicy) -> bool:
            return isinstance(error, Exception)


@breaks("RTY-16")
class RetriesEveryErrorOnALoop(SoundAsync):
    """The same on a loop, and only for timeouts."""

    class Engine(_sound.AsyncEngine):
        def again(self, error: BaseException, policy: RetryPolicy) -> bool:
            return isinstance(error, TimeoutError) or super().again(error, policy)


@breaks("RTY-16")
class APolicyThatRaisesHangs(Sound):
    """The policy is asked on a worker, which dies of what it raises."""

    class Engine(_sound.Engine):
        def again(self, error: BaseException, policy: RetryPolicy) -> bool:
            answers: list[bool] = []
            answered = threading.Event()

            def ask() -> None:
                try:
                    answers.append(isinstance(error, policy.retry_on))
                except Exception:
                    return
                answered.set()

            threading.Thread(target=ask, daemon=True).start()
            answered.wait()
            return answers[0]


@breaks("RTY-21")
class ForgetsEarlierErrors(Sound):
    """Only the last error is kept."""

    class Engine(_sound.Engine):
        def link(self, error: BaseException, earlier: BaseException | None) -> None:
            error.__context__ = None


@breaks("RTY-21")
class ForgetsEarlierErrorsOnALoop(SoundAsync):
    """The same on a loop."""

    class Engine(_sound.AsyncEngine):
        def link(self, error: BaseException, earlier: BaseException | None) -> None:
            error.__context__ = None


@breaks("RTY-18", "RTY-25")
class RaisesABareTimeoutError(SoundAsync):
    """What the loop library raises is passed on: no word of what timed out, and just like the function's own."""

    class Engine(_sound.AsyncEngine):
        def late(self, body: Body[[], Any], number: int, policy: RetryPolicy) -> TimeoutError:
            return TimeoutError()


@breaks("RTY-25")
class TakesEveryTimeoutErrorForItsOwn(Sound):
    """The function's own TimeoutError comes out of the same `except` as the limit's."""

    class Engine(_sound.Engine):
        def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
            try:
                return super().attempt(body, policy, number)
            except TimeoutError:
                raise self.late(body, number, policy) from None
