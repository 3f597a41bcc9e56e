"""Async nodes, as tasks of an event loop, asyncio or trio: the caller's for `arun`, the engine's own for `run`."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from flowcheck_reference._coroutines import Slots
from flowcheck_reference._policy import name_of
from flowcheck_reference.fanout import AsyncFanout

from .results import values_of
from .run import Entry, Run, without_ours

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

Soon: TypeAlias = Callable[[Callable[[], object]], object]
"""Have it called in the loop's thread, from any."""

_WITHOUT_BOUND: Final = 2**31 - 1


def soon_here() -> Soon:
    """For the event loop that runs here. Once that is closed, nothing is called, and nobody is there to miss it."""
    import asyncio

    try:
        call: Soon = asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        import trio

        call = trio.lowlevel.current_trio_token().run_sync_soon

    def soon(do: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed; trio's RunFinishedError is one, too
            call(do)

    return soon


async def in_a_thread(do: Callable[[], object], name: str) -> None:
    """Call it in a thread of its own, and wait for that; what it raises is raised here."""
    over, soon = anyio.Event(), soon_here()
    raised: list[BaseException] = []

    def work() -> None:
        try:
            do()
        except BaseException as error:  # noqa: BLE001  raised below
            raised.append(error)
        soon(over.set)

    threading.Thread(target=work, name=name, daemon=True).start()
    await over.wait()
    if raised:
        raise raised.pop()


class TaskCarrier:
    """A run's side of an event loop: `serve` in some task of it, and a task for each node, in a context of its own.

    A task that ends hands its place on, mostly to the node that it made ready. All but `launch` and `ring` is
    done in the loop's thread.
    """

    group: TaskGroup

    def __init__(self, run: Run, *, started: Callable[[TaskCarrier], object] | None = None) -> None:
        self.run = run
        self.slots = Slots(_WITHOUT_BOUND)
        self.inbox: deque[Entry] = deque()
        """Launched, not in the loop yet."""
        self.served = False
        """Is the loop through? What is launched still is a lapsed `Turn`, whose place goes back."""
        self.soon: Soon | None = None
        self.thread = 0
        self.in_node = False
        """Is a node's task, at this moment, handing on its place?"""
        self.unborn: set[int] = set()
        """Nodes whose tasks haven't begun. A loop that shuts down cancels them before they do."""
        self._start = started
        self._first = threading.Lock()

    # -- from any thread

    def launch(self, entry: Entry) -> None:
        """Have it awaited, in the place that was counted for it."""
        if self.in_node and threading.get_ident() == self.thread:
            self.spawn(entry)
            return
        self.inbox.append(entry)
        if self._start is not None and self._first.acquire(blocking=False):
            try:
                self._start(self)
            except BaseException as error:  # noqa: BLE001  no thread for a loop
                self.run.crash(error)
        self.ring()
        if self.served:
            self.drain()

    def ring(self) -> None:
        """Something was launched; or the run was stopped, or is over."""
        if self.soon is not None:  # else `serve` looks when it begins
            self.soon(self.look)

    # -- in the loop

    async def serve(self, begin: Callable[[], object] | None = None) -> None:
        """Carry nodes until the run is over; if this is cancelled, they are, and what threads carry is waited for."""
        run = self.run
        self.bell = anyio.Event()
        try:
            async with anyio.create_task_group() as self.group:
                try:
                    self.thread = threading.get_ident()
                    self.soon = soon_here()
                    if begin is not None:
                        try:
                            begin()
                        except BaseException as error:  # noqa: BLE001  the verdict raises it
                            run.crash(error)
                        run.grow()
                    while not (run.over or run.stopped):
                        self.drain()
                        await self.ringing()
                    if not run.over:
                        self.group.cancel_scope.cancel()
                except BaseException:
                    run.stop("cancelled")
                    raise
        finally:
            run.stop("cancelled")
            while self.unborn:
                run.hand_on(self.unborn.pop())
            with anyio.CancelScope(shield=True):
                while not run.over:
                    self.drain()
                    await self.ringing()
            self.served = True
            self.drain()
            del self

    async def ringing(self) -> None:
        """Wait until something has changed since the last time."""
        await self.bell.wait()
        self.bell = anyio.Event()

    def look(self) -> None:
        """Something has changed."""
        self.bell.set()

    def drain(self) -> None:
        """Start what was launched elsewhere. In a task: elsewhere anyio starts none."""
        while self.inbox:
            try:
                entry = self.inbox.popleft()
            except IndexError:  # another thread, once the loop is through
                return
            self.spawn(entry)

    def spawn(self, entry: Entry) -> None:
        """Start it."""
        if isinstance(entry, Turn):
            entry.comes()
        elif self.run.stopped or not isinstance(entry, int):
            self.run.hand_on(entry)
        else:
            self.unborn.add(entry)
            self.run.base.copy().run(self.group.start_soon, self.node, entry)

    async def node(self, k: int) -> None:
        """A node's task."""
        self.unborn.discard(k)
        run = self.run
        call = _Call(self, k)
        entry: Entry | None = k
        try:
            await checkpoint_if_cancelled()  # once cancelled, nothing begins (FLO-32)
            if run.stopped:
                return
            entry = None
            run.arrays.started[k] = monotonic()
            if run.emits:
                run.tell("node started", k)
            try:
                value = await call.outcome()
            finally:
                if call.attempts != 1:
                    run.arrays.attempts[k] = call.attempts
            entry = await run.succeed_here(k, value) if run.keeps else run.succeed(k, value)
            del value
        except BaseException as error:
            # A node that cancelled itself has only failed.
            if not _cancelled(error):
                entry = run.fail(k, without_ours(error), cancelled=call.given_up and run.unwanted)
            else:
                if entry is None:
                    entry = run.fail(k, error, cancelled=True)
                else:
                    run.stop("cancelled")
                raise
        finally:
            self.in_node = True
            try:
                if call.placed:
                    run.hand_on(entry)
                elif entry is not None:
                    run.ready.append(entry)
                    run.grow()
            finally:
                self.in_node = False
            del self, run, call, entry


class _Call:
    """A node's call, with its attempts, if it has a policy."""

    def __init__(self, carrier: TaskCarrier, k: int) -> None:
        self.carrier, self.k = carrier, k
        plan, values = carrier.run.plan, carrier.run.arrays.values
        self.fn = plan.fns[k]
        self.args = [values[i] for i in plan.args[k]]
        self.attempts = 0
        self.placed = True
        """Has the node a place? Not between two attempts."""
        self.given_up = False
        """It would have been tried again, had the run gone on."""

    async def outcome(self) -> Any:
        """Its value."""
        node = self.carrier.run.plan.nodes[self.k]
        try:
            if node.each:
                self.attempts = 1
                return await self._fan_out()
            if node.policy is None:
                return await self()
            self.__qualname__ = name_of(self.fn)  # what a timeout calls it
            return await self.carrier.slots.drive(node.policy, self, (), {}, self.pause)
        finally:
            del self

    async def __call__(self) -> Any:
        """One attempt."""
        self.attempts += 1
        try:
            return await self.fn(*self.args)
        finally:
            del self

    async def pause(self, seconds: float) -> bool:
        """Wait for the next attempt, without a place. False: it isn't wanted any more."""
        run = self.carrier.run
        if seconds and not run.stopped:
            self.placed = False
            run.leave()
            await anyio.sleep(seconds)  # noqa: TID251  a backoff is a wait for time
            turn = Turn(self.k)
            run.ready.append(turn)
            run.grow()
            try:
                await turn.event.wait()
                self.placed = True
            except BaseException:  # cancelled
                if turn.event.is_set():
                    self.placed = True
                else:
                    turn.lapsed = run
                    with suppress(ValueError):
                        run.ready.remove(turn)
                raise
        self.given_up = run.stopped
        return not self.given_up

    async def _fan_out(self) -> list[Any]:
        node, run = self.carrier.run.plan.nodes[self.k], self.carrier.run
        (items,) = self.args
        wide = run.limit if node.max_concurrency is None else node.max_concurrency
        records = await AsyncFanout().run(self.fn, items, max_concurrency=wide, policy=node.policy)
        return values_of(records)


class Turn:
    """An async node that waits for a place, to go on with its next attempt. It stands in `ready`."""

    def __init__(self, node: int) -> None:
        self.of = node
        self.event = anyio.Event()
        self.lapsed: Run | None = None
        """Of a task that was cancelled meanwhile: the place goes back."""

    @property
    def node(self) -> int:
        """Its number."""
        return self.of

    def comes(self) -> None:
        """In the loop: here is a place."""
        if self.lapsed is None:
            self.event.set()
        else:
            self.lapsed.hand_on(None)

    def give_up(self) -> None:
        """Its task is cancelled, and sees to its end."""


def _cancelled(error: BaseException) -> bool:
    """Is it the loop's word that this task is to end?"""
    return isinstance(error, anyio.get_cancelled_exc_class()) and anyio.current_effective_deadline() == -math.inf
