"""An opened instance of the subject, in one of two colours, seen by rules in none.

with ...          every call is made on a plain thread of its own         Blocking
async with ...    one loop enters, runs every call as a task, and leaves   Looping, on asyncio or trio
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

from pytest_flowcheck.errors import AdapterError, NotTestable
from pytest_flowcheck.probes.calls import Call, LoopCall, ThreadCall, absence, blocking_value
from pytest_flowcheck.proof import pollers

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab

T = TypeVar("T")

Colour = Literal["blocking", "async"]


def colour_of(opened: object, spec: str) -> Colour:
    """Read off what an opener gave.

    Raises:
        AdapterError: it is no context manager.
    """
    if hasattr(opened, "__enter__") and hasattr(opened, "__exit__"):
        return "blocking"
    if hasattr(opened, "__aenter__") and hasattr(opened, "__aexit__"):
        return "async"
    raise AdapterError(
        f"{spec} gave an object of type {type(opened).__name__}; expected a context manager, or an async one, that gives "
        "a fresh instance"
    )


def on_a_loop() -> bool:
    """Whether the code that calls runs in a coroutine of this thread's loop."""
    if (trio := sys.modules.get("trio")) is not None and trio.lowlevel.in_trio_run():
        return True
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class Instance(Protocol):
    """What rules ask. Calls may overlap; each runs in a copy of the asking thread's context."""

    raw: Any
    """The subject's own object, for bodies that call back into it."""
    colour: Colour

    def start(self, what: str, ask: Callable[[Any], Any]) -> Call[Any]:
        """Begin `ask(raw)`; `what` names the call in messages."""
        ...


@contextmanager
def opened(lab: Lab, manager: Any, spec: str, backend: str) -> Generator[Instance]:
    """Enter a fresh instance and leave it: on the rule's own thread, or on a loop of the kit's own.

    Raises:
        AdapterError: it is no context manager.
        NotTestable: the loop library is not installed.
    """
    if colour_of(manager, spec) == "blocking":
        with Blocking(lab, manager) as blocking:
            yield blocking
    elif backend == "trio":
        with TrioLoop(lab, manager) as looping:
            yield looping
    else:
        with AsyncioLoop(lab, manager) as looping:
            yield looping


class Blocking:
    """Opened by `with`: calls come from plain threads."""

    colour: Colour = "blocking"

    def __init__(self, lab: Lab, manager: AbstractContextManager[Any]) -> None:
        self._lab, self._manager = lab, manager
        self.raw: Any = None

    def __enter__(self) -> Self:
        self.raw = self._manager.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._manager.__exit__(None, None, None)
        self.raw = None

    def start(self, what: str, ask: Callable[[Any], Any]) -> Call[Any]:
        raw = self.raw
        return ThreadCall(
            self._lab,
            what,
            lambda: blocking_value(what, ask(raw)),
            lambda error, opener=self._lab.facet: absence(error, raw, opener, ask),  # type: ignore[misc]
        )


class Looping:
    """Opened by `async with`, on a loop that runs on a thread of the subject.

    Guarantees: one task enters and leaves; each call is a task of its own beside it; calls that are still under way
    when the instance is left are cancelled first, unless `finish` waited for them.
    """

    colour: Colour = "async"
    backend = ""

    def __init__(self, lab: Lab, manager: AbstractAsyncContextManager[Any]) -> None:
        self._lab, self._manager = lab, manager
        self.raw: Any = None
        self._calls: list[LoopCall[Any]] = []
        self._ready, self._over = threading.Event(), threading.Event()
        self._failed: BaseException | None = None
        context = copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._run,), daemon=True, name=f"the kit's {self.backend} loop"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(self, *exc_info: object) -> None:
        for call in self._calls:
            if not call.done:
                call.cancel()
        self._leave()
        self._over.wait()
        self._thread.join()
        self.raw = None
        if self._failed is not None and exc_info[0] is None:
            raise self._failed

    def start(self, what: str, ask: Callable[[Any], Any]) -> Call[Any]:
        raw = self.raw
        call: LoopCall[Any] = LoopCall(
            self._lab,
            what,
            lambda: ask(raw),
            lambda error, opener=self._lab.facet: absence(error, raw, opener, ask),  # type: ignore[misc]
        )
        self._calls = [c for c in self._calls if not c.done]
        self._calls.append(call)
        self._spawn(call)
        return call

    def _run(self) -> None:
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001 - whatever entering or leaving raises is the rule's to judge
            self._failed = error
        finally:
            self._ready.set()
            self._over.set()

    def _serve(self) -> None:
        raise NotImplementedError

    def _spawn(self, call: LoopCall[Any]) -> None:
        raise NotImplementedError

    def _leave(self) -> None:
        raise NotImplementedError


