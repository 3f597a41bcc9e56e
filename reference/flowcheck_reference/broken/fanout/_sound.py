"""What the broken fan-outs start from: two engines that keep every rule, with one method for each thing to spoil.

`Engine` starts a thread for each item, from the caller's own, as slots become free. `AsyncEngine` starts a task for
each, in a task group, on asyncio and trio. Neither knows the other, nor the reference engine.
"""

from __future__ import annotations

import math
import threading
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar

import anyio

from pytest_flowcheck.protocols import Failed, Halt, Ok, Outcome

ALL = frozenset({"halt", "continue", "coerce", "lazy", "nested", "context"})

NOTHING: Any = object()
"""No item is left."""


@dataclass
class Run:
    """One fan-out under way."""

    body: Any
    items: Iterator[Any]
    bound: int
    keep_going: bool
    outcomes: dict[int, Outcome[Any]] = field(default_factory=dict[int, Outcome[Any]])
    escaped: dict[int, BaseException] = field(default_factory=dict[int, BaseException])
    stopped: bool = False
    """Nothing new is started."""
    live: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    slots: Any = None
    group: Any = None
    numbers: Iterator[int] = field(default_factory=count)


class Core:
    """What both engines decide alike."""

    def bound(self, max_concurrency: Any) -> int:
        """How many at a time; what makes no sense is one at a time."""
        try:
            number = float(max_concurrency)
        except (TypeError, ValueError):
            return 1
        if math.isnan(number) or number < 1:
            return 1
        return 1_000_000 if number > 1_000_000 else int(number)

    def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
        """A run, before its first item."""
        return Run(body, iter(items), self.bound(max_concurrency), keep_going)

    def pull(self, run: Run) -> Any:
        """The next item, or NOTHING. An iterator that fails ends the run with its error."""
        try:
            return next(run.items, NOTHING)
        except Exception as error:
            run.escaped[len(run.outcomes) + 1_000_000] = error
            run.stopped = True
            return NOTHING

    def ended(self, run: Run, index: int, value: Any) -> None:
        """An item returned."""
        run.outcomes[index] = Ok(value, id=f"slot {index}")

    def failed(self, run: Run, index: int, error: BaseException) -> None:
        """An item raised."""
        if isinstance(error, Halt):
            how: Any = error.how
            run.outcomes[index] = Failed(error, how, id=f"slot {index}")
            run.stopped = run.stopped or not (run.keep_going and error.how == "failed")
        else:
            run.escaped[index] = error
            run.stopped = True

    def answer(self, run: Run) -> list[Outcome[Any]]:
        """Once nothing runs any more: the results, or the error of the first item in order that raised one."""
        if run.escaped:
            raise self.error(run)
        results: list[Outcome[Any]] = []
        for index in sorted(run.outcomes):
            results.append(run.outcomes[index])
            if self.ends_with(run, run.outcomes[index]):
                break
        return results

    def ends_with(self, run: Run, outcome: Outcome[Any]) -> bool:
        """Whether this outcome is a halt, behind which nothing is told."""
        return isinstance(outcome, Failed) and not (run.keep_going and outcome.how == "failed")

    def error(self, run: Run) -> BaseException:
        """What is raised; the errors of other items stand in its notes."""
        first, *others = (run.escaped[index] for index in sorted(run.escaped))
        for other in others:
            first.add_note(f"besides: {other!r}")
        return first


class Engine(Core):
    """On threads."""

    def run(
        self, body: Any, items: Iterable[Any], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> list[Outcome[Any]]:
        run = self.begin(body, items, max_concurrency, continue_on_error)
        for index in run.numbers:
            if not self.slot(run) or (item := self.pull(run)) is NOTHING:
                break
            self.start(run, index, item)
        self.wait(run)
        return self.answer(run)

    def slot(self, run: Run) -> bool:
        """Wait for a free slot; False if nothing may start any more."""
        with run.changed:
            run.changed.wait_for(lambda: run.stopped or run.live < run.bound)
            return not run.stopped

    def start(self, run: Run, index: int, item: Any) -> None:
        """Occupy the slot. An item that stopped the run meanwhile wins."""
        with run.changed:
            if run.stopped:
                return
            run.live += 1
        threading.Thread(target=copy_context().run, args=(self.work, run, index, item), name="fan-out item").start()

    def work(self, run: Run, index: int, item: Any) -> None:
        """On the item's thread."""
        try:
            value = run.body(item)
        except BaseException as error:
            with run.changed:
                self.failed(run, index, error)
                self.leave(run, error)
        else:
            with run.changed:
                self.ended(run, index, value)
                self.leave(run, None)

    def leave(self, run: Run, error: BaseException | None) -> None:
        """Give the slot back; `run.changed` is held."""
        run.live -= 1
        run.changed.notify_all()

    def wait(self, run: Run) -> None:
        """Until nothing runs any more."""
        with run.changed:
            run.changed.wait_for(lambda: run.live == 0)


class AsyncEngine(Core):
    """On the caller's loop."""

    async def run(
        self, body: Any, items: Iterable[Any], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> list[Outcome[Any]]:
        run = self.begin(body, items, max_concurrency, continue_on_error)
        run.slots = self.slots(run)
        async with anyio.create_task_group() as run.group:
            await self.feed(run)
        return self.answer(run)

    def slots(self, run: Run) -> Any:
        """What bounds the items in flight."""
        return anyio.Semaphore(run.bound)

    async def feed(self, run: Run) -> None:
        """Start items as slots become free."""
        for index in run.numbers:
            await run.slots.acquire()
            if run.stopped or (item := self.pull(run)) is NOTHING:
                run.slots.release()
                break
            self.start(run, index, item)

    def start(self, run: Run, index: int, item: Any) -> None:
        """Begin the item in the slot just taken."""
        run.group.start_soon(self.work, run, index, item)

    async def work(self, run: Run, index: int, item: Any) -> None:
        """The item's task. One that raises has the others cancelled; one that halts lets them end."""
        try:
            value = await self.call(run, item)
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            self.failed(run, index, error)
            if run.escaped:
                run.group.cancel_scope.cancel()
        else:
            self.ended(run, index, value)
        finally:
            self.leave(run)

    async def call(self, run: Run, item: Any) -> Any:
        """Run the body."""
        return await run.body.aio(item)

    def leave(self, run: Run) -> None:
        """Give the slot back."""
        run.slots.release()


class Sound:
    """A subject whose fan-out is `Fanout`, on threads."""

    Fanout: ClassVar[type[Any]] = Engine
    without: ClassVar[AbstractSet[str]] = frozenset()
    """Capabilities that this bug would break as well, and that are therefore not claimed."""
    version: ClassVar[str] = "broken on purpose"
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    backends: ClassVar[tuple[str, ...]] = ("asyncio",)

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        return {"fanout": ALL - self.without}

    def fanout(self) -> AbstractContextManager[Any] | AbstractAsyncContextManager[Any]:
        return self._opened()

    @contextmanager
    def _opened(self) -> Generator[Any]:
        yield self.Fanout()


class SoundAsync(Sound):
    """A subject whose fan-out is `Fanout`, on the caller's loop."""

    Fanout: ClassVar[type[Any]] = AsyncEngine
    backends: ClassVar[tuple[str, ...]] = ("asyncio", "trio")

    def fanout(self) -> AbstractAsyncContextManager[Any]:
        return self._opened_async()

    @asynccontextmanager
    async def _opened_async(self) -> AsyncGenerator[Any]:
        yield self.Fanout()
