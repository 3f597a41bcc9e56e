"""The reference service, where its own promises go beyond the facet's rules: waiting, cancelling, forking, reporting."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import pytest
from gating import Gate, background

import flowcheck_reference
from flowcheck_reference import Engine, Flow
from flowcheck_reference.isolation import (
    Run,
    RunCancelledError,
    Service,
    ServiceClosedError,
    ServiceFullError,
    Session,
    cancelling,
)

PATIENCE = 30.0
"""Seconds; only what is broken takes so long."""


class ThisRunFailsError(Exception):
    """A run's own error."""


def add(a: int, b: int) -> int:
    return a + b


async def aadd(a: int, b: int) -> int:
    return a + b


def thread_name() -> str:
    return threading.current_thread().name


def fails() -> None:
    raise ThisRunFailsError


def ended(run: Run[Any]) -> None:
    """Wait until it holds no slot any more: its thread is told so by nobody, so it is looked at after each of its steps."""
    for _ in range(10_000_000):
        if run.state == "over":
            return
        os.sched_yield() if hasattr(os, "sched_yield") else None
    raise AssertionError(f"{run!r} never ended")


# --- beside the rest of the engine ------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["blocking", "async"])
def test_flows_are_runs_of_a_service(gate: Gate, colour: str) -> None:
    """A bound for flows, with an engine's one set of workers below it; what is asked meanwhile is answered."""
    flow = Flow()
    flow.add(gate, id="first", needs=["input"])
    flow.add(aadd, id="sum", needs=["first", "input"])
    with Engine(2) as engine, Service(1) as service:
        run = engine.run if colour == "blocking" else engine.arun
        stuck, queued = (service.start(run, flow, n, session=str(n)) for n in (1, 2))
        gate.arrived()
        assert (service.queued, [held.session for held in service.running]) == (1, ["1"])
        assert service.short(add, 1, 2) == 3
        assert engine.run(one_node())["node"] == 7  # nobody's run: the engine's own callers go on
        gate.opened.set()
        assert (stuck.result()["sum"], queued.result()["sum"]) == (2, 4)


def one_node() -> Flow:
    flow = Flow()
    flow.add(lambda: 7, id="node")
    return flow


# --- run, and start ---------------------------------------------------------------------------------------------------


def test_plain_and_async_functions_run_alike() -> None:
    """On the service's threads; async ones on a loop of that thread. Values come back in every way in."""
    with Service(2, name="build") as service:
        assert service.run(add, 1, 2) == 3
        assert service.run(aadd, 1, 2) == 3
        assert service.start(aadd, 1, 3).result(PATIENCE) == 4
        assert asyncio.run(service.arun(add, 2, 3)) == 5
        assert asyncio.run(service.arun(aadd, 2, 4)) == 6
        assert service.run(thread_name).startswith("build-run_")
        assert service.short(thread_name).startswith("build-op_")
        assert asyncio.run(service.ashort(thread_name)).startswith("build-op_")


def test_on_trio_async_functions_get_trios_loop() -> None:
    """Whoever speaks trio calls what speaks trio."""
    trio = pytest.importorskip("trio")

    async def here() -> bool:
        await trio.lowlevel.checkpoint()
        return bool(trio.lowlevel.in_trio_run())

    async def main() -> tuple[bool, str]:
        async with Service(1, name="trio") as service:
            return await service.arun(here), await service.ashort(thread_name)

    assert trio.run(main) == (True, "trio-op_0")


@pytest.mark.parametrize("error", [ThisRunFailsError, SystemExit, KeyboardInterrupt])
def test_whatever_a_run_raises_is_its_callers(error: type[BaseException]) -> None:
    """The same object; the thread goes on."""
    raised = error("this")

    def body() -> None:
        raise raised

    with Service(1) as service:
        with pytest.raises(error) as caught:
            service.run(body)
        assert caught.value is raised
        assert service.run(add, 1, 1) == 2
        assert not service.running


def test_a_run_sees_its_callers_context_and_keeps_its_own_changes() -> None:
    """As a task of asyncio's does."""
    word: ContextVar[str] = ContextVar("word", default="nothing")

    def change() -> str:
        was = word.get()
        word.set("the run's")
        return was

    async def achange() -> str:
        return change()

    with Service(1) as service:
        word.set("the caller's")
        assert service.run(change) == "the caller's"
        assert service.run(achange) == "the caller's"
        assert word.get() == "the caller's"


