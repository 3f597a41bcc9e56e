"""The fixture `flowcheck_leaks`: what it finds, by whom it was made, and whom it does not accuse."""

from __future__ import annotations

LEAKS = """
import asyncio, socket, subprocess, sys, threading
import pytest
from multiprocessing import get_context

pytestmark = pytest.mark.usefixtures("flowcheck_leaks")
stop, kept = threading.Event(), []

def start(name="worker"):
    thread = threading.Thread(target=stop.wait, name=name, daemon=True)
    thread.start()
    return thread

def test_thread(): start()  # LINE of thread

def test_goes_on(): assert stop is not None

def test_descriptor(): kept.append(open(__file__))

def test_sockets(): kept.extend(socket.socketpair())

def test_loop(): kept.append(asyncio.new_event_loop())  # LINE of loop

@pytest.mark.flowcheck_leaks(kinds=["descriptors"])
def test_of_another_kind(): start()

@pytest.mark.flowcheck_leaks(allow=["work*"])
def test_allowed(): start()

def test_allowed_by_the_project(): start("metrics-1")

@pytest.mark.flowcheck_leaks(on_leak="warn")
def test_warned(): start("warned of")

def test_kept(flowcheck_leaks):
    start()
    assert [line for line in flowcheck_leaks.left() if "thread 'worker' (" in line]
    flowcheck_leaks.keep()
    assert flowcheck_leaks.left() == []
    flowcheck_leaks.keep(start())

@pytest.fixture
def careless():
    yield
    start("of a fixture")

def test_fixture(careless): pass

@pytest.mark.flowcheck_leaks(limit=0.1)
def test_process():
    kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"]))  # LINE of process

@pytest.mark.flowcheck_leaks(limit=0.1)
def test_thread_that_polls():
    threading.Thread(target=stop.wait, args=(3600,), name="polls", daemon=True).start()

@pytest.mark.flowcheck_leaks(limit="long")
def test_bad_limit(): pass

@pytest.mark.flowcheck_leaks(kinds=["memory"])
def test_bad_kinds(): pass

@pytest.mark.flowcheck_leaks(allow="work*")
def test_bad_allow(): pass

@pytest.mark.flowcheck_leaks("warn")
def test_bad_place(): pass

def test_fails_by_itself():
    here = open(__file__)
    assert not "the test's own failure"

def test_last():
    for child in kept:
        if isinstance(child, subprocess.Popen):
            child.kill(), child.wait()
    start("of the last test")
"""
CLEAN = """
import asyncio, subprocess, sys, threading
import anyio, pytest
from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor

pytestmark = pytest.mark.usefixtures("flowcheck_leaks")

def test_nothing(): pass

def test_garbage():
    open(__file__).close()
    threading.Thread(target=print).start()

def test_a_pool_on_its_way_out():
    pool = ThreadPoolExecutor(3)
    assert list(pool.map(abs, range(9)))
    pool.shutdown(wait=False)

def test_processes():
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(abs, -1).result() == 1
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)

def test_probes_in_processes(flowcheck_gates):
    work = flowcheck_gates.probe("work", abs)
    with ProcessPoolExecutor(1) as pool, flowcheck_gates:
        pool.submit(work, 1)
        flowcheck_gates.let_finish("work(1)")

@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool

def test_a_pool_of_a_wider_fixture(pool):
    pool.submit(abs, 1).result()

def test_more_of_its_workers(pool):
    barrier = threading.Barrier(3)
    assert len([task.result(10) for task in [pool.submit(barrier.wait) for _ in range(3)]]) == 3

@pytest.fixture
def server():
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    yield
    stop.set()

def test_a_fixture_that_ends_what_it_made(server): pass

@pytest.mark.anyio
async def test_workers_of_anyio_and_trio():
    await anyio.to_thread.run_sync(abs, 1)

@pytest.mark.asyncio
async def test_workers_of_asyncio():
    await asyncio.to_thread(abs, 1)

@pytest.mark.asyncio(loop_scope="module")
async def test_workers_of_a_wider_loop():
    await asyncio.to_thread(abs, 1)

def test_trio_on_a_thread_of_its_own():
    assert anyio.run(anyio.to_thread.run_sync, abs, -1, backend="trio") == 1
"""

