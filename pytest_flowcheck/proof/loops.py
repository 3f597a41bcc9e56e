"""Event loops that somebody left behind: found since a mark, told with who made them, and reaped.

    with LoopWatch() as watch:
        mark = watch.mark()
        ...                          # a test
        left = watch.left(mark)      # loops made since then that are not closed, and tasks that are not done
        stuck = watch.reap(left)     # drained, stopped, closed; what resisted, a line for each

A watch records each loop of asyncio and uvloop as it is made, by a weak reference, with the line that made it; so a look
that finds nothing costs some microseconds, however many objects the process has. Loops of other makes are not seen.

The drain goes over generations: all tasks are cancelled and waited for, those that their cleanup started as well, and so
on, up to a bound. `asyncio.run` knows one generation; see LOP-05.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Any, Final, Self, cast

GENERATIONS: Final = 100
"""Cleanup that starts tasks whose cleanup starts tasks: so often, and no more."""


@dataclass(frozen=True, eq=False)
class LeftLoop:
    """A loop that was not closed, or an older one on which tasks were left."""

    loop: asyncio.AbstractEventLoop
    made_at: str
    """File, line and function, the nearest that is not asyncio's own."""
    thread: threading.Thread | None
    """On which it runs; None: it doesn't, or it is stuck and can't tell."""
    tasks: tuple[asyncio.Task[Any], ...]
    """Those that are not done, and were not there at the mark."""
    older: bool
    """It was there at the mark: only the tasks were left."""

    def __str__(self) -> str:
        if self.thread is not None:
            where = f"runs on thread '{self.thread.name}'"
        else:
            where = "runs on a thread that is stuck" if self.loop.is_running() else "is not running, and not closed"
        tasks = "; ".join(f"task '{task.get_name()}' ({_coroutine(task)})" for task in self.tasks)
        return f"event loop made at {self.made_at} {where}{': ' if tasks else ''}{tasks}"


@dataclass(frozen=True)
class Mark:
    """A moment: loops and tasks that are there now are nobody's leftovers."""

    number: int
    tasks: frozenset[weakref.ref[asyncio.Task[Any]]] = field(repr=False)


@dataclass(frozen=True, eq=False)
class _Made:
    number: int
    loop: weakref.ref[asyncio.AbstractEventLoop]
    at: str


class LoopWatch:
    """Records the loops that are made while it is entered. Any number of them may be, in any order.

    Guarantees: it holds no loop and no task; entering and leaving wraps and restores the `__init__` of loop classes, and
    changes nothing else.
    """

    def __init__(self) -> None:
        self._numbers = count(1)
        self._last = 0
        self._made: list[_Made] = []

    def __enter__(self) -> Self:
        with _lock:
            _watches.append(self)
            _wrap()
        return self

    def __exit__(self, *_: object) -> None:
        with _lock:
            _watches.remove(self)
            if not _watches:
                _unwrap()

    def record(self, loop: asyncio.AbstractEventLoop, at: str) -> None:
        """A loop was made."""
        self._last = next(self._numbers)
        self._made.append(_Made(self._last, weakref.ref(loop), at))

    def recall(self) -> None:
        """Record the loops that were made before it was entered: nobody's leftovers, but what is left on them is. Slow."""
        known, loops = {id(loop) for _, loop in self._open()}, tuple(_classes())
        for thing in gc.get_objects():
            if issubclass(type(thing), loops) and id(thing) not in known:  # `isinstance` may call into things
                self.record(thing, "a place that nobody watched")

    def mark(self) -> Mark:
        """Now."""
        if "uvloop" in sys.modules and len(_wrapped) < 2:  # it was imported meanwhile
            with _lock:
                _wrap()
        tasks = [weakref.ref(task) for _, loop in self._open() for task in asyncio.all_tasks(loop)]
        return Mark(self._last, frozenset(tasks))

    def left(self, mark: Mark) -> list[LeftLoop]:
        """What was left behind since then: in the order in which the loops were made. The loop that runs on the calling
        thread is in use, and no leftover, nor are its tasks."""
        found: list[LeftLoop] = []
        mine = asyncio._get_running_loop()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
        for made, loop in self._open():
            if loop is mine:
                continue
            older = made.number <= mark.number
            tasks = [task for task in _tasks(loop) if weakref.ref(task) not in mark.tasks]
            if tasks or not older:
                found.append(LeftLoop(loop, made.at, _thread(loop), tuple(tasks), older))
        return found

    def reap(self, left: Iterable[LeftLoop], *, limit: float = 5.0) -> list[str]:
        """Drain what was left, stop and close the loops, wait for their threads. Of older loops only the tasks are ended.

        Args:
            left: what `left` gave.
            limit: seconds for each of them.

        Returns:
            What could not be ended, a line for each.
        """
        return [line for one in left for line in _reap(one, limit)]

    def _open(self) -> list[tuple[_Made, asyncio.AbstractEventLoop]]:
        """Those that are not closed; the others are forgotten."""
        if not self._made:
            return []
        known = [(made, made.loop()) for made in self._made]
        there = [(made, loop) for made, loop in known if loop is not None and not loop.is_closed()]
        if len(there) < len(known):
            self._made = [made for made, _ in there] + self._made[len(known) :]  # one may have come meanwhile
        return there


# --- the record -------------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_watches: list[LoopWatch] = []
_wrapped: dict[type, Callable[..., None]] = {}
"""Classes of loops, and what their `__init__` was, which somebody else may have wrapped before."""


