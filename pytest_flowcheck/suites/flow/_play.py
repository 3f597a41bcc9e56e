"""Drawn graphs, what a sequential run of them would give, and how a completion order is forced upon a subject."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.protocols import Ok
from pytest_flowcheck.suites.flow import _script
from pytest_flowcheck.suites.flow._shared import (
    NodeError,
    begin,
    call_of,
    complaint,
    ended,
    given,
    node_of,
    output,
    run_of,
)

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Colour, Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.protocols.flow import Run


class Step(NamedTuple):
    """Node `n<its place>`."""

    needs: tuple[int, ...]
    """Places of earlier nodes: no circles."""
    act: Literal["returns", "raises"] = "returns"


Dag: TypeAlias = tuple[Step, ...]


class Scenario(NamedTuple):
    """One or more runs at once, with a completion order."""

    workers: int
    dags: tuple[Dag, ...]
    """One for each run."""
    picks: tuple[int, ...]
    """Which of those in flight ends next, modulo how many there are; 0 after the last."""
    backwards: bool = False
    """The graph names its nodes last to first: they are in no particular order."""


Ends: TypeAlias = Literal["ok", "failed", "skipped"]


def model(dag: Dag) -> list[Ends]:
    """What becomes of each node: all that a flow promises."""
    ends: list[Ends] = []
    for step in dag:
        if any(ends[need] != "ok" for need in step.needs):
            ends.append("skipped")
        else:
            ends.append("ok" if step.act == "returns" else "failed")
    return ends


def ids(dag: Dag) -> list[str]:
    """`n0`, `n1`, ..."""
    return [f"n{place}" for place in range(len(dag))]


# --- one run that is played ----------------------------------------------------------------------------------------------


class Played:
    """A run under way: its graph, its call, and what the history says of its nodes."""

    def __init__(self, lab: Lab, it: Instance, scenario: Scenario, which: int) -> None:
        self.lab, self.dag = lab, scenario.dags[which]
        several = len(scenario.dags) > 1
        self.input = which if several else None
        prefix = f"run{which}_" if several else ""
        self.names = [prefix + id_ for id_ in ids(self.dag)]
        """What the bodies are called: ids alone, where there is one run."""
        self.errors = {i: NodeError(f"{n} failed") for i, n in enumerate(self.names) if self.dag[i].act == "raises"}
        nodes = [
            given(
                lab,
                f"n{place}",
                *(f"n{need}" for need in step.needs),
                run=self.input,
                raises=self.errors.get(place),
                called=self.names[place],
            )
            for place, step in enumerate(self.dag)
        ]
        what = f"run {which}" if several else "run"
        self.call: Call[Any] = begin(it, nodes[::-1] if scenario.backwards else nodes, self.input, what=what)

    def _those(self, *kinds: str) -> set[int]:
        names = {node_of(call) for call in self.lab.timeline.names(*kinds)}
        return {place for place, name in enumerate(self.names) if name in names}

    def live(self) -> list[int]:
        """Nodes in flight."""
        live = {node_of(call) for call in self.lab.live()}
        return [place for place, name in enumerate(self.names) if name in live]

    def failed(self) -> set[int]:
        """Nodes that raised."""
        return self._those("raised", "lost")

    def ready(self) -> list[int]:
        """Nodes that have not started, although all that they need has returned."""
        started, returned = self._those("started"), self._those("ended")
        return [place for place, step in enumerate(self.dag) if place not in started and returned >= set(step.needs)]

    def stopped(self) -> bool:
        """A node has failed that should not have; or one has, and the subject does not promise that anything goes on."""
        failed = self.failed()
        return bool(failed - self.errors.keys()) or (bool(failed) and not self.lab.claims("continue"))

    def words(self, places: list[int]) -> str:
        """These nodes, by name."""
        return ", ".join(self.names[place] for place in places) or "none"


class Blames(NamedTuple):
    """The rules that are broken if a run doesn't go on as it should; None: that is what is judged."""

    stands_still: str | None = "FLO-01"
    """Something is ready, nothing runs, and nothing starts."""
    too_few: str | None = "FLO-02"
    """Something runs, and what is ready does not start beside it though there is room."""
    lacking: list[Inconclusive] | None = None
    """Where too little overlap takes nothing from what is judged: it is noted here once, and not waited for again."""


def order_of(lab: Lab, which: int) -> list[int]:
    """The nodes of one of several runs, by the order in which they ended in what was played last."""
    over = [node_of(call) for call in lab.timeline.names("ended", "raised", "lost")]
    prefix = f"run{which}_n"
    return [int(name.removeprefix(prefix)) for name in over if name.startswith(prefix)]


