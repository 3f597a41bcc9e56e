"""RTY-10, 17, 19: what an abandoned attempt leaves behind."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.child import child
from pytest_flowcheck.probes.instance import colour_of
from pytest_flowcheck.proof import Census, census
from pytest_flowcheck.protocols.retry import RetryPolicy
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.retry._shared import (
    Thing,
    TooSlow,
    begin,
    ended,
    in_hand,
    over,
    runs,
    synchronous_only,
    timed_out,
    with_limits,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.subjects import Subject


@rule("RTY-10", "timeout")
def abandoned_attempts_leave_nothing(lab: Lab) -> None:
    """Once released, abandoned attempts leave no thread, task or reference behind; growth per call is zero.

    Intent: A service whose peer hangs now and then must live as long as one whose peer never does.

    Usual cause: A pool per attempt that nobody shuts down; a list of abandoned futures that nobody empties.

    Proof: Rounds of one timed-out call each, released and settled: threads, children and tasks are counted by the kernel and the loops after every round (those kept for reuse are no growth), and weak references to body and late result are read after a collection.

    Source: dynamiq pull request 674; CPython `ThreadPoolExecutor` at exit.
    """
    rounds = 3

    with lab.instance(max_workers=2) as it:
        _one_round(lab, it)  # the first may start what is kept for all
        before = census()
        watched: list[tuple[str, Callable[[], object]]] = []
        for _ in range(rounds):
            watched += _one_round(lab, it)
        after = census()
        for what, more in _grown(before, after).items():
            lab.check(
                more < rounds,
                f"{rounds} calls timed out and their abandoned attempts have ended; there are {more} more {what}: "
                f"{'; '.join(after.growth_since(before)[:6])}",
                "none: what an attempt used is gone or used again once the attempt has ended",
                absence=True,
                leaked=True,
            )
        held = [what for what, reference in watched if reference() is not None]
        lab.check(
            len(held) < rounds,
            f"{rounds} calls timed out, their abandoned attempts have ended and nobody holds them any more; still referenced: "
            f"{', '.join(held)}",
            "nothing of them",
            absence=True,
            leaked=True,
        )


def _one_round(lab: Lab, it: Instance) -> list[tuple[str, Callable[[], object]]]:
    """A call that times out, and whose attempt is then let go to its end."""
    lab.fresh()
    result = Thing()
    body = lab.attempts("fetch", _Gives(result))
    call = begin(it, body, RetryPolicy(timeout=0.05))
    lab.until(lambda call=call: call.done, "the gated call times out", needs="RTY-03")  # type: ignore[misc]
    if not timed_out(lab, call):
        raise Inconclusive(f"the gated call {ended(call)}", because_of="RTY-03")
    lab.open_all()
    if not runs(lab, "fetch", 1):
        raise Inconclusive(f"the call {ended(call)} before its attempt started", because_of="RTY-07")
    lab.until(lambda: over(lab, "fetch #1"), "the abandoned attempt ends once its gate is open", needs="RTY-24")
    watched: list[tuple[str, Callable[[], object]]] = [
        ("a body", weakref.ref(body)),
        ("a late result", weakref.ref(result)),
    ]
    del body, call, result
    later = begin(it, lab.attempts("later", gated=False), RetryPolicy())  # who keeps the last call only, keeps this one
    lab.until(lambda: later.done, "a later call comes back", needs="RTY-09")
    lab.settle()
    return watched


class _Gives:
    """Returns what it was made with, once."""

    def __init__(self, thing: Thing) -> None:
        self.thing: Thing | None = thing

    def __call__(self, _number: int) -> Thing | None:
        thing, self.thing = self.thing, None
        return thing


def _grown(before: Census, after: Census) -> dict[str, int]:
    return {
        "threads": len(after.threads) - len(before.threads),
        "child processes": len(after.children) - len(before.children),
        "descriptors": len(after.descriptors) - len(before.descriptors),
        "event loops": after.loops - before.loops,
        "tasks": after.tasks - before.tasks,
    }


@rule("RTY-17", "timeout", should=True)
def a_process_exits_beside_a_stuck_attempt(lab: Lab) -> None:
    """A process whose abandoned attempt never returns can still exit.

    Intent: A script that has given up on a server must not hang in the terminal because of it.

    Usual cause: Worker threads that the interpreter joins at exit, as those of `ThreadPoolExecutor`; a `close` that waits for all.

    Proof: In a fresh interpreter an attempt is stuck for ever; the call times out, the wrapper is left and the program ends; that the process never does is proven from the kernel.

    Source: CPython `concurrent.futures.thread._python_exit`.
    """
    with lab.instance(max_workers=2) as it:
        begin(it, lab.attempts("scout", gated=False), RetryPolicy()).join()
        synchronous_only(lab, "scout")
    lab.fresh()  # gates are shut again

    def scenario(limit: float) -> None:
        stuck, told = lab.attempts("stuck"), lab.probe("the call timed out", gated=False)
        with child(lab, give_up_and_leave, stuck, told, limit, lab.subject.backend) as process:
            lab.until(
                lambda: process.exited or told.name in lab.ended(), "the call times out in the child", needs="RTY-03"
            )
            if told.name not in lab.ended():
                raise Inconclusive(
                    f"the scenario ended early with status {process.status}: {process.output()[-600:]}",
                    because_of="RTY-03",
                )
            lab.until(
                lambda: process.exited,
                "the process exits while its abandoned attempt is stuck",
                hung=True,
            )
            if not runs(lab, "stuck", 1):
                raise TooSlow("the attempt had not started when it was given up")

    with_limits(lab, scenario)


def give_up_and_leave(subject: Subject, stuck: Any, told: Any, limit: float, backend: str) -> None:
    """Scenario: a call times out, the wrapper is left, the program ends."""
    opened = subject.open("retry", max_workers=2)
    policy = RetryPolicy(timeout=limit)

    def judge(error: BaseException) -> None:
        wrapped = (error, error.__cause__)
        if not any(e is not None and subject_is_timeout(subject, e) for e in wrapped):
            raise error
        told()

    if colour_of(opened, subject.spec) == "blocking":
        with opened as retry:
            try:
                retry.call(stuck, policy)
            except BaseException as error:  # noqa: BLE001 - judged at once
                judge(error)
        return

    async def main() -> None:
        async with opened as retry:
            try:
                await retry.call(stuck, policy)
            except BaseException as error:  # noqa: BLE001 - judged at once
                judge(error)

    if backend == "trio":
        import trio

        trio.run(main)
    else:
        asyncio.run(main())


def subject_is_timeout(subject: Subject, error: BaseException) -> bool:
    """Whether it is a TimeoutError by the subject's table."""
    from pytest_flowcheck.protocols import is_a

    return is_a(error, TimeoutError, subject.errors)


