"""ISO-08, 10: sessions, services, and a session without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.isolation._shared import came_to, opened

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("ISO-08", "sessions")
def sessions_share_services_do_not(lab: Lab) -> None:
    """Sessions of one service share the bound; two services don't.

    Intent: The bound is what the service was configured with: not that times the number of users, and not what another service in the process has left of it.

    Usual cause: A semaphore in the session, or in a module's globals.

    Proof: Two services are open; the first one's slots are all stuck. A run of the second is in flight all the same. A run of a third session of the first is not, when nothing moves.

    Source: OpenHands, pull request 3169: one pool for each ConversationService.
    """
    with opened(lab, 2) as house, opened(lab, 1) as other:
        house.fill("in session 1", "in session 2")
        call = other.run("of another service")
        other.in_flight(call, "of another service", needs=None)
        house.run("in session 3")
        lab.settle()
        lab.check(
            not house.begun("in session 3"),
            "with max_concurrent_runs=2 and a run of two other sessions in flight, that of a third session started",
            "the sessions of a service share its bound",
        )


@rule("ISO-10", "standalone")
def a_session_alone(lab: Lab) -> None:
    """A session outside a service can run and answer short operations.

    Intent: A script, a test, a notebook: not everyone who runs one thing wants a server around it.

    Usual cause: The pool is looked up in the service, which is None there.

    Proof: A session of its own is opened; a run is at its gate, a short operation completes meanwhile, and the run ends.

    Source: OpenHands, pull request 3169, whose sessions fall back to a thread of their own.
    """
    with opened(lab, None) as house:
        call = house.run("alone")
        house.in_flight(call, "alone", needs=None)
        house.answers("while the run of a session without a service is stuck")
        lab.open("alone")
        house.comes_back(call, "once its gate is open")
        lab.check(call.error is None and "alone" in lab.ended(), came_to(call), "it returns, and the run has ended")
