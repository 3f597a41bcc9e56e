"""A drawn fan-out, what a sequential run of it would give, and how it is forced upon a subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.suites.fanout import _script
from pytest_flowcheck.suites.fanout._shared import (
    HALTS,
    Act,
    ItemError,
    Script,
    calls_of,
    fan_out,
    full,
    is_that,
    leaves,
    let_go,
    outcomes,
    told,
)

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Colour, Instance
    from pytest_flowcheck.probes.lab import Lab


class Scenario(NamedTuple):
    """A fan-out with a completion order."""

    bound: int
    acts: tuple[Act, ...]
    """What each item does once its gate is open."""
    keep_going: bool
    """`continue_on_error`"""
    picks: tuple[int, ...]
    """Which of those in flight completes next, modulo how many there are."""
    conserving: bool = True
    """Whoever ends makes room for the next item. Else only those make room that all before them have ended, too."""


class Step(NamedTuple):
    """One completion."""

    in_flight: int
    """How many are in flight before it: min(bound, items left), until something stops the fan-out."""
    item: int
    after_stop: bool
    """A halt or an escaping exception came before it: whoever still runs may end or be cancelled."""


def forced(scenario: Scenario) -> list[Step]:
    """The completions, one after the other: a window of `bound` that refills until an item stops it."""
    waiting, live, stopped, steps = list(range(len(scenario.acts))), list[int](), False, list[Step]()
    while True:
        while waiting and not stopped and _room(scenario, live, waiting[0]):
            live.append(waiting.pop(0))
        if not live:
            return steps
        item = sorted(live)[scenario.picks[len(steps)] % len(live)]
        steps.append(Step(len(live), item, stopped))
        live.remove(item)
        stopped = stopped or stops(scenario, item)


def _room(scenario: Scenario, live: list[int], item: int) -> bool:
    taken = len(live) if scenario.conserving or not live else item - min(live)
    return taken < scenario.bound


def stops(scenario: Scenario, item: int) -> bool:
    """Whether this item, once it has ended, lets nothing new start."""
    return scenario.acts[item] != "ok" and not scenario.keep_going


def acceptable(scenario: Scenario, ran: Iterable[int] = ()) -> list[str]:
    """What the call may come to, as words: the sequential run's end, wherever the contract says so.

    Where an exception escaped from an item behind the one that halts, a sequential run would never have met it: the
    prefix and the error are both right. Where several escaped, each of them is.

    `ran`: items that ran besides, begun before the subject could know that another had stopped it.
    """
    ran = sorted({*ran, *(step.item for step in forced(scenario))})
    first = next((item for item in ran if stops(scenario, item)), None)
    ends: list[str] = []
    if first is None or scenario.acts[first] != "raises":
        upto = ran if first is None else [item for item in ran if item <= first]
        ends.append("; ".join(_outcome(scenario, item) for item in upto))
    if not scenario.keep_going:
        ends += [f"raises item({item}) failed" for item in ran if scenario.acts[item] == "raises"]
    return ends


def _outcome(scenario: Scenario, item: int) -> str:
    return f"item({item})" if scenario.acts[item] == "ok" else "Failed"


def end_of(lab: Lab, call: Call[object], script: Script) -> str:
    """What the call came to, in the words of `acceptable`."""
    if call.error is None:
        return "; ".join(told(outcomes(call)))
    for error in leaves(call.error):
        for item, meant in script.errors.items():
            if isinstance(meant, ItemError) and is_that(lab, error, meant):
                return f"raises item({item}) failed"
    return f"raises {call.error!r}"


class Stage(NamedTuple):
    """Where scenarios are played, one after the other."""

    it: Instance
    blame: str
    """The rule that is broken if a fan-out doesn't get its concurrency here: on a used instance, slots were lost."""


def play(lab: Lab, stage: Stage, scenario: Scenario) -> str:
    """Force the scenario upon the subject and say what the call came to.

    Raises:
        Inconclusive: items don't start as the scenario needs; FAN-03, 04, 12, 23 or 26 says so.
    """
    script = Script(dict(enumerate(scenario.acts)))
    names = calls_of(range(len(scenario.acts)))
    call = fan_out(lab, stage.it, len(names), scenario.bound, script, continue_on_error=scenario.keep_going)
    for number, step in enumerate(forced(scenario)):
        name = names[step.item]
        if not step.after_stop:
            full(lab, call, step.in_flight, needs="FAN-04" if number else stage.blame)
        if not step.after_stop or name in lab.started():
            let_go(lab, name)
    lab.open_all()
    call.join()
    return end_of(lab, call, script)


def all_return() -> SearchStrategy[Scenario]:
    """Fan-outs whose items all return, with some concurrency."""
    return scenarios(st.lists(st.just("ok"), min_size=2, max_size=6))


def scenarios(
    acts: SearchStrategy[list[Act]], *, least: int = 2, keep_going: SearchStrategy[bool] | None = None
) -> SearchStrategy[Scenario]:
    """Fan-outs of up to six items, at least `least` at a time."""
    keep_going = st.just(False) if keep_going is None else keep_going
    return st.builds(Scenario, st.integers(least, 4), acts.map(tuple), keep_going, st.tuples(*[st.integers(0, 3)] * 6))


