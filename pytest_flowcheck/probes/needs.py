"""What rules need of a machine, in one place: each need, how it is looked for, and what to install or permit.

A rule that can't be judged without says `need(STRACE)`, one that can in part asks `lacking(STRACE)`. Which rules do either is
read off their code, so nobody keeps a list: `of_rule` is what `flowcheck doctor` tells.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.proof import procfs, strace

if TYPE_CHECKING:
    from pytest_flowcheck.rules import Rule


@dataclass(frozen=True)
class Need:
    """Something that a machine has or has not."""

    name: str
    what: str
    look: Callable[[], str | None]
    """None where it is there; else one line: what is missing, and what to install or permit."""
    only: str = ""
    """Of which subjects alone it is asked, if not of all."""


def _proc() -> str | None:
    return None if procfs.LINUX else "what threads do is read from /proc, which this platform has not"


def _processes() -> str | None:
    there = hasattr(os, "fork") and hasattr(os, "pidfd_open")
    return None if there else "other processes that can be killed at will need Linux"


def _fork() -> str | None:
    return None if hasattr(os, "fork") else "this platform has no os.fork"


def _trio() -> str | None:
    return None if find_spec("trio") is not None else "trio is not installed: pip install trio"


FORK: Final = Need("fork", "os.fork", _fork)
PROC: Final = Need("proc", "the threads of /proc", _proc)
PROCESSES: Final = Need("processes", "processes that can be killed at will", _processes)
STRACE: Final = Need("strace", "system calls traced by strace", lambda: strace.missing())  # noqa: PLW0108 - looked up anew
TRIO: Final = Need("trio", "trio", _trio, only="subjects that are tried on trio")

NEEDS: Final = (FORK, PROC, PROCESSES, STRACE, TRIO)
"""Every need."""


def lacking(what: Need) -> str | None:
    """None where this machine has it, else one line that says what is missing."""
    return what.look()


def need(what: Need) -> None:
    """Raises: NotTestable, this machine lacks it."""
    if (line := what.look()) is not None:
        raise NotTestable(line)


# --- which rule needs what ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """The needs that stand in a rule's code, and in what that calls."""

    wholly: frozenset[str]
    """By name. Without these the rule reads NOT-TESTABLE, at least on some subjects."""
    in_part: frozenset[str]
    """Without these it is judged by less."""


@dataclass
class _Walk:
    """The functions that can be reached from one, as far as they are rules' and probes' own."""

    seen: set[CodeType] = field(default_factory=set[CodeType])
    needed: set[str] = field(default_factory=set[str])
    asked: set[str] = field(default_factory=set[str])

    def visit(self, function: FunctionType) -> None:
        inner = inspect.unwrap(function)
        if isinstance(inner, FunctionType) and inner.__code__ not in self.seen:
            self._code(inner.__code__, inner.__globals__)

    def _code(self, code: CodeType, names: dict[str, Any]) -> None:
        self.seen.add(code)
        reached = list(_reached(code, names))
        words = {value.name for value in reached if isinstance(value, Need)}
        for value in reached:
            if value is need:
                self.needed |= words
            elif value is lacking:
                self.asked |= words
            elif isinstance(value, FunctionType) and _ours(value.__module__):
                self.visit(value)
        for inner in code.co_consts:
            if isinstance(inner, CodeType):
                self._code(inner, names)


def of_rule(rule: Rule) -> Asked:
    """What this rule needs. Of functions in classes nothing is seen, and what stands under a condition counts."""
    walk = _Walk()
    if isinstance(rule.function, FunctionType):
        walk.visit(rule.function)
    return Asked(frozenset(walk.needed - walk.asked), frozenset(walk.asked))


def _reached(code: CodeType, names: dict[str, Any]) -> Iterator[object]:
    """What the names in a piece of code mean, and what those of its modules do that are ours: `module.function`."""
    modules: list[ModuleType] = []
    for name in code.co_names:
        value = names.get(name)
        if isinstance(value, ModuleType) and _ours(value.__name__):
            modules.append(value)
        yield value
    for module in modules:
        yield from (getattr(module, name, None) for name in code.co_names)


def _ours(module: str) -> bool:
    return "suites" in module.split(".") or module.startswith("pytest_flowcheck.probes.")
