"""The fixture `flowcheck_gates`: what a test may decide, what it can't wait for in vain, and that nobody stays at a gate."""

from __future__ import annotations

import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import anyio
import pytest

from pytest_flowcheck.errors import UsageError

BACKENDS = pytest.mark.parametrize("backend", ["asyncio", "trio"])

FATES = """
import anyio, pytest, threading
from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor

def test_never(flowcheck_gates):
    work = flowcheck_gates.probe("work")
    with ThreadPoolExecutor(2) as pool:
        for n in range(3):
            pool.submit(work, n)
        flowcheck_gates.until_started(3)

def test_never_in_processes(flowcheck_gates):
    work = flowcheck_gates.probe("work", abs)
    with ProcessPoolExecutor(1) as pool:
        pool.submit(work, 1), pool.submit(work, 2)
        flowcheck_gates.until_started("work(2)")

@pytest.mark.anyio
async def test_never_on_a_loop(flowcheck_gates):
    async with anyio.create_task_group() as group:
        group.start_soon(flowcheck_gates.probe("work").aio, 1)
        await flowcheck_gates.aio.until_ended("work(1)")

@pytest.mark.asyncio
async def test_never_with_another_plugin(flowcheck_gates):
    await flowcheck_gates.aio.until(lambda: False, "pigs fly")

def test_an_assertion_fails_while_one_is_at_its_gate(flowcheck_gates):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(flowcheck_gates.probe("work"))
        assert "what it is" == "what it should be"

def test_forgets_to_open(flowcheck_gates):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(flowcheck_gates.gate("forgotten").wait)

def test_a_clock_forbids_a_proof(flowcheck_gates):
    timer = threading.Timer(3600, print)
    timer.start()
    try:
        flowcheck_gates.until_started(1, patience=0.1)
    finally:
        timer.cancel()

def test_goes_on(flowcheck_gates):
    work = flowcheck_gates.probe("work")
    with ThreadPoolExecutor(2) as pool:
        pool.submit(work, 1)
        flowcheck_gates.let_finish("work(1)")
"""


def test_nobody_waits_in_vain(theirs) -> None:
    """What can never come about fails its test with the wait list, whatever runs there; and the next test goes on."""
    done = theirs(FATES, "-p", "no:randomly", quiet=False)
    assert done.status == 1, done.output
    failed = [line.split(" ")[1].partition("::")[2] for line in done.output.splitlines() if line.startswith("FAILED")]
    assert set(failed) == {
        "test_never",
        "test_never_in_processes",
        "test_never_on_a_loop[asyncio]",
        "test_never_on_a_loop[trio]",
        "test_never_with_another_plugin",
        "test_an_assertion_fails_while_one_is_at_its_gate",
        "test_forgets_to_open",
        "test_a_clock_forbids_a_proof",
    }, done.output
    for told in (
        "it can never come about that 3 calls have started",
        "it can never come about that work(2) has started",
        "it can never come about that work(1) has ended",
        "it can never come about that pigs fly",
        "' waits at the gate 'work(1)'",
        "'what it is' == 'what it should be'",
        "the test came to a standstill: somebody waited at a gate that nobody could open any more",
        "waits at the gate 'forgotten'",
        "not seen within 0.1 s that 1 call has started; that it never will be is not proven: thread 'Thread-",
    ):
        assert told in done.output, (told, done.output)
    assert "1 passed" in done.output


def test_the_example_of_its_page_does_what_the_page_says(page_of_theirs) -> None:
    """Word for word."""
    done = page_of_theirs("order-calls-with-gates", "-p", "anyio")
    assert done.status == 1, done.output
    assert "1 failed, 3 passed" in done.output, done.output


def test_an_order_of_completion_is_forced(flowcheck_gates) -> None:
    """On threads; who is where can be asked meanwhile."""
    work = flowcheck_gates.probe("work", lambda n: n * n)
    with ThreadPoolExecutor(3) as pool, flowcheck_gates:
        futures = {n: pool.submit(work, n) for n in (1, 2, 3)}
        flowcheck_gates.until_started("work(1)", "work(2)", "work(3)")
        assert sorted(flowcheck_gates.live()) == ["work(1)", "work(2)", "work(3)"]
        flowcheck_gates.let_finish("work(3)", "work(1)", "work(2)")
        assert flowcheck_gates.ended() == ["work(3)", "work(1)", "work(2)"]
    assert {n: future.result() for n, future in futures.items()} == {1: 1, 2: 4, 3: 9}


