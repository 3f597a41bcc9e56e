"""A call of an async function under a policy, in the caller's task, on asyncio and on trio; `AsyncRetrier` is its face.

An attempt holds a *slot* while it runs, and lends it to the calls that are made inside it. It ends in time or is
cancelled, by each event loop's own means. What decides on the next is `_attempts`, as for threads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar, Token
from math import inf
from typing import Any, Final, TypeAlias, TypeVar, cast

import anyio

from ._attempts import decide, raise_last
from ._policy import AttemptTimeout, RetryPolicy, name_of

T = TypeVar("T")


class Slots:
    """So many attempts at once, first come, first served.

    All of it runs in one event loop, and nothing awaits in the middle. Guarantees:
    - `free` and the slots that are held are `limit` together. A slot that was lent is not held by its lender; and a lender
      that ends before its borrower leaves the slot to that one, instead of giving it back.
    - While somebody waits, no slot is free, and that of the attempt around him is lent.
    """

    def __init__(self, limit: int) -> None:
        self.free = limit
        self.waiting: deque[_Waiter] = deque()
        self.refusal = ""
        """Why no other attempt is begun, in the owner's words. Empty: attempts are begun."""

    async def drive(
        self,
        policy: RetryPolicy,
        fn: Callable[..., Awaitable[T]],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        pause: Callable[[float], Awaitable[bool]] | None = None,
    ) -> T:
        """The attempts of one call, each in a slot.

        `pause(seconds)` waits for the next, 0 also, and tells whether it is still wanted; if not, the call ends as the
        last attempt did.
        """
        attempt = _on_asyncio if _asyncio_runs_here() else _on_trio
        errors: list[BaseException] = []
        try:
            while True:
                if self.refusal:
                    raise RuntimeError(self.refusal)
                slot = await self.take()
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
                if pause is not None:
                    if not await pause(delay):
                        raise_last(errors)
                elif delay:
                    await anyio.sleep(delay)  # noqa: TID251  a backoff is a wait for time
        except BaseException as error:
            if errors:  # cancelled
                errors.append(error)
                raise_last(errors)
            raise
        finally:
            errors.clear()

    async def take(self) -> _Slot:
        """A slot, as soon as there is one."""
        slot = _Slot(self, _unless_over(_held.get()))
        if self.grants(slot):
            return slot
        waiter = _Waiter(slot)
        self.waiting.append(waiter)
        try:
            await waiter.event.wait()
        except BaseException:  # cancelled
            if waiter.event.is_set():
                self.give(slot)
            else:
                self.waiting.remove(waiter)
            raise
        return slot

    def grants(self, slot: _Slot) -> bool:
        """Is there one for it: a free one, or that of the attempt around?"""
        if self.free:
            self.free -= 1
            return True
        lender = slot.around()
        if lender is None or lender.borrower is not None:
            return False
        lender.lends(slot)
        return True

    def give(self, slot: _Slot) -> None:
        """It is not used any more."""
        slot.over = True
        lender, borrower = slot.lender, slot.borrower
        slot.lender = slot.borrower = None
        if borrower is not None:
            borrower.lender = lender
            if lender is not None:
                lender.borrower = borrower
            self.look_round()  # whoever waited for this one may borrow that of the next attempt around
        elif lender is not None:
            lender.borrower = None
            self.look_round()
        elif self.waiting:
            self.waiting.popleft().event.set()
        else:
            self.free += 1

    def look_round(self) -> None:
        """May somebody who waits borrow now? One may, at most, for each slot that changed hands."""
        for waiter in self.waiting:
            if self.grants(waiter.slot):
                self.waiting.remove(waiter)
                waiter.event.set()
                return


class _Slot:
    """What an attempt holds while it runs, and lends to the calls that are made inside it, one at a time."""

    __slots__ = ("borrower", "lender", "outer", "over", "slots")

    def __init__(self, slots: Slots, outer: _Slot | None) -> None:
        self.slots = slots
        self.outer = outer
        """Of the attempt around, whichever retrier's it is. A task can outlive it."""
        self.lender: _Slot | None = None
        """Whose slot this really is; None: one of its own."""
        self.borrower: _Slot | None = None
        self.over = False

    def around(self) -> _Slot | None:
        """The nearest attempt around that is not over and holds one of the same slots."""
        slot = _unless_over(self.outer)
        while slot is not None and slot.slots is not self.slots:
            slot = _unless_over(slot.outer)
        return slot

    def lends(self, slot: _Slot) -> None:
        """To a call made inside it."""
        self.borrower, slot.lender = slot, self

    def enter(self) -> Token[_Slot | None]:
        """The attempt begins."""
        return _held.set(self)

    def leave(self, token: Token[_Slot | None]) -> None:
        """The attempt is over."""
        with suppress(ValueError):  # its loop is gone: whoever closes the coroutine now does it in another context
            _held.reset(token)
        self.slots.give(self)


def _unless_over(slot: _Slot | None) -> _Slot | None:
    """It, or the nearest around it that is not over."""
    while slot is not None and slot.over:
        slot = slot.outer
    return slot


_held: ContextVar[_Slot | None] = ContextVar("_held", default=None)
"""The slot of the attempt that this code is in; its children inherit it, and may outlive the attempt."""


class _Waiter:
    """Somebody who waits for a slot."""

    __slots__ = ("event", "slot")

    def __init__(self, slot: _Slot) -> None:
        self.event = anyio.Event()
        self.slot = slot


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
