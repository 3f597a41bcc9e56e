"""FLO-06, 37: runs beside each other, and inside each other."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive, NotTestable, Violated
from pytest_flowcheck.probes.forall import st
from pytest_flowcheck.probes.instance import on_a_loop
from pytest_flowcheck.proof.sweep import code_of
from pytest_flowcheck.protocols import Ok, Refused, Unsupported
from pytest_flowcheck.protocols.flow import Graph, Run
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._play import (
    Blames,
    Played,
    Scenario,
    dags,
    for_all,
    model,
    order_of,
    outcomes_agree,
    play,
    scenarios,
    starts_in_order,
)
from pytest_flowcheck.suites.flow._shared import (
    NodeError,
    NotGiven,
    a_run,
    begin,
    complaint,
    completed,
    ended,
    errors_of,
    is_that,
    node,
    own_error,
    run_of,
    running,
    starts,
    told,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.proof.sweep import Outcome


@rule("FLO-06", property=True)
def runs_do_not_see_each_other(lab: Lab) -> None:
    """Overlapping runs of one engine never see or erase each other's results, states or errors.

    Intent: A service has one engine and many requests.

    Usual cause: Results, states or the error kept on `self`, by node id, and cleared as a run begins.

    Proof: Two runs with the same node ids and different inputs, drawn, and interleaved by gates; each must come to what it comes to alone. Each node looks at what it is given. The same graph object is run twice at once as well. An engine whose runs wait for each other keeps the rule, and can't be asked. Then a race is made: where calls come from threads, a run, and each thread of the engine, is parked at the lines of the engine's own code until another run is over or blocked.

    Source: dynamiq 0.45, where two runs of one `Flow` corrupted each other.
    """
    _one_graph_twice(lab)

    def judge(it: Instance, scenario: Scenario) -> None:
        try:
            runs = play(lab, it, scenario, Blames(stands_still=None))
            for run in runs:
                starts_in_order(lab, run)
                outcomes_agree(lab, run)
                _own_end(lab, run, runs)
        except Violated:
            _right_alone(lab, scenario)
            raise

    eight = st.just(8)
    for_all(lab, judge, scenarios(dags(4), dags(4), workers=eight), examples=20)
    for_all(lab, judge, scenarios(dags(4, fails=True), dags(4, fails=True), workers=eight), examples=20)
    _swept(lab)


class Follows:
    """Returns `b@2`, its id and the run's input, and looks whether what it is given comes from the same run."""

    def __init__(self, id_: str) -> None:
        self.id = id_

    def __call__(self, number: int, *, input: Any, upstream: Mapping[str, Any]) -> str:  # noqa: A002, ARG002 - the protocol's
        for id_, value in upstream.items():
            if value != f"{id_}@{input}":
                raise NotGiven(f"{self.id} of the run with input {input} was given {id_}={value!r}")
        return f"{self.id}@{input}"


def _one_graph_twice(lab: Lab) -> None:
    try:
        with lab.instance(max_workers=4) as it:
            _at_once(lab, it, _followers(lab), 2)
    except Violated as found:
        lab.fresh()
        lab.judgement = None
        try:
            with lab.instance(max_workers=4) as it:
                _at_once(lab, it, _followers(lab), 1)
        except Violated as alone:
            lab.judgement = None
            raise Inconclusive(f"a run goes wrong alone: {alone.facts}", because_of="FLO-01") from None
        raise found from None


def _followers(lab: Lab, *, gated: bool = True) -> Graph:
    return Graph(
        tuple(node(lab, id_, *needs, does=Follows(id_), gated=gated) for id_, needs in (("a", ()), ("b", ("a",))))
    )


def _at_once(lab: Lab, it: Instance, graph: Graph, runs: int) -> None:
    calls = [begin(it, graph, number, what=f"run {number}") for number in range(1, runs + 1)]
    try:
        lab.until(
            lambda: any(call.done for call in calls) or starts(lab) == ["a"] * runs,
            "the runs are under way together",
            needs="FLO-02",
        )
    except Inconclusive:
        if len(lab.live()) == 1:
            raise NotTestable("its runs wait for each other: there are no overlapping ones") from None
        raise
    for call in calls:
        if call.done and lab.is_a(call.error, Refused):
            raise NotTestable(f"it refuses a run beside another: {call.error!r}")
    lab.open_all()
    for number, call in enumerate(calls, 1):
        completed(lab, call, {id_: f"{id_}@{number}" for id_ in ("a", "b")})


