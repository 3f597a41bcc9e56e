"""Tracer: what is promised beyond the rules of the facet; its sinks, and what the engine tells."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from flowcheck_reference import Engine, Event, Flow, HttpPost, JsonLines, Spans, Tracer, TracerClosedError


class Stuck:
    """A sink that waits until it is let go."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.got: list[Any] = []

    def __call__(self, batch: list[Any]) -> None:
        self.reached.set()
        self.go.wait()
        self.got += batch


def test_events_come_in_batches_and_in_order() -> None:
    """The first alone, as it wakes the dispatcher; those behind it together, no more than `batch` at once."""
    sizes: list[int] = []
    sink = Stuck()

    def each(batch: list[int]) -> None:
        sizes.append(len(batch))
        sink(batch)

    with Tracer[int](each, batch=4) as tracer:
        tracer.emit(0)
        sink.reached.wait()
        for number in range(1, 11):
            tracer.emit(number)
        sink.go.set()
        assert tracer.flush() == 0
    assert sink.got == list(range(11))
    assert sizes == [1, 4, 4, 2]


def test_what_has_no_room_is_dropped_and_counted() -> None:
    """Exactly `capacity` wait beside those that the sink has; looking at the counter does not change it."""
    sink = Stuck()
    with Tracer[int](sink, capacity=5) as tracer:
        tracer.emit(0)
        sink.reached.wait()
        for number in range(1, 21):
            tracer.emit(number)
        assert [tracer.dropped, tracer.dropped, tracer.dropped] == [15, 15, 15]
        sink.go.set()
    assert sink.got == [0, 1, 2, 3, 4, 5]
    assert tracer.dropped == 15


def test_a_wait_says_how_many_are_missing() -> None:
    """flush and close give a number; what close cut off is dropped, and the dispatcher ends when the sink comes back."""
    sink = Stuck()
    tracer = Tracer[int](sink)
    for number in range(3):
        tracer.emit(number)
    sink.reached.wait()
    assert tracer.flush(0.01) == 3
    assert tracer.close(0.01) == 3
    sink.go.set()
    assert tracer.close(None) == 0
    assert len(sink.got) + tracer.dropped == 3


def test_the_dispatcher_is_there_only_if_needed() -> None:
    """None before the first event and after close, nor for a tracer that nobody refers to any more."""
    tracer = Tracer[int](lambda batch: None, linger=0)
    assert tracer.flush() == tracer.close() == 0
    assert tracer._thread is None

    tracer = Tracer[int](lambda batch: None, linger=0)
    tracer.emit(1)
    tracer.flush()
    thread = tracer._thread
    assert thread is not None
    gone = weakref.ref(tracer)
    del tracer
    gc.collect()
    thread.join()
    assert gone() is None


def test_what_is_emitted_is_a_copy() -> None:
    """Of a dict, a list, and whatever is a mapping; other objects are handed over as they are."""
    got: list[Any] = []
    plain, many, other = {"a": 1}, [1], object()
    with Tracer[Any](got.extend) as tracer:
        for event in (plain, many, os.environ, other):
            tracer.emit(event)
        plain["a"] = 2
        many.append(2)
    assert got[:2] == [{"a": 1}, [1]]
    assert type(got[2]) is dict
    assert got[3] is other


@pytest.mark.parametrize("how", ["ignore", "raise"])
def test_an_emit_after_close(how: Any) -> None:
    """It is counted, and raises if that was asked for."""
    tracer = Tracer[int](lambda batch: None, after_close=how)
    tracer.close()
    if how == "raise":
        with pytest.raises(TracerClosedError):
            tracer.emit(1)
    else:
        tracer.emit(1)
    assert tracer.dropped == 1


@pytest.mark.parametrize(
    "wrong", [{"capacity": 0}, {"batch": 0}, {"linger": -1}, {"limit": -0.1}, {"after_close": "reopen"}]
)
def test_options_that_make_no_sense_are_refused(wrong: Any) -> None:
    """Before anything is traced."""
    with pytest.raises(ValueError, match="must be"):
        Tracer(lambda batch: None, **wrong)


def test_errors_are_told_once_until_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    """Three failures in a row make one record, and the next row another; `on_error` gets them instead if it is given."""

    def sink(batch: list[str]) -> None:
        if batch[0] == "bad":
            raise SystemExit("a sink's")

    told: list[tuple[str, int]] = []
    for on_error in (None, lambda error, batch: told.append((str(error), len(batch)))):
        with Tracer[str](sink, on_error=on_error) as tracer:
            for event in ("bad", "bad", "bad", "good", "bad"):
                tracer.emit(event)
                tracer.flush()
        assert tracer.dropped == 4
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert told == [("a sink's", 1)] * 2


