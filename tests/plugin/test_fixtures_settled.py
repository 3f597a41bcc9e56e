"""The fixtures `flowcheck_settled` and `flowcheck_timeline`: proof that nothing more happens, and what happened."""

from __future__ import annotations

import threading

import pytest

from pytest_flowcheck import fixtures
from pytest_flowcheck.fixtures.timeline import History

SETTLES = """
import asyncio, signal, threading
import anyio, pytest
from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor

def test_threads(flowcheck_settled, flowcheck_gates):
    work = flowcheck_gates.probe("work")
    with ThreadPoolExecutor(2) as pool, flowcheck_gates:
        futures = [pool.submit(work, n) for n in range(3)]
        still = flowcheck_settled()
        assert sorted(flowcheck_gates.started()) == ["work(0)", "work(1)"]
        assert "waits at the gate 'work(1)'" in still and len(still.waits) == 2, still

def test_processes(flowcheck_settled, flowcheck_gates):
    work = flowcheck_gates.probe("work", abs)
    with ProcessPoolExecutor(2) as pool, flowcheck_gates:
        futures = [pool.submit(work, n) for n in range(5)]
        flowcheck_settled()
        assert sorted(flowcheck_gates.started()) == ["work(0)", "work(1)"]

async def limited(gates, settled):
    work, limit = gates.probe("work"), anyio.Semaphore(2)
    async def one(n):
        async with limit:
            await work.aio(n)
    async with anyio.create_task_group() as group:
        for n in range(3):
            group.start_soon(one, n)
        still = await settled.aio()
        assert len(gates.started()) == 2
        assert "test_theirs.py" in still and "one" in still, still
        gates.open_all()

@pytest.mark.anyio
async def test_on_a_loop(flowcheck_gates, flowcheck_settled):
    await limited(flowcheck_gates, flowcheck_settled)

@pytest.mark.asyncio
async def test_with_another_plugin(flowcheck_gates, flowcheck_settled):
    await limited(flowcheck_gates, flowcheck_settled)

@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_from_outside_of_a_loop(backend, flowcheck_settled):
    event = []
    async def main():
        event.append(anyio.Event())
        await event[0].wait()
    from anyio.from_thread import start_blocking_portal
    with start_blocking_portal(backend) as portal:
        future = portal.start_task_soon(main)
        still = flowcheck_settled()
        assert "main" in still, still
        portal.call(event[0].set)

@pytest.mark.anyio
async def test_a_deadline(flowcheck_settled):
    with anyio.fail_after(3600):
        await flowcheck_settled.aio(patience=0.1)

@pytest.mark.flowcheck_patience(0.1)
def test_a_thread_runs_on(flowcheck_settled, flowcheck_gates):
    over, gate = [], flowcheck_gates.gate("also")
    def run():
        while not over:
            pass
    with ThreadPoolExecutor(2, thread_name_prefix="busy") as pool:
        pool.submit(run), pool.submit(gate.wait)
        try:
            flowcheck_settled()
        finally:
            over.append(1)

def test_a_thread_that_the_user_vouches_for(flowcheck_settled):
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, args=(3600,), name="metrics")
    thread.start()
    flowcheck_settled.ignore(thread)
    assert "metrics" not in flowcheck_settled()
    stop.set()
    thread.join()

def test_never(flowcheck_settled):
    flowcheck_settled.until(lambda: False, "the server is ready")

@pytest.mark.flowcheck_patience("long")
def test_bad_marker(flowcheck_settled): pass

def test_bad_argument(flowcheck_settled):
    flowcheck_settled(patience=0)

def test_an_alarm(flowcheck_settled):
    theirs, their_time = signal.signal(signal.SIGALRM, lambda *_: None), signal.setitimer(signal.ITIMER_REAL, 3600)
    try:
        flowcheck_settled(patience=0.1)
    finally:
        signal.signal(signal.SIGALRM, theirs), signal.setitimer(signal.ITIMER_REAL, *their_time)

@pytest.fixture(scope="module")
def server():
    with ThreadPoolExecutor(1, thread_name_prefix="server") as pool:
        stop = threading.Event()
        pool.submit(stop.wait, 3600)
        yield
        stop.set()

def test_a_thread_of_a_wider_fixture(server, flowcheck_settled):
    flowcheck_settled(patience=0.1)

def test_passes(flowcheck_timeline):
    flowcheck_timeline.note("not told")

@pytest.fixture
def fails(flowcheck_timeline):
    flowcheck_timeline.note("set up")
    yield
    flowcheck_timeline.note("torn down")
    assert not "a teardown"

def test_fails_at_teardown(fails): pass
"""


