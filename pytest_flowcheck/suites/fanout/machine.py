"""FAN-15: any mix against a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.fanout._play import Scenario, Stage, acceptable, for_all, mixtures, play
from pytest_flowcheck.suites.fanout._shared import calls_of

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("FAN-15", property=True)
def any_mix_agrees_with_a_sequential_run(lab: Lab) -> None:
    """Any mix of outcomes, completion order and concurrency matches the sequential model wherever the contract says so.

    Intent: Whoever raises `max_concurrency` wants the same answer sooner, not another one.

    Usual cause: Two features that each work alone: a halt while an earlier item is still running, an exception behind a recorded failure.

    Proof: Outcomes and completion order are drawn and forced by gates; what the call came to is compared with a sequential run, whose model is ten lines. Where an exception escaped from an item behind the one that halts, both ends are accepted. Only the answer is judged here, and that each item runs once; the bound, and what still starts after a stop, belong to rules that wait until nothing moves (FAN-02, 07, 11, 19).

    Source: spec-kit pull request 3224: "exactly as the sequential run would".
    """

    def judge(stage: Stage, scenario: Scenario) -> None:
        came = play(lab, stage, scenario)
        ran = [item for item, name in enumerate(calls_of(range(len(scenario.acts)))) if name in lab.started()]
        right = acceptable(scenario, ran)
        lab.check(came in right, f"the fan-out came to: {came or 'no outcome'}", " or ".join(right))
        twice = sorted({n for n in lab.started() if lab.started().count(n) > 1})
        lab.check(not twice, f"run more than once: {', '.join(twice)}", "each item runs once")

    for mixture in mixtures(lab):
        for_all(lab, judge, mixture, examples=12)
