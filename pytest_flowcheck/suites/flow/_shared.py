"""What several rules of this suite share: nodes that know what they must be given, and waits that blame the right rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import AdapterError, Inconclusive
from pytest_flowcheck.probes.calls import is_cancellation, reachable
from pytest_flowcheck.protocols import Failed, Foreign, Ok, Skipped
from pytest_flowcheck.protocols.flow import Graph, Kind, Node, Run
from pytest_flowcheck.protocols.retry import RetryPolicy

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.probe import Probe

STATUSES = ("completed", "failed", "cancelled")


# --- bodies: module-level, so that every process can import them ---------------------------------------------------------


class NodeError(Exception):
    """A node's own error."""


class NotGiven(Exception):  # noqa: N818 - a finding, about the engine
    """A node was not given what it needs."""


class Does:
    """What a node does: looks at what it was given, and returns `n3@7`, its id and the run's input.

    Args:
        node: its id.
        needs: the nodes whose outputs it must be given.
        run: the input it must be given; so that runs beside each other are told apart.
        raises: instead.
        times: how many of its calls raise; all of them by default.
    """

    def __init__(
        self,
        node: str,
        needs: Iterable[str] = (),
        *,
        run: Any = None,
        raises: BaseException | None = None,
        times: float = float("inf"),
    ) -> None:
        self.node, self.needs, self.run, self.raises, self.times = node, tuple(needs), run, raises, times

    def __call__(self, number: int, *, input: Any, upstream: Mapping[str, Any]) -> str:  # noqa: A002 - the protocol's
        got = {need: upstream.get(need, "nothing") for need in self.needs}
        right = {need: output(need, self.run) for need in self.needs}
        if input != self.run:
            raise NotGiven(f"{self.node} was given the input {input!r}, not {self.run!r}")
        if got != right:
            raise NotGiven(f"{self.node} was given {_pairs(got)}; it needs {_pairs(right)}")
        if self.raises is not None and number <= self.times:
            raise self.raises
        return output(self.node, input)


def output(node: str, run: Any = None) -> str:
    """What a node gives in a run with this input."""
    return node if run is None else f"{node}@{run}"