def for_all(
    lab: Lab, judge: Callable[[Stage, Scenario], None], strategy: SearchStrategy[Scenario], *, examples: int
) -> None:
    """Run `judge` on drawn scenarios, on one instance until one of them fails, and from then on fresh ones."""
    conserving = conserves(lab)
    with ExitStack() as instances:
        current: list[Instance] = []
        colour: list[Colour] = []
        blame: list[str] = []

        def scenario(drawn: Scenario) -> None:
            drawn = suited(drawn)
            if not current:
                current.append(instances.enter_context(lab.instance()))
                colour[:] = [current[0].colour]
                blame[:] = ["FAN-03"]
            try:
                judge(Stage(current[0], blame[0]), drawn)
                if drawn.bound > 1 and len(drawn.acts) > 1:
                    blame[:] = ["FAN-26"]
            except BaseException:
                current.clear()  # it may be spoilt
                raise

        def reproduce(drawn: Scenario) -> str:
            return _script.program(
                lab.subject.source,
                loop=lab.subject.backend if colour == ["async"] else None,
                bound=drawn.bound,
                acts=drawn.acts,
                keep_going=drawn.keep_going,
                steps=[(step.in_flight, step.item, step.after_stop) for step in forced(drawn)],
                acceptable=acceptable(drawn),
            )

        def suited(drawn: Scenario) -> Scenario:
            return drawn if conserving else drawn._replace(conserving=False)

        forall(
            lab,
            scenario,
            strategy,
            examples=examples,
            describe=lambda drawn: table(suited(drawn)),
            reproduce=lambda drawn: reproduce(suited(drawn)),
        )


def conserves(lab: Lab) -> bool:
    """Whether an item that ends makes room for the next one, whoever else is in flight. If not, FAN-04 says so, and what
    the other rules ask can be asked in an order of completion that such a window lets come about.

    Nothing is judged here: a subject that can't be asked like this is left to the rule.
    """
    refilled = True
    with lab.instance() as it:
        call = fan_out(lab, it, 3, 2, name="window")
        try:
            full(lab, call, 2, name="window")
            let_go(lab, "window(1)")
            full(lab, call, 2, needs="FAN-04", name="window")
        except Inconclusive as why:
            refilled = why.because_of != "FAN-04"
        lab.open_all()
        with suppress(Inconclusive):
            lab.until(lambda: call.done, "the fan-out comes back", needs="FAN-04")
    lab.fresh()
    return refilled


def mixtures(lab: Lab) -> list[SearchStrategy[Scenario]]:
    """Any mix of outcomes that the subject claims to know, each kind apart: drawn as one, hypothesis favours some."""
    ok: SearchStrategy[Act] = st.just("ok")
    raises: SearchStrategy[Act] = st.just("raises")
    halts: SearchStrategy[Act] = st.sampled_from(HALTS)
    kinds = [all_return(), _of(ok | raises, least=1), _meeting(raises, raises)]
    if lab.claims("halt"):
        kinds += [_of(ok | halts), _of(ok | raises | halts)]
        kinds += [_meeting(halts, halts), _meeting(raises, halts), _meeting(halts, raises)]
    if lab.claims("continue"):
        recorded: SearchStrategy[Act] = st.just("failed") if lab.claims("halt") else raises
        kinds.append(_of(ok | recorded, keep_going=True))
    return kinds


def _of(act: SearchStrategy[Act], *, least: int = 2, keep_going: bool = False) -> SearchStrategy[Scenario]:
    return scenarios(st.lists(act, min_size=least, max_size=6), least=1, keep_going=st.just(keep_going))


def _meeting(first_act: SearchStrategy[Act], second_act: SearchStrategy[Act]) -> SearchStrategy[Scenario]:
    """Two items of the first window stop it, the later one first: where bugs of attribution live, drawn on purpose."""

    def meet(
        bound: int, places: tuple[int, int], acts: tuple[Act, Act], behind: int, picks: tuple[int, ...]
    ) -> Scenario:
        first = places[0] % (bound - 1)
        second = first + 1 + places[1] % (bound - 1 - first)
        stopping: dict[int, Act] = {first: acts[0], second: acts[1]}
        whole: tuple[Act, ...] = tuple(stopping.get(item, "ok") for item in range(bound + behind))
        return Scenario(bound, whole, False, (second, *picks))

    return st.builds(
        meet,
        st.integers(2, 4),
        st.tuples(st.integers(0, 2), st.integers(0, 2)),
        st.tuples(first_act, second_act),
        st.integers(0, 2),
        st.tuples(*[st.integers(0, 3)] * 5),
    )


def table(scenario: Scenario) -> str:
    """The scenario for a failure message."""
    steps = forced(scenario)
    order = {step.item: number for number, step in enumerate(steps, 1)}
    lines = [
        f"max_concurrency={scenario.bound}, {len(scenario.acts)} items"
        + (", continue_on_error=True" if scenario.keep_going else "")
        + ("" if scenario.conserving else ", and an item makes room when all before it have ended (FAN-04)"),
        "item  does     completes as",
    ]
    lines += [
        f"{item:4}  {'returns' if act == 'ok' else act:7}  {f'no. {order[item]}' if item in order else '(never starts)'}"
        for item, act in enumerate(scenario.acts)
    ]
    return "\n".join(lines)
