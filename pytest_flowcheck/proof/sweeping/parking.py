"""One schedule's view of the threads: who takes which step, and who is parked at the chosen one."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import CodeType

from pytest_flowcheck.proof.sweeping.rest import tids
from pytest_flowcheck.proof.sweeping.steps import Leader, Step, around, place

_Place = tuple[str, str, int, int | None]


class Parking:
    """Counts the steps of the leading operation and of the threads that the subject makes; parks whoever comes to `target`.

    Guarantees: one thread is parked, once; from then on nothing is counted. It waits untimed, so that it is at rest.
    `step` is called on the thread that is about to take it.
    """

    def __init__(
        self,
        target: Step | None,
        leader: Leader,
        *,
        threads: bool,
        told: Callable[[], None],
        strangers: set[int],
        anyone: bool = False,
    ) -> None:
        """`anyone`: any thread of the subject may be the parked one: which of its workers gets a task can be left to
        chance. `told`: is called on the thread that is parked, just before. `strangers`: native ids of those that don't count."""
        self.counting = False
        self.over = False
        """It counted, and does no more."""
        self.steps: list[Step] = []
        """Those taken while counting; where a thread is to be parked, only those of the subject's own threads: the leading
        operation's are known."""
        self.place = ""
        self.source: tuple[tuple[int, str], ...] = ()
        self.line = 0
        self.parked = 0
        """The native id of the parked thread."""
        self.loops = 0
        """Steps left out because an event loop runs them: tasks of one loop are interleaved at their awaits only."""
        self._leader: Leader = leader
        self._target, self._threads, self._told = target, threads, told
        self._at = None if target is None else (target.role, target.function, target.line, target.offset)
        self._nth = 0 if target is None else target.occurrence
        self._anyone = anyone and target is not None and target.role != leader
        self._strangers = strangers
        self._roles: dict[int, str] = {}
        self._counts: dict[_Place, int] = {}
        self._go = threading.Lock()
        self._go.acquire()
        self._naming = threading.Lock()

    def leads(self, tid: int) -> None:
        """The thread of the leading operation."""
        self._roles[tid] = self._leader

    def ignore(self, tid: int) -> None:
        """Another thread that is not the subject's."""
        self._strangers.add(tid)

    def let_go(self) -> None:
        """The parked thread goes on."""
        self._go.release()

    def step(self, code: CodeType, line: int, offset: int | None) -> bool:
        """The calling thread is about to run this line or instruction. False: its next ones don't matter any more."""
        if not self.counting:
            return not self.over
        tid = threading.get_native_id()
        role = self._roles.get(tid) or self._role(tid)
        if not role:
            return True
        if role != self._leader and _on_a_loop():
            self.loops += 1
            return True
        at: _Place = (role, code.co_qualname, line - code.co_firstlineno, offset)
        occurrence = self._counts[at] = self._counts.get(at, 0) + 1
        if self._target is None or role != self._leader:
            self.steps.append(Step(role, at[1], at[2], occurrence, offset, self._leader))
        if self._at is not None and self._is_it(at) and occurrence == self._nth:
            self.counting, self.over, self.parked, self.place = False, True, tid, place(code, line)
            self.line, self.source = line, around(code, line)
            self._told()
            self._go.acquire()
        return not self.over

    def _is_it(self, at: _Place) -> bool:
        return at == self._at or (
            self._anyone and self._at is not None and at[1:] == self._at[1:] and at[0] != self._leader
        )

    def _role(self, tid: int) -> str:
        """'thread 2', or '' for one that doesn't count. Those there are get their numbers in order of their start, which
        is that of their ids, before one of them runs ahead."""
        if not self._threads or tid in self._strangers:
            return ""
        with self._naming:
            for new in sorted((tids() | {tid}) - self._strangers - self._roles.keys()):
                self._roles[new] = f"thread {sum(role != self._leader for role in self._roles.values()) + 1}"
            return self._roles[tid]


def _on_a_loop() -> bool:
    """Whether this thread runs an event loop."""
    asyncio, trio = sys.modules.get("asyncio.events"), sys.modules.get("trio.lowlevel")
    if asyncio is not None and asyncio._get_running_loop() is not None:  # noqa: SLF001 - the public one raises: 1 µs
        return True
    return trio is not None and bool(trio.in_trio_run())