def test_what_can_be_proven_is_proven_and_nothing_else(theirs) -> None:
    """Threads, processes, loops; a clock or a running thread forbids it, and the message says which. xdist's connection and
    the alarm of pytest-timeout forbid nothing."""
    done = theirs(SETTLES, "-n1", "-rA", "--timeout=200", "-p", "no:randomly", quiet=False)
    assert done.status == 1, done.output
    failed = {line.split(" ")[1].partition("::")[2] for line in done.output.splitlines() if line.startswith("FAILED")}
    assert failed == {
        "test_a_deadline[asyncio]",
        "test_a_deadline[trio]",
        "test_a_thread_runs_on",
        "test_never",
        "test_bad_argument",
        "test_an_alarm",
        "test_a_thread_of_a_wider_fixture",
    }, done.output
    for told in (
        "not proven within 0.1 s that nothing more will happen: thread 'MainThread' waits (epoll_wait: ",
        "not proven within 0.1 s that nothing more will happen: thread 'busy_0' runs",
        "it can never come about that the server is ready",
        "the marker flowcheck_patience got 'long'; it takes a number of seconds, more than 0",
        "patience=0: write a number of seconds, more than 0",
        "will happen: process",
        " has an interval timer (SIGALRM)",
        "will happen: thread 'server_0' waits (futex: a private futex, with a deadline)",
        "- flowcheck timeline -",
        "set up  (MainThread)",
        "torn down  (MainThread)",
    ):
        assert told in done.output, (told, done.output)
    assert "not told" not in done.output, "a test that passes shows no timeline"


def test_the_example_of_its_page_does_what_the_page_says(page_of_theirs) -> None:
    """Word for word."""
    done = page_of_theirs("prove-that-nothing-more-happens")
    assert "1 failed, 2 passed" in done.output, done.output


def test_the_example_of_the_timelines_page_does_what_the_page_says(page_of_theirs) -> None:
    """Word for word."""
    done = page_of_theirs("tell-what-happened")
    assert "1 failed" in done.output, done.output


class Settings:
    """What an ini file says, but for one key."""

    inipath = "pytest.ini"

    def __init__(self, **said: str) -> None:
        usual = {"loops": "fail", "leaks": "fail", "unable": "skip", "patience": "30"}
        self.said = {**{f"flowcheck_{key}": value for key, value in usual.items()}, **said}
        self.getini = self.said.__getitem__

    def addinivalue_line(self, name: str, line: str) -> None:
        """Markers are of no interest here."""


@pytest.mark.parametrize(
    ("key", "said", "told"),
    [
        (
            "flowcheck_patience",
            "ten",
            "flowcheck_patience = 'ten' in pytest.ini: write a number of seconds, more than 0",
        ),
        ("flowcheck_patience", "0", "flowcheck_patience = '0' in pytest.ini: write a number of seconds, more than 0"),
        (
            "flowcheck_patience",
            "nan",
            "flowcheck_patience = 'nan' in pytest.ini: write a number of seconds, more than 0",
        ),
        ("flowcheck_leaks", "reap", "flowcheck_leaks = 'reap' in pytest.ini: write 'fail' or 'warn'"),
    ],
)
def test_a_bad_setting_gets_one_clear_line(key: str, said: str, told: str) -> None:
    """Of pytest's own kind, which ends the run before any test."""
    with pytest.raises(pytest.UsageError) as raised:
        fixtures.register(Settings(**{key: said}))
    assert str(raised.value) == told


def test_events_can_be_asserted_on(flowcheck_timeline, flowcheck_gates) -> None:
    """Notes and the events of gates, in order; from any thread."""
    flowcheck_timeline.note("begin")
    thread = threading.Thread(target=flowcheck_gates.probe("work", gated=False), name="runs it")
    thread.start()
    thread.join()
    assert flowcheck_timeline.names() == ["begin", "work", "work"]
    assert flowcheck_timeline.names("started", "ended") == ["work", "work"]
    assert flowcheck_timeline.names("note") == ["begin"]
    assert [event.thread for event in flowcheck_timeline.of("started")] == ["runs it"]
    assert "work ended  (runs it, pid " in str(flowcheck_timeline)


def test_a_long_history_is_told_without_its_middle() -> None:
    """A hundred lines of each end."""
    history = History(lambda: None)
    for number in range(1000):
        history.note(f"line {number}.")
    told = str(history)
    assert "... 800 more ..." in told
    assert ("line 99." in told, "line 100." in told, "line 899." in told, "line 900." in told) == (
        True,
        False,
        False,
        True,
    )
