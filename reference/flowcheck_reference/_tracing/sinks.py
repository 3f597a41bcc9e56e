"""Where events go: each of these is called with a batch, on the dispatcher's thread only, and closed behind the last one."""
from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic_ns, time_ns
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import httpx
    from opentelemetry.trace import Span, TracerProvider


def plain(event: object) -> object:
    """An event as JSON has it: mappings as they are; objects, such as the engine's `Event`, by their public attributes."""
    if isinstance(event, Mapping):
        return dict(cast("Mapping[str, object]", event))
    names = getattr(type(event), "__slots__", None) or getattr(event, "__dict__", None)
    if isinstance(event, str | bytes) or not names:
        return event
    return {name: getattr(event, name) for name in names if not name.startswith("_")}


class JsonLines:
    """A file to which each event is appended as one line of JSON; what JSON doesn't know is written as its `repr`.

    A batch is written at once, so that lines of several processes don't mix. Opened by the first batch.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._fd = -1

    def __call__(self, batch: Sequence[object]) -> None:
        """Raises: OSError."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        lines = "".join(json.dumps(plain(event), default=repr) + "\n" for event in batch)
        view = memoryview(lines.encode())
        while view:
            view = view[os.write(self._fd, view) :]

    def close(self) -> None:
        """Shut the file. A batch that comes later opens it again."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class HttpPost:
    """A collector that takes batches as JSON arrays by POST. Needs the extra `httpx`.

    `client`: an `httpx.Client` of your own, with your headers and timeouts, which is not closed; else one with `timeout`
    seconds for each step of a request. In the child of a fork a client of its own is made.
    """

    def __init__(self, url: str, *, client: httpx.Client | None = None, timeout: float = 5.0) -> None:
        self.url, self.timeout = url, timeout
        self._given, self._client, self._pid = client, None, 0

    _client: httpx.Client | None

    def __call__(self, batch: Sequence[object]) -> None:
        """Raises: what httpx raises; `httpx.HTTPStatusError` for an answer of 400 and above."""
        body = json.dumps([plain(event) for event in batch], default=repr).encode()
        answer = self._mine().post(self.url, content=body, headers={"Content-Type": "application/json"})
        answer.raise_for_status()

    def _mine(self) -> httpx.Client:
        if self._given is not None:
            return self._given
        if self._client is None or self._pid != os.getpid():
            import httpx

            self._client, self._pid = httpx.Client(timeout=self.timeout), os.getpid()
        return self._client

    def close(self) -> None:
        """Close the connections. A batch that comes later opens new ones."""
        client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            client.close()


class Spans:
    """OpenTelemetry: the engine's events as spans, a run's nodes below the run. Needs the extra `otel`.

    Other events become spans without length, called by their "name" or "event". `provider`: OpenTelemetry's, by default the
    global one. The sink's own batches are the dispatcher's, so that a provider with a `SimpleSpanProcessor` will do.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._tracer = (provider or trace.get_tracer_provider()).get_tracer("flowcheck_reference")
        self._open: dict[tuple[str, str], Span] = {}
        self._zero = time_ns() - monotonic_ns()

    def __call__(self, batch: Sequence[object]) -> None:
        for event in batch:
            kind, run = getattr(event, "kind", None), getattr(event, "run", None)
            if isinstance(kind, str) and isinstance(run, str):
                self._of_run(kind, run, cast("Any", event))
            else:
                values = plain(event)
                fields = cast("dict[str, Any]", values) if isinstance(values, dict) else {"value": values}
                self._tracer.start_span(str(fields.get("name", "event")), attributes=_flat(fields)).end()

    def _of_run(self, kind: str, run: str, event: Any) -> None:
        at = self._zero + int(event.at * 1e9)
        key = (run, event.node)
        if kind.endswith("started"):
            above = self._open.get((run, "")) if event.node else None
            context = None if above is None else self._trace.set_span_in_context(above)
            attributes = {"flow.run": run, "flow.nodes": event.nodes} | ({"flow.node": event.node} if event.node else {})
            self._open[key] = self._tracer.start_span(event.node or run, context, attributes=attributes, start_time=at)
        elif (span := self._open.pop(key, None)) is not None:
            span.set_attribute("flow.status", event.status)
            if event.status in ("failed", "aborted"):
                span.set_status(self._trace.StatusCode.ERROR)
            span.end(at)


def _flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenTelemetry takes for an attribute; else its `repr`."""
    return {
        str(name): value if isinstance(value, bool | int | float | str) else repr(value) for name, value in fields.items()
    }
