"""What happened, in order: the only thing that rules judge by."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Final, Literal

Kind = Literal["started", "ended", "raised", "lost", "note"]
AsideKind = Literal["submitted", "called", "returned", "failed", "released", "cancelled"]

STARTED: Final = "started"
OVER: Final = frozenset({"ended", "raised", "lost"})


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one probe.

    `at`: seconds since the timeline began, for people to read; no rule compares it. `worker`: process and native
    thread id that ran the probe.
    """

    at: float
    kind: Kind | AsideKind
    probe: str
    pid: int = 0
    tid: int = 0
    thread: str = ""
    coroutine: bool = False
    """It ran as a coroutine on a loop of that thread."""
    detail: str = ""
    """Of what raised, the name of the error; of what started, `gated` or `free`. Other processes don't tell it."""

    @property
    def worker(self) -> tuple[int, int]:
        return self.pid, self.tid

    def __str__(self) -> str:
        if self.kind == "note":
            return f"{self.at * 1e3:8.1f} ms  {self.probe}"
        where = f"  ({self.thread or 'thread ' + str(self.tid)}, pid {self.pid})" if self.pid else ""
        return f"{self.at * 1e3:8.1f} ms  {self.probe} {self.kind}{where}"


class Timeline:
    """An append-only history that can be waited for.

    Guarantees: events of one thread keep their order; an append is seen by whoever waits; `len` only grows. Callers
    that wait do so without a timeout, so that a waiting rule is itself quiescent.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.Lock())
        self.events: list[Event] = []
        self.asides: deque[Event] = deque(maxlen=1000)
        """What was asked of the subject and let go by the rule. For pictures: no rule judges by it, `len` does not count it,
        and it wakes nobody, so that a history is as quiet as without."""
        self._zero = perf_counter()

    def __len__(self) -> int:
        return len(self.events)

    def append(
        self,
        kind: Kind,
        probe: str,
        pid: int = 0,
        tid: int = 0,
        thread: str = "",
        *,
        coroutine: bool = False,
        detail: str = "",
    ) -> None:
        """Record an event and wake those who wait for one."""
        with self.changed:
            self.events.append(Event(perf_counter() - self._zero, kind, probe, pid, tid, thread, coroutine, detail))
            self.changed.notify_all()

    def here(self, kind: Kind, probe: str, *, coroutine: bool = False, detail: str = "") -> None:
        """Record that the calling thread did something."""
        thread = threading.current_thread().name
        self.append(kind, probe, os.getpid(), threading.get_native_id(), thread, coroutine=coroutine, detail=detail)

    def aside(self, kind: AsideKind, what: str, *, coroutine: bool = False, detail: str = "") -> None:
        """Record what the calling thread asked for or let go; see `asides`."""
        thread, pid, tid = threading.current_thread().name, os.getpid(), threading.get_native_id()
        with self.changed:
            self.asides.append(Event(perf_counter() - self._zero, kind, what, pid, tid, thread, coroutine, detail))

    def told(self) -> tuple[Event, ...]:
        """Events and asides, in order of time."""
        with self.changed:
            return tuple(sorted((*self.events, *self.asides), key=lambda event: event.at))

    def of(self, *kinds: str) -> list[Event]:
        """The events of these kinds so far, in order."""
        return [e for e in tuple(self.events) if e.kind in kinds]

    def names(self, *kinds: str) -> list[str]:
        """The probes of those events, in order; a probe that did it twice stands twice."""
        return [e.probe for e in self.of(*kinds)]

    def live(self) -> list[str]:
        """Probes that have started and not come to an end, in order of their start: *in flight* by their own word."""
        live: list[str] = []
        for event in tuple(self.events):
            if event.kind == STARTED:
                live.append(event.probe)
            elif event.kind in OVER and event.probe in live:
                live.remove(event.probe)
        return live

    def wait_for(self, predicate: Callable[[], bool]) -> None:
        """Block, untimed, until the predicate holds. It is asked again at every event and every `poke`."""
        with self.changed:
            self.changed.wait_for(predicate)

    def poke(self) -> None:
        """Have waiting predicates asked again: something outside of the history may have changed."""
        with self.changed:
            self.changed.notify_all()
