"""Wrong about what dispatches left behind."""

from __future__ import annotations

import asyncio

from flowcheck_reference.broken.looppool._sound import AsyncEngine, Drained, Engine, Plain, PlainAsync, Warm
from pytest_flowcheck.protocols import breaks


@breaks("LOP-05", "LOP-06")
class OneGeneration(Drained):
    """All tasks are cancelled once, as `asyncio.run` does; what their cleanup starts is destroyed with the loop."""

    class Pool(Engine):
        generations = 1

        def close_loop(self, warm: Warm) -> None:
            warm.loop.close()


@breaks("LOP-05")
class ForEver(Drained):
    """While there are tasks, they are cancelled."""

    class Pool(Engine):
        def drain(self, warm: Warm, deadline: float) -> None:
            while tasks := asyncio.all_tasks(warm.loop):
                for task in tasks:
                    task.cancel()
                wait = asyncio.wait(tasks, timeout=None if self.ttl is None else self.limit)
                _, stuck = warm.loop.run_until_complete(wait)
                if stuck:
                    return

        def wait(self, warm: Warm) -> None:
            warm.over.wait()


@breaks("LOP-11")
class WaitsForTheExecutor(PlainAsync):
    """The loop's default executor is waited for, for ever."""

    class Pool(AsyncEngine):
        def end_threads(self, warm: Warm, deadline: float) -> None:
            warm.threads.shutdown(wait=True)

        def wait(self, warm: Warm) -> None:
            warm.over.wait()


@breaks("LOP-12")
class HoldsTheProcess(Plain):
    """The loop's thread is no daemon: the interpreter joins it before anybody can stop it."""

    class Pool(Engine):
        daemon = False