def play(
    lab: Lab,
    it: Instance,
    scenario: Scenario,
    blames: Blames,
    *,
    calm: bool = False,
    order: Sequence[int] = (),
) -> list[Played]:
    """Force the scenario upon the subject, to the end of all runs.

    `calm`: before a node may end all else that can happen does; slow, but what starts too early is always seen.
    `order`: nodes of one run end in this order, as far as they are in flight; the scenario's own decides on the rest.

    Raises:
        Inconclusive: nodes don't start as the scenario needs.
        Violated: the same, where that is judged; or a run never comes back.
    """
    runs = [Played(lab, it, scenario, which) for which in range(len(scenario.dags))]
    for turn in range(sum(len(dag) for dag in scenario.dags)):
        for run in runs:
            if not run.stopped():
                _full(lab, run, scenario.workers, blames)
        going = [(run, place) for run in runs if not run.stopped() for place in run.live()]
        if not going:
            break
        asked = [one for place in order for one in going if one[1] == place]
        run, place = asked[0] if asked else going[scenario.picks[turn % len(scenario.picks)] % len(going)]
        name = run.names[place]
        before = lab.timeline.names("ended", "raised", "lost").count(call_of(name))
        if calm:
            lab.settle()
        lab.open(call_of(name))
        lab.until(
            lambda name=name, before=before: (
                lab.timeline.names("ended", "raised", "lost").count(call_of(name)) > before
            ),  # type: ignore[misc]
            f"{name} ends once its gate is open",
            needs=blames.stands_still,
        )
    lab.open_all()
    for run in runs:
        run.call.join()
    return runs


def _full(lab: Lab, run: Played, workers: int, blames: Blames) -> None:
    """Wait until as many are in flight as are ready and have room."""
    due = min(workers, len(run.live()) + len(run.ready()))
    if run.failed():
        blames = Blames("FLO-29", "FLO-29", blames.lacking)  # it need not go on, but that it claims to
    for size, blame in ((min(1, due), blames.stands_still), (due, blames.too_few)):
        if len(run.live()) >= size or (size > 1 and blames.lacking):
            continue
        live, ready = run.live(), run.ready()
        what = (
            f"{run.words(ready)} {'starts' if len(ready) == 1 else 'start'}: nothing else of {run.call.what} is in flight"
            if size == 1
            else f"{size} nodes are in flight together: {run.words(ready)}, ready, beside {run.words(live)}, with max_workers={workers}"
        )
        try:
            lab.until(
                lambda size=size: run.call.done or len(run.live()) >= size,  # type: ignore[misc]
                what,
                expected=f"{size} in flight",
                hung=size == 1,
                needs=blame,
            )
        except Inconclusive as lack:
            if size == 1 or blames.lacking is None:
                raise
            blames.lacking.append(lack)
            continue
        if run.call.done and len(run.live()) < size:
            facts = f"{run.call.what} {ended(run.call)} while {run.words(run.ready())} had not started"
            if blames.stands_still is not None:
                raise Inconclusive(facts, because_of=blames.stands_still)
            lab.check(
                False,
                facts + complaint(run.call.value if run.call.returned else None),
                "the run is over when all its nodes are",
            )


# --- judging ---------------------------------------------------------------------------------------------------------------


def starts_in_order(lab: Lab, run: Played) -> None:
    """Each node started once at most, behind all that it needs; once exactly where all that it needs returned."""
    started: list[str] = []
    over: set[str] = set()
    ends = model(run.dag)
    for event in list(lab.timeline.events):
        name = node_of(event.probe)
        if event.kind == "started" and name in run.names:
            place = run.names.index(name)
            due = [need for need in run.dag[place].needs if ends[need] != "skipped"]
            missing = [run.names[need] for need in due if run.names[need] not in over]
            lab.check(
                not missing, f"{name} started before {', '.join(missing)} had ended", "a node runs after its needs"
            )
            lab.check(name not in started, f"{name} ran twice", "each node runs once")
            started.append(name)
            if ends[place] == "skipped":
                raise Inconclusive(f"{name} started, and a node that it depends on failed", because_of="FLO-03")
        elif event.kind in ("ended", "raised", "lost"):
            over.add(name)
    never = [n for n, end in zip(run.names, ends, strict=True) if end != "skipped" and n not in started]
    if never and run.failed() and not run.stopped():
        raise Inconclusive(f"{run.call.what} {ended(run.call)}; {', '.join(never)} never ran", because_of="FLO-29")
    if not run.stopped():
        lab.check(not never, f"{run.call.what} {ended(run.call)}; {', '.join(never)} never ran", "each node runs once")


