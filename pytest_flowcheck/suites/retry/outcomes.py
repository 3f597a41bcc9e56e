"""RTY-01, 02, 12, 13, 14, 16, 21, 25: what a call gives, which errors, and how many attempts."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.calls import reachable
from pytest_flowcheck.protocols import Invalid
from pytest_flowcheck.protocols.retry import RetryPolicy
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.retry._shared import (
    VARIABLE,
    AttemptError,
    Fails,
    TooSlow,
    attempts_of,
    begin,
    ended,
    in_hand,
    is_the,
    over,
    raised_last,
    runs,
    timed_out,
    times,
    with_limits,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab


@rule("RTY-01")
def success_runs_once(lab: Lab) -> None:
    """A call that succeeds runs once and returns its value.

    Intent: A retry that is not needed must cost nothing and change nothing: None, 0 and an exception that is *returned* are results like any other.

    Usual cause: `if result:` where *did it raise* was meant; a loop without `break`.

    Proof: The attempts are counted by the probe itself, and the value is compared.

    Source: tenacity, *Waiting and stopping*: by default only an exception is a failure.
    """
    with lab.instance(max_workers=2) as it:
        for number, value in enumerate((None, 0, False, "", "text", AttemptError("returned, not raised"))):
            name = f"fetch {number}"
            call = begin(it, lab.attempts(name, partial(_give, value), gated=False), RetryPolicy(attempts=3))
            call.join()
            count = len(attempts_of(lab, name))
            lab.check(count == 1, f"a body that returns {value!r} at once was run {times(count)}", "once")
            lab.check(
                call.returned and (type(call.value) is type(value)) and repr(call.value) == repr(value),
                f"a body that returns {value!r}: the call {ended(call)}",
                f"the call returns {value!r}",
            )
        later = begin(it, lab.attempts("later", Fails(1), gated=False), RetryPolicy(attempts=3)).join()
        count = len(attempts_of(lab, "later"))
        lab.check(
            later.returned and later.value == "result 2" and count == 2,
            f"a body whose attempt 2 returns 'result 2' was run {times(count)}, and the call {ended(later)}",
            "attempt 2 is the last, and its value is the call's",
        )


def _give(value: Any, _number: int) -> Any:
    return value


@rule("RTY-02")
def failure_is_tried_as_often_as_asked(lab: Lab) -> None:
    """A failing call is tried exactly `attempts` times and raises the last error, itself or as cause of a declared wrapper.

    Intent: Whoever reads `attempts=3` must be able to say how often the server was asked, and why the last time failed.

    Usual cause: `attempts` counted as *re*-tries, or the first error kept instead of the last.

    Proof: Every attempt raises an error with its own number; attempts are counted by the probe itself.

    Source: tenacity `stop_after_attempt`, `reraise`.
    """
    with lab.instance(max_workers=2) as it:
        for attempts in (1, 2, 3):
            name = f"fetch of {attempts}"
            call = begin(it, lab.attempts(name, Fails(9), gated=False), RetryPolicy(attempts=attempts)).join()
            count = len(attempts_of(lab, name))
            lab.check(
                count == attempts,
                f"with attempts={attempts} a body that always fails was run {times(count)}",
                times(attempts),
            )
            expected = AttemptError(f"attempt {attempts}")
            lab.check(
                is_the(lab, raised_last(lab, call.error), expected),
                f"with attempts={attempts} the call {ended(call)}{_caused_by(call)}",
                f"{expected!r}, itself or as the cause of a declared wrapper (declared: {lab.declared('raises')})",
            )


def _caused_by(call: Call[Any]) -> str:
    cause = call.error.__cause__ if call.error is not None else None
    return f" from {cause!r}" if cause is not None else ""


@rule("RTY-12")
def exits_and_cancellations_are_not_retried(lab: Lab) -> None:
    """KeyboardInterrupt, SystemExit, `asyncio.CancelledError` and `trio.Cancelled` are never retried unless the policy names them.

    Intent: Ctrl-C, `sys.exit()` and a cancellation say *stop*; a retry that hears *again* can't be stopped at all.

    Usual cause: `except BaseException` (or a bare `except`) around the attempt; or an attempt's worker that dies of it and leaves its caller waiting.

    Proof: The error is raised by the first attempt, or a cancellation is sent to it; a second attempt that starts is in the history.

    Source: Python library reference, `asyncio.CancelledError`: "should be re-raised"; trio, *Cancellation*.
    """
    with lab.instance(max_workers=2) as it:
        kinds: tuple[type[BaseException], ...] = (KeyboardInterrupt, SystemExit)
        if lab.subject.backend != "trio" or it.colour == "blocking":
            kinds += (asyncio.CancelledError,)
        for kind in kinds:
            name = f"raises {kind.__name__}"
            call = begin(it, lab.attempts(name, Fails(1, kind), gated=False), RetryPolicy(attempts=3)).join()
            _never_again(lab, call, name, kind.__name__)
        if it.colour == "async":
            call = begin(it, lab.attempts("is cancelled"), RetryPolicy(attempts=3))
            in_hand(lab, call, "is cancelled #1")
            call.cancel()
            lab.note("the call is cancelled")
            lab.until(lambda: call.done or runs(lab, "is cancelled", 2), "the cancelled call comes back", hung=True)
            _never_again(lab, call, "is cancelled", "its cancellation")
        after = begin(it, lab.attempts("after", gated=False), RetryPolicy()).join()
        lab.check(after.returned, f"a call afterwards {ended(after)}", "the wrapper is as usable as before")


def _never_again(lab: Lab, call: Call[Any], name: str, what: str) -> None:
    count = len(attempts_of(lab, name))
    lab.check(count < 2, f"attempt 1 ended with {what}, and attempt 2 was started", "no further attempt")
    lab.check(not call.returned, f"attempt 1 ended with {what}, and the call {ended(call)}", "the call raises")


@rule("RTY-13", should=True)
def senseless_policies_are_refused(lab: Lab) -> None:
    """An attempts or timeout value that is NaN, negative or no number is refused before anything runs; 0 and None are refused or have a declared meaning.

    Intent: `attempts=0` from a configuration file that quietly means *never*, or *for ever*, is found in production.

    Usual cause: `range(attempts)` and `timeout or None`: the value is used, never looked at.

    Proof: The probe itself says whether it ran; what the call raised is in the history.

    Source: Python library reference, `ThreadPoolExecutor(max_workers=0)`: ValueError.
    """
    senseless: tuple[Any, ...] = (float("nan"), -1, "3")
    with lab.instance(max_workers=2) as it:
        begin(it, lab.attempts("fetch", gated=False), RetryPolicy(attempts=1)).join()
        for value in senseless:
            _refused(lab, it, "attempts", value, RetryPolicy(attempts=value))
            if lab.claims("timeout"):
                _refused(lab, it, "timeout", value, RetryPolicy(timeout=value))
        none: Any = None
        _meaning(lab, it, "attempts=0", RetryPolicy(attempts=0), lab.declared("zero_attempts"))
        _meaning(lab, it, "attempts=None", RetryPolicy(attempts=none), lab.declared("none_attempts"))
        if lab.claims("timeout"):
            _meaning(lab, it, "timeout=0", RetryPolicy(timeout=0), lab.declared("zero_timeout"))


def _refused(lab: Lab, it: Instance, field: str, value: Any, policy: RetryPolicy) -> None:
    name = f"with {field}={value!r}"
    call = begin(it, lab.attempts(name, gated=False), policy)
    call.join()
    count = len(attempts_of(lab, name))
    lab.check(not count, f"{name} the body was run {times(count)}, and the call {ended(call)}", "nothing runs")
    refused = any(lab.is_a(call.error, kind) for kind in (ValueError, TypeError, Invalid))
    lab.check(refused, f"{name} the call {ended(call)}", "ValueError or TypeError")


def _meaning(lab: Lab, it: Instance, what: str, policy: RetryPolicy, declared: str) -> None:
    """0 and None: refused, whatever is declared; else what is declared."""
    name = f"with {what}"
    fails = {"once": 1, "forever": 5}.get(declared, 0)
    call = begin(it, lab.attempts(name, Fails(fails), gated=declared == "at_once"), policy).join()
    count = len(attempts_of(lab, name))
    if not count and any(lab.is_a(call.error, kind) for kind in (ValueError, TypeError, Invalid)):
        return
    meanings: dict[str, tuple[bool, str]] = {
        "refused": (
            False,
            "it is refused with ValueError or TypeError before anything runs, or its meaning is declared",
        ),
        "once": (count == 1 and not call.returned, "one attempt"),
        "forever": (count == fails + 1 and call.returned, "attempts until one succeeds"),
        "none": (count == 1 and call.returned, "no limit"),
        "at_once": (timed_out(lab, call), "it times out at once"),
    }
    holds, expected = meanings[declared]
    lab.check(holds, f"{name} the body was run {times(count)}, and the call {ended(call)}", f"{expected} (declared)")


@rule("RTY-14", "context")
def attempts_see_the_callers_context(lab: Lab) -> None:
    """Each attempt sees the caller's context variables.

    Intent: A request id in the log lines of attempt 1 that is missing from attempt 2 is missing where it is needed.

    Usual cause: A worker thread that is started without `copy_context()`, often on one of two ways through the code only.

    Proof: Attempt n returns the variable as it sees it, for n = 1, 2, 3, and after an attempt that timed out.

    Source: PEP 567; `asyncio.to_thread` copies the context.
    """
    with lab.instance(max_workers=2) as it:
        for number in (1, 2, 3):
            VARIABLE.set(f"of caller {number}")
            name = f"fetch {number}"
            call = begin(it, lab.attempts(name, _Sees(number), gated=False), RetryPolicy(attempts=number)).join()
            _saw(lab, call, number, f"of caller {number}")
    if not lab.claims("timeout"):
        return

    def after_a_timeout(limit: float) -> None:
        with lab.instance(max_workers=2) as it:
            VARIABLE.set("of the patient caller")
            lab.open("slow #2")
            call = begin(it, lab.attempts("slow", _Sees(2)), RetryPolicy(attempts=2, timeout=limit))
            lab.until(lambda: call.done, "the call comes back by its attempt 2", needs="RTY-04")
            if runs(lab, "slow", 2) and timed_out(lab, call):
                raise TooSlow("attempt 2 was timed out, which nothing held up")
            if not runs(lab, "slow", 2):
                raise Inconclusive(f"attempt 2 never started: the call {ended(call)}", because_of="RTY-04")
            _saw(lab, call, 2, "of the patient caller")

    with_limits(lab, after_a_timeout)


class _Sees:
    """Returns the context variable in its attempt `number`, and raises before."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, number: int) -> str:
        if number < self.number:
            raise AttemptError(f"attempt {number}")
        return VARIABLE.get()


