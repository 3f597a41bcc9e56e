"""RTY-03, 04, 06, 07, 08, 09, 18, 24: limits. When the clock starts, who waits for whom, what becomes of a late attempt."""

from __future__ import annotations

import gc
import math
import re
from functools import partial
from typing import TYPE_CHECKING

import anyio

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.calls import is_cancellation
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.protocols.retry import RetryPolicy
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.retry._shared import (
    Fails,
    NotStarted,
    TooSlow,
    all_done,
    attempts_of,
    begin,
    ended,
    in_hand,
    over,
    raised_last,
    ran_as_coroutine,
    runs,
    synchronous_only,
    timed_out,
    with_limits,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.probe import Probe


@rule("RTY-03", "timeout")
def a_stuck_call_times_out(lab: Lab) -> None:
    """A call times out with TimeoutError (or a subclass) while its function is still gated.

    Intent: A limit is worth something only if it also holds for a function that never comes back.

    Usual cause: The limit is looked at after the attempt; or `with ThreadPoolExecutor()` around it, whose exit waits for the stuck thread.

    Proof: The gate stays shut until the call has come back; that it never will is proven from the kernel.

    Source: Python library reference, `Executor.shutdown`: the `with` statement waits; dynamiq pull request 674.
    """
    with lab.instance(max_workers=2) as it:
        call = begin(it, lab.attempts("fetch"), RetryPolicy(timeout=0.05))
        lab.until(lambda: call.done, "the call comes back while its function is gated", hung=True)
        lab.check(timed_out(lab, call), f"the call {ended(call)}", "TimeoutError")
        lab.check("fetch #1" not in lab.ended(), "the function had ended though its gate was shut", "it is given up")


@rule("RTY-04", "timeout")
def the_retry_starts_beside_the_stuck_attempt(lab: Lab) -> None:
    """The next attempt starts while the timed-out one is still stuck.

    Intent: The retry is there for exactly this case: a connection that hangs, while a new one would answer.

    Usual cause: One worker for the attempts of a call: the retry queues behind the attempt that it is to replace.

    Proof: Attempt 1 stays at its gate; that attempt 2 never starts is proven from the kernel, or the call came back without it.

    Source: dynamiq pull request 674, where one worker ran both.
    """

    def scenario(limit: float) -> None:
        with lab.instance(max_workers=2) as it:
            call = begin(it, lab.attempts("fetch"), RetryPolicy(attempts=2, timeout=limit))
            lab.until(lambda: runs(lab, "fetch", 1) or call.done, "attempt 1 starts", needs="RTY-01")
            if not runs(lab, "fetch", 1):
                raise TooSlow("attempt 1 was timed out before it started")
            synchronous_only(lab, "fetch")
            lab.until(
                lambda: runs(lab, "fetch", 2) or call.done,
                "attempt 2 starts while attempt 1 is stuck",
                hung=True,
            )
            if not runs(lab, "fetch", 2):
                facts = f"the call {ended(call)} without its attempt 2, while attempt 1 was stuck"
                raise NotStarted(facts, "attempt 2 starts")
            if "fetch #1" not in lab.live() and lab.declared("abandoned") == "runs":
                raise Inconclusive("attempt 1 was no longer stuck when attempt 2 started", because_of="RTY-24")

    with_limits(lab, scenario)


@rule("RTY-06", "timeout")
def late_results_are_dropped(lab: Lab) -> None:
    """A late result of a timed-out attempt never replaces the result of a later one; a late exception surfaces nowhere as unhandled. (In synchronous calls; a coroutine that swallows its cancellation may win, but never beside a later attempt.)

    Intent: The caller was told that attempt 1 is lost; its answer, older than that of attempt 3, must not turn up instead.

    Usual cause: All attempts write to the same variable or queue; the thread of an abandoned one has no `except`.

    Proof: Attempt 1 is let go while attempt 2 is at its gate and ends; attempt 2 is then left to its limit, and attempt 3 returns the value that the call must give.

    Source: dynamiq pull request 674; Python library reference, `threading.excepthook`.
    """

    def scenario(limit: float) -> None:
        with lab.instance(max_workers=8) as it:
            begin(it, lab.attempts("scout", gated=False), RetryPolicy()).join()
            if ran_as_coroutine(lab, "scout"):
                _swallowed(lab, it)
                return
            late = ("returns late", None, "returns late #3"), ("raises late", Fails(1, LateError), "result 3")
            calls: list[Call[object]] = []
            for name, does, _ in late:
                lab.open(f"{name} #3")
                calls.append(begin(it, lab.attempts(name, does), RetryPolicy(attempts=3, timeout=limit)))
            for (name, _, _), call in zip(late, calls, strict=True):
                _ends_late(lab, name, call)
            for (name, _, expected), call in zip(late, calls, strict=True):
                lab.until(lambda call=call: call.done, "the call comes back by its attempt 3", needs="RTY-04")  # type: ignore[misc]
                if runs(lab, name, 3) and timed_out(lab, call):
                    raise TooSlow("attempt 3 was timed out, which nothing held up")
                lab.check(
                    call.returned and call.value == expected,
                    f"attempt 1 ended after it had been given up and attempt 2 had started; the call {ended(call)}",
                    f"{expected!r}, the result of attempt 3",
                )
            lab.settle()
        gc.collect()
        surfaced = [
            line for line in lab.uncaught if LateError.__name__ in line
        ]  # what else is in there is not this rule's
        lab.check(
            not surfaced,
            f"the exception of an abandoned attempt surfaced as unhandled: {'; '.join(surfaced[:3])}",
            "it is dropped",
        )

    with_limits(lab, scenario)


def _ends_late(lab: Lab, name: str, call: Call[object]) -> None:
    """Let attempt 1 go while attempt 2 is stuck: from then on attempt 2 has its limit, and the late result all that time."""
    in_hand(lab, call, f"{name} #1")
    lab.until(lambda: runs(lab, name, 2) or call.done, "attempt 2 starts", needs="RTY-04")
    if not runs(lab, name, 2):
        raise Inconclusive(f"attempt 2 never started: the call {ended(call)}", because_of="RTY-04")
    lab.open(f"{name} #1")
    lab.until(lambda: over(lab, f"{name} #1"), "the abandoned attempt ends once its gate is open", needs="RTY-24")


class LateError(Exception):
    """What an abandoned attempt raises."""


class Swallows:
    """A coroutine that is told to stop, and goes on to its end."""

    def __init__(self, work: Probe, goes_on: Probe) -> None:
        self.work, self.goes_on = work, goes_on

    async def __call__(self, number: int) -> str:
        try:
            await self.work.aio(number)
        except BaseException as error:
            if not is_cancellation(error):
                raise
            with anyio.CancelScope(shield=True):
                await self.goes_on.aio(number)
        return f"result {number}"


def _swallowed(lab: Lab, it: Instance) -> None:
    """A coroutine that swallows its cancellation: whatever it comes to, no other attempt may run beside it."""
    lab.open("work(2)")
    fetch = lab.attempts("fetch", Swallows(lab.probe("work"), lab.probe("goes on")), gated=False)
    call = begin(it, fetch, RetryPolicy(attempts=2, timeout=0.05))
    lab.until(
        lambda: "goes on(1)" in lab.live() or call.done or runs(lab, "fetch", 2), "it is cancelled", needs="RTY-15"
    )
    lab.settle()
    if "goes on(1)" not in lab.started():
        raise Inconclusive("the timed-out coroutine was never cancelled", because_of="RTY-15")
    lab.check(
        not runs(lab, "fetch", 2) and not call.done,
        f"attempt 1 had swallowed its cancellation and went on; attempts started: {', '.join(attempts_of(lab, 'fetch'))}; "
        f"the call {ended(call)}",
        "nothing else runs until attempt 1 is over",
    )
    lab.open_all()
    lab.until(lambda: call.done, "the call comes back", hung=True)


@rule("RTY-07", "timeout", "bounded")
def the_clock_starts_with_the_attempt(lab: Lab) -> None:
    """The clock of an attempt starts when the attempt starts: a call queued behind a gated one doesn't time out while a reference call with the same limit, started later, has.

    Intent: Under load calls queue; one that times out in the queue has failed without having been tried, just when retries are needed.

    Usual cause: `future.result(timeout)` right after `submit`: the time in the queue of a shared pool counts.

    Proof: The order of events, no clock: the reference call began later and has timed out twice, and the queued call has not come back.

    Source: dynamiq pull request 674; Python library reference, `Future.result`.
    """

    def scenario(limit: float) -> None:
        with lab.instance(max_workers=1) as it, lab.instance(max_workers=1) as beside:
            holder = begin(it, lab.attempts("holder"), RetryPolicy())
            in_hand(lab, holder, "holder #1")
            queued = begin(it, lab.attempts("queued", gated=False), RetryPolicy(timeout=limit))
            reference = begin(beside, lab.attempts("reference"), RetryPolicy(attempts=2, timeout=limit))
            lab.note("the reference call is made")
            try:
                lab.until(lambda: reference.done or queued.done, "the reference call times out", needs="RTY-09")
            except Inconclusive:
                if attempts_of(lab, "reference"):
                    raise
                raise NotTestable("its instances share their workers: no reference call can run beside") from None
            if runs(lab, "queued", 1) and "holder #1" in lab.live():
                raise Inconclusive("with max_workers=1 two attempts ran at once", because_of="RTY-20")
            _not_before_it_starts(lab, queued)
            if not timed_out(lab, reference):
                raise Inconclusive(f"the reference call {ended(reference)}", because_of="RTY-03")
            lab.open("holder #1")
            lab.until(lambda: queued.done, "the queued call comes back once the gate before it is open", hung=True)
            _not_before_it_starts(lab, queued)
            if timed_out(lab, queued):
                raise TooSlow("the queued attempt was timed out once it ran, which nothing held up")
            lab.check(queued.returned, f"the queued call {ended(queued)}", "its result")
            holder.join()

    with_limits(lab, scenario)


def _not_before_it_starts(lab: Lab, queued: Call[object]) -> None:
    lab.check(
        runs(lab, "queued", 1) or not queued.done,
        f"the queued call {ended(queued)} although its attempt never started: its clock ran while it queued",
        "its clock starts when its attempt does",
    )


@rule("RTY-08", "timeout", property=True)
def calls_do_not_delay_each_other(lab: Lab) -> None:
    """One call's stuck attempts don't delay another call's attempts.

    Intent: One hanging server must not stop the calls to all others.

    Usual cause: Abandoned attempts stay in the shared pool's workers, or one timeout thread serves all calls.

    Proof: Drawn numbers of calls time out with all their attempts stuck; the others must then come back with every one of those gates still shut.

    Source: dynamiq pull request 674; Nygard, *Release It!*, bulkheads.
    """

    def scenario(drawn: tuple[int, list[int]]) -> None:
        workers, stuck = drawn

        def with_limit(limit: float) -> None:
            with lab.instance(max_workers=workers) as it:
                calls = [
                    begin(it, lab.attempts(f"stuck {i}"), RetryPolicy(attempts=n, timeout=limit))
                    for i, n in enumerate(stuck)
                ]
                lab.until(lambda: all_done(calls), "the stuck calls come back", needs="RTY-03")
                if any(not timed_out(lab, call) for call in calls):
                    raise Inconclusive("a stuck call came back, and not with TimeoutError", because_of="RTY-03")
                names = [f"other {i}" for i in range(workers)]
                # with a limit too: engines may have another way for calls that have none
                policies = [RetryPolicy(), RetryPolicy(timeout=limit)]
                others = [begin(it, lab.attempts(name, gated=False), policies[i % 2]) for i, name in enumerate(names)]
                lab.until(
                    lambda: all_done(others), "the other calls come back while all stuck attempts are gated", hung=True
                )
                for name, other in zip(names, others, strict=True):
                    if runs(lab, name, 1) and timed_out(lab, other):
                        raise TooSlow(f"{name} was timed out, which nothing held up")
                    facts = f"all attempts of {', '.join(c.what for c in calls)} had timed out and were stuck; {other.what} then {ended(other)}"
                    if timed_out(lab, other):
                        raise NotStarted(facts, "its result")
                    lab.check(other.returned, facts, "its result")

        with_limits(lab, with_limit)

    strategy = st.integers(1, 3).flatmap(
        lambda workers: st.tuples(st.just(workers), st.lists(st.integers(1, 2), min_size=1, max_size=workers))
    )
    forall(lab, scenario, strategy, examples=4, describe=_stuck_calls, shrink=False)


def _stuck_calls(drawn: tuple[int, list[int]]) -> str:
    workers, stuck = drawn
    lines = [f"max_workers={workers}"]
    lines += [
        f"call {i}: {n} attempt{'s' if n > 1 else ''}, each stuck until it times out" for i, n in enumerate(stuck)
    ]
    return "\n".join([*lines, f"then {workers} call{'s' if workers > 1 else ''} whose body returns at once"])


@rule("RTY-09", "timeout", "bounded")
def timed_out_attempts_do_not_use_up_the_pool(lab: Lab) -> None:
    """After k = 2 * the worker bound timed-out calls, call k+1 still starts.

    Intent: A service whose peer hangs now and then must not lose a worker each time, until it stands still.

    Usual cause: The stuck thread keeps its place in the pool, and nobody takes it out of the count.

    Proof: All k attempts stay at their gates; that call k+1 never starts is proven from the kernel.

    Source: dynamiq pull request 674; CPython `ThreadPoolExecutor`, which can't replace a worker.
    """
    workers = 2

    def scenario(limit: float) -> None:
        with lab.instance(max_workers=workers) as it:
            count = 0
            for _ in range(2):
                names = [f"fetch {count + i}" for i in range(workers)]
                calls = [begin(it, lab.attempts(name), RetryPolicy(timeout=limit)) for name in names]
                pairs = list(zip(names, calls, strict=True))
                _all_start(lab, pairs, count)
                lab.until(partial(all_done, calls), f"calls {count + 1} and {count + 2} time out", needs="RTY-03")
                for name, call in pairs:
                    if not runs(lab, name, 1):
                        facts = f"after {count} calls had timed out, {name} {ended(call)} without having been started"
                        raise NotStarted(facts, "it starts")
                    if not timed_out(lab, call):
                        raise Inconclusive(f"{name}, which is gated, {ended(call)}", because_of="RTY-03")
                count += workers
            last = begin(it, lab.attempts("next", gated=False), RetryPolicy(timeout=limit))
            lab.until(lambda: last.done, f"a call starts after {count} calls have timed out", hung=True)
            if not runs(lab, "next", 1):
                facts = f"after {count} calls had timed out, the next {ended(last)} without having been started"
                raise NotStarted(facts, "it starts")
            if timed_out(lab, last):
                raise TooSlow("the last call was timed out, which nothing held up")
            lab.check(last.returned, f"the last call {ended(last)}", "its result")

    with_limits(lab, scenario)


def _all_start(lab: Lab, calls: list[tuple[str, Call[object]]], before: int) -> None:
    lab.until(
        lambda: all(runs(lab, name, 1) or call.done for name, call in calls),
        f"calls {before + 1} to {before + len(calls)} start after {before} calls have timed out",
        hung=bool(before),
        needs=None if before else "RTY-20",
    )


@rule("RTY-18", "timeout", should=True)
def the_timeout_says_what_timed_out(lab: Lab) -> None:
    """The timeout error says which call, which attempt and which limit.

    Intent: `TimeoutError` alone in a log of a thousand calls helps nobody.

    Usual cause: The bare `TimeoutError()` of `future.result` or `asyncio.wait_for` is passed on.

    Proof: Attempt 2 of a call with a known name is stuck; the text of the error is searched for name, number and limit.

    Source: PEP 20: errors should be explicit; anyio and asyncio raise it without a word.
    """
    limit = 0.05
    with lab.instance(max_workers=2) as it:
        lab.open("fetch_invoice #1")
        body = lab.attempts("fetch_invoice", Fails(1))
        call = begin(it, body, RetryPolicy(attempts=2, timeout=limit))
        lab.until(lambda: call.done, "the call times out", needs="RTY-03")
        if len(attempts_of(lab, "fetch_invoice")) != 2:
            raise Inconclusive(f"with attempts=2 the call {ended(call)} not after 2", because_of="RTY-02")
        if not timed_out(lab, call):
            raise Inconclusive(f"the call {ended(call)}", because_of="RTY-03")
        errors = {id(e): e for e in (call.error, raised_last(lab, call.error)) if e is not None}
        text = " ".join(" ".join([str(e), *getattr(e, "__notes__", ())]) for e in errors.values())
        numbers = [float(n) for n in re.findall(r"\d+\.?\d*(?:e-?\d+)?", text)]
        limits = any(math.isclose(n, limit) or math.isclose(n, limit * 1e3) for n in numbers)
        missing = [
            what
            for what, said in (
                # on a loop the subject is given `body.aio`, whose own name is another
                ("the call's name 'fetch_invoice'", "fetch_invoice" in text or body.aio.__qualname__ in text),
                ("the attempt's number 2", 2.0 in numbers),
                (f"the limit {limit:g} s", limits),
            )
            if not said
        ]
        lab.check(not missing, f"the text {text!r} does not tell {', '.join(missing)}", "all three")


@rule("RTY-24", "timeout")
def abandoned_attempts_are_not_killed(lab: Lab) -> None:
    """An abandoned synchronous attempt isn't killed: it runs to its end and its cleanup completes. (Or it is killed, as declared.)

    Intent: A thread that is killed half-way leaves locks held, files half-written and transactions open.

    Usual cause: `PyThreadState_SetAsyncExc` into the stuck thread.

    Proof: Its gate is opened after the call has come back; its own report of how it ended is in the history.

    Source: Java, *Why is Thread.stop deprecated*; CPython documentation of PyThreadState_SetAsyncExc.
    """
    declared = lab.declared("abandoned")
    with lab.instance(max_workers=2) as it:
        call = begin(it, lab.attempts("fetch", _cleans_up), RetryPolicy(timeout=0.05))
        lab.until(lambda: call.done, "the call times out", needs="RTY-03")
        if not timed_out(lab, call):
            raise Inconclusive(f"the call, whose body is gated, {ended(call)}", because_of="RTY-03")
        synchronous_only(lab, "fetch")
        if not runs(lab, "fetch", 1):
            raise Inconclusive(f"the call {ended(call)} before its attempt started", because_of="RTY-07")
        if declared == "killed":
            lab.until(lambda: "fetch #1" not in lab.live(), "the abandoned attempt is killed, as declared")
            return
        lab.open("fetch #1")
        lab.until(lambda: over(lab, "fetch #1"), "the abandoned attempt comes to its end once its gate is open")
        lab.check(
            "fetch #1" in lab.ended(),
            "the abandoned attempt was killed: it did not run to its end",
            "it runs to its end and its cleanup completes (declared: abandoned = runs)",
        )


def _cleans_up(_number: int) -> str:
    done: list[str] = []
    try:
        done.append("work")
    finally:
        done.append("cleanup")
    return " and ".join(done)
