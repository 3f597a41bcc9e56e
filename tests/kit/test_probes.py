"""Probes, gates and the history: what rules steer by."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import signal
import socket
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import anyio
import pytest

from pytest_flowcheck.probes import wire
from pytest_flowcheck.probes.gates import Gates
from pytest_flowcheck.probes.probe import Bench, Probe, call_name
from pytest_flowcheck.probes.timeline import Timeline


@pytest.fixture
def bench() -> Bench:
    return Bench(Timeline(), Gates())


def wait(bench: Bench, kind: str, count: int = 1) -> None:
    bench.timeline.wait_for(lambda: len(bench.timeline.of(kind)) >= count)


def test_a_call_has_a_name_of_its_own() -> None:
    """A probe called without arguments is named after itself, else after its arguments too."""
    assert call_name("item", ()) == "item"
    assert call_name("item", (3, "c")) == "item(3, 'c')"


def test_a_probe_waits_at_its_gate(bench: Bench) -> None:
    """It reports its start, nothing more until the gate opens, and its end before the task is done."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(Probe(bench, "task"))
        wait(bench, "started")
        assert bench.timeline.live() == ["task"]
        assert not future.done()
        bench.gates.open("task")
        assert future.result() == "task"
    assert [e.kind for e in bench.timeline.events] == ["started", "ended"]


def test_a_failing_probe_says_so(bench: Bench) -> None:
    """What the task's work raises goes through, and stands in the history."""
    with pytest.raises(ZeroDivisionError):
        Probe(bench, "task", lambda: 1 // 0, gated=False)()
    assert bench.timeline.names("raised") == ["task"]
    assert bench.timeline.live() == []


def test_an_open_gate_stays_open(bench: Bench) -> None:
    """Whoever comes late walks through; others still wait."""
    bench.gates.open("early")
    bench.gates.wait("early")
    reached: list[str] = []
    bench.gates.when_open("other", lambda: reached.append("other"))
    assert reached == []
    bench.gates.open_all()
    assert reached == ["other"]


def test_shutting_all_holds_new_comers(bench: Bench) -> None:
    """After `open_all` and `shut_all` a new name waits again."""
    bench.gates.open_all()
    bench.gates.shut_all()
    reached: list[str] = []
    bench.gates.when_open("late", lambda: reached.append("late"))
    assert reached == []
    bench.gates.open("late", "late")
    assert reached == ["late"]


def test_a_pickled_probe_is_its_double_in_this_process(bench: Bench) -> None:
    """A copy made here reports to the same gates."""
    copy = pickle.loads(pickle.dumps(Probe(bench, "task", gated=False)))
    assert copy() == "task"
    assert bench.timeline.names("ended") == ["task"]


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_probe_in_another_process_uses_the_same_gates(bench: Bench, method: str) -> None:
    """Start, gate and end cross processes, whichever way these are started."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        future = pool.submit(Probe(bench, "task"), 1)
        wait(bench, "started")
        (started,) = bench.timeline.of("started")
        assert started.pid != os.getpid()
        assert not future.done()
        bench.gates.open("task(1)")
        assert future.result() == "task(1)"
        assert bench.timeline.names("ended") == ["task(1)"]


def test_a_killed_worker_shows_as_lost(bench: Bench) -> None:
    """The kernel closes the connection of a dead worker: the probe is lost, not silent."""
    process = multiprocessing.get_context("fork").Process(target=pickle.loads(pickle.dumps(Probe(bench, "task"))))
    # the copy was made in this process; the fork calls it in another, over the wire
    process.start()
    wait(bench, "started")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    wait(bench, "lost")
    process.join()
    assert bench.timeline.live() == []


def test_a_probe_that_was_only_inherited_says_what_to_do(bench: Bench) -> None:
    """A fork that never pickled the probe has no way to report; it says so instead of hanging."""
    probe = Probe(bench, "task")
    probe._owner = -1
    with pytest.raises(RuntimeError, match="only a pickled probe"):
        probe()


def test_strangers_are_turned_away(bench: Bench) -> None:
    """Without the key nobody reports; one that stalls holds up nobody."""
    address = bench.address(lambda _: None)
    with (
        socket.create_connection(("127.0.0.1", address.port)) as stalled,
        socket.create_connection(("127.0.0.1", address.port)) as liar,
    ):
        assert len(stalled.recv(16, socket.MSG_WAITALL)) == 16
        liar.recv(16, socket.MSG_WAITALL)
        liar.sendall(bytes(32))
        assert liar.recv(1) == b""
        with wire.exchange(address, bench.token) as line:
            line.say("started-free", "honest")
            line.say("ended", "honest")
    assert bench.timeline.names("started", "ended") == ["honest", "honest"]


def test_a_probe_whose_rule_is_over_is_let_go() -> None:
    """Late workers don't stay stuck at gates that nobody will open."""
    bench = Bench(Timeline(), Gates())
    address, token = bench.address(lambda _: None), bench.token
    wire.server().desks.pop(token)
    with wire.exchange(address, token) as line:
        line.say("started", "late")
        line.say("ended", "late")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_awaits_a_probe(bench: Bench, backend: str) -> None:
    """`aio` suspends at the gate, and a gate opened by another thread lets it go."""
    opener = threading.Thread(target=lambda: (wait(bench, "started"), bench.gates.open("task")))
    opener.start()
    assert anyio.run(Probe(bench, "task").aio, backend=backend) == "task"
    opener.join()
    assert [e.kind for e in bench.timeline.events] == ["started", "ended"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_awaited_probe_honours_cancellation(bench: Bench, backend: str) -> None:
    """Cancelled at its gate it ends as raised, and the cancellation goes on."""

    async def main() -> bool:
        async with anyio.create_task_group() as group:

            async def run() -> None:
                await Probe(bench, "task").aio()

            group.start_soon(run)
            await anyio.to_thread.run_sync(wait, bench, "started")
            group.cancel_scope.cancel()
        return group.cancel_scope.cancelled_caught

    assert anyio.run(main, backend=backend)
    assert bench.timeline.names("raised") == ["task"]


def test_a_gate_opened_for_a_dead_loop_is_no_error(bench: Bench) -> None:
    """The loop that waited may be gone when the gate opens."""

    async def main() -> None:
        task = asyncio.ensure_future(Probe(bench, "task").aio())
        await asyncio.to_thread(wait, bench, "started")
        task.cancel()

    asyncio.run(main())
    bench.gates.open_all()


def test_the_history_reads_well() -> None:
    """A line says when, what and where."""
    timeline = Timeline()
    timeline.append("started", "task", 12, 34, "worker_0")
    timeline.append("note", "shutdown called")
    first, second = map(str, timeline.events)
    assert first.endswith("ms  task started  (worker_0, pid 12)")
    assert second.endswith("ms  shutdown called")
