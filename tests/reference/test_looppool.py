"""The reference loop pool, where its own promises go beyond the facet's rules: waiting, cancelling, forking, reporting."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading
import weakref
from concurrent.futures import CancelledError
from contextvars import ContextVar
from typing import Any

import pytest

import flowcheck_reference
from flowcheck_reference.looppool import DispatchCancelledError, Dispatched, LoopPool, PoolStoppedError


class Gate:
    """A coroutine waits here until a thread lets it go."""

    def __init__(self) -> None:
        self.arrived, self._open = threading.Event(), threading.Event()
        self._future: asyncio.Future[None] | None = None

    async def __call__(self, value: Any = None) -> Any:
        self._loop = asyncio.get_running_loop()
        self._future = self._loop.create_future()
        self.arrived.set()
        await self._future
        return value

    def open(self) -> None:
        assert self._future is not None
        self._loop.call_soon_threadsafe(self._future.set_result, None)


async def turn() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_soon(lambda: future.done() or future.set_result(None))
    await future


async def where() -> tuple[asyncio.AbstractEventLoop, threading.Thread]:
    return asyncio.get_running_loop(), threading.current_thread()


async def add(a: int, *, b: int) -> int:
    return a + b


# --- dispatch and submit ----------------------------------------------------------------------------------------------


def test_arguments_are_passed_through() -> None:
    """Positional and by name, in every way in."""
    with LoopPool() as pool:
        assert pool.dispatch(add, 1, b=2) == 3
        assert pool.submit(add, 1, b=3).result() == 4
        assert asyncio.run(pool.adispatch(add, 1, b=4)) == 5


def test_what_is_no_coroutine_function_is_its_callers_error() -> None:
    """A TypeError where it was dispatched; the loop goes on."""
    with LoopPool() as pool:
        with pytest.raises(TypeError):
            pool.dispatch(lambda: 3)  # type: ignore[arg-type, return-value]
        assert pool.dispatch(add, 1, b=1) == 2


def test_a_result_can_be_waited_for_with_a_limit_and_again() -> None:
    """A wait that times out disturbs nothing; whoever asks late gets the same."""
    gate = Gate()
    with LoopPool() as pool:
        pending = pool.submit(gate, "value")
        assert gate.arrived.wait(10)
        with pytest.raises(TimeoutError, match="it runs on"):
            pending.result(timeout=0.01)
        assert not pending.done()
        gate.open()
        assert [pending.result(timeout=10), pending.result()] == ["value", "value"]
        assert pending.done()


def test_callbacks_run_once_early_or_late() -> None:
    """Added before and after the end, each is called exactly once."""
    gate, called = Gate(), list[str]()
    with LoopPool() as pool:
        pending = pool.submit(gate)
        pending.when_done(lambda: called.append("early"))
        assert gate.arrived.wait(10)
        gate.open()
        pending.result(timeout=10)
        pending.when_done(lambda: called.append("late"))
    assert called == ["early", "late"]


def test_cancelling_ends_the_coroutine_and_answers() -> None:
    """In flight; and before it has begun, when nothing of it ever runs."""
    gate = Gate()
    with LoopPool() as pool:
        pending = pool.submit(gate)
        assert gate.arrived.wait(10)
        pending.cancel()
        with pytest.raises(DispatchCancelledError):
            pending.result(timeout=10)

        held, ran = threading.Event(), list[int]()

        async def hold() -> None:
            held.wait(10)

        async def late() -> None:
            ran.append(1)

        first, second = pool.submit(hold), pool.submit(late)
        second.cancel()
        held.set()
        first.result(timeout=10)
        with pytest.raises(CancelledError):
            second.result(timeout=10)
        assert ran == []


def test_whoever_cancels_all_tasks_loses_no_dispatch() -> None:
    """Also those that had not begun are answered."""
    with LoopPool() as pool:
        held = threading.Event()

        async def cancel_all() -> int:
            held.wait(10)
            await turn()  # what was posted meanwhile are tasks now, in this round or the next
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            return len(others)

        first = pool.submit(cancel_all)
        rest = [pool.submit(Gate()) for _ in range(3)]
        held.set()
        assert first.result(timeout=10) == 3
        for pending in rest:
            with pytest.raises(DispatchCancelledError):
                pending.result(timeout=10)


def test_a_dispatch_on_the_pools_own_thread() -> None:
    """Blocking it would wait for itself, and says so; awaited or submitted it runs."""
    with LoopPool() as pool:

        async def nested() -> tuple[str, int, int]:
            try:
                pool.dispatch(add, 1, b=1)
            except RuntimeError as error:
                refused = str(error)
            pending = pool.submit(add, 1, b=2)
            return refused, await pool.adispatch(add, 1, b=3), pending.result()

        refused, four, three = pool.dispatch(nested)
        assert "await adispatch()" in refused
        assert (four, three) == (4, 3)


def test_trio_callers() -> None:
    """A trio task awaits a coroutine on the pool's asyncio loop; its cancellation reaches it."""
    trio = pytest.importorskip("trio")
    gate = Gate()

    async def main() -> None:
        async with LoopPool() as pool:
            assert await pool.adispatch(add, 1, b=1) == 2
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pool.adispatch, gate)
                await trio.to_thread.run_sync(gate.arrived.wait, 10)
                nursery.cancel_scope.cancel()
            assert gate._future is not None
            await pool.adispatch(turn)
            assert gate._future.cancelled()

    trio.run(main)


