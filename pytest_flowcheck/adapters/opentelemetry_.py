"""OpenTelemetry: a `BatchSpanProcessor`, whose exporter is the kit's sink; an event is a span's attributes."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pytest_flowcheck.protocols import Adapter, Unsupported
from pytest_flowcheck.protocols.tracing import Event, Sink, Tracer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

SUBJECTS: Final = {"otel-batch": "Batch"}


def _exporter(sink: Sink) -> SpanExporter:
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class ToSink(SpanExporter):
        """An exporter that raises is one of those that the processor must be ready for."""

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            sink([dict(span.attributes or {}) for span in spans])
            return SpanExportResult.SUCCESS

        def shutdown(self) -> None:
            """Nothing is held."""

    return ToSink()


class _Provider:
    """A `TracerProvider` of its own, with one `BatchSpanProcessor`."""

    def __init__(self, sink: Sink, capacity: int | None, limit: float | None) -> None:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        for each in logging.getLogger("opentelemetry.sdk._shared_internal").filters:
            vars(each).pop("last_log", None)  # it says nothing twice in 20 s, though another processor said it
        self._provider = TracerProvider()
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _exporter(sink), max_queue_size=capacity, max_export_batch_size=capacity, schedule_delay_millis=50
            )
        )
        self._tracer = self._provider.get_tracer("flowcheck")
        self._limit = 30_000 if limit is None else int(limit * 1e3)

    def emit(self, event: Event) -> None:
        self._tracer.start_span("event", attributes=event).end()

    def flush(self) -> bool:
        return self._provider.force_flush(self._limit)

    def close(self) -> None:
        self._provider.shutdown()

    def dropped(self) -> int:
        raise Unsupported(
            "a BatchSpanProcessor logs that it drops spans, and counts them for experimental metrics only"
        )


class Batch(Adapter):
    """`TracerProvider` and `BatchSpanProcessor`, as they come, but for a delay that is shorter than their five seconds."""

    name = "otel-batch"
    requires: ClassVar[Sequence[str]] = ("opentelemetry-sdk",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"tracing": frozenset({"atexit", "fork"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"tracing": {"after_close": "ignore"}}

    @contextmanager
    def tracing(self, *, sink: Sink, capacity: int | None = None, limit: float | None = None) -> Generator[Tracer]:
        provider: Any = _Provider(sink, capacity, limit)
        try:
            yield provider
        finally:
            provider.close()
