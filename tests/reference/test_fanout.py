"""The fan-out keeps the rules of its facet; each test says which, and needs no kit to say it.

Items are held at gates. A wait that a broken fan-out would not end has a limit, so that the test fails rather than
hangs; a sound one never gets near it.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import math
import os
import random
import subprocess
import sys
import threading
import tracemalloc
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, closing
from fractions import Fraction
from functools import partial
from typing import Any, cast

import anyio
import pytest

from flowcheck_reference._lanes import ThreadCall
from flowcheck_reference._window import Window
from flowcheck_reference.executor import Executor, Worker
from flowcheck_reference.fanout import AsyncFanout, Fanout, Halt, Record, RetryPolicy, records_of
from flowcheck_reference.retry import AttemptTimeout

LIMIT = 30.0
"""Seconds: the fence around what must not hang."""


class Gates:
    """A function whose items wait, each at its own gate; it knows who came, in which order, and how many are inside."""

    def __init__(self, outcomes: dict[int, BaseException] | None = None) -> None:
        self.outcomes = outcomes or {}
        self.changed = threading.Condition()
        self.started: list[int] = []
        self.ended: list[int] = []
        self.opened: set[int] = set()
        self.all_open = False
        self.most = 0

    def __call__(self, item: int) -> int:
        with self.changed:
            self.started.append(item)
            self.most = max(self.most, len(self.started) - len(self.ended))
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.all_open or item in self.opened, LIMIT), f"{item} stays closed"
            self.ended.append(item)
            self.changed.notify_all()
        if item in self.outcomes:
            raise self.outcomes[item]
        return item * 10

    def open(self, *items: int) -> None:
        with self.changed:
            self.opened.update(items)
            self.all_open |= not items
            self.changed.notify_all()

    def until(self, started: int = 0, ended: int = 0) -> None:
        """Wait until so many have started and ended."""
        with self.changed:
            there = self.changed.wait_for(lambda: len(self.started) >= started and len(self.ended) >= ended, LIMIT)
            assert there, f"started: {self.started}, ended: {self.ended}"


class Background:
    """A call in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.future: Future[Any] = Future()
        self.thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self.thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self.future.set_result(call())
        except BaseException as error:
            self.future.set_exception(error)

    def result(self) -> Any:
        return self.future.result(LIMIT)

    def error(self) -> BaseException:
        error = self.future.exception(LIMIT)
        assert error is not None
        return error


@pytest.fixture
def fanout() -> Iterator[Fanout]:
    with Fanout() as fanout:
        yield fanout


@pytest.fixture
def gates() -> Iterator[Gates]:
    """Gates that are open at the end, whatever happened."""
    gates = Gates()
    yield gates
    gates.open()


class Stops:
    """How often a fan-out was stopped: an item has ended a moment before the fan-out knows what that means."""

    def __init__(self) -> None:
        self.noted = threading.Semaphore(0)

    def until(self, n: int) -> None:
        """Wait for n more."""
        for _ in range(n):
            assert self.noted.acquire(timeout=LIMIT), "it was not stopped"


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Stops:
    stops, stop = Stops(), cast("Callable[..., None]", vars(Window)["stop"])

    def stopping(window: Window[Any], index: int, error: BaseException) -> None:
        stop(window, index, error)
        stops.noted.release()

    monkeypatch.setattr(Window, "stop", stopping)
    return stops


def lanes_beside(before: set[threading.Thread]) -> int:
    """How many threads of fan-outs there are that were not there before."""
    return sum(thread.name.startswith("flowcheck-fanout") for thread in {*threading.enumerate()} - before)


def values(records: list[Record[Any]]) -> list[Any]:
    return [record.value for record in records]


def outcomes(records: list[Record[Any]]) -> list[str]:
    return [record.status for record in records]


def sequential(fn: Callable[[Any], Any], n: int) -> tuple[list[tuple[int, str, Any]], BaseException | None]:
    """The model: what a plain loop gives."""
    records: list[tuple[int, str, Any]] = []
    for i in range(n):
        try:
            records.append((i, "ok", fn(i)))
        except Halt as halt:
            return [*records, (i, halt.how, None)], None
        except BaseException as error:
            return records, error
    return records, None


# -- order, bound, concurrency


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_results_are_in_item_order(fanout: Fanout, gates: Gates, order: tuple[int, ...], kind: Any) -> None:
    """Whatever completes first, the records are in the order of the items (FAN-01)."""
    call = Background(lambda: fanout.run(gates, kind(range(3)), max_concurrency=3))
    gates.until(started=3)
    for done, item in enumerate(order, 1):
        gates.open(item)
        gates.until(ended=done)
    assert values(call.result()) == [0, 10, 20]


@pytest.mark.parametrize("kind", [list, iter, "stream"])
def test_the_bound_is_kept_and_used(fanout: Fanout, gates: Gates, kind: Any) -> None:
    """Gated, exactly `min(max_concurrency, items left)` are in flight, and they started in order (FAN-02, 03, 23)."""
    items = range(7)
    if kind == "stream":
        call = Background(lambda: list(fanout.stream(gates, items, max_concurrency=3)))
    else:
        call = Background(lambda: fanout.run(gates, kind(items), max_concurrency=3))
    for i in items:
        gates.until(started=min(7, i + 3))
        assert gates.started == list(range(min(7, i + 3)))
        gates.open(i)
    assert values(call.result()) == [i * 10 for i in items]
    assert gates.most == 3


@pytest.mark.parametrize("kind", [list, iter])
def test_a_stuck_item_delays_no_other(fanout: Fanout, gates: Gates, kind: Any) -> None:
    """All others complete through the remaining slot (FAN-04)."""
    gates.open(*range(1, 20))
    call = Background(lambda: fanout.run(gates, kind(range(20)), max_concurrency=2))
    gates.until(ended=19)
    assert 0 not in gates.ended
    gates.open()
    assert values(call.result()) == [i * 10 for i in range(20)]


SEQUENTIAL: list[Any] = [
    *(None, 0, -3, math.nan, -math.inf, "", "x", [], 1j, object(), True, False, 0.5, -(10**400), "nan")
]
AT_ONCE: list[tuple[Any, int]] = [
    *[(value, 4) for value in ("4", " 4 ", 4.0, 4.7, Fraction(9, 2))],
    *[(value, 6) for value in (10**9, math.inf, 10**400, "inf")],
    *[(value, 1) for value in SEQUENTIAL],
]


@pytest.mark.parametrize(("concurrency", "lanes"), AT_ONCE, ids=[f"{i}" for i in range(len(AT_ONCE))])
@pytest.mark.parametrize("kind", [list, iter])
def test_any_concurrency_has_a_meaning(fanout: Fanout, gates: Gates, concurrency: Any, lanes: int, kind: Any) -> None:
    """What is no number of at least 1 is sequential; what is too large is as many as there are items (FAN-05, 22)."""
    before = {*threading.enumerate()}
    call = Background(lambda: fanout.run(gates, kind(range(6)), max_concurrency=concurrency))
    gates.until(started=lanes)
    assert lanes_beside(before) <= lanes - (kind is list or lanes < 6)
    gates.open()
    assert len(call.result()) == 6
    assert gates.most <= lanes


def test_the_default_is_sequential(fanout: Fanout) -> None:
    """Without a number, items run one after the other, in the caller's thread (FAN-06, 22)."""
    assert values(fanout.run(lambda _: threading.get_ident(), range(3))) == [threading.get_ident()] * 3


