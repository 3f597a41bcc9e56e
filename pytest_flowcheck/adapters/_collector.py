"""A collector of events on loopback, for tracers that post to a URL: each post goes to the kit's sink before it is answered.

Blocking threads and untimed waits only, so that a process that has one can still be proven to be at rest.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from typing import Any


@contextmanager
def collecting(deliver: Callable[[bytes], None]) -> Generator[str]:
    """Serve `deliver(body)` for as long as the context.

    Args:
        deliver: is given the body of each post, on a thread of that connection; what it raises is answered with 500.

    Yields:
        The collector's URL. Leaving cuts connections that are still open.
    """

    class Post(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                deliver(body)
            except Exception as error:  # noqa: BLE001 - the sink's: what it raises is the rule's affair
                self.send_error(500, type(error).__name__)
            else:
                self.send_response(200)
                self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
            """Nothing: stderr is the tracer's to report on."""

    over, threads, open_ = threading.Event(), list[threading.Thread](), set[socket.socket]()

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):  # cut off by whoever leaves, or by the tracer
            Post(connection, connection.getpeername(), None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        open_.discard(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                connection, _ = listener.accept()
                if over.is_set():
                    connection.close()
                    return
                open_.add(connection)
                threads.append(
                    threading.Thread(target=serve, args=(connection,), daemon=True, name="the kit's collector")
                )
                threads[-1].start()

        acceptor = threading.Thread(target=accept, daemon=True, name="the kit's collector")
        acceptor.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            socket.create_connection(listener.getsockname()).close()
            acceptor.join()
            for connection in list(open_):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
