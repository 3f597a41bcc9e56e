"""What several rules of this suite share: the kit's sink, calls that emit, and waits that blame the right rule."""

from __future__ import annotations

import inspect
import logging
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import Inconclusive, NotTestable, Violated
from pytest_flowcheck.probes.calls import blocking_value
from pytest_flowcheck.probes.probe import Probe

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.protocols.tracing import Event

LIMIT: Final = 0.05
"""Seconds for which `flush` and `close` may wait for a stuck sink, where a rule asks for that. No rule measures it."""

_OF_OTHERS: Final = ("caller:", "flowcheck ", "the kit", "asyncio_", "AnyIO worker", "Trio")
"""How threads are named that are the kit's, or a loop's own."""

Step = Callable[[Any], Any]
"""What is done with the tracer, as a part of a call."""


class SinkError(Exception):
    """What the kit's sink raises."""


def event(by: str, number: int) -> dict[str, Any]:
    """One to emit."""
    return {"by": by, "n": number}


def name(of: Event) -> str:
    """How it is called in messages: `a3`."""
    return f"{of.get('by')}{of.get('n')}"


def names(events: Iterable[Event]) -> list[str]:
    """All of them."""
    return [name(each) for each in events]


class Sink:
    """The kit's: notes what comes, waits at a gate if it is held, and does what it is told to.

    Its calls are named `sink #1`, `sink #2`, ...; so are their gates.
    """

    def __init__(
        self, lab: Lab, *, held: bool = False, does: Callable[[int, list[dict[str, Any]], bool], Any] | None = None
    ) -> None:
        self._lab, self._bench, self.held, self._does = lab, lab.benches[-1], held, does
        self._lock = threading.Lock()
        self.batches: list[list[dict[str, Any]]] = []
        """What each call was given, in the order of the calls."""
        self.delivered: list[dict[str, Any]] = []
        """In the order in which the sink was through with them; those of a call that raises are not."""
        self.failed: list[dict[str, Any]] = []

    def __call__(self, batch: Sequence[Event]) -> None:
        self._probe(batch, False)()

    async def aio(self, batch: Sequence[Event]) -> None:
        """On a loop."""
        await self._probe(batch, True).aio()

    def _probe(self, batch: Sequence[Event], on_loop: bool) -> Probe:
        came = [dict(each) for each in batch]
        with self._lock:
            self.batches.append(came)
            number = len(self.batches)
        return Probe(self._bench, f"sink #{number}", partial(self._work, number, came, on_loop), gated=self.held)

    def _work(self, number: int, came: list[dict[str, Any]], on_loop: bool) -> Any:
        try:
            done = self._does(number, came, on_loop) if self._does is not None else None
        except BaseException:
            self.failed += came
            raise
        if inspect.isawaitable(done):
            return self._later(done, came)
        self.delivered += came
        return None

    async def _later(self, done: Any, came: list[dict[str, Any]]) -> None:
        try:
            await done
        except BaseException:
            self.failed += came
            raise
        self.delivered += came

    def fails(self, *numbers: int) -> Sink:
        """From now on these calls raise; without numbers, all do."""

        def fail(number: int, came: list[dict[str, Any]], _: bool) -> None:
            if not numbers or number in numbers:
                raise SinkError(f"the sink failed on {', '.join(names(came))}")

        self._does = fail
        return self

    @property
    def arrived(self) -> list[dict[str, Any]]:
        """What it was given, whatever came of it."""
        return [each for batch in tuple(self.batches) for each in batch]


def emit(by: str, number: int) -> Step:
    """Emit this one."""
    return lambda tracer: tracer.emit(event(by, number))


def flush(tracer: Any) -> Any:
    """Flush."""
    return tracer.flush()


def close(tracer: Any) -> Any:
    """Close."""
    return tracer.close()


def says_all(value: Any) -> bool:
    """Whether what a flush or close gave claims that all is delivered."""
    return value is None or value is True or (type(value) is int and value == 0)


async def awaited(value: Any) -> Any:
    """A value, or what an awaitable gives."""
    return await value if inspect.isawaitable(value) else value