@pytest.mark.parametrize("kind", [list, iter])
@pytest.mark.parametrize("way", ["run", "stream"])
def test_concurrency_one_is_the_plain_loop(fanout: Fanout, kind: Any, way: str) -> None:
    """With concurrency 1 the trace is the sequential one: read, start, end, read … (FAN-06)."""
    trace: list[tuple[str, int]] = []

    def items() -> Iterator[int]:
        for i in range(3):
            trace.append(("read", i))
            yield i

    def item(i: int) -> None:
        trace.append(("start", i))
        trace.append(("end", i))

    fan = fanout.run if way == "run" else fanout.stream
    for record in fan(item, items(), max_concurrency=1):
        trace += [("delivered", record.index)] * (way == "stream")
    words = ("read", "start", "end", "delivered") if way == "stream" else ("read", "start", "end")
    assert trace == [(word, i) for i in range(3) for word in words]


def test_no_items(fanout: Fanout) -> None:
    """An empty result, and no thread (FAN-13)."""
    before = {*threading.enumerate()}
    for kind in (list, iter, partial(map, abs)):
        nothing: list[int] = []
        assert fanout.run(abs, cast("Any", kind)(nothing), max_concurrency=9) == []
        assert list(fanout.stream(abs, cast("Any", kind)(nothing), max_concurrency=9)) == []
    assert lanes_beside(before) <= 1  # an iterator may be empty: a lane looked


def test_a_record_tells_what_became_of_its_item(fanout: Fanout) -> None:
    """Index, id, status, value, times; ids don't depend on the concurrency (FAN-25)."""
    for concurrency in (1, 2, 9):
        records = fanout.run(str, range(12), max_concurrency=concurrency)
        assert [(r.index, r.id, r.status, r.value, r.error, r.attempts) for r in records] == [
            (i, str(i), "ok", str(i), None, 1) for i in range(12)
        ]
        assert all(record.started <= record.ended for record in records)


# -- halts


@pytest.mark.parametrize("how", ["failed", "paused", "aborted"])
@pytest.mark.parametrize("kind", [list, iter])
def test_a_halt_ends_the_results_with_its_item(fanout: Fanout, stops: Stops, how: Any, kind: Any) -> None:
    """No new item starts, what runs is waited for, and the records end with the halting one (FAN-07, 08, 24)."""
    halt = Halt(how)
    gates = Gates({1: halt})
    call = Background(lambda: fanout.run(gates, kind(range(99)), max_concurrency=3))
    gates.until(started=3)
    gates.open(1)
    stops.until(1)
    gates.open()
    records = call.result()
    assert outcomes(records) == ["ok", how]
    assert records[1].error is halt
    assert gates.started == [0, 1, 2]


def test_the_first_halt_in_item_order_counts(fanout: Fanout, stops: Stops) -> None:
    """Also where a later one halted first (FAN-09)."""
    first, later = Halt("paused"), Halt("aborted")
    gates = Gates({0: first, 2: later})
    call = Background(lambda: fanout.run(gates, range(9), max_concurrency=3))
    gates.until(started=3)
    gates.open(2)
    stops.until(1)
    gates.open(1)
    gates.until(ended=2)
    gates.open(0)
    records = call.result()
    assert outcomes(records) == ["paused"]
    assert gates.started == [0, 1, 2]
    assert "item 2 ended with Halt: aborted" in first.__notes__[0]


def test_a_halt_that_a_slow_iterator_did_not_see(fanout: Fanout, stops: Stops) -> None:
    """A halt while the iterator is being read: what it gives then is not started (FAN-07)."""
    read = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        read.set()
        stops.until(1)
        yield 1

    started: list[int] = []

    def item(i: int) -> None:
        started.append(i)
        assert read.wait(LIMIT)
        raise Halt

    assert outcomes(fanout.run(item, items(), max_concurrency=2)) == ["failed"]
    assert started == [0]


def test_continue_records_failures_in_their_slots(fanout: Fanout) -> None:
    """Failures and halts truncate nothing (FAN-10, 26)."""
    errors = {1: ValueError("x"), 3: Halt("paused"), 4: CancelledError(), 5: asyncio.CancelledError()}

    def item(i: int) -> int:
        if i in errors:
            raise errors[i]
        return i

    for concurrency in (1, 3):
        records = fanout.run(item, range(7), max_concurrency=concurrency, on_error="continue")
        assert outcomes(records) == ["ok", "failed", "ok", "paused", "cancelled", "cancelled", "ok"]
        assert {r.index: r.error for r in records if r.error} == errors


# -- errors that escape


@pytest.mark.parametrize(
    "kind", [ValueError("x"), KeyboardInterrupt(), SystemExit(3), StopIteration(1), GeneratorExit()]
)
@pytest.mark.parametrize("on_error", ["raise", "continue"])
def test_an_error_escapes_when_nothing_runs_any_more(
    fanout: Fanout, stops: Stops, kind: BaseException, on_error: Any
) -> None:
    """Itself; nothing more starts; what runs is waited for (FAN-11, 19)."""
    if on_error == "continue" and isinstance(kind, Exception):
        kind = KeyboardInterrupt()
    gates = Gates({1: kind})
    call = Background(lambda: fanout.run(gates, range(99), max_concurrency=3, on_error=on_error))
    gates.until(started=3)
    gates.open(1)
    stops.until(1)
    assert not call.future.done()
    gates.open()
    assert call.error() is kind
    assert sorted(gates.ended) == [0, 1, 2]
    assert [(r.index, r.status) for r in records_of(kind)] == [(0, "ok"), (2, "ok")]


def test_of_several_errors_none_is_lost(fanout: Fanout) -> None:
    """The first in item order is raised, the others are noted on it and among its records (FAN-28)."""
    errors: dict[int, BaseException] = {i: ValueError(f"error {i}") for i in range(3)}
    gates = Gates(errors)
    call = Background(lambda: fanout.run(gates, range(9), max_concurrency=3))
    gates.until(started=3)
    for done, item in enumerate((2, 0, 1), 1):
        gates.open(item)
        gates.until(ended=done)
    assert call.error() is errors[0]
    assert [note[-7:] for note in errors[0].__notes__] == ["error 1", "error 2"]
    assert [record.error for record in records_of(errors[0])] == [errors[1], errors[2]]


def test_an_interrupt_goes_first(fanout: Fanout) -> None:
    """What is no Exception is raised, even behind a halt."""
    interrupt = KeyboardInterrupt()
    gates = Gates({0: Halt(), 1: interrupt})
    call = Background(lambda: fanout.run(gates, range(9), max_concurrency=2))
    gates.until(started=2)
    gates.open()
    assert call.error() is interrupt


@pytest.mark.parametrize("way", ["run", "stream"])
def test_a_failing_iterator_ends_the_fan_out_with_its_error(fanout: Fanout, gates: Gates, way: str) -> None:
    """What ran is reported (FAN-18)."""
    error = OSError("gone")

    def items() -> Iterator[int]:
        yield from range(2)
        raise error

    fan = fanout.run if way == "run" else fanout.stream
    delivered: list[Any] = []
    call = Background(lambda: delivered.extend(fan(gates, items(), max_concurrency=4)))
    gates.until(started=2)
    gates.open()
    assert call.error() is error
    assert values([*delivered, *records_of(error)]) == [0, 10]


def test_arguments_without_sense_are_refused_before_anything_runs(fanout: Fanout) -> None:
    """In one clear line."""
    ran: list[int] = []
    for fan in (fanout.run, fanout.stream):
        with pytest.raises(TypeError, match=r"^fn must be callable, not 3$"):
            fan(cast("Any", 3), [1])
        with pytest.raises(TypeError, match=r"^items must be iterable, not 3$"):
            fan(ran.append, cast("Any", 3))
        with pytest.raises(ValueError, match=r"^on_error must be 'raise' or 'continue', not 'ignore'$"):
            fan(ran.append, [1], on_error=cast("Any", "ignore"))
    with pytest.raises(ValueError, match=r"^how must be 'failed', 'paused' or 'aborted', not 'bored'$"):
        Halt(cast("Any", "bored"))
    assert not ran
    fanout.close()
    for fan in (fanout.run, fanout.stream):
        with pytest.raises(RuntimeError, match="this fan-out was closed"):
            fan(abs, [1])


