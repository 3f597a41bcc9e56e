"""FLO-15: what all runs share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._shared import starts

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


class Connection(dict[str, int]):
    """A shared resource; an empty one is false, as an idle pool of connections may be."""


def connect(number: int) -> Connection:
    """Make one; the number says which."""
    return Connection(number=number)


@rule("FLO-15", "resources")
def shared_resources_are_made_once(lab: Lab) -> None:
    """Shared resources (default connection manager) are made once, also under a race; an explicit one wins.

    Intent: Two connection managers are two pools, of which one is never closed.

    Usual cause: `if self._manager is None: self._manager = make()` without a lock; or `given or make()`, where what was given is empty and so counts as false.

    Proof: The first caller is held in `make` while the others ask; when nothing moves any more, all have come as far as they can. What was given is an empty container.

    Source: dynamiq, `get_default_connection_manager`.
    """
    callers = 6
    with lab.instance(max_workers=2, make=lab.attempts("make", connect)) as it:
        calls = [it.start(f"resource() of caller {number}", lambda flow: flow.resource()) for number in range(callers)]
        lab.until(lambda: bool(lab.started()), "make is called when the resource is asked for")
        lab.settle()
        made = lab.started()
        lab.check(
            len(made) == 1,
            f"{callers} callers asked for the resource while it was being made: {', '.join(made)} were in flight",
            "one call of make; the others wait for what it gives",
        )
        lab.open_all()
        calls.append(it.start("resource(), once it is made", lambda flow: flow.resource()))
        got = [call.result() for call in calls]
        lab.check(len(lab.started()) == 1, f"make was called {len(lab.started())} times", "once")
        other = next((number for number, one in enumerate(got) if one is not got[0]), None)
        if other is not None:
            lab.check(False, f"{calls[0].what} gave {got[0]!r}, {calls[other].what} {got[other]!r}", "the same for all")
        if not isinstance(got[0], Connection):
            lab.check(False, f"resource() gave {got[0]!r}", "what make returned")
    given = Connection()
    make = lab.attempts("make beside", connect, gated=False)
    with lab.instance(max_workers=2, make=make, given=given) as it:
        one = it.start("resource(), where one was given", lambda flow: flow.resource()).result()
        lab.check(
            one is given,
            f"given an empty {type(given).__name__}, resource() gave {one!r}",
            "the very one that was given",
        )
        lab.check(not starts(lab, "make beside"), "make was called although a resource was given", "no call of make")
    if "make #1" not in lab.ended():
        raise Inconclusive("make never came to its end")
