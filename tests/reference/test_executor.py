"""The executor keeps the rules of its facet; each test says which, and needs no kit to say it.

Tasks are held at events and barriers. A wait that a broken executor would not end has a limit, so that the test fails
rather than hangs; a sound executor never gets near it.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Future,
    as_completed,
    wait,
)
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from functools import partial, partialmethod
from typing import TYPE_CHECKING, Any

import pytest
from gating import LIMIT, Gate, in_threads

import flowcheck_reference
from flowcheck_reference import Executor
from flowcheck_reference.subject import Reference

if TYPE_CHECKING:
    from collections.abc import Iterator



def workers_of(executor: Executor) -> list[threading.Thread]:
    """The executor's threads that are alive."""
    prefix = executor._pool.prefix + "_"
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


def script(code: str, *, status: int = 0) -> str:
    """Run `code` in an interpreter of its own, and give what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, "")
    return done.stdout


# -- calls and results


def test_result_is_the_calls_own() -> None:
    """`submit` gives a Future of the call's result; arguments pass through, also the keywords `fn`, `self` (EXE-01)."""
    with Executor(1) as executor:
        value = object()
        future = executor.submit(lambda *a, **k: (a, k), 1, value, fn=2, self=3)
        assert isinstance(future, Future)
        assert future.result(LIMIT) == ((1, value), {"fn": 2, "self": 3})


class FalsyError(Exception):
    """An error that counts as false."""

    def __len__(self) -> int:
        return 0


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x", 1),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        StopIteration(4),
        CancelledError(),
        TimeoutError(),
        FalsyError(),
    ],
)
def test_an_error_is_the_futures_own_and_the_worker_goes_on(error: BaseException) -> None:
    """What a task raises, `exception()` and `result()` give, the same object; the worker goes on (EXE-02, 13)."""
    with Executor(1) as executor:
        cause = LookupError("the cause")

        def fail() -> None:
            raise error from cause

        future = executor.submit(fail)
        assert future.exception(LIMIT) is error
        with pytest.raises(type(error)) as caught:
            future.result()
        assert caught.value is error
        assert error.__cause__ is cause
        assert "fail" in [entry.name for entry in caught.traceback]
        assert executor.submit(threading.get_ident).result(LIMIT) == executor.submit(threading.get_ident).result(LIMIT)
        assert len(workers_of(executor)) == 1


@pytest.mark.parametrize("n", [1, 2, 5])
def test_n_tasks_are_in_flight_and_no_more(gate: Gate, n: int) -> None:
    """With n workers, n gated tasks run together and the next ones wait for them (EXE-03)."""
    with Executor(n) as executor:
        futures = [executor.submit(gate, i) for i in range(3 * n)]
        gate.arrived(n)
        assert gate.nobody_waits()
        assert len(workers_of(executor)) == n
        gate.opened.set()
        assert [future.result(LIMIT) for future in futures] == list(range(3 * n))


def test_one_task_after_the_other_needs_at_most_n_workers() -> None:
    """10·n sequential tasks are served by at most n threads in all (EXE-04)."""
    with Executor(3) as executor:
        assert len({executor.submit(threading.get_ident).result(LIMIT) for _ in range(30)}) <= 3


def test_a_resting_worker_is_preferred_to_a_new_one() -> None:
    """While a worker rests none is started (EXE-04)."""
    with Executor(5) as executor:
        executor.submit(int).result(LIMIT)
        for _ in range(50):
            while not executor._pool.idle:  # the worker is on its way to bed; nothing announces that
                threading.Event().wait(0)
            executor.submit(int).result(LIMIT)
        assert len(workers_of(executor)) == 1


def test_one_worker_starts_tasks_in_order(gate: Gate) -> None:
    """One worker starts tasks in the order of their submission (EXE-05)."""
    seen: list[int] = []
    with Executor(1) as executor:
        executor.submit(gate)
        for i in range(100):
            executor.submit(seen.append, i)
        gate.opened.set()
    assert seen == list(range(100))


# -- map


def test_map_keeps_the_order_and_stops_at_the_shortest() -> None:
    """`map` gives results in input order, and zips to the shortest iterable (EXE-06)."""
    with Executor(4) as executor:
        assert list(executor.map(pow, range(50), [2] * 30)) == [i**2 for i in range(30)]