# -- the sequential model


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("way", ["list", "iter", "stream"])
def test_any_mix_is_what_a_plain_loop_gives(fanout: Fanout, seed: int, way: str) -> None:
    """Outcomes, completion order and concurrency: the results are the sequential ones (FAN-15)."""
    choose = random.Random(seed)
    n = choose.randint(0, 8)
    kinds: list[Any] = [Halt("failed"), Halt("paused"), Halt("aborted"), ValueError(), KeyError()]
    mix: dict[int, BaseException] = {i: choose.choice(kinds) for i in range(n) if choose.random() < 0.3}
    gates = Gates(mix)
    concurrency = choose.randint(1, 5)
    delivered: list[Record[int]] = []

    def call() -> None:
        if way == "stream":
            delivered.extend(fanout.stream(gates, range(n), max_concurrency=concurrency))
        else:
            items: Any = list(range(n)) if way == "list" else iter(range(n))
            delivered.extend(fanout.run(gates, items, max_concurrency=concurrency))

    background = Background(call)
    order = list(range(n))
    choose.shuffle(order)
    for i in order:
        gates.open(i)
    gates.open()
    error = background.future.exception(LIMIT)
    model = Gates(mix)
    model.open()
    expected, escaped = sequential(model, n)
    assert error is escaped
    if error is None or way == "stream":
        assert [(r.index, r.status, r.value) for r in delivered] == expected
    assert gates.most <= concurrency


# -- context, items, nesting


def test_each_item_has_its_own_copy_of_the_callers_context(fanout: Fanout) -> None:
    """Also the items that share a lane, also for a stream, whose caller may have gone on (FAN-12, 20)."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("caller")

    def item(i: int) -> str:
        seen = variable.get()
        variable.set(f"item {i}")
        return seen

    for concurrency in (1, 3):
        for items in (range(9), iter(range(9))):
            assert set(values(fanout.run(item, items, max_concurrency=concurrency))) == {"caller"}
        stream = fanout.stream(item, range(9), max_concurrency=concurrency)
        variable.set("later")
        assert set(values(list(stream))) == {"caller"}
        assert variable.get() == "later"
        variable.set("caller")


def test_the_iterator_runs_in_one_context_and_one_thread_at_a_time(fanout: Fanout) -> None:
    """A generator sees the caller's variables and its own changes, whoever reads it."""
    variable = contextvars.ContextVar("variable", default=0)
    inside = threading.Lock()

    def items() -> Iterator[int]:
        for _ in range(200):
            assert inside.acquire(blocking=False)
            variable.set(variable.get() + 1)
            inside.release()
            yield variable.get()

    assert values(fanout.run(lambda i: i, items(), max_concurrency=4)) == list(range(1, 201))
    assert variable.get() == 0


def test_an_item_that_changes_its_input_changes_nothing_else(fanout: Fanout) -> None:
    """FAN-21."""
    items: list[list[int]] = [[i] for i in range(9)]

    def item(own: list[int]) -> list[int]:
        seen = own.copy()
        own.clear()
        return seen

    assert values(fanout.run(item, items, max_concurrency=3)) == [[i] for i in range(9)]


@pytest.mark.parametrize("given", [None, 1, 2])
@pytest.mark.parametrize("pool", [Executor, ThreadPoolExecutor])
def test_nested_fan_outs_end(given: int | None, pool: Any) -> None:
    """On threads of its own, and on a pool that has too few (FAN-14)."""
    executor = pool(given) if given else None
    with Fanout(executor) as fanout:

        def outer(i: int) -> int:
            return sum(values(fanout.run(lambda j: i * j, range(5), max_concurrency=3)))

        assert values(fanout.run(outer, range(5), max_concurrency=3)) == [i * 10 for i in range(5)]
    if executor:
        executor.shutdown()


def test_nested_fan_outs_are_concurrent(fanout: Fanout, gates: Gates) -> None:
    """Each call has its whole bound (FAN-03, 14)."""

    def outer(i: int) -> list[Any]:
        return values(fanout.run(gates, [10 * i + j for j in range(3)], max_concurrency=3))

    call = Background(lambda: fanout.run(outer, range(3), max_concurrency=3))
    gates.until(started=9)
    gates.open()
    assert len(call.result()) == 3


def test_an_event_loop_in_the_callers_thread_is_no_obstacle(fanout: Fanout) -> None:
    """Items may start loops of their own."""

    async def nothing() -> int:
        return 7

    async def main() -> list[Record[int]]:
        return fanout.run(lambda _: asyncio.run(nothing()), range(3), max_concurrency=2)

    assert values(asyncio.run(main())) == [7] * 3


# -- the window


@pytest.mark.parametrize("concurrency", [1, 3])
def test_an_endless_iterator_is_read_no_further_than_the_window(fanout: Fanout, concurrency: int) -> None:
    """By a stream at any time, by `run` until a halt (FAN-16)."""
    read = itertools.count()
    with closing(fanout.stream(abs, (next(read) for _ in itertools.count()), max_concurrency=concurrency)) as stream:
        for i in range(50):
            assert next(stream).value == i
        assert next(read) <= 50 + concurrency
    gates = Gates({2: Halt()})
    gates.open()
    assert len(fanout.run(gates, itertools.count(), max_concurrency=concurrency)) == 3


def test_nothing_starts_before_a_stream_is_asked(fanout: Fanout, gates: Gates) -> None:
    """And no further than a window ahead of what was delivered; behind a stuck item it stops there."""
    stream = fanout.stream(gates, itertools.count(), max_concurrency=3)
    assert gates.started == []
    gates.open(1, 2)
    head = Background(lambda: next(stream))
    gates.until(ended=2)
    assert sorted(gates.started) == [0, 1, 2]
    gates.open()
    assert head.result().value == 0
    stream.close()
    assert len(gates.started) == len(gates.ended)


def test_closing_a_stream_waits_for_what_runs(fanout: Fanout, gates: Gates, caplog: pytest.LogCaptureFixture) -> None:
    """And starts nothing more; an error that nobody sees is logged (FAN-19, 28)."""
    gates.outcomes[1] = ValueError("unseen")
    stream = fanout.stream(gates, itertools.count(), max_concurrency=3)
    gates.open(0)
    assert next(stream).value == 0
    gates.until(started=3)
    closing = Background(stream.close)
    assert not closing.future.done()
    gates.open()
    closing.result()
    assert sorted(gates.ended) == [0, 1, 2]
    assert "unseen" in caplog.text


def test_an_iterator_may_wait_for_earlier_items(fanout: Fanout) -> None:
    """An item starts as soon as it was read, not when the next one was."""
    done = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert done.wait(LIMIT)
        yield 1

    assert len(fanout.run(lambda _: done.set(), items(), max_concurrency=2)) == 2
    done.clear()
    with closing(fanout.stream(lambda _: done.set(), items(), max_concurrency=2)) as stream:
        assert [record.index for record in stream] == [0, 1]


# -- over many calls


def test_threads_are_used_again(fanout: Fanout) -> None:
    """Over many calls there are never more threads than one call needs (FAN-17)."""
    before = {*threading.enumerate()}
    for _ in range(100):
        fanout.run(abs, range(20), max_concurrency=4)
        fanout.run(abs, iter(range(20)), max_concurrency=4)
        list(fanout.stream(abs, range(20), max_concurrency=4))
        assert lanes_beside(before) <= 4  # the stream's; the caller of `run` is one itself
    fanout.close()
    assert lanes_beside(before) == 0


class Thing:
    """What a weak reference can be made to."""


