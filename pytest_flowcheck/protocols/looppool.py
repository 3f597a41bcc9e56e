"""looppool (LOP): coroutines run on a worker's event loop that is kept warm for a while."""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar

from pytest_flowcheck.protocols._body import AwaitableOrValue, Body, Opened

T = TypeVar("T")

CAPABILITIES: Final = {
    "context": "a dispatched coroutine sees its caller's context variables",
    "drain": "what dispatches left behind is ended over successive generations; endless respawning is cut off and reported",
    "nested": "a dispatch from within a dispatched coroutine runs, or is refused",
    "resources": "`acquire`, `release` and `clear`: keyed, reference-counted resources beside `dispatch`",
    "ttl": "an idle loop is kept `ttl` seconds and then reaped by itself",
}
"""The optional capabilities of this facet, and what each promises: the only list of them."""

READ_OFF: Final = {
    "async": "opened by `async with`; `dispatch` is awaited on the caller's loop, which is never the worker's",
}
"""Capabilities that nobody claims: they are read off the opened instance."""

TRAITS: Final[dict[str, str]] = {}

DECLARES: Final[dict[str, tuple[str, ...]]] = {
    "after_stop": ("raise", "reopen"),
    "clear": ("when_released", "at_once"),
}
"""Choices that rules take *as declared*, the default first. `after_stop`: what a dispatch after `stop` does (LOP-04).
`clear`: when it finalises a resource that somebody holds (LOP-14)."""

OPENS: Final[dict[str, Any]] = {"ttl": None}
"""Arguments with which the colour of an instance is read off."""


class LoopPool(Protocol):
    def dispatch(self, body: Body[[], T]) -> AwaitableOrValue[T]:
        """Await `body.aio()` on the worker's loop and give its value or its error (LOP-01, 07, 08, 19, 20).

        The loop runs on a thread of the pool, in this process. Raises: Closed or Refused during or after `stop` (LOP-04,
        09); a cancellation, asyncio's or that of `concurrent.futures`, where the pool cancelled it (LOP-16).
        """
        ...

    def stop(self) -> AwaitableOrValue[Any]:
        """Reap now, and take no more: residual tasks are cancelled and drained, async generators and the loop's default
        executor shut down, the loop closed, its thread ended (LOP-04, 05, 06, 11). Any number of times, from any thread,
        from inside a dispatched coroutine as well (LOP-17).

        What could not be ended is reported: by an exception, a value that isn't None, a warning or a log record (LOP-05).
        """
        ...


class Lease(Protocol):
    """Somebody's hold of a resource."""

    @property
    def value(self) -> Any:
        """What `make` gave: falsy values are values."""
        ...


class Resources(LoopPool, Protocol):
    """`[resources]`"""

    def acquire(self, key: str) -> AwaitableOrValue[Lease]:
        """The resource of this key, made by `make(key)` unless it is there (LOP-14, 15). Raises what `make` raised."""
        ...

    def release(self, lease: Lease) -> AwaitableOrValue[None]:
        """Give it back; once nobody holds it, it is idle, and finalised `ttl` seconds later. One that was cleared or
        stopped meanwhile may be released, too (LOP-14)."""
        ...

    def clear(self) -> AwaitableOrValue[Any]:
        """Finalise what is idle, forget the rest: whoever acquires then gets a new one. What is held is finalised when
        its last holder releases it, or at once, as declared (LOP-14)."""
        ...


class Opener(Protocol):
    """`subject.looppool`.

    `ttl`: seconds for which an idle loop, or resource, is kept; 0 reaps at once; None keeps it until `stop`. A number only
    where `[ttl]` is claimed. `limit`: seconds for which a reap or `stop` waits for what does not end, such as a task's
    cleanup or a thread of the loop's default executor; asked for by LOP-09 and LOP-11 alone. None: as the pool has it.
    `make(key)` and `finalize(value)`: only where `[resources]` is claimed; on the pool's loop, or threads, as it likes.
    """

    def __call__(
        self,
        *,
        ttl: float | None,
        limit: float | None = None,
        make: Body[[str], Any] | None = None,
        finalize: Body[[Any], None] | None = None,
    ) -> Opened[LoopPool]: ...
