"""The retriers keep the rules of their facet; each test says which, and needs no kit to say it.

Attempts are held at gates. Where a limit is the subject it is short and real, and nothing is asserted about how long
anything took; the fences that a sound retrier never gets near are long.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import itertools
import linecache
import os
import pickle
import random
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import pytest
import trio
from anyio.lowlevel import checkpoint
from gating import LIMIT, Gate, background

from flowcheck_reference._attempts import Away, Crew, Lane, Trial
from flowcheck_reference._calls import _Attempt
from flowcheck_reference._coroutines import _held
from flowcheck_reference._policy import name_of
from flowcheck_reference.executor import Executor, Worker
from flowcheck_reference.retry import AsyncRetrier, AttemptTimeout, Retrier, RetryPolicy, TooManyAbandonedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

SHORT = 0.03
"""Seconds: a limit that every attempt is to exceed."""
MIDDLE = 0.25
"""Seconds: a limit that some attempts are to exceed, and others not, however busy the machine is."""

NOW = partial(RetryPolicy, wait_max=0.0)
"""A policy without backoff."""
SOON = partial(RetryPolicy, wait_initial=0.001, wait_jitter=0.0)
"""A policy with one."""

Way: TypeAlias = "Callable[..., Any]"


@pytest.fixture(params=["call", "submit"])
def way(request: pytest.FixtureRequest) -> Way:
    """Both ways to make a blocking call."""

    def call(retrier: Retrier, *args: Any, **kwargs: Any) -> Any:
        return retrier.call(*args, **kwargs)

    def submit(retrier: Retrier, *args: Any, **kwargs: Any) -> Any:
        return retrier.submit(*args, **kwargs).result(LIMIT)

    return call if request.param == "call" else submit


@pytest.fixture(params=[None, LIMIT])
def timeout(request: pytest.FixtureRequest) -> float | None:
    """No limit, and one that isn't reached."""
    return request.param


class Script:
    """An attempt does what stands next in the list: returns a value, raises an error, or waits at a gate."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.starts = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        step = self.steps[self.starts]
        self.starts += 1
        if isinstance(step, Gate):
            return step()
        if isinstance(step, BaseException):
            raise step
        return step


def behind(error: BaseException | None) -> list[BaseException]:
    """All that can be reached from an error; it must not be a circle."""
    found: list[BaseException] = []

    def walk(one: BaseException | None, above: tuple[BaseException, ...]) -> None:
        if one is None:
            return
        assert all(one is not other for other in above), "a circle"
        if all(one is not other for other in found):
            found.append(one)
        walk(one.__cause__, (*above, one))
        walk(one.__context__, (*above, one))

    walk(error, ())
    return found[1:]


def until(true: Callable[[], object]) -> None:
    """Until what nothing announces has happened."""
    end = monotonic() + LIMIT
    while not true():
        assert monotonic() < end
        threading.Event().wait(0)


def threads_of(retrier: Retrier) -> list[threading.Thread]:
    """The retrier's workers."""
    prefix = retrier._crew.pool.prefix + "_"
    return [thread for thread in threading.enumerate() if thread.name.startswith(prefix)]


# -- outcomes


def test_a_call_that_succeeds_runs_once(way: Way, timeout: float | None) -> None:
    """Its value comes back, arguments pass through, keywords that the retrier itself uses too (RTY-01)."""
    with Retrier(1) as retrier:
        starts = []

        def fn(*args: Any, **kwargs: Any) -> Any:
            starts.append(1)
            return args, kwargs

        assert way(retrier, NOW(timeout=timeout), fn, 1, fn=2, policy=3, self=4) == (
            (1,),
            {"fn": 2, "policy": 3, "self": 4},
        )
        assert starts == [1]


@pytest.mark.parametrize("policy", [NOW, SOON])
@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_a_failing_call_is_tried_so_many_times(
    way: Way, timeout: float | None, policy: type[RetryPolicy], attempts: int
) -> None:
    """The last error is raised, itself, with its traceback; the earlier ones are found behind it (RTY-02, 21)."""
    errors = [ValueError(i) for i in range(attempts)]
    script = Script(*errors)

    def fails() -> Any:
        return script()

    with Retrier(1) as retrier, pytest.raises(ValueError, match=str(attempts - 1)) as caught:
        way(retrier, policy(attempts=attempts, timeout=timeout), fails)
    assert script.starts == attempts
    assert caught.value is errors[-1]
    assert "fails" in [entry.name for entry in caught.traceback]
    assert behind(caught.value) == errors[-2::-1]


@pytest.mark.parametrize("policy", [NOW, SOON])
def test_the_first_success_ends_it(way: Way, timeout: float | None, policy: type[RetryPolicy]) -> None:
    """No attempt is made after it (RTY-01, 05)."""
    script = Script(ValueError(), OSError(), None)
    with Retrier(1) as retrier:
        assert way(retrier, policy(attempts=9, timeout=timeout), script) is None
    assert script.starts == 3


class FalsyError(Exception):
    """An error that counts as false."""

    def __len__(self) -> int:
        return 0


def test_an_error_that_counts_as_false_is_one(way: Way) -> None:
    """It is retried and raised like any other (RTY-02)."""
    script = Script(FalsyError(), FalsyError())
    with Retrier(1) as retrier, pytest.raises(FalsyError):
        way(retrier, NOW(attempts=2), script)
    assert script.starts == 2


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), asyncio.CancelledError(), trio.Cancelled._create]
)
@pytest.mark.parametrize("on", [Exception, (OSError, ValueError), lambda _: True])
def test_what_stops_a_program_is_not_retried(way: Way, error: Any, on: Any) -> None:
    """Whatever the predicate would say of it (RTY-12)."""
    if not isinstance(error, BaseException):
        error = asyncio.CancelledError()
    script = Script(error, 1)
    with Retrier(1) as retrier:
        with pytest.raises(type(error)) as caught:
            way(retrier, NOW(on=on), script)
        assert caught.value is error
        assert script.starts == 1
        assert way(retrier, NOW(), int) == 0


def test_what_stops_a_program_is_retried_if_named(way: Way) -> None:
    """A class that the policy names is retried, whatever it is (RTY-12)."""
    script = Script(KeyboardInterrupt(), 1)
    with Retrier(1) as retrier:
        assert way(retrier, NOW(on=KeyboardInterrupt), script) == 1


# -- the policy


@pytest.mark.parametrize("on", [OSError, (LookupError, OSError), lambda error: isinstance(error, OSError)])
def test_only_what_the_policy_names_is_retried(way: Way, on: Any) -> None:
    """The first other error ends the call, with the earlier ones behind it (RTY-16)."""
    first, other = OSError(), ValueError("other")
    script = Script(first, other, 1)
    with Retrier(1) as retrier, pytest.raises(ValueError, match="other") as caught:
        way(retrier, NOW(on=on, attempts=5), script)
    assert caught.value is other
    assert behind(other) == [first]
    assert script.starts == 2


