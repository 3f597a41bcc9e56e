"""tracing: something that delivers events to a sink behind the caller's back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.shell.drafting import names
from pytest_flowcheck.shell.drafting.draft import Draft, call, can_not, guard, method, opened, wrapped

if TYPE_CHECKING:
    from pytest_flowcheck.shell.drafting.sight import Sight
    from pytest_flowcheck.shell.drafting.trying import Held

LOOKS_FOR: Final = (
    "a sink to make it with (sink, exporter, callback), an `emit` of one event, and a `flush` and a `close`"
)
ASKED: Final = "*, sink, capacity=None, limit=None"
EMITS: Final = ("emit", "log", "put", "send", "record", "trace", "add", "publish", "write", "enqueue")
SINK: Final = (
    "sink",
    "callback",
    "handler",
    "exporter",
    "writer",
    "deliver",
    "on_batch",
    "consumer",
    "emit_fn",
    "export",
    *names.FUNCTION,
)
SKELETON: Final = [
    method("def emit(self, event)", guard("how an event is handed over")),
    method("def flush(self)", guard("how what was emitted is delivered")),
    method("def close(self)", guard("how the tracer is closed")),
    method("def dropped(self)", guard("how many events were given up")),
]


WORDS: Final = ("emit", "flush", "force_flush", "sink", "exporter", "dropped", "tracer", "span", "log")


def drafts(seen: Sight, *, aio: bool) -> Iterator[Draft]:
    """Its sink gets a batch, or one event."""
    if seen.kind != "class":
        return
    sink = seen.option(SINK)
    emit = seen.find(EMITS, aio=False) or (seen.find(EMITS, aio=True) if aio else None)
    flush, close = (
        seen.find(ways, aio=aio) for ways in (("flush", "force_flush", "drain"), ("close", "shutdown", "stop"))
    )
    if sink is None or emit is None or flush is None or close is None or flush.required or close.required:
        return
    capacity, limit = (
        seen.option(("capacity", "max_queue_size", "maxsize", "buffer_size")),
        seen.option(("limit", "timeout")),
    )
    head, word = ("async def", "await ") if aio else ("def", "")
    emits = ("async def", "await ") if emit.aio else ("def", "")
    for given in ("sink", "lambda event: sink([event])"):
        methods = [
            method(f"{emits[0]} emit(self, event)", [f"{emits[1]}self.thing.{emit.name}(event)"]),
            method(f"{head} flush(self)", [f"return {word}self.thing.{flush.name}()"]),
            method(f"{head} close(self)", [f"return {word}self.thing.{close.name}()"]),
            _dropped(seen),
        ]
        more = [] if capacity is None else [f'size = {{}} if capacity is None else {{"{capacity.name}": capacity}}']
        if capacity is None:
            more = can_not("capacity is not None", "no bound on what is held was found")
        if limit is None:
            more += can_not("limit is not None", "no limit on flush and close was found")
        arguments = [f"{sink.name}={given}" if sink.keyword and sink.sort == "KEYWORD_ONLY" else given]
        arguments += [f"{limit.name}=limit"] if limit is not None else []
        arguments += ["**size"] if capacity is not None else []
        opening = opened(
            call(f"{names.thing(seen)}(", arguments, indent=8),
            "_Tracing(thing)",
            enters=seen.aenters if aio else seen.enters,
            closes=close.name,
            aio=aio,
        )
        yield Draft("tracing", aio, wrapped("_Tracing", methods), [*more, *opening], ASKED, names.imports(seen))


def _dropped(seen: Sight) -> list[str]:
    for name in ("dropped", "lost", "dropped_count", "n_dropped"):
        found = seen.methods.get(name)
        if found is not None and not found.aio and not found.required:
            return method("def dropped(self)", [f"return self.thing.{name}{'' if found.is_property else '()'}"])
    return method("def dropped(self)", ['raise Unsupported("it counts nothing that it gives up")'])


# --- the child's side ---------------------------------------------------------------------------------------------------


async def check(held: Held) -> None:
    """What was emitted is at the sink after a flush, in order; a close, and an emit behind it."""
    got: list[Any] = []
    async with held.open(sink=held.body(got.extend)) as tracer:
        events = [{"by": "a", "n": n} for n in range(3)]
        for event in events:
            await held.value(tracer.emit(event))
        await held.value(tracer.flush())
        held.expect([dict(event) for event in got] == events, f"of 3 events the sink has {got!r} after a flush")
        await held.value(tracer.close())
        late = await held.error(tracer, "emit", {"by": "a", "n": 3})
        if late is None:
            held.declares["after_close"] = "ignore"
        else:
            held.learn("Closed", late)
