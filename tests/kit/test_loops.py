"""Event loops that were left behind are found, told with who made them, and reaped; nothing else is touched."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import pytest

from pytest_flowcheck.proof import LeftLoop, LoopWatch


@pytest.fixture
def watch() -> Iterator[LoopWatch]:
    with LoopWatch() as watch:
        yield watch


async def for_ever(*, cleanup: list[int], generation: int, last: int) -> None:
    """Cleans up when it is cancelled, and starts the next one in that."""
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        if generation < last:
            next_one = asyncio.create_task(for_ever(cleanup=cleanup, generation=generation + 1, last=last))
            await turn()
            tasks.append(next_one)
        cleanup.append(generation)
        raise


tasks: list[Any] = []


async def turn() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(lambda: future.done() or future.set_result(None))
    await future


class Left:
    """A loop on a thread of its own, as a careless test leaves it."""

    def __init__(self, make: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        self.loop = make()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True, name="careless")
        self.thread.start()
        self.ran(turn())

    def ran(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def leave(self, coroutine: Any) -> None:
        async def start() -> None:
            tasks.append(asyncio.create_task(coroutine, name="left here"))
            await turn()

        self.ran(start())


def test_nothing_is_found_where_nothing_was_left(watch: LoopWatch) -> None:
    """A loop that was run and closed is no leftover, nor the one that runs here."""
    mark = watch.mark()
    asyncio.run(turn())
    assert watch.left(mark) == []

    async def inside() -> list[LeftLoop]:
        return watch.left(mark)

    assert asyncio.run(inside()) == []


def test_a_loop_on_a_thread_is_told_and_reaped(watch: LoopWatch) -> None:
    """It says where it was made, on which thread it runs, and which tasks are on it; then all of them end."""
    mark, cleanup = watch.mark(), list[int]()
    careless = Left()
    careless.leave(for_ever(cleanup=cleanup, generation=1, last=3))
    (left,) = watch.left(mark)
    assert (left.loop, left.thread, left.older) == (careless.loop, careless.thread, False)
    told = str(left)
    for part in ("test_loops.py", "in __init__", "thread 'careless'", "task 'left here' (for_ever)"):
        assert part in told
    assert watch.reap([left]) == []
    assert sorted(cleanup) == [1, 2, 3]
    assert careless.loop.is_closed()
    assert not careless.thread.is_alive()
    assert watch.left(mark) == []


def test_a_loop_that_never_ran_is_closed(watch: LoopWatch) -> None:
    """Nobody closes it but the reaper, which needs a thread of its own where another loop runs."""
    mark, cleanup = watch.mark(), list[int]()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(turn())
    tasks.append(loop.create_task(for_ever(cleanup=cleanup, generation=1, last=2)))
    loop.run_until_complete(turn())

    async def inside() -> list[str]:
        (left,) = watch.left(mark)
        assert "is not running" in str(left)
        return watch.reap([left])

    assert asyncio.run(inside()) == []
    assert loop.is_closed()
    assert sorted(cleanup) == [1, 2]


def test_tasks_on_an_older_loop_are_ended_and_it_goes_on(watch: LoopWatch) -> None:
    """A loop of the whole session keeps its own tasks; what one test left on it is ended."""
    session, cleanup = Left(), list[int]()
    session.leave(for_ever(cleanup=cleanup, generation=7, last=7))
    mark = watch.mark()
    assert watch.left(mark) == []
    session.leave(for_ever(cleanup=cleanup, generation=1, last=1))
    (left,) = watch.left(mark)
    assert left.older
    assert len(left.tasks) == 1
    assert watch.reap([left]) == []
    assert cleanup == [1]
    session.ran(turn())
    assert watch.reap([LeftLoop(session.loop, "here", session.thread, (), older=False)]) == []
    assert cleanup == [1, 7]


def test_what_resists_is_told(watch: LoopWatch) -> None:
    """A cleanup that never ends is cut off at the limit, and a thread that never comes round is left."""
    mark, gate = watch.mark(), threading.Event()
    stubborn = Left()

    async def never() -> None:
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                continue

    stubborn.leave(never())
    (told,) = watch.reap(watch.left(mark), limit=0.05)
    assert "task 'left here'" in told
    assert "did not end" in told
    assert stubborn.loop.is_closed()

    blocked = Left()
    blocked.loop.call_soon_threadsafe(gate.wait)
    (left,) = watch.left(mark)
    (told,) = watch.reap([left], limit=0.05)
    assert "its thread is stuck" in told
    gate.set()
    blocked.thread.join()
    blocked.loop.close()


def test_an_executor_is_let_go_with_its_loop(watch: LoopWatch) -> None:
    """Threads of the default executor that are idle end."""
    mark = watch.mark()
    careless = Left()

    async def use() -> threading.Thread:
        return await asyncio.get_running_loop().run_in_executor(None, threading.current_thread)

    thread = careless.ran(use())
    assert watch.reap(watch.left(mark)) == []
    thread.join()


@pytest.fixture
def uvloops() -> Any:
    return pytest.importorskip("uvloop").new_event_loop


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # uvloop's own, on newer Pythons
def test_loops_of_uvloop_are_found_and_reaped(watch: LoopWatch, uvloops: Any) -> None:
    """With tasks, thread and the threads of their executor, running or not."""
    mark = watch.mark()
    running, idle = Left(uvloops), uvloops()

    async def use() -> threading.Thread:
        return await asyncio.get_running_loop().run_in_executor(None, threading.current_thread)

    thread = running.ran(use())
    done: list[int] = []
    running.leave(for_ever(cleanup=done, generation=0, last=2))
    found = watch.left(mark)
    assert [(left.loop, left.thread) for left in found] == [(running.loop, running.thread), (idle, None)]
    assert "test_loops.py" in found[0].made_at
    assert watch.reap(found) == []
    assert (done, running.thread.is_alive(), running.loop.is_closed(), idle.is_closed()) == ([0, 1, 2], False, True, True)
    thread.join()
    assert watch.left(mark) == []


@pytest.mark.parametrize("make", [asyncio.new_event_loop, None], ids=["asyncio", "uvloop"])
def test_loops_that_are_older_than_the_watch_are_recalled(make: Any, request: pytest.FixtureRequest) -> None:
    """They are nobody's leftovers; the tasks that are left on them are."""
    session = Left(make or request.getfixturevalue("uvloops"))
    done: list[int] = []
    with LoopWatch() as watch:
        watch.recall()
        mark = watch.mark()
        assert watch.left(mark) == []
        session.leave(for_ever(cleanup=done, generation=0, last=0))
        (left,) = [left for left in watch.left(mark) if left.loop is session.loop]
        assert left.older
        assert watch.reap([left]) == []
        assert (done, session.loop.is_running()) == ([0], True)
    session.loop.call_soon_threadsafe(session.loop.stop)
    session.thread.join()
    session.loop.close()


