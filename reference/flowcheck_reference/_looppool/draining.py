"""The end of a loop: what runs on it is brought to its end, in generations, and what can't be is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, Final, cast

_LOG = logging.getLogger("flowcheck_reference.looppool")  # where its users look for it

GENERATIONS: Final = 100
"""Cleanup that starts tasks whose cleanup starts tasks …: so often, and no more."""


class Threads(ThreadPoolExecutor):
    """The loop's default executor."""

    def end(self, deadline: float) -> list[str]:
        """Run nothing more, and wait for what runs until `deadline`. The names of threads that are stuck."""
        self.shutdown(wait=False, cancel_futures=True)
        stuck: list[str] = []
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - monotonic()))
            if thread.is_alive():
                stuck.append(thread.name)
        return stuck


class Drain:
    """Ends what runs on a loop that is not running, and closes it.

    `limit`: seconds for all of it together. `spared`: tasks that are waited for instead of cancelled. `finalizers`: called
    once no task of the users is left, and run beside each other.
    Afterwards `left` says what was cut off, a line for each.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        threads: Threads,
        limit: float,
        spared: set[asyncio.Task[Any]],
        finalizers: Callable[[], list[Coroutine[Any, Any, None]]],
    ) -> None:
        self._loop, self._threads, self._spared, self._finalizers = loop, threads, spared, finalizers
        self._deadline = monotonic() + limit
        self.left: list[str] = []

    def __call__(self) -> None:
        """Do it, on the loop's own thread."""
        loop = self._loop
        try:
            self._step("the tasks", self._tasks())
            self._step("the resources", self._finalize())
            self._step("the async generators", self._generators())
            self.left += [f"thread '{name}' of the default executor" for name in self._threads.end(self._deadline)]
        finally:
            for task in asyncio.all_tasks(loop):
                self.left.append(_named(task))
                _silence(task)
            loop.close()
            if self.left:
                _LOG.warning("reaped a loop, and gave up on: %s", "; ".join(self.left))

    def _step(self, what: str, work: Coroutine[Any, Any, None]) -> None:
        """One part of it; what goes wrong there keeps no other part from being done."""
        try:
            self._loop.run_until_complete(work)
        except BaseException as error:  # noqa: BLE001  a task's SystemExit, or a stop from outside
            self.left.append(f"{what}: {error!r}")

    async def _tasks(self) -> None:
        me = asyncio.current_task()
        for _ in range(GENERATIONS):
            tasks = asyncio.all_tasks() - {me} - self._spared
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            _, stuck = await asyncio.wait(tasks, timeout=self._remaining())
            self._report(tasks - stuck)
            if stuck:
                return

    async def _finalize(self) -> None:
        tasks = [*self._spared, *(asyncio.ensure_future(finalizer) for finalizer in self._finalizers())]
        if tasks:
            await asyncio.wait(tasks, timeout=self._remaining())
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()  # what finalizers started

    async def _generators(self) -> None:
        closing = asyncio.ensure_future(self._loop.shutdown_asyncgens())
        await asyncio.wait([closing], timeout=self._remaining())

    def _remaining(self) -> float:
        return max(0.0, self._deadline - monotonic())

    def _report(self, tasks: set[asyncio.Task[Any]]) -> None:
        """As asyncio does for errors that nobody asks for."""
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                context = {"message": "a task raised while its loop was reaped", "exception": error, "task": task}
                self._loop.call_exception_handler(context)


def _named(task: asyncio.Task[Any]) -> str:
    coroutine = task.get_coro()
    return f"task '{task.get_name()}' ({getattr(coroutine, '__qualname__', coroutine)})"


def _silence(task: asyncio.Task[Any]) -> None:
    """It is reported already: asyncio need not log that it is destroyed."""
    cast("Any", task)._log_destroy_pending = False  # noqa: SLF001  asyncio's own `gather` does so
