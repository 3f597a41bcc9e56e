"""What several rules of this suite share: bodies that know the loop they run on, and waits that blame the right rule."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import itertools
import logging
import os
import re
import threading
import warnings
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

from pytest_flowcheck.errors import AdapterError, Inconclusive, NotTestable
from pytest_flowcheck.probes.calls import is_cancellation
from pytest_flowcheck.protocols import Closed, Refused

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.probe import Probe

LIMIT: Final = 0.05
"""Seconds for which a reap may wait for what never ends, where a rule asks for that. No rule measures it."""


class BodyError(Exception):
    """A coroutine's own error."""


@dataclass(frozen=True, eq=False)
class Where:
    """The loop and the thread on which a coroutine ran."""

    loop: Any
    """asyncio's loop, or trio's token."""
    thread: threading.Thread

    @property
    def gone(self) -> bool:
        """Reaped: the thread has ended and the loop is closed."""
        return not self.thread.is_alive() and self.closed

    @property
    def closed(self) -> bool:
        """The loop is closed; true where its library can't tell."""
        return not isinstance(self.loop, asyncio.AbstractEventLoop) or self.loop.is_closed()

    def same(self, other: Where) -> bool:
        """Whether it is that very loop, on that very thread."""
        return self.loop is other.loop and self.thread is other.thread

    def __str__(self) -> str:
        return f"loop {id(self.loop):#x} on thread '{self.thread.name}'"


def here() -> Where:
    """Where this coroutine runs."""
    try:
        loop: Any = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        loop = trio.lowlevel.current_trio_token()
    return Where(loop, threading.current_thread())


def asyncio_loop() -> asyncio.AbstractEventLoop:
    """The loop that this coroutine runs on; for what only asyncio has: tasks that nobody awaits, its timers, its threads.

    Raises:
        OtherLoop: it is another library's. The rule is NOT-TESTABLE then.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise OtherLoop("the pool's loops are not asyncio's") from None


class OtherLoop(Exception):  # noqa: N818 - an answer rather than an error
    """A body asked for asyncio, and ran on something else."""


class Pool:
    """An opened pool, and where its dispatches ran.

    `where`: by the name of the dispatch, from its first step on.
    """

    def __init__(self, lab: Lab, it: Instance) -> None:
        self.lab, self.it = lab, it
        self.where: dict[str, Where] = {}
        self._returned: dict[str, Any] = {}
        self._gives, self._stopped = False, False

    @property
    def raw(self) -> Any:
        """The subject's own object."""
        return self.it.raw

    def body(self, name: str, does: Callable[[], Any] | None = None, *, gated: bool = True) -> Probe:
        """A body: notes where it runs, waits at the gate of its name, does its work; else returns its name."""
        return self.lab.probe(name, _Visit(self, name, does, gated), gated=False)

    def came(self, call: Call[Any]) -> Call[Any]:
        """Wait for it without asking for a proof at once: for the many calls of a property. A hang is proven all the same."""
        self.lab.timeline.wait_for(lambda: call.done)
        return call

    def dispatch(self, name: str, does: Callable[[], Any] | None = None, *, gated: bool = True) -> Call[Any]:
        """Begin to dispatch such a body."""
        body, what = self.body(name, does, gated=gated), f"dispatch({name})"
        call = self.it.start(what, lambda pool: pool.dispatch(body))
        return call.giving(lambda gave: self._a_value(name, what, gave))

    def _a_value(self, name: str, what: str, gave: Any) -> None:
        """Raises: AdapterError, where that is certain: what a dispatch gave is not what its coroutine returned.

        None may be lost by the subject, as when `stop` comes in between. It is the adapter's `return` that is missing where
        nobody has asked this pool to stop, and no dispatch has ever given anything else.
        """
        if isinstance(gave, concurrent.futures.Future):
            raise AdapterError(f"{what} gave {gave!r}; expected what its coroutine returns: the future's result()")
        if gave is not None:
            self._gives = True
        elif not self._gives and not self._stopped and self._returned.get(name) is not None:
            raise AdapterError(
                f"{what} gave None, as every dispatch so far; expected what its coroutine returned, "
                f"{self._returned[name]!r}"
            )

    def returned(self, name: str, value: Any) -> None:
        """Said by the coroutine of this dispatch, last of all."""
        self._returned[name] = value

    def stop(self, who: str = "") -> Call[Any]:
        """Begin to stop it."""
        self._stopped = True
        return self.it.start(f"stop(){who}", lambda pool: pool.stop())

    def arrived(self, *names: str) -> bool:
        """Whether these coroutines have begun."""
        return all(name in self.where for name in names)

    def in_flight(self, call: Call[Any], name: str, needs: str | None = "LOP-07") -> Where:
        """Wait until the gated dispatch runs.

        Raises:
            Inconclusive: it never does, because of `needs`.
        """
        self.lab.until(lambda: call.done or self.arrived(name), f"the coroutine of dispatch({name}) runs", needs=needs)
        if not self.arrived(name):
            raise Inconclusive(f"{call.what} ended with {call.error!r} before its coroutine ran", because_of=needs)
        return self.where[name]

    def ran(self, name: str, does: Callable[[], Any] | None = None, *, needs: str = "LOP-01") -> Where:
        """Dispatch a body that isn't gated, and wait until it has returned: where it ran.

        Raises:
            Inconclusive: it never returns, or with something else than its value, because of `needs`.
            NotTestable: it asked for asyncio in vain.
        """
        call = self.dispatch(name, does, gated=False)
        self.lab.until(lambda: call.done, f"{call.what} returns", needs=needs)
        if isinstance(call.error, OtherLoop):
            raise NotTestable(str(call.error))
        if call.error is not None:
            raise Inconclusive(f"{call.what} raised {call.error!r}", because_of=needs)
        value = call.value
        if not self.arrived(name):
            raise AdapterError(f"{call.what} returned {value!r}, and its coroutine never ran in this process")
        return self.where[name]

    def stopped(self, *, needs: str = "LOP-04") -> Call[Any]:
        """Stop it, and wait until that has come back, whatever it says."""
        call = self.stop()
        self.lab.until(lambda: call.done, "stop() comes back", needs=needs)
        return call

    def reaped(self, where: Where, what: str, *, needs: str | None = None, expected: str = "") -> None:
        """Wait until this loop is closed and its thread has ended."""
        if not where.gone:
            self.lab.call(f"the thread of {where}", where.thread.join)  # its end is an event, then
        self.lab.until(
            lambda: where.gone, f"{what}: its thread has ended and its loop is closed", expected=expected, needs=needs
        )


