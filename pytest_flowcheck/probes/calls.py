"""A call into the subject that is under way: on a thread of its own, or as a task of the subject's loop.

Rules see only this: it is done or not, it has a result or an error, and it can be waited for by proof.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pytest_flowcheck.errors import AdapterError, Judgement, NotTestable, Violated
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


def own_word(error: BaseException) -> BaseException:
    """The error; of a group in which the kit itself or the adapter says something, as task groups raise it: just that.

    A broken adapter goes first, then a judgement, then what the subject's terms can't express.
    """
    parts = list(leaves(error))
    for kind in (AdapterError, Judgement, Inexpressible, Unsupported):
        for leaf in parts:
            if isinstance(leaf, kind):
                return leaf
    return error


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, or the error itself."""
    parts: tuple[BaseException, ...] | None = getattr(error, "exceptions", None)
    if isinstance(error, BaseExceptionGroup) and parts is not None:
        for part in parts:
            yield from leaves(part)
    else:
        yield error


def is_kit(filename: str) -> bool:
    """Ours, or of the library that draws our scenarios; an adapter's code speaks for its subject."""
    path = filename.replace("\\", "/")
    return ("/pytest_flowcheck/" in path and "/adapters/" not in path) or "/hypothesis/" in path


def absence(
    error: BaseException, raw: object, opener: str, ask: Callable[..., Any] | None = None
) -> AdapterError | None:
    """What to say if the error is that the opened instance lacks a method; None if it is another one.

    It must come from the access of the kit, or of `ask` itself: a misspelt attribute inside of a method is no such thing.
    """
    if not isinstance(error, AttributeError) or error.obj is not raw:
        return None
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    while codes and codes[-1].co_name in ("__getattr__", "__getattribute__"):
        codes.pop()
    if not codes or not (is_kit(codes[-1].co_filename) or codes[-1] is getattr(ask, "__code__", None)):
        return None
    return AdapterError(
        f"the instance that {opener}() opened, of type {type(raw).__name__}, has no {error.name}(); "
        "the facet's protocol needs it"
    )


def offered(raw: Any, method: str, opener: str) -> Any:
    """This method of the opened instance, for code that takes what a call raises for the subject's.

    Raises:
        AdapterError: it has none.
    """
    try:
        return getattr(raw, method)
    except AttributeError as error:
        if (fault := absence(error, raw, opener)) is not None:
            raise fault from None
        raise


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
        self._check: Callable[[T], object] | None = None
        self._explain: Callable[[BaseException], BaseException | None] | None = None

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
            AdapterError, Judgement: that is what came out of it, and no rule may take it for the subject's.
        """
        if isinstance(self._raised, AdapterError | Judgement):
            raise self._raised
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
        """What it returned, once `returned`.

        Raises:
            AdapterError: it is not what such a call gives; see `giving`.
        """
        if self._check is not None:
            try:
                self._check(self._value[0])
            except AdapterError as fault:
                self._lab.broken(fault)
                raise
        return self._value[0]

    def giving(self, check: Callable[[T], object]) -> Self:
        """Whoever looks at its value gets an AdapterError if `check` raises one."""
        self._check = check
        return self

    def join(self) -> Call[T]:
        """Wait until it is over; the rule reads HUNG if it provably never is."""
        self._lab.until(lambda: self.done, f"{self.what} comes back", hung=True)
        return self

    def result(self) -> T:
        """What it returned; raises what it raised; HUNG if it provably never does either."""
        self.join()
        if self.error is not None:
            raise self.error
        return self.value

    def cancel(self) -> None:
        """Cancel it as its loop cancels a task.

        Raises:
            NotTestable: it runs on a thread, which nobody can cancel.
        """
        raise NotTestable(f"{self.what} runs on a thread, which can't be cancelled")

    def _began(self, *, coroutine: bool = False) -> None:
        self._lab.timeline.aside("called", self.what, coroutine=coroutine)

    def _finish(self, value: T | None, error: BaseException | None, *, coroutine: bool = False) -> None:
        timeline, explain = self._lab.timeline, self._explain
        self._explain = None  # it refers to the instance
        if error is not None:
            error = (explain(error) if explain is not None else None) or own_word(error)
            error = self._lab.whose(error)
            if isinstance(error, AdapterError):
                self._lab.broken(error)
        timeline.aside(
            "failed" if error is not None else "returned", self.what, coroutine=coroutine, detail=_kind(error)
        )
        if error is not None:
            self._raised = error
        else:
            self._value.append(value)  # type: ignore[arg-type]
        timeline.append("note", f"{self.what} {'returned' if error is None else f'raised {_named(error)}'}")


class ThreadCall(Call[T]):
    """A call on a thread of its own, in the context of whoever asked for it."""

    def __init__(
        self,
        lab: Lab,
        what: str,
        function: Callable[[], T],
        explain: Callable[[BaseException], BaseException | None] | None = None,
    ) -> None:
        super().__init__(lab, what)
        self._function, self._explain = function, explain
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

    def __init__(
        self,
        lab: Lab,
        what: str,
        function: Callable[[], Any],
        explain: Callable[[BaseException], BaseException | None] | None = None,
    ) -> None:
        super().__init__(lab, what)
        self.context = copy_context()
        self._function, self._explain = function, explain
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