def test_map_raises_the_first_error_at_its_place(gate: Gate) -> None:
    """`map` raises the first error in input order, at its place, though a later one came earlier (EXE-06)."""

    def body(i: int) -> int:
        if i == 1:
            gate()
            raise KeyError(i)
        if i == 3:
            gate.opened.set()
            raise ValueError(i)
        return i

    with Executor(4) as executor:
        results = executor.map(body, range(5))
        assert next(results) == 0
        with pytest.raises(KeyError):
            next(results)


def test_map_times_out_and_cancels_what_it_can(gate: Gate) -> None:
    """A result that is not there by the deadline raises TimeoutError, and what is still queued never runs (EXE-07)."""
    ran: list[int] = []
    with Executor(1) as executor:
        results = executor.map(lambda i: gate() if i == 0 else ran.append(i), range(5), timeout=0.01)
        gate.arrived()
        with pytest.raises(TimeoutError):
            next(results)
        gate.opened.set()
    assert ran == []


def test_an_input_that_raises_raises_to_the_caller() -> None:
    """An error of map's input comes out of the call, and what was submitted ends (EXE-38)."""
    ran: list[int] = []

    def items() -> Iterator[int]:
        yield from range(3)
        raise LookupError

    with Executor(1) as executor, pytest.raises(LookupError):
        executor.map(ran.append, items())
    assert ran == [0, 1, 2]


# -- cancel


def test_cancel_of_a_queued_task_is_for_good(gate: Gate) -> None:
    """A queued task can be cancelled: it never runs, readers get CancelledError, nothing changes back (EXE-08)."""
    ran: list[int] = []
    with Executor(1) as executor:
        running = executor.submit(gate)
        queued = [executor.submit(ran.append, i) for i in range(10)]
        gate.arrived()
        assert all(future.cancel() for future in queued[::2])
        assert all(future.cancel() for future in queued[::2]), "cancelling twice is cancelling"
        for future in queued[::2]:
            with pytest.raises(CancelledError):
                future.result()
            with pytest.raises(CancelledError):
                future.exception()
        assert not running.cancel(), "what is seen running can't be cancelled (EXE-29)"
        assert running.running()
        gate.opened.set()
    assert ran == [1, 3, 5, 7, 9]
    assert not queued[1].cancel()
    assert all(future.cancelled() for future in queued[::2])


@pytest.mark.parametrize("way", ["wait", "as_completed"])
@pytest.mark.parametrize("canceller", ["cancel", "shutdown"])
def test_waiters_hear_of_a_cancel_at_once(gate: Gate, way: str, canceller: str) -> None:
    """`wait` and `as_completed` wake for a cancelled future while every worker is busy (EXE-31)."""
    executor = Executor(1)
    executor.submit(gate)
    gate.arrived()
    future = executor.submit(int)
    woken: list[object] = []
    waits = threading.Thread(
        target=lambda: woken.append(wait([future]).done if way == "wait" else set(as_completed([future]))), daemon=True
    )
    waits.start()
    while not future._waiters:  # the thread waits now; nothing announces that
        threading.Event().wait(0)
    if canceller == "cancel":
        assert future.cancel()
    else:
        executor.shutdown(wait=False, cancel_futures=True)
    waits.join(LIMIT)
    assert woken == [{future}]
    gate.opened.set()
    executor.shutdown()


def test_cancel_against_the_worker_has_one_winner() -> None:
    """When `cancel`, twice, races the worker, the task runs or is cancelled, never both, never neither (EXE-08)."""
    with Executor(2) as executor:
        for _ in range(500):
            ran: list[int] = []
            said: list[bool] = []
            calls: list[Future[None]] = []
            future = executor.submit(ran.append, 1)
            future.add_done_callback(calls.append)
            in_threads(2, lambda _: said.append(future.cancel()))  # noqa: B023  they end within the round
            assert wait([future], LIMIT).done
            assert future.cancelled() == (not ran) == any(said) == all(said)
            assert calls == [future]


# -- shutdown


def test_with_waits_for_the_work_and_the_threads_end(gate: Gate) -> None:
    """Leaving the block returns when all tasks are done, and no thread of it is left (EXE-09, 12, 17)."""
    before = threading.active_count()
    with Executor(3) as executor:
        futures = [executor.submit(int) for _ in range(30)]
    assert all(future.done() for future in futures)
    assert threading.active_count() == before


def test_shutdown_without_wait_returns_while_tasks_run(gate: Gate) -> None:
    """`shutdown(wait=False)` returns at once; what was submitted completes (EXE-30)."""
    executor = Executor(1)
    futures = [executor.submit(gate, i) for i in range(3)]
    executor.shutdown(wait=False)
    assert not futures[0].done()
    gate.opened.set()
    assert [future.result(LIMIT) for future in futures] == [0, 1, 2]
    executor.shutdown()
    assert workers_of(executor) == []


