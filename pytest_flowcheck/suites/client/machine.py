"""CLI-11: any interleaving against a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.client._play import at_once, for_all, scenarios
from pytest_flowcheck.suites.client._shared import client_of, result, stage

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("CLI-11", property=True)
def any_interleaving_matches_the_model(lab: Lab) -> None:
    """Any interleaving of get / use / close / new loop / dead loop matches the model.

    Intent: What holds for one loop must hold for the third one on a thread whose first closed its client and whose second did not.

    Usual cause: What is known of a loop, of its thread and of its client is kept in three places, and one of them is not told that the loop has ended or that its client was closed.

    Proof: Loops on two threads begin and end, ask, use and close, in a drawn order; with `close`, that too, from no loop. The model is a dict: a loop has at most one client, made when it first asks, until it closes it or ends.

    Source: Claessen and Hughes, "QuickCheck" (2000), state machines.
    """
    with stage(lab, turns=2) as (_, loops):
        call = loops.begin().start("get in 2 tasks", lambda cache: at_once(cache, 2))
        lab.until(lambda: call.done, f"{call.what} comes back", needs="CLI-01")
        names = {
            client_of(lab, given, of=call.what, needs="CLI-01").name for given in result(lab, call, needs="CLI-01")
        }
        if len(names) > 1:
            raise Inconclusive(f"{call.what} gave {' and '.join(sorted(names))}", because_of="CLI-01")
    words = ["get", "get", "get", "use", "aclose", "end"]
    if lab.claims("close"):
        words.append("close")
    for_all(lab, scenarios(words, threads=2, most=10, slow=lab.claims("slow_factory"), many=2), examples=30)
