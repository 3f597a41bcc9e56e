"""Wrong on the caller's loop."""

# ruff: noqa: A002 - `id` and `input` are the protocol's names
from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import anyio
import anyio.lowlevel

from flowcheck_reference.broken.flow._hand import AsyncEngine, HandAsync, Running, ThreadedEngine
from pytest_flowcheck.protocols import Failed, Ok, Outcome, breaks
from pytest_flowcheck.protocols.flow import Graph, Node, Run


@breaks("FLO-23")
class SwallowsTheCancellation(HandAsync):
    """A cancelled run is told as one, to a caller that was to be stopped."""

    class Flow(AsyncEngine):
        async def run(self, graph: Graph, input: Any = None, *, max_workers: int | None = None) -> Run:
            try:
                return await super().run(graph, input, max_workers=max_workers)
            except anyio.get_cancelled_exc_class():
                return Run("cancelled")


class ByTasks(AsyncEngine):
    """Nodes are asyncio tasks, not in a group."""

    async def coordinate(self, run: Running) -> None:
        tasks: list[asyncio.Task[None]] = []
        try:
            while True:
                while run.ready:
                    tasks.append(asyncio.ensure_future(self.work(run, *run.taken())))
                if not run.out:
                    return
                run.back(*await self.next(run))
        finally:
            await self.leave(tasks)

    async def leave(self, tasks: list[asyncio.Task[None]]) -> None:
        """What becomes of tasks that are not done."""


@breaks("FLO-23")
class DoesNotWaitForItsNodes(HandAsync):
    """The tasks are cancelled, and the caller goes on before they have come to their end."""

    backends = ("asyncio",)

    class Flow(ByTasks):
        async def leave(self, tasks: list[asyncio.Task[None]]) -> None:
            for task in tasks:
                task.cancel()


@breaks("FLO-23", "FLO-32")
class NodesOfNobody(HandAsync):
    """The tasks are created and never tied to the caller: cancelling it doesn't reach them."""

    backends = ("asyncio",)

    class Flow(ByTasks):
        pass


@breaks("FLO-30")
class AsyncioBesideTrio(HandAsync):
    """Async nodes are run on an asyncio loop in a helper thread, whatever loop the caller is on."""

    backends = ("trio",)

    class Flow(AsyncEngine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.loop = asyncio.new_event_loop()
            self.thread = threading.Thread(target=self.loop.run_forever, name="hand loop", daemon=True)
            self.thread.start()

        async def call(self, run: Running, node: Node, upstream: Mapping[str, Any]) -> Outcome[Any]:
            if node.kind == "blocking":
                return await self.in_thread(run, node, upstream)
            async with run.limiter:
                return await self.elsewhere(node.body.aio(run.input, upstream), node.id)

        async def elsewhere(self, awaitable: Any, id: str) -> Outcome[Any]:
            """Await it on the other loop; a cancellation is passed on and its end waited for."""
            import trio

            over, token = trio.Event(), trio.lowlevel.current_trio_token()
            outcomes: list[Outcome[Any]] = []
            tasks: list[asyncio.Task[None]] = []

            async def work() -> None:
                try:
                    outcomes.append(Ok(await awaitable, id=id))
                except BaseException as error:
                    outcomes.append(Failed(error, id=id))
                token.run_sync_soon(over.set)

            self.loop.call_soon_threadsafe(lambda: tasks.append(self.loop.create_task(work())), context=copy_context())
            try:
                await over.wait()
            except trio.Cancelled:
                self.loop.call_soon_threadsafe(lambda: tasks[0].cancel())  # noqa: PLW0108 - there may be none yet
                with trio.CancelScope(shield=True):
                    await over.wait()
                raise
            return outcomes[0]

        async def close(self) -> None:
            await super().close()
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self.loop.stop)
                self.thread.join()
                self.loop.close()


@breaks("FLO-31", "FLO-32")
class WaitsForASlotOnALock(HandAsync):
    """Slots are counted by a semaphore for threads, on which the loop itself waits, and doesn't hear of a cancellation."""

    backends = ("asyncio",)
    without = frozenset({"mixed", "resize"})

    class Flow(ThreadedEngine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.slots = threading.Semaphore(self.limit)
            self.pool = ThreadPoolExecutor(self.limit)

        async def in_thread(self, run: Running, node: Node, upstream: Mapping[str, Any]) -> Outcome[Any]:
            await anyio.lowlevel.checkpoint()
            self.slots.acquire()
            submitted = self.pool.submit(copy_context().run, self.in_slot, run, node, upstream)
            with anyio.CancelScope(shield=True):
                await asyncio.wait([asyncio.wrap_future(submitted)])
            return submitted.result()

        def in_slot(self, run: Running, node: Node, upstream: Mapping[str, Any]) -> Outcome[Any]:
            """On a thread: run the body and give the slot back."""
            try:
                return Ok(node.body(run.input, upstream), id=node.id)
            except BaseException as error:
                return Failed(error, id=node.id)
            finally:
                self.slots.release()

        async def close(self) -> None:
            await super().close()
            self.pool.shutdown()


@breaks("FLO-07", "FLO-32")
class CancelledNodesKeepTheirSlot(HandAsync):
    """A slot is given back behind the `await`, where nobody comes by who was cancelled."""

    backends = ("asyncio",)

    class Flow(AsyncEngine):
        lost = 0

        async def call(self, run: Running, node: Node, upstream: Mapping[str, Any]) -> Outcome[Any]:
            try:
                return await super().call(run, node, upstream)
            except anyio.get_cancelled_exc_class():
                if self.limiter.total_tokens > 1:
                    self.limiter.total_tokens -= 1
                raise
