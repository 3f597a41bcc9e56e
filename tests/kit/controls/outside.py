"""Live subjects that somebody outside of their tree will wake."""

from __future__ import annotations

import array
import ctypes
import fcntl
import mmap
import os
import select
import signal
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from controls.stage import Stage, every, live

libc = ctypes.CDLL(None, use_errno=True)
Outsider = tuple[Any, Callable[[int], object]]

KEPT: list[object] = []
"""What must outlive the function that made it."""


def _writer() -> Outsider:
    read, write = os.pipe()
    return read, lambda _pid: every(0.05, lambda: os.write(write, b"x"))


@live(outsider=_writer)
def inherited_pipe(stage: Stage) -> None:
    """A pipe that was open at the start."""
    stage.thread(lambda: [os.read(stage.inherited, 1) for _ in iter(int, 1)])


def _root_writer() -> Outsider:
    read, write = os.pipe()

    def act(_pid: int) -> None:
        libc.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: from now on nobody may look into us
        every(0.05, lambda: os.write(write, b"x"))

    return read, act


def become_nobody() -> None:
    """Lose the right to look into others, where we have it."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        libc.prctl(4, 1, 0, 0, 0)


@live(outsider=_root_writer)
def inherited_pipe_of_the_unreadable(stage: Stage) -> None:
    """The same, and the holder of the other end can't be seen."""
    become_nobody()
    os.set_inheritable(stage.inherited, True)
    stage.thread(lambda: [os.read(stage.inherited, 1) for _ in iter(int, 1)])


def _unreadable_orphan(stage: Stage) -> None:
    become_nobody()
    read, write = os.pipe()
    subject = os.getpid()
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            libc.prctl(4, 0, 0, 0, 0)
            os.setsid()
            every(0.05, lambda: os.write(write, b"x"), subject)
        os._exit(0)
    os.waitpid(pid, 0)
    stage.thread(lambda: [os.read(read, 1) for _ in iter(int, 1)])


@live(subreaper=False)
def unreadable_orphan(stage: Stage) -> None:
    """A pipe of our own, whose other end a process holds that left the tree and can't be seen."""
    _unreadable_orphan(stage)


@live()
def unreadable_child(stage: Stage) -> None:
    """The same, kept in the tree."""
    _unreadable_orphan(stage)


@live(subreaper=False)
def pipe_of_a_daemon(stage: Stage) -> None:
    """A pipe of our own that a daemon, adopted by init, holds as well."""
    read, write = os.pipe()
    subject = os.getpid()
    pid = os.fork()
    if pid == 0:
        if os.fork() == 0:
            os.setsid()
            every(0.05, lambda: os.write(write, b"x"), subject)
        os._exit(0)
    os.waitpid(pid, 0)
    stage.thread(lambda: [os.read(read, 1) for _ in iter(int, 1)])


def _receiver() -> Outsider:
    ours, theirs = socket.socketpair()

    def act(_pid: int) -> None:
        _data, fds, _flags, _address = socket.recv_fds(theirs, 1, 1)
        every(0.05, lambda: os.write(fds[0], struct.pack("q", 1)))

    return ours, act


@live(outsider=_receiver)
def pipe_given_away(stage: Stage) -> None:
    """A pipe made after the start, whose writing end was sent to a process outside."""
    read, write = os.pipe()
    socket.send_fds(stage.inherited, [b"x"], [write])
    stage.thread(lambda: [os.read(read, 8) for _ in iter(int, 1)])


@live(outsider=_receiver)
def eventfd_given_away(stage: Stage) -> None:
    """An eventfd made after the start and sent to a process outside."""
    fd = os.eventfd(0)
    socket.send_fds(stage.inherited, [b"x"], [fd])
    stage.thread(lambda: [os.read(fd, 8) for _ in iter(int, 1)])


@live(outsider=_receiver)
def socket_given_away(stage: Stage) -> None:
    """One end of a pair of sockets, sent to a process outside; the subject waits in `poll`."""
    ours, theirs = socket.socketpair()
    socket.send_fds(stage.inherited, [b"x"], [theirs.fileno()])
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    stage.thread(lambda: [poll.poll() and ours.recv(8) for _ in iter(int, 1)])


def _tcp_server() -> Outsider:
    server = socket.create_server(("127.0.0.1", 0))

    def act(_pid: int) -> None:
        accepted, _ = server.accept()
        every(0.05, lambda: accepted.send(b"x"))

    return server.getsockname(), act


@live(outsider=_tcp_server)
def tcp_from_outside(stage: Stage) -> None:
    """A connection to a server outside."""
    client = socket.create_connection(stage.inherited)
    stage.thread(lambda: [client.recv(1) for _ in iter(int, 1)])


@live(outsider=_tcp_server)
def nested_epoll(stage: Stage) -> None:
    """The same, in an epoll that is in another epoll, without a deadline."""
    client = socket.create_connection(stage.inherited)
    inner, outer = select.epoll(), select.epoll()
    inner.register(client, select.EPOLLIN)
    outer.register(inner, select.EPOLLIN)
    KEPT.append(inner)
    stage.thread(lambda: [outer.poll() and client.recv(1) for _ in iter(int, 1)])


