"""Live subjects that a clock will wake."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import selectors
import signal
import socket
import struct
import threading
import time

from controls.stage import Stage, live

libc = ctypes.CDLL(None, use_errno=True)


@live()
def sleeper(stage: Stage) -> None:
    """A thread that sleeps a little, again and again, and wakes another."""
    event = stage.waiter()

    def body() -> None:
        while True:
            time.sleep(0.02)
            event.set()

    stage.thread(body)


@live()
def long_sleeper(stage: Stage) -> None:
    """A thread that sleeps for a long time."""
    event = stage.waiter()
    stage.thread(lambda: (time.sleep(1000), event.set()))


@live()
def timer_thread(stage: Stage) -> None:
    """`threading.Timer`."""
    event = stage.waiter()

    def again() -> None:
        event.set()
        timer = threading.Timer(0.03, again)
        timer.daemon = True
        timer.start()

    again()


@live()
def event_with_deadline(stage: Stage) -> None:
    """`Event.wait(timeout)`."""
    stage.waiter()
    stage.thread(lambda: [threading.Event().wait(0.03) for _ in iter(int, 1)])


@live()
def queue_with_deadline(stage: Stage) -> None:
    """`SimpleQueue.get(timeout=...)`, which waits in C."""
    stage.waiter()

    def body() -> None:
        empty: queue.SimpleQueue[int] = queue.SimpleQueue()
        while True:
            try:
                empty.get(timeout=0.03)
            except queue.Empty:
                continue

    stage.thread(body)


@live()
def call_later(stage: Stage) -> None:
    """An asyncio loop with a timer, and a task that the timer will wake."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        while True:
            future = loop.create_future()
            loop.call_later(0.03, future.set_result, None)
            await future

    stage.thread(lambda: asyncio.run(body()))


@live()
def timerfd(stage: Stage) -> None:
    """A timer as a descriptor, in an epoll without a deadline."""
    fd = libc.timerfd_create(1, 0)
    libc.timerfd_settime(fd, 0, struct.pack("qqqq", 0, 30_000_000, 0, 30_000_000), None)
    epoll = selectors.EpollSelector()
    epoll.register(fd, selectors.EVENT_READ)
    stage.thread(lambda: [epoll.select() and os.read(fd, 8) for _ in iter(int, 1)])


@live()
def socket_with_timeout(stage: Stage) -> None:
    """A pair of sockets of our own, one of which gives up after a while by an option of the socket."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 50_000))

    def body() -> None:
        while True:
            try:
                ours.recv(1)
            except BlockingIOError:
                continue
        theirs.close()

    stage.thread(body)


@live(main=True)
def interval_timer(stage: Stage) -> None:
    """The main thread waits without a deadline; `setitimer` will run a handler that wakes the other."""
    event = stage.waiter()
    signal.signal(signal.SIGALRM, lambda *_: event.set())
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    stage.ready.set()
    threading.Event().wait()


@live()
def interval_timer_of_a_child(stage: Stage) -> None:
    """The same in a child, whose timers nobody can read."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        threading.Event().wait()
    stage.thread(os.waitpid, pid, 0)


def _posix_timer(how: int, number: int) -> None:
    event = ctypes.create_string_buffer(struct.pack("qii48x", 0, number, how), 64)
    timer = ctypes.c_void_p()
    assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
    assert libc.timer_settime(timer, 0, struct.pack("qqqq", 0, 50_000_000, 0, 50_000_000), None) == 0


@live(main=True)
def posix_timer(stage: Stage) -> None:
    """The same with `timer_create` and a signal that has nothing to do with alarms."""
    event = stage.waiter()
    signal.signal(signal.SIGUSR2, lambda *_: event.set())
    _posix_timer(0, signal.SIGUSR2)
    stage.ready.set()
    threading.Event().wait()


@live()
def posix_timer_of_a_child(stage: Stage) -> None:
    """The same in a child."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGUSR2, lambda *_: None)
        _posix_timer(0, signal.SIGUSR2)
        threading.Event().wait()
    stage.thread(os.waitpid, pid, 0)