def test_an_order_of_completion_is_forced_in_processes(flowcheck_gates) -> None:
    """Probes and gates pickle; each reports from where it runs."""
    work, gate = flowcheck_gates.probe("work", abs), flowcheck_gates.gate("on the way")
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool, flowcheck_gates:
        futures = [pool.submit(work, -1), pool.submit(work, -2), pool.submit(gate.wait)]
        flowcheck_gates.let_finish("work(-2)", "work(-1)")
        flowcheck_gates.until_started(gate)
        flowcheck_gates.open(gate)
        assert [future.result() for future in futures] == [1, 2, None]
    assert flowcheck_gates.ended() == ["work(-2)", "work(-1)", "on the way"]


@BACKENDS
def test_coroutines(flowcheck_gates, backend: str) -> None:
    """Probes and gates are awaited, and the waits go on with their loop; the loop may run on another thread."""

    async def main() -> list[str]:
        work, gate = flowcheck_gates.probe("work", anyio.to_thread.run_sync), flowcheck_gates.gate("here")
        async with anyio.create_task_group() as group:
            for call in (list, dict, tuple):
                group.start_soon(work.aio, call)
            group.start_soon(gate.aio)
            await flowcheck_gates.aio.until_started(4)
            await flowcheck_gates.aio.let_finish(gate, f"work({tuple!r})", f"work({list!r})", f"work({dict!r})")
        return flowcheck_gates.ended()

    ended = anyio.run(main, backend=backend)
    assert ended == ["here", f"work({tuple!r})", f"work({list!r})", f"work({dict!r})"]


def test_calls_of_a_retry_are_numbered(flowcheck_gates) -> None:
    """Each has its own gate, though its arguments are the same; an error is an end."""

    def fetch(number: int, what: str) -> str:
        if number == 1:
            raise OSError(what)
        return what

    probe = flowcheck_gates.probe("fetch", fetch, numbered=True)
    flowcheck_gates.open("fetch('a') #1", "fetch('a') #2")  # before anybody is there
    with pytest.raises(OSError, match="a"):
        probe("a")
    assert probe("a") == "a"
    assert flowcheck_gates.ended() == ["fetch('a') #1", "fetch('a') #2"]
    assert flowcheck_gates.live() == []


def test_leaving_it_opens_all_gates(flowcheck_gates) -> None:
    """Before a pool that was entered earlier waits for what is at a gate; whatever was raised."""
    gate = flowcheck_gates.gate("shut")

    def fail_with_somebody_at_it() -> None:
        with ThreadPoolExecutor(1) as pool, flowcheck_gates:
            pool.submit(gate.wait)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_with_somebody_at_it()
    assert flowcheck_gates.ended() == ["shut"]


def test_a_wait_sees_what_no_event_tells(flowcheck_gates) -> None:
    """What is waited for is asked again and again."""
    seen = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(seen.set)
        flowcheck_gates.until(seen.is_set, "it was set")


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda gates: gates.probe(""), "'' can't be the name of a gate: write a word or two, such as 'work'"),
        (lambda gates: gates.gate(3), "3 can't be the name of a gate"),
        (lambda gates: gates.probe("work", 3), "probe('work', does=3): does is what the probe calls; write a function"),
        (lambda gates: gates.open(3), "3 names no gate: write 'work(3)', say"),
        (lambda gates: gates.open(gates.probe("work")), "<probe work> names no gate: a call of it is named 'work(3)'"),
        (lambda gates: gates.until_started(), "until_started(): write one number of calls, or names of calls"),
        (lambda gates: gates.until_ended(1, "work"), "until_ended(1, 'work'): write one number of calls, or names"),
    ],
)
def test_what_makes_no_sense_is_refused(flowcheck_gates, ask, told: str) -> None:
    """In one line, with what to write."""
    with pytest.raises(UsageError) as raised:
        ask(flowcheck_gates)
    assert str(raised.value).startswith(told)


def test_one_thread_beside_pytest_run_parallel(theirs) -> None:
    """A test with gates is run once, not by many threads that would open each other's gates."""
    pytest.importorskip("pytest_run_parallel")
    text = """
def test_it(flowcheck_gates):
    flowcheck_gates.open("a")
    flowcheck_gates.probe("a")()
    assert flowcheck_gates.started() == ["a"]
"""
    done = theirs(text, "--parallel-threads=4")
    assert done.status == 0, done.output
