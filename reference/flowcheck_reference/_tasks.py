"""One fan-out on an event loop, asyncio or trio: the tasks of a call of `AsyncFanout`, and the one that called.

`_window` decides which item may start, `_coroutines` makes the attempts under a policy; `fanout` explains lanes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from functools import partial
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from ._coroutines import Slots
from ._policy import RetryPolicy, name_of
from ._window import NOTHING, Halt, Record, Window

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

T = TypeVar("T")

_LOG = logging.getLogger(f"{__package__}.fanout")  # where its users look for it
_WITHOUT_BOUND: Final = 2**31 - 1


class TaskCall(Window[T]):
    """One call on an event loop: a lane is a chain of tasks, one per item, so that each has a context of its own.

    A task draws when it runs, not when it is made, and calls the function without a pause in between: so the order of
    starts is exact, also with trio, which runs new tasks in any order.
    """

    group: TaskGroup

    def __init__(
        self,
        policy: RetryPolicy | None,
        fn: Callable[[Any], Awaitable[T]],
        items: Iterable[Any],
        max_concurrency: object,
        on_error: str,
        *,
        whole: bool,
    ) -> None:
        super().__init__(fn, items, max_concurrency, on_error, whole=whole)
        self.policy = policy
        self.slots = Slots(_WITHOUT_BOUND)
        self.resting: dict[int, anyio.CancelScope] = {}
        """Items between two attempts."""
        self.bell = anyio.Event()
        self.gone = anyio.Event()

    # -- the items' side

    def grow(self) -> None:
        """Send for one more task, if it may have an item; in the caller's context, whoever sends."""
        if self.may_grow():
            self.coming = True
            self.base.copy().run(self.group.start_soon, self.item)

    async def item(self) -> None:
        """Draw one item, and do it."""
        try:
            self.coming = False
            await checkpoint_if_cancelled()  # once cancelled, nothing starts (FAN-19, 27)
            item = self.draw()
            if item is not NOTHING:
                index = self.index - 1
                self.active += 1
                try:
                    self.grow()
                    await self.settle(index, item)
                finally:
                    self.active -= 1
                    self.grow()
        finally:
            self.bell.set()
            item = None
            del self

    async def settle(self, index: int, item: Any) -> None:
        """Call the function and note the outcome."""
        started, attempts = monotonic(), _Attempts(self.fn, item)
        try:
            if self.policy is None:
                value: Any = await attempts()
            else:
                value = await self.slots.drive(self.policy, attempts, (), {}, partial(self.pause, index))
            if attempts.halt is not None:
                raise attempts.halt
        except BaseException as error:
            # An item that cancelled itself has only failed. One that halts when it is cancelled was in no state to.
            was_cancelled = anyio.current_effective_deadline() == -math.inf
            if was_cancelled and isinstance(error, (anyio.get_cancelled_exc_class(), Halt)):
                self.closed = True
                self.records[index] = Record(index, "cancelled", None, error, attempts.made, started, monotonic())
                if not isinstance(error, Halt):
                    raise
            else:
                self.fail(index, error, attempts.made, started)
                if self.escapes():
                    self.group.cancel_scope.cancel()
        else:
            self.records[index] = Record(index, "ok", value, None, attempts.made, started, monotonic())
        finally:
            value = None
            del self, item, attempts

    async def pause(self, index: int, seconds: float) -> bool:
        """Wait for the item's next attempt. False: a stop came meanwhile, behind which nobody wants the item."""
        if seconds and index <= self.cut:
            with anyio.CancelScope() as self.resting[index]:
                try:
                    await anyio.sleep(seconds)  # noqa: TID251  a backoff is a wait for time
                finally:
                    del self.resting[index]
        return index <= self.cut

    def stop(self, index: int, error: BaseException) -> None:
        """From now on nothing starts, and what waits for a retry may be unwanted."""
        super().stop(index, error)
        for at, scope in self.resting.items():
            if at > self.cut:
                scope.cancel()

    # -- the caller's side

    async def gather(self) -> list[Record[T]]:
        """All records."""
        try:
            async with anyio.create_task_group() as self.group:
                self.grow()
            return self.verdict()
        finally:
            self.log(_LOG)
            del self

    async def serve(self, *, task_status: TaskStatus[None]) -> None:
        """Be the home of a stream's tasks, in a task of the fan-out's owner: a generator can't be one."""
        try:
            async with anyio.create_task_group() as self.group:
                task_status.started()
                await anyio.sleep_forever()
        finally:
            self.closed = True
            self.gone.set()
            self.bell.set()

    async def deliver(self, home: TaskGroup) -> AsyncGenerator[Record[T], None]:
        """The records, one by one."""
        await home.start(self.serve)
        index = 0
        try:
            for index in count():
                self.limit = index + self.lanes
                self.grow()
                await self.arrival(index)
                if self.gone.is_set() or index not in self.records or self.stopped_at(index):
                    break
                yield self.records.pop(index)
            while self.active:
                await self.ringing()
            if self.gone.is_set() and not self.stops:
                msg = "the fan-out was closed before its stream was read to the end"
                raise RuntimeError(msg)
            for record in self.verdict(index):
                yield record
        finally:
            self.closed = True
            self.group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await self.gone.wait()
            self.log(_LOG)
            del self

    async def arrival(self, index: int) -> None:
        """Wait until record `index` is there, or will never be."""
        while index not in self.records and not (self.closed and not self.active):
            await self.ringing()

    async def ringing(self) -> None:
        """Wait until something has changed."""
        self.bell = anyio.Event()
        await self.bell.wait()


class _Attempts:
    """An item's attempts: what a policy calls. It counts them, and lets a halt pass as if it were a value."""

    def __init__(self, fn: Callable[[Any], Awaitable[Any]], item: Any) -> None:
        self.fn, self.item = fn, item
        self.made = 0
        self.halt: Halt | None = None
        self.__qualname__ = name_of(fn)  # what a timeout calls it

    async def __call__(self) -> Any:
        self.made += 1
        try:
            return await self.fn(self.item)
        except Halt as halt:  # never retried
            self.halt = halt
        finally:
            del self
