"""What a fan-out decides, whatever its colour: which item may start, and what the whole comes to.

Threads (`_lanes`) and tasks (`_tasks`) drive it. It starts nothing and waits for nothing.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sized
from concurrent.futures import CancelledError
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from logging import Logger
from time import monotonic
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

T = TypeVar("T")

Concurrency: TypeAlias = float | str | None
OnError: TypeAlias = Literal["raise", "continue"]
How: TypeAlias = Literal["failed", "paused", "aborted"]
Status: TypeAlias = Literal["ok", "failed", "paused", "aborted", "cancelled"]

NOTHING: Final[Any] = object()
"""No item is to be had."""


OUTSIDE: Final = -1
"""In the place of an item's index: what stopped the fan-out came from none."""


class Halt(Exception):  # noqa: N818  raised on purpose, by an item that wants the fan-out to end with it
    """Raised by an item: no further item starts, and the results end with this one (FAN-07..09)."""

    def __init__(self, how: How = "failed") -> None:
        if how not in {"failed", "paused", "aborted"}:
            msg = f"how must be 'failed', 'paused' or 'aborted', not {how!r}"
            raise ValueError(msg)
        super().__init__(how)
        self.how: How = how


@dataclass(slots=True)
class Record(Generic[T]):
    """What became of one item.

    `index`: its place among the items, from 0. `value` is set if `status` is "ok", `error` if it is anything else.
    `attempts`: how many were started. `started`, `ended`: `time.monotonic()` of the first attempt's start and of the
    settlement.
    """

    index: int
    status: Status
    value: T | None
    error: BaseException | None
    attempts: int
    started: float
    ended: float

    @property
    def id(self) -> str:
        """Unique in its fan-out, and the same for every concurrency (FAN-25)."""
        return str(self.index)


def records_of(error: BaseException) -> tuple[Record[Any], ...]:
    """What had ended when `error`, raised by a fan-out, ended it: in item order, without the item that raised it."""
    return getattr(error, "_fanout_records", ())


def lanes_for(max_concurrency: object) -> float:
    """How many items at once: any value has a meaning, so that a configuration's "4" or null runs (FAN-05, 22).

    What counts as a number of at least 1 is rounded down; all else is sequential. May be infinite.
    """
    try:
        number = float(max_concurrency)  # type: ignore[arg-type]
    except OverflowError:  # an int beyond all floats
        number = math.inf if max_concurrency > 0 else 1  # type: ignore[operator]
    except Exception:  # noqa: BLE001  no number, whatever its `__float__` says to it
        return 1
    if not number >= 1:  # NaN is neither
        return 1
    return number if number == math.inf else math.floor(number)


def _is_cancellation(error: BaseException) -> bool:
    asyncio = sys.modules.get("asyncio")  # if nobody has imported it, it isn't one of its errors
    return isinstance(error, CancelledError) or (asyncio is not None and isinstance(error, asyncio.CancelledError))


def _rank(stop: tuple[int, BaseException]) -> tuple[bool, int]:
    return isinstance(stop[1], Exception), stop[0]


