"""FAN-11, 18, 19, 28: exceptions that escape, and what still happens then."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.probes.instance import on_a_loop
from pytest_flowcheck.protocols import Foreign
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.fanout._shared import (
    Act,
    ItemError,
    Script,
    calls_of,
    fan_out,
    full,
    is_that,
    leaves,
    let_go,
    live_at_return,
    moment_of_return,
    of,
    outcomes,
    over,
    within,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.gates import Gates
    from pytest_flowcheck.probes.lab import Lab


@rule("FAN-11")
def an_exception_escapes_orderly(lab: Lab) -> None:
    """An exception that escapes starts nothing new, and the call returns only when what runs has ended or was cancelled; it is raised itself or inside an ExceptionGroup, as declared, never masked; a recorded run is failed.

    Intent: When the caller sees the error, the fan-out is over: nothing writes behind his back, and he knows why.

    Usual cause: `future.result()` in a loop that leaves at the first error; a pool's context manager that runs the rest of the queue first; `except Exception` that a KeyboardInterrupt passes by.

    Proof: The other items of the window are at their gates while the error is out: what starts or returns then is in the history, and that nothing does is proven.

    Source: spec-kit pull request 3224; structured concurrency (trio nurseries, PEP 654).
    """
    acts: tuple[Act, ...] = ("raises", "crashes")
    for act in acts:
        _one_escapes(lab, act)
        lab.fresh()


def _one_escapes(lab: Lab, act: Act) -> None:
    count, bound = 8, 3
    names = calls_of(range(count), act)
    script = Script({1: act}, act)
    meant = script.errors[1]
    with lab.instance() as it:
        call = fan_out(lab, it, count, bound, script, name=act)
        full(lab, call, bound, name=act)
        window = of(lab.started(), act)
        let_go(lab, names[1])
        lab.settle()
        within(lab, bound, act)
        lab.check(
            not (call.done and lab.live()),
            f"the call came back while {', '.join(lab.live())} was in flight",
            "it comes back once what runs has ended, or was cancelled",
        )
        lab.open_all()
        call.join()
        history = lab.timeline.events[: moment_of_return(lab, call)]
        new = [e.probe for e in history if e.kind == "started" and e.probe not in window]
        lab.check(not new, f"after {names[1]} had raised {meant!r}, {', '.join(new)} started", "nothing new starts")
        live = live_at_return(lab, call, act)
        lab.check(not live, f"the call came back while {', '.join(live)} was in flight", "nothing runs any more")
        inside = any(e.pid == os.getpid() for e in lab.timeline.of("raised") if e.probe == names[1])
    _raised_as_declared(lab, call, meant, same=inside)


def _raised_as_declared(lab: Lab, call: Call[Any], meant: BaseException, *, same: bool) -> None:
    """`same`: it never left this process, so it is the very object."""
    error, declared = call.error, lab.declared("escape")
    came = f"an item raised {meant!r}; the call " + ("returned" if error is None else f"raised {error!r}")
    lab.check(error is not None, came, "the error")
    found = next((e for e in leaves(error) if is_that(lab, e, meant)), None)
    lab.check(found is not None, came, f"the item's own error, {'in a group' if declared == 'group' else 'itself'}")
    grouped = isinstance(error, BaseExceptionGroup)
    lab.check(
        grouped == (declared == "group"),
        came,
        "an ExceptionGroup that holds it, as declared" if declared == "group" else "the error itself, as declared",
    )
    if same and not isinstance(found, Foreign):
        lab.check(found is meant, f"{came}, another object", "the same object, whose traceback leads to the item")


@rule("FAN-18", should=True)
def a_failing_iterator_ends_it(lab: Lab) -> None:
    """A failing iterator ends the fan-out with its error, once what runs has ended.

    Intent: Items often come from a cursor or a file; half of them is not all of them.

    Usual cause: The iterator is read on a thread whose exception nobody reads, or its error is taken for its end.

    Proof: The iterator raises after two items; what the call raises, and what was in flight as it came back, is in the history.

    Source: `Executor.map` (EXE-38); anyio and trio nurseries.
    """

    def items() -> Iterator[int]:
        yield from (0, 1)
        raise meant

    meant = ItemError("the iterator failed")
    with lab.instance() as it:
        call = fan_out(lab, it, items(), 3)
        lab.settle()  # two items at their gates, and the iterator has been asked for a third; or it was read beforehand
        lab.open_all()
        error = call.join().error
        lab.check(error is not None, "the iterator raised after two items, and the call returned", f"{meant!r}")
        known = [e for leaf in leaves(error) for e in (leaf, leaf.__cause__) if e is not None]
        lab.check(
            any(is_that(lab, e, meant) for e in known),
            f"the iterator raised {meant!r}; the call raised {error!r}",
            "the iterator's own error",
        )
        live = live_at_return(lab, call)
        lab.check(not live, f"the call came back while {', '.join(live)} was in flight", "nothing runs any more")
        outcomes(fan_out(lab, it, 1, 1, name="afterwards", gated=False))


@rule("FAN-19")
def nothing_starts_after_the_return(lab: Lab) -> None:
    """Once the fan-out has returned, for whatever reason (error, halt, cancellation), no further item starts.

    Intent: A caller that was told the end cleans up; an item that starts then finds its database gone.

    Usual cause: Items that were queued when the fan-out ended are still in somebody's queue.

    Proof: All gates are opened after the return; that nothing starts any more is proven by the kernel.

    Source: structured concurrency; `Executor.shutdown(cancel_futures=True)` forgotten.
    """
    _returns(lab, "raises")
    if lab.claims("halt"):
        _returns(lab, "failed")
    _returns(lab, None)


def _returns(lab: Lab, act: Act | None) -> None:
    """A fan-out that ends before its items do; None: by cancellation."""
    count, bound = 8, 2
    name = act or "cancelled"
    names = calls_of(range(count), name)
    with lab.instance() as it:
        if act is None and it.colour == "blocking":
            return
        call = fan_out(lab, it, count, bound, Script({0: act} if act else {}, name), name=name)
        full(lab, call, bound, name=name)
        if act is None:
            call.cancel()
            if any(not e.coroutine for e in lab.timeline.of("started")):
                lab.settle()
                lab.open(*names[:bound])  # items on threads can't be cancelled
        else:
            let_go(lab, names[0])
            lab.settle()  # the subject has noticed: what starts then, it starts on purpose
            lab.open(*names[:bound])
        lab.until(
            lambda: call.done, "the call comes back", needs={"raises": "FAN-11", "failed": "FAN-07"}.get(name, "FAN-27")
        )
        lab.settle()
        lab.open_all()
        lab.settle()
        late = [e.probe for e in lab.timeline.events[moment_of_return(lab, call) :] if e.kind == "started"]
        why = {"raises": "an item raised", "failed": "an item halted it", None: "its caller was cancelled"}[act]
        lab.check(not late, f"{', '.join(late)} started after the call had come back because {why}", "nothing starts")
    lab.fresh()


@rule("FAN-28", should=True)
def no_error_is_lost(lab: Lab) -> None:
    """Of several escaping errors none is lost: the others are attached or logged.

    Intent: The second error is often the cause of the first.

    Usual cause: `asyncio.wait(FIRST_EXCEPTION)` and the rest never read; `if self.error is None: self.error = error`.

    Proof: A second item raises after the first has and before the call is back, on loops when it is cancelled. Searched are groups, causes, contexts and notes of what was raised, what the logging module got, and what Python reported as unhandled.

    Source: PEP 654, "the motivation"; trio's MultiError.
    """
    first, second = ItemError("item(0) failed"), ItemError("item(1) failed, too")
    sly = Sly(lab.gates, first, second)
    with lab.instance() as it, logged() as lines:
        call = fan_out(lab, it, 4, 2, sly)
        full(lab, call, 2)
        lab.open("item(1)")
        lab.settle()  # it is at its second gate then
        let_go(lab, "item(0)")
        # the subject has noticed: a loop cancels item 1, threads wait for it, and one that leaves at the first has left
        lab.settle()
        lab.open(SECOND_GATE)
        over(lab, "item(1)")
        lab.open_all()
        error = call.join().error
        if second not in sly.raised and {e.pid for e in lab.timeline.of("started")} == {os.getpid()}:
            raise NotTestable("no second item of this subject raises after the first has")
        text: list[str] = []
        for part in reachable(error):
            text += [str(part), *getattr(part, "__notes__", ())]
            part.__traceback__ = None  # its frames may hold tasks whose error is told when they are collected
        gc.collect()
        text += [*lines, *lab.uncaught]
    for meant in (first, second):
        lab.check(
            any(str(meant) in part for part in text),
            f"item(0) raised {first!r}, then item(1) {second!r}; of {meant!r} there is no trace",
            "one is raised, the others are attached to it or logged",
        )


SECOND_GATE = "item(1), on its way out"


class Sly:
    """Item 0 raises; item 1 raises after it has been held at a second gate, or when it is cancelled there."""

    def __init__(self, gates: Gates, first: BaseException, second: BaseException) -> None:
        self.gates: Gates | None = gates
        self.errors = (first, second)
        self.raised: list[BaseException] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "gates": None}  # gates stay at home

    def __call__(self, item: int) -> Any:
        if item > 1:
            return f"item({item})"
        if item == 1 and self.gates is not None:
            if on_a_loop():
                return self._later(self.gates)
            self.gates.wait(SECOND_GATE)
        self.raised.append(self.errors[item])
        raise self.errors[item]

    async def _later(self, gates: Gates) -> None:
        try:
            await gates.wait_async(SECOND_GATE)
        finally:
            self.raised.append(self.errors[1])
            raise self.errors[1]


def reachable(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that hang on it: parts of groups, causes, contexts, attributes."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting += part  # pyright: ignore[reportUnknownArgumentType]
        if not isinstance(part, BaseException) or any(part is known for known in seen):
            continue
        seen.append(part)
        waiting += [part.__cause__, part.__context__, *vars(part).values(), *part.args]
        if isinstance(part, BaseExceptionGroup):
            waiting += part.exceptions  # pyright: ignore[reportUnknownMemberType]
        yield part


@contextmanager
def logged() -> Generator[list[str]]:
    """What the logging module gets meanwhile, with tracebacks."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    keep = Keep()
    logging.getLogger().addHandler(keep)
    try:
        yield lines
    finally:
        logging.getLogger().removeHandler(keep)
