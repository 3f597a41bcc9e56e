"""One way to hold a thing by a facet: pieces of source code, and what must be decided by a person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

WIDTH: Final = 88
"""Columns of what is written: what `ruff format` and black make of it where nobody set another width."""

STEP: Final = "    "


@dataclass(frozen=True)
class Draft:
    """The source of one facet's part of an adapter."""

    facet: str
    aio: bool
    wrapper: list[str]
    """The lines of the class that stands between the kit and the thing."""
    opening: list[str]
    """The lines of the opener's body; `{thing}` is what they yield around."""
    asked: str
    """The opener's parameters behind `self`."""
    imports: list[str] = field(default_factory=list[str])
    claims: list[str] = field(default_factory=list[str])
    declares: dict[str, str] = field(default_factory=dict[str, str])
    errors: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """The kit's error -> the thing's, as `module:Name`."""
    timed: bool = False
    """It maps a limit in seconds, which the check is to use."""
    plain_with: bool = False
    """Opened by a plain `with` although its methods may be awaited."""

    @property
    def opener(self) -> list[str]:
        """The method of the adapter."""
        if self.facet == "executor":  # it is its own context manager, and some rules want it without
            return [f"def executor(self, {self.asked}):", *_in(self.opening)]
        aio = self.aio and not self.plain_with
        head = "@asynccontextmanager" if aio else "@contextmanager"
        return [
            head,
            f"{'async def' if aio else 'def'} {self.facet}({', '.join(['self', *filter(None, [self.asked])])}):",
            *_in(self.opening),
        ]


def _in(lines: Iterable[str]) -> list[str]:
    return [STEP + line if line else line for line in lines]


def method(head: str, body: Iterable[str]) -> list[str]:
    """`head` as it stands behind `def`, `async` included, and its body; indented as in a class."""
    return _in([f"{head}:", *_in(body)])


def call(before: str, arguments: Iterable[str], after: str = ")", *, indent: int = 0) -> list[str]:
    """A call in one line, or one argument in each where it is too long. `before` ends with the bracket."""
    listed = [argument for argument in arguments if argument]
    line = f"{before}{', '.join(listed)}{after}"
    if indent + len(line) <= WIDTH:
        return [line]
    return [before, *(f"{STEP}{argument}," for argument in listed), after]


def comment(text: str, *, indent: int = 0) -> list[str]:
    """A sentence as comment lines."""
    import textwrap

    return textwrap.wrap(text, WIDTH - indent, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def guard(sentence: str, *, indent: int = 8) -> list[str]:
    """The marked line for what a person must decide: until then no rule judges by it."""
    return [
        "# DECIDE, and then delete this:",
        *call("raise Inexpressible(", [f'"{sentence}"'], indent=indent),
    ]


def wrapped(name: str, methods: Iterable[list[str]], held: Iterable[str] = ("thing",)) -> list[str]:
    """A class that keeps what it is made with."""
    names = list(held)
    lines = [f"class {name}:"]
    if names:
        lines += method(f"def __init__(self, {', '.join(names)})", [f"self.{each} = {each}" for each in names])
    for each in methods:
        lines += ([""] if len(lines) > 1 else []) + each
    return lines


def opened(made: list[str], around: str, *, enters: bool, closes: str = "", aio: bool = False) -> list[str]:
    """The body of an opener that makes a thing and yields `around` it.

    Args:
        made: the lines of the expression that makes it.
        around: what is yielded, in terms of `thing`.
        enters: it is a context manager of the right colour.
        closes: the method that ends it, if it is none.
        aio: in a coroutine.
    """
    return during(made, [f"yield {around}"], enters=enters, closes=closes, aio=aio)


def during(made: list[str], use: Iterable[str], *, enters: bool, closes: str = "", aio: bool = False) -> list[str]:
    """As `opened`, with any lines that use `thing`."""
    first, *rest = made
    if enters:
        word = "async with" if aio else "with"
        *middle, last = made
        lines = [f"{word} {first} as thing:"] if not rest else [f"{word} {middle[0]}", *middle[1:], f"{last} as thing:"]
        return [*lines, *_in(use)]
    lines = [f"thing = {first}", *rest]
    if not closes:
        return [*lines, *use]
    return [*lines, "try:", *_in(use), "finally:", f"{STEP}{'await ' if aio else ''}thing.{closes}()"]


def can_not(asked: str, sentence: str, *, indent: int = 8) -> list[str]:
    """What to say where `asked` holds and no way to tell the thing of it was found; it is for a person to find one."""
    return [
        f"if {asked}:  # DECIDE: is there a way to say it?",
        *(STEP + line for line in call("raise Inexpressible(", [f'"{sentence}"'], indent=indent + 4)),
    ]
