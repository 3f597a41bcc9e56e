"""FLO-13, 14, 20: what carries nodes: the caller's context, any executor, both ways in."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from threading import get_native_id
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.probes.calls import reachable
from pytest_flowcheck.protocols import Failed, Foreign, Invalid, Ok
from pytest_flowcheck.protocols.flow import Graph, Kind, Node, Run
from pytest_flowcheck.protocols.retry import RetryPolicy
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._shared import (
    NodeError,
    NotGiven,
    begin,
    complaint,
    completed,
    ended,
    given,
    node,
    output,
    run_of,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab

CALLER: ContextVar[str] = ContextVar("flowcheck_caller", default="nothing")
"""Set by callers, read by nodes."""


class Sees:
    """A node that looks whether its caller's variable is what the run's input says, and changes its own copy of it."""

    def __init__(self, id_: str) -> None:
        self.id = id_

    def __call__(self, number: int, *, input: str, upstream: Mapping[str, Any]) -> str:  # noqa: A002, ARG002 - the protocol's
        seen = CALLER.get()
        if seen != input:
            raise NotGiven(f"{self.id} sees {seen!r}; the variable's value where run was called is {input!r}")
        return self.id


@rule("FLO-13", "context")
def nodes_see_the_callers_context(lab: Lab) -> None:
    """Nodes see the caller's context variables.

    Intent: The request id in a log line, the tracing span, the decimal precision: set once by the caller, for all that is done on its behalf.

    Usual cause: A plain `submit`: a worker has the context in which its thread was born; only first nodes are given the caller's, those that a worker starts are not.

    Proof: Each node compares the variable with what the caller had set when it called: over three levels, in two runs at once with different values, and in a third that reuses their workers.

    Source: PEP 567; `asyncio.to_thread`, which copies the context.
    """
    with lab.instance(max_workers=4) as it:
        calls = [_with_variable(lab, it, name, gated=True) for name in ("left", "right")]
        lab.until(
            lambda: all(c.done for c in calls) or len(lab.live()) >= 2,
            "nodes of two runs are in flight",
            needs="FLO-02",
        )
        lab.open_all()
        for call in calls:
            call.join()
        calls.append(_with_variable(lab, it, "later", gated=False))
        for call in calls:
            run = run_of(lab, call)
            said = complaint(run)
            lab.check(not said, f"in {call.what}{said}", "the caller's value")
            completed(lab, call, needs="FLO-01")


def _with_variable(lab: Lab, it: Instance, value: str, *, gated: bool) -> Any:
    token = CALLER.set(value)
    try:
        needs = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
        nodes = [
            node(lab, id_, *needs[id_], does=Sees(id_), called=f"{value}_{id_}", gated=gated and id_ == "a")
            for id_ in needs
        ]
        return begin(it, nodes, value, what=f"the run of the caller who set {value!r}")
    finally:
        CALLER.reset(token)


class Gives:
    """Returns this value."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, number: int, *, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002, ARG002 - the protocol's
        return self.value


class Tells:
    """Returns what it is given, as text."""

    def __call__(self, number: int, *, input: Any, upstream: Mapping[str, Any]) -> str:  # noqa: A002, ARG002 - the protocol's
        return f"{input!r}; {', '.join(f'{id_}={upstream[id_]!r}' for id_ in sorted(upstream))}"


