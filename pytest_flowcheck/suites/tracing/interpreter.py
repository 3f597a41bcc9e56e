"""TRC-04, 09: the end of the interpreter, and a fork. Each in an interpreter of its own."""

from __future__ import annotations

import ctypes
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.child import Child, child
from pytest_flowcheck.probes.needs import FORK, need
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.tracing._shared import event, name, says_all

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.subjects import Subject


class ToProbe:
    """A sink that tells the rule what it was given; in a forked process too."""

    def __init__(
        self, probe: Callable[[str, str], object], asked: Callable[[Sequence[Any]], None] | None = None
    ) -> None:
        self._probe, self._asked = probe, asked

    def __call__(self, batch: Sequence[Any]) -> None:
        where = "child" if os.getpid() != _first else "parent"
        if self._asked is not None:
            self._asked(batch)
        for each in batch:
            self._probe(where, name(each))


_first = os.getpid()


def _open(subject: Subject, sink: ToProbe) -> Any:
    """A tracer that nobody closes."""
    manager: Any = subject.open("tracing", sink=sink)
    if not hasattr(manager, "__enter__"):
        raise NotTestable("a tracer that belongs to a loop is asked by its blocking way in")
    # never finalised, not even by an interpreter that ends: a generator would go on there, and close the tracer
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(manager))
    return manager.__enter__()


def _until(lab: Lab, process: Child, predicate: Callable[[], bool], what: str, needs: str) -> None:
    """As `lab.until`, and says what the child wrote if it ended instead."""
    lab.until(lambda: process.exited or predicate(), what, needs=needs)
    if not predicate():
        output = process.output()
        if "NotTestable" in output:
            raise NotTestable(output.rpartition("NotTestable: ")[2].strip())
        raise Inconclusive(f"the scenario ended early with status {process.status}: {output[-600:]}", because_of=needs)


@rule("TRC-04", "atexit")
def a_process_that_ends_delivers(lab: Lab) -> None:
    """A process that ends normally without `close` still delivers.

    Intent: The last events of a script are the ones that tell why it ended.

    Usual cause: A daemon thread that dies with the interpreter, and nothing registered with `atexit`; a dispatcher that isn't one, and is waited for for ever.

    Proof: In an interpreter of its own a script emits three events, and ends, its sink at a gate until the main thread is through. The sink reports over a connection of its own; then the process has ended, with all three, or it is proven that it never will.

    Source: dynamiq 673; OpenTelemetry Python, which registers `TracerProvider.shutdown` with atexit.
    """
    with child(lab, emit_and_end, lab.probe("main ends", gated=False), lab.probe("sink")) as process:
        _until(lab, process, lambda: "main ends" in lab.ended(), "the main thread ends", "TRC-01")
        lab.open_all()
        lab.until(
            lambda: process.exited, "the process ends", expected="it delivers what was emitted, and ends", hung=True
        )
        came = [each for each in lab.ended() if each.startswith("sink(")]
        lost = [each for each in ("a1", "a2", "a3") if f"sink('parent', '{each}')" not in came]
        lab.check(
            not lost,
            f"the process ended with status {process.status}, and {', '.join(lost)} never reached the sink",
            "what was emitted is delivered first",
        )


def emit_and_end(subject: Subject, main_ends: Any, sink: Any) -> None:
    """Scenario: emit, keep the tracer, end."""
    _i_am_first()
    tracer = _open(subject, ToProbe(sink))
    for number in (1, 2, 3):
        tracer.emit(event("a", number))
    main_ends()


@rule("TRC-09", "fork")
def a_forked_child_traces(lab: Lab) -> None:
    """After a fork the child's tracer works or is cleanly off.

    Intent: Web servers fork after import, and process pools at any moment; a child that hangs in its first emit, or loses all events in silence, is found late.

    Usual cause: The child inherits the queue, and a lock that the dispatcher held; but no dispatcher.

    Proof: The sink of the parent is held with an event, and another waits, when the process forks. The child emits and flushes: its event reaches the sink, or it is told by an error, by what flush gives, or by dropped(); what its parent emitted does not come from it. Then the parent's events come.

    Source: `os.register_at_fork`; OpenTelemetry Python, "Working with fork process models".
    """
    need(FORK)
    probes = [lab.probe("sink"), *(lab.probe(each, gated=False) for each in ("held", "told", "silent", "child over"))]
    with child(lab, fork_and_emit, *probes) as process:
        lab.open("sink('child', 'b1')")
        _until(
            lab,
            process,
            lambda: "child over" in lab.ended() or "held" in lab.ended(),
            "the sink is given what was emitted before the fork",
            "TRC-03",
        )
        lab.until(
            lambda: process.exited or "child over" in lab.ended(),
            "the forked child's emit, flush and close come back",
            expected="they deliver, or say that they don't",
            hung=True,
        )
        lab.open_all()
        lab.until(lambda: process.exited, "the process that forked ends", hung=True)
        came = [each for each in lab.ended() if each.startswith("sink(")]
        lab.check("child over" in lab.ended(), f"the child ended early: {process.output()[-300:]}", "it comes through")
        lab.check(
            "sink('child', 'b1')" in came or "told" in lab.ended(),
            "in the child, emit and flush came back, b1 never reached the sink, and nothing says so",
            "it is delivered, or an error, flush or dropped() tells",
        )
        strays = [each for each in came if each.startswith("sink('child'") and "b1" not in each]
        lab.check(
            not strays, f"the child delivered what its parent had emitted: {', '.join(strays)}", "the parent does"
        )
        lost = [each for each in ("a1", "a2") if f"sink('parent', '{each}')" not in came]
        lab.check(not lost, f"after the fork, the parent's {', '.join(lost)} never reached the sink", "they do")


def fork_and_emit(subject: Subject, sink: Any, held: Any, told: Any, silent: Any, over: Any) -> None:
    """Scenario: fork while the dispatcher is in the sink, and use the tracer on both sides."""
    _i_am_first()
    reached = threading.Event()
    tracer = _open(subject, ToProbe(sink, lambda _: reached.set()))
    tracer.emit(event("a", 1))
    nudge = threading.Thread(target=tracer.flush, daemon=True)
    nudge.start()
    reached.wait()
    held()
    tracer.emit(event("a", 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of exactly what this rule is about
        pid = os.fork()
    if pid == 0:
        (told if _uses(tracer) else silent)()
        over()
        os._exit(0)
    os.waitpid(pid, 0)
    tracer.flush()


def _uses(tracer: Any) -> bool:
    """Whether the child is told that its event is lost."""
    try:
        before = tracer.dropped()
    except Exception:  # noqa: BLE001 - it need not count
        before = None
    try:
        tracer.emit(event("b", 1))
        flushed = tracer.flush()
        after = None if before is None else tracer.dropped()
        tracer.close()
    except Exception:  # noqa: BLE001 - any exception is a clear answer
        return True
    return after != before or not says_all(flushed)


def _i_am_first() -> None:
    global _first  # noqa: PLW0603 - told from its children by its pid
    _first = os.getpid()
