"""fanout (FAN): one body over many items, at most so many at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

from pytest_flowcheck.protocols._body import AwaitableOrValue, Body, Opened
from pytest_flowcheck.protocols._outcome import Outcome

S = TypeVar("S")
T = TypeVar("T")

CAPABILITIES: Final = {
    "halt": "a body that raises `Halt` stops the fan-out; the results are the prefix that ends with it",
    "continue": "with `continue_on_error` a failure (`Halt('failed')` with `halt`, else any Exception) stops nothing",
    "coerce": "odd values of `max_concurrency` run sequentially; '4' and 4.0 count as 4",
    "lazy": "an unbounded iterator is read no further than the window",
    "nested": "an item may itself fan out on the same instance",
    "context": "items see the caller's context variables",
}
"""The optional capabilities of this facet, and what each promises: the only list of them."""

READ_OFF: Final = {"async": "opened by `async with`; items are awaited on the caller's loop"}
"""Capabilities that nobody claims: they are read off the opened instance."""

TRAITS: Final[dict[str, str]] = {}

DECLARES: Final[dict[str, tuple[str, ...]]] = {"escape": ("itself", "group")}
"""Choices that rules take *as declared*, the default first. `escape`: an exception that escapes is raised itself, or
inside an ExceptionGroup (FAN-11)."""

OPENS: Final[dict[str, Any]] = {}
"""Arguments with which the colour of an instance is read off."""


class Fanout(Protocol):
    """Runs a body once for each item; many calls, also at once, share it."""

    def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> AwaitableOrValue[Sequence[Outcome[T]]]:
        """`body(item)` for each; the outcomes in item order (FAN-01..06, 12, 13, 21).

        `max_concurrency` is mostly an int; FAN-05 and FAN-22 pass None, "4", nan and worse.
        `[halt]` a body that raises `Halt` halts it: the answer is the prefix that ends with that item's `Failed`
        (FAN-07..09). `[continue]` with `continue_on_error` the answer is whole, a `Failed` in each slot that failed: by
        `Halt('failed')` where `halt` is claimed, else by any Exception (FAN-10).
        Raises: any other exception of a body, once nothing runs any more (FAN-11, 19); the iterator's own (FAN-18).
        """
        ...


class Opener(Protocol):
    """`subject.fanout`."""

    def __call__(self) -> Opened[Fanout]: ...
