"""FLO-17: timeouts and retries inside a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.protocols import Failed
from pytest_flowcheck.protocols.retry import RetryPolicy
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._shared import (
    NodeError,
    NotGiven,
    begin,
    call_of,
    completed,
    ended,
    errors_of,
    given,
    node,
    over,
    own_error,
    ran_as_coroutine,
    run_of,
    running,
    starts,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab

LIMITS: Final = (0.05, 0.2, 0.8, 3.2)
"""Seconds that an attempt is given. Where a machine was too busy to run an ungated attempt in so little, the next."""


class TooSlow(Exception):  # noqa: N818 - about the machine, not about the program
    """An attempt that nothing held up was timed out: said of this machine in this moment, never of the subject."""


class Numbered:
    """A node that returns `result 2` from its second attempt."""

    def __call__(self, number: int, *, input: Any, upstream: Mapping[str, Any]) -> str:  # noqa: A002, ARG002 - the protocol's
        return f"result {number}"


class Wants:
    """A node that must be given this by `fetch`."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __call__(self, number: int, *, input: Any, upstream: Mapping[str, Any]) -> str:  # noqa: A002, ARG002 - the protocol's
        if upstream["fetch"] != self.value:
            raise NotGiven(f"given {upstream['fetch']!r} by fetch, whose last attempt gives {self.value!r}")
        return "parsed"


@rule("FLO-17", "attempts")
def policies_are_obeyed_inside_a_graph(lab: Lab) -> None:
    """A node's timeout and retries obey RTY-04, 06, 07 inside a graph too.

    Intent: The retry that was so well tested alone sits in a graph now, where workers are shared and others wait for the result.

    Usual cause: The clock starts when the node is queued; the next attempt waits for the worker that the stuck one occupies; the late result of attempt 1 completes the node beside attempt 2, and its dependents run twice, or with the wrong value.

    Proof: Attempts are numbered and held by gates. Retries: as many as the policy says, the dependents behind the last one. RTY-04: attempt 1 stays at its gate, that attempt 2 never starts is proven from the kernel. RTY-06: attempt 1 returns after it was given up; attempt 3's value must be the node's, and its dependent run once. RTY-07: a node queued behind a gated one must not time out while another engine's node, begun later, has.

    Source: dynamiq pull request 674; RTY-04, 06, 07.
    """
    with lab.instance(max_workers=2) as it:
        _retries(lab, it)
    _with_limits(lab, _stuck)
    _with_limits(lab, _queued)


def _with_limits(lab: Lab, scenario: Callable[[Lab, float], None]) -> None:
    """Run it with a small limit, and again with a larger one where an ungated attempt took longer than that."""
    slow: TooSlow | None = None
    for limit in LIMITS:
        lab.fresh()
        try:
            return scenario(lab, limit)
        except TooSlow as again:
            slow = again
    raise Inconclusive(f"{slow}, with a limit of {LIMITS[-1]:g} s too")


def _retries(lab: Lab, it: Instance) -> None:
    error = NodeError("fetch failed")
    policy = RetryPolicy(attempts=3)
    nodes = [
        given(lab, "fetch", raises=error, times=2, policy=policy, gated=False),
        given(lab, "parse", "fetch", gated=False),
    ]
    call = begin(it, nodes, what="run of a node that fails twice, with attempts=3")
    run = run_of(lab, call)
    _tried(lab, call, "fetch", 3)
    lab.check(run.status == "completed", f"{call.what} {ended(call)}", "completed by attempt 3")
    completed(lab, call, {"fetch": "fetch", "parse": "parse"})
    nodes = [
        given(lab, "fetch", raises=error, policy=policy, called="hopeless", gated=False),
        given(lab, "parse", "fetch", called="never", gated=False),
    ]
    call = begin(it, nodes, what="run of a node that fails always, with attempts=3")
    run = run_of(lab, call)
    _tried(lab, call, "hopeless", 3)
    if run.status != "failed" or starts(lab, "never") or not own_error(lab, run, error):
        raise Inconclusive(f"{call.what} {ended(call)}", because_of="FLO-03")


def _tried(lab: Lab, call: Call[Any], name: str, times: int) -> None:
    tried = len(starts(lab, name))
    lab.check(tried == times, f"{call.what}: {tried} attempts were made; it {ended(call)}", f"{times} attempts")


def _started(lab: Lab, name: str, number: int) -> bool:
    return call_of(name, number) in lab.started()