class Window(Generic[T]):
    """The state of one call.

    Guarantees:
    - `draw` gives the items in order, each once; none once `closed` is set or `limit` is reached. One thread at a time
      may call it: its caller sees to that.
    - `closed` is set for good: by the end of the items, by whoever stops the fan-out, by the caller. That needs no
      lock, and no running item: a `draw` that sits in the iterator meanwhile drops what it gets (FAN-07).
    - Each item that was drawn gets one entry in `records`, each error that ends the fan-out one in `stops`.
    """

    def __init__(
        self, fn: Callable[[Any], Any], items: Iterable[Any], max_concurrency: object, on_error: str, *, whole: bool
    ) -> None:
        if not callable(fn):
            msg = f"fn must be callable, not {fn!r}"  # type: ignore[unreachable]
            raise TypeError(msg)
        if on_error not in {"raise", "continue"}:
            msg = f"on_error must be 'raise' or 'continue', not {on_error!r}"
            raise ValueError(msg)
        try:
            self.source = iter(items)
        except TypeError as error:
            msg = f"items must be iterable, not {items!r}"
            raise TypeError(msg) from error
        self.fn = fn
        self.goes_on = on_error == "continue"
        lanes = lanes_for(max_concurrency)
        self.lanes: float = min(lanes, max(1, len(items))) if isinstance(items, Sized) else lanes
        self.base = copy_context()
        """The caller's context. Each item runs in its own copy (FAN-12, 20)."""
        self.reading = copy_context()
        """For the iterator, whoever reads it: to a generator it looks as if the caller did."""
        self.limit: float = math.inf if whole else 0
        """Items from this index on may not start yet."""
        self.index: int = 0
        """Of the next item. So many were drawn."""
        self.active: int = 0
        """Lanes that may have an item."""
        self.coming = False
        """One more lane was sent for, and is not there yet."""
        self.closed = self.deserted = False
        self.records: dict[int, Record[T]] = {}
        self.stops: list[tuple[int, BaseException]] = []

    def draw(self) -> Any:
        """The next item, or `NOTHING`."""
        if self.closed or self.index >= self.limit:
            return NOTHING
        try:
            item = self.reading.run(next, self.source, NOTHING)
        except BaseException as error:  # noqa: BLE001  it ends the fan-out, in the place of its next item (FAN-18)
            self.stop(self.index, error)
            return NOTHING
        if item is NOTHING:
            self.closed = True
        elif self.closed:  # stopped while the iterator was at it
            return NOTHING  # type: ignore[unreachable]  # mypy takes it for what it was before
        else:
            self.index += 1
        return item

    def may_grow(self) -> bool:
        """Should one more lane be sent for?"""
        return not (self.coming or self.closed) and self.active < self.lanes and self.index < self.limit

    def fail(self, index: int, error: BaseException, attempts: int, started: float) -> None:
        """Item `index` ended with `error`: note it, and stop unless failures are to be recorded only (FAN-10)."""
        status: Status = "failed"
        if isinstance(error, Halt):
            status = error.how
        elif _is_cancellation(error):
            status = "cancelled"
        self.records[index] = Record(index, status, None, error, attempts, started, monotonic())
        # What is no Exception (KeyboardInterrupt, SystemExit) is no result of an item: it ends the fan-out.
        if not (self.goes_on and (isinstance(error, Exception) or status == "cancelled")):
            self.stop(index, error)

    def stop(self, index: int, error: BaseException) -> None:
        """From now on nothing starts."""
        self.stops.append((index, error))
        self.closed = True

    @property
    def cut(self) -> float:
        """Items behind this one are not wanted: they would not run in a sequential run, or nobody waits for them."""
        return OUTSIDE if self.deserted else min((at for at, _ in self.stops), default=math.inf)

    def stopped_at(self, index: int) -> bool:
        """Is item `index` one that ended the fan-out?"""
        return any(at == index for at, _ in self.stops)

    def escapes(self) -> bool:
        """Will the verdict raise an item's error, as things stand?"""
        if not self.stops:
            return False
        index, error = min(self.stops, key=_rank)
        return index in self.records and not isinstance(error, Halt)

    def verdict(self, start: int = 0) -> list[Record[T]]:
        """The records from `start` on, now that nothing runs: all, or up to the halting item; or raise what escaped.

        The first stop in item order decides, as in a sequential run: the later items would not have run in one. But an
        interrupt, or whatever else is no Exception, goes first. Other errors are attached, so none is lost (FAN-28).
        """
        self.source = iter(())  # a lane that comes too late may keep this object for a while, but not the items
        records, self.records = self.records, {}
        if not self.stops:
            return [records[i] for i in range(start, len(records) + start)]
        stops, self.stops = sorted(self.stops, key=_rank), []
        index, error = stops[0]
        for at, other in stops[1:]:
            if other is not error:
                whose = "the call" if at == OUTSIDE else f"item {at}"
                error.add_note(f"in the same fan-out {whose} ended with {type(other).__name__}: {other}")
        if isinstance(error, Halt) and index in records:
            return [records[i] for i in range(start, index + 1)]
        records.pop(index, None)  # the error would refer to itself
        with suppress(Exception):  # an error that takes no attributes
            error._fanout_records = tuple(records[i] for i in sorted(records))  # type: ignore[attr-defined]  # noqa: SLF001
        try:
            raise error
        finally:
            del error, stops, records  # the error's traceback has this frame

    def log(self, logger: Logger) -> None:
        """Errors that nobody is there to raise to: the caller was cancelled, or closed the stream (FAN-28)."""
        for at, error in self.stops:
            logger.error("item %d of a fan-out that nobody waits for any more failed", at, exc_info=error)
        self.stops.clear()
