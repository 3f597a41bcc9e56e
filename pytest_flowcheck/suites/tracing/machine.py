"""TRC-12: any interleaving against a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.tracing._play import Scenario, for_all, lives

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


KNOWN: Final[tuple[Scenario, ...]] = (
    (
        *(("hold", ()), ("emit", (1, 0)), ("emit", (3, 1)), ("flush", ()), ("emit", (1, 1)), ("go", ())),
        *(("fail", ()), ("emit", (2, 0)), ("flush", ()), ("emit", (1, 0)), ("close", ()), ("emit", (1, 0))),
    ),
    (("hold", ()), ("emit", (1, 0)), ("close", ()), ("emit", (1, 0)), ("go", ()), ("close", ())),
)
"""Lives with the bugs of which one has heard: played first, so that none of them depends on what is drawn."""


@rule("TRC-12", property=True)
def any_interleaving_matches_the_model(lab: Lab) -> None:
    """Any interleaving of emit / flush / close / sink failure matches the model.

    Intent: What holds for a flush holds for one that comes while the sink fails, behind another, and before a close.

    Usual cause: A counter of what is unfinished that an error does not count down; a flag that one flush sets and the next one finds.

    Proof: Two emitters, flushes, closes, failures of the sink, and times at which it is held, in a drawn order. The model is a list: what is emitted before a flush or close has come to the sink's end when that comes back, once and in order, unless dropped() counts it.

    Source: Claessen and Hughes, "QuickCheck" (2000), state machines.
    """
    for_all(lab, lives(), examples=60, first=KNOWN)