@pytest.mark.parametrize("stuck", [True, False])
@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, SystemExit])
def test_a_predicate_that_raises_ends_the_call(way: Way, gate: Gate, stuck: bool, kind: type[BaseException]) -> None:
    """With that error, the attempt's behind it, and the worker goes on (RTY-16)."""
    error = kind("policy")

    def on(_: Exception) -> bool:
        raise error

    with Retrier(1) as retrier:
        with pytest.raises(kind) as caught:
            way(retrier, NOW(on=on, timeout=MIDDLE), gate if stuck else Script(OSError()))
        assert caught.value is error
        assert isinstance(behind(error)[0], AttemptTimeout if stuck else OSError)
        assert way(retrier, NOW(), int) == 0


def test_a_predicate_answers_yes_or_no(way: Way) -> None:
    """Anything else is a mistake, such as an async predicate, and is told (RTY-16)."""
    with Retrier(1) as retrier, pytest.raises(TypeError, match="True or False, not 1 "):
        way(retrier, NOW(on=lambda _: 1), Script(OSError()))  # type: ignore[arg-type,return-value]


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        *[("attempts", value, TypeError) for value in (NAN, 1.0, "3", None, True, [])],
        *[("attempts", value, ValueError) for value in (0, -1)],
        *[("timeout", value, TypeError) for value in ("1", True, [], 1j)],
        *[("timeout", value, ValueError) for value in (0, 0.0, -1, NAN, INFINITE, -INFINITE, 1e300)],
        *[("wait_initial", value, ValueError) for value in (-1, NAN, INFINITE)],
        *[("wait_max", value, TypeError) for value in (None, False, "5")],
        *[("wait_jitter", value, ValueError) for value in (-0.1, NAN)],
        *[("wait_exp_base", value, ValueError) for value in (0, -2.0, INFINITE)],
        *[("on", value, TypeError) for value in (None, int, "x", (OSError, 1), [OSError], OSError())],
    ],
)
def test_nonsense_is_refused(field: str, value: Any, error: type[Exception]) -> None:
    """When the policy is made, so before anything runs, in one line that names it (RTY-13)."""
    with pytest.raises(error, match=rf"^{field} must be [^\n]*$"):
        RetryPolicy(**{field: value})


@pytest.mark.parametrize("made", [Retrier, AsyncRetrier])
def test_sizes_are_checked(made: Any) -> None:
    """By the sentence that all sizes are checked with (RTY-13)."""
    with pytest.raises(ValueError, match="max_workers must be at least 1"):
        made(0)


def test_the_arguments_of_a_retrier_are_checked() -> None:
    """Nothing has run when a mistake is told."""
    with Executor(1) as executor, ThreadPoolExecutor(1) as other:
        with pytest.raises(TypeError, match="not both"):
            Retrier(1, executor=executor)
        with pytest.raises(TypeError, match="this package's Executor"):
            Retrier(executor=other)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="max_abandoned"):
            Retrier(1, max_abandoned=0)
    with Retrier(1) as retrier:
        for make in (retrier.call, retrier.submit):
            with pytest.raises(TypeError, match="policy comes first"):
                make(int, 1)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="callable"):
                make(RetryPolicy(), 1)  # type: ignore[arg-type]


def test_the_backoff_grows_up_to_its_bound() -> None:
    """As in stamina: initial times base to the power of the attempts so far, plus jitter, at most the maximum (RTY-11)."""
    policy = RetryPolicy(wait_initial=0.5, wait_max=3, wait_jitter=0, wait_exp_base=2)
    assert [policy.delay(i) for i in (1, 2, 3, 4, 5000)] == [0.5, 1, 2, 3, 3]
    assert all(1 <= RetryPolicy(wait_initial=1, wait_jitter=0.5).delay(1) <= 1.5 for _ in range(100))
    assert NOW().delay(7) == 0


class Named:
    """A callable that has a name of its own."""

    def __init__(self) -> None:
        self.__name__ = "fetch"

    def __call__(self) -> None:
        """Nothing."""

    def method(self) -> None:
        """Nothing."""


def test_what_is_called_has_a_name() -> None:
    """Its own, or that of its type (RTY-18)."""
    names = {
        "fetch": Named(), "fetch.method": Named().method, "int": int, "len": len, "Gate": Gate(), "print": partial(print, 1),
        "Gate.arrived": Gate().arrived,
    }  # fmt: skip
    for name, fn in names.items():
        assert str(AttemptTimeout(name_of(fn), 1, 2.5)) == f"{name}: attempt 1 was given up after 2.5 s"


# -- history


def test_history_makes_no_circle(way: Way) -> None:
    """Also where one object is raised again, or an error has another for its cause; nothing of its own is lost (RTY-21)."""
    again, other = ValueError("again"), OSError("other")
    root, cause = KeyError("root"), LookupError("cause")
    root.__context__ = again
    caused = RuntimeError("caused")
    caused.__cause__, caused.__context__ = cause, root
    with Retrier(1) as retrier:
        with pytest.raises(ValueError, match="again"):
            way(retrier, NOW(attempts=3), Script(again, other, again))
        assert behind(again) == [other]
        with pytest.raises(RuntimeError):
            way(retrier, NOW(attempts=4), Script(again, other, again, caused))
        assert {*behind(caused)} == {again, other, root, cause}
        wrapper = RuntimeError("wrapper")
        wrapper.__cause__ = cause
        with pytest.raises(LookupError):  # what leads to the last error can't stand behind it
            way(retrier, NOW(attempts=2), Script(wrapper, cause))
        assert behind(cause) == []


def test_an_error_that_is_being_handled_does_not_replace_the_history(way: Way) -> None:
    """A call made in an `except` block raises what it would raise elsewhere (RTY-21)."""
    errors = [ValueError(i) for i in range(3)]
    with Retrier(1) as retrier:
        try:
            raise KeyError
        except KeyError:
            if way.__name__ == "submit":
                with suppress(ValueError):
                    way(retrier, NOW(), Script(*errors))
            else:
                with pytest.raises(ValueError, match="2"):
                    way(retrier, NOW(), Script(*errors))
                assert behind(errors[-1]) == errors[1::-1]


def test_a_long_history_is_linked_in_no_time(way: Way) -> None:
    """A thousand attempts are as well told as two (RTY-21)."""
    with Retrier(1) as retrier, pytest.raises(ValueError, match="999") as caught:
        way(retrier, NOW(attempts=1000), Script(*map(ValueError, range(1000))))
    link: Any = caught.value
    for i in reversed(range(1000)):
        assert link.args == (i,)
        link = link.__context__
    assert link is None


# -- limits