def test_shutdown_can_cancel_the_queue(gate: Gate) -> None:
    """`shutdown(cancel_futures=True)` cancels what no worker has, and lets the rest finish (EXE-10)."""
    executor = Executor(2)
    futures = [executor.submit(gate, i) for i in range(6)]
    gate.arrived(2)
    executor.shutdown(wait=False, cancel_futures=True)
    gate.opened.set()
    executor.shutdown()
    assert [future.cancelled() for future in futures] == [False, False, True, True, True, True]
    assert [future.result() for future in futures[:2]] == [0, 1]


def test_shutdown_may_be_called_often_and_from_anywhere(gate: Gate) -> None:
    """`shutdown` is idempotent, from many threads at once; then `submit` raises RuntimeError (EXE-11)."""
    executor = Executor(2)
    future = executor.submit(int)
    in_threads(4, lambda _: executor.shutdown())
    executor.shutdown(cancel_futures=True)
    assert future.result(0) == 0
    with pytest.raises(RuntimeError, match="shut down"):
        executor.submit(int)


def test_shutdown_from_a_task_does_not_wait_for_itself() -> None:
    """A task that waits for the shutdown of its own executor is told so; without wait it may shut it down (EXE-11)."""
    with Executor(1) as executor:
        with pytest.raises(RuntimeError, match="wait=False"):
            executor.submit(executor.shutdown).result(LIMIT)
        with pytest.raises(RuntimeError, match="shut down"):
            executor.submit(int)
    with Executor(1) as executor:
        assert executor.submit(executor.shutdown, wait=False).result(LIMIT) is None


@pytest.mark.parametrize("cancel_futures", [False, True])
def test_submit_against_shutdown_leaves_nothing_pending(cancel_futures: bool) -> None:
    """A task submitted during shutdown runs, is cancelled or is refused; it is never left pending (EXE-11)."""
    for _ in range(200):
        executor = Executor(2)
        futures: list[Future[int]] = []

        def body(i: int, executor: Executor, futures: list[Future[int]]) -> None:
            if i == 0:
                executor.shutdown(cancel_futures=cancel_futures)
                return
            with suppress(RuntimeError):
                for _ in range(20):
                    futures.append(executor.submit(int))  # noqa: PERF401  those before the refusal count

        in_threads(4, partial(body, executor=executor, futures=futures))
        executor.shutdown()
        assert all(future.done() for future in futures)
        assert workers_of(executor) == []


# -- callbacks, threads, other waits


def test_callbacks_run_once_in_order_whatever_they_raise(caplog: pytest.LogCaptureFixture, gate: Gate) -> None:
    """Done-callbacks run once, in order, late ones at once; one that raises stops nothing (EXE-14)."""
    calls: list[object] = []

    def bad(_: Future[Any]) -> None:
        calls.append("bad")
        raise ValueError

    with Executor(1) as executor:
        future = executor.submit(gate)
        future.add_done_callback(bad)
        future.add_done_callback(calls.append)
        gate.opened.set()
        assert executor.submit(int).result(LIMIT) == 0
        assert calls == ["bad", future]
        future.add_done_callback(calls.append)
        assert calls == ["bad", future, future]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_a_callback_that_ends_the_world_does_not_end_the_worker(
    error: type[BaseException], caplog: pytest.LogCaptureFixture, gate: Gate
) -> None:
    """A done-callback's SystemExit is logged, and the worker goes on (EXE-14)."""

    def bad(_: Future[Any]) -> None:
        raise error

    with Executor(1) as executor:
        future = executor.submit(gate)
        future.add_done_callback(bad)
        gate.opened.set()
        assert executor.submit(int).result(LIMIT) == 0
    assert "callback" in caplog.text


def test_callbacks_may_use_the_executor(gate: Gate) -> None:
    """A done-callback may submit, cancel and add callbacks, without deadlock (EXE-35)."""
    more: list[Future[int]] = []
    late: list[Future[Any]] = []
    with Executor(1) as executor:
        future = executor.submit(gate)
        queued = executor.submit(int)

        def callback(done: Future[Any]) -> None:
            more.append(executor.submit(int, 7))
            queued.cancel()
            done.add_done_callback(late.append)

        future.add_done_callback(callback)
        called = threading.Event()
        future.add_done_callback(lambda _: called.set())
        gate.opened.set()
        assert called.wait(LIMIT)
    assert more[0].result(0) == 7
    assert queued.cancelled()
    assert late == [future]


