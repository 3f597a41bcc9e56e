"""The laws of the census: growth is reported, reuse is not, and the standard library's own helpers stand apart."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_flowcheck.proof import Harness, census, procfs

pytestmark = pytest.mark.skipif(not procfs.LINUX, reason="children and descriptors are read from /proc")


def test_nothing_new_is_no_growth() -> None:
    """Two censuses with nothing in between are the same."""
    before = census()  # in which a thread of an earlier test may be on its way out
    assert census().growth_since(before) == []


def test_a_pool_that_reuses_its_workers_does_not_grow() -> None:
    """Living threads are no leak: only threads that were not there before."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        before = census()
        for _ in range(10):
            pool.submit(int).result()
        assert census().growth_since(before) == []


def test_a_thread_that_stays_is_growth() -> None:
    """A new thread is named, with its kernel id."""
    before, event = census(), threading.Event()
    thread = threading.Thread(target=event.wait, name="left-behind")
    thread.start()
    assert census().growth_since(before) == [f"thread 'left-behind' ({thread.native_id})"]
    event.set()
    thread.join()
    assert census().growth_since(before) == []


def test_the_harnesss_threads_do_not_count() -> None:
    """A thread of the harness is in no census that is told of the harness."""
    harness, event = Harness.at_start(), threading.Event()
    before = census(harness)
    thread = threading.Thread(target=event.wait)
    thread.start()
    assert thread.native_id is not None
    harness.adopt(thread.native_id)
    assert census(harness).growth_since(before) == []
    event.set()
    thread.join()


def test_descriptors_are_named_by_kind() -> None:
    """A socket that is left open is growth; one that was replaced by another is not."""
    first = socket.socket()
    before = census()
    second = socket.socket()
    (line,) = census().growth_since(before)
    assert line.startswith(f"socket descriptor {second.fileno()} -> socket:[")
    first.close()
    assert census().growth_since(before) == []
    second.close()


def test_a_child_that_stays_is_growth() -> None:
    """A child process is named by its pid and its command."""
    before = census()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        lines = census().growth_since(before)
        child.kill()
    assert any(line.startswith(f"child process {child.pid} (") for line in lines), lines
    assert any(line.startswith("pipe descriptor") for line in lines), lines


def test_a_loop_that_is_not_closed_is_growth() -> None:
    """Loops and tasks are counted, after garbage was collected."""
    before = census()
    loop = asyncio.new_event_loop()
    task = loop.create_task(asyncio.Event().wait())
    lines = census().growth_since(before)
    assert "1 more event loop than before" in lines
    assert "1 more task than before" in lines
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    assert census().growth_since(before) == []


def test_helpers_of_the_standard_library_stand_apart() -> None:
    """The resource tracker and the fork server are no leak of the subject; they must not grow with use either."""
    context = multiprocessing.get_context("forkserver")
    before = census()
    for _ in range(2):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            pool.submit(os.getpid).result()
        first = census()
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(os.getpid).result()
    after = census()
    assert after.growth_since(before) == []
    assert any("forkserver" in held.name for held in after.helpers), after.helpers
    assert after.helper_growth_since(first) == []


def test_a_helper_is_known_however_long_the_way_to_its_interpreter(tmp_path: Path) -> None:
    """In a deep virtual environment the program's path alone would fill a shortened command line."""
    deep = tmp_path / ("deep" * 20)
    deep.mkdir()
    python = deep / "python"
    python.symlink_to(sys.executable)
    helper = "from multiprocessing.resource_tracker import main; input()"
    before = census()
    with subprocess.Popen([python, "-S", "-c", helper], stdin=subprocess.PIPE, close_fds=True) as child:
        after = census()
        assert after.children == before.children
        assert child.pid in {held.number for held in after.helpers}
        assert any(str(held) == f"child process {child.pid} (python -S -c {helper})" for held in after.helpers)
        child.kill()