def test_nothing_of_a_call_is_kept() -> None:
    """Function, arguments and context are let go once it is over, the result with its dispatch."""

    class Thing:
        pass

    thing, value = Thing(), ContextVar[Any]("value", default=None)
    gone = weakref.ref(thing)

    async def use(it: Thing) -> Thing:
        return it

    with LoopPool() as pool:
        token = value.set(thing)
        pending = pool.submit(use, thing)
        assert pending.result(timeout=10) is thing
        value.reset(token)
        del thing, token, pending
        pool.dispatch(turn)
        pool.dispatch(turn)
        gc.collect()
        assert gone() is None


# --- stop -------------------------------------------------------------------------------------------------------------


def test_stop_gives_nothing_to_report_and_names_itself() -> None:
    """An empty list; later dispatches are refused, each way in."""
    pool = LoopPool(name="mine")
    pool.dispatch(turn)
    assert pool.warm
    assert pool.stop() == pool.stop() == []
    assert (pool.stopped, pool.warm) == (True, False)
    with pytest.raises(PoolStoppedError, match="mine was stopped"):
        pool.dispatch(turn)
    with pytest.raises(PoolStoppedError):
        asyncio.run(pool.adispatch(turn))


def test_what_is_cut_off_is_reported_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A cleanup that never ends, by the name of its task; the dispatch it belongs to is answered."""

    async def stubborn() -> None:
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                started.set()

    started = threading.Event()
    pool = LoopPool(limit=0.05)
    pending = pool.submit(stubborn)
    pool.dispatch(turn)
    with caplog.at_level(logging.WARNING, "flowcheck_reference.looppool"):
        (left,) = pool.stop()
    assert "stubborn" in left or "_run" in left
    assert "gave up on" in caplog.text
    with pytest.raises(DispatchCancelledError):
        pending.result(timeout=10)


def test_a_thread_that_is_stuck_is_told_with_its_place() -> None:
    """A coroutine that blocks its thread: stop says where, and answers whoever waits, also behind it."""
    held, inside = threading.Event(), threading.Event()

    async def block() -> None:
        inside.set()
        held.wait(10)

    pool = LoopPool(limit=0.05)
    first = pool.submit(block)
    assert inside.wait(10)
    behind = pool.submit(turn)
    (left,) = pool.stop()
    assert "is stuck, at" in left
    with pytest.raises(DispatchCancelledError):
        first.result(timeout=10)
    with pytest.raises((DispatchCancelledError, PoolStoppedError)):
        behind.result(timeout=10)
    held.set()


def test_a_reap_and_a_stop_at_once_disturb_each_other_not(caplog: pytest.LogCaptureFixture) -> None:
    """Many times a loop is found idle at the moment in which the pool is stopped: nothing is ever cut off."""
    with caplog.at_level(logging.WARNING, "flowcheck_reference.looppool"):
        for _ in range(50):
            pool = LoopPool(0)
            pending = [pool.submit(turn) for _ in range(3)]
            for one in pending:
                one.result(timeout=10)
            assert pool.stop() == []
    assert caplog.text == ""


def test_bad_arguments_are_refused() -> None:
    """Before anything is made."""
    for bad in (-1, float("nan"), float("inf"), "60", True):
        with pytest.raises(ValueError, match="ttl must be a number of seconds"):
            LoopPool(bad)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="limit must be"):
            LoopPool(limit=bad)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_makes_a_loop_of_its_own() -> None:
    """Its parent's thread stayed behind."""
    with LoopPool() as pool:
        parents, _ = pool.dispatch(where)
        child = os.fork()
        if not child:
            status = 1
            try:
                own, _ = pool.dispatch(where)
                pool.stop()
                status = 0 if own is not parents else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert pool.dispatch(where)[0] is parents


