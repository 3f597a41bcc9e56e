"""What the broken retry wrappers start from: three that keep every rule, with a method for each thing to spoil.

They are built unlike the reference engine: a thread for each attempt, a coroutine for
each attempt, and a loop that hands each attempt to a thread.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from typing import Any, ClassVar

import anyio

from pytest_flowcheck.protocols import Body, Invalid
from pytest_flowcheck.protocols.retry import RetryPolicy

ALL = frozenset({"timeout", "bounded", "history", "context", "policy", "fence"})


class TimeLimitError(TimeoutError):
    """An attempt took longer than its limit; a function's own TimeoutError is never of this type."""


class Books:
    """What needs no waiting: which policies make sense, what is worth another try, what an error remembers."""

    def checked(self, policy: RetryPolicy) -> RetryPolicy:
        """Refuse a policy without sense before anything runs."""
        attempts: Any = policy.attempts
        if not isinstance(attempts, int) or attempts < 1:
            raise Invalid(f"attempts is {attempts!r}; expected an int of at least 1")
        for what, seconds in (("timeout", policy.timeout), ("backoff", policy.backoff)):
            value: Any = seconds
            if value is None and what == "timeout":
                continue
            if (
                not isinstance(value, int | float)
                or math.isnan(value)
                or value < 0
                or (not value and what == "timeout")
            ):
                raise Invalid(f"{what} is {value!r}; expected a number of seconds above 0")
        return policy

    def again(self, error: BaseException, policy: RetryPolicy) -> bool:
        """Whether this error is worth another try."""
        return isinstance(error, policy.retry_on)

    def link(self, error: BaseException, earlier: BaseException | None) -> None:
        """Make the error of an earlier attempt reachable from this one."""
        last, seen = error, {id(error)}
        while last.__context__ is not None and id(last.__context__) not in seen:
            last = last.__context__
            seen.add(id(last))
        if earlier is not None and id(earlier) not in seen:
            last.__context__ = earlier

    def late(self, body: Body[[], Any], number: int, policy: RetryPolicy) -> TimeoutError:
        """What is raised for an attempt that took too long."""
        return TimeLimitError(f"{body.__name__}: attempt {number} took longer than {policy.timeout:g} s")


class Attempt:
    """One run of a body on a thread. Settled once, under its lock: by its end, or by the caller who gives it up."""

    def __init__(self, body: Callable[[], Any], free: Callable[[], None]) -> None:
        self._body, self._free = body, free
        self._lock, self.over = threading.Lock(), threading.Event()
        self.settled = False
        self.value: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """On its thread. What comes after the caller has given up is dropped."""
        body, value, error = self._body, None, None
        del self._body
        try:
            value = body()
        except BaseException as raised:
            error = raised
        self.end(value, error)

    def end(self, value: Any, error: BaseException | None) -> None:
        """It has ended by itself."""
        if self._settle():
            self.value, self.error = value, error
            self._free()
            self.over.set()

    def in_time(self, limit: float | None) -> bool:
        """Wait for it; False where it was given up, and then its slot is free at once."""
        if self.over.wait(limit) or not self._settle():
            self.over.wait()  # it ended in the very moment
            return True
        self._free()
        return False

    def _settle(self) -> bool:
        with self._lock:
            first, self.settled = not self.settled, True
            return first


class Engine(Books):
    """The caller's thread waits and keeps the books; each attempt has a daemon thread of its own.

    A caller takes a slot before it starts an attempt, so the attempt's clock starts when the attempt does. The slot is
    free again when the attempt has ended or is given up.
    """

    def __init__(self, max_workers: int) -> None:
        self.slots = threading.Semaphore(max_workers)

    def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
        policy = self.checked(policy)
        earlier: BaseException | None = None
        try:
            for number in range(1, policy.attempts + 1):
                if number > 1:
                    self.pause(policy.backoff)
                try:
                    return self.attempt(body, policy, number)
                except BaseException as error:
                    self.link(error, earlier)
                    if number == policy.attempts or not self.again(error, policy):
                        raise
                    earlier = error
        finally:
            earlier = None
        raise AssertionError("unreachable")

    def pause(self, seconds: float) -> None:
        """Backoff, in the caller's thread."""
        if seconds:
            threading.Event().wait(seconds)

    def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
        """One attempt: its value, or its error, or that it took too long."""
        self.slots.acquire()
        attempt = self.begin(body)
        if not attempt.in_time(policy.timeout):
            raise self.late(body, number, policy)
        if attempt.error is not None:
            raise attempt.error
        return attempt.value

    def begin(self, body: Body[[], Any]) -> Attempt:
        """Start it on a thread of its own, in the caller's context."""
        attempt = Attempt(body, self.slots.release)
        threading.Thread(target=copy_context().run, args=(attempt.run,), daemon=True, name="attempt").start()
        return attempt


class AsyncEngine(Books):
    """Attempts are awaited in the caller's task; a cancel scope around each is its limit. On asyncio and trio."""

    def __init__(self, max_workers: int) -> None:
        self.slots = anyio.Semaphore(max_workers)

    async def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
        policy = self.checked(policy)
        earlier: BaseException | None = None
        try:
            for number in range(1, policy.attempts + 1):
                if number > 1:
                    await self.pause(policy.backoff)
                try:
                    return await self.attempt(body, policy, number)
                except BaseException as error:
                    self.link(error, earlier)
                    if number == policy.attempts or not self.again(error, policy):
                        raise
                    earlier = error
        finally:
            earlier = None
        raise AssertionError("unreachable")

    async def pause(self, seconds: float) -> None:
        """Backoff, in the caller's task."""
        with anyio.move_on_after(seconds):
            await anyio.Event().wait()

    async def attempt(self, body: Body[[], Any], policy: RetryPolicy, number: int) -> Any:
        """One attempt: its value, or its error, or that it took too long."""
        async with self.slots:
            with anyio.move_on_after(policy.timeout):
                return await self.run(body)
        raise self.late(body, number, policy)

    async def run(self, body: Body[[], Any]) -> Any:
        """The attempt itself."""
        return await body.aio()


class OffloadingEngine(AsyncEngine):
    """Each attempt is handed to a daemon thread, and left alone there when it takes too long. On asyncio."""

    async def run(self, body: Body[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        attempt = Attempt(body, lambda: None)

        def run() -> None:
            attempt.run()
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(over.set)

        threading.Thread(target=copy_context().run, args=(run,), daemon=True, name="attempt").start()
        await over.wait()
        if attempt.error is not None:
            raise attempt.error
        return attempt.value


class _Subject:
    version: ClassVar[str] = "broken on purpose"
    without: ClassVar[AbstractSet[str]] = frozenset()
    """Capabilities that this bug would break as well, and that are therefore not claimed."""

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        return {"retry": ALL - self.without}


class Sound(_Subject):
    """A subject whose blocking engine is `Engine`."""

    Engine: ClassVar[type[Any]] = Engine

    @contextmanager
    def retry(self, *, max_workers: int) -> Generator[Any]:
        yield self.Engine(max_workers)


class SoundAsync(_Subject):
    """A subject whose engine, on a loop, is `Engine`."""

    Engine: ClassVar[type[Any]] = AsyncEngine
    backends: ClassVar[tuple[str, ...]] = ("asyncio", "trio")

    @asynccontextmanager
    async def retry(self, *, max_workers: int) -> AsyncGenerator[Any]:
        yield self.Engine(max_workers)


class SoundOffloading(SoundAsync):
    """On a loop too, but its attempts are synchronous."""

    backends: ClassVar[tuple[str, ...]] = ("asyncio",)
    Engine = OffloadingEngine
