"""The laws of wait lists: one line per thread that waits, in words, with the place in the user's code."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from bystanders import fresh_harness

from pytest_flowcheck.proof import Harness, Observer, Sighting, State, Wait, procfs, wait_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(not procfs.LINUX, reason="proof reads the Linux kernel's thread states")


def settled(harness: Harness) -> Sighting:
    """A sighting at which nothing ran."""
    observer = Observer(harness)
    sighting = observer.prove(int)
    while sighting.state is State.RUNNING:
        sighting = observer.prove(int)
    return sighting


@pytest.fixture
def lines_of() -> Iterator[Callable[[Callable[[], object]], list[str]]]:
    """The wait list of a function that waits in a thread called 'stuck'."""
    harness = fresh_harness()

    def look(body: Callable[[], object]) -> list[str]:
        threading.Thread(target=body, name="stuck", daemon=True).start()
        lines = wait_list(settled(harness), harness)
        # helper processes that other tests have started wait too, and are no part of the question
        return [line for line in lines if not line.startswith("process ")]

    return look


def test_a_future_is_named_with_its_state(lines_of: Callable[..., list[str]]) -> None:
    """Who waits for a future learns which one and that it is pending."""
    future: Future[int] = Future()

    def my_code() -> None:
        future.result()

    (line,) = lines_of(my_code)
    future.set_result(0)
    assert line.startswith(f"thread 'stuck' waits in Future.result() of future {id(future):#x}, which is pending")
    assert "test_waitlist.py:" in line
    assert line.endswith(" my_code")


def test_a_lock_is_shown_by_its_source_line(lines_of: Callable[..., list[str]]) -> None:
    """A plain lock has no name: the line that wants it tells."""
    my_lock = threading.Lock()
    my_lock.acquire()

    def my_code() -> None:
        with my_lock:
            pass

    (line,) = lines_of(my_code)
    my_lock.release()
    assert line.startswith("thread 'stuck' waits for a lock: `with my_lock:`")


@pytest.mark.parametrize(
    ("words", "make", "wake"),
    [
        ("Event.wait()", threading.Event, lambda it: it.set()),
        ("Queue.get()", queue.Queue, lambda it: it.put(1)),
        ("Semaphore.acquire()", lambda: threading.Semaphore(0), lambda it: it.release()),
        ("Barrier.wait()", lambda: threading.Barrier(2), lambda it: it.abort()),
    ],
)
def test_what_is_built_on_a_condition_is_named_after_itself(
    lines_of: Callable[..., list[str]],
    words: str,
    make: Callable[[], object],
    wake: Callable[[object], object],
) -> None:
    """A reader sees `Queue.get()`, not the condition inside of it."""
    thing = make()
    method = getattr(thing, words.partition(".")[2].removesuffix("()"))

    def my_code() -> None:
        try:
            method()
        except threading.BrokenBarrierError:
            return

    (line,) = lines_of(my_code)
    wake(thing)
    assert f"waits in {words}, at test_waitlist.py:" in line


def test_a_joined_thread_is_named(lines_of: Callable[..., list[str]]) -> None:
    """Who joins a thread says which."""
    event = threading.Event()
    other = threading.Thread(target=event.wait, name="other", daemon=True)
    other.start()
    lines = lines_of(other.join)
    event.set()
    assert any(line.startswith("thread 'stuck' waits in Thread.join() of 'other'") for line in lines), lines


def test_idle_workers_share_one_line() -> None:
    """Pool workers that have nothing to do are counted, not listed."""
    harness = fresh_harness()
    with ThreadPoolExecutor(3) as pool:
        both = threading.Barrier(3)
        for future in [pool.submit(both.wait) for _ in range(3)]:
            future.result()
        lines = wait_list(settled(harness), harness)
        assert [line for line in lines if not line.startswith("process ")] == ["3 idle pool workers"]


def test_a_loop_lists_its_tasks(lines_of: Callable[..., list[str]]) -> None:
    """In a loop it is the tasks that wait: each is named with its place."""
    stop: list[Callable[[], object]] = []

    async def my_task() -> None:
        loop, never = asyncio.get_running_loop(), asyncio.Event()
        stop.append(lambda: loop.call_soon_threadsafe(never.set))
        await never.wait()

    (line,) = lines_of(lambda: asyncio.run(my_task()))
    stop[0]()
    assert "waits in an event loop with task 'Task-" in line
    assert "my_task" in line


def test_other_processes_are_named_by_their_command() -> None:
    """A child that waits has its own line: its pid, its command, its system call. Who waits for it says so."""
    harness = fresh_harness()
    with subprocess.Popen([sys.executable, "-c", "input('')"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        threading.Thread(target=child.wait, name="parent", daemon=True).start()
        sighting = settled(harness)
        lines = wait_list(sighting, harness)
        child.kill()
    assert sighting.state is State.QUIESCENT, sighting
    assert any(f"thread 'parent' waits for process {child.pid}" in line for line in lines), lines
    assert any(
        line.startswith(f"process {child.pid} (") and "waits (read: descriptor 0 (pipe:" in line for line in lines
    )


def test_a_thread_that_python_does_not_know_is_listed_too() -> None:
    """A thread of a C library has no frames: the kernel's words stand for it."""
    import os

    sighting = Sighting(State.QUIESCENT, (Wait(os.getpid(), 1, "untimed", "waits (futex: a private futex)"),), "")
    assert wait_list(sighting) == ["thread 1 (not Python's) waits (futex: a private futex)"]
