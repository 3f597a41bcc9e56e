"""What one look at a process tree can say, from the strongest word to the weakest."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Literal

Kind = Literal["untimed", "door", "timed", "external", "running", "blind"]


class State(enum.Enum):
    """The state of a process tree. Only QUIESCENT proves that something will never happen."""

    QUIESCENT = "quiescent"
    """Every thread sits in an untimed wait that only another thread of the tree could end: nothing can run again."""
    TIMERS = "timers"
    """Nothing runs, but a clock will wake somebody."""
    EXTERNAL = "external"
    """Nothing runs, but somebody outside the tree may end a wait."""
    RUNNING = "running"
    """Something ran during the look, or could run."""
    BLIND = "blind"
    """The kernel does not let us see enough to say any of the above."""


@dataclass(frozen=True)
class Wait:
    """One thread's wait, as the kernel tells it."""

    pid: int
    tid: int
    kind: Kind
    """`untimed` and `door` (a listener: nobody in the tree can connect any more) are the only ones that prove."""
    text: str
    """Which system call, on what, and why it is of that kind."""


@dataclass(frozen=True)
class Sighting:
    """One look: a state, the waits that it was read from, and one clause why it is not QUIESCENT (else empty)."""

    state: State
    waits: tuple[Wait, ...]
    reason: str


_WEAKEST_FIRST: tuple[tuple[Kind, State], ...] = (
    ("blind", State.BLIND),
    ("running", State.RUNNING),
    ("external", State.EXTERNAL),
    ("timed", State.TIMERS),
)


def conclude(waits: tuple[Wait, ...]) -> Sighting:
    """The weakest wait decides: one thread that may run is enough for the tree to move again."""
    for kind, state in _WEAKEST_FIRST:
        for wait in waits:
            if wait.kind == kind:
                who = f"thread {wait.tid} of process {wait.pid}" if wait.tid else f"process {wait.pid}"
                return Sighting(state, waits, f"{who} {wait.text}")
    return Sighting(State.QUIESCENT, waits, "")