@dataclass
class _World:
    """An engine, and two runs' graphs with the same node ids; `a` of the second one fails where `error` says so."""

    it: Instance
    graphs: tuple[Graph, Graph]
    error: NodeError | None
    stack: ExitStack

    def run(self, which: int) -> Any:
        """One of the runs, as a plain thread makes it."""
        return self.it.raw.run(self.graphs[which], which + 1)


def _swept(lab: Lab) -> None:
    with lab.instance(max_workers=4) as it:
        if it.colour == "async":
            return  # tasks of one loop are interleaved at their awaits, which the gates above have done
        code = code_of(it.raw)

    def arrange(fails: bool) -> _World:
        stack = ExitStack()
        it = stack.enter_context(lab.instance(max_workers=4))
        graph = _followers(lab, gated=False)
        error = NodeError("a failed") if fails else None
        other = Graph((node(lab, "a", gated=False, does=Raises(error)), graph.nodes[1])) if error else graph
        return _World(it, (graph, other), error, stack)

    def judge(world: _World, outcome: Outcome) -> str | None:
        for number, end in enumerate((outcome.first, outcome.rival), 1):
            if end is None or end.error is not None:
                continue  # it refused
            says = _wrong_run(lab, end.value, number, world.error if number == 2 else None)
            if says:
                return f"run {number} {says}"
        return None

    try:
        for fails in (False, True):
            lab.sweep(
                lambda fails=fails: arrange(fails),  # type: ignore[misc]
                lambda world: world.run(0),
                lambda world: world.run(1),
                code=code,
                judge=judge,
                names=("run 1", "run 2"),
                leave=lambda world: world.stack.close(),
                allowed=(Refused,),
                settle=False,
                limit=50 if fails else 100,
                expected="each run comes to what it comes to alone",
                needs="FLO-07",
            )
    except NotTestable as why:
        lab.note(str(why))  # what the gates showed before stands


class Raises:
    """Raises this error."""

    def __init__(self, error: NodeError) -> None:
        self.error = error

    def __call__(self, number: int, *, input: Any, upstream: Mapping[str, Any]) -> None:  # noqa: A002, ARG002 - the protocol's
        raise self.error


def _wrong_run(lab: Lab, run: object, number: int, error: NodeError | None) -> str | None:
    """What is wrong with what the run came to; None if it is what it comes to alone."""
    run = a_run(f"run {number}", run)
    if error is not None:
        return (
            None
            if run.status == "failed" and own_error(lab, run, error)
            else f"ended {told(run)}, and its node a fails"
        )
    if run.status != "completed" or run.error is not None:
        return f"ended {told(run)}{complaint(run)}"
    wrong = [
        f"{id_}: {outcome!r}"
        for id_, outcome in run.nodes.items()
        if not isinstance(outcome, Ok) or outcome.value != f"{id_}@{number}"
    ]
    return f"completed and says of {', '.join(wrong)}" if wrong else None


def _own_end(lab: Lab, run: Played, runs: list[Played]) -> None:
    """It failed if one of its own nodes did, with that error, and none of the others'."""
    said = run_of(lab, run.call)
    right = "failed" if "failed" in model(run.dag) else "completed"
    lab.check(said.status == right, f"{run.call.what} {ended(run.call)}", right)
    for other in runs:
        seen = [e for e in errors_of(said) for meant in other.errors.values() if is_that(lab, e, meant)]
        lab.check(
            other is run or not seen, f"{run.call.what} {ended(run.call)}", f"nothing of {other.call.what}: {seen[:1]}"
        )
    mine = any(own_error(lab, said, meant) for meant in run.errors.values())
    lab.check(mine or right == "completed", f"{run.call.what} {ended(run.call)}", "its own node's error")


