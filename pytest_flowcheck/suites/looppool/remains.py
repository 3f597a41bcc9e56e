"""LOP-13: what stays after many rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.proof import census
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.looppool._shared import opened

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("LOP-13")
def nothing_stays(lab: Lab) -> None:
    """A hundred dispatch / idle / stop rounds leave nothing: no thread, loop, descriptor.

    Intent: A loop has three descriptors, a thread has a stack; a service opens pools for months.

    Usual cause: A loop that is stopped and not closed; a reaper's thread per pool that outlives it; a list of all loops ever made.

    Proof: Threads, loops, tasks and descriptors are counted after a few rounds, and after a hundred more. In each a pool is opened, used twice, reaped in between where `ttl` is claimed, and stopped. Judged is growth.

    Source: EXE-17.
    """
    rounds = 100 if lab.repeated(100) == 100 else 8
    _round(lab, 0)
    _round(lab, 1)
    lab.settle()
    before = census()
    for number in range(rounds):
        _again(lab, number + 2)
    grown = census().growth_since(before)
    if grown:
        lab.settle()  # a thread that was told to end may take a moment
        grown = census().growth_since(before)
    more = f" and {len(grown) - 4} more" if len(grown) > 4 else ""
    lab.check(
        not grown,
        f"after {rounds} rounds of dispatch, idle and stop there are: {'; '.join(grown[:4])}{more}",
        "no thread, loop, task or descriptor more than before",
        leaked=True,
    )


def _round(lab: Lab, number: int) -> None:
    """The first two tell who is to blame if one doesn't come to its end."""
    ttl = lab.claims("ttl")
    with opened(lab, 0 if ttl else None) as pool:
        where = pool.ran(f"first{number}")
        if ttl:
            pool.reaped(where, "with TTL 0, an idle loop is reaped", needs="LOP-02")
        where = pool.ran(f"second{number}")
        pool.stopped()
        pool.reaped(where, "after stop()", needs="LOP-04")


def _again(lab: Lab, number: int) -> None:
    """The same, without asking for a proof at each step; that something hangs is proven all the same."""
    with opened(lab, 0 if lab.claims("ttl") else None) as pool:
        for name in (f"first{number}", f"second{number}"):
            pool.came(pool.dispatch(name, gated=False))
            if lab.claims("ttl") and name in pool.where:
                pool.where[name].thread.join()
        pool.came(pool.stop())