@rule("FLO-14", "async")
def both_ways_in_agree(lab: Lab) -> None:
    """`run` and `arun` give the same outcome.

    Intent: Whoever moves a program to asyncio wants to change a word, not to test all its flows again.

    Usual cause: Two implementations: `gather(return_exceptions=True)` takes an exception that a node *returns* for one that it raised; falsy outputs are dropped in one of them; one retries, the other does not.

    Proof: The same graphs through both: odd outputs, failures, retries, graphs that make no sense, an unusual input. Compared are the run's status, errors as types and texts, and what both tell of a node. Only graphs whose outcome can't depend on who is faster.

    Source: dynamiq 0.69, `run_sync` and `run_async`.
    """
    sibling = lab.subject.sibling
    if sibling is None:
        raise NotTestable("its adapter names no `sibling`, the same library's blocking way in")
    came: list[dict[str, Any]] = []
    retries = lab.claims("attempts") and "attempts" in sibling.claims.get(lab.facet, ())
    for of in (sibling, None):
        with lab.instance(of=of, max_workers=2) as it:
            came.append({what: _outcome(lab, it, what, nodes) for what, nodes in _graphs(lab, retries=retries)})
        lab.fresh()
    for what, (status, nodes) in came[0].items():
        other_status, other_nodes = came[1][what]
        lab.check(
            status == other_status, f"{what}: `run` {status}, `arun` {other_status}", "the same outcome in both ways"
        )
        for id_ in sorted(nodes.keys() & other_nodes.keys()):
            lab.check(
                nodes[id_] == other_nodes[id_],
                f"{what}: of {id_} `run` says {nodes[id_]}, `arun` {other_nodes[id_]}",
                "the same outcome in both ways",
            )


ODD: Mapping[str, Any] = {
    "none": None,
    "zero": 0,
    "no": False,
    "empty": "",
    "nothing": (),
    "mapping": {"a": [1]},
    "error": ValueError("returned, not raised"),
    "kind": KeyError,
}
"""Outputs that engines like to mistake for something else, by the ids of nodes that give them."""


def _graphs(lab: Lab, *, retries: bool) -> list[tuple[str, list[Node]]]:
    def gives(value: Any) -> Any:
        return {"does": Gives(value), "gated": False}

    twice: Any = {"raises": NodeError("b failed"), "times": 2, "gated": False, "called": "b2"}
    patient = RetryPolicy(attempts=3)
    graphs: list[tuple[str, list[Node]]] = [
        (
            "odd outputs",
            [node(lab, id_, **gives(value)) for id_, value in ODD.items()]
            + [node(lab, "reader", *ODD, does=Tells(), gated=False)],
        ),
        (
            "a failed node in a chain",
            [
                given(lab, "a", gated=False),
                given(lab, "b", "a", raises=NodeError("b failed"), gated=False),
                given(lab, "c", "b", gated=False),
            ],
        ),
        ("no node at all", []),
        ("an unknown need", [node(lab, "haunted", "ghost", gated=False)]),
        ("a circle", [node(lab, "x", "y", gated=False), node(lab, "y", "x", gated=False)]),
    ]
    if retries:
        chain = [given(lab, "b", policy=patient, **twice), given(lab, "c", "b", gated=False, called="c2")]
        graphs.append(("a node that fails twice, with three attempts", chain))
    return graphs


def _outcome(lab: Lab, it: Instance, what: str, nodes: list[Node]) -> tuple[str, dict[str, str]]:
    """In words that can be compared."""
    call = begin(it, nodes, what=what)
    call.join()
    try:
        error = call.error
    except NotTestable as reason:
        return f"is not testable: {reason}", {}
    if error is not None:
        return f"raised {_kind(lab, error)}", {}
    run: Run = call.value
    return run.status, {id_: _word(lab, outcome) for id_, outcome in run.nodes.items()}


def _word(lab: Lab, outcome: object) -> str:
    if isinstance(outcome, Ok):
        value: Any = outcome.value  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        return f"ok: {value!r}"
    if isinstance(outcome, Failed):
        return f"{outcome.how}: {_kind(lab, outcome.error)}"
    return "skipped"


def _kind(lab: Lab, error: BaseException) -> str:
    if lab.is_a(error, Invalid):
        return "Invalid"
    for leaf in reachable(error):  # the node's own, if it is in there: how it is wrapped may differ
        if isinstance(leaf, NodeError):
            return f"NodeError: {leaf}"
    if isinstance(error, Foreign):
        return f"{error.type_name}: {error.message}"
    return type(error).__name__