def test_a_failure_that_nobody_waits_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback, once; that of a `run` is its caller's and is not."""
    with Service(1) as service:
        with pytest.raises(ThisRunFailsError):
            service.run(fails, session="waited for")
        started = service.start(fails, session="started")
        with pytest.raises(ThisRunFailsError):
            started.result(PATIENCE)
    (record,) = [r for r in caplog.records if r.name == "flowcheck_reference.isolation"]
    assert "the run of session 'started' failed" in record.getMessage()
    assert record.exc_info is not None
    assert record.levelno == logging.ERROR


def test_nothing_of_a_run_is_kept() -> None:
    """Neither its function nor its value, once nobody has the run."""

    class Value:
        pass

    def body(value: Value) -> Value:
        return value

    with Service(1) as service:
        value = Value()
        there = weakref.ref(value)
        assert service.run(body, value) is value
        del value
        service.run(add, 1, 1)  # what the thread did last is another
        gc.collect()
        assert there() is None


# --- the bound and the queue ------------------------------------------------------------------------------------------


def test_the_queue_is_seen_and_has_an_end(gate: Gate) -> None:
    """One runs, one waits, the third is refused; when the first has ended the second has its slot, at once."""
    with Service(1, queue=1) as service:
        first = service.start(gate, "first", session="a")
        gate.arrived()
        second = service.start(gate, "second", session="b")
        assert service.queued == 1
        assert service.waiting == [second]
        assert (first.state, second.state) == ("running", "waiting")
        with pytest.raises(ServiceFullError, match="1 run, and 1 wait"):
            service.run(add, 1, 1)
        gate.opened.set()
        assert (first.result(PATIENCE), second.result(PATIENCE)) == ("first", "second")
        assert service.queued == 0
        assert repr(second) == "<run of session 'b': over>"


def test_without_a_queue_it_refuses(gate: Gate) -> None:
    """`queue=0`; and whoever has heard of a run's end finds its slot free."""
    with Service(1, queue=0) as service:
        pending = background(lambda: service.run(gate, "value"))
        gate.arrived()
        with pytest.raises(ServiceFullError):
            service.start(add, 1, 1)
        gate.opened.set()
        assert pending.result(PATIENCE) == "value"
        for i in range(50):
            assert service.run(add, i, 1) == i + 1


def test_many_callers_one_bound() -> None:
    """Sixteen threads, three slots: never four, and nothing is lost."""
    lock, now, most, total = threading.Lock(), [0], [0], [0]

    def body() -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        with lock:
            now[0] -= 1
            total[0] += 1

    with Service(3) as service:
        callers = [background(lambda: [service.run(body) for _ in range(25)]) for _ in range(16)]
        for caller in callers:
            caller.result(PATIENCE)
        assert total[0] == 16 * 25
        assert most[0] <= 3
        assert not service.running
        assert not service.queued


# --- the hook ---------------------------------------------------------------------------------------------------------


def test_a_hook_refuses_by_raising() -> None:
    """It gets the session; nothing was taken."""

    def admit(session: str) -> None:
        if session == "stranger":
            raise PermissionError(session)

    with Service(1, admit=admit) as service:
        with pytest.raises(PermissionError):
            service.run(add, 1, 1, session="stranger")
        with pytest.raises(PermissionError):
            service.start(add, 1, 1, session="stranger")
        assert service.session("friend").run(add, 1, 1) == 2


def test_an_async_hook_is_awaited_and_needs_a_loop() -> None:
    """`arun` and `astart` await it; the others say that they can't."""
    asked: list[str] = []

    async def admit(session: str) -> None:
        asked.append(session)

    async def main() -> int:
        async with Service(1, admit=admit) as service:
            run = await service.astart(add, 1, 1, session="started")
            value = await service.arun(add, 1, 2, session="run")
            with pytest.raises(TypeError, match="arun and astart"):
                service.start(add, 1, 1)
            return run.result(PATIENCE) + value

    assert asyncio.run(main()) == 5
    assert asked == ["started", "run"]


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_who_waits_in_the_queue_leaves_it(gate: Gate) -> None:
    """He is told at once, never runs, and holds up nobody behind him."""
    with Service(1) as service:
        first = service.start(gate)
        gate.arrived()
        second, third = service.start(add, 1, 1, session="b"), service.start(add, 2, 2)
        assert service.cancel("b") == 1
        assert service.waiting == [third]
        with pytest.raises(RunCancelledError):
            second.result(0)
        assert not second.cancel()
        gate.opened.set()
        assert third.result(PATIENCE) == 4
        assert first.done()


