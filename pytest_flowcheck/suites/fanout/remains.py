"""FAN-17: what stays after many calls."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.proof import Census, census
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.fanout._shared import Script, calls_of, fan_out, full

if TYPE_CHECKING:
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab


class Parcel(dict[str, Any]):
    """An item, or a result, that can be looked after; to an engine it is a plain dict."""

    __hash__ = object.__hash__  # type: ignore[assignment]


_results: list[weakref.ref[Any]] = []
"""The results of items that ran in this process."""


def answer(item: dict[str, Any]) -> Parcel:
    """A result of its own."""
    result = Parcel(answer=item["id"])
    _results.append(weakref.ref(result))
    return result


@rule("FAN-17")
def nothing_grows(lab: Lab) -> None:
    """Over many calls, threads, tasks and memory don't grow.

    Intent: A service fans out once per request, for months.

    Usual cause: A pool per call that is never shut down; a list of all runs; an idle worker that holds the last item.

    Proof: Threads, children, descriptors and tasks are counted by the kernel and the loops, items and results by weak references, after two rounds and after eight; judged is growth in every round.

    Source: EXE-17, EXE-18.
    """
    rounds = 6
    with lab.instance() as it:
        for number in (0, 1):
            _round(lab, it, number)
        lab.settle()
        before, early = census(), len(_results)
        items: list[weakref.ref[Any]] = []
        for number in range(2, rounds + 2):
            items += _round(lab, it, number)
        lab.settle()
        after = census()  # which collects garbage
        kept = {"items": _alive(items), "results": _alive(_results[early:])}
    for what, grown in _grown(before, after).items():
        lab.check(
            grown < rounds,
            f"{rounds} rounds of calls left {grown} more {what}: {'; '.join(after.growth_since(before)[:6])}",
            "as many as before",
            absence=True,
            leaked=True,
        )
    for what, count in kept.items():
        lab.check(
            count < rounds * ITEMS,
            f"after {rounds} rounds of {ITEMS} {what}, all of them dropped, {count} are still referenced",
            f"at most those of the last round: {ITEMS}",
            absence=True,
            leaked=True,
        )


ITEMS = 4


def _round(lab: Lab, it: Instance, number: int) -> list[weakref.ref[Any]]:
    """A call that succeeds, and one whose items raise. Returns the items, to be looked after."""
    name = f"round {number}"
    items: list[Any] = [Parcel(id=f"{number}-{i}") for i in range(ITEMS)]
    watched = [weakref.ref(item) for item in items]
    fan_out(lab, it, items, 2, answer, name=name, gated=False).result()
    script = Script({0: "raises", 1: "raises"}, f"bad {number}")
    bad = fan_out(lab, it, 2, 2, script, name=f"bad {number}")
    full(lab, bad, 2, name=f"bad {number}", needs="FAN-26" if number else "FAN-03")
    lab.open(*calls_of(range(2), f"bad {number}"))
    bad.join()
    return watched


def _alive(references: list[weakref.ref[Any]]) -> int:
    return sum(1 for reference in references if reference() is not None)


def _grown(before: Census, after: Census) -> dict[str, int]:
    """What grew, by kind."""
    return {
        "threads": len(after.threads) - len(before.threads),
        "child processes": len(after.children) - len(before.children),
        "descriptors": len(after.descriptors) - len(before.descriptors),
        "event loops": after.loops - before.loops,
        "tasks": after.tasks - before.tasks,
    }