# --- resources --------------------------------------------------------------------------------------------------------


class Closable:
    def __init__(self, key: str, loop: asyncio.AbstractEventLoop) -> None:
        self.key, self.loop, self.closed = key, loop, 0


async def connect(key: str) -> Closable:
    return Closable(key, asyncio.get_running_loop())


async def disconnect(client: Closable) -> None:
    assert asyncio.get_running_loop() is client.loop
    client.closed += 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # uvloop's own, on newer Pythons
def test_a_loop_of_uvloop_may_ask() -> None:
    """It awaits what runs on the warm loop; and may stop the pool."""
    uvloop = pytest.importorskip("uvloop")

    async def here() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def main() -> None:
        async with LoopPool() as pool:
            theirs = [await pool.adispatch(here) for _ in range(2)]
            assert theirs[0] is theirs[1]
            assert theirs[0] is not await here()
            assert isinstance(await here(), uvloop.Loop)
        assert pool.stopped

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def test_resources_live_on_the_warm_loop() -> None:
    """Made there, shared while held, kept for the TTL, finalised there at stop; a lease is a context manager."""
    with LoopPool(None) as pool:
        clients = pool.resources(connect, disconnect)
        with clients.acquire("db") as one, clients.acquire("db") as two:
            assert one is two
            assert one.loop is pool.dispatch(where)[0]
        with clients.acquire("db") as three:
            assert three is one

        async def elsewhere() -> bool:
            async with await clients.aacquire("db") as four:
                return four is one

        assert asyncio.run(elsewhere())
        assert one.closed == 0
    assert one.closed == 1


def test_a_loop_is_not_reaped_while_a_resource_is_held() -> None:
    """With TTL 0, which otherwise reaps at once."""
    with LoopPool(0) as pool:
        lease = pool.resources(connect, disconnect).acquire("db")
        assert pool.dispatch(where)[0] is lease.value.loop
        assert pool.dispatch(where)[0] is lease.value.loop
        loop, thread = pool.dispatch(where)
        lease.release()
        lease.release()
        thread.join(10)
        assert loop.is_closed()
        assert lease.value.closed == 1


def test_plain_functions_make_and_finalise_too() -> None:
    """And a factory that failed is asked again."""
    made = list[str]()

    def make(key: str) -> list[str]:
        made.append(key)
        if len(made) == 1:
            raise OSError("not yet")
        return made

    with LoopPool(None) as pool:
        lists = pool.resources(make, list.clear)
        with pytest.raises(OSError, match="not yet"):
            lists.acquire("a")
        with lists.acquire("a") as value:
            assert value == ["a", "a"]
        lists.clear()
        assert made == []


# --- the package ------------------------------------------------------------------------------------------------------


def test_it_is_exported() -> None:
    """From the package, by name, when asked for."""
    assert flowcheck_reference.LoopPool is LoopPool
    assert flowcheck_reference.Dispatched is Dispatched
    assert flowcheck_reference.PoolStoppedError is PoolStoppedError