def test_a_plain_function_is_asked_and_keeps_its_slot(gate: Gate) -> None:
    """Its waiter is told at once; the slot is free when it has ended, and it may look whether it is wanted."""
    seen: list[bool] = []

    def body() -> None:
        seen.append(cancelling())
        gate()
        seen.append(cancelling())

    with Service(1, queue=0) as service:
        run = service.start(body, session="a")
        gate.arrived()
        assert run.cancel()
        with pytest.raises(RunCancelledError):
            run.result(0)
        assert run.state == "cancelling"
        assert service.running == [run]
        with pytest.raises(ServiceFullError):
            service.run(add, 1, 1)
        gate.opened.set()
        ended(run)
        assert service.run(add, 1, 1) == 2
    assert seen == [False, True]
    assert not cancelling()


def test_an_async_function_is_cancelled() -> None:
    """On its loop: its cleanup runs, and the slot is free then."""
    begun, cleaned = threading.Event(), threading.Event()

    async def body() -> None:
        try:
            begun.set()
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned.set()

    with Service(1) as service:
        run = service.start(body)
        assert begun.wait(PATIENCE)
        run.cancel()
        assert cleaned.wait(PATIENCE)
        assert service.run(add, 1, 1) == 2


def test_on_trio_too() -> None:
    """By a cancel scope."""
    trio = pytest.importorskip("trio")
    begun, cleaned = threading.Event(), threading.Event()

    async def body() -> None:
        try:
            begun.set()
            await trio.sleep_forever()
        finally:
            cleaned.set()

    async def main() -> str:
        async with Service(1) as service:
            run = service.start(body)
            await trio.to_thread.run_sync(begun.wait, PATIENCE)
            run.cancel()
            await trio.to_thread.run_sync(cleaned.wait, PATIENCE)
            return str(await service.arun(thread_name))

    assert trio.run(main)


def test_a_caller_that_is_cancelled_cancels_his_run(gate: Gate) -> None:
    """And does not wait for it."""

    async def main() -> str:
        async with Service(1, limit=0) as service:
            task = asyncio.create_task(service.arun(gate))
            await asyncio.to_thread(gate.arrived)
            (run,) = service.running
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return run.state

    assert asyncio.run(main()) == "cancelling"