class Stage:
    """An opened tracer, and its sink."""

    def __init__(self, lab: Lab, it: Instance, sink: Sink, before: set[threading.Thread]) -> None:
        self.lab, self.it, self.sink, self._before = lab, it, sink, before

    def do(self, what: str, *steps: Step) -> Call[list[Any]]:
        """Begin a call that takes these steps, one after the other, on one thread or as one task; it gives what they give."""
        if self.it.colour == "blocking":
            return self.it.start(what, lambda tracer: [blocking_value(what, step(tracer)) for step in steps])

        async def run(tracer: Any) -> list[Any]:
            return [await awaited(step(tracer)) for step in steps]

        return self.it.start(what, run)

    def emit(self, by: str, numbers: Iterable[int]) -> Call[list[Any]]:
        """Begin to emit these, one after the other."""
        todo = [*numbers]
        told = f"{by}{todo[0]}" if len(todo) == 1 else f"{by}{todo[0]} to {by}{todo[-1]}"
        return self.do(f"emit {told}", *(emit(by, number) for number in todo))

    def flush(self, who: str = "") -> Call[list[Any]]:
        """Begin to flush; it gives its value, and what was delivered, or had failed, when it came back."""
        return self.do(f"flush(){who}", flush, self.settled)

    def close(self, who: str = "") -> Call[list[Any]]:
        """Begin to close; it gives the same."""
        return self.do(f"close(){who}", close, self.settled)

    def settled(self, _: Any = None) -> list[str]:
        """What the sink is through with."""
        return names([*self.sink.delivered, *self.sink.failed])

    def emitted(self, by: str, numbers: Iterable[int], *, needs: str | None = "TRC-01") -> None:
        """Emit these, and see it return. `needs`: the rule that is broken if it doesn't; None: that is the finding."""
        call = self.emit(by, numbers)
        self.lab.until(
            lambda: call.done, f"{call.what} comes back", expected="emit hands over and returns", hung=True, needs=needs
        )
        self.returned(call, needs)

    def returned(self, call: Call[Any], needs: str | None = None) -> Any:
        """What it gave; that it raised is a finding, or `needs`'s affair."""
        if call.error is not None and needs is not None:
            raise Inconclusive(f"{call.what} raised {call.error!r}", because_of=needs)
        self.lab.check(call.error is None, f"{call.what} raised {call.error!r}", "it returns")
        return call.value

    def flushed(self, *, needs: str | None = "TRC-03", when: str = "") -> None:
        """Flush, and see it come back, whatever it gives."""
        call = self.flush()
        self.lab.until(
            lambda: call.done,
            f"flush() comes back{when}",
            expected="it returns once all that was emitted before is delivered",
            hung=True,
            needs=needs,
        )
        self.returned(call, needs)

    def stuck(self, by: str = "first", *, needs: str | None = "TRC-01") -> Call[Any]:
        """Emit one event, and wait until the sink, which is held, is stuck with it. Gives a flush that waits for it."""
        first = self.emit(by, [1])
        self.lab.until(
            lambda: first.done or bool(self.lab.live()), f"{first.what} comes back", hung=needs is None, needs=needs
        )
        if not first.done:  # the sink may be faster than its caller is back
            self.lab.until(
                lambda: first.done,
                f"{first.what} comes back while the sink is stuck with it",
                expected="emit hands over and returns",
                hung=True,
                needs=needs,
            )
        self.returned(first, needs)
        pushing = self.flush(" of what the sink is stuck with")  # whoever gathers for a while need not
        self.lab.until(
            lambda: bool(self.lab.live()) or pushing.done, "the sink is given the first event", needs="TRC-03"
        )
        if not self.lab.live():
            raise Inconclusive(f"{pushing.what} came back, and the sink was given nothing", because_of="TRC-03")
        return pushing

    def go(self) -> None:
        """Nothing holds the sink any more."""
        self.lab.open_all()

    def dropped(self) -> int:
        """What it says."""
        call = self.it.start("dropped()", lambda tracer: tracer.dropped())
        self.lab.until(lambda: call.done, "dropped() comes back", hung=True)
        return int(self.returned(call))

    def counted(self) -> int:
        """The same; 0 where it can't say: then nothing is counted."""
        try:
            return self.dropped()
        except (NotTestable, Violated):
            return 0

    def threads(self) -> list[threading.Thread]:
        """Those that are here since the tracer was opened, and are neither the kit's nor a loop's."""
        return [
            thread
            for thread in threading.enumerate()
            if thread not in self._before and not thread.name.startswith(_OF_OTHERS)
        ]


@contextmanager
def opened(lab: Lab, sink: Sink | None = None, *, held: bool = False, **options: Any) -> Generator[Stage]:
    """A fresh tracer with the kit's sink."""
    sink = sink or Sink(lab, held=held)
    before = set(threading.enumerate())
    with lab.instance(sink=sink, **options) as it:
        yield Stage(lab, it, sink, before)


def twice(events: Sequence[str]) -> list[str]:
    """Those that are there more than once."""
    return sorted({each for each in events if events.count(each) > 1})


# --- what is said on the side -----------------------------------------------------------------------------------------


class Heard(logging.Handler):
    """What is logged from level WARNING on, warned and printed to stderr, while it listens. `then` is called for each record."""

    def __init__(self, then: Callable[[], object] | None) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []
        self.warned: list[Any] = []
        self.printed = StringIO()
        self._then = then

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        error = record.exc_info[1] if record.exc_info else None
        self.records.append(f"{record.getMessage()} {error!r}")
        if self._then is not None:
            self._then()

    def reports(self) -> list[str]:
        """One for each."""
        tracebacks = [line for line in self.printed.getvalue().splitlines() if "SinkError: " in line]
        # a handler may print what is logged: then it is heard twice
        return [*max(self.records, tracebacks, key=len), *(str(w.message) for w in self.warned)]


@contextmanager
def listening(then: Callable[[], object] | None = None) -> Generator[Heard]:
    """Hear what is said meanwhile. Inside of `opened`: a tracer that can't be left must not keep others' errors from being told."""
    heard, root = Heard(then), logging.getLogger()
    with warnings.catch_warnings(record=True) as heard.warned, redirect_stderr(heard.printed):
        warnings.simplefilter("always")
        root.addHandler(heard)
        try:
            yield heard
        finally:
            root.removeHandler(heard)
