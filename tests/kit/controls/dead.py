"""Dead subjects: nothing in them can ever move again, and that must be proven."""

from __future__ import annotations

import array
import asyncio
import ctypes
import multiprocessing
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from controls.stage import Stage, dead

fork = multiprocessing.get_context("fork")
KEPT: list[object] = []
"""What must outlive the function that made it: a pool that is collected wakes its workers."""


@dead()
def nested_pool(stage: Stage) -> None:
    """Tasks of a full pool wait for tasks of the same pool."""
    pool = ThreadPoolExecutor(2)
    both = threading.Barrier(2)
    KEPT.append([pool.submit(lambda: (both.wait(), pool.submit(int).result())) for _ in range(2)])


@dead()
def loop_and_pool(stage: Stage) -> None:
    """A loop waits for its pool's only worker, which waits for the loop."""
    pool = ThreadPoolExecutor(1)

    async def body() -> None:
        loop = asyncio.get_running_loop()

        async def never_reached() -> None:
            await loop.run_in_executor(pool, int)

        await loop.run_in_executor(pool, lambda: asyncio.run_coroutine_threadsafe(never_reached(), loop).result())

    KEPT.append(pool)
    stage.thread(lambda: asyncio.run(body()))


@dead()
def await_under_a_lock(stage: Stage) -> None:
    """Two tasks of one loop; the first awaits while it holds a lock of threads, the second wants that lock."""
    lock = threading.Lock()

    async def first(turn: asyncio.Event) -> None:
        with lock:
            await turn.wait()

    async def second(turn: asyncio.Event) -> None:
        with lock:
            turn.set()

    async def body() -> None:
        turn = asyncio.Event()
        await asyncio.gather(first(turn), second(turn))

    stage.thread(lambda: asyncio.run(body()))


@dead()
def abba(stage: Stage) -> None:
    """Two locks, taken in opposite order."""
    a, b, both = threading.Lock(), threading.Lock(), threading.Barrier(2)

    def take(first: threading.Lock, second: threading.Lock) -> None:
        with first:
            both.wait()
            with second:
                pass

    stage.thread(take, a, b)
    stage.thread(take, b, a)


@dead()
def lost_future(stage: Stage) -> None:
    """A future that nobody will settle."""
    stage.thread(Future[int]().result)


@dead()
def own_lock_again(stage: Stage) -> None:
    """A thread that takes a plain lock twice."""

    def body() -> None:
        lock = threading.Lock()
        with lock, lock:
            pass

    stage.thread(body)


@dead()
def empty_queue(stage: Stage) -> None:
    """Two consumers and no producer, in Python and in C."""
    stage.thread(queue.Queue[int]().get)
    stage.thread(queue.SimpleQueue[int]().get)


@dead()
def join_each_other(stage: Stage) -> None:
    """Two threads that wait for each other's end."""
    threads: list[threading.Thread] = []
    both = threading.Barrier(2)
    for at in range(2):
        threads.append(stage.thread(lambda other: (both.wait(), threads[other].join()), 1 - at))


@dead()
def mutex_in_c(stage: Stage) -> None:
    """A mutex of the C library, locked twice."""
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_init(mutex, None)
    libc.pthread_mutex_lock(mutex)
    KEPT.append(mutex)
    stage.thread(libc.pthread_mutex_lock, mutex)


@dead()
def many_words(stage: Stage) -> None:
    """`futex_waitv` on private memory."""
    word = ctypes.c_uint32(0)
    waiters = array.array("Q", [0, ctypes.addressof(word), 2 | 128])
    KEPT.extend([word, waiters])
    address = ctypes.c_void_p(waiters.buffer_info()[0])
    stage.thread(ctypes.CDLL(None).syscall, 449, address, 1, 0, None, 0)


@dead()
def idle_pool(stage: Stage) -> None:
    """A pool that has done its work."""
    pool = ThreadPoolExecutor(3)
    KEPT.append(pool)
    both = threading.Barrier(3)
    for future in [pool.submit(both.wait) for _ in range(3)]:
        future.result()


@dead(main=True)
def main_thread_too(stage: Stage) -> None:
    """The main thread is the subject's, and waits for a future of its own."""
    stage.ready.set()
    Future[int]().result()


@dead()
def own_pipe(stage: Stage) -> None:
    """A reader of a pipe whose writer is nobody else."""
    ends = os.pipe()
    KEPT.append(ends)
    stage.thread(os.read, ends[0], 1)


@dead()
def full_pipe(stage: Stage) -> None:
    """A writer to a pipe that nobody empties."""
    _read, write = os.pipe()
    stage.thread(os.write, write, bytes(1 << 20))