GROWTH = """
import asyncio, threading
import anyio, pytest
from concurrent.futures import ThreadPoolExecutor

def test_files(flowcheck_leaks):
    files = []
    grown = flowcheck_leaks.growth(lambda: files.append(open(__file__)), rounds=2)
    assert len(grown) == 2, grown
    assert all(f"-> {__file__}, held by a io.TextIOWrapper" in line for line in grown), grown
    for file in files: file.close()

def test_loops(flowcheck_leaks):
    loops = []
    assert "2 more event loops in 2 rounds" in flowcheck_leaks.growth(lambda: loops.append(asyncio.new_event_loop()), 2)
    for loop in loops: loop.close()

def test_a_pool(flowcheck_leaks):
    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(4) as pool:
        assert flowcheck_leaks.growth(lambda: list(pool.map(lambda _: barrier.wait(), range(2))), rounds=3) == []
    with pytest.raises(ValueError, match="rounds=1: write a whole number, 2 or more"):
        flowcheck_leaks.growth(list, rounds=1)
    with pytest.raises(TypeError, match=r"gives an awaitable: write `await flowcheck_leaks.aio.growth"):
        flowcheck_leaks.growth(anyio.lowlevel.checkpoint)
    with pytest.raises(TypeError, match=r"keep\\('it'\\): write a thread, an event loop or the pid of a child process"):
        flowcheck_leaks.keep("it")

@pytest.mark.anyio
async def test_on_a_loop(flowcheck_leaks):
    files = []
    async def leaky():
        await anyio.lowlevel.checkpoint()
        files.append(open(__file__))
    assert await flowcheck_leaks.aio.growth(anyio.lowlevel.checkpoint, rounds=2) == []
    assert len(await flowcheck_leaks.aio.growth(leaky, rounds=2)) == 2
    for file in files: file.close()
"""


def line_of(what: str) -> int:
    return 1 + next(n for n, line in enumerate(LEAKS.splitlines()) if line.endswith(f"# LINE of {what}"))


def test_a_test_that_leaves_something_fails(theirs) -> None:
    """By name, with who made it; the others don't, in the same process after it."""
    done = theirs(LEAKS, "-p", "no:randomly", ini="flowcheck_leaks_allow = metrics-*\n")
    assert done.status == 1, done.output
    failed = [
        line.split(" ")[1].partition("::")[2] for line in done.output.splitlines() if line.startswith("ERROR test")
    ]
    assert failed == [
        "test_thread",
        "test_descriptor",
        "test_sockets",
        "test_loop",
        "test_fixture",
        "test_process",
        "test_thread_that_polls",
        "test_bad_limit",
        "test_bad_kinds",
        "test_bad_allow",
        "test_bad_place",
        "test_last",
    ], done.output
    for told in (
        f"test_theirs.py:{line_of('thread') - 3} in start\nnothing can move any more (proven): it stays",
        "file descriptor ",
        "test_theirs.py, held by a io.TextIOWrapper",
        "the test left 2 things behind:\n  socket descriptor",
        ", held by a socket.socket",
        f"test_theirs.py:{line_of('loop')} in test_loop is not running, and not closed",
        "thread 'of a fixture' (",
        f"test_theirs.py:{line_of('process')} in test_process\nstill there 0.1 s later, when patience was over",
        "thread 'polls' (",
        "thread 'of the last test' (",
        "LeftBehindWarning: the test left something behind:",
        "thread 'warned of' (",
        "the marker flowcheck_leaks got limit='long'; it takes a number of seconds, more than 0",
        "got kinds=['memory']; it takes a list of threads, processes, descriptors, loops",
        "got allow='work*'; it takes a list of patterns, such as ['metrics-*']",
        "got ('warn',); it takes its arguments by name, as in flowcheck_leaks(on_leak='warn')",
    ):
        assert told in done.output, (told, done.output)
    assert "Traceback" not in done.output
    assert "metrics-1" not in done.output


def test_nobody_is_accused_wrongly(theirs) -> None:
    """Neither what is on its way out, nor what fixtures, loops and plugins keep: xdist and pytest-timeout, too."""
    company = ("-n1", "--timeout=200", "--timeout-method=thread")
    done = theirs(CLEAN, *company, "-p", "no:randomly", "-W", "ignore", quiet=False)
    assert done.status == 0, done.output
    assert "13 passed" in done.output


def test_the_example_of_its_page_does_what_the_page_says(page_of_theirs) -> None:
    """Word for word."""
    done = page_of_theirs("find-leaks")
    assert "1 failed, 1 passed, 1 error" in done.output, done.output


def test_what_grows_with_use_is_told_and_what_is_made_once_is_not(theirs) -> None:
    """Workers of a pool come and stay; files and loops that pile up are growth. On a thread and on loops."""
    done = theirs(GROWTH, "-p", "anyio")
    assert done.status == 0, done.output
    assert "5 passed" in done.output