class Carrier(ThreadPoolExecutor):
    """The caller's executor. It knows its threads, and whether somebody has shut it down."""

    what = "a ThreadPoolExecutor"

    def __init__(self) -> None:
        super().__init__(2, "flowcheck carrier")
        self.carried: set[int] = set()
        self.was_shut = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(self.carry, partial(fn, *args, **kwargs))

    def carry(self, task: Callable[[], Any]) -> Any:
        self.carried.add(get_native_id())
        return task()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.was_shut = True
        super().shutdown(wait, cancel_futures=cancel_futures)


class Pickling(Carrier):
    """What it is given and what it gives back passes through pickle, as it does with every pool of processes."""

    what = "an executor to which tasks go by pickle, as to processes"

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(_unpickled, pickle.dumps((fn, args, kwargs)))

    def carry(self, task: Callable[[], Any]) -> Any:
        return pickle.loads(pickle.dumps(super().carry(task)))  # noqa: S301 - our own


def _unpickled(task: bytes) -> Any:
    fn, args, kwargs = pickle.loads(task)  # noqa: S301 - our own
    return fn(*args, **kwargs)


class AtOnce(Executor):
    """Runs a task in `submit`: its future is done when it is given."""

    what = "an executor that runs tasks in submit"

    def __init__(self) -> None:
        self.carried: set[int] = set()
        self.was_shut = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.carried.add(get_native_id())
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - as executors do
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: ARG002 - Executor's
        self.was_shut = True


@rule("FLO-20", "executor")
def any_executor_can_carry_the_nodes(lab: Lab) -> None:
    """Any Executor can carry the nodes; the caller's executor is never shut down.

    Intent: The caller has a pool with the right size, the right processes, the right priority; the engine is a guest there.

    Usual cause: `with executor:` around the run; `executor._max_workers`; what is submitted is a method of the run, with its locks, which no pool of processes can take; a lock held around `submit`.

    Proof: Three executors of the kit: threads, one to which tasks go by pickle, and one that runs them in `submit`. Each knows its threads and whether it was shut down; all nodes must have run on them. The third has nothing besides `submit`, `map` and `shutdown`.

    Source: Python library reference, `concurrent.futures.Executor`; dask.local.SynchronousExecutor.
    """
    kind: Kind = "blocking" if lab.claims("mixed") else "own"
    kinds: tuple[type[Carrier | AtOnce], ...] = (Carrier, Pickling, AtOnce)
    for number, make in enumerate(kinds):
        executor = make()
        try:
            _carries(lab, executor, number, kind)
        finally:
            executor.shutdown()


def _carries(lab: Lab, executor: Carrier | AtOnce, number: int, kind: Kind) -> None:
    needs = {"a": (), "b": ("a",), "c": ("a",), "d": ("b", "c")}
    names = {id_: f"{id_}{number}" for id_ in needs}
    with lab.instance(max_workers=2, executor=executor) as it:
        graph = Graph(tuple(given(lab, i, *needs[i], called=names[i], gated=False, kind=kind) for i in needs))
        call = begin(it, graph, what=f"run on {executor.what}")
        run = run_of(lab, call)
        events = [e for e in lab.timeline.of("started") if e.probe.rpartition(" #")[0] in names.values()]
        if any(e.coroutine for e in events):
            raise NotTestable("its nodes are awaited on the loop, which no executor carries")
        lab.check(run.status == "completed", f"{call.what} {ended(call)}", "completed")
        completed(lab, call, {id_: output(id_) for id_ in needs})
        elsewhere = [e for e in events if e.tid not in executor.carried]
        lab.check(
            not elsewhere,
            f"{', '.join(f'{e.probe} ran on {e.thread}' for e in elsewhere)}, and not on {executor.what}",
            "the caller's executor carries the nodes",
        )
    lab.check(not executor.was_shut, f"{executor.what} was shut down by the engine", "it stays the caller's")
