"""ISO-05, 13: threads that go, and slots that come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.isolation._shared import (
    LIMIT,
    BodyError,
    House,
    asked,
    by_hand,
    came_to,
    expressible,
    fails,
    opened,
    queues,
    threads,
    told,
)

if TYPE_CHECKING:
    import threading

    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab


@rule("ISO-05")
def nothing_before_nothing_after(lab: Lab) -> None:
    """No thread of it before entering nor after leaving; leaving with stuck runs is bounded.

    Intent: A service can be configured without being run, and a deployment can be ended though a job hangs.

    Usual cause: Threads that are started by the constructor, or by nobody ended; `shutdown(wait=True)`, which waits for what never ends.

    Proof: One is opened, used and left, so that a library has what it keeps for the whole process. Threads are counted then, when another was made and not entered, and when one more that ran something was left: those that came have ended, or it is proven that they never will. Then one is left while its runs are stuck at their gates: leaving returns or raises, whatever it says; once the runs have ended, so have the threads.

    Source: OpenHands, pull request 3169: a pool made on entering and dropped on leaving; `ThreadPoolExecutor.__exit__`.
    """
    _used(lab)  # what a library starts once for the whole process is there from now on
    before = threads()
    manager = lab.subject.open(lab.facet, max_concurrent_runs=2)
    found = threads() - before
    lab.check(
        not found, f"a service that was made and not entered has the threads {told(found)}", "none: it was not entered"
    )
    del manager
    _used(lab)
    _ended(lab, before, "after the service was left")
    with by_hand(lab, 2, limit=LIMIT) as service:
        for name in ("stuck 1", "stuck 2"):
            _stick(service.house, name)
        leaving = service.leave()
        lab.until(
            lambda: leaving.done,
            "leaving the service comes back while two runs are stuck",
            expected="leaving is bounded: it returns or raises, whatever the runs do",
            hung=True,
        )
    _ended(lab, before, "after the service was left with two stuck runs, which have ended since")


def _used(lab: Lab) -> None:
    """A service that was opened, used and left."""
    with opened(lab, 2) as house:
        house.comes_back(house.run("run", gated=False), "at once", needs="ISO-02")
        house.comes_back(house.short_op(), "at once", needs="ISO-01")


def _stick(house: House, name: str) -> None:
    """A run at its gate, that no caller waits for where that can be had."""
    call = house.start(name)
    house.lab.until(lambda: call.done or house.runs(name), f"the run {name!r} is started", needs="ISO-12")
    try:
        house.in_flight(call, name)
    except NotTestable:  # its terms can't express it
        house.in_flight(house.run(name), name)


def _ended(lab: Lab, before: set[threading.Thread], when: str) -> None:
    """All threads that came have ended."""
    found = threads() - before
    for thread in found:
        if thread.is_alive():
            lab.call(f"the end of thread '{thread.name}'", thread.join)  # is an event, then
    lab.until(
        lambda: not any(thread.is_alive() for thread in found),
        f"{when}, its threads have ended: {told(found)}",
        expected="no thread of it stays",
    )


@rule("ISO-13")
def slots_come_back(lab: Lab) -> None:
    """A run that failed, was cancelled or was cancelled while queued gives its slot back. (lost token)

    Intent: A service that loses a slot now and then serves nobody in a month, and nothing was ever wrong.

    Usual cause: The token is taken in one place and given back at the end of another, which a cancellation or an error in between never reaches; or it is handed to a waiter that has just been cancelled.

    Proof: With one slot: runs that fail; one that is cancelled while it is in flight, by `cancel` and by its caller's cancellation; and the same to one that waits. Where `admission` is claimed, runs whose hook raises, or is cancelled. After each, a new run is in flight. In the end the slot is one, not two.

    Source: CPython issues 90155 and 111693: slots of asyncio.Semaphore that were lost with cancelled waiters.
    """
    hook = {"admit": lab.probe("admit", _Unwelcome())} if lab.claims("admission") else {}
    with opened(lab, 1, **hook) as house:
        for number in (1, 2):
            call = house.run(f"fails {number}", fails, gated=False)
            house.comes_back(call, f"after {number} runs have failed", needs="ISO-06" if number == 1 else None)
        _one_fits(lab, house, "after two runs have failed")
        for way in _ways(house):
            call = house.run(f"cancelled by {way}")
            house.in_flight(call, f"cancelled by {way}")
            _cancel(lab, house, call, f"cancelled by {way}", way)
            _over(lab, call, f"cancelled by {way}")
            _one_fits(lab, house, f"after a run in flight was cancelled by {way}")
            if queues(lab):
                _while_queued(lab, house, way)
        if hook:
            for number in (1, 2):
                call = house.run(f"unwelcome {number}", gated=False)
                house.comes_back(call, "when the hook has raised", "the hook's error refuses the run")
                lab.check(call.error is not None, came_to(call), "it raises what the hook raised")
            _one_fits(lab, house, "after the hook has refused two runs")
            if house.it.colour == "async":
                call = house.run("cancelled in the hook", admitted=False)
                lab.until(lambda: asked("cancelled in the hook") in lab.live(), "the hook is asked")
                call.cancel()
                house.comes_back(call, "when it is cancelled in the hook")
                lab.open(asked("cancelled in the hook"))
                _one_fits(lab, house, "after a run was cancelled in the hook")
        house.fits("the last", "in the end")
        house.run("one more")
        lab.settle()
        lab.check(
            not house.begun("one more"),
            "after all these, two runs are in flight with max_concurrent_runs=1",
            "a slot is given back once",
        )


class _Unwelcome:
    """The hook: refuses sessions that are called so."""

    def __call__(self, session: str) -> None:
        if session.startswith("unwelcome"):
            raise BodyError(f"{session} may not run")


def _ways(house: House) -> list[str]:
    """How a run can be cancelled with this service."""
    ways = ["its caller"] if house.it.colour == "async" else []
    return [*ways, "cancel()"] if house.offers("cancel") else ways


def _cancel(lab: Lab, house: House, call: Call[object], name: str, way: str) -> None:
    if way == "its caller":
        call.cancel()
        return
    expressible(lab, house.comes_back(house.cancel(name), "at once", needs="ISO-14"))  # if not, it ends as others do


def _over(lab: Lab, call: Call[object], name: str) -> None:
    """Its gate is open; it has come to whatever end it may."""
    lab.open(name)
    lab.until(
        lambda: call.done and name not in lab.live(), f"{call.what}, cancelled and let go, is over", needs="ISO-14"
    )


def _while_queued(lab: Lab, house: House, way: str) -> None:
    (busy,) = house.fill(f"busy before {way}")
    name = f"queued, cancelled by {way}"
    call = house.run(name)
    try:
        house.waits(1, needs="ISO-03")
    except Inconclusive:
        lab.check(
            not house.begun(name),
            f"with max_concurrent_runs=1, {name!r} is in flight beside {busy.what}",
            "a slot is given back once",
        )
        raise
    _cancel(lab, house, call, name, way)
    lab.open(name)  # if it is started all the same
    lab.open(f"busy before {way}")
    house.comes_back(busy, "once its gate is open", needs="ISO-02")
    lab.until(
        lambda: call.done,
        f"{call.what}, cancelled by {way} while it waited, comes back",
        expected="it is told, or it runs",
        hung=True,
    )
    _one_fits(lab, house, f"after a run that waited was cancelled by {way}")


def _one_fits(lab: Lab, house: House, when: str) -> None:
    name = f"new run {len(lab.started())}"
    call = house.fits(name, when)
    lab.open(name)
    house.comes_back(call, "once its gate is open")
