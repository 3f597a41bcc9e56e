"""A place at which a thread can be parked, and whose code has such places."""

from __future__ import annotations

import importlib
import linecache
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal, Self, cast

Leader = Literal["first", "rival"]
CodeSpec = ModuleType | type | str | Path
"""Whose steps count: a module or package (or its dotted name), the module of a class, a file or folder."""

_KEY = re.compile(
    r"(?P<leader>rival/)?(?P<role>first|rival|thread \d+):(?P<function>.+)\+(?P<line>-?\d+)(?:@(?P<offset>\d+))?"
    r"#(?P<occurrence>[1-9]\d*)"
)


@dataclass(frozen=True, slots=True)
class Step:
    """A place at which a thread can be parked; as text, `first:Counter.add+2#1`, it is the key of a schedule."""

    role: str
    """`first`, `rival`, or `thread 1`, `thread 2`, ... for those that the subject made itself, in order of their start."""
    function: str
    """Its qualified name."""
    line: int
    """From the line of the function's `def` (or first decorator)."""
    occurrence: int
    """The n-th time that this thread comes here, from 1."""
    offset: int | None = None
    """Of the bytecode instruction, where these are the steps."""
    leader: Leader = "first"
    """Which operation was under way when the thread was parked; the other one then came in between."""

    @classmethod
    def parse(cls, key: str) -> Self:
        """The step of that key.

        Raises:
            ValueError: it is none.
        """
        found = _KEY.fullmatch(key)
        if found is None:
            raise ValueError(f"{key!r} is no key of a schedule; one reads like 'first:Counter.add+2#1'")
        offset, role = found["offset"], found["role"]
        return cls(
            role,
            found["function"],
            int(found["line"]),
            int(found["occurrence"]),
            None if offset is None else int(offset),
            "rival" if found["leader"] or role == "rival" else "first",
        )

    def __str__(self) -> str:
        led = "rival/" if self.leader == "rival" and self.role != "rival" else ""
        at = "" if self.offset is None else f"@{self.offset}"
        return f"{led}{self.role}:{self.function}+{self.line}{at}#{self.occurrence}"


def place(code: CodeType, line: int) -> str:
    """For people: "store.py, Store.save: `self.count = count + 1`"."""
    source = linecache.getline(code.co_filename, line).strip()
    text = f": `{source[:100]}`" if source else f", line {line}"
    return f"{Path(code.co_filename).name}, {code.co_qualname}{text}"


def around(code: CodeType, line: int, lines: int = 4) -> tuple[tuple[int, str], ...]:
    """The lines of the function around this one, each with its number."""
    last = max((at for _, _, at in code.co_lines() if at is not None), default=line)
    wanted = range(max(code.co_firstlineno, line - lines), min(last, line + lines) + 1)
    return tuple((at, linecache.getline(code.co_filename, at).rstrip()) for at in wanted)


class Code:
    """Whose steps count."""

    def __init__(self, specs: Iterable[CodeSpec]) -> None:
        """Raises ImportError for a name that is no module."""
        self._files: set[str] = set()
        self._folders: tuple[str, ...] = ()
        self._known: dict[str, bool] = {}
        for spec in specs:
            self._take(spec)

    def _take(self, spec: CodeSpec) -> None:
        if isinstance(spec, Path):
            self._take_path(str(spec.absolute()))
            return
        if isinstance(spec, type):
            spec = sys.modules[spec.__module__]
        elif isinstance(spec, str):
            spec = importlib.import_module(spec)
        if paths := getattr(spec, "__path__", None):
            for path in paths:
                self._take_path(str(path))
        elif file := getattr(spec, "__file__", None):
            self._take_path(str(file))

    def _take_path(self, path: str) -> None:
        if Path(path).is_dir():
            self._folders += (path.rstrip(os.sep) + os.sep,)
        else:
            self._files.add(path)

    def has(self, code: CodeType) -> bool:
        """Whether steps in this function, comprehension, class body or module count."""
        name = code.co_filename
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = name in self._files or name.startswith(self._folders)
        return found

    def __str__(self) -> str:
        names = sorted(Path(path).name for path in (*self._files, *self._folders))
        return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


_KIT = __name__.partition(".")[0]
_ADAPTERS = f"{_KIT}.adapters."
_WAITS = frozenset({"abc", "builtins", "contextlib", "enum", "queue", "threading", "typing"})
"""Modules of the standard library that are in everybody's family. To park a thread in the locks that all threads of the
interpreter share would stop the sweep itself."""


def code_of(*things: object) -> tuple[CodeSpec, ...]:
    """Where the code of these objects is: the packages of their classes and base classes; of the standard library's
    classes their modules alone. That of the objects that they hold as well, since an adapter holds its subject.

    Never the kit itself (but for a bundled adapter's own module), nor what all programs share, such as `threading`.
    """
    found: dict[str, ModuleType] = {}
    for thing in things:
        found.update(_homes(thing))
        held = cast("dict[str, Any]", getattr(thing, "__dict__", {})) if not isinstance(thing, type) else {}
        for value in tuple(held.values()):
            found.update((name, home) for name, home in _homes(value) if not _is_stdlib(name))
    return tuple(found[name] for name in sorted(found))


def _homes(thing: object) -> Iterator[tuple[str, ModuleType]]:
    cls = thing if isinstance(thing, type) else type(thing)
    for base in cls.__mro__:
        name = base.__module__
        if name in _WAITS or name.startswith(("collections", "_")) or name not in sys.modules:
            continue
        if name.startswith(_ADAPTERS) or _is_stdlib(name):
            yield name, sys.modules[name]
        elif name.partition(".")[0] != _KIT:
            home = _package(name)
            yield home.__name__, home


def _is_stdlib(name: str) -> bool:
    return name.partition(".")[0] in sys.stdlib_module_names


def _package(name: str) -> ModuleType:
    """The outermost regular package that holds the module, or the module: a namespace package is several projects."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        module = sys.modules.get(".".join(parts[:end]))
        if getattr(module, "__file__", None) is not None:
            return cast("ModuleType", module)
    return sys.modules[name]
