"""A call of an async function under a policy, in the caller's task, on asyncio and on trio; `AsyncRetrier` is its face.

An attempt holds a *slot* while it runs, and lends it to the calls that are made inside it. It ends in time or is
cancelled, by each event loop's own means. What decides on the next is `_attempts`, as for threads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from math import inf
from typing import Any, Final, TypeAlias, TypeVar, cast

import anyio

from ._attempts import decide, raise_last
from ._policy import AttemptTimeout, RetryPolicy, name_of

T = TypeVar("T")


class Slots:
    """So many attempts at once, first come, first served.

    All of it runs in one event loop, and nothing awaits in the middle. While somebody waits, no slot is free, nor is
    that of the attempt around him.
    """

    def __init__(self, limit: int) -> None:
        self.free = limit
        self.waiting: deque[_Waiter] = deque()
        self.closed = False
        """No other attempt is begun."""

    async def drive(
        self, policy: RetryPolicy, fn: Callable[..., Awaitable[T]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> T:
        """The attempts of one call, each in a slot."""
        attempt = _on_asyncio if _asyncio_runs_here() else _on_trio
        outer = self.outer()
        errors: list[BaseException] = []
        try:
            while True:
                if self.closed:
                    msg = "this retrier is closed: it takes no more calls"
                    raise RuntimeError(msg)
                slot = await self.take(outer)
                token = slot.enter()
                try:
                    value, error = await attempt(policy.timeout, fn, args, kwargs)
                finally:
                    slot.leave(token)
                if error is None:
                    return cast("T", value)
                if error is _LATE:
                    assert policy.timeout is not None
                    error = AttemptTimeout(name_of(fn), len(errors) + 1, policy.timeout)
                errors.append(error)
                del error
                delay = decide(policy, errors)
                if delay:
                    await anyio.sleep(delay)  # noqa: TID251  a backoff is a wait for time
        except BaseException as error:
            if errors:  # cancelled
                errors.append(error)
                raise_last(errors)
            raise
        finally:
            errors.clear()

    def outer(self) -> _Slot | None:
        """The slot of the attempt that the caller is in, if it is one of these."""
        slot = _held.get()
        while slot is not None and slot.slots is not self:
            slot = slot.outer
        return slot

    async def take(self, outer: _Slot | None) -> _Slot:
        """A slot, as soon as there is one."""
        if self.free:
            self.free -= 1
            return _Slot(self, _held.get(), None)
        if outer is not None and not outer.lent:
            outer.lent = True
            return _Slot(self, _held.get(), outer)
        waiter = _Waiter(outer)
        self.waiting.append(waiter)
        try:
            await waiter.event.wait()
        except BaseException:  # cancelled
            if waiter.event.is_set():
                self.give(_Slot(self, None, waiter.lender))
            else:
                self.waiting.remove(waiter)
            raise
        return _Slot(self, _held.get(), waiter.lender)

    def give(self, slot: _Slot) -> None:
        """It is not used any more."""
        lender = slot.lender
        for waiter in self.waiting:
            if lender is None or waiter.outer is lender:
                self.waiting.remove(waiter)
                waiter.lender = lender
                waiter.event.set()
                return
        if lender is None:
            self.free += 1
        else:
            lender.lent = False


class _Slot:
    """What an attempt holds while it runs, and lends to the calls that are made inside it, one at a time."""

    __slots__ = ("lender", "lent", "outer", "slots")

    def __init__(self, slots: Slots, outer: _Slot | None, lender: _Slot | None) -> None:
        self.slots = slots
        self.outer = outer
        """Of the attempt around, whichever retrier's it is."""
        self.lender = lender
        """Whose slot this really is; None: one of its own."""
        self.lent = False

    def enter(self) -> Token[_Slot | None]:
        """The attempt begins."""
        return _held.set(self)

    def leave(self, token: Token[_Slot | None]) -> None:
        """The attempt is over."""
        _held.reset(token)
        self.slots.give(self)


_held: ContextVar[_Slot | None] = ContextVar("_held", default=None)
"""The slot of the attempt that this code is in; its children inherit it."""


class _Waiter:
    """Somebody who waits for a slot."""

    __slots__ = ("event", "lender", "outer")

    def __init__(self, outer: _Slot | None) -> None:
        self.event = anyio.Event()
        self.outer = outer
        self.lender: _Slot | None = None


_Outcome: TypeAlias = tuple[Any, BaseException | None]
_LATE: Final = TimeoutError("the limit's own; never seen by anybody")


async def _on_asyncio(
    limit: float | None, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> _Outcome:
    """One attempt: its value, or its own error, or `_LATE`. Raises: the caller's cancellation.

    Not by anyio: its scopes cancel again at each await, which cuts short what an asyncio coroutine does in `finally`.
    """
    outcome: _Outcome = None, None
    try:
        async with asyncio.timeout(limit):
            try:
                outcome = await fn(*args, **kwargs), None
            except (asyncio.CancelledError, GeneratorExit):
                raise
            except BaseException as error:  # noqa: BLE001  kept from `timeout`: a TimeoutError is the call's own (RTY-25)
                outcome = None, error
    except TimeoutError:
        return None, _LATE
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        outcome = None, error  # nobody cancelled this task: it is what the call raised
    try:
        return outcome
    finally:
        del outcome


async def _on_trio(
    limit: float | None, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> _Outcome:
    """One attempt: its value, or its own error, or `_LATE`. Raises: the caller's cancellation."""
    try:
        with anyio.CancelScope(deadline=inf if limit is None else anyio.current_time() + limit) as scope:
            return await fn(*args, **kwargs), None
    except (anyio.get_cancelled_exc_class(), GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001  the policy decides
        return None, error
    assert scope.cancelled_caught
    return None, _LATE


def _asyncio_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