def test_a_failure_after_the_cancellation_is_logged(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody waits any more: it would be lost."""

    def body() -> None:
        gate()
        raise ThisRunFailsError

    with Service(1) as service:
        run = service.start(body)
        gate.arrived()
        run.cancel()
        gate.opened.set()
        service.run(add, 1, 1)
    assert "was cancelled, and failed then" in caplog.text


# --- work within runs -------------------------------------------------------------------------------------------------


def test_a_run_in_a_run_is_a_part_of_it() -> None:
    """The same thread, the same slot; async ones alike. `run` of an async function there is refused: the loop would wait."""
    with Service(1, queue=0) as service:
        assert service.run(lambda: (thread_name(), service.run(thread_name))) == (f"{service.name}-run_0",) * 2

        async def outer() -> int:
            return await service.arun(aadd, 1, 2) + await service.arun(add, 1, 2)

        assert service.run(outer) == 6
        with pytest.raises(TypeError, match="await arun"):
            service.run(lambda: service.run(aadd, 1, 2))


def test_a_run_that_starts_another_takes_a_slot_for_it() -> None:
    """Nobody waits, so nothing can deadlock."""
    with Service(1) as service:
        run: Run[int] = service.run(lambda: service.start(add, 1, 1))
        assert run.result(PATIENCE) == 2


def test_what_a_run_left_behind_is_in_no_run(gate: Gate) -> None:
    """It has the run's context, and asks for a slot like anybody else once that is over."""
    with Service(1, queue=0) as service, flowcheck_reference.Executor(1) as elsewhere:
        left: Future[str] = service.run(lambda: elsewhere.submit(lambda: (gate(), service.run(thread_name))[1]))
        gate.arrived()
        gate.opened.set()
        assert left.result(PATIENCE).startswith(f"{service.name}-run")


def test_parts_go_on_though_every_thread_for_them_is_stuck(gate: Gate) -> None:
    """The run's own thread takes part. Values come in item order; the first error in it is raised."""
    with Service(2) as service:
        stuck = service.start(lambda: service.map(gate, range(20)), session="stuck")
        gate.arrived(4)
        assert service.run(lambda: service.map(lambda i: i * i, range(10))) == [i * i for i in range(10)]
        with pytest.raises(ZeroDivisionError):
            service.run(lambda: service.map(lambda i: 1 // (i - 3), range(5)))
        gate.opened.set()
        assert stuck.result(PATIENCE) == [*range(20)]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_close_reports_what_is_still_in_flight(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """By session and thread; who waited is refused; nothing is taken any more. Again, there is nothing to say."""
    service = Service(1, limit=0, name="s")
    service.start(gate, session="stuck")
    gate.arrived()
    waiting = service.start(add, 1, 1)
    assert service.close() == ["a run of session 'stuck' is still in flight, on thread 's-run_0'"]
    assert "still in flight" in caplog.text
    with pytest.raises(ServiceClosedError):
        waiting.result(0)
    with pytest.raises(ServiceClosedError):
        service.run(add, 1, 1)
    with pytest.raises(RuntimeError):
        service.short(add, 1, 1)
    assert service.close() == []


def test_close_waits_for_what_ends() -> None:
    """A run that heeds its cancellation is not reported."""
    begun = threading.Event()

    async def body() -> None:
        begun.set()
        await asyncio.get_running_loop().create_future()

    service = Service(1)
    service.start(body)
    assert begun.wait(PATIENCE)
    assert service.close() == []
    assert not service.running


def test_a_run_may_close_its_service() -> None:
    """It does not wait for itself."""
    service = Service(1)
    run = service.start(service.close)
    with pytest.raises(RunCancelledError):
        run.result(PATIENCE)
    ended(run)


def test_a_process_exits_though_a_run_is_stuck() -> None:
    """Once the service was left; and without leaving, when its runs have ended."""
    code = """
import threading
from flowcheck_reference import Service

begun = threading.Event()

def stuck():
    begun.set()
    threading.Event().wait()

with Service(1, limit=0.01) as service:
    service.start(stuck)
    begun.wait()
Service(1).run(print, "done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "done\n"
    assert "still in flight" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_service_of_its_own(gate: Gate) -> None:
    """The parent's runs are the parent's."""
    with Service(1) as service:
        service.start(gate)
        gate.arrived()
        pid = os.fork()
        if not pid:
            code = 1
            try:
                code = int(service.run(add, 1, 1) != 2 or service.queued != 0)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        gate.opened.set()


# --- sessions, and what is no argument --------------------------------------------------------------------------------


def test_a_session_alone_is_a_service_of_one() -> None:
    """Opened and closed by itself; that of a service only lets go of its own runs."""
    with Session("notebook") as session:
        assert session.run(add, 1, 1) == 2
        assert session.short(add, 1, 2) == 3
        assert session.run(thread_name).startswith("flowcheck-session-notebook-run")
    with pytest.raises(ServiceClosedError):
        session.run(add, 1, 1)
    with Service(1) as service:
        with service.session("a") as bound:
            assert bound.start(add, 1, 1).result(PATIENCE) == 2
        assert service.run(add, 1, 1) == 2


def test_an_async_session_cancels_its_runs_only() -> None:
    """The service goes on."""

    async def main() -> int:
        async with Service(2) as service:
            async with service.session("a") as session:
                assert await session.arun(aadd, 1, 1) == 2
                assert await session.ashort(add, 1, 1) == 2
                assert session.cancel() == 0
            async with Session("alone") as alone:
                return await alone.arun(aadd, 1, 1) + await service.arun(aadd, 1, 1)

    assert asyncio.run(main()) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"max_concurrent_runs": 0},
        {"max_concurrent_runs": True},
        {"max_concurrent_runs": "2"},
        {"max_concurrent_runs": 1, "queue": -1},
        {"max_concurrent_runs": 1, "queue": 1.5},
        {"max_concurrent_runs": 1, "limit": -1},
        {"max_concurrent_runs": 1, "limit": float("nan")},
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    """With a sentence that names it."""
    name = [*options][-1]
    with pytest.raises((ValueError, TypeError), match=name):
        Service(**options)


def test_no_thread_to_be_had_is_told_to_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """And costs no slot."""
    with Service(1) as service:

        def refuse(*_: Any) -> Future[Any]:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patched:
            patched.setattr(service._threads, "submit", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                service.run(add, 1, 1)
        assert not service.running
        assert service.run(add, 1, 1) == 2


def test_names_are_exported() -> None:
    """What a user needs is at the top."""
    for name in (
        "Run",
        "RunCancelledError",
        "Service",
        "ServiceClosedError",
        "ServiceFullError",
        "Session",
        "cancelling",
    ):
        assert name in flowcheck_reference.__all__