def _classes() -> list[Any]:
    uvloop: Any = sys.modules.get("uvloop")
    return [asyncio.BaseEventLoop, *([uvloop.Loop] if uvloop is not None else [])]


def _wrap() -> None:
    for loops in _classes():
        if loops not in _wrapped:
            _wrapped[loops] = loops.__init__
            loops.__init__ = _recording(loops.__init__)


def _recording(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: asyncio.AbstractEventLoop, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it is one
        original(self, *args, **kwargs)
        at = _site()
        for watch in tuple(_watches):
            watch.record(self, at)

    return __init__


def _unwrap() -> None:
    while _wrapped:
        loops, original = cast("tuple[Any, Callable[..., None]]", _wrapped.popitem())
        loops.__init__ = original


def _site() -> str:
    """Who makes the loop: the nearest frame that isn't asyncio's, uvloop's or this module's."""
    frame = sys._getframe(1)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    loops = [Path(sys.modules[name].__file__ or "") for name in ("asyncio", "uvloop") if name in sys.modules]
    own = (__file__, *(str(path.parent) for path in loops))
    while frame.f_back is not None and frame.f_code.co_filename.startswith(own):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"


def _thread(loop: asyncio.AbstractEventLoop) -> threading.Thread | None:
    """On which it runs. uvloop's don't tell, but by running something there: None as well if that comes to nothing."""
    ident = cast("int | None", getattr(loop, "_thread_id", None))
    if ident is None and loop.is_running():
        told: list[int] = []
        over = threading.Event()

        def tell() -> None:
            told.append(threading.get_ident())
            over.set()

        with suppress(RuntimeError):  # it was closed this moment
            loop.call_soon_threadsafe(tell)
            over.wait(1.0)
        ident = told[0] if told else None
    return next((t for t in threading.enumerate() if t.ident == ident), None) if ident is not None else None


def _tasks(loop: asyncio.AbstractEventLoop) -> list[asyncio.Task[Any]]:
    return sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())


def _coroutine(task: asyncio.Task[Any]) -> str:
    coroutine: Any = task.get_coro()
    return str(getattr(coroutine, "__qualname__", coroutine))


# --- the reap ---------------------------------------------------------------------------------------------------------


def _reap(left: LeftLoop, limit: float) -> list[str]:
    """One loop: on its own thread if it runs, else on one of ours."""
    end, over = _End(left, monotonic() + limit), threading.Event()

    async def drain() -> None:
        try:
            await end()
        finally:
            over.set()
            if not left.older:
                left.loop.stop()

    if left.thread is not None or left.loop.is_running():
        with suppress(RuntimeError):  # it was closed this moment
            left.loop.call_soon_threadsafe(lambda: _kept.append(left.loop.create_task(drain())))
            if not over.wait(limit + 1.0):
                return [f"{left}: it does not come round; its thread is stuck"]
            _kept.clear()
        if left.older or left.thread is None:
            return end.stuck
        left.thread.join(limit)
        if left.thread.is_alive():
            return [*end.stuck, f"{left}: its thread goes on without it"]
    elif not left.loop.is_closed():
        # on a thread of its own: the caller's may run another loop, and what is stuck must not take the caller along
        driver = threading.Thread(target=_drive, args=(left.loop, end), daemon=True, name="reaps an event loop")
        driver.start()
        driver.join(limit + 1.0)
        if driver.is_alive():
            return [f"{left}: what is left of it holds its thread"]
    if not left.older and not left.loop.is_closed() and not left.loop.is_running():
        left.loop.close()
    return end.stuck


_kept: list[asyncio.Task[None]] = []
"""A loop holds its tasks weakly."""


def _drive(loop: asyncio.AbstractEventLoop, end: _End) -> None:
    try:
        loop.run_until_complete(end())
    except BaseException as error:  # noqa: BLE001 - a SystemExit of the task that was left behind, say
        end.stuck.append(f"{end.left}: draining it raised {error!r}")


class _End:
    """Generation after generation, then generators; `stuck` says what did not end. Runs on the loop."""

    def __init__(self, left: LeftLoop, deadline: float) -> None:
        self.left, self._deadline = left, deadline
        self.stuck: list[str] = []

    async def __call__(self) -> None:
        mine = {asyncio.current_task()}
        kept = asyncio.all_tasks() - set(self.left.tasks) - mine if self.left.older else set[asyncio.Task[Any]]()
        for _ in range(GENERATIONS):
            tasks = asyncio.all_tasks() - mine - kept
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            _, pending = await asyncio.wait(tasks, timeout=max(0.0, self._deadline - monotonic()))
            if pending:
                break
        for task in asyncio.all_tasks() - mine - kept:
            self.stuck.append(f"{self.left}: task '{task.get_name()}' ({_coroutine(task)}) did not end")
            cast("Any", task)._log_destroy_pending = False  # noqa: SLF001 - it is told here
        if not self.left.older:
            closing = asyncio.ensure_future(self.left.loop.shutdown_asyncgens())
            await asyncio.wait([closing], timeout=max(0.0, self._deadline - monotonic()))
            cast("Any", closing)._log_destroy_pending = False  # noqa: SLF001 - the like
            if isinstance(self.left.loop, asyncio.BaseEventLoop):
                executor = cast("Any", getattr(self.left.loop, "_default_executor", None))
                if executor is not None:
                    executor.shutdown(wait=False, cancel_futures=True)
            else:
                ending = asyncio.ensure_future(self.left.loop.shutdown_default_executor())
                await asyncio.wait([ending], timeout=max(0.0, self._deadline - monotonic()))
                cast("Any", ending)._log_destroy_pending = False  # noqa: SLF001 - the like