@live(outsider=_tcp_server)
def select_of_many(stage: Stage) -> None:
    """The same, in `select` beside a pipe of our own."""
    client = socket.create_connection(stage.inherited)
    read, _write = os.pipe()
    stage.thread(lambda: [select.select([read, client], [], []) and client.recv(1) for _ in iter(int, 1)])


@live(main=True, outsider=_tcp_server)
def signal_of_a_socket(stage: Stage) -> None:
    """The same, by SIGIO: all threads wait for locks, and the kernel turns a byte into a handler."""
    event = stage.waiter()
    client = socket.create_connection(stage.inherited)
    signal.signal(signal.SIGIO, lambda *_: event.set())
    fcntl.fcntl(client, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(client, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    stage.ready.set()
    threading.Event().wait()


def _udp_sender() -> Outsider:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))
    address = server.getsockname()
    other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.close()
    return address, lambda _pid: every(0.05, lambda: other.sendto(b"x", address))


@live(outsider=_udp_sender)
def datagrams(stage: Stage) -> None:
    """A socket to which anybody may send."""
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(stage.inherited)
    stage.thread(lambda: [receiver.recv(1) for _ in iter(int, 1)])


def _fifo_writer() -> Outsider:
    path = str(Path(tempfile.mkdtemp()) / "fifo")
    os.mkfifo(path)

    def act(_pid: int) -> None:
        fd = os.open(path, os.O_RDWR)
        every(0.05, lambda: os.write(fd, b"x"))

    return path, act


@live(outsider=_fifo_writer)
def named_pipe(stage: Stage) -> None:
    """A pipe with a name."""
    fd = os.open(stage.inherited, os.O_RDWR)
    stage.thread(lambda: [os.read(fd, 1) for _ in iter(int, 1)])


def _locker() -> Outsider:
    path = tempfile.mkstemp()[1]

    def act(_pid: int) -> None:
        with open(path, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            time.sleep(1000)

    return path, act


@live(outsider=_locker)
def file_lock(stage: Stage) -> None:
    """A file lock that a process outside holds."""
    time.sleep(0.1)
    stage.thread(fcntl.flock, os.open(stage.inherited, os.O_RDONLY), fcntl.LOCK_EX)


@live(outsider=_fifo_writer)
def watched_directory(stage: Stage) -> None:
    """inotify: whoever touches a file may wake it."""
    fd = libc.inotify_init1(0)
    libc.inotify_add_watch(fd, os.fsencode(stage.inherited), 0xFFF)
    stage.thread(lambda: [os.read(fd, 4096) for _ in iter(int, 1)])


def _signaller() -> Outsider:
    return None, lambda pid: every(0.05, lambda: os.kill(pid, signal.SIGUSR1))


def _masked() -> Outsider:
    """The signal is blocked before there is anybody to send it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    return _signaller()


@live(outsider=_masked)
def wait_for_a_signal(stage: Stage) -> None:
    """`sigwait`."""
    stage.thread(lambda: [signal.sigwait([signal.SIGUSR1]) for _ in iter(int, 1)])


@live(outsider=_masked)
def signal_descriptor(stage: Stage) -> None:
    """signalfd."""
    mask = struct.pack("Q", 1 << (signal.SIGUSR1 - 1)) + bytes(120)
    fd = libc.signalfd(-1, mask, 0)
    stage.thread(lambda: [os.read(fd, 128) for _ in iter(int, 1)])


@live(main=True, outsider=lambda: (signal.signal(signal.SIGUSR1, lambda *_: None), _signaller()[1]))
def pause(stage: Stage) -> None:
    """`signal.pause`."""
    stage.ready.set()
    while True:
        signal.pause()


def _shared_page() -> Outsider:
    page = mmap.mmap(-1, 4096)

    def act(_pid: int) -> None:
        word = ctypes.c_uint32.from_buffer(page)
        number = 98 if os.uname().machine == "aarch64" else 202
        every(0.05, lambda: libc.syscall(number, ctypes.byref(word), 1, 100))  # FUTEX_WAKE

    return page, act


@live(outsider=_shared_page)
def shared_word(stage: Stage) -> None:
    """A futex in anonymous memory that a process outside shares."""
    word = ctypes.c_uint32.from_buffer(stage.inherited)
    number = 98 if os.uname().machine == "aarch64" else 202
    stage.thread(lambda: [libc.syscall(number, ctypes.byref(word), 0, 0, None) for _ in iter(int, 1)])


@live(outsider=_shared_page)
def shared_word_of_many(stage: Stage) -> None:
    """The same in `futex_waitv`."""
    word = ctypes.c_uint32.from_buffer(stage.inherited)
    waiters = array.array("Q", [0, ctypes.addressof(word), 2])
    KEPT.append(waiters)
    address = waiters.buffer_info()[0]
    stage.thread(lambda: [libc.syscall(449, ctypes.c_void_p(address), 1, 0, None, 0) for _ in iter(int, 1)])