def test_submit_from_many_threads_loses_nothing() -> None:
    """What many threads submit at once all runs, once (EXE-15)."""
    seen: list[tuple[int, int]] = []
    with Executor(4) as executor:
        in_threads(8, lambda i: [executor.submit(seen.append, (i, j)) for j in range(200)] and None)
    assert sorted(seen) == [(i, j) for i in range(8) for j in range(200)]


def test_futures_work_with_asyncio() -> None:
    """`asyncio.wrap_future` and `run_in_executor` take its futures; cancelling there cancels here (EXE-16)."""

    async def main(executor: Executor, gate: Gate) -> None:
        assert await asyncio.wrap_future(executor.submit(int, 3)) == 3
        loop = asyncio.get_running_loop()
        assert await asyncio.gather(*(loop.run_in_executor(executor, int, i) for i in range(20))) == list(range(20))
        held = loop.run_in_executor(executor, gate)
        queued = executor.submit(int)
        wrapped = asyncio.wrap_future(queued)
        heard = asyncio.Event()
        queued.add_done_callback(lambda _: loop.call_soon_threadsafe(heard.set))
        wrapped.cancel()
        await asyncio.wait_for(heard.wait(), LIMIT)
        assert queued.cancelled()
        gate.opened.set()
        await held

    with Executor(1) as executor:
        asyncio.run(main(executor, Gate()))


def test_a_read_that_times_out_disturbs_nothing(gate: Gate) -> None:
    """`result` and `exception` that time out raise TimeoutError; task and later readers don't notice (EXE-34)."""
    with Executor(1) as executor:
        future = executor.submit(gate, 5)
        gate.arrived()
        for timeout in (0, 0.001, -1):
            with pytest.raises(TimeoutError):
                future.result(timeout)
            with pytest.raises(TimeoutError):
                future.exception(timeout)
        gate.opened.set()
        assert future.result(LIMIT) == 5


# -- what stays behind


class Thing:
    """What can be watched by a weak reference."""


class WatchedError(Exception):
    """An error that can."""


def test_nothing_of_a_task_stays_when_it_is_over() -> None:
    """A task done and its future dropped: function, arguments, result, error are gone, while workers rest (EXE-18)."""
    with Executor(2) as executor:
        seen: list[weakref.ref[Any]] = []

        def submit() -> list[Future[Any]]:
            def returns(argument: Thing) -> Thing:
                result = Thing()
                seen.append(weakref.ref(result))
                return result

            def raises(*, argument: Thing) -> None:
                error = WatchedError(argument)
                seen.append(weakref.ref(error))
                raise error

            one, two = Thing(), Thing()
            seen.extend(map(weakref.ref, (returns, raises, one, two)))
            return [executor.submit(returns, one), executor.submit(raises, argument=two)]

        futures = submit()
        wait(futures, LIMIT)
        assert isinstance(futures[1].exception(), WatchedError)
        futures.clear()
        while len(executor._pool.idle) < len(workers_of(executor)):  # until they rest; nothing announces that
            threading.Event().wait(0)
        gc.collect()
        assert [ref() for ref in seen] == [None] * 6


def test_a_held_future_holds_only_the_outcome(gate: Gate) -> None:
    """A task over or cancelled: function and arguments are gone, with the future kept and workers busy (EXE-18)."""
    with Executor(2) as executor:
        one, two = Thing(), Thing()
        refs = [weakref.ref(one), weakref.ref(two)]
        done = executor.submit(id, one)
        done.result(LIMIT)
        executor.submit(gate)
        executor.submit(gate)
        gate.arrived(2)
        cancelled = executor.submit(id, two)
        cancelled.cancel()
        del one, two
        gc.collect()
        assert [ref() for ref in refs] == [None, None]
        gate.opened.set()


def test_a_failed_task_makes_no_cycle() -> None:
    """A future with an error is freed without the collector, after `result()` raised it, too."""
    with Executor(1) as executor:

        def fail() -> None:
            raise LookupError

        gc.collect()
        gc.disable()
        try:
            future = executor.submit(fail)
            with suppress(LookupError):
                future.result(LIMIT)
            ref = weakref.ref(future)
            executor.submit(int).result(LIMIT)
            del future
            assert ref() is None
        finally:
            gc.enable()


