"""Wrong in what stays."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any

from flowcheck_reference.broken.fanout._sound import AsyncEngine, Engine, Run, Sound, SoundAsync
from pytest_flowcheck.protocols import breaks


@breaks("FAN-17")
class RemembersEveryRun(Sound):
    """A list of all runs, for a report that nobody asks for."""

    class Fanout(Engine):
        def __init__(self) -> None:
            self.runs: list[Run] = []

        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            run = super().begin(body, items, max_concurrency, keep_going)
            self.runs.append(run)
            return run


@breaks("FAN-17")
class AHelperPerCall(Sound):
    """Each call starts a helper thread and forgets it."""

    class Fanout(Engine):
        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            threading.Thread(target=threading.Event().wait, name="helper", daemon=True).start()
            return super().begin(body, items, max_concurrency, keep_going)


@breaks("FAN-17")
class ATaskPerCall(SoundAsync):
    """Each call leaves a task behind that waits for news."""

    backends = ("asyncio",)

    class Fanout(AsyncEngine):
        def __init__(self) -> None:
            self.tasks: list[asyncio.Task[Any]] = []

        def begin(self, body: Any, items: Iterable[Any], max_concurrency: Any, keep_going: bool) -> Run:
            self.tasks.append(asyncio.ensure_future(asyncio.Event().wait()))
            return super().begin(body, items, max_concurrency, keep_going)
