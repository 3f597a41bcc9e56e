"""flow (FLO): a graph of nodes, each run once when all that it needs is done."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from pytest_flowcheck.protocols._body import AwaitableOrValue, Body, Opened
from pytest_flowcheck.protocols._outcome import Outcome
from pytest_flowcheck.protocols.retry import RetryPolicy

CAPABILITIES: Final = {
    "attempts": "a node's policy is obeyed: timeout, attempts, backoff",
    "context": "nodes see the caller's context variables",
    "continue": "branches that don't depend on a failed node complete",
    "executor": "the opener takes `executor`: any `concurrent.futures.Executor` carries the nodes",
    "lease": "with `resume`: of two that resume one run at once, in threads or processes, one is refused",
    "mixed": "one graph may hold blocking and async nodes",
    "resize": "`run` takes `max_workers`, this run's limit",
    "resume": "the opener takes `folder`, `run` takes `run_id`, and `resume` goes on with that run, in any process",
    "save": "with `resume`: a save that fails is reported to whoever called `run` or `resume`",
    "resources": "the opener takes `make` or `given`, and `resource()` gives what all runs share",
    "sizing": "without `max_workers` the default is min(32, usable CPUs + 4), or the subject's environment variable",
}
"""The optional capabilities of this facet, and what each promises: the only list of them."""

READ_OFF: Final = {
    "async": "opened by `async with`; `run` is awaited on the caller's loop",
    "trio": "the same, on trio",
}
"""Capabilities that nobody claims: they are read off the opened instance."""

TRAITS: Final = {"cluster": "nodes run in workers that are reached over a network; keeping in touch with them costs wake-ups"}

DECLARES: Final[dict[str, tuple[str, ...]]] = {
    "after_close": ("raise", "reopen"),
    "cancel": ("wait", "abandon"),
    "lease": ("process", "timed"),
}
"""Choices that rules take *as declared*, the default first. `after_close`: what a run after `close` does (FLO-10).
`cancel`: what becomes of a blocking node that runs when the awaiting caller is cancelled (FLO-23). `lease`: what ends a run's
lease whose process was killed: that, or a time, in which a resume is refused and what it would do is not judged (FLO-24)."""

OPENS: Final[dict[str, Any]] = {"max_workers": 2}
"""Arguments with which the colour of an instance is read off."""

Kind = Literal["blocking", "async", "own"]


@dataclass(frozen=True, slots=True)
class Node:
    """`body(input, upstream)`: the run's input, and the outputs of `needs` by id. Ids are identifiers: `n0`, `a`."""

    id: str
    body: Body[[Any, Mapping[str, Any]], Any]
    needs: tuple[str, ...] = ()
    policy: RetryPolicy = field(default=RetryPolicy())
    """Other than the default only where `attempts` is claimed (FLO-17)."""
    kind: Kind = "own"
    """Call `body`, or await `body.aio`? `own`: what is native to the subject. The others only under `mixed` (FLO-22)."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in no particular order. May be wrong on purpose: cycles, unknown needs, one id twice (FLO-04)."""

    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """What the engine says of a run."""

    status: Literal["completed", "failed", "cancelled"]
    nodes: Mapping[str, Outcome[Any]] = field(default_factory=dict[str, Outcome[Any]])
    """By id. A node that it says nothing of is left out."""
    error: BaseException | None = None
    """Why it failed: a node's own error, a group of them, or one that leads to it by `__cause__` or `__context__`.
    Not needed where `nodes` holds the `Failed`."""


class Flow(Protocol):
    """An engine. Runs may overlap (FLO-06, 35), and follow each other by the thousand (FLO-05, 16)."""

    def run(self, graph: Graph, input: Any = None) -> AwaitableOrValue[Run]:  # noqa: A002 - the field's word
        """Run all of it (FLO-01..03, 11..14, 17, 18, 21..23).

        `[resize]` takes `max_workers`, this run's limit; absent, the engine's own holds (FLO-08, 09, 34).
        Returns a `Run` also where nodes failed. Raises: Invalid for a graph that makes no sense, before anything ran
        (FLO-04); Closed after `close`, unless it reopens (FLO-10); Refused (FLO-37).
        """
        ...

    def close(self) -> AwaitableOrValue[None]:
        """Free all threads; any number of times (FLO-10). Leaving the context does it too."""
        ...


class Resumable(Flow, Protocol):
    """`[resume]`, and with it `[lease]` and `[save]`: what becomes of a run's nodes is saved in the opener's `folder`.

    Input and outputs are texts then. Several processes may have engines on one folder at once.
    """

    def run(self, graph: Graph, input: Any = None, *, run_id: str | None = None) -> AwaitableOrValue[Run]:  # noqa: A002
        """As `Flow.run`, saved under this id; without one it need not be (FLO-26, 27, 28).

        Raises: Refused or Invalid, for an id that is in use (FLO-28); what it likes, or tells a failed `Run`, where a save
        failed (FLO-26).
        """
        ...

    def resume(self, graph: Graph, run_id: str) -> AwaitableOrValue[Run]:
        """Go on with the run of this id, with the same graph and the input that it began with (FLO-19, 24, 27, 28).

        What is told of the run is told of all of its nodes, or at least of those that ran now. Raises: NotFound, for an id
        without a run; Refused, where somebody else is at it (FLO-25); Refused or Invalid, if that is what it does with a
        run that had completed.
        """
        ...


class Resourceful(Flow, Protocol):
    """`[resources]`."""

    def resource(self) -> AwaitableOrValue[Any]:
        """What all runs share: `given`, else what `make()` gave, which is called once, when it is first asked for."""
        ...


class Opener(Protocol):
    """`subject.flow`. `max_workers=None` is the engine's default (FLO-09).

    `[executor]` takes `executor`, which stays the caller's (FLO-20). `[resources]` takes `make`, a body without arguments
    that makes the shared resource, or `given`, which is used instead (FLO-15). `[resume]` takes `folder`, which exists,
    and below which all is saved: an empty one, or one in which other instances have saved (FLO-19, 24 to 28).
    """

    def __call__(
        self,
        *,
        max_workers: int | None = None,
        executor: Executor | None = None,
        make: Body[[], Any] | None = None,
        given: Any = None,
        folder: Path | None = None,
    ) -> Opened[Flow]: ...
