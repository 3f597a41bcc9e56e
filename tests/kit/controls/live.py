"""Live subjects whose life is inside the tree: threads and processes that run or will run."""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from controls.stage import Stage, every, live

fork = multiprocessing.get_context("fork")


@live()
def busy_python(stage: Stage) -> None:
    """A thread that computes in Python."""
    stage.waiter()
    stage.thread(lambda: [None for _ in iter(int, 1)])


@live()
def busy_c(stage: Stage) -> None:
    """A thread that computes in C, and has left the interpreter."""
    stage.waiter()
    stage.thread(lambda: [hashlib.pbkdf2_hmac("sha256", b"x", b"y", 200_000) for _ in iter(int, 1)])


@live()
def busy_c_with_gil(stage: Stage) -> None:
    """A thread that computes in C and keeps the interpreter."""
    stage.waiter()
    stage.thread(lambda: [pow(3, 40_000) for _ in iter(int, 1)])


@live()
def busy_child(stage: Stage) -> None:
    """A child that computes while its parent waits for it."""
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    stage.thread(child.wait)


@live()
def sleeping_child(stage: Stage) -> None:
    """A child that sleeps while its parent waits for it."""
    child = subprocess.Popen(["sleep", "100"])
    stage.thread(child.wait)


@live()
def a_childs_trio_loop_with_a_deadline(stage: Stage) -> None:
    """Its loop waits for an hour, and then something comes."""
    pytest.importorskip("trio")
    child = subprocess.Popen(
        [sys.executable, "-c", "import trio; trio.run(trio.sleep, 3600)"], stdin=subprocess.DEVNULL
    )
    stage.thread(child.wait)


@live()
def short_children(stage: Stage) -> None:
    """One short child after the other."""
    stage.thread(lambda: [subprocess.run(["true"], check=False) for _ in iter(int, 1)])


@live()
def child_whose_main_thread_ended(stage: Stage) -> None:
    """A child that looks like a zombie, because only its main thread has ended; another one sleeps."""
    pid = os.fork()
    if pid == 0:
        threading.Thread(target=lambda: [time.sleep(0.01) for _ in iter(int, 1)]).start()
        ctypes.CDLL(None).syscall(93 if os.uname().machine == "aarch64" else 60, 0)
    stage.thread(os.waitpid, pid, 0)


@live()
def new_threads(stage: Stage) -> None:
    """A thread that starts another one and ends: at every look somebody else."""

    def baton() -> None:
        time.sleep(0.002)
        stage.thread(baton)

    stage.waiter()
    stage.thread(baton)


@live()
def token_ring(stage: Stage) -> None:
    """Ten threads that hand a token around: nine always wait, and never the same nine."""
    places = [threading.Semaphore(0) for _ in range(10)]

    def seat(at: int) -> None:
        while True:
            places[at].acquire()
            places[(at + 1) % 10].release()

    for at in range(10):
        stage.thread(seat, at)
    places[0].release()


@live()
def pool_round_trips(stage: Stage) -> None:
    """A pool that is used: between two tasks all of its threads wait for a moment."""
    pool = ThreadPoolExecutor(2)

    def use() -> None:
        while True:
            pool.submit(time.sleep, 0.001).result()

    stage.thread(use)


def _echo(end: socket.socket, seconds: float) -> None:
    while data := end.recv(1):
        if seconds:
            time.sleep(seconds)
        end.sendall(data)


def _ping_pong(stage: Stage, seconds: float) -> None:
    ours, theirs = socket.socketpair()
    fork.Process(target=_echo, args=(theirs, seconds), daemon=True).start()

    def play() -> None:
        while True:
            ours.sendall(b"x")
            ours.recv(1)

    stage.thread(play)


@live()
def ping_pong(stage: Stage) -> None:
    """Two processes that send a byte to and fro."""
    _ping_pong(stage, 0)


@live()
def slow_ping_pong(stage: Stage) -> None:
    """The same, with a rest of 3 ms: for most of the time both sleep or wait."""
    _ping_pong(stage, 0.003)


@live()
def tcp_ping_pong(stage: Stage) -> None:
    """The same over TCP, where bytes can be under way with nobody awake."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    fork.Process(target=_echo, args=(theirs, 0.001), daemon=True).start()

    def play() -> None:
        while True:
            ours.sendall(b"x")
            ours.recv(1)

    stage.thread(play)


def _kick(pid: int) -> None:
    while True:
        time.sleep(0.005)
        os.kill(pid, signal.SIGUSR1)


@live(main=True)
def signal_from_a_child(stage: Stage) -> None:
    """The main thread waits; a child will send it a signal, whose handler sets what the other thread waits for."""
    event = stage.waiter()
    signal.signal(signal.SIGUSR1, lambda *_: event.set())
    fork.Process(target=_kick, args=(os.getpid(),), daemon=True).start()
    stage.ready.set()
    threading.Event().wait()


@live()
def stopped_child(stage: Stage) -> None:
    """A child that was stopped: whoever continues it may be anybody."""
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    time.sleep(0.2)
    child.send_signal(signal.SIGSTOP)
    stage.thread(child.wait)


def _daemon_semaphore(stage: Stage) -> None:
    semaphore, subject = fork.Semaphore(0), os.getpid()
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            os.setsid()
            every(0.05, semaphore.release, subject)
        os._exit(0)
    os.waitpid(pid, 0)
    stage.thread(lambda: [semaphore.acquire() for _ in iter(int, 1)])


@live(subreaper=False)
def semaphore_of_a_daemon(stage: Stage) -> None:
    """A shared semaphore that a daemon, long adopted by init, will release."""
    _daemon_semaphore(stage)


@live()
def semaphore_of_an_orphan(stage: Stage) -> None:
    """The same, with the orphan kept in the tree: it sleeps."""
    _daemon_semaphore(stage)


@live()
def a_job_in_trios_cache(stage: Stage) -> None:
    """A thread of the cache has a job, which waits on a lock with a deadline, as the cache itself does when idle."""
    trio: Any = pytest.importorskip("trio")
    event = stage.waiter()
    lock = threading.Lock()
    lock.acquire()

    def job() -> None:
        while True:
            lock.acquire(timeout=0.2)
            event.set()

    trio.lowlevel.start_thread_soon(job, lambda _: None)