def test_a_stuck_attempt_times_out(way: Way, gate: Gate) -> None:
    """While it is still held. The error says which call, which attempt, which limit; it travels (RTY-03, 18)."""
    with Retrier(1) as retrier:
        with pytest.raises(AttemptTimeout) as caught:
            way(retrier, NOW(attempts=2, timeout=SHORT), gate.__call__)
        assert (caught.value.call, caught.value.attempt, caught.value.limit) == ("Gate.__call__", 2, SHORT)
        assert str(caught.value) == "Gate.__call__: attempt 2 was given up after 0.03 s"
        assert [str(error) for error in behind(caught.value)] == ["Gate.__call__: attempt 1 was given up after 0.03 s"]
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        gate.arrived(2)


@pytest.mark.parametrize("policy", [NOW, SOON])
def test_the_next_attempt_starts_while_the_last_is_stuck(way: Way, gate: Gate, policy: type[RetryPolicy]) -> None:
    """With one worker too; the late result never replaces the other, nor does a late error surface (RTY-04, 06)."""
    with Retrier(1) as retrier:
        assert way(retrier, policy(timeout=MIDDLE), Script(gate, gate, "third")) == "third"
        gate.arrived(2)
        gate.opened.set()


@pytest.mark.parametrize("steps", ["gvr", "vgv", "gvg", "r", "vvv"])
def test_any_pattern(way: Way, gate: Gate, steps: str) -> None:
    """Stuck, raises, returns: starts, order and outcome are as the model says (RTY-05)."""
    script = Script(*[{"g": gate, "v": ValueError(i), "r": i}[step] for i, step in enumerate(steps)])
    with Retrier(2) as retrier:
        call = partial(way, retrier, NOW(attempts=len(steps), timeout=MIDDLE), script)
        if steps.endswith("r"):
            assert call() == len(steps) - 1
        else:
            with pytest.raises(ValueError if steps.endswith("v") else AttemptTimeout):
                call()
    assert script.starts == len(steps)


