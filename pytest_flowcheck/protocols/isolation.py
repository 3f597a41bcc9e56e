"""isolation (ISO): a service whose long runs never hold up its short operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from pytest_flowcheck.protocols._body import AwaitableOrValue, Body, Opened

CAPABILITIES: Final = {
    "admission": "a hook, `admit`, is asked before each run; it may wait, and refuse by raising",
    "nested": "a run may work in parallel within itself, also when every slot is taken by such runs",
    "sessions": "runs belong to sessions, and all sessions of a service share its bound",
    "standalone": "a session outside of any service runs, and answers short operations",
    "threads": "runs are on threads of the service, with a name that says so",
}
"""The optional capabilities of this facet, and what each promises: the only list of them."""

READ_OFF: Final = {
    "async": "opened by `async with`; every method is called on that loop",
}
"""Capabilities that nobody claims: they are read off the opened instance."""

TRAITS: Final[dict[str, str]] = {}

DECLARES: Final[dict[str, tuple[str, ...]]] = {"overflow": ("queue", "refuse")}
"""Choices that rules take *as declared*, the default first. `overflow`: a run beyond the bound waits in a queue that can be
seen, or is refused at once (ISO-03)."""

OPENS: Final[dict[str, Any]] = {"max_concurrent_runs": 1}
"""Arguments with which the colour of an instance is read off."""


class Service(Protocol):
    """Runs long things, a bounded number of them at a time, and answers short questions meanwhile.

    `session` is a name. Each run of the kit has one of its own, by which `cancel` finds it. A system that knows sessions
    makes one for each new name; others take it for the name of the run.

    A method that the system has no words for raises `Inexpressible`, but for `run` and `short_op`, which everyone has.
    """

    def run(self, body: Body[[], Any], *, session: str, then: Sequence[Body[[], Any]] = ()) -> AwaitableOrValue[object]:
        """One long run: calls `body()` on a thread, or awaits `body.aio()`, and ends when that does (ISO-01..04, 06..10, 13).

        `then`: only where `[nested]` is claimed. Once `body` has returned, the run has these done as well, in parallel and
        in the way in which runs of the system work in parallel, and ends when the last of them has (ISO-04).

        Raises: the run's failure (ISO-06); Refused, where it is beyond the bound and that is how it is told (ISO-03); what
        `admit` raised (ISO-13).
        """
        ...

    def short_op(self, *, session: str) -> AwaitableOrValue[object]:
        """Some quick operation that the service's users rely on: a status, a list, a page of events (ISO-01, 06, 10).
        Not asked of a session that is in a run."""
        ...

    def queued(self) -> AwaitableOrValue[int]:
        """How many runs were accepted and wait for a slot (ISO-03). Only asked where `overflow` is `queue`."""
        ...

    def start(self, body: Body[[], Any], *, session: str) -> AwaitableOrValue[None]:
        """Fire and forget: as `run`, but nobody waits for the end of it (ISO-12). Gives nothing: what is awaitable would be
        awaited.

        Raises: Refused, as `run` does.
        """
        ...

    def cancel(self, *, session: str) -> AwaitableOrValue[object]:
        """Cancel, interrupt or pause the run of this session, as the system has it. It is a request: a run that is stuck
        may heed it later, or never (ISO-09, 13, 14)."""
        ...


class Reporting(Service, Protocol):
    """A service that is asked for failures. Others log them, or give them to an exception handler."""

    def report(self, *, session: str) -> AwaitableOrValue[object]:
        """What it says to whoever asks how the last run of this session went: the error, or words; None if all went well
        (ISO-12)."""
        ...


class Opener(Protocol):
    """`subject.isolation`. Entering opens a service of its own, leaving shuts it down (ISO-05).

    `max_concurrent_runs`: how many runs may be in flight; None asks for a session outside of any service, only where
    `[standalone]` is claimed (ISO-10). A bad one is refused: Invalid, ValueError or TypeError (ISO-11). `limit`: seconds
    that leaving may wait for what doesn't end; asked for by ISO-05 alone. `admit(session)`: the hook, only where
    `[admission]` is claimed: called on a thread, or `admit.aio(session)` awaited, before that run is let in; what it raises
    refuses the run (ISO-02, 13). None: as the service has it.
    """

    def __call__(
        self,
        *,
        max_concurrent_runs: int | None,
        limit: float | None = None,
        admit: Body[[str], Any] | None = None,
    ) -> Opened[Service]: ...