def _saw(lab: Lab, call: Call[Any], number: int, expected: str) -> None:
    if not call.returned:
        raise Inconclusive(f"attempt {number} was to return; the call {ended(call)}", because_of="RTY-02")
    lab.check(
        call.value == expected,
        f"attempt {number} saw the variable as {call.value!r}, the caller had set it to {expected!r}",
        "the caller's value in every attempt",
    )


@rule("RTY-16", "policy")
def only_retryable_errors_are_retried(lab: Lab) -> None:
    """Only the errors named retryable are retried; a policy that raises ends the call with that error, never in a hang.

    Intent: A second attempt at what can't succeed (a wrong password, a bug) costs an account, or hides the bug.

    Usual cause: `except Exception` around the check too, or a check that runs on the worker, which dies of it.

    Proof: Attempts are counted by the probe itself; a call that never comes back is proven from the kernel.

    Source: tenacity `retry_if_exception_type`; urllib3 `Retry`.
    """
    cases: tuple[tuple[type[BaseException], tuple[type[BaseException], ...], bool], ...] = (
        (KeyError, (KeyError,), True),
        (KeyError, (LookupError, AttemptError), True),
        (ValueError, (KeyError,), False),
        (LookupError, (KeyError,), False),
        (AttemptError, (), False),
    )
    with lab.instance(max_workers=2) as it:
        for number, (raised, named, again) in enumerate(cases):
            name = f"fetch {number}"
            policy = RetryPolicy(attempts=2, retry_on=named)
            call = begin(it, lab.attempts(name, Fails(1, raised), gated=False), policy).join()
            count = len(attempts_of(lab, name))
            listed = ", ".join(kind.__name__ for kind in named) or "nothing"
            lab.check(
                count == (2 if again else 1) and call.returned == again,
                f"retry_on names {listed}; attempt 1 raised {raised.__name__}; attempts started: {count}, and the call {ended(call)}",
                "attempt 2 returns" if again else f"{raised.__name__} ends the call",
            )
        policy = RetryPolicy(attempts=2, retry_on=(Unsure,))
        call = begin(it, lab.attempts("unsure", Fails(9), gated=False), policy)
        lab.until(lambda: call.done, "the call comes back although its policy raises", hung=True)
        count = len(attempts_of(lab, "unsure"))
        told = [
            e for e in reachable(call.error) if isinstance(e, UnsureError) or is_the(lab, e, AttemptError("attempt 1"))
        ]
        lab.check(
            count == 1 and bool(told),
            f"the policy raises UnsureError when it is asked; attempts started: {count}, and the call {ended(call)}",
            "one attempt, and that error (or the attempt's own, where the policy is not asked this way)",
        )
    if lab.claims("timeout"):
        _timeouts_are_errors_too(lab)