def _timed_out(lab: Lab, call: Call[Any], name: str = "fetch") -> bool:
    """Whether the run failed because this node, alone in taking long, was timed out."""
    if not call.done:
        return False
    run = run_of(lab, call)
    outcome = run.nodes.get(name)
    told = outcome is None or isinstance(outcome, Failed)
    return run.status == "failed" and told and any(lab.is_a(e, TimeoutError) for e in errors_of(run))


def _stuck(lab: Lab, limit: float) -> None:
    """RTY-04 and 06: attempt 1 is stuck, and returns late; attempt 2 is stuck; attempt 3 returns."""
    with lab.instance(max_workers=2) as it:
        lab.open("fetch #3")
        policy = RetryPolicy(attempts=3, timeout=limit)
        nodes = [
            node(lab, "fetch", does=Numbered(), policy=policy),
            node(lab, "parse", "fetch", does=Wants("result 3"), gated=False),
        ]
        call = begin(it, nodes, what=f"run of a node with attempts=3, timeout={limit:g}")
        lab.until(lambda: call.done or _started(lab, "fetch", 1), "attempt 1 starts", needs="FLO-01")
        lab.until(
            lambda: call.done or _started(lab, "fetch", 2),
            "attempt 2 starts while attempt 1 is stuck (RTY-04)",
            hung=True,
        )
        if not _started(lab, "fetch", 2):
            if not starts(lab, "fetch"):
                raise TooSlow("attempt 1 was timed out before it started")
            lab.check(
                False,
                f"{call.what} {ended(call)} without attempt 2, while attempt 1 was stuck",
                "attempt 2 starts (RTY-04)",
            )
        if not ran_as_coroutine(lab, "fetch"):
            lab.open("fetch #1")
            lab.until(lambda: over(lab, "fetch"), "the abandoned attempt ends once its gate is open", needs="RTY-24")
        lab.until(lambda: call.done, f"{call.what} comes back by its attempt 3", hung=True)
        if _started(lab, "fetch", 3) and _timed_out(lab, call):
            raise TooSlow("attempt 3 was timed out, which nothing held up")
        lab.open_all()
        facts = f"attempts 1 and 2 had timed out, attempt 1 returned late; {call.what} {ended(call)}"
        run = run_of(lab, call)
        lab.check(run.status == "completed", facts, "completed, with the value of attempt 3 (RTY-06)")
        completed(lab, call, {"fetch": "result 3", "parse": "parsed"})
        lab.settle()
        lab.check(starts(lab, "parse") == ["parse"], f"parse ran {len(starts(lab, 'parse'))} times", "once (RTY-06)")


def _queued(lab: Lab, limit: float) -> None:
    """RTY-07: the clock of a node that is queued doesn't run."""
    with lab.instance(max_workers=1) as it, lab.instance(max_workers=1) as beside:
        holder = begin(it, [node(lab, "holder")], what="the run whose node holds the worker")
        running(lab, holder, "holder")
        timed = RetryPolicy(timeout=limit)
        queued = begin(it, [node(lab, "queued", policy=timed, gated=False)], what="the run whose node is queued")
        reference = begin(
            beside,
            [node(lab, "reference", policy=RetryPolicy(attempts=2, timeout=limit))],
            what="the reference run, begun later",
        )
        try:
            lab.until(lambda: reference.done, f"{reference.what} times out", needs="FLO-17")
        except Inconclusive:
            if not starts(lab, "reference"):
                raise NotTestable("its instances share their workers: no reference run can go beside") from None
            raise
        if not _timed_out(lab, reference, "reference"):
            facts = f"{reference.what}, whose node is gated, {ended(reference)}"
            lab.check(False, facts, f"failed with TimeoutError after twice {limit:g} s")
        _not_before_it_starts(lab, queued)
        lab.open("holder #1")
        lab.until(lambda: queued.done, f"{queued.what} comes back once the gate before it is open", hung=True)
        _not_before_it_starts(lab, queued)
        if _timed_out(lab, queued, "queued"):
            raise TooSlow("the queued attempt was timed out once it ran, which nothing held up")
        completed(lab, queued)
        holder.join()


def _not_before_it_starts(lab: Lab, queued: Call[Any]) -> None:
    lab.check(
        bool(starts(lab, "queued")) or not queued.done,
        f"{queued.what} {ended(queued)} although its attempt never started: its clock ran while it queued",
        "its clock starts when its attempt does (RTY-07)",
    )