@pytest.mark.parametrize("busy", [False, True])
def test_a_dropped_executor_frees_its_workers(gate: Gate, busy: bool) -> None:
    """An executor dropped without shutdown does what it has, and its threads end (EXE-19)."""
    executor = Executor(3)
    first = [executor.submit(gate, i) for i in range(6)]
    gate.arrived(3)
    threads = workers_of(executor)
    if not busy:
        gate.opened.set()
        wait(first, LIMIT)
    ref = weakref.ref(executor)
    del executor
    gc.collect()
    assert ref() is None
    gate.opened.set()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive()
    assert [future.result(0) for future in first] == list(range(6))


def test_an_executor_dropped_at_any_moment_frees_its_workers() -> None:
    """No moment of dropping leaves a worker asleep (EXE-19)."""
    before = set(threading.enumerate())
    for i in range(300):
        executor = Executor(2)
        futures = [executor.submit(int) for _ in range(i % 4)]
        if i % 3 and futures:
            futures[-1].result(LIMIT)
        del executor
    for thread in set(threading.enumerate()) - before:
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_many_executors_leave_no_thread() -> None:
    """Open, use, close, often: nothing grows (EXE-17)."""
    before, known = threading.active_count(), len(flowcheck_reference.executor._pools)
    for _ in range(100):
        with Executor(3) as executor:
            list(executor.map(abs, range(5)))
    del executor
    assert threading.active_count() == before
    assert len(flowcheck_reference.executor._pools) == known


# -- initializer