def _pairs(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{need}={value!r}" for need, value in given.items()) or "nothing"


class NodeBody:
    """The body of a node: calls are named `n3 #1`, whatever they are given, and `does(number, input=, upstream=)` works.

    A thread calls it, a loop awaits `aio`; it pickles.
    """

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self.__name__ = self.__qualname__ = probe.name

    def __repr__(self) -> str:
        return f"<node {self._probe.name}>"

    def __call__(self, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002 - the protocol's
        return self._probe(input=input, upstream=upstream)

    async def aio(self, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002 - the protocol's
        return await self._probe.aio(input=input, upstream=upstream)


def _named(number: int, *, input: Any, upstream: Mapping[str, Any]) -> int:  # noqa: A002, ARG001 - the protocol's
    return number


def node(
    lab: Lab,
    id: str,  # noqa: A002 - the protocol's
    *needs: str,
    does: Callable[..., Any] | None = None,
    gated: bool = True,
    called: str | None = None,
    policy: RetryPolicy | None = None,
    kind: Kind = "own",
) -> Node:
    """A node with a probe for a body. Without `does` it returns how often it has been called.

    Args:
        lab: the rule's bench.
        id: the node's.
        needs: the nodes that it needs.
        does: `does(number, input=, upstream=)`, importable.
        gated: each call waits at its gate: `lab.open("n3 #1")`, or `let_go(lab, "n3")`.
        called: the name in gates and histories where the id is not enough: two runs have a node of one id.
        policy: under `attempts`.
        kind: under `mixed`.
    """
    body = NodeBody(lab.attempts(called or id, does or _named, gated=gated))
    return Node(id, body, needs, policy or RetryPolicy(), kind)


def given(
    lab: Lab,
    id: str,  # noqa: A002 - the protocol's
    *needs: str,
    run: Any = None,
    raises: BaseException | None = None,
    times: float = float("inf"),
    **more: Any,
) -> Node:
    """A node that looks at what it is given; see `Does`, and `node` for the rest."""
    return node(lab, id, *needs, does=Does(id, needs, run=run, raises=raises, times=times), **more)


# --- runs ----------------------------------------------------------------------------------------------------------------


def begin(
    it: Instance,
    nodes: Iterable[Node] | Graph,
    input: Any = None,  # noqa: A002 - the protocol's
    *,
    what: str = "run",
    **options: Any,
) -> Call[Any]:
    """Begin a run. `what` names it in messages; `options` are the run's own, such as `max_workers`."""
    graph = nodes if isinstance(nodes, Graph) else Graph(tuple(nodes))
    return it.start(what, lambda flow: flow.run(graph, input, **options)).giving(lambda gave: a_run(what, gave))


def run_of(lab: Lab, call: Call[Any]) -> Run:
    """What the engine says of the run; waits for it by proof.

    Raises:
        Violated: the call raised instead.
        AdapterError: what it gave is no `Run`, or it raised a node's own error.
    """
    call.join()
    if any(isinstance(error, NodeError) for error in reachable(call.error)):
        raise AdapterError(f"{call.what} {ended(call)}, which a node did; expected a Run('failed', ..., error=...)")
    if call.error is not None:
        lab.check(False, f"{call.what} {ended(call)}", "a run that is over is told as a Run, also where nodes failed")
    return a_run(call.what, call.value)


def a_run(what: str, gave: Any) -> Run:
    """What `what` gave, which must be a run: the one place that says so.

    Raises:
        AdapterError: it is none, or holds what is none of a run's words.
    """
    if not isinstance(gave, Run) or gave.status not in STATUSES or not isinstance(gave.nodes, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AdapterError(f"{what} gave {gave!r}; expected Run(status, nodes, error), status one of {STATUSES}")
    for id_, outcome in gave.nodes.items():
        if not isinstance(outcome, Ok | Failed | Skipped):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise AdapterError(f"{what} gave {outcome!r} for node {id_}; expected Ok, Failed or Skipped")
        if isinstance(outcome, Ok) and hasattr(outcome.value, "__await__"):
            raise AdapterError(f"{what} gave Ok of an awaitable for node {id_}: await `body.aio(...)`")
    return gave


def ended(call: Call[Any]) -> str:
    """How the call came out, as a clause."""
    if not call.done:
        return "has not come back"
    if call.error is not None:
        return "was cancelled" if is_cancellation(call.error) else f"raised {call.error!r}"
    return f"returned {told(call.value)}"


def told(run: object) -> str:
    """A run in words: `failed; n0 ok, n1 failed (NodeError('n1 failed')), n2 skipped (because of n1)`."""
    if not isinstance(run, Run):
        return repr(run)
    nodes = ", ".join(f"{id_} {word(outcome)}" for id_, outcome in sorted(run.nodes.items()))
    error = f"; error {run.error!r}" if run.error is not None else ""
    return f"{run.status}{'; ' if nodes else ''}{nodes}{error}"


def word(outcome: object) -> str:
    """What became of a node, in a few words."""
    if isinstance(outcome, Ok):
        return "ok"
    if isinstance(outcome, Failed):
        return f"{outcome.how} ({outcome.error!r})"
    if isinstance(outcome, Skipped):
        return f"skipped (because of {outcome.because})" if outcome.because else "skipped"
    return "(not told)"


def completed(lab: Lab, call: Call[Any], values: Mapping[str, Any] | None = None, *, needs: str | None = None) -> Run:
    """The run completed, and those of its nodes that it tells of returned these values.

    Args:
        lab: the rule's bench.
        call: the run.
        values: by id.
        needs: the rule that is broken if it did not; otherwise that is the finding.
    """
    if needs is not None:
        lab.until(lambda: call.done, f"{call.what} comes back", needs=needs)
        if call.error is not None or getattr(call.value, "status", "") != "completed":
            raise Inconclusive(f"{call.what} {ended(call)}", because_of=needs)
    run = run_of(lab, call)
    lab.check(run.status == "completed", f"{call.what} {ended(call)}", "completed")
    for id_, value in (values or {}).items():
        outcome = run.nodes.get(id_)
        right = outcome is None or (isinstance(outcome, Ok) and outcome.value == value)
        lab.check(right, f"{call.what} completed and says of {id_}: {outcome!r}", f"Ok({value!r})")
    return run


# --- errors --------------------------------------------------------------------------------------------------------------


def errors_of(run: Run) -> Iterator[BaseException]:
    """All errors that the run tells: its own, and those of its nodes."""
    yield from reachable(run.error)
    for outcome in run.nodes.values():
        if isinstance(outcome, Failed):
            yield from reachable(outcome.error)


def is_that(lab: Lab, error: BaseException, meant: BaseException) -> bool:
    """Whether it is this error, a copy of it, or its account as text."""
    text = error.message if isinstance(error, Foreign) else str(error)
    return error is meant or (lab.is_a(error, type(meant)) and str(meant) in text)


def own_error(lab: Lab, run: Run, meant: BaseException) -> bool:
    """Whether the run tells this error of a node: as its own, in a group, as a cause, or as that node's outcome."""
    return any(is_that(lab, error, meant) for error in errors_of(run))


def complaint(run: Run | None) -> str:
    """Why a node refused what it was given, in its own words and behind a colon; "" if none did, or it is not told."""
    for error in errors_of(run) if run is not None else ():
        text, kind = (
            (error.message, error.type_name) if isinstance(error, Foreign) else (str(error), type(error).__name__)
        )
        if NotGiven.__name__ in kind:
            return f": {text}"
    return ""


# --- the history -----------------------------------------------------------------------------------------------------------


def call_of(name: str, number: int = 1) -> str:
    """How a call of this node is named in gates and histories."""
    return f"{name} #{number}"


def node_of(call: str) -> str:
    """Whose call it is."""
    return call.rpartition(" #")[0]


def starts(lab: Lab, *names: str) -> list[str]:
    """The nodes that have started, in order, one that started twice stands twice; of these, if named."""
    started = [node_of(call) for call in lab.started()]
    return [name for name in started if not names or name in names]


def in_flight(lab: Lab, *names: str) -> list[str]:
    """The nodes in flight, in order of their start; of these, if named."""
    live = [node_of(call) for call in lab.live()]
    return [name for name in live if not names or name in names]


def over(lab: Lab, name: str, number: int = 1) -> bool:
    """Whether this call has returned or raised (or its process died)."""
    return call_of(name, number) in lab.timeline.names("ended", "raised", "lost")


def ran_as_coroutine(lab: Lab, name: str) -> bool:
    """Whether a call of this node was awaited on a loop."""
    return any(event.coroutine for event in lab.timeline.of("started") if node_of(event.probe) == name)


def most_in_flight(lab: Lab, *names: str) -> list[str]:
    """Those that the history shows in flight together, when they were most."""
    live: list[str] = []
    most: list[str] = []
    for event in list(lab.timeline.events):
        if event.kind == "note" or (names and node_of(event.probe) not in names):
            continue
        if event.kind == "started":
            live.append(event.probe)
        elif event.probe in live:
            live.remove(event.probe)
        if len(live) > len(most):
            most = list(live)
    return [node_of(call) for call in most]


# --- waits -----------------------------------------------------------------------------------------------------------------


def running(lab: Lab, call: Call[Any], *names: str, needs: str | None = "FLO-02") -> None:
    """Wait until all of these are in flight; they are gated.

    Raises:
        Inconclusive: they never are, because of `needs`.
        Violated: the same, where that is what the rule asks.
    """
    text = f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} in flight"
    lab.until(lambda: call.done or set(names) <= set(in_flight(lab)), text, needs=needs)
    missing = [name for name in names if name not in in_flight(lab)]
    if missing:
        facts = f"{call.what} {ended(call)} before {', '.join(missing)} was in flight, though its gate was shut"
        if needs is not None:
            raise Inconclusive(facts, because_of=needs)
        lab.check(False, facts, text)


def let_go(lab: Lab, *names: str) -> None:
    """Open the gates of these nodes one at a time, each once the one before has ended: a forced completion order."""
    for name in names:
        lab.open(call_of(name))
        lab.until(lambda name=name: over(lab, name), f"{name} ends once its gate is open", needs="FLO-01")  # type: ignore[misc]


# --- fans of gated nodes -------------------------------------------------------------------------------------------------


def fan(lab: Lab, name: str, size: int, *, gated: bool = True) -> list[Node]:
    """Nodes that don't depend on each other: `a0`, `a1`, ..."""
    return [node(lab, f"{name}{number}", gated=gated) for number in range(size)]


def ids(nodes: Sequence[Node]) -> list[str]:
    """Their ids."""
    return [one.id for one in nodes]


def some_in_flight(
    lab: Lab, call: Call[Any], nodes: Sequence[Node], size: int, *, needs: str | None = "FLO-02"
) -> None:
    """Wait until `size` of these gated nodes are in flight.

    Raises:
        Inconclusive: they never are, because of `needs`.
        Violated: the same, where that is what the rule asks.
    """
    text = f"{size} of the {len(nodes)} gated nodes of {call.what} are in flight"
    lab.until(lambda: call.done or len(in_flight(lab, *ids(nodes))) >= size, text, needs=needs)
    if call.done and len(in_flight(lab, *ids(nodes))) < size:
        facts = f"{call.what} {ended(call)} while its nodes were at their shut gates"
        if needs is not None:
            raise Inconclusive(facts, because_of=needs)
        lab.check(False, facts, text)


def let_all_go(lab: Lab, call: Call[Any], nodes: Sequence[Node], *, needs: str | None = "FLO-01") -> None:
    """Open the gates of these nodes; the run completes."""
    lab.open(*(f"{one.id} #1" for one in nodes))
    completed(lab, call, needs=needs)
    missing = sorted(set(ids(nodes)) - set(starts(lab)))
    if missing:
        raise Inconclusive(f"{call.what} completed, but {', '.join(missing)} never ran", because_of="FLO-01")
