"""A call into the subject that is under way: on a thread of its own, or as a task of the subject's loop.

Rules see only this: it is done or not, it has a result or an error, and it can be waited for by proof.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pytest_flowcheck.errors import AdapterError, NotTestable, Violated
from pytest_flowcheck.protocols import Inexpressible, Unsupported

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab

T = TypeVar("T")


def is_cancellation(error: BaseException | None) -> bool:
    """Whether it is how a loop library cancels a task: `asyncio.CancelledError` or `trio.Cancelled`."""
    return any(
        (c.__module__.partition(".")[0], c.__name__) in {("asyncio", "CancelledError"), ("trio", "Cancelled")}
        for c in type(error).__mro__
    )


def reachable(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that can be reached from it by `__cause__`, `__context__` and `exceptions`, each once."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        found = todo.pop(0)
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        todo += [found.__cause__, found.__context__, *getattr(found, "exceptions", ())]


def _kind(error: BaseException | None) -> str:
    return type(error).__name__ if error is not None else ""


def _named(error: BaseException) -> str:
    """Like `repr`, but short for trio's cancellation, which tells its whole story."""
    return type(error).__name__ if is_cancellation(error) else repr(error)


class Call(Generic[T]):
    """One call. `what` reads as in 'shutdown(wait=True)'."""

    def __init__(self, lab: Lab, what: str) -> None:
        self.what = what
        self._lab = lab
        self._raised: BaseException | None = None
        self._value: list[T] = []

    @property
    def returned(self) -> bool:
        """It came back with a value."""
        return bool(self._value)

    @property
    def done(self) -> bool:
        """It returned or raised."""
        return bool(self._value) or self._raised is not None

    @property
    def error(self) -> BaseException | None:
        """What it raised; None while it runs, and if it returned.

        Raises:
            NotTestable: the subject's terms can't express what was asked of it (`Inexpressible`).
            Violated: it does not offer what was asked of it (`Unsupported`).
        """
        if isinstance(self._raised, Inexpressible):
            raise NotTestable(f"the subject can't express it: {self._raised}")
        if isinstance(self._raised, Unsupported):
            raise Violated(
                f"{self.what}: the subject does not offer it: {self._raised}",
                expected="what the rule asks for is offered, or its capability is not claimed",
                proof="the adapter says so",
            )
        return self._raised

    @property
    def value(self) -> T:
        """What it returned, once `returned`."""
        return self._value[0]

    def join(self) -> Call[T]:
        """Wait until it is over; the rule reads HUNG if it provably never is."""
        self._lab.until(lambda: self.done, f"{self.what} comes back", hung=True)
        return self

    def result(self) -> T:
        """What it returned; raises what it raised; HUNG if it provably never does either."""
        self.join()
        if self.error is not None:
            raise self.error
        return self._value[0]

    def cancel(self) -> None:
        """Cancel it as its loop cancels a task.

        Raises:
            NotTestable: it runs on a thread, which nobody can cancel.
        """
        raise NotTestable(f"{self.what} runs on a thread, which can't be cancelled")

    def _began(self, *, coroutine: bool = False) -> None:
        self._lab.timeline.aside("called", self.what, coroutine=coroutine)

    def _finish(self, value: T | None, error: BaseException | None, *, coroutine: bool = False) -> None:
        timeline = self._lab.timeline
        timeline.aside("failed" if error is not None else "returned", self.what, coroutine=coroutine, detail=_kind(error))
        if error is not None:
            self._raised = error
        else:
            self._value.append(value)  # type: ignore[arg-type]
        timeline.append("note", f"{self.what} {'returned' if error is None else f'raised {_named(error)}'}")


class ThreadCall(Call[T]):
    """A call on a thread of its own, in the context of whoever asked for it."""

    def __init__(self, lab: Lab, what: str, function: Callable[[], T]) -> None:
        super().__init__(lab, what)
        self._function = function
        run = copy_context().run
        self.thread = threading.Thread(target=run, args=(self._run,), daemon=True, name=f"caller: {what}")
        self.thread.start()

    def _run(self) -> None:
        function = self._function
        del self._function  # what it refers to must not outlive the call: rules about remains would see it
        self._began()
        try:
            value = function()
        except BaseException as error:  # noqa: BLE001 - whatever the subject raises is what the rule asks about
            self._finish(None, error)
        else:
            self._finish(value, None)


class LoopCall(Call[T]):
    """A call that runs as a task of the instance's loop; `instance.Looping` starts it there."""

    def __init__(self, lab: Lab, what: str, function: Callable[[], Any]) -> None:
        super().__init__(lab, what)
        self.context = copy_context()
        self._function = function
        self._cancel: Callable[[], None] | None = None
        self._stopped = False
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Cancel its task: asyncio's `task.cancel()` once, or trio's cancel scope."""
        with self._lock:
            self._stopped = True
            cancel = self._cancel
        if cancel is not None:
            cancel()

    def cancellable_by(self, cancel: Callable[[], None]) -> None:
        """The loop says how its task is cancelled, from any thread."""
        with self._lock:
            self._cancel = cancel
            late = self._stopped
        if late:
            cancel()

    async def run(self) -> None:
        """On the loop: make the call, await what can be awaited, keep how it ended.

        Raises only what the loop itself must see: its own cancellation.
        """
        function = self._function
        del self._function
        self._began(coroutine=True)
        try:
            value = function()
            if hasattr(value, "__await__"):
                value = await value
        except BaseException as error:
            self._finish(None, error, coroutine=True)
            if is_cancellation(error):
                raise
        else:
            self._finish(value, None, coroutine=True)


def blocking_value(what: str, value: T) -> T:
    """The value of a call into a blocking instance.

    Raises:
        AdapterError: it is an awaitable: nothing has run.
    """
    if hasattr(value, "__await__"):
        if callable(close := getattr(value, "close", None)):
            close()  # a coroutine that is never awaited would warn somewhere else
        raise AdapterError(
            f"{what} gave an awaitable, but the instance was opened by `with`: open it by an async context manager, "
            "or return the value"
        )
    return value