def test_late_errors_surface_nowhere(way: Way, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """An abandoned attempt runs to its end, its cleanup included; what it raises is dropped (RTY-06, 24)."""
    cleaned = threading.Event()

    def stuck() -> None:
        try:
            gate()
            raise SystemExit("late")
        finally:
            cleaned.set()

    with Retrier(1) as retrier:
        with pytest.raises(AttemptTimeout):
            way(retrier, NOW(attempts=1, timeout=SHORT), stuck)
        workers = threads_of(retrier)
        gate.opened.set()
        assert cleaned.wait(LIMIT)
        until(lambda: retrier._crew.pool.abandoned == 0)
        assert way(retrier, NOW(), int) == 0
    for worker in workers:
        worker.join(LIMIT)
    assert caplog.text == ""


def test_the_clock_starts_with_the_attempt(way: Way, gate: Gate) -> None:
    """A call that is queued doesn't time out, while a later one of the same limit elsewhere does (RTY-07)."""
    with Retrier(1) as retrier, Retrier(1) as other:
        first = retrier.submit(NOW(), gate)
        gate.arrived()
        queued = background(lambda: way(retrier, NOW(attempts=1, timeout=MIDDLE), int))
        until(lambda: len(retrier._crew.pool.queue) == 1)
        second = Gate()
        with pytest.raises(AttemptTimeout):
            way(other, NOW(attempts=1, timeout=MIDDLE), second)
        assert not queued.done()
        gate.opened.set()
        assert queued.result(LIMIT) == 0
        assert first.result(LIMIT) is None
        second.opened.set()


def test_a_busy_queue_does_not_hold_up_a_retry(way: Way, gate: Gate) -> None:
    """The retry takes the place of the worker that was written off for it, not that at the queue's end (RTY-04, 08)."""
    blocked = Gate()
    with Retrier(1) as retrier:
        call = background(lambda: way(retrier, NOW(timeout=MIDDLE), Script(gate, "second")))
        gate.arrived()
        others = [retrier.submit(NOW(), blocked) for _ in range(3)]
        assert call.result(LIMIT) == "second"
        assert not any(other.done() for other in others)
        blocked.opened.set()
        for other in others:
            other.result(LIMIT)


def test_many_time_out_and_the_next_still_starts(way: Way, gate: Gate) -> None:
    """Stuck attempts hold no worker (RTY-08, 09)."""
    with Retrier(2) as retrier:
        for _ in range(5):
            with pytest.raises(AttemptTimeout):
                way(retrier, NOW(attempts=1, timeout=SHORT), gate)
        assert way(retrier, NOW(attempts=1, timeout=LIMIT), int) == 0


def test_abandoned_attempts_leave_nothing_behind(way: Way, gate: Gate) -> None:
    """Once released: no thread, no reference; calls grow nothing (RTY-10)."""

    class Thing:
        pass

    with Retrier(1) as retrier:
        things: list[weakref.ref[Thing]] = []
        for _ in range(3):
            thing = Thing()
            things.append(weakref.ref(thing))
            with pytest.raises(AttemptTimeout):
                way(retrier, NOW(attempts=2, timeout=SHORT), lambda it: gate() and it, thing)
            del thing
        gate.opened.set()
        until(lambda: retrier._crew.pool.abandoned == 0)
        until(lambda: len(threads_of(retrier)) <= 1)
        assert way(retrier, NOW(timeout=LIMIT), int) == 0
        until(lambda: not any(thing() for thing in things) or gc.collect() is None)
        assert not retrier._calls
        assert retrier._crew.watchdog._state.posts == set()


@pytest.mark.parametrize("fails", [True, False])
def test_a_call_that_is_over_keeps_nothing(way: Way, timeout: float | None, fails: bool) -> None:
    """Neither arguments nor errors, and no circle that only the collector would free (RTY-10)."""

    kept: list[weakref.ref[Thing]] = []

    class Thing(Exception):  # noqa: N818
        def __init__(self) -> None:
            kept.append(weakref.ref(self))

    gc.disable()
    try:
        with Retrier(1) as retrier:
            argument, result = Thing(), None

            def fn(_: Thing) -> Thing:
                if fails:
                    raise Thing
                return Thing()

            with suppress(Thing):
                result = way(retrier, NOW(timeout=timeout), fn, argument)
            del argument, result
            until(lambda: retrier._crew.pool.idle)
            assert len(kept) == (4 if fails else 2)
            assert [ref() for ref in kept] == [None] * len(kept)
    finally:
        gc.enable()


def test_a_calls_own_timeout_error_is_its_own(way: Way) -> None:
    """It can be told from the limit's (RTY-25)."""
    own = TimeoutError("own")
    with Retrier(1) as retrier, pytest.raises(TimeoutError) as caught:
        way(retrier, NOW(attempts=1, timeout=LIMIT), Script(own))
    assert caught.value is own
    assert not isinstance(own, AttemptTimeout)


def test_too_many_stuck_threads_are_refused(way: Way, gate: Gate) -> None:
    """Then attempts with a limit aren't begun, and say so; others are; when the stuck come back it is over."""
    with Retrier(1, max_abandoned=2) as retrier:
        with pytest.raises(TooManyAbandonedError) as caught:
            way(retrier, NOW(attempts=9, timeout=SHORT), gate)
        assert [type(error) for error in behind(caught.value)] == [AttemptTimeout] * 2
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        script = Script(1)
        with pytest.raises(TooManyAbandonedError):
            way(retrier, NOW(timeout=LIMIT), script)
        assert script.starts == 0
        assert way(retrier, NOW(), int) == 0
        gate.opened.set()
        until(lambda: retrier._crew.pool.abandoned == 0)
        assert way(retrier, NOW(timeout=LIMIT), int) == 0


# -- workers


@pytest.mark.parametrize("n", [1, 3])
def test_attempts_stay_within_the_bound(way: Way, timeout: float | None, gate: Gate, n: int) -> None:
    """n are in flight, and no more (RTY-20)."""
    with Retrier(n) as retrier:
        calls = [background(lambda: way(retrier, NOW(timeout=timeout), gate)) for _ in range(n + 3)]
        gate.arrived(n)
        until(lambda: len(retrier._crew.pool.queue) == 3)
        assert gate.nobody_waits()
        gate.opened.set()
        for call in calls:
            call.result(LIMIT)
        assert len(threads_of(retrier)) <= n


def test_a_backoff_holds_no_worker(way: Way) -> None:
    """While one call waits, another has the only worker (RTY-11, 22)."""
    with Retrier(1) as retrier:
        failed, script = threading.Event(), Script(OSError(), 1)

        def on(_: Exception) -> bool:
            failed.set()
            return True

        call = background(lambda: way(retrier, RetryPolicy(on=on, wait_initial=0.3, wait_jitter=0), script))
        assert failed.wait(LIMIT)
        assert way(retrier, NOW(), int) == 0
        assert call.result(LIMIT) == 1


def test_a_call_waits_for_no_backoff_at_its_ends(way: Way) -> None:
    """Not before the first attempt, nor after the last (RTY-11): an hour's wait would meet the fence."""
    policy = partial(RetryPolicy, wait_initial=3600, wait_max=3600)
    with Retrier(1) as retrier:
        assert way(retrier, policy(), int) == 0
        with pytest.raises(OSError, match="last"):
            way(retrier, policy(attempts=1), Script(OSError("last")))
        with pytest.raises(ValueError, match="other"):
            way(retrier, policy(on=OSError), Script(ValueError("other")))


@pytest.mark.parametrize("policy", [NOW, SOON])
@pytest.mark.parametrize("inner", ["call", "submit"])
def test_a_call_inside_an_attempt_does_not_deadlock(
    way: Way, timeout: float | None, policy: type[RetryPolicy], inner: str
) -> None:
    """Three deep, all of them retried, on one worker."""
    with Retrier(1) as retrier:
        make = getattr(retrier, inner)

        def nested(depth: int, failed: list[int]) -> int:
            if not failed:
                failed.append(1)
                raise OSError
            if depth:
                result = make(policy(timeout=timeout), nested, depth - 1, [])
                return 1 + (result.result(LIMIT) if inner == "submit" else result)
            return 0

        assert way(retrier, policy(timeout=timeout), nested, 3, []) == 3
        until(lambda: not retrier._crew.pool.lent)
        assert way(retrier, NOW(), int) == 0


def test_a_stuck_call_inside_an_attempt_times_out(way: Way, gate: Gate) -> None:
    """The attempt around gets the error, and goes on; its own error names another call (RTY-25)."""
    with Retrier(1) as retrier:

        def outer() -> str:
            with pytest.raises(AttemptTimeout, match=r"Gate\.__call__"):
                retrier.call(NOW(attempts=2, timeout=SHORT), gate.__call__)
            return "went on"

        assert way(retrier, NOW(timeout=LIMIT), outer) == "went on"


def test_a_shared_executor_stays_open(way: Way, gate: Gate) -> None:
    """A retrier on an executor shares its workers and its bound, and leaves it open."""
    with Executor(1) as executor:
        with Retrier(executor=executor) as retrier:
            task = executor.submit(gate)
            gate.arrived()
            call = background(lambda: way(retrier, NOW(timeout=LIMIT), threading.get_ident))
            until(lambda: len(retrier._crew.pool.queue) == 1)
            gate.opened.set()
            assert call.result(LIMIT) == executor.submit(threading.get_ident).result(LIMIT)
            assert task.result(LIMIT) is None
        assert executor.submit(int).result(LIMIT) == 0


@pytest.mark.parametrize("inside", [True, False])
def test_an_executor_that_is_shut_down_ends_calls_with_an_error(way: Way, gate: Gate, inside: bool) -> None:
    """A later attempt that can't be queued, or is withdrawn, hangs nobody; the history is told."""
    executor, error = Executor(1), OSError()

    def fails() -> None:
        if inside:
            executor.shutdown(wait=False)
        raise error

    retrier = Retrier(executor=executor)
    if inside:
        with pytest.raises(RuntimeError, match="takes no more work") as caught:
            way(retrier, SOON(), fails)
        assert behind(caught.value) == [error]
    else:
        first = executor.submit(gate)
        gate.arrived()
        call = background(lambda: way(retrier, NOW(), fails))
        until(lambda: retrier._crew.pool.queue)
        executor.shutdown(wait=False, cancel_futures=True)
        assert type(call.exception(LIMIT)).__name__ == "CancelledError"
        gate.opened.set()
        first.result(LIMIT)
    executor.shutdown()


def no_thread(*_: object) -> None:
    """In place of what would start one."""
    msg = "can't start new thread"
    raise RuntimeError(msg)


def test_a_backoff_that_no_watchdog_ends_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call fails, once, and its history is told."""
    with Retrier(1) as retrier:
        monkeypatch.setattr(retrier._crew.watchdog, "call_at", no_thread)
        error = OSError()
        with pytest.raises(RuntimeError, match="can't start new thread") as caught:
            retrier.submit(SOON(), Script(error)).result(LIMIT)
        assert behind(caught.value) == [error]


@pytest.mark.parametrize("policy", [NOW, SOON])
def test_a_stuck_worker_that_no_other_can_replace(
    way: Way, gate: Gate, policy: type[RetryPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system gives no thread for the next attempt, the call fails, and doesn't wait for the stuck one."""
    with Retrier(1) as retrier:
        assert way(retrier, NOW(timeout=LIMIT), int) == 0
        with monkeypatch.context() as patch:
            patch.setattr(Worker, "start", no_thread)
            with pytest.raises(RuntimeError, match="no thread") as caught:
                way(retrier, policy(timeout=SHORT), gate)
            assert [type(error) for error in behind(caught.value)] == [AttemptTimeout]
        assert way(retrier, NOW(timeout=LIMIT), int) == 0


class Shy:
    """Something to call that refuses to tell its name."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate

    def __call__(self) -> None:
        self.gate()

    def __getattribute__(self, name: str) -> Any:
        if name in ("__qualname__", "__name__"):
            raise LookupError(name)
        return super().__getattribute__(name)


def test_what_has_no_name_is_given_up_too(gate: Gate) -> None:
    """In the watchdog's thread no error of the user's may come between a limit and what it does."""
    with Retrier(1) as retrier:
        with pytest.raises(AttemptTimeout, match="Shy: attempt 2"):
            retrier.submit(NOW(attempts=2, timeout=SHORT), Shy(gate)).result(LIMIT)
        gate.opened.set()


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def test_each_attempt_has_a_copy_of_the_callers_context(way: Way, timeout: float | None) -> None:
    """What one sets no other sees, nor the caller (RTY-14)."""
    seen = []

    def fn() -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("the attempt's")
        raise LookupError

    def caller() -> None:
        VARIABLE.set("the caller's")
        with Retrier(1) as retrier, pytest.raises(LookupError):
            way(retrier, NOW(timeout=timeout), fn)
        assert VARIABLE.get() == "the caller's"

    contextvars.copy_context().run(caller)
    assert seen == ["the caller's"] * 3


# -- the end


def test_close_waits_for_calls_and_refuses_more(way: Way, gate: Gate) -> None:
    """Calls that are under way get all their attempts; it waits for none that was given up."""
    retrier = Retrier(1)
    closing, script = threading.Event(), Script(OSError(), gate, "third")

    def on(_: Exception) -> bool:
        return closing.wait(LIMIT)

    call = background(lambda: way(retrier, SOON(on=on, timeout=MIDDLE), script))
    until(lambda: script.starts)
    closers = [background(retrier.close) for _ in range(2)]
    until(lambda: retrier._closed)
    for make in (retrier.call, retrier.submit):
        with pytest.raises(RuntimeError, match="closed"):
            make(NOW(), int)
    assert not any(closer.done() for closer in closers)
    closing.set()
    assert call.result(LIMIT) == "third"
    for closer in closers:
        closer.result(LIMIT)
    retrier.close()


def test_close_inside_an_attempt_is_refused(way: Way) -> None:
    """It would wait for itself."""
    with Retrier(1) as retrier, pytest.raises(RuntimeError, match="wait for itself"):
        way(retrier, NOW(attempts=1), retrier.close)


def test_close_inside_a_predicate_does_not_wait_for_its_own_call() -> None:
    """The predicate of `call` runs in the calling thread: that would wait for itself. No other attempt begins."""
    retrier, fn = Retrier(1), Script(OSError("first"), "never")

    def on(_: Exception) -> bool:
        retrier.close()
        return True

    call = background(lambda: retrier.call(NOW(on=on), fn))
    error = call.exception(LIMIT)
    assert isinstance(error, RuntimeError)
    assert [str(one) for one in behind(error)] == ["first"]


class Interrupt:
    """A trace function that raises KeyboardInterrupt at the n-th line of `files`, where a Ctrl-C could come."""

    def __init__(self, n: int, *files: str) -> None:
        self.n, self.files = n, files

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.endswith(self.files):
            return None
        if event == "line" and not self._gives_a_lock_back(frame):
            self.n -= 1
            if not self.n:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self

    @staticmethod
    def _gives_a_lock_back(frame: FrameType) -> bool:
        """The end of a `with` is a line again to a tracer; an interrupt doesn't come there before it is through."""
        return linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")


@pytest.mark.parametrize("kind", ["call", "submit", "stuck"])
def test_an_interrupt_at_any_line_leaves_nothing_to_wait_for(kind: str) -> None:
    """Wherever it comes in the caller's thread, `close` ends in the same thread, and so do the workers (RTY-09)."""
    policy = SOON(timeout=0.002 if kind == "stuck" else LIMIT)
    for n in itertools.count(1):
        retrier, stuck, interrupted = Retrier(1), Gate(), False
        fn = Script(stuck if kind == "stuck" else OSError(), 1, 1)
        outer = sys.gettrace()
        sys.settrace(Interrupt(n, "flowcheck_reference/_calls.py", "flowcheck_reference/retry.py"))
        try:
            if kind == "submit":
                retrier.submit(policy, fn).result(LIMIT)
            else:
                retrier.call(policy, fn)
        except (KeyboardInterrupt, AttemptTimeout) as error:
            interrupted = isinstance(error, KeyboardInterrupt)
        finally:
            sys.settrace(outer)
            stuck.opened.set()
        retrier.close()
        for thread in threads_of(retrier):
            thread.join(LIMIT)
            assert not thread.is_alive()
        if not interrupted:
            assert n > 10
            return


def test_an_interrupt_is_one_without_a_watchdog_too(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """That nobody will give up the attempt that it leaves behind is no reason to raise something else."""

    def interrupted(*_: Any, **__: Any) -> None:
        gate.arrived()
        raise KeyboardInterrupt

    with Retrier(1) as retrier:
        with monkeypatch.context() as patch:
            patch.setattr(_Attempt, "wait", interrupted)
            patch.setattr(retrier._crew.watchdog, "call_at", no_thread)
            with pytest.raises(KeyboardInterrupt):
                retrier.call(NOW(timeout=LIMIT), gate)
        gate.opened.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_wait_for_the_parents_calls() -> None:
    """They are not there; it has threads of its own (EXE-37)."""
    code = """
import os, threading
from flowcheck_reference.retry import Retrier, RetryPolicy
began, go = threading.Event(), threading.Event()
with Retrier(1) as retrier:
    future = retrier.submit(RetryPolicy(), lambda: (began.set(), go.wait()))
    began.wait()
    pid = os.fork()
    if not pid:
        threading.Thread(target=lambda: (retrier.close(), os._exit(0)), daemon=True).start()
        threading.Event().wait(30)
        os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    go.set()
"""
    assert script(code) == "0\n"


def test_a_submitted_call_can_be_cancelled_until_it_begins(gate: Gate) -> None:
    """After that it can't; a cancelled one is never begun, and `close` doesn't wait for it."""
    with Retrier(1) as retrier:
        first = retrier.submit(NOW(timeout=LIMIT), gate)
        gate.arrived()
        script = Script(1)
        second = retrier.submit(NOW(timeout=LIMIT), script)
        assert second.cancel()
        assert not first.cancel()
        gate.opened.set()
        assert first.result(LIMIT) is None
    assert script.starts == 0


def test_a_dropped_retrier_lets_its_threads_go(way: Way, timeout: float | None) -> None:
    """Nobody has to close it."""
    retrier = Retrier(1)
    way(retrier, NOW(timeout=timeout), int)
    threads = [*threads_of(retrier), retrier._crew.watchdog._state.thread]
    del retrier
    gc.collect()
    for thread in threads:
        if thread is not None:
            thread.join(LIMIT)
            assert not thread.is_alive()


def script(code: str) -> str:
    """Run `code` in an interpreter of its own, and give what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_blocking_side_costs_no_event_loop() -> None:
    """Who uses retriers and fan-outs on threads only imports neither anyio nor asyncio."""
    code = """
import sys
from flowcheck_reference import Fanout, Retrier, RetryPolicy
before = set(sys.modules)
with Retrier(1) as retrier, Fanout() as fanout:
    retrier.call(RetryPolicy(timeout=30), int)
    fanout.run(str, range(3), max_concurrency=2, policy=RetryPolicy(timeout=30))
print(sorted({"anyio", "asyncio", "trio"} & set(sys.modules) - before))
"""
    assert script(code) == "[]\n"


@pytest.mark.parametrize("way", ["call", "submit"])
@pytest.mark.parametrize("close", [True, False])
def test_a_stuck_attempt_does_not_keep_the_process(way: str, close: bool) -> None:
    """Closed or not, the process ends (RTY-17)."""
    code = f"""
import threading
from flowcheck_reference.retry import *
retrier = Retrier(1)
policy = RetryPolicy(attempts=2, timeout=0.03, wait_max=0)
try:
    if {way!r} == "call":
        retrier.call(policy, threading.Event().wait)
    else:
        retrier.submit(policy, threading.Event().wait).result()
except AttemptTimeout as error:
    print(error.attempt)
if {close}: retrier.close()
"""
    assert script(code) == "2\n"


def test_an_interrupt_ends_the_call_and_nothing_else() -> None:
    """No other attempt begins, the retrier can be used, a stuck attempt is given up when its time is up (RTY-04)."""
    code = """
import signal, threading
from flowcheck_reference.retry import *
retrier, starts, gate = Retrier(1), [], threading.Event()
def stuck():
    starts.append(1)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    gate.wait()
try:
    retrier.call(RetryPolicy(timeout=0.2), stuck)
except KeyboardInterrupt:
    print("interrupted")
print(retrier.call(RetryPolicy(timeout=30), int), len(starts))
def failing():
    starts.append(1)
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    raise OSError("failed")
try:
    retrier.call(RetryPolicy(wait_initial=3600, wait_max=3600), failing)
except KeyboardInterrupt as error:
    print("interrupted")
print(retrier.call(RetryPolicy(timeout=30), int), len(starts))
retrier.close()
"""
    assert script(code) == "interrupted\n0 1\ninterrupted\n0 2\n"


def test_many_at_once(gate: Gate) -> None:
    """Calls of all kinds from many threads: each outcome is its call's own."""
    with Retrier(3) as retrier:

        def user(i: int) -> None:
            for k in range(20):
                kind, tag = (i + k) % 4, (i, k)
                if kind == 0:
                    assert retrier.call(NOW(timeout=LIMIT), lambda tag=tag: tag) == tag  # type: ignore[misc]
                elif kind == 1:
                    assert retrier.submit(SOON(timeout=LIMIT), Script(OSError(), tag)).result(LIMIT) == tag
                elif kind == 2:
                    assert retrier.call(SOON(), Script(OSError(), OSError(), tag)) == tag
                elif k < 4:
                    assert retrier.submit(NOW(timeout=MIDDLE), Script(gate, tag)).result(LIMIT) == tag

        users = [background(partial(user, i)) for i in range(6)]
        for one in users:
            one.result(LIMIT)


# -- lanes


def test_a_lane_makes_many_calls_in_one_worker(gate: Gate) -> None:
    """Values, errors, backoffs and given-up attempts, each as the trial that resumes says (RTY-04, 22)."""
    with Executor(1) as executor:
        crew = Crew(executor, 256)
        resumed: list[Trial[Any]] = []
        came = threading.Semaphore(0)

        def resume(trial: Trial[Any]) -> None:
            resumed.append(trial)
            came.release()

        def lane(policy: RetryPolicy) -> Lane:
            return Lane(crew, policy, contextvars.copy_context(), resume)

        def work() -> list[Any]:
            one, two, three = lane(NOW(timeout=LIMIT)), lane(SOON()), lane(NOW(timeout=MIDDLE))
            results: list[Any] = [one.run(i, lambda x: x + 1, i) for i in range(5)]
            results.append(one.run("b", Script(OSError(), "retried")))
            with pytest.raises(OSError, match="third"):
                one.run("c", Script(OSError(), OSError(), OSError("third")))
            results.append(two.run("d", Script(OSError(), "after the wait")))
            results.append(three.run("e", Script(gate, "replaced")))
            for each in (one, two, three):
                each.leave()
            return results

        future = executor.submit(work)
        for key, value in (("d", "after the wait"), ("e", "replaced")):
            assert came.acquire(timeout=LIMIT)
            trial = next(trial for trial in resumed if trial.key == key)
            assert key != "d" or len(resumed) == 1 or resumed[0].key == "d"
            if key == "e":
                assert executor.submit(lambda trial=trial: trial.go(lane(trial.policy))).result(LIMIT) == value  # type: ignore[misc]
        assert not future.done()
        gate.opened.set()
        assert future.result(LIMIT) == [1, 2, 3, 4, 5, "retried", Away.BACKING_OFF, Away.WRITTEN_OFF]
        trial = resumed[0]
        assert executor.submit(lambda: trial.go(lane(trial.policy))).result(LIMIT) == "after the wait"
        crew.watchdog.close()


# -- coroutines


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Run an async function in a loop, within the fence."""

    def run(main: Callable[[], Any]) -> Any:
        async def fenced() -> Any:
            with anyio.fail_after(LIMIT):
                return await main()

        return anyio.run(fenced, backend=request.param)

    return run


class AsyncScript(Script):
    """As `Script`; a gate is an event that is never set."""

    def __init__(self, *steps: Any) -> None:
        super().__init__(*steps)
        self.live = self.most = 0

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        step = self.steps[self.starts]
        self.starts += 1
        self.live += 1
        self.most = max(self.most, self.live)
        try:
            await checkpoint()
            if step == "stuck":
                await anyio.Event().wait()
            if isinstance(step, BaseException):
                raise step
            return step
        finally:
            with anyio.CancelScope(shield=True):
                await checkpoint()
            self.live -= 1


@pytest.mark.parametrize("steps", ["r", "vr", "vvv", "svr", "vsv", "ss"])
@pytest.mark.parametrize("policy", [NOW, SOON])
def test_async_any_pattern(run: Any, steps: str, policy: type[RetryPolicy]) -> None:
    """Starts, order, outcome and history as the model says; no attempt beside another (RTY-01, 02, 05, 15, 21, 23)."""
    kinds = {"s": "stuck", "r": "value"}
    fn = AsyncScript(*[kinds.get(step) or ValueError(i) for i, step in enumerate(steps)])

    async def main() -> Any:
        async with AsyncRetrier(1) as retrier:
            return await retrier.call(policy(attempts=len(steps), timeout=MIDDLE if "s" in steps else LIMIT), fn)

    if steps.endswith("r"):
        assert run(main) == "value"
    else:
        with pytest.raises(ValueError if steps.endswith("v") else AttemptTimeout) as caught:
            run(main)
        kinds_behind = [AttemptTimeout if step == "s" else ValueError for step in reversed(steps[:-1])]
        assert [type(error) for error in behind(caught.value) if not _is_cancellation(error)] == kinds_behind
    assert (fn.starts, fn.most) == (len(steps), 1)


def _is_cancellation(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError | trio.Cancelled)


def test_async_cleanup_ends_before_the_next_attempt(run: Any) -> None:
    """Also one that awaits: shielded on trio, as ever; as it stands on asyncio, which cancels once (RTY-15)."""
    story: list[str] = []

    async def fn() -> str:
        story.append("start")
        if len(story) > 1:
            return "second"
        try:
            await anyio.Event().wait()
        finally:
            with anyio.CancelScope(shield=_trio_runs_here()):
                for _ in range(5):
                    await checkpoint() if _trio_runs_here() else await asyncio.tasks.__sleep0()  # type: ignore[attr-defined]
            story.append("cleaned")
        return "never"

    async def main() -> Any:
        async with AsyncRetrier(1) as retrier:
            return await retrier.call(NOW(timeout=MIDDLE), fn)

    assert run(main) == "second"
    assert story == ["start", "cleaned", "start"]


def _trio_runs_here() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return True
    return False


def test_async_a_cancelled_caller_cancels_the_attempt(run: Any) -> None:
    """It sees the cancellation, and no other attempt begins, whatever the policy names (RTY-12, 15)."""
    fn = AsyncScript("stuck", "never")
    seen: list[type] = []

    async def main() -> None:
        async with AsyncRetrier(1) as retrier, anyio.create_task_group() as group:

            async def caller() -> None:
                try:
                    await retrier.call(NOW(on=BaseException, timeout=LIMIT), fn)
                except BaseException as error:
                    seen.append(type(error))
                    raise

            group.start_soon(caller)
            while not fn.live:
                await checkpoint()
            group.cancel_scope.cancel()
        async with AsyncRetrier(1) as retrier:
            assert await retrier.call(NOW(), AsyncScript(1)) == 1

    run(main)
    assert fn.starts == 1
    assert seen[0] in (asyncio.CancelledError, trio.Cancelled)


def test_async_cancelled_in_a_backoff_or_in_the_queue(run: Any) -> None:
    """It ends there, and the slot that it waited for or held goes to another."""

    async def main() -> None:
        async with AsyncRetrier(1) as retrier, anyio.create_task_group() as group:
            failing = AsyncScript(OSError(), "never")
            stuck = AsyncScript("stuck")
            policy = RetryPolicy(wait_initial=3600, wait_max=3600)
            with anyio.CancelScope() as scope:

                async def cancel() -> None:
                    while failing.starts == 0 or failing.live:
                        await checkpoint()
                    scope.cancel()

                group.start_soon(cancel)
                await retrier.call(policy, failing)
            assert failing.starts == 1
            group.start_soon(retrier.call, NOW(), stuck)
            while not stuck.live:
                await checkpoint()
            queued = AsyncScript("never")
            with anyio.CancelScope() as scope:

                async def cancel_queued() -> None:
                    while not retrier._slots.waiting:
                        await checkpoint()
                    scope.cancel()

                group.start_soon(cancel_queued)
                await retrier.call(NOW(), queued)
            assert queued.starts == 0
            assert not retrier._slots.waiting
            group.cancel_scope.cancel()
        assert retrier._slots.free == 1

    run(main)


def test_async_errors_and_limits_are_told_apart(run: Any) -> None:
    """A coroutine's own TimeoutError is its result; the limit's says call, attempt and limit (RTY-18, 25)."""
    own = TimeoutError("own")

    async def main() -> None:
        async with AsyncRetrier(1) as retrier:
            with pytest.raises(TimeoutError) as caught:
                await retrier.call(NOW(attempts=1, timeout=LIMIT), AsyncScript(own))
            assert caught.value is own
            with pytest.raises(AttemptTimeout, match=r"^AsyncScript: attempt 1 was given up after 0.03 s$"):
                await retrier.call(NOW(attempts=1, timeout=SHORT), AsyncScript("stuck"))

    run(main)


def test_async_a_swallowed_cancellation_may_win(run: Any) -> None:
    """The value that it returns after all is the call's; no later attempt begins (RTY-06)."""
    starts = []

    async def stubborn() -> str:
        starts.append(1)
        with suppress(asyncio.CancelledError, trio.Cancelled):
            await anyio.Event().wait()
        return "after all"

    async def main() -> Any:
        async with AsyncRetrier(1) as retrier:
            value = await retrier.call(NOW(timeout=SHORT), stubborn)
            await checkpoint()  # nothing of the cancellation is left
            return value

    assert run(main) == "after all"
    assert starts == [1]


@pytest.mark.parametrize("n", [1, 3])
def test_async_attempts_stay_within_the_bound(run: Any, n: int) -> None:
    """n at once, first come first served; the queue's clocks don't run (RTY-07, 20)."""
    live, most, order = [0], [0], []

    async def main() -> None:
        async with AsyncRetrier(n) as retrier, anyio.create_task_group() as group:
            opened = anyio.Event()

            async def fn(i: int) -> None:
                order.append(i)
                live[0] += 1
                most[0] = max(most[0], live[0])
                await opened.wait()
                live[0] -= 1

            for i in range(n + 4):
                group.start_soon(retrier.call, NOW(attempts=1, timeout=LIMIT if i < n else 5.0), fn, i)
                while len(order) + len(retrier._slots.waiting) <= i:
                    await checkpoint()
            assert live[0] == n
            opened.set()

    run(main)
    assert most[0] == n
    assert (order if n == 1 else sorted(order)) == list(range(n + 4))  # trio shuffles those that wake at once


def test_async_queued_clocks_do_not_run(run: Any) -> None:
    """A call that is queued doesn't time out, while a later one of the same limit elsewhere does (RTY-07)."""

    async def main() -> None:
        async with AsyncRetrier(1) as retrier, AsyncRetrier(1) as other, anyio.create_task_group() as group:
            opened, results = anyio.Event(), []

            async def queued() -> None:
                results.append(await retrier.call(NOW(attempts=1, timeout=MIDDLE), AsyncScript("queued")))

            group.start_soon(retrier.call, NOW(), opened.wait)
            while retrier._slots.free:
                await checkpoint()
            group.start_soon(queued)
            with pytest.raises(AttemptTimeout):
                await other.call(NOW(attempts=1, timeout=MIDDLE), AsyncScript("stuck"))
            assert results == []
            opened.set()
        assert results == ["queued"]

    run(main)


def test_async_a_backoff_holds_no_slot(run: Any) -> None:
    """While one call waits, another has the only slot (RTY-22)."""

    async def main() -> None:
        async with AsyncRetrier(1) as retrier, anyio.create_task_group() as group:
            script = AsyncScript(OSError(), 1)
            group.start_soon(retrier.call, RetryPolicy(wait_initial=3600, wait_max=3600), script)
            while script.starts == 0 or script.live:
                await checkpoint()
            assert await retrier.call(NOW(), AsyncScript(2)) == 2
            assert script.starts == 1
            group.cancel_scope.cancel()

    run(main)


def test_async_calls_inside_an_attempt_do_not_deadlock(run: Any) -> None:
    """In the attempt's own task and in tasks that it starts, through another retrier too, on one slot each."""

    async def main() -> None:
        async with AsyncRetrier(1) as retrier, AsyncRetrier(1) as other:
            live = [0]

            async def leaf(_: int) -> None:
                live[0] += 1
                assert live[0] == 1
                await checkpoint()
                live[0] -= 1

            async def middle() -> str:
                await retrier.call(NOW(timeout=LIMIT), leaf, 0)
                async with anyio.create_task_group() as group:
                    for i in range(5):
                        group.start_soon(retrier.call, NOW(), leaf, i)
                return "done"

            async def outer() -> str:
                return await other.call(NOW(), middle)

            assert await retrier.call(NOW(), outer) == "done"
            assert (retrier._slots.free, other._slots.free) == (1, 1)

    run(main)


@pytest.mark.parametrize("when", ["begins later", "is under way", "waits"])
@pytest.mark.parametrize("inner", [1, 2])
def test_async_a_task_that_outlives_its_attempt(run: Any, when: str, inner: int) -> None:
    """Its call has no slot of an attempt that is over; what it had borrowed is its own now, not free (RTY-20)."""
    live, most = [0], [0]

    async def main() -> None:
        async with AsyncRetrier(1) as retrier, AsyncRetrier(1) as other, anyio.create_task_group() as group:
            go, opened = anyio.Event(), anyio.Event()

            async def busy() -> None:
                live[0] += 1
                most[0] = max(most[0], live[0])
                await opened.wait()
                live[0] -= 1

            async def child() -> None:
                await go.wait()
                await retrier.call(NOW(), busy)

            async def parent() -> None:
                for _ in range(2 if when == "waits" else 1):
                    group.start_soon(child)
                if when != "begins later":
                    go.set()
                    await until_settled(lambda: live[0] == 1 and len(retrier._slots.waiting) == (when == "waits"))

            async def around() -> None:
                await other.call(NOW(), parent)

            await retrier.call(NOW(), parent if inner == 1 else around)
            group.start_soon(retrier.call, NOW(), busy)
            await until_settled(lambda: live[0] == 1)
            go.set()
            expected = {"begins later": 1, "is under way": 1, "waits": 2}[when]
            await until_settled(lambda: len(retrier._slots.waiting) == expected)
            assert (live[0], retrier._slots.free) == (1, 0)
            opened.set()
        assert (retrier._slots.free, other._slots.free) == (1, 1)

    run(main)
    assert most[0] == 1


async def until_settled(true: Callable[[], bool]) -> None:
    """Let the other tasks run until it is so."""
    while not true():
        await checkpoint()


@pytest.mark.parametrize("seed", range(12))
def test_async_slots_are_neither_lost_nor_made(run: Any, seed: int) -> None:
    """However calls nest, outlive each other, fail and are cancelled: chains of lenders and free slots are the bound."""
    dice, limit = random.Random(seed), 1 + seed % 3

    async def main() -> None:
        async with AsyncRetrier(limit) as retrier, AsyncRetrier(99) as other, anyio.create_task_group() as group:
            slots, held, calls = retrier._slots, set[Any](), [60]

            def check() -> None:
                assert sum(slot.lender is None for slot in held if not slot.over) <= limit - slots.free
                for waiter in slots.waiting:
                    lender = waiter.slot.around()
                    assert not slots.free
                    assert lender is None or lender.borrower is not None

            async def fn(depth: int) -> None:
                slot = _held.get()
                while slot is not None:
                    if slot.slots is slots:
                        held.add(slot)
                    slot = slot.outer
                for _ in range(dice.randrange(3)):
                    check()
                    await checkpoint()
                    if depth < 4 and calls[0] > 0:
                        calls[0] -= 1
                        if dice.random() < 0.4:
                            group.start_soon(call, depth + 1)
                        else:
                            await call(depth + 1)
                if dice.random() < 0.3:
                    raise OSError

            async def call(depth: int) -> None:
                which = other if dice.random() < 0.2 else retrier
                with suppress(OSError), anyio.CancelScope() as scope:
                    if dice.random() < 0.2:
                        group.start_soon(cancel, scope)
                    await which.call(NOW(attempts=2), fn, depth)

            async def cancel(scope: anyio.CancelScope) -> None:
                for _ in range(dice.randrange(6)):
                    await checkpoint()
                scope.cancel()

            for _ in range(6):
                group.start_soon(call, 0)
        assert (slots.free, other._slots.free) == (limit, 99)
        assert not slots.waiting

    run(main)


def test_async_attempts_see_the_context(run: Any) -> None:
    """The caller's variables (RTY-14)."""

    async def fn() -> str:
        return VARIABLE.get()

    async def main() -> Any:
        VARIABLE.set("the caller's")
        async with AsyncRetrier(1) as retrier:
            return await retrier.call(NOW(), fn)

    assert run(main) == "the caller's"


def test_async_a_closed_retrier_takes_no_more_calls(run: Any) -> None:
    """It says so; and what to call is checked before anything runs (RTY-13)."""

    async def main() -> None:
        async with AsyncRetrier(1) as retrier:
            with pytest.raises(TypeError, match="policy comes first"):
                await retrier.call(3, AsyncScript(1))  # type: ignore[arg-type]
        with pytest.raises(RuntimeError, match="closed"):
            await retrier.call(NOW(), AsyncScript(1))

    run(main)


def test_async_a_cancellation_of_its_own_is_not_retried_unless_named() -> None:
    """On asyncio a coroutine may raise CancelledError though nobody cancelled its task (RTY-12)."""

    async def main() -> None:
        async with AsyncRetrier(1) as retrier:
            fn = AsyncScript(asyncio.CancelledError(), 1)
            with pytest.raises(asyncio.CancelledError):
                await retrier.call(NOW(timeout=LIMIT), fn)
            assert fn.starts == 1
            assert await retrier.call(NOW(on=asyncio.CancelledError), AsyncScript(asyncio.CancelledError(), 1)) == 1

    asyncio.run(main())