class UnsureError(Exception):
    """What the policy raises."""


class _AskUnsure(type):
    def __instancecheck__(cls, instance: object) -> bool:
        raise UnsureError("the policy itself fails")

    def __subclasscheck__(cls, subclass: type) -> bool:
        raise UnsureError("the policy itself fails")


class Unsure(Exception, metaclass=_AskUnsure):  # noqa: N818 - no error of anybody's
    """A class of errors that raises when it is asked whether an error is one of it."""


def _timeouts_are_errors_too(lab: Lab) -> None:
    with lab.instance(max_workers=2) as it:
        policy = RetryPolicy(attempts=2, timeout=0.05, retry_on=(KeyError,))
        call = begin(it, lab.attempts("stuck"), policy)
        lab.until(lambda: call.done or runs(lab, "stuck", 2), "the call comes back", needs="RTY-03")
        lab.check(
            not runs(lab, "stuck", 2),
            "retry_on names KeyError; attempt 1 timed out, and attempt 2 started",
            "TimeoutError ends the call",
        )


@rule("RTY-21", "history")
def earlier_errors_are_reachable(lab: Lab) -> None:
    """Errors of earlier attempts are reachable from the one raised.

    Intent: The last error is often *connection refused* by a server that attempt 1 has brought down: the first one tells why.

    Usual cause: The loop's variable holds the last error only, and Python deletes `error` at the end of each `except`.

    Proof: Each attempt raises an error with its own number; `__cause__`, `__context__` and `exceptions` are followed from the one raised.

    Source: PEP 3134, PEP 654.
    """
    with lab.instance(max_workers=2) as it:
        call = begin(it, lab.attempts("fetch", Fails(9), gated=False), RetryPolicy(attempts=3)).join()
        if call.returned or len(attempts_of(lab, "fetch")) != 3:
            raise Inconclusive(f"of 3 failing attempts the call {ended(call)}", because_of="RTY-02")
        found = list(reachable(call.error))
        for number in (1, 2, 3):
            lab.check(
                any(is_the(lab, e, AttemptError(f"attempt {number}")) for e in found),
                f"the error of attempt {number} can't be reached from the one raised; there are: {', '.join(map(repr, found))}",
                "all three: by __cause__, __context__ or exceptions",
            )