class _Visit:
    """What a body does; see `Pool.body`."""

    def __init__(self, pool: Pool, name: str, does: Callable[[], Any] | None, gated: bool) -> None:
        self._pool, self._name, self._does, self._gated = pool, name, does, gated
        self._gates = pool.lab.gates
        _visits[id(self)] = self

    def __reduce__(self) -> Any:
        return _same_visit, (os.getpid(), id(self))  # engines that pickle within one process get the very same

    async def __call__(self) -> Any:
        self._pool.where[self._name] = here()
        self._pool.lab.timeline.poke()
        if self._gated:
            await self._gates.wait_async(self._name)
        value = self._name if self._does is None else self._does()
        value = await value if inspect.isawaitable(value) else value
        self._pool.returned(self._name, value)
        return value


_visits: WeakValueDictionary[int, _Visit] = WeakValueDictionary()


def _same_visit(pid: int, number: int) -> _Visit:
    if pid != os.getpid():
        raise AdapterError("a pool of loops in other processes can't be judged: its coroutines must run in this one")
    return _visits[number]


@contextmanager
def opened(lab: Lab, ttl: float | None = None, **options: Any) -> Generator[Pool]:
    """A fresh pool."""
    with lab.instance(ttl=ttl, **options) as it:
        yield Pool(lab, it)


def acquire(it: Instance, key: str, when: str = "") -> Call[Any]:
    """Begin to acquire a lease. `when` is added in messages."""
    what = f"acquire({key!r}){when}"
    return it.start(what, lambda pool: pool.acquire(key)).giving(lambda gave: _a_lease(what, gave))


def _a_lease(what: str, gave: Any) -> None:
    """Raises: AdapterError, it is none."""
    if not hasattr(gave, "value"):
        raise AdapterError(f"{what} gave {gave!r}; expected a lease, with what `make` gave as its attribute `value`")


async def awaited(value: Any) -> Any:
    """What a method of the subject gave, in either colour."""
    return await value if inspect.isawaitable(value) else value


def comes_back(lab: Lab, call: Call[Any], what: str, expected: str = "") -> None:
    """Wait until it does; that it never will is the finding."""
    lab.until(lambda: call.done, f"{what} comes back", expected=expected, hung=True)


# --- what a call came to ----------------------------------------------------------------------------------------------


def was_cancelled(error: BaseException | None) -> bool:
    """Whether it is a cancellation: asyncio's, trio's, or that of `concurrent.futures`."""
    return is_cancellation(error) or isinstance(error, concurrent.futures.CancelledError)


