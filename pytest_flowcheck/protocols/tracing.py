"""tracing (TRC): events are handed to a tracer, which delivers them to a sink behind the caller's back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

from pytest_flowcheck.protocols._body import JSON, AwaitableOrValue, Opened

CAPABILITIES: Final = {
    "atexit": "what was emitted is delivered when the process ends, though nobody closed the tracer",
    "fork": "in the child of a fork the tracer works, or says that it doesn't",
}
"""The optional capabilities of this facet, and what each promises: the only list of them."""

READ_OFF: Final = {
    "async": "opened by `async with`; events are emitted by coroutines, and what `flush` and `close` give is awaited",
}
"""Capabilities that nobody claims: they are read off the opened instance."""

TRAITS: Final[dict[str, str]] = {}

DECLARES: Final[dict[str, tuple[str, ...]]] = {
    "after_close": ("raise", "ignore"),
    "loops": ("any", "own"),
}
"""Choices that rules take *as declared*, the default first. `after_close`: an emit after `close` raises Closed, or is ignored
(TRC-07). `loops`: coroutines of any loop may emit, or only those of the loop on which the tracer was opened (TRC-15)."""

OPENS: Final[dict[str, Any]] = {"sink": None}
"""Arguments with which the colour of an instance is read off."""

Event: TypeAlias = Mapping[str, JSON]
"""Flat: its values are texts and numbers. `event["by"]` and `event["n"]` say whose it is, and which; hand over all of it."""


class Sink(Protocol):
    """Where events end: `sink(batch)` on a thread, `await sink.aio(batch)` on a loop. It may be stuck, fail, or emit."""

    def __call__(self, batch: Sequence[Event]) -> None:
        """Deliver these, in this order. Raises: `Exception`, when the rule says so."""
        ...

    async def aio(self, batch: Sequence[Event]) -> None:
        """The same on a loop."""
        ...


class Tracer(Protocol):
    def emit(self, event: Event) -> AwaitableOrValue[Any]:
        """Hand over an event and come back, whatever the sink does (TRC-01, 02, 06, 08, 10, 15, 16, 17).

        Raises: Closed after `close`, unless `after_close` is declared to be "ignore" (TRC-07).
        """
        ...

    def flush(self) -> AwaitableOrValue[Any]:
        """Come back when all that this thread, or task, emitted before is delivered, or lost to a sink that raised; or when
        the limit is over (TRC-03, 08, 13).

        None, True or 0: it is. Else, by another value, an exception, a warning or a log record, it says that it is not.
        """
        ...

    def close(self) -> AwaitableOrValue[Any]:
        """`flush`, and end the dispatcher; any number of times (TRC-03, 11, 13, 18). What it gives is as with `flush`."""
        ...

    def dropped(self) -> int:
        """How many events were given up so far (TRC-02, 06); whether those count that a sink has raised on is the tracer's
        affair. Not awaited."""
        ...


class Opener(Protocol):
    """`subject.tracing`.

    `capacity`: so many events, about, are held for a sink that is stuck, asked for by TRC-06 alone. `limit`: seconds for which
    `flush` and `close` wait for a sink that is stuck, asked for by TRC-13 alone. None: as the tracer has it; best is then no
    limit at all, as rules can prove more where no timer runs.
    """

    def __call__(self, sink: Sink, *, capacity: int | None = None, limit: float | None = None) -> Opened[Tracer]: ...
