"""Who tells of each step: `sys.settrace` before Python 3.12, `sys.monitoring` from then on (PEP 669).

Neither takes anything from a tracer that is already there. Two can't share `sys.settrace`, so on Python 3.11 there is
nothing to sweep beside coverage.py or a debugger. Monitoring has room for six tools.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, Final, Literal, Protocol

from pytest_flowcheck.proof.sweeping.steps import Code

Granularity = Literal["line", "opcode"]
Tell = Callable[[CodeType, int, int | None], bool]
"""Of the function, the line, and the instruction where these are the steps; on the thread that is about to take it. False:
nobody wants to hear of this thread's next steps."""

MONITORING: Final[Any] = getattr(sys, "monitoring", None)
_TOOLS: Final = (4, 3, 5, 2)
"""Ids, best first: two that are nobody's by convention, then those of an optimizer and of a profiler."""


class Tracer(Protocol):
    """Tells of the steps of all threads that start while it is on."""

    def on(self) -> None:
        """From now on."""

    def off(self) -> None:
        """Never again, also in threads that live on."""

    def here(self) -> Any:
        """A context manager: the calling thread's steps, too."""


def tracer(code: Code, granularity: Granularity, tell: Tell) -> Tracer:
    """The one for this Python."""
    return Settrace(code, granularity, tell) if MONITORING is None else Monitor(code, granularity, tell)


def taken() -> str | None:
    """Why no tracer can be set here, in one line."""
    if MONITORING is not None:
        if any(MONITORING.get_tool(tool) is None for tool in _TOOLS):
            return None
        names = ", ".join(str(MONITORING.get_tool(tool)) for tool in _TOOLS)
        return f"all tool ids of sys.monitoring that a sweep may use are taken (by {names})"
    there: Any = sys.gettrace() or threading.gettrace()
    if there is None:
        return None
    if not hasattr(there, "__qualname__"):
        there = there.__class__
    name = f"{there.__module__}.{there.__qualname__}"
    return f"another tracer is at work ({name}): leave it out, or use Python 3.12 or newer, where both have room"


class Settrace:
    """By trace functions: one for each thread that starts, and one for each frame of the code."""

    def __init__(self, code: Code, granularity: Granularity, tell: Tell) -> None:
        self._has, self._opcodes, self._tell = code.has, granularity == "opcode", tell
        self._over = False

    def on(self) -> None:
        threading.settrace(self._frame)

    def off(self) -> None:
        self._over = True
        threading.settrace(None)

    @contextmanager
    def here(self) -> Generator[None]:
        sys.settrace(self._frame)
        try:
            yield
        finally:
            sys.settrace(None)

    def _frame(self, frame: FrameType, _event: str, _argument: object) -> Any:
        """A frame begins, or a generator's goes on."""
        if self._over:
            sys.settrace(None)  # a thread that outlives the sweep
            return None
        if not self._has(frame.f_code):
            return None
        if self._opcodes:
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            return self._opcode
        return self._line

    def _line(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line" and (self._over or not self._tell(frame.f_code, frame.f_lineno, None)):
            return sys.settrace(None)
        return self._line

    def _opcode(self, frame: FrameType, event: str, _argument: object) -> Any:
        line = frame.f_lineno or frame.f_code.co_firstlineno
        if event == "opcode" and (self._over or not self._tell(frame.f_code, line, frame.f_lasti)):
            return sys.settrace(None)
        return self._opcode


class Monitor:
    """By `sys.monitoring`: a function of the code is given events of its own when it is first called.

    One that is all on one line has a single step, its start: Python 3.13 tells of no line where the line does not change.
    """

    def __init__(self, code: Code, granularity: Granularity, tell: Tell) -> None:
        self._has, self._tell = code.has, tell
        self._by_line = granularity == "line"
        self._event: int = MONITORING.events.LINE if self._by_line else MONITORING.events.INSTRUCTION
        self._seen: dict[int, CodeType] = {}
        """By id: two functions may have equal code."""
        self._lines: dict[int, dict[int, int]] = {}
        self._tool = -1

    def on(self) -> None:
        events = MONITORING.events
        self._tool = next(tool for tool in _TOOLS if MONITORING.get_tool(tool) is None)
        MONITORING.use_tool_id(self._tool, "flowcheck sweep")
        MONITORING.register_callback(self._tool, events.PY_START, self._start)
        MONITORING.register_callback(self._tool, self._event, self._line if self._by_line else self._opcode)
        MONITORING.set_events(self._tool, events.PY_START)
        MONITORING.restart_events()  # an earlier sweep of other code may have switched some off

    def off(self) -> None:
        for code in tuple(self._seen.values()):
            MONITORING.set_local_events(self._tool, code, 0)
        MONITORING.set_events(self._tool, 0)
        for event in (MONITORING.events.PY_START, self._event):
            MONITORING.register_callback(self._tool, event, None)
        MONITORING.free_tool_id(self._tool)

    @contextmanager
    def here(self) -> Generator[None]:
        yield

    def _start(self, code: CodeType, _offset: int) -> Any:
        if not self._has(code):
            return MONITORING.DISABLE
        if self._by_line and len({line for _start, _end, line in code.co_lines()} - {None}) == 1:
            self._tell(code, code.co_firstlineno, None)
            return None
        if id(code) not in self._seen:
            self._seen[id(code)] = code
            MONITORING.set_local_events(self._tool, code, self._event)
        return MONITORING.DISABLE

    def _line(self, code: CodeType, line: int) -> None:
        self._tell(code, line, None)

    def _opcode(self, code: CodeType, offset: int) -> None:
        lines = self._lines.get(id(code))
        if lines is None:
            lines = self._lines[id(code)] = {
                at: line or code.co_firstlineno for start, end, line in code.co_lines() for at in range(start, end, 2)
            }
        self._tell(code, lines.get(offset, code.co_firstlineno), offset)