def was_refused(lab: Lab, error: BaseException | None) -> bool:
    """Whether the pool said clearly that it does not run this."""
    return lab.is_a(error, Closed) or lab.is_a(error, Refused)


def answered(lab: Lab, call: Call[Any], value: Any) -> bool:
    """Whether it came to its own value, a cancellation, or a refusal."""
    return (call.returned and call.value == value) or was_cancelled(call.error) or was_refused(lab, call.error)


def came_to(call: Call[Any]) -> str:
    """In words."""
    if not call.done:
        return f"{call.what} is under way"
    return f"{call.what} {'returned ' + repr(call.value) if call.error is None else 'raised ' + repr(call.error)}"


# --- what bodies leave behind -----------------------------------------------------------------------------------------


async def turn() -> None:
    """Let the loop come round once."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(_set, future)
    await future


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_leftovers = itertools.count(1)


class Leftover:
    """Tasks that nobody awaits: each, when it is cancelled, starts the next in its cleanup, and sees it begin.

    `generations`: how many there are. `begun` and `cleaned`: those that ran, and those whose cleanup ran to its end.
    `cleanup`: the gate at which the last one's cleanup waits.
    """

    def __init__(self, lab: Lab, generations: int, cleanup: str = "") -> None:
        self._lab, self._generations, self._cleanup, self._gates = lab, generations, cleanup, lab.gates
        self.mark = f"leftover of {next(_leftovers)}"
        """What the names of its tasks begin with, and of nobody else's."""
        self.begun: list[int] = []
        self.cleaned: list[int] = []
        self.in_cleanup = False
        """The last one's has begun."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self) -> str:
        """The body: leaves the first one behind."""
        asyncio_loop()
        await self._start(1)
        return "left a task behind"

    def _start(self, generation: int) -> Awaitable[Any]:
        """The task, and what is done once it runs."""
        running: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._live(generation, running), name=f"{self.mark}: {generation}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return running

    async def _live(self, generation: int, running: asyncio.Future[None]) -> None:
        self.begun.append(generation)
        running.set_result(None)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self._lab.timeline.append("note", f"leftover {generation} cleans up")
            if generation < self._generations:
                await self._start(generation + 1)
            else:
                self.in_cleanup = True
                self._lab.timeline.poke()
                if self._cleanup:
                    await self._gates.wait_async(self._cleanup)
            await turn()
            self.cleaned.append(generation)
            self._lab.timeline.poke()


# --- what is said on the side -----------------------------------------------------------------------------------------


def _one_line(text: str) -> str:
    """What was logged, and the name of the task that it was logged of: the rest of that has the machine's folders in it."""
    of = re.search(r"^task: <Task .*?name='([^']*)'", text, re.MULTILINE)
    return text.partition("\n")[0] + (f" ({of[1]})" if of else "")


class Heard(logging.Handler):
    """Log records of warning level or above, and warnings, while it listens."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []
        self.warned: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        self.records.append(record)

    def of_asyncio(self, mark: str) -> list[str]:
        """What asyncio itself logged, such as 'Task was destroyed but it is pending!', and of which task.

        What an earlier rule left with another pool may be finalised only now: of the kit's own tasks those with this mark count.
        """
        said = [record.getMessage() for record in self.records if record.name == "asyncio"]
        return [_one_line(text) for text in said if f" coro=<{Leftover.__name__}." not in text or f"{mark}:" in text]

    @property
    def warnings(self) -> list[str]:
        """Resources that were not closed, coroutines that were never awaited."""
        kinds = (ResourceWarning, RuntimeWarning)
        return [f"{w.category.__name__}: {w.message}" for w in self.warned if issubclass(w.category, kinds)]

    @property
    def reports(self) -> list[str]:
        """What others than asyncio said."""
        said = [record.getMessage() for record in self.records if record.name != "asyncio"]
        return said + [str(w.message) for w in self.warned if not issubclass(w.category, ResourceWarning)]


@contextmanager
def listening() -> Generator[Heard]:
    """Hear what is logged and warned meanwhile."""
    heard = Heard()
    asyncios, root = logging.getLogger("asyncio"), logging.getLogger()
    with warnings.catch_warnings(record=True) as heard.warned:
        warnings.simplefilter("always")
        root.addHandler(heard)
        propagates, asyncios.propagate = asyncios.propagate, True
        try:
            yield heard
        finally:
            asyncios.propagate = propagates
            root.removeHandler(heard)