def test_an_error_callback_may_raise(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, and the dispatcher goes on."""

    def fails(*_: object) -> None:
        raise ValueError("both")

    with Tracer[int](fails, on_error=fails) as tracer:
        tracer.emit(1)
        assert tracer.flush() == 0
    assert "on_error raised" in caplog.text


def test_many_emitters_lose_nothing() -> None:
    """Emits that race with each other, with a flush and with the dispatcher's falling asleep; none waits for a lock."""
    got: list[tuple[int, int]] = []
    with Tracer[tuple[int, int]](got.extend, linger=0.0005) as tracer:

        def emits(who: int) -> None:
            for number in range(500):
                tracer.emit((who, number))
                if number % 100 == 0:
                    tracer.flush()

        threads = [threading.Thread(target=emits, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert tracer.dropped == 0
    for who in range(4):
        assert [number for by, number in got if by == who] == list(range(500))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_is_closed_on_a_loop(backend: str) -> None:
    """`async with` delivers; aflush gives what is missing within its limit, and a loop that has ended is not told."""
    sink = Stuck()

    async def main() -> list[int]:
        async with Tracer[int](sink) as tracer:
            tracer.emit(1)
            missing = [await tracer.aflush(0.01)]
            sink.go.set()
            return [*missing, await tracer.aflush()]

    if backend == "trio":
        trio = pytest.importorskip("trio")
        assert trio.run(main) == [1, 0]
    else:
        assert asyncio.run(main()) == [1, 0]
    assert sink.got == [1]


ENDS: dict[str, str] = {
    "at exit": "tracer.emit({'n': 1})",
    "in an exit handler": "import atexit; atexit.register(tracer.emit, {'n': 1})",
    "on a thread that outlives main": (
        "import threading; go = threading.Event(); threading.Thread(target=lambda: (go.wait(), tracer.emit({'n': 1}))).start();"
        "go.set()"
    ),
    "in a fork": "pid = os.fork()\nif not pid:\n    tracer.emit({'n': 1}); tracer.close(); os._exit(0)\nos.waitpid(pid, 0)",
}


@pytest.mark.parametrize("how", ENDS)
def test_a_process_that_ends_delivers(how: str, tmp_path: Path) -> None:
    """Nobody closes the tracer; the event is in the file, once."""
    path = tmp_path / "trace.jsonl"
    source = (
        f"import os\nfrom flowcheck_reference import JsonLines, Tracer\ntracer = Tracer(JsonLines({str(path)!r}))\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", source + ENDS[how]], check=True)
    assert path.read_text() == '{"n": 1}\n'


def test_a_stuck_sink_holds_up_the_end_for_its_limit_only() -> None:
    """The process ends, and says what it did not deliver."""
    source = (
        "import threading\nfrom flowcheck_reference import Tracer\n"
        "tracer = Tracer(lambda batch: threading.Event().wait(), limit=0.05)\ntracer.emit(1)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert "1 events were not delivered" in done.stderr


# --- sinks ------------------------------------------------------------------------------------------------------------


def test_json_lines_appends(tmp_path: Path) -> None:
    """A line for each event; what JSON doesn't know is told by its repr."""
    path = tmp_path / "trace.jsonl"
    for _ in range(2):
        with Tracer[Any](JsonLines(path)) as tracer:
            tracer.emit({"who": "é", "path": Path("x")})
            tracer.emit("a text")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"who": "é", "path": repr(Path("x"))}, "a text"] * 2


@pytest.fixture
def collector() -> Any:
    """An HTTP server on loopback: what was posted, and the status that it answers with."""
    posted: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if posted[-1] == ["bad"] else 204)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Not asked."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", posted
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("own", [False, True])
def test_http_post_sends_arrays(collector: Any, own: bool) -> None:
    """An answer that is an error is one; a client of one's own is used, and left open."""
    httpx = pytest.importorskip("httpx")
    url, posted = collector
    errors: list[str] = []
    client = httpx.Client() if own else None
    with Tracer[Any](HttpPost(url, client=client), on_error=lambda e, _: errors.append(type(e).__name__)) as tracer:
        for event in ({"n": 1}, "bad", {"n": 2}):
            tracer.emit(event)
            tracer.flush()
    assert posted == [[{"n": 1}], ["bad"], [{"n": 2}]]
    assert errors == ["HTTPStatusError"]
    if client is not None:
        assert not client.is_closed
        client.close()


# --- the engine -------------------------------------------------------------------------------------------------------


def flow() -> Flow:
    """Two nodes, the second of which fails."""

    def first(value: int) -> int:
        return value + 1

    def second(value: int) -> int:
        raise ValueError("no")

    flow = Flow("traced")
    flow.add(first, needs=("input",))
    flow.add(second, needs=("first",))
    return flow


def traced(sink: Callable[[list[Event]], object]) -> None:
    with Tracer[Event](sink) as tracer, Engine(2, on_event=tracer.emit) as engine:
        engine.run(flow(), 1, on_error="continue")


def test_a_run_is_traced(tmp_path: Path) -> None:
    """Each event of the run is a line."""
    path = tmp_path / "run.jsonl"
    traced(JsonLines(path))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["kind"], line["node"], line["status"]) for line in lines] == [
        ("run started", "", ""),
        ("node started", "first", ""),
        ("node ended", "first", "ok"),
        ("node started", "second", ""),
        ("node ended", "second", "failed"),
        ("run ended", "", "failed"),
    ]


def test_a_run_becomes_spans() -> None:
    """The run's span has those of its nodes below it; events of another kind are spans, too."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    sink = Spans(provider)
    traced(sink)
    sink([{"name": "other", "n": 1, "odd": [1]}])
    *nodes, run, other = exporter.get_finished_spans()
    assert [span.name for span in nodes] == ["first", "second"]
    assert run.parent is None
    assert all(span.parent is not None and span.parent.span_id == run.context.span_id for span in nodes)
    assert [span.status.is_ok for span in (*nodes, run)] == [True, False, False]
    assert nodes[0].end_time is not None
    assert nodes[0].end_time >= (nodes[0].start_time or 0) >= (run.start_time or 0)
    assert dict(other.attributes or {}) == {"name": "other", "n": 1, "odd": "[1]"}