@dead()
def own_socketpair(stage: Stage) -> None:
    """A pair of sockets, both ours."""
    ends = socket.socketpair()
    KEPT.append(ends)
    stage.thread(ends[0].recv, 1)


@dead()
def own_tcp(stage: Stage) -> None:
    """A connection with ourselves, and its listener."""
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    accepted, _ = server.accept()
    KEPT.append((server, client, accepted))
    stage.thread(client.recv, 1)
    stage.thread(accepted.recv, 1)
    stage.thread(server.accept)


@dead()
def own_tcp_of_two_families(stage: Stage) -> None:
    """A connection with ourselves, where the server speaks both families."""
    if not socket.has_dualstack_ipv6():
        stage.thread(Future[int]().result)
        return
    server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    client = socket.create_connection(("127.0.0.1", server.getsockname()[1]))
    KEPT.append((server, client, server.accept()))
    stage.thread(client.recv, 1)


@dead()
def selectors_of_our_own(stage: Stage) -> None:
    """`poll`, `select`, epoll in epoll and an eventfd, on things that only we hold."""
    (read, write), event = os.pipe(), os.eventfd(0)
    poll, inner, outer = select.poll(), select.epoll(), select.epoll()
    poll.register(read)
    poll.unregister(read)
    poll.register(read, select.POLLIN)
    inner.register(event, select.EPOLLIN)
    outer.register(inner, select.EPOLLIN)
    KEPT.extend([write, inner])
    stage.thread(poll.poll)
    stage.thread(outer.poll)
    stage.thread(select.select, [read], [], [])
    stage.thread(os.read, event, 8)


@dead()
def stuck_child(stage: Stage) -> None:
    """A child that waits for its standard input, whose writer waits for the child."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    KEPT.append(child)
    stage.thread(child.wait)
    pidfd = os.pidfd_open(child.pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    stage.thread(poll.poll)


@dead()
def shared_semaphore(stage: Stage) -> None:
    """A child waits for a semaphore that nobody releases, its parent for the child."""
    semaphore = fork.Semaphore(0)
    child = fork.Process(target=semaphore.acquire, daemon=True)
    child.start()
    KEPT.append(semaphore)
    stage.thread(child.join)


def _ask_and_wait(pair: tuple[Any, Any], at: int) -> Any:
    pair[0].put(at)
    return pair[1].get()


def _nested_processes(stage: Stage, method: str) -> None:
    context = multiprocessing.get_context(method)
    manager = context.Manager()
    pool = ProcessPoolExecutor(2, mp_context=context)
    asked, answers = manager.Queue(), manager.Queue()
    futures = [pool.submit(_ask_and_wait, (asked, answers), at) for at in range(2)]

    def broker() -> None:
        while True:
            asked.get()
            answers.put(pool.submit(int).result())

    KEPT.extend([manager, pool])
    stage.thread(broker)
    stage.thread(lambda: [future.result() for future in futures])
    while any(not future.running() for future in futures):
        time.sleep(0.01)


@dead(restless=True)
def nested_process_pool(stage: Stage) -> None:
    """Both workers of a process pool wait, through a manager, for a task of that pool (forked)."""
    _nested_processes(stage, "fork")


@dead(restless=True)
def nested_process_pool_spawned(stage: Stage) -> None:
    """The same with workers that were spawned, and their resource tracker."""
    _nested_processes(stage, "spawn")


@dead(restless=True)
def nested_process_pool_of_a_server(stage: Stage) -> None:
    """The same with workers of a fork server."""
    _nested_processes(stage, "forkserver")


@dead(subreaper=False)
def a_daemon_that_holds_nothing(stage: Stage) -> None:
    """A daemon left the tree, but holds nothing for which the subject waits."""
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            os.setsid()
            time.sleep(3)
            os._exit(0)
        os._exit(0)
    os.waitpid(pid, 0)
    ends = os.pipe()
    KEPT.append(ends)
    stage.thread(os.read, ends[0], 1)


@dead()
def an_idle_thread_of_trios_cache(stage: Stage) -> None:
    """It waits ten seconds for a job, and then ends: nothing comes of that."""
    trio: Any = pytest.importorskip("trio")
    done = threading.Event()
    trio.lowlevel.start_thread_soon(int, lambda _: done.set())
    done.wait()
    stage.waiter()


@dead()
def a_childs_trio_loop(stage: Stage) -> None:
    """Its loop has no deadline; so it waits for a day, over and over."""
    pytest.importorskip("trio")
    child = subprocess.Popen(
        [sys.executable, "-c", "import trio; trio.run(trio.sleep_forever)"], stdin=subprocess.DEVNULL
    )
    KEPT.append(child)
    stage.thread(child.wait)
