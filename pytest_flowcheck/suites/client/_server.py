"""An HTTP server on loopback that knows its connections: for clients that are real.

Blocking threads and untimed waits only, so that a process that has one can still be proven to be at rest.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Server:
    """It answers every request with an empty 200, and keeps connections open.

    A request for `/client-1` tells that its connection is that client's.
    """

    url: str
    changed: Callable[[], object]
    """Called when a connection comes or goes."""
    open: dict[socket.socket, str] = field(default_factory=dict[socket.socket, str])
    """The connections, and whose each is; "" before its first request."""
    served: int = 0
    """Requests so far."""

    def connections(self, name: str) -> int:
        """How many connections of this client are open, as the server sees it."""
        return sum(1 for whose in self.open.copy().values() if whose == name)

    def serve(self, connection: socket.socket) -> None:
        """Answer what comes on a connection, until the other side closes it. On a thread of its own."""
        with connection, suppress(OSError):
            rest = b""
            while True:
                head, end, rest = rest.partition(b"\r\n\r\n")
                if not end:
                    more = connection.recv(65536)
                    if not more:
                        break
                    rest = head + more
                    continue
                self.open[connection] = head.split(b" ", 2)[1].decode().strip("/")
                self.served += 1
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        self.open.pop(connection, None)
        self.changed()


@contextmanager
def serving(changed: Callable[[], object]) -> Generator[Server]:
    """A server for as long as the context. Leaving cuts connections that are still open."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(f"http://127.0.0.1:{listener.getsockname()[1]}", changed)
        over, threads = threading.Event(), list[threading.Thread]()

        def accept() -> None:
            while True:
                connection, _ = listener.accept()
                if over.is_set():
                    connection.close()
                    return
                server.open[connection] = ""
                threads.append(
                    threading.Thread(target=server.serve, args=(connection,), daemon=True, name="connection")
                )
                threads[-1].start()

        acceptor = threading.Thread(target=accept, daemon=True, name="the kit's HTTP server")
        acceptor.start()
        try:
            yield server
        finally:
            over.set()
            socket.create_connection(listener.getsockname()).close()
            acceptor.join()
            for connection in list(server.open):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
