"""Probes in other processes: they report to, and wait at, the same gates as those in this one.

    probe in a worker process                    server thread of the kit
      connect, prove knowledge of the key  --->    (HMAC over a fresh nonce)
      ["number", bench, probe, who]        --->    only of a numbered probe: which call of it is this?
                                           <---    [number]
      ["started", bench, probe, who]         --->    timeline.append
                                           <---    ["go"], once the gate is open
      ... the task's own work ...
      ["ended", bench, probe, who]           --->    timeline.append
                                           <---    ["go"]: only now does the task return

*Guarantees.* "Ended" is on the timeline before the subject can learn that the task is done. A worker that dies with a
probe in flight shows as *lost* as soon as the kernel closes its connection. A client that stalls, or knows no key,
holds up nobody: the server is one non-blocking selector. Every wait of a remote probe is a read from a socket whose
other end is in this process tree, so gated workers are provably quiescent. Loopback only.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self

_NONCE: Final = 16
_DIGEST: Final = 32
_HEADER: Final = struct.Struct("!I")
_LARGEST: Final = 1 << 16


class Desk(Protocol):
    """Who answers for one bench."""

    def number(self, probe: str) -> int: ...
    def report(self, kind: str, probe: str, pid: int, tid: int, thread: str) -> None: ...
    def when_open(self, probe: str, release: Callable[[], None]) -> None: ...


@dataclass(frozen=True)
class Address:
    """Where the server is, and what a probe must know to speak to it. Crosses processes inside a pickled probe."""

    port: int
    key: bytes = field(repr=False)


def exchange(address: Address, bench: str) -> Line:
    """Open a line to the server for one call of one probe.

    Raises:
        ConnectionError: the kit's process is gone.
    """
    return Line(address, bench)


class Line:
    """One probe call's connection. Use as a context manager; closing it without a last word means *lost*."""

    def __init__(self, address: Address, bench: str) -> None:
        self._bench = bench
        self._socket = socket.create_connection(("127.0.0.1", address.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        nonce = _read_exactly(self._socket, _NONCE)
        self._socket.sendall(hmac.digest(address.key, nonce, "sha256"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()

    def say(self, kind: str, probe: str) -> None:
        """Report, and wait for the answer: for `started` it comes when the gate opens."""
        self._send(kind, probe)
        _read_exactly(self._socket, 1)

    def number(self, probe: str) -> int:
        """Ask which call of a numbered probe this is."""
        self._send("number", probe)
        which: int = _HEADER.unpack(_read_exactly(self._socket, _HEADER.size))[0]
        return which

    def _send(self, kind: str, probe: str) -> None:
        thread = threading.current_thread().name
        message = [kind, self._bench, probe, os.getpid(), threading.get_native_id(), thread]
        body = json.dumps(message).encode()
        self._socket.sendall(_HEADER.pack(len(body)) + body)


def _read_exactly(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = source.recv(count - len(data))
        if not chunk:
            raise ConnectionError("the flowcheck process that this probe reports to is gone")
        data += chunk
    return data


@dataclass
class _Client:
    socket: socket.socket
    nonce: bytes
    data: bytes = b""
    known: bool = False
    in_flight: tuple[str, str] | None = None


class Server:
    """The one probe server of this process, made when first a probe leaves for another process.

    `desks`: who answers for which bench; a probe whose bench is gone is let go at once, so that no worker stays stuck.
    """

    def __init__(self, adopt: Callable[[int], None] = lambda _: None) -> None:
        self.desks: dict[str, Desk] = {}
        self._adopt = adopt
        self._key = secrets.token_bytes(32)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._listener.setblocking(False)
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._calls: deque[Callable[[], None]] = deque()
        self._clients: frozenset[int] = frozenset()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self.address = Address(self._listener.getsockname()[1], self._key)
        ready = threading.Event()
        threading.Thread(target=self._serve, args=(ready,), daemon=True, name="flowcheck-probes").start()
        ready.wait()

    def descriptors(self) -> frozenset[int]:
        """Those that it holds now: for whoever counts what a test left behind. From any thread."""
        own = (self._listener.fileno(), self._wake.fileno(), self._waker.fileno())
        selector = getattr(self._selector, "fileno", None)  # only of a kernel's own kind
        return self._clients.union(own, (selector(),) if selector is not None else ())

    def _serve(self, ready: threading.Event) -> None:
        self._adopt(threading.get_native_id())
        ready.set()
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wake:
                    self._run_calls()
                else:
                    self._read(key.data)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it went away between the event and the accept
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = _Client(connection, secrets.token_bytes(_NONCE))
        self._selector.register(connection, selectors.EVENT_READ, client)
        self._clients |= {connection.fileno()}
        self._send(client, client.nonce)

    def _run_calls(self) -> None:
        self._wake.recv(4096)
        while self._calls:
            self._calls.popleft()()

    def _read(self, client: _Client) -> None:
        try:
            chunk = client.socket.recv(_LARGEST)
        except OSError:
            chunk = b""
        if not chunk:
            self._drop(client)
            return
        client.data += chunk
        if not client.known and not self._recognise(client):
            return
        while (message := self._next_message(client)) is not None:
            self._answer(client, message)

    def _recognise(self, client: _Client) -> bool:
        if len(client.data) < _DIGEST:
            return False
        digest, client.data = client.data[:_DIGEST], client.data[_DIGEST:]
        if not hmac.compare_digest(digest, hmac.digest(self._key, client.nonce, "sha256")):
            self._drop(client)
            return False
        client.known = True
        return True

    def _next_message(self, client: _Client) -> list[Any] | None:
        if len(client.data) < _HEADER.size:
            return None
        (size,) = _HEADER.unpack_from(client.data)
        if len(client.data) < _HEADER.size + size:
            return None
        body = client.data[_HEADER.size : _HEADER.size + size]
        client.data = client.data[_HEADER.size + size :]
        message: list[Any] = json.loads(body)
        return message

    def _answer(self, client: _Client, message: list[Any]) -> None:
        kind, bench, probe, pid, tid, thread = message
        desk = self.desks.get(bench)
        if kind == "number":
            self._send(client, _HEADER.pack(desk.number(probe) if desk is not None else 0))
            return
        gated, kind = kind == "started", kind.removesuffix("-free")
        client.in_flight = (bench, probe) if kind == "started" else None
        if desk is None:
            self._send(client, b"g")
            return
        desk.report(kind, probe, pid, tid, thread)
        if gated:
            desk.when_open(probe, lambda: self._soon(lambda: self._send(client, b"g")))
        else:
            self._send(client, b"g")

    def _soon(self, call: Callable[[], None]) -> None:
        """Have the server's own thread do it: sockets are touched by nobody else."""
        self._calls.append(call)
        self._waker.send(b"x")

    def _send(self, client: _Client, data: bytes) -> None:
        try:
            client.socket.send(data)
        except OSError:
            return  # it died; the read side will say so

    def _drop(self, client: _Client) -> None:
        self._selector.unregister(client.socket)
        self._clients -= {client.socket.fileno()}
        client.socket.close()
        if client.in_flight is not None:
            bench, probe = client.in_flight
            if (desk := self.desks.get(bench)) is not None:
                desk.report("lost", probe, 0, 0, "")


_server: Server | None = None
_server_lock = threading.Lock()


def server(adopt: Callable[[int], None] = lambda _: None) -> Server:
    """The server of this process; made at the first call. `adopt` is told its native thread id then."""
    global _server  # noqa: PLW0603 - one listener per process, as long as the process
    with _server_lock:
        if _server is None:
            _server = Server(adopt)
        return _server


def current() -> Server | None:
    """The server of this process, if there is one."""
    return _server