def test_it_holds_no_loop(watch: LoopWatch) -> None:
    """A loop that is closed and dropped is gone, whoever watches."""
    loop = asyncio.new_event_loop()
    gone = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert gone() is None
    assert watch.left(watch.mark()) == []


def test_leaving_restores_what_was_wrapped() -> None:
    """Two watches at once, left in any order; then asyncio is as it was."""
    before = asyncio.BaseEventLoop.__init__
    first, second = LoopWatch(), LoopWatch()
    with first:
        second.__enter__()
    asyncio.new_event_loop().close()
    assert asyncio.BaseEventLoop.__init__ is not before
    second.__exit__()
    assert asyncio.BaseEventLoop.__init__ is before


def test_a_test_that_leaves_nothing_costs_next_to_nothing(watch: LoopWatch) -> None:
    """The best of many looks, beside a session's loop with tasks of its own: no more than to make and close a few loops
    takes, measured in turn with it. To go through all objects, or all frames, would take a hundred times that.
    """
    session = Left()
    for generation in range(5):
        session.leave(for_ever(cleanup=[], generation=generation, last=generation))
    looks: list[float] = []
    loops: list[float] = []
    for _ in range(200):
        began = perf_counter()
        assert watch.left(watch.mark()) == []
        looked = perf_counter()
        asyncio.new_event_loop().close()
        looks.append(looked - began)
        loops.append(perf_counter() - looked)
    assert min(looks) <= 4 * min(loops)
    assert watch.reap([LeftLoop(session.loop, "here", session.thread, (), older=False)]) == []
