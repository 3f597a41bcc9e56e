"""Wrong at stop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from flowcheck_reference.broken.looppool._sound import Engine, Plain, Warm
from pytest_flowcheck.protocols import breaks


@breaks("LOP-04")
class LeavesTheThread(Plain):
    """Stop drains the loop and refuses what comes; the thread stays, with the loop open."""

    class Pool(Engine):
        def close_loop(self, warm: Warm) -> None:
            if not self.stopped:
                super().close_loop(warm)
                return
            warm.over.set()
            asyncio.set_event_loop(None)
            threading.Event().wait()

        def wait(self, warm: Warm) -> None:
            warm.over.wait()


@breaks("LOP-16")
class CallersAreForgotten(Plain):
    """Stop closes the loop under coroutines that wait for something; their callers wait on."""

    class Pool(Engine):
        def drain(self, warm: Warm, deadline: float) -> None:
            if self.stopped and len(warm.tasks) > 2:

                async def turn() -> None:
                    """Whatever can go on goes on."""

                warm.loop.run_until_complete(turn())
                for task in warm.tasks:  # what is suspended is destroyed with the loop
                    forgotten: Any = task
                    forgotten._log_destroy_pending = False
                    asyncio._unregister_task(task)
                warm.futures.clear()
            super().drain(warm, deadline)


@breaks("LOP-17")
class JoinsItself(Plain):
    """Stop waits for the loop to be over, wherever it is called."""

    class Pool(Engine):
        def stop_now(self) -> None:
            with self.lock:
                self.stopped = True
                warms = list(self.all)
                for warm in warms:
                    self.retire(warm)
            for warm in warms:
                warm.over.wait()