@pytest.mark.parametrize("way", ["run", "iter", "stream"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_kept(fanout: Fanout, way: str, fails: bool) -> None:
    """Neither items nor results, after the call; not even by the records of failures (FAN-17)."""
    things = [Thing() for _ in range(6)]
    references = [weakref.ref(thing) for thing in things]
    results: list[weakref.ref[Thing]] = []

    def item(_: Thing) -> Thing:
        thing = Thing()
        results.append(weakref.ref(thing))
        if fails and len(results) == 4:
            del thing, _
            raise ValueError
        return thing

    gc.disable()
    try:
        fan = fanout.stream if way == "stream" else fanout.run
        records = list(fan(item, iter(things) if way == "iter" else things, max_concurrency=2, on_error="continue"))
        errors = [record.error for record in records if record.error]
        assert len(errors) == fails
        del records, things
        fanout.close()
        assert [ref for ref in references if ref() is not None] == []
        assert [ref for ref in results if ref() is not None] == []
    finally:
        gc.enable()


def test_memory_does_not_grow(fanout: Fanout) -> None:
    """FAN-17."""

    def calls(n: int) -> int:
        for _ in range(n):
            fanout.run(abs, range(10), max_concurrency=3)
            list(fanout.stream(abs, range(10), max_concurrency=3))
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        calls(20)
        before = calls(20)
        assert calls(200) - before < 20_000
    finally:
        tracemalloc.stop()


def test_a_failure_gives_its_slot_back(fanout: Fanout, gates: Gates) -> None:
    """The next call has full concurrency (FAN-26)."""
    for error in (ValueError(), Halt(), KeyboardInterrupt(), CancelledError()):
        failing = Gates(dict.fromkeys(range(4), error))
        call = Background(partial(fanout.run, failing, range(4), max_concurrency=4))
        failing.until(started=4)
        failing.open()
        call.future.exception(LIMIT)
    call = Background(lambda: fanout.run(gates, range(4), max_concurrency=4))
    gates.until(started=4)
    gates.open()
    assert len(call.result()) == 4


# -- under a policy


AT_ONCE_AGAIN = RetryPolicy(attempts=3, wait_max=0)
LONG = RetryPolicy(attempts=2, wait_initial=3600, wait_max=3600)
"""Its second attempt is never seen: a test that waited for it would not end."""


def timeouts(attempts: int, timeout: float = 0.01, **kwargs: Any) -> RetryPolicy:
    """Attempts that are given up soon: those that wait at a gate are."""
    return RetryPolicy(attempts=attempts, timeout=timeout, wait_max=0, **kwargs)


class Flaky:
    """Fails so often for each item, then returns it."""

    def __init__(self, failures: dict[int, int]) -> None:
        self.left = failures
        self.errors: list[BaseException] = []

    def __call__(self, item: int) -> int:
        if self.left.get(item, 0):
            self.left[item] -= 1
            error = OSError(item, self.left[item])
            self.errors.append(error)
            raise error
        return item

    async def aio(self, item: int) -> int:
        return self(item)


@pytest.mark.parametrize("concurrency", [1, 3])
@pytest.mark.parametrize("kind", [list, iter])
def test_items_are_retried_as_the_policy_says(fanout: Fanout, concurrency: int, kind: Any) -> None:
    """Records count the attempts; the last error is the item's."""
    for fan in (fanout.run, fanout.stream):
        flaky = Flaky({1: 1, 3: 2, 4: 9})
        records = list(
            fan(flaky, kind(range(6)), max_concurrency=concurrency, on_error="continue", policy=AT_ONCE_AGAIN)
        )
        assert outcomes(records) == ["ok", "ok", "ok", "ok", "failed", "ok"]
        assert [record.attempts for record in records] == [1, 2, 1, 3, 3, 1]
        assert records[4].error is next(e for e in reversed(flaky.errors) if e.args[0] == 4)


def test_a_halt_is_not_retried(fanout: Fanout) -> None:
    """It is an answer, not a failure."""
    gates = Gates({1: Halt("paused")})
    gates.open()
    records = fanout.run(gates, range(9), policy=AT_ONCE_AGAIN)
    assert outcomes(records) == ["ok", "paused"]
    assert records[1].attempts == 1
    assert gates.started == [0, 1]


@pytest.mark.parametrize("kind", [list, iter, "stream"])
def test_a_stuck_attempt_gives_its_place_to_the_next(fanout: Fanout, kind: Any) -> None:
    """The item is retried while its first attempt is stuck, within the bound; the late result is dropped (FAN-02, 04)."""
    stuck, tries, release = threading.Event(), itertools.count(), threading.Event()

    def item(i: int) -> str:
        if i == 1 and next(tries) == 0:
            stuck.set()
            assert release.wait(LIMIT)
            return "late"
        return "in time"

    policy = timeouts(99, 0.05)  # enough for the items that are only slow, on a busy machine
    if kind == "stream":
        records = list(fanout.stream(item, range(5), max_concurrency=2, policy=policy))
    else:
        records = fanout.run(item, kind(range(5)), max_concurrency=2, policy=policy)
    assert stuck.is_set()
    assert values(records) == ["in time"] * 5
    release.set()
    assert values(records) == ["in time"] * 5
    assert records[1].attempts > 1


def test_an_item_whose_attempts_are_all_stuck_has_failed(fanout: Fanout, gates: Gates) -> None:
    """With the limit's own error; the lanes go on with the next items."""
    records = fanout.run(gates, range(4), max_concurrency=2, on_error="continue", policy=timeouts(2))
    assert outcomes(records) == ["failed"] * 4
    assert len(gates.started) == 8
    for record in records:
        assert isinstance(record.error, AttemptTimeout)
        assert (record.attempts, record.error.attempt) == (2, 2)


@pytest.mark.parametrize("way", ["halt", "error", "close"])
def test_what_waits_for_a_retry_in_vain_is_dropped(fanout: Fanout, way: str) -> None:
    """A stop behind which nobody wants the item ends its wait (FAN-11)."""
    failed = threading.Event()
    error: BaseException = Halt() if way == "halt" else KeyboardInterrupt()

    def item(i: int) -> None:
        if i == 1:
            failed.set()
            raise OSError("again")
        if way != "close":
            assert failed.wait(LIMIT)
            raise error

    if way == "close":
        stream = fanout.stream(item, range(2), max_concurrency=2, policy=LONG)
        next(stream)
        assert failed.wait(LIMIT)
        stream.close()
    elif way == "halt":
        assert outcomes(fanout.run(item, range(2), max_concurrency=2, policy=LONG)) == ["failed"]
    else:
        with pytest.raises(KeyboardInterrupt):
            fanout.run(item, range(2), max_concurrency=2, policy=LONG)


def test_what_a_halt_needs_is_retried_yet(fanout: Fanout) -> None:
    """An item before the halting one gets all its attempts (FAN-08)."""
    halted = threading.Event()
    tries: list[int] = []

    def item(i: int) -> None:
        if i == 1:
            halted.set()
            raise Halt
        assert halted.wait(LIMIT)
        tries.append(i)
        if len(tries) < 3:
            raise OSError

    policy = RetryPolicy(attempts=3, wait_initial=0.001, wait_jitter=0)
    records = fanout.run(item, range(9), max_concurrency=2, policy=policy)
    assert outcomes(records) == ["ok", "failed"]
    assert records[0].attempts == 3


def test_a_policy_needs_threads_that_can_be_replaced() -> None:
    """Refused before anything runs."""
    with ThreadPoolExecutor(1) as executor, pytest.raises(TypeError, match=r"a policy needs a flowcheck"):
        Fanout(executor).run(abs, [1], policy=AT_ONCE_AGAIN)
    with Fanout() as fanout, pytest.raises(TypeError, match=r"^policy must be a RetryPolicy or None, not 3$"):
        fanout.run(abs, [1], policy=cast("Any", 3))


@pytest.mark.parametrize("size", [1, 2])
def test_nested_calls_under_a_policy_end(size: int) -> None:
    """Also streams, also on an executor that is full: the waiting worker lends its slot (FAN-14)."""
    with Executor(size) as executor, Fanout(executor) as fanout:
        policy = RetryPolicy(timeout=LIMIT)

        def outer(i: int) -> int:
            run = fanout.run(lambda j: i * j, range(5), max_concurrency=3, policy=policy)
            return sum(values(run)) + sum(r.value or 0 for r in fanout.stream(abs, range(3), max_concurrency=2))

        assert values(fanout.run(outer, range(5), max_concurrency=3, policy=policy)) == [i * 10 + 3 for i in range(5)]


def test_an_executor_that_is_emptied_strands_no_retry() -> None:
    """A retry that no worker will make is the item's failure."""
    executor = Executor(1)
    fanout = Fanout(executor)
    policy = RetryPolicy(attempts=2, wait_initial=0.01, wait_jitter=0)

    def item(_: int) -> None:
        executor.shutdown(wait=False)
        raise OSError("first")

    with pytest.raises(RuntimeError, match="shut down") as caught:
        fanout.run(item, [0], policy=policy)
    assert isinstance(caught.value.__context__, OSError)


BRIEF = RetryPolicy(attempts=2, wait_initial=0.001, wait_jitter=0)


class Held:
    """An item that fails, and is held between two attempts, by the policy's predicate."""

    def __init__(self, **kwargs: Any) -> None:
        self.failed, self.go = threading.Event(), threading.Event()
        self.policy = RetryPolicy(on=self.on, wait_initial=0.001, wait_jitter=0, **kwargs)
        self.error = OSError("first")

    def __call__(self, item: int) -> int:
        if item:
            raise self.error
        return item

    def on(self, _: Exception) -> bool:
        self.failed.set()
        return self.go.wait(LIMIT)


@pytest.mark.parametrize("kind", [list, iter, "stream"])
@pytest.mark.parametrize("cancel_futures", [True, False])
def test_an_executor_that_is_shut_down_hangs_no_retry(kind: Any, cancel_futures: bool) -> None:
    """Also where errors are recorded only: no lane is left for the other items, so the call ends, and says why."""
    executor, held = Executor(1), Held(attempts=3)
    fanout = Fanout(executor)
    fan = fanout.stream if kind == "stream" else fanout.run
    items = range(3) if kind == "stream" else kind(range(3))
    call = Background(lambda: list(fan(held, items, max_concurrency=1, on_error="continue", policy=held.policy)))
    assert held.failed.wait(LIMIT)
    executor.shutdown(wait=False, cancel_futures=cancel_futures)
    held.go.set()
    error = call.error()
    assert isinstance(error, RuntimeError)
    assert "this executor was shut down" in str(error)
    assert error.__context__ is held.error
    assert values(list(records_of(error))) == ([] if kind == "stream" else [0])
    executor.shutdown()


def test_an_executor_that_is_shut_down_strands_no_stuck_attempt(gates: Gates) -> None:
    """Whose time is up after that: the same, with the limit's error behind."""
    executor = Executor(1)
    gates.open(0)
    policy = timeouts(99, 0.05)
    fanout = Fanout(executor)
    call = Background(lambda: fanout.run(gates, range(3), max_concurrency=1, on_error="continue", policy=policy))
    gates.until(started=2)
    executor.shutdown(wait=False, cancel_futures=True)
    error = call.error()
    assert isinstance(error, RuntimeError)
    assert isinstance(error.__context__, AttemptTimeout)


@pytest.mark.parametrize("way", ["run", "stream"])
def test_close_waits_for_retries(way: str) -> None:
    """What is in its backoff has begun: it gets the rest of its attempts; a run, all of its items."""
    fanout, held = Fanout(), Held(attempts=3)
    if way == "run":
        call = Background(lambda: fanout.run(held, range(3), on_error="continue", policy=held.policy))
    else:
        stream = fanout.stream(held, iter(range(1, 9)), on_error="continue", policy=held.policy)
        call = Background(lambda: next(stream))
    assert held.failed.wait(LIMIT)
    closing = Background(fanout.close)
    assert fanout._crew is not None
    while not fanout._crew.closing:
        threading.Event().wait(0)
    held.go.set()
    closing.result()
    if way == "run":
        assert [(r.status, r.attempts) for r in call.result()] == [("ok", 1), ("failed", 3), ("failed", 3)]
    else:
        assert call.result().attempts == 3
        with pytest.raises(RuntimeError, match="this fan-out was closed: what it has begun it ends"):
            next(stream)
    with pytest.raises(RuntimeError, match="this fan-out was closed: it takes no more calls"):
        fanout.run(abs, [1])


def test_close_waits_for_an_item_whose_attempt_is_given_up(gates: Gates) -> None:
    """Not for the attempt itself."""
    fanout = Fanout()
    policy = RetryPolicy(attempts=2, timeout=0.05, wait_initial=0.001, wait_jitter=0)
    call = Background(lambda: fanout.run(gates, range(2), on_error="continue", policy=policy))
    gates.until(started=1)
    Background(fanout.close).result()
    assert [(r.status, r.attempts) for r in call.result()] == [("failed", 2)] * 2


def test_a_lane_that_comes_after_close_goes_home(gates: Gates) -> None:
    """The call that sent for it ends with an error: by then nobody would wait for its retries."""
    fanout = Fanout()
    assert fanout._own is not None
    fanout._own.submit(gates, 0)
    gates.until(started=1)
    call = Background(lambda: fanout.run(abs, [1], policy=BRIEF))
    while not fanout._own._pool.queue:
        threading.Event().wait(0)
    closing = Background(fanout.close)
    while not fanout._own._pool.closed:
        threading.Event().wait(0)
    gates.open()
    closing.result()
    assert "this fan-out was closed" in str(call.error())


def test_close_inside_an_item_is_refused(fanout: Fanout) -> None:
    """It would wait for itself; nothing is closed then."""
    error = fanout.run(lambda _: fanout.close(), [0], policy=BRIEF, on_error="continue")[0].error
    assert "wait for itself" in str(error)
    assert values(fanout.run(abs, [1], policy=BRIEF)) == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_wait_for_the_parents_items() -> None:
    """They are not there."""
    code = """
import os, threading
from flowcheck_reference.fanout import Fanout, RetryPolicy
began, go = threading.Event(), threading.Event()
fanout = Fanout()
run = lambda: fanout.run(lambda _: (began.set(), go.wait()), [0], policy=RetryPolicy())
call = threading.Thread(target=run)
call.start()
began.wait()
pid = os.fork()
if not pid:
    threading.Thread(target=lambda: (fanout.close(), os._exit(0)), daemon=True).start()
    threading.Event().wait(30)
    os._exit(1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
go.set()
call.join()
fanout.close()
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("0\n", "")


def no_thread(*_: object) -> None:
    """In place of what would start one."""
    msg = "can't start new thread"
    raise RuntimeError(msg)


@pytest.mark.parametrize("way", ["run", "stream"])
def test_without_a_watchdog_nothing_runs(fanout: Fanout, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that needs one is refused before an item begins."""
    started: list[int] = []
    assert fanout._crew is not None
    with monkeypatch.context() as patch:
        patch.setattr(fanout._crew.watchdog._state, "start", no_thread)
        call = Background(lambda: list(getattr(fanout, way)(started.append, [0], policy=BRIEF, on_error="continue")))
        assert str(call.error()) == "can't start new thread"
        assert started == []
        once = RetryPolicy(attempts=1)
        assert len(Background(lambda: list(getattr(fanout, way)(abs, [0, 1], policy=once))).result()) == 2
    assert len(fanout.run(abs, [0, 1], policy=BRIEF)) == 2


def test_a_backoff_that_no_watchdog_ends_is_the_items_failure(fanout: Fanout, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is noted once, and the lane goes on; nothing of it is left over for a stop to end again."""
    error = OSError("first")
    flaky = Gates({1: error, 3: error})
    flaky.open()
    assert fanout._crew is not None
    monkeypatch.setattr(fanout._crew.watchdog, "call_at", no_thread)
    call = Background(lambda: fanout.run(flaky, range(4), on_error="continue", policy=BRIEF))
    records = call.result()
    assert outcomes(records) == ["ok", "failed", "ok", "failed"]
    assert str(records[1].error) == "can't start new thread"
    assert records[1].error is not None
    assert records[1].error.__context__ is error
    assert fanout._crew.lanes == 0


def test_what_a_stop_ends_ends_in_the_watchdogs_thread(fanout: Fanout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in the caller's, where Ctrl-C might come between two steps, and leave a lane counted for ever."""
    threads, give_back = [], cast("Callable[..., None]", vars(ThreadCall)["give_back"])

    def noting(*args: Any) -> None:
        threads.append(threading.current_thread())
        give_back(*args)

    monkeypatch.setattr(ThreadCall, "give_back", noting)
    test_what_waits_for_a_retry_in_vain_is_dropped(fanout, "halt")
    assert fanout._crew is not None
    assert threads == [fanout._crew.watchdog._state.thread]


def test_a_worker_that_no_other_can_stand_in_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs the lane itself, on top of the task that waits for it."""
    with Executor(1) as executor, Fanout(executor) as fanout:
        assert executor.submit(abs, 1).result(LIMIT) == 1
        monkeypatch.setattr(Worker, "start", no_thread)
        call = executor.submit(lambda: values(fanout.run(abs, [1, 2], policy=BRIEF)))
        assert call.result(LIMIT) == [1, 2]


def test_a_stream_that_is_collected_in_its_own_item_does_not_wait_for_it(fanout: Fanout) -> None:
    """Whichever thread happens to collect it, no lane waits for itself."""
    dropped, collected = threading.Event(), threading.Event()

    def item(i: int) -> None:
        if i:
            assert dropped.wait(LIMIT)
            gc.collect()
            collected.set()

    def consume() -> None:
        cycle: list[Any] = [fanout.stream(item, range(2), max_concurrency=2)]
        cycle.append(cycle)
        next(cycle[0])

    gc.disable()
    try:
        consume()
        dropped.set()
        assert collected.wait(LIMIT)
    finally:
        gc.enable()
    Background(fanout.close).result()


def test_the_interpreter_can_exit_while_an_attempt_is_stuck() -> None:
    """Of a fan-out that was closed, too (RTY-17)."""
    code = """
import threading
from flowcheck_reference.fanout import Fanout, RetryPolicy
never = threading.Lock(); never.acquire()
with Fanout() as fanout:
    [record] = fanout.run(lambda _: never.acquire(), [0], on_error="continue", policy=RetryPolicy(1, 0.01))
print(type(record.error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("AttemptTimeout\n", "", 0)


# -- executors that were given, and the end


class Submissions(ThreadPoolExecutor):
    """Knows how much was submitted."""

    count = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.count += 1
        return super().submit(*args, **kwargs)


def test_a_given_executor_is_used_and_left_open(gates: Gates) -> None:
    """Its threads are lanes; none is submitted per item."""
    with Submissions(8) as executor:
        with Fanout(executor) as fanout:
            gates.open()
            assert len(fanout.run(gates, range(100), max_concurrency=4)) == 100
            assert executor.count <= 3
        assert executor.submit(abs, -1).result(LIMIT) == 1


def test_an_executor_that_refuses_costs_concurrency_only() -> None:
    """The caller's own lane does it all; a stream, which needs a thread, says so."""
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    fanout = Fanout(executor)
    assert len(fanout.run(abs, range(9), max_concurrency=3)) == 9
    with pytest.raises(RuntimeError, match="cannot schedule new futures"):
        list(fanout.stream(abs, range(9), max_concurrency=3))


def test_an_executor_that_is_emptied_hangs_nobody(gates: Gates) -> None:
    """The lane that never comes ends the stream with an error."""
    executor = ThreadPoolExecutor(1)
    executor.submit(gates, 0)
    gates.until(started=1)
    fanout = Fanout(executor)
    stream = fanout.stream(abs, range(9), max_concurrency=3)
    call = Background(lambda: next(stream))
    while not executor._work_queue.qsize():
        pass
    executor.shutdown(wait=False, cancel_futures=True)
    assert isinstance(call.error(), CancelledError)
    gates.open()
    executor.shutdown()


def test_close_waits_and_ends_the_threads(gates: Gates) -> None:
    """A run in progress completes."""
    fanout = Fanout()
    call = Background(lambda: fanout.run(gates, range(9), max_concurrency=3))
    gates.until(started=3)
    closing = Background(fanout.close)
    gates.open()
    closing.result()
    assert len(call.result()) == 9


@pytest.mark.parametrize("kind", ["list", "iter"])
def test_ctrl_c_in_the_waiting_caller(kind: str) -> None:
    """Nothing more starts, what runs is waited for, then it is raised (FAN-11, 19)."""
    code = f"""
import signal, threading
from flowcheck_reference.fanout import Fanout
main, started, ended = threading.main_thread(), [], []
other_is_there, interrupted = threading.Event(), threading.Event()
def handler(*_):
    if not interrupted.is_set():
        interrupted.set()
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, handler)
def item(i):
    started.append(i)
    if threading.current_thread() is main:
        other_is_there.wait()
        return
    other_is_there.set()
    while len(started) < 3: pass             # main takes the last item, and then has nothing to do but wait
    while not interrupted.wait(0.05):        # a signal just before a lock is taken is seen only after it: send another
        signal.pthread_kill(main.ident, signal.SIGINT)
    ended.append(i)
try:
    with Fanout() as fanout:
        try:
            fanout.run(item, {"[0, 1, 2]" if kind == "list" else "iter([0, 1, 2])"}, max_concurrency=2)
        finally:
            print(sorted(started), len(ended))
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("[0, 1, 2] 1\ninterrupted\n", "")


# -- the same on event loops


class AsyncGates:
    """`Gates` for tasks."""

    def __init__(self, outcomes: dict[int, BaseException] | None = None) -> None:
        self.outcomes = outcomes or {}
        self.started: list[int] = []
        self.ended: list[int] = []
        self.cancelled: list[int] = []
        self.gates: dict[int, anyio.Event] = {}
        self.changed = anyio.Event()
        self.most = 0

    async def __call__(self, item: int) -> int:
        self.started.append(item)
        self.most = max(self.most, len(self.started) - len(self.ended))
        self.notify()
        try:
            await self.gate(item).wait()
        except BaseException:
            self.cancelled.append(item)
            raise
        finally:
            self.ended.append(item)
            self.notify()
        if item in self.outcomes:
            raise self.outcomes[item]
        return item * 10

    def gate(self, item: int) -> anyio.Event:
        return self.gates.setdefault(item, anyio.Event())

    def notify(self) -> None:
        self.changed.set()
        self.changed = anyio.Event()

    def open(self, *items: int) -> None:
        for item in items or range(200):
            self.gate(item).set()

    async def until(self, started: int = 0, ended: int = 0) -> None:
        with anyio.fail_after(LIMIT):
            while len(self.started) < started or len(self.ended) < ended:
                await self.changed.wait()


class AsyncBackground:
    """A call in a task of its own."""

    def __init__(self) -> None:
        self.value: Any = None
        self.failure: BaseException | None = None
        self.scope = anyio.CancelScope()
        self.done = anyio.Event()

    async def run(self, call: Callable[[], Awaitable[Any]]) -> None:
        with self.scope:
            try:
                self.value = await call()
            except anyio.get_cancelled_exc_class() as error:
                self.failure = error
                raise
            except BaseException as error:
                self.failure = error
            finally:
                self.done.set()

    async def result(self) -> Any:
        with anyio.fail_after(LIMIT):
            await self.done.wait()
        if self.failure is not None:
            raise self.failure
        return self.value

    async def error(self) -> BaseException:
        with anyio.fail_after(LIMIT):
            await self.done.wait()
        assert self.failure is not None
        return self.failure


@asynccontextmanager
async def in_background(call: Callable[[], Awaitable[Any]]) -> AsyncGenerator[AsyncBackground]:
    """Run it beside the body."""
    background = AsyncBackground()
    async with anyio.create_task_group() as group:
        group.start_soon(background.run, call)
        yield background
        group.cancel_scope.cancel()


async def collect(stream: AsyncIterator[Record[Any]], into: list[Record[Any]] | None = None) -> list[Record[Any]]:
    """What it delivers; `into` has it also if it fails."""
    records = [] if into is None else into
    async for record in stream:
        records.append(record)
    return records


pytest_anyio = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_anyio
@pytest.mark.parametrize("way", ["run", "stream"])
async def test_tasks_keep_order_and_bound(way: str) -> None:
    """Exactly so many in flight, started in order, records in order (FAN-01..03, 23)."""
    gates = AsyncGates()
    async with AsyncFanout() as fanout:

        async def call() -> list[Record[int]]:
            if way == "run":
                return await fanout.run(gates, iter(range(7)), max_concurrency=3)
            return await collect(fanout.stream(gates, iter(range(7)), max_concurrency=3))

        async with in_background(call) as background:
            for i in range(7):
                await gates.until(started=min(7, i + 3))
                assert gates.started == list(range(min(7, i + 3)))
                gates.open(i)
            assert values(await background.result()) == [i * 10 for i in range(7)]
    assert gates.most == 3


@pytest_anyio
async def test_a_stuck_task_delays_no_other() -> None:
    """FAN-04."""
    gates = AsyncGates()
    gates.open(*range(1, 20))
    async with AsyncFanout() as fanout, in_background(lambda: fanout.run(gates, range(20), max_concurrency=2)) as call:
        await gates.until(ended=19)
        gates.open()
        assert values(await call.result()) == [i * 10 for i in range(20)]


@pytest_anyio
@pytest.mark.parametrize("concurrency", [None, 0, math.nan, "4", 4.0, math.inf, 10**9, True])
async def test_any_concurrency_has_a_meaning_for_tasks(concurrency: Any) -> None:
    """FAN-05, 22."""
    lanes = {"4": 4, 4.0: 4, math.inf: 6, 10**9: 6}.get(concurrency, 1)
    gates = AsyncGates()
    async with AsyncFanout() as fanout:  # noqa: SIM117  too long for one line
        async with in_background(lambda: fanout.run(gates, range(6), max_concurrency=concurrency)) as call:
            await gates.until(started=lanes)
            gates.open()
            assert len(await call.result()) == 6
    assert gates.most == lanes


@pytest_anyio
async def test_a_halt_among_tasks() -> None:
    """What runs is waited for, the first in item order counts, the results are the prefix (FAN-07..09)."""
    gates = AsyncGates({1: Halt("paused"), 2: Halt("aborted")})
    async with AsyncFanout() as fanout, in_background(lambda: fanout.run(gates, range(99), max_concurrency=4)) as call:
        await gates.until(started=4)
        for done, item in enumerate((2, 3, 1, 0), 1):
            gates.open(item)
            await gates.until(ended=done)
        assert outcomes(await call.result()) == ["ok", "paused"]
    assert gates.started == [0, 1, 2, 3]
    assert gates.cancelled == []


@pytest_anyio
@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
async def test_an_error_that_escapes_cancels_the_other_tasks(error: BaseException) -> None:
    """It is raised itself, out of the context, too, once all have ended (FAN-11)."""
    gates = AsyncGates({1: error})

    async def call() -> None:
        async with AsyncFanout() as fanout:
            await fanout.run(gates, range(99), max_concurrency=3)

    async with in_background(call) as background:
        await gates.until(started=3)
        gates.open(1)
        assert await background.error() is error
    assert sorted(gates.ended) == gates.started == [0, 1, 2]
    assert sorted(gates.cancelled) == [0, 2]
    assert outcomes(list(records_of(error))) == ["cancelled", "cancelled"]


@pytest_anyio
async def test_of_several_tasks_errors_none_is_lost() -> None:
    """What a cancelled item raises in its cleanup is noted (FAN-28)."""
    first, other = ValueError("first"), KeyError("cleanup")

    async def item(i: int) -> None:
        if i == 1:
            raise first
        try:
            await anyio.sleep_forever()
        finally:
            raise other

    async with AsyncFanout() as fanout:
        with pytest.raises((ValueError, KeyError)) as caught:
            await fanout.run(item, range(2), max_concurrency=2)
    # In item order, item 0 comes first, though item 1 made it fail.
    assert caught.value is other
    assert "item 1 ended with ValueError: first" in other.__notes__[0]


@pytest_anyio
async def test_an_error_behind_a_halt_does_not_spoil_the_prefix() -> None:
    """A halt waits for the items before it, whatever a later one raises."""
    halt = Halt()
    gates = AsyncGates({1: halt, 2: ValueError("later")})
    async with AsyncFanout() as fanout, in_background(lambda: fanout.run(gates, range(9), max_concurrency=3)) as call:
        await gates.until(started=3)
        gates.open(1)
        await gates.until(ended=1)
        gates.open(2)
        await gates.until(ended=2)
        gates.open()
        assert outcomes(await call.result()) == ["ok", "failed"]
    assert "later" in halt.__notes__[0]


@pytest_anyio
async def test_tasks_that_fail_are_recorded_where_asked() -> None:
    """Also one that cancelled itself: nobody else was meant (FAN-10, 26)."""

    async def item(i: int) -> int:
        if i == 1:
            raise ValueError
        if i == 2:
            raise Halt("aborted")
        if i == 3:
            raise asyncio.CancelledError
        return i

    async with AsyncFanout() as fanout:
        for concurrency in (1, 3):
            records = await fanout.run(item, range(5), max_concurrency=concurrency, on_error="continue")
            assert outcomes(records) == ["ok", "failed", "aborted", "cancelled", "ok"]


@pytest_anyio
@pytest.mark.parametrize("way", ["run", "stream"])
async def test_cancelling_the_caller_leaves_nothing_running(way: str) -> None:
    """And loses no slot (FAN-19, 27)."""
    gates = AsyncGates()
    async with AsyncFanout() as fanout:

        async def call() -> None:
            if way == "run":
                await fanout.run(gates, itertools.count(), max_concurrency=3)
            else:
                await collect(fanout.stream(gates, itertools.count(), max_concurrency=3))

        async with in_background(call) as background:
            await gates.until(started=3)
            background.scope.cancel()
            with anyio.fail_after(LIMIT):
                await background.done.wait()
            assert sorted(gates.cancelled) == sorted(gates.ended) == gates.started == [0, 1, 2]
        again = AsyncGates()
        async with in_background(lambda: fanout.run(again, range(3), max_concurrency=3)) as background:
            await again.until(started=3)
            again.open()
            assert len(await background.result()) == 3


@pytest.mark.parametrize("way", ["run", "stream"])
def test_cancelling_the_callers_asyncio_task(way: str) -> None:
    """The native way, too (FAN-27)."""

    async def main() -> None:
        gates = AsyncGates()
        async with AsyncFanout() as fanout:

            async def call() -> None:
                if way == "run":
                    await fanout.run(gates, itertools.count(), max_concurrency=3)
                else:
                    async with aclosing(fanout.stream(gates, itertools.count(), max_concurrency=3)) as stream:
                        await collect(stream)

            task = asyncio.create_task(call())
            await gates.until(started=3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert sorted(gates.ended) == gates.started == [0, 1, 2]

    asyncio.run(main())


@pytest_anyio
async def test_a_deadline_of_the_caller_is_his() -> None:
    """A cancelled call is cut off by its scope, and the caller goes on."""
    gates = AsyncGates()
    async with AsyncFanout() as fanout:
        with anyio.move_on_after(0) as scope:
            await fanout.run(gates, range(9), max_concurrency=3)
        assert scope.cancelled_caught
    assert len(gates.started) == len(gates.ended)


@pytest_anyio
async def test_a_stream_of_tasks_is_lazy_and_can_be_closed() -> None:
    """It reads no further than the window; `aclose` cancels what runs and waits for it (FAN-16)."""
    gates = AsyncGates()
    gates.open(*range(10))
    read = itertools.count()
    async with AsyncFanout() as fanout:
        async with aclosing(fanout.stream(gates, (next(read) for _ in itertools.count()), max_concurrency=3)) as stream:
            for i in range(10):
                record = await anext(stream)
                assert (record.index, record.value) == (i, i * 10)
            assert next(read) <= 13
        assert len(gates.started) == len(gates.ended)


@pytest_anyio
async def test_a_failing_iterator_ends_a_fan_out_of_tasks() -> None:
    """What ran is reported (FAN-18)."""
    error = OSError("gone")

    def items() -> Iterator[int]:
        yield from range(2)
        raise error

    gates = AsyncGates()
    async with AsyncFanout() as fanout:
        for way in (fanout.run, fanout.stream):
            delivered: list[Any] = []

            async def call(way: Any = way, delivered: list[Any] = delivered) -> None:
                made = way(gates, items(), max_concurrency=4)
                await (collect(made, delivered) if hasattr(made, "__aiter__") else made)

            async with in_background(call) as background:
                gates.open()
                assert await background.error() is error
            assert values([*delivered, *records_of(error)]) == [0, 10]


@pytest_anyio
async def test_each_task_has_its_own_copy_of_the_callers_context() -> None:
    """FAN-12, 20."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("caller")

    async def item(i: int) -> str:
        seen = variable.get()
        variable.set(f"item {i}")
        return seen

    async with AsyncFanout() as fanout:
        for concurrency in (1, 3):
            assert set(values(await fanout.run(item, range(9), max_concurrency=concurrency))) == {"caller"}
            stream = fanout.stream(item, range(9), max_concurrency=concurrency)
            variable.set("later")
            assert set(values(await collect(stream))) == {"caller"}
            variable.set("caller")


@pytest_anyio
async def test_tasks_may_fan_out() -> None:
    """FAN-14."""
    async with AsyncFanout() as fanout:

        async def inner(i: int) -> int:
            await anyio.lowlevel.checkpoint()
            return i

        async def outer(i: int) -> int:
            return i * sum(values(await fanout.run(inner, range(5), max_concurrency=2)))

        assert values(await fanout.run(outer, range(5), max_concurrency=2)) == [0, 10, 20, 30, 40]


@pytest_anyio
async def test_an_async_fan_out_refuses_what_makes_no_sense() -> None:
    """In one clear line, before anything runs."""
    async with AsyncFanout() as fanout:
        for arguments, kind in ((("x", [1]), TypeError), ((anyio.lowlevel.checkpoint, 3), TypeError)):
            with pytest.raises(kind, match="must be"):
                await fanout.run(*cast("Any", arguments))
            with pytest.raises(kind, match="must be"):
                fanout.stream(*cast("Any", arguments))
    with pytest.raises(RuntimeError, match="this fan-out was closed"):
        await fanout.run(cast("Any", abs), [1])
    with pytest.raises(RuntimeError, match="needs the fan-out's context"):
        AsyncFanout().stream(cast("Any", abs), [1])


@pytest_anyio
async def test_leaving_the_context_ends_open_streams() -> None:
    """Their items are cancelled, and whoever reads on is told."""
    gates = AsyncGates()
    async with AsyncFanout() as fanout:
        stream = fanout.stream(gates, range(9), max_concurrency=3)
        gates.open(0)
        assert (await anext(stream)).value == 0
        await gates.until(started=3)
    assert len(gates.started) == len(gates.ended)
    with pytest.raises(RuntimeError, match="closed before its stream was read"):
        await anext(stream)


@pytest_anyio
@pytest.mark.parametrize("seed", range(20))
async def test_any_mix_of_tasks_is_what_a_plain_loop_gives(seed: int) -> None:
    """As far as a loop gives results: where an error escapes, which one may depend on who was cancelled (FAN-15)."""
    choose = random.Random(seed)
    n = choose.randint(0, 8)
    kinds: list[Any] = [Halt("failed"), Halt("paused"), Halt("aborted")]
    mix: dict[int, BaseException] = {i: choose.choice(kinds) for i in range(n) if choose.random() < 0.3}
    gates = AsyncGates(mix)
    concurrency = choose.randint(1, 5)
    order = list(range(n))
    choose.shuffle(order)
    model = Gates(mix)
    model.open()
    async with AsyncFanout() as fanout:  # noqa: SIM117  too long for one line
        async with in_background(lambda: fanout.run(gates, range(n), max_concurrency=concurrency)) as call:
            for i in order:
                gates.open(i)
                await anyio.lowlevel.checkpoint()
            records = await call.result()
    assert [(r.index, r.status, r.value) for r in records] == sequential(model, n)[0]
    assert gates.most <= concurrency


@pytest_anyio
async def test_tasks_are_retried_as_the_policy_says() -> None:
    """Records count the attempts; an attempt that takes too long is cancelled first; halts are not retried."""
    flaky = Flaky({1: 1, 3: 2, 4: 9})
    async with AsyncFanout() as fanout:
        records = await fanout.run(flaky.aio, range(6), max_concurrency=2, on_error="continue", policy=AT_ONCE_AGAIN)
        assert outcomes(records) == ["ok", "ok", "ok", "ok", "failed", "ok"]
        assert [record.attempts for record in records] == [1, 2, 1, 3, 3, 1]
        records = await fanout.run(AsyncGates(), range(4), on_error="continue", policy=timeouts(2), max_concurrency=2)
        assert outcomes(records) == ["failed"] * 4
        assert all(record.attempts == 2 and isinstance(record.error, AttemptTimeout) for record in records)
        gates = AsyncGates({1: Halt()})
        gates.open()
        assert outcomes(await fanout.run(gates, range(9), policy=AT_ONCE_AGAIN)) == ["ok", "failed"]
        assert gates.started == [0, 1]


@pytest_anyio
@pytest.mark.parametrize("policy", [LONG, RetryPolicy(attempts=10**9, wait_max=0)], ids=["rests", "runs"])
async def test_a_task_that_is_retried_in_vain_is_dropped(policy: RetryPolicy) -> None:
    """A stop behind which nobody wants the item ends its wait, and its attempts (FAN-11)."""
    failed = anyio.Event()

    async def item(i: int) -> None:
        if i == 0:
            await failed.wait()
            raise Halt
        failed.set()
        await anyio.lowlevel.checkpoint()
        raise OSError("again")

    with anyio.fail_after(LIMIT):
        async with AsyncFanout() as fanout:
            assert outcomes(await fanout.run(item, range(2), max_concurrency=2, policy=policy)) == ["failed"]


@pytest_anyio
async def test_what_a_halt_needs_is_retried_yet_by_tasks() -> None:
    """An item before the halting one gets all its attempts (FAN-08)."""
    halted, tries = anyio.Event(), [0]

    async def item(i: int) -> None:
        if i == 1:
            halted.set()
            raise Halt
        await halted.wait()
        tries[0] += 1
        if tries[0] < 3:
            raise OSError

    policy = RetryPolicy(attempts=3, wait_initial=0.001, wait_jitter=0)
    async with AsyncFanout() as fanout:
        records = await fanout.run(item, range(9), max_concurrency=2, policy=policy)
    assert outcomes(records) == ["ok", "failed"]
    assert records[0].attempts == 3
