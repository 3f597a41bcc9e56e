"""logging: a `QueueHandler`, and a `QueueListener` whose handler is the kit's sink; an event is a record's extra."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from queue import Queue
from typing import Any, ClassVar, Final

from pytest_flowcheck.protocols import Adapter, Unsupported
from pytest_flowcheck.protocols.tracing import Event, Sink, Tracer

SUBJECTS: Final = {"logging-queue-listener": "Listener"}

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has."""


class _ToSink(logging.Handler):
    """As handlers do, it hands what its sink raises to `handleError`."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._sink([{name: value for name, value in vars(record).items() if name not in _OWN}])
        except Exception:  # noqa: BLE001 - as the standard library's own handlers
            self.handleError(record)


class _Logger:
    """A logger that nobody else has, its handler, and the listener behind."""

    def __init__(self, sink: Sink, capacity: int | None) -> None:
        self._queue: Queue[Any] = Queue(capacity or 0)
        self._listener = QueueListener(self._queue, _ToSink(sink))
        self._listener.start()
        self._logger = logging.Logger("events")  # noqa: LOG001 - nobody else's
        self._logger.addHandler(QueueHandler(self._queue))

    def emit(self, event: Event) -> None:
        self._logger.info("event", extra=event)

    def flush(self) -> None:
        self._queue.join()  # what one would write: the listener counts down what it has handled

    def close(self) -> None:
        if getattr(self._listener, "_thread", None) is not None:  # before 3.12 a second stop raises AttributeError
            self._listener.stop()

    def dropped(self) -> int:
        raise Unsupported("a QueueHandler whose queue is full prints that, and counts nothing")


class Listener(Adapter):
    """`QueueHandler` and `QueueListener`, with a `queue.Queue` between them."""

    name = "logging-queue-listener"
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"tracing": frozenset()}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"tracing": {"after_close": "ignore"}}

    @contextmanager
    def tracing(
        self,
        *,
        sink: Sink,
        capacity: int | None = None,
        limit: float | None = None,  # noqa: ARG002 - neither Queue.join nor QueueListener.stop takes one
    ) -> Generator[Tracer]:
        logger = _Logger(sink, capacity)
        try:
            yield logger
        finally:
            logger.close()