def test_initializer_runs_once_in_each_worker_before_its_tasks(gate: Gate) -> None:
    """The initializer runs once per worker, first, with its arguments (EXE-21)."""
    mark = threading.local()
    ran: list[int] = []

    def initialize(step: int) -> None:
        mark.value = getattr(mark, "value", 0) + step
        ran.append(threading.get_ident())

    def body() -> int:
        gate()
        return int(mark.value)

    with Executor(3, initializer=initialize, initargs=(2,)) as executor:
        futures = [executor.submit(body) for _ in range(9)]
        gate.arrived(3)
        gate.opened.set()
        assert [future.result(LIMIT) for future in futures] == [2] * 9
        assert len(ran) == len(set(ran)) == 3


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("queued", [1, 5])
def test_a_failing_initializer_breaks_the_executor(
    error: type[BaseException], queued: int, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """If it raises, pending futures and later submits fail with BrokenExecutor, and nothing hangs (EXE-21, 39)."""

    def initialize() -> None:
        gate()
        raise error

    with Executor(2, initializer=initialize) as executor:
        futures = [executor.submit(int) for _ in range(queued)]
        gate.opened.set()
        for future in futures:
            assert isinstance(future.exception(LIMIT), BrokenThreadPool)
        with pytest.raises(BrokenExecutor, match=error.__name__):
            executor.submit(int)
    assert "initializer" in caplog.text


def test_a_slow_initializer_does_not_hold_up_a_worker_that_rests(gate: Gate) -> None:
    """While one worker's initializer is stuck the others work."""
    initializers = iter([int, int, gate])

    def initialize() -> None:
        next(initializers)()

    with Executor(3, initializer=initialize) as executor:
        inner = Gate()
        held = [executor.submit(inner) for _ in range(2)]
        inner.arrived(2)
        stuck = executor.submit(int)  # starts the third worker
        gate.arrived()
        inner.opened.set()
        wait(held, LIMIT)
        assert stuck.result(LIMIT) == 0, "a worker that came free took it"
        assert [executor.submit(int, i).result(LIMIT) for i in range(20)] == list(range(20))
        gate.opened.set()


# -- nested


@pytest.mark.parametrize("timeout", [None, LIMIT])
@pytest.mark.parametrize("n", [1, 3])
def test_nested_tasks_do_not_deadlock(n: int, timeout: float | None) -> None:
    """Tasks on every worker that submit to their own executor and wait get their results (EXE-23)."""
    with Executor(n) as executor:
        together = threading.Barrier(n)

        def outer(i: int) -> int:
            together.wait(LIMIT)
            return sum(future.result(timeout) for future in [executor.submit(int, i) for _ in range(3)])

        assert list(executor.map(outer, range(n), timeout=LIMIT)) == [3 * i for i in range(n)]


@pytest.mark.parametrize("timeout", [None, LIMIT])
def test_nested_trees_do_not_deadlock(timeout: float | None) -> None:
    """Nor do tasks within tasks within tasks, deep and wide (EXE-23)."""
    with Executor(2) as executor:

        def tree(depth: int) -> int:
            return sum(f.result(timeout) for f in [executor.submit(tree, depth - 1) for _ in range(2)]) if depth else 1

        def chain(depth: int) -> int:
            return executor.submit(chain, depth - 1).result(timeout) + 1 if depth else 0

        assert executor.submit(tree, 5).result(LIMIT) == 32
        assert executor.submit(chain, 100).result(LIMIT) == 100
        assert executor.submit(lambda: sum(executor.map(chain, range(5)))).result(LIMIT) == 10
        assert executor.submit(lambda: executor.submit(tree, 2).exception(timeout)).result(LIMIT) is None


@pytest.mark.parametrize("timeout", [None, LIMIT])
def test_tasks_that_wait_for_running_tasks_do_not_block_the_queue(gate: Gate, timeout: float | None) -> None:
    """A worker that waits for a running task, which waits for a queued one, blocks neither (EXE-23)."""
    with Executor(2) as executor:
        inside = Gate()

        def first() -> int:
            inside()
            return executor.submit(int, 7).result(LIMIT)

        future = executor.submit(first)
        inside.arrived()
        watching = threading.Event()

        def second() -> int:
            watching.set()
            return future.result(timeout)

        other = executor.submit(second)
        assert watching.wait(LIMIT)
        inside.opened.set()
        assert other.result(LIMIT) == 7


def test_after_nested_waits_the_bound_holds_again(gate: Gate) -> None:
    """Substitutes of waiting workers leave: afterwards n tasks run together, and no more (EXE-03, 23)."""
    with Executor(2) as executor:

        def chain(depth: int) -> int:
            return executor.submit(chain, depth - 1).result(LIMIT) + 1 if depth else 0

        assert executor.submit(chain, 20).result(LIMIT) == 20
        futures = [executor.submit(gate, i) for i in range(6)]
        gate.arrived(2)
        while len(workers_of(executor)) > 2:  # the last one is leaving; nothing announces that
            threading.Event().wait(0)
        assert gate.nobody_waits()
        gate.opened.set()
        assert [future.result(LIMIT) for future in futures] == list(range(6))
        assert (executor._pool.live, executor._pool.lent, executor._pool.waiting) == (2, 0, 0)


def test_a_task_in_an_event_loop_may_wait_for_one_that_starts_its_own() -> None:
    """A task is never run on top of a running event loop (EXE-23)."""

    async def inner() -> int:
        return 5

    async def outer(executor: Executor) -> int:
        return executor.submit(asyncio.run, inner()).result()

    with Executor(1) as executor:
        assert executor.submit(lambda: asyncio.run(outer(executor))).result(LIMIT) == 5


def test_without_a_thread_to_be_had_nested_tasks_still_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the system gives no thread, the first submit raises; a nested task runs in the waiting worker (EXE-23)."""

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Executor(1) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none_left)
            with pytest.raises(RuntimeError, match="thread"):
                executor.submit(int)
        assert executor.submit(int).result(LIMIT) == 0
        monkeypatch.setattr(threading.Thread, "start", none_left)
        assert executor.submit(lambda: executor.submit(int, 4).result(LIMIT)).result(LIMIT) == 4


# -- context


def test_context_of_the_submitter_is_seen_and_none_leaks() -> None:
    """A task sees the variables as they were at `submit`; what it changes, no other task sees (EXE-24)."""
    variable = contextvars.ContextVar("variable", default=0)

    def change() -> int:
        seen = variable.get()
        variable.set(seen + 100)
        return seen

    with Executor(1) as executor:
        token = variable.set(1)
        first = executor.submit(change)
        variable.set(2)
        second = executor.submit(change)
        variable.reset(token)
        third = executor.submit(lambda: (change(), executor.submit(change).result()))
        assert (first.result(LIMIT), second.result(LIMIT), third.result(LIMIT)) == (1, 2, (0, 100))
        assert variable.get() == 0


# -- resize, names


def test_a_larger_executor_takes_up_queued_work(gate: Gate) -> None:
    """Growing starts workers for what is queued (EXE-27)."""
    with Executor(1) as executor:
        futures = [executor.submit(gate, i) for i in range(5)]
        gate.arrived()
        executor.resize(3)
        gate.arrived(2)
        assert gate.nobody_waits()
        gate.opened.set()
        assert [future.result(LIMIT) for future in futures] == list(range(5))


@pytest.mark.parametrize("busy", [False, True])
def test_a_smaller_executor_sends_workers_home(gate: Gate, busy: bool) -> None:
    """Shrinking loses no work; those at rest leave at once, the busy ones when they come free (EXE-27)."""
    with Executor(4) as executor:
        futures = [executor.submit(gate, i) for i in range(4)]
        gate.arrived(4)
        if busy:
            executor.resize(1)
            futures += [executor.submit(int, 4)]
            gate.opened.set()
        else:
            gate.opened.set()
            wait(futures, LIMIT)
            executor.resize(1)
        assert [future.result(LIMIT) for future in futures] == list(range(len(futures)))
        while len(workers_of(executor)) > 1:  # they are leaving; nothing announces the last step
            threading.Event().wait(0)
        second = Gate()
        held = [executor.submit(second) for _ in range(3)]
        second.arrived()
        assert second.nobody_waits()
        second.opened.set()
        wait(held, LIMIT)


def test_resizing_while_others_submit_loses_nothing() -> None:
    """Any resizing beside any submitting loses no task (EXE-27)."""
    seen: list[tuple[int, int]] = []
    with Executor(2) as executor:

        def body(i: int) -> None:
            for j in range(200):
                if i:
                    executor.submit(seen.append, (i, j))
                else:
                    executor.resize(1 + j % 4)

        in_threads(4, body)
    assert sorted(seen) == [(i, j) for i in range(1, 4) for j in range(200)]


def test_workers_say_whose_they_are() -> None:
    """The name of a worker is the executor's prefix and a number (EXE-28)."""
    with Executor(1) as executor, Executor(1, "mine") as named:
        assert executor.submit(lambda: threading.current_thread().name).result(LIMIT).startswith("flowcheck-")
        assert named.submit(lambda: threading.current_thread().name).result(LIMIT) == "mine_0"


# -- processes: exit, fork, interrupts


def test_a_process_that_ends_does_its_work_first() -> None:
    """Without shutdown what was submitted runs, then the process exits; idle ones don't hold it (EXE-20)."""
    printed = script("""
import os, threading
from flowcheck_reference import Executor
idle, busy = Executor(2), Executor(2)
idle.submit(int).result()
gate = threading.Event()
def body(i):
    gate.wait(); threading.main_thread().join(); os.write(1, b"%d " % i)
for i in range(6): busy.submit(body, i)
Executor(1).submit(os.write, 1, b"dropped ").result()
gate.set()
""").split()
    assert (printed[0], sorted(printed[1:])) == ("dropped", [*"012345"])


@pytest.mark.parametrize("when", ["task", "atexit"])
def test_submit_at_exit_raises_or_runs(when: str) -> None:
    """A submit while the process exits raises or runs, and never hangs (EXE-20)."""
    assert script(f"""
import atexit, threading
from flowcheck_reference import Executor
executor = Executor(1)
def late():
    try: executor.submit(print, "ran")
    except RuntimeError as error: print("refused")
def task():
    threading.main_thread().join()
    late()
if {when!r} == "task": executor.submit(task)
else:
    executor.submit(int).result()
    atexit.register(late)
""").strip() in {"ran", "refused"}


def test_nested_tasks_at_exit_end() -> None:
    """Tasks that wait for tasks are done at exit, though 3.12 and later start no thread then (EXE-20, 23)."""
    assert (
        script("""
import threading
from flowcheck_reference import Executor
executor = Executor(1)
def outer():
    inner = executor.submit(int, 6)
    ready.set(); threading.main_thread().join()
    print(inner.result(20))
ready = threading.Event()
executor.submit(outer); ready.wait()
""").strip()
        == "6"
    )


FORK = """
import os, threading, signal
from flowcheck_reference import Executor
from concurrent.futures import BrokenExecutor
signal.alarm(40)
"""


def test_a_forked_child_may_use_the_executor() -> None:
    """In a forked child `submit` works, the parent's queue isn't run twice, its futures say whose they are (EXE-37)."""
    assert script(
        FORK
        + """
executor = Executor(2)
gate, came = threading.Event(), threading.Semaphore(0)
def body(i): came.release(); gate.wait(); os.write(1, b"%d" % i)
futures = [executor.submit(body, i) for i in range(3)]
came.acquire(); came.acquire()
pid = os.fork()
if not pid:
    assert executor.submit(lambda: 5).result() == 5
    for future in futures:
        try: future.result()
        except BrokenExecutor as error: assert "parent" in str(error)
        else: os._exit(7)
    executor.shutdown()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
gate.set()
executor.shutdown()
"""
    ).strip() in {"012", "102", "021", "201", "120", "210"}


def test_fork_with_the_lock_held_and_from_a_worker() -> None:
    """A child forked in any state, in a worker too, has an executor that works (EXE-37)."""
    assert (
        script(
            FORK
            + """
executor = Executor(2)
with executor._pool.lock:
    got = []
    def fork():
        pid = os.fork()
        if not pid:
            assert executor.submit(lambda: executor.submit(int, 4).result()).result() == 4
            executor.shutdown()
            os._exit(0)
        got.append(os.waitpid(pid, 0)[1])
    thread = threading.Thread(target=fork); thread.start(); thread.join()
executor.submit(fork).result()
print(got)
"""
        ).strip()
        == "[0, 0]"
    )


def test_keyboard_interrupt_while_waiting_leaves_the_executor_usable() -> None:
    """An interrupted `result`, or `shutdown`, disturbs neither task nor executor (EXE-36)."""
    assert script("""
import signal, threading
from flowcheck_reference import Executor
ready, gate = threading.Event(), threading.Event()
executor = Executor(1)
def once(*_):
    signal.signal(signal.SIGINT, lambda *_: None)
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, once)
def body():
    ready.wait()
    while not gate.wait(0.01):  # a signal that comes just before the system call interrupts nothing: again
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    return 3
future = executor.submit(body)
try: ready.set(); future.result()
except KeyboardInterrupt: print("interrupted")
gate.set()
print(future.result(), executor.submit(int, 4).result())
""").split() == ["interrupted", "3", "4"]


def test_interrupts_at_any_point_of_submit_leave_the_executor_usable() -> None:
    """However often SIGINT falls into `submit`, no worker is lost and the process ends (EXE-36)."""
    assert (
        script("""
import signal
from flowcheck_reference import Executor
executor = Executor(2)
hits = 0
def interrupt(_, frame):
    while frame is not None and frame.f_code is not Executor.submit.__code__:
        frame = frame.f_back
    if frame is not None:
        raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0003)
while hits < 1000:
    try:
        executor.submit(int)
    except (KeyboardInterrupt, RuntimeError):  # `Thread.start`, interrupted, may say "release unlocked lock" instead
        hits += 1
signal.setitimer(signal.ITIMER_REAL, 0)
print([executor.submit(int, i).result(20) for i in range(3)])
executor.shutdown()
""").strip()
        == "[0, 1, 2]"
    )


def test_a_signal_handler_may_submit_and_shut_down() -> None:
    """A handler that interrupts `submit` may itself submit, cancel and shut down without wait: no deadlock."""
    assert (
        script("""
import signal
from flowcheck_reference import Executor
executor = Executor(2)
hits = 0
def handler(*_):
    global hits
    hits += 1
    executor.submit(int)
    executor.submit(int).cancel()
    if hits >= 500:  # a handler may interrupt a handler, so that nobody sees exactly 500
        signal.setitimer(signal.ITIMER_REAL, 0)
        executor.shutdown(wait=False)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0003)
try:
    while True: executor.submit(int)
except RuntimeError: print(hits >= 500)
executor.shutdown()
""").strip()
        == "True"
    )


def test_an_interrupted_start_of_a_worker_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt before or after the thread has begun: the next submit works, the bound holds (EXE-03, 36)."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread, begun: bool) -> None:
        monkeypatch.undo()
        if begun:
            start(thread)
            while thread._args[0]:  # type: ignore[attr-defined]  # until it took its ticket
                threading.Event().wait(0)
        raise KeyboardInterrupt

    for begun in (False, True):
        with Executor(1) as executor:
            monkeypatch.setattr(threading.Thread, "start", partialmethod(interrupted, begun))
            with pytest.raises(KeyboardInterrupt):
                executor.submit(int)
            assert executor.submit(int, 2).result(LIMIT) == 2
            assert len(workers_of(executor)) == 1


# -- the package


def test_reference_subject_opens_fresh_executors() -> None:
    """The subject that the kit certifies opens an executor of the size asked for, initialised as asked."""
    subject = Reference()
    assert subject.name == "reference"
    assert subject.version == flowcheck_reference.__version__
    seen: list[int] = []
    with subject.executor(max_workers=2, initializer=seen.append, initargs=(1,)) as executor:
        assert executor.submit(int).result(LIMIT) == 0
    assert seen == [1]
    assert subject.executor(max_workers=2) is not executor


def test_exports_agree() -> None:
    """What `__all__` lists is there, sorted; another name is an AttributeError."""
    assert sorted(flowcheck_reference.__all__) == flowcheck_reference.__all__
    assert all(hasattr(flowcheck_reference, name) for name in flowcheck_reference.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        flowcheck_reference.no_such_name  # noqa: B018  looking is what raises
