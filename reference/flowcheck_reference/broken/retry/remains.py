"""Wrong in what an abandoned attempt leaves behind."""

from __future__ import annotations

import asyncio
import threading
import weakref
from contextvars import copy_context
from typing import Any, ClassVar

from flowcheck_reference.broken.retry import _sound
from flowcheck_reference.broken.retry._sound import Attempt, Sound, SoundAsync
from pytest_flowcheck.protocols import Body, breaks
from pytest_flowcheck.protocols.retry import RetryPolicy


@breaks("RTY-10")
class RemembersAbandonedAttempts(Sound):
    """A list of what was given up, which nobody empties."""

    class Engine(_sound.Engine):
        def __init__(self, max_workers: int) -> None:
            super().__init__(max_workers)
            self.abandoned: list[Any] = []

        def late(self, body: Body[[], Any], number: int, policy: RetryPolicy) -> TimeoutError:
            self.abandoned.append(body)
            return super().late(body, number, policy)


@breaks("RTY-10")
class AWatchdogForEachTimeout(Sound):
    """A thread that watches over the abandoned attempt, and is never told that it has ended."""

    class Engine(_sound.Engine):
        def late(self, body: Body[[], Any], number: int, policy: RetryPolicy) -> TimeoutError:
            threading.Thread(target=threading.Event().wait, daemon=True, name="watchdog").start()
            return super().late(body, number, policy)


@breaks("RTY-10")
class ATaskForEachTimeout(SoundAsync):
    """The same with a task, on asyncio."""

    backends: ClassVar[tuple[str, ...]] = ("asyncio",)

    class Engine(_sound.AsyncEngine):
        def __init__(self, max_workers: int) -> None:
            super().__init__(max_workers)
            self.watching: list[asyncio.Task[bool]] = []

        def late(self, body: Body[[], Any], number: int, policy: RetryPolicy) -> TimeoutError:
            self.watching.append(asyncio.get_running_loop().create_task(asyncio.Event().wait()))
            return super().late(body, number, policy)


@breaks("RTY-17")
class ThreadsHoldUpTheExit(Sound):
    """The attempts' threads are no daemons: the interpreter waits for the stuck one."""

    class Engine(_sound.Engine):
        def begin(self, body: Body[[], Any]) -> Attempt:
            attempt = Attempt(body, self.slots.release)
            threading.Thread(target=copy_context().run, args=(attempt.run,), daemon=False).start()
            return attempt


@breaks("RTY-19")
class LateResultsAreKeptForTheNextCall(Sound):
    """*The answer came late, but it came*: it is kept, and given to the next call of the same function."""

    class Engine(_sound.Engine):
        def __init__(self, max_workers: int) -> None:
            super().__init__(max_workers)
            self.answers: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

        def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
            if body in self.answers:
                return self.answers.pop(body)
            return super().call(body, policy)

        def begin(self, body: Body[[], Any]) -> Attempt:
            attempt = _Keeping(body, self.slots.release)
            attempt.answers, attempt.of = self.answers, body
            threading.Thread(target=copy_context().run, args=(attempt.run,), daemon=True).start()
            return attempt


class _Keeping(Attempt):
    answers: weakref.WeakKeyDictionary[Any, Any]
    of: Any

    def end(self, value: Any, error: BaseException | None) -> None:
        if self.settled and error is None:
            self.answers[self.of] = value
        super().end(value, error)
