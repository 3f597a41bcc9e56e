"""ISO-09, 14: the event loop, and asking a stuck run to end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.isolation._shared import House, came_to, expressible, opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab


@rule("ISO-09", "async")
def the_loop_goes_on(lab: Lab) -> None:
    """The event loop is never blocked by starting, waiting for, stopping or interrupting a run.

    Intent: A loop that waits for a lock serves nobody, and the watchdog that should notice runs on it as well.

    Usual cause: `future.result()`, `thread.join()` or a `threading.Lock` on the loop: in the path for a full pool, or in the one that interrupts.

    Proof: The loop is asked for one turn by another thread, after each step: a run is stuck; another is asked for in either way; the stuck one is cancelled; a caller is cancelled. The turn comes, or it is proven that it never will: whatever holds the loop is in the list of waits.

    Source: OpenHands, pull request 3169: interrupting a conversation waited for the lock that its run held.
    """
    with opened(lab, 1) as house:
        house.turns("before any run")
        stuck = house.run("stuck")
        house.turns("while a run is started")
        house.in_flight(stuck, "stuck")
        beyond = house.run("beyond")
        house.turns("while a run beyond the bound is asked for")
        _if_expressible(lab, house, lambda: house.start("started beyond"), "while one is started that nobody waits for")
        _if_expressible(lab, house, lambda: house.cancel("stuck"), "while a stuck run is cancelled")
        lab.settle()  # whatever those calls have begun has come as far as it can
        house.turns("after all these")
        for call in (beyond, stuck):
            call.cancel()
            house.turns(f"while the caller of {call.what} is cancelled")
        lab.settle()
        house.turns("after both callers were cancelled")


def _if_expressible(lab: Lab, house: House, ask: Callable[[], Call[None]], when: str) -> None:
    call = ask()
    house.turns(when)
    expressible(lab, call)  # the other steps can be judged all the same


@rule("ISO-14")
def cancelling_is_short(lab: Lab) -> None:
    """Pausing or cancelling a stuck run is a short operation.

    Intent: The button that is pressed when something hangs must not hang.

    Usual cause: cancel waits until the run has ended, or for a lock that the run holds while it works.

    Proof: A run is stuck and heeds no request. Cancel comes back, twice, or it is proven that it never will; short operations complete afterwards.

    Source: OpenHands, pull request 3169.
    """
    with opened(lab, 1) as house:
        stuck = house.run("stuck", heeds=False)
        house.in_flight(stuck, "stuck")
        expected = "it is a request: it does not wait for the run to heed it"
        first = house.comes_back(house.cancel("stuck"), "the first time, while the run is stuck", expected)
        lab.check(first.error is None, came_to(first), expected)
        house.comes_back(house.cancel("stuck"), "the second time, while the run is stuck", expected)
        house.answers("after a stuck run was cancelled", needs="ISO-01")
        lab.open("stuck")