@rule("RTY-25", "timeout", should=True)
def a_functions_own_timeout_error_is_its_result(lab: Lab) -> None:
    """A function's own TimeoutError is its result, distinguishable from the limit's.

    Intent: *The server did not answer the function* and *the function did not come back* call for different remedies.

    Usual cause: `future.result(timeout)` and the function's own error come out of the same `except TimeoutError`.

    Proof: One body raises TimeoutError by itself, another is gated until its limit is up: the two errors are compared.

    Source: Python library reference, `concurrent.futures.Future.result`, where they can't be told apart.
    """

    def scenario(limit: float) -> None:
        with lab.instance(max_workers=2) as it:
            call = begin(it, lab.attempts("own", _raise_mine, gated=False), RetryPolicy(timeout=limit)).join()
            own = raised_last(lab, call.error)
            if not over(lab, "own #1") or (not is_the(lab, own, TimeoutError("mine")) and limit < 3):
                raise TooSlow("a body that raises at once was timed out")
            lab.check(
                is_the(lab, own, TimeoutError("mine")),
                f"the body raised TimeoutError('mine') by itself; the call {ended(call)}",
                "the body's own error",
            )
            bare = begin(it, lab.attempts("bare", _raise_bare, gated=False), RetryPolicy(timeout=limit)).join()
            late = begin(it, lab.attempts("late"), RetryPolicy(timeout=limit))
            lab.until(lambda: late.done, "the call whose body is gated times out", needs="RTY-03")
            if not timed_out(lab, late):
                raise Inconclusive(f"the call whose body is gated {ended(late)}", because_of="RTY-03")
            mine, limits = (_told(raised_last(lab, c.error)) for c in (bare, late))
            lab.check(
                mine != limits,
                f"the body's own TimeoutError() and the limit's are both {late.error!r}",
                "two errors that differ in type, attributes or message",
            )

    with_limits(lab, scenario)


def _raise_mine(_number: int) -> None:
    raise TimeoutError("mine")


def _raise_bare(_number: int) -> None:
    raise TimeoutError


def _told(error: BaseException | None) -> tuple[Any, ...]:
    """What a handler can tell errors by."""
    if error is None:
        return ()
    # asyncio.timeout raises its own from the cancellation that it caused
    return type(error), str(error), repr(vars(error)), type(error.__cause__)