class AsyncioLoop(Looping):
    """On asyncio."""

    backend = "asyncio"

    def _serve(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.set_exception_handler(self._note)
        try:
            self._left = asyncio.Event()
            main = self._loop.create_task(self._main())
            while not main.done():
                try:
                    self._loop.run_until_complete(main)
                except (SystemExit, KeyboardInterrupt):
                    # a task of the subject raised it, and asyncio stops the loop for that: the rule's call has it too
                    if main.done():
                        raise
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            # tasks that the subject left behind are what rules look for: they are let go with the loop, unawaited
            self._loop.close()

    async def _main(self) -> None:
        async with self._manager as self.raw:
            self._ready.set()
            await self._left.wait()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._lab.on_loops.append(f"asyncio: {context.get('message')}{f': {error!r}' if error is not None else ''}")

    def _spawn(self, call: LoopCall[Any]) -> None:
        self._loop.call_soon_threadsafe(self._start, call)

    def _start(self, call: LoopCall[Any]) -> None:
        task = self._loop.create_task(call.run(), context=call.context, name=call.what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        call.cancellable_by(lambda: self._soon(task.cancel))

    def _soon(self, do: Callable[[], object]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(do)

    def _leave(self) -> None:
        self._soon(self._left.set)


class TrioLoop(Looping):
    """On trio."""

    backend = "trio"

    def __enter__(self) -> Self:
        try:
            import trio  # noqa: F401  # pyright: ignore[reportUnusedImport]
        except ImportError:
            raise NotTestable("trio is not installed: pip install trio") from None
        return super().__enter__()

    def _serve(self) -> None:
        import trio

        self._left, self._drained = trio.Event(), trio.Event()
        self._running: set[LoopCall[Any]] = set()
        with pollers.known_loop() as rest:
            instrument: Any = Rest(rest)
            trio.run(self._main, instruments=[instrument])

    async def _main(self) -> None:
        import trio

        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as self._nursery, self._manager as self.raw:
            self._ready.set()
            await self._left.wait()
            if self._running:
                await self._drained.wait()

    def _spawn(self, call: LoopCall[Any]) -> None:
        self._token.run_sync_soon(lambda: call.context.run(self._start, call))

    def _start(self, call: LoopCall[Any]) -> None:
        self._running.add(call)
        self._nursery.start_soon(self._guard, call, name=call.what)

    async def _guard(self, call: LoopCall[Any]) -> None:
        import trio

        with trio.CancelScope() as scope:
            call.cancellable_by(lambda: self._soon(scope.cancel))
            try:
                await call.run()
            finally:
                self._running.discard(call)
                if self._left.is_set() and not self._running:
                    self._drained.set()

    def _soon(self, do: Callable[[], object]) -> None:
        import trio

        try:
            self._token.run_sync_soon(do)
        except trio.RunFinishedError:
            return  # it is over, and the call with it

    def _leave(self) -> None:
        self._soon(self._left.set)


class Rest:
    """A trio instrument that knows whether the loop waits for events only.

    trio never waits longer than a day at a time. That its timed wait ends nothing, because no task has a deadline, only
    the loop itself can say.
    """

    def __init__(self, rest: Callable[[bool], None]) -> None:
        self._rest = rest

    def before_io_wait(self, timeout: float) -> None:
        """Called by trio on its thread."""
        import math

        import trio

        self._rest(timeout > 0 and math.isinf(trio.lowlevel.current_statistics().seconds_to_next_deadline))

    def after_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's signature
        """Called by trio on its thread."""
        self._rest(False)
