"""What several rules of this suite share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.calls import is_cancellation
from pytest_flowcheck.protocols import Foreign
from pytest_flowcheck.protocols.retry import RetryPolicy

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.probe import Probe

LIMITS: Final = (0.05, 0.2, 0.8, 3.2)
"""Seconds that an attempt is given. Where a machine was too busy to run an ungated attempt in so little, the next."""

VARIABLE: ContextVar[str] = ContextVar("flowcheck_retry_variable", default="unset")


class TooSlow(Exception):  # noqa: N818 - about the machine, not about the program
    """An attempt that nothing held up was timed out: said of this machine in this moment, never of the subject."""


class NotStarted(TooSlow):
    """An attempt was timed out before it had started. A finding, if it is so under larger limits too."""

    def __init__(self, facts: str, expected: str) -> None:
        super().__init__(facts)
        self.facts, self.expected = facts, expected


INSISTS: Final = LIMITS[2]
"""Seconds: under this limit, and all smaller ones, an attempt must have failed to start before that is a finding."""


def with_limits(lab: Lab, scenario: Callable[[float], None]) -> None:
    """Run a scenario with a small limit, and again with a larger one where an ungated attempt took longer than that.

    An attempt that was timed out before it had started (`NotStarted`) may have been blocked, or slow to start: one in a
    process of its own needs longer than 0.05 s. It was blocked if it is so under sixteen times that, while calls that
    nothing is in the way of do start.

    Raises:
        Violated: attempts are blocked.
        Inconclusive: even the largest limit was too small.
    """
    slow: TooSlow | None = None
    for limit in LIMITS:
        if slow is not None:
            lab.fresh()
        try:
            scenario(limit)
        except NotStarted as again:
            slow = again
            if limit >= INSISTS and _start_unhindered(lab, limit):
                lab.check(False, again.facts, again.expected)
        except TooSlow as again:
            slow = again
        else:
            return
    raise Inconclusive(f"{slow}, with a limit of {LIMITS[-1]:g} s too", because_of="RTY-05")


def _start_unhindered(lab: Lab, limit: float) -> bool:
    """Whether two calls at once start under this limit on a fresh instance."""
    names = ["control 1", "control 2"]
    with lab.instance(max_workers=2) as it:
        calls = [begin(it, lab.attempts(name, gated=False), RetryPolicy(timeout=limit)) for name in names]
        lab.until(lambda: all_done(calls), "the calls with nothing in their way come back", needs="RTY-01")
    return all(runs(lab, name, 1) for name in names)


# --- bodies: module-level, so that every process can import them ---------------------------------------------------------


class AttemptError(Exception):
    """What a failing attempt raises."""


class Fails:
    """A body whose first `times` attempts raise `kind('attempt n')`; the next returns 'result n'."""

    def __init__(self, times: int, kind: type[BaseException] = AttemptError) -> None:
        self.times, self.kind = times, kind

    def __call__(self, number: int) -> str:
        if number <= self.times:
            raise self.kind(f"attempt {number}")
        return f"result {number}"


class Thing:
    """An object that weak references can follow."""


# --- calls ---------------------------------------------------------------------------------------------------------------


def begin(it: Instance, body: Probe, policy: RetryPolicy) -> Call[Any]:
    """Start one call under a policy."""
    return it.start(f"call({body.name})", lambda retry: retry.call(body, policy))


def runs(lab: Lab, probe: str, number: int) -> bool:
    """Whether this attempt has started."""
    return f"{probe} #{number}" in lab.started()


def attempts_of(lab: Lab, probe: str) -> list[str]:
    """The attempts of this body that have started, in order."""
    return [name for name in lab.started() if name.rpartition(" #")[0] == probe]


def times(count: int) -> str:
    """How often, in words."""
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def over(lab: Lab, name: str) -> bool:
    """Whether this attempt has returned or raised (or its process died)."""
    return name in lab.timeline.names("ended", "raised", "lost")


def in_hand(lab: Lab, call: Call[Any], name: str) -> None:
    """Wait until the attempt has started: the way to what a rule asks."""
    lab.until(lambda: name in lab.started() or call.done, f"{name} starts", needs="RTY-01")
    if name not in lab.started():
        raise Inconclusive(f"{call.what} {ended(call)} before {name} started", because_of="RTY-01")


def ended(call: Call[Any]) -> str:
    """How it came out, as a clause."""
    if not call.done:
        return "has not come back"
    if call.returned:
        return f"returned {call.value!r}"
    return "was cancelled" if is_cancellation(call.error) else f"raised {call.error!r}"


def ran_as_coroutine(lab: Lab, probe: str) -> bool:
    """Whether this body's attempts were awaited on a loop, and can therefore be cancelled."""
    return any(e.coroutine for e in lab.timeline.of("started") if e.probe.rpartition(" #")[0] == probe)


def synchronous_only(lab: Lab, probe: str) -> None:
    """The rest of the rule is about attempts that can't be stopped."""
    if ran_as_coroutine(lab, probe):
        raise NotTestable("its attempts run as coroutines, which are cancelled rather than abandoned: see RTY-15")


def coroutines_only(lab: Lab, it: Instance) -> None:
    """The rest of the rule is about attempts that are awaited on the loop."""
    begin(it, lab.attempts("scout", gated=False), RetryPolicy()).join()
    if not ran_as_coroutine(lab, "scout"):
        raise NotTestable("its attempts run on threads, and nobody can cancel those: see RTY-24")


# --- errors --------------------------------------------------------------------------------------------------------------


def is_the(lab: Lab, error: BaseException | None, expected: BaseException) -> bool:
    """Whether it is that very error: the object, or one of its type and text (processes and logs keep no more)."""
    if error is None or error is expected:
        return error is not None
    text = error.message if isinstance(error, Foreign) else str(error)
    return lab.is_a(error, type(expected)) and str(expected) in text


def raised_last(lab: Lab, error: BaseException | None) -> BaseException | None:
    """The error of the last attempt, as the subject declares to raise it: itself, or the cause of its own."""
    if lab.declared("raises") == "wrapper" and error is not None and error.__cause__ is not None:
        return error.__cause__
    return error


def timed_out(lab: Lab, call: Call[Any]) -> bool:
    """Whether the call came back with a TimeoutError of its limit."""
    return call.done and lab.is_a(raised_last(lab, call.error), TimeoutError)


def all_done(calls: Iterable[Call[Any]]) -> bool:
    """Whether all of them have come back."""
    return all(call.done for call in calls)