def _right_alone(lab: Lab, scenario: Scenario) -> None:
    """What goes wrong without another run beside it, its nodes ending in the same order, is another rule's finding."""
    orders = [order_of(lab, which) for which in range(len(scenario.dags))]
    for dag, order in zip(scenario.dags, orders, strict=True):
        lab.fresh()
        alone = scenario._replace(dags=(dag,))
        try:
            with lab.instance(max_workers=scenario.workers) as it:
                (run,) = play(lab, it, alone, Blames(), calm=True, order=order)
                starts_in_order(lab, run)
                outcomes_agree(lab, run)
        except Violated as violated:
            raise Inconclusive(f"a run goes wrong alone: {violated.facts}", because_of="FLO-01") from None
        try:
            _own_end(lab, run, [run])
        except Violated as violated:
            raise Inconclusive(f"a run goes wrong alone: {violated.facts}", because_of="FLO-03") from None


ON_A_THREAD = "on a thread, nobody can await the engine's own run"


class Nest:
    """A node that runs another graph on the engine that carries it. What came of it is put down in `said`."""

    def __init__(self, lab: Lab, raw: Any, name: str, said: list[str]) -> None:
        self.lab, self.raw, self.name, self.said = lab, raw, name, said

    def __call__(self, number: int, *, input: Any, upstream: Any) -> Any:  # noqa: A002, ARG002 - the protocol's
        inner = [node(self.lab, f"{self.name}_{n}", gated=False) for n in range(2)]
        inner.append(node(self.lab, f"{self.name}_end", inner[0].id, inner[1].id, gated=False))
        try:
            came = self.raw.run(Graph(tuple(inner)), 1)
        except Exception as error:  # noqa: BLE001 - told below
            return self._say(error)
        if not hasattr(came, "__await__"):
            return self._say(came)
        if on_a_loop():
            return self._later(came)
        came.close()
        return self._say(ON_A_THREAD)

    async def _later(self, came: Any) -> str:
        try:
            return self._say(await came)
        except Exception as error:  # noqa: BLE001 - told by the rule
            return self._say(error)

    def _say(self, came: object) -> str:
        if isinstance(came, Unsupported):
            text = f"it can't be asked: {came}"
        elif isinstance(came, BaseException):
            text = "refused" if self.lab.is_a(came, Refused) else f"raised {came!r}"
        else:
            text = (
                told(came)
                if isinstance(came, Run) and came.status != "completed"
                else str(getattr(came, "status", came))
            )
        self.said.append(text)
        return text


@rule("FLO-37")
def a_node_may_start_a_run(lab: Lab) -> None:
    """A node that starts a run of the same engine doesn't deadlock, or is refused clearly.

    Intent: A node that calls a function that runs a flow: whoever writes it need not know that it does.

    Usual cause: One pool for all runs: nodes wait in all its workers for runs whose nodes wait for a worker.

    Proof: All workers are occupied by nodes that are then let go at once, each to run a graph of its own; that they never come back is read from the kernel.

    Source: EXE-23, FAN-14; dynamiq, a flow as the node of a flow.
    """
    said: list[str] = []
    with lab.instance(max_workers=2) as it:
        names = ["outer0", "outer1"]
        call = begin(it, [node(lab, name, does=Nest(lab, it.raw, name, said)) for name in names])
        try:
            running(lab, call, *names)
        except Inconclusive:
            if call.done and not lab.started():
                raise NotTestable(f"its nodes can't reach the engine: the run {ended(call)}") from None
            raise
        lab.open_all()
        run = run_of(lab, call)
    if not said:
        raise NotTestable("its nodes run where the engine can't be reached")
    if all(text == ON_A_THREAD or text.startswith("it can't be asked") for text in said):
        raise NotTestable(said[0])
    bad = [text for text in said if text not in ("completed", "refused")]
    lab.check(not bad, f"a run that a node started {'; '.join(bad)}", "completed, or Refused")
    lab.check(run.status == "completed", f"the outer run {ended(call)}", "completed: its nodes returned")
