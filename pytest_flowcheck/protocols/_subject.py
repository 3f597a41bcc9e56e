"""The subject: what is certified. Any object of this shape; importable as `module:Name`, made without arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import ClassVar, Literal, Protocol

from pytest_flowcheck.protocols._errors import ErrorMap

Backend = Literal["asyncio", "trio"]


class Subject(Protocol):
    """Who is certified, and for what. For each facet in `claims` it has a method of that facet's name, the *opener*:
    `subject.executor(max_workers=2)` gives a fresh instance as a context manager; see `protocols/<facet>.py`.

    The kit imports it anew in child processes (exit, crash, fork and many-process rules), so importing must be cheap
    and start nothing, and two openers given the same folder must reach the same data.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        """Facet -> the optional capabilities that it promises, of those in that facet's `CAPABILITIES`."""
        ...


class Adapter:
    """Optional base: the defaults of what a subject *may* say besides. Without it, absent attributes mean the same.

    A second way in is a subclass:  `class EngineAsync(Engine): name = "engine-async"; flow = AsyncFlow`
    """

    name: str = ""
    version: str = ""
    requires: ClassVar[Sequence[str]] = ()
    """Distributions that the adapter imports where it uses them; `version` is the first one's unless stated."""

    requires_python: ClassVar[tuple[int, ...]] = ()
    """The first version of Python that has what it imports of the standard library, such as `(3, 13)`."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {}

    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """Facet -> choice -> value, for rules that judge *as declared*; choices and defaults stand in the facet's `DECLARES`."""

    errors: ClassVar[ErrorMap] = {}
    """The subject's own errors by the kit's, such as `pebble.ProcessExpired` for `TimeoutError`."""

    backends: ClassVar[Sequence[Backend]] = ("asyncio",)
    """Loops on which async instances (and client, tracing) are tried: one certificate column for each."""

    variables: ClassVar[Mapping[str, str]] = {}
    """The environment variable that overrides a setting, such as `X_MAX_WORKERS` for `max_workers`."""

    sibling: ClassVar[type | None] = None
    """The adapter of the same library's blocking way in, for rules that compare the two (FLO-14)."""

    def warm_up(self) -> None:
        """Pay once, before any rule runs, for what the first use costs (imports, compilation). Holds nothing open."""
