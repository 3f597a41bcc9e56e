"""store (STO): states of runs, saved whole; a log, appended to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from pytest_flowcheck.protocols._body import JSON, AwaitableOrValue, Opened

CAPABILITIES: Final = {
    "durable": "once `save` has returned, that state survives a power loss",
    "files": "states are files that users see: their mode is kept, a symbolic link is followed",
    "live": "`put` changes a state in memory while `flush` may be saving it",
    "log": "`append` adds whole entries to a run's log, `entries` reads them",
    "processes": "handles in several processes share what is saved",
}
"""The optional capabilities of this facet, and what each promises: the only list of them."""

READ_OFF: Final = {
    "async": "opened by `async with`; its methods are awaited on the caller's loop",
    "trio": "the same, on trio",
}
"""Capabilities that nobody claims: they are read off the opened instance."""

TRAITS: Final[dict[str, str]] = {}

DECLARES: Final[dict[str, tuple[str, ...]]] = {}

OPENS: Final[dict[str, Any]] = {"folder": None}
"""Arguments with which the colour of an instance is read off. `None`: the kit gives an empty folder of its own."""


class Store(Protocol):
    """A handle. Handles on one folder, in any thread, share what is saved (STO-02, 07); `[processes]` in any process (14)."""

    def save(self, run_id: str, state: JSON) -> AwaitableOrValue[None]:
        """Put `state` in the place of what was there, all or nothing (STO-01, 02, 04, 05, 07, 13, 17, 18, 20, 22).

        Raises, before what was there is touched: Invalid for an id or a value that can't be (STO-01, 10, 11); OSError
        for what the system refuses (STO-06); Refused where another saver is in the way (STO-07).
        """
        ...

    def load(self, run_id: str) -> AwaitableOrValue[JSON]:
        """The last state saved. Raises: NotFound, never saved (STO-16); Corrupt, whose text names the file (STO-12)."""
        ...


class Log(Store, Protocol):
    """`[log]`"""

    def append(self, run_id: str, entry: JSON) -> AwaitableOrValue[None]:
        """Add one whole entry, behind all that were added before (STO-08, 19, 21)."""
        ...

    def entries(self, run_id: str) -> AwaitableOrValue[Sequence[JSON]]:
        """Those that are whole, oldest first; empty for a run without any (STO-08, 09, 21)."""
        ...


class Live(Store, Protocol):
    """`[live]`, for stores that save an object which the engine goes on changing (STO-03)."""

    def put(self, run_id: str, key: str, value: JSON) -> AwaitableOrValue[None]:
        """Set `state[key]` in memory, the way the engine does it while it runs."""
        ...

    def flush(self, run_id: str) -> AwaitableOrValue[None]:
        """Save what is in memory: `load` gives what was `put` up to some moment during this call, and nothing later."""
        ...


class Opener(Protocol):
    """`subject.store`. Everything lives below `folder`, which exists. The kit finds the files by looking (STO-04, 12, 13)."""

    def __call__(self, folder: Path) -> Opened[Store]: ...