@rule("RTY-19", "timeout", "fence")
def abandoned_attempts_are_fenced_off(lab: Lab) -> None:
    """After the call returned, whatever an abandoned attempt does through the subject's own interface (save, log, emit, result) is refused or ignored.

    Intent: The caller has gone on with what he was told; an attempt from the past must not change it behind his back.

    Usual cause: A late result is put where the next call, of the same function, finds it.

    Proof: The abandoned attempt is let go after the call has returned and ends with a value of its own; no later call, of this body or another, may give that value.

    Source: Kleppmann, *How to do distributed locking*: fencing tokens.
    """

    def scenario(limit: float) -> None:
        with lab.instance(max_workers=4) as it:
            body = lab.attempts("fetch")
            lab.open("fetch #2", "fetch #3")
            call = begin(it, body, RetryPolicy(attempts=2, timeout=limit))
            in_hand(lab, call, "fetch #1")
            lab.until(lambda: call.done, "the call comes back by its attempt 2", needs="RTY-04")
            synchronous_only(lab, "fetch")
            if not runs(lab, "fetch", 2):
                raise Inconclusive(f"attempt 2 never started: the call {ended(call)}", because_of="RTY-04")
            if timed_out(lab, call):
                raise TooSlow("attempt 2 was timed out, which nothing held up")
            first = call.result()
            lab.open("fetch #1")
            lab.until(lambda: over(lab, "fetch #1"), "the abandoned attempt ends once its gate is open", needs="RTY-24")
            lab.settle()
            again = begin(it, body, RetryPolicy(timeout=limit)).join()
            other = begin(it, lab.attempts("other", gated=False), RetryPolicy(timeout=limit)).join()
            if timed_out(lab, again) or timed_out(lab, other):
                raise TooSlow("a later call was timed out, which nothing held up")
            lab.check(first == "fetch #2", f"the call gave {first!r}", "'fetch #2'")
            for name, expected, later in (("the same body", "fetch #3", again), ("another body", "other #1", other)):
                lab.check(
                    later.returned and later.value == expected,
                    f"abandoned attempt 1 had returned 'fetch #1' late; the next call of {name} {ended(later)}",
                    f"{expected!r}, its own result",
                )

    with_limits(lab, scenario)