def outcomes_agree(lab: Lab, run: Played) -> Run:
    """What the engine says of nodes that should return is what the model says, as far as it says it."""
    told = run_of(lab, run.call)
    right = model(run.dag)
    refused = [run.names[p] for p in sorted(run.failed()) if right[p] == "ok"]
    if refused and run.errors and not complaint(told):
        if not lab.claims("continue"):
            return told  # the others may be cancelled
        raise Inconclusive(f"beside a failed node {', '.join(refused)} raised as well", because_of="FLO-29")
    lab.check(
        not refused,
        f"{', '.join(refused)} raised instead of returning{complaint(told)}",
        "each node is given the run's input, and the outputs of its needs by id",
    )
    if "failed" not in right:
        lab.check(told.status == "completed", f"{run.call.what} {ended(run.call)}", "completed")
    for place, id_ in enumerate(ids(run.dag)):
        outcome = told.nodes.get(id_)
        if outcome is None or right[place] != "ok":
            continue
        if isinstance(outcome, Ok) or not run.errors:
            value = output(id_, run.input)
            holds = isinstance(outcome, Ok) and outcome.value == value
            lab.check(holds, f"{run.call.what} says of {id_}: {outcome!r}", f"Ok({value!r})")
    return told


# --- drawing ---------------------------------------------------------------------------------------------------------------


def _steps(draw: Callable[[SearchStrategy[Any]], Any], most: int, fails: bool) -> Dag:
    """A graph in topological order; its nodes need up to three earlier ones."""
    steps: list[Step] = []
    for place in range(draw(st.integers(1, most))):
        needs: set[int] = draw(st.sets(st.integers(0, place - 1), max_size=3)) if place else set()
        raises = fails and draw(st.integers(0, 3)) == 3
        steps.append(Step(tuple(sorted(needs)), "raises" if raises else "returns"))
    return tuple(steps)


def dags(most: int = 6, *, fails: bool = False) -> SearchStrategy[Dag]:
    """Graphs of up to so many nodes. `fails`: some raise."""
    return st.composite(_steps)(most, fails)


def scenarios(*runs: SearchStrategy[Dag], workers: SearchStrategy[int] | None = None) -> SearchStrategy[Scenario]:
    """Runs of such graphs, all at once."""
    picks = st.lists(st.integers(0, 5), min_size=1, max_size=8).map(tuple)
    workers = st.integers(1, 4) if workers is None else workers
    return st.builds(Scenario, workers, st.tuples(*runs), picks, st.booleans())


def for_all(
    lab: Lab, judge: Callable[[Instance, Scenario], None], strategy: SearchStrategy[Scenario], *, examples: int
) -> None:
    """Run `judge` on drawn scenarios: on one instance for each number of workers until it may be spoilt, then a fresh one.

    A failed node may spoil it, too: what is left of failures is FLO-07's.
    """
    with ExitStack() as instances:
        current: dict[int, Instance] = {}
        colours: set[Colour] = set()

        def scenario(drawn: Scenario) -> None:
            workers = drawn.workers
            if workers not in current:
                current[workers] = instances.enter_context(lab.instance(max_workers=workers))
                colours.add(current[workers].colour)
            try:
                judge(current[workers], drawn)
            except BaseException:
                current.clear()
                raise
            if any(step.act == "raises" for dag in drawn.dags for step in dag):
                del current[workers]

        def reproduce(drawn: Scenario) -> str:
            return _script.program(
                lab.subject.source,
                loop=lab.subject.backend if "async" in colours else None,
                scenario=drawn,
                expected=[dict(zip(ids(dag), model(dag), strict=True)) for dag in drawn.dags],
                goes_on=lab.claims("continue"),
            )

        forall(lab, scenario, strategy, examples=examples, describe=table, reproduce=reproduce)


def table(scenario: Scenario) -> str:
    """The scenario for a failure message."""
    return "\n".join(_lines(scenario))


def _lines(scenario: Scenario) -> Iterator[str]:
    order = ", the graph names its nodes last to first" if scenario.backwards else ""
    picks = ", ".join(map(str, scenario.picks))
    yield f"max_workers={scenario.workers}{order}"
    yield f"of those in flight, in order, these end next (modulo how many there are, again and again): no. {picks}"
    for which, dag in enumerate(scenario.dags):
        if len(scenario.dags) > 1:
            yield f"run {which}"
        yield "node  needs       does     expected"
        for place, (step, ends) in enumerate(zip(dag, model(dag), strict=True)):
            needs = ", ".join(f"n{need}" for need in step.needs) or "-"
            yield f"n{place:<4} {needs:11} {step.act:8} {ends}"
