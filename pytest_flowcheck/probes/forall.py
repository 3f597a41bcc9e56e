"""Hypothesis properties over gated scenarios: drawn, forced, shrunk within a budget, replayable.

Hypothesis is imported by the first property that runs: that takes longer than to start pytest, and every process of a
certification knows the rules, while few judge a property.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Judgement, Violated

if TYPE_CHECKING:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy

    from pytest_flowcheck.probes.lab import Lab
else:

    class _Strategies:
        def __getattr__(self, name: str) -> object:
            if name.startswith("_"):
                raise AttributeError(name)  # whoever looks through a module asks everything in it
            from hypothesis import strategies

            return getattr(strategies, name)

    st = _Strategies()
    """`hypothesis.strategies`, for use inside of functions."""

__all__ = ["SHRINK_BUDGET", "forall", "st"]

SHRINK_BUDGET = 40
"""Scenarios run after the first failure. Each may leave stuck threads behind, and each proof of a hang costs some
60 ms: enough to make an example small, not to make it minimal at any price."""


def forall(
    lab: Lab,
    scenario: Callable[[Any], None],
    strategy: SearchStrategy[Any],
    *,
    examples: int,
    describe: Callable[[Any], str] = repr,
    reproduce: Callable[[Any], str] | None = None,
    shrink: bool = True,
) -> None:
    """Run `scenario` on drawn examples, each with a fresh history, and raise the judgement of the smallest that fails.

    Settings are pinned here and never taken from a profile: no deadline (rules don't tell time), no database, the
    lab's seed. Once a judgement fell, further examples are limited by `SHRINK_BUDGET`; those beyond it count as
    passing, those seen are answered from memory, so shrinking stays consistent. A failure that does not come again is
    still a fact: the first one is then reported. What accuses nobody (`Inconclusive`, say) is not worth a smaller example.

    Args:
        lab: the rule's bench; `lab.example` holds the failing scenario afterwards.
        scenario: runs one example; raises `Judgement`.
        strategy: draws examples; their `repr` must tell them apart.
        examples: how many to draw.
        describe: an example as the text of the failure message.
        reproduce: an example as a program that shows the failure without pytest.
        shrink: look for a smaller failing example; not worth it where examples are small and a failure takes long.
    """
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from hypothesis.errors import Flaky

    # Gated scenarios are slow and filter nothing: hypothesis's advice on either would only be noise.
    # Iterating leaves out the deprecated members, naming one of which warns.
    every_check: tuple[HealthCheck, ...] = tuple(HealthCheck)  # pyright: ignore[reportAssignmentType]
    judged: dict[str, Judgement | None] = {}
    told: dict[int, tuple[str, Callable[[], str] | None]] = {}
    first: list[Judgement] = []
    budget = SHRINK_BUDGET

    @seed(lab.seed)
    @settings(
        max_examples=lab.repeated(examples),
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=every_check,
        phases=(Phase.explicit, Phase.generate, Phase.shrink) if shrink else (Phase.explicit, Phase.generate),
    )
    @given(strategy)
    def run(example: Any) -> None:
        nonlocal budget
        key = repr(example)
        if key in judged:
            if (known := judged[key]) is not None:
                raise known
            return
        if first:
            if not budget:
                return
            budget -= 1
        lab.fresh()
        lab.judgement = None
        lab.example = describe(example)  # told as well if the subject hangs right here and now
        lab.script = partial(reproduce, example) if reproduce is not None else None
        try:
            scenario(example)
        except Judgement as judgement:
            judged[key] = judgement
            told[id(judgement)] = lab.example, lab.script
            if not first:
                first.append(judgement)
                if not isinstance(judgement, Violated):
                    budget = 0
            raise
        lab.example, lab.script = "", None
        judged[key] = None

    try:
        run()
    except Judgement as smallest:
        (lab.example, lab.script), lab.judgement = told[id(smallest)], smallest
        raise
    except Flaky:
        (lab.example, lab.script), lab.judgement = told[id(first[0])], first[0]
        raise first[0] from None
