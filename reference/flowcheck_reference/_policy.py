"""What a call is worth: how often, how long, which errors, how long to wait. Decisions only; `retry` carries them out.

The words are those of the library stamina, as are the formula and the defaults of the backoff. One differs in meaning:
`timeout` is the limit of each attempt, since an attempt that hangs is what this engine can end.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from operator import index
from types import MethodType
from typing import Any, SupportsIndex, TypeAlias, cast

RetryOn: TypeAlias = type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], bool]
"""Which errors are worth another attempt: a class, several, or a predicate."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a call is tried, for how long, and for which errors. Immutable; use one for as many calls as you like.

    All is checked when it is made, so no call begins with a value that makes no sense (RTY-13).

    Raises:
        TypeError: a value of the wrong type; a bool is no number.
        ValueError: a number out of range, NaN included.
    """

    attempts: int = 3
    """Tries in all, the first included; at least 1 (RTY-02)."""
    timeout: float | None = None
    """Seconds for each attempt, from its own start (RTY-03, 07); more than 0. None: no limit."""
    on: RetryOn = Exception
    """Which errors are retried; that an attempt took too long is one of them, an `AttemptTimeout` (RTY-16).

    A predicate is asked about each `Exception`, and answers True or False; if it raises, the call ends with that.
    KeyboardInterrupt, SystemExit and cancellation are no `Exception`: only a class among `on` can name them (RTY-12).
    """
    wait_initial: float = 0.1
    """Seconds to wait after the first attempt, without the jitter; 0: none."""
    wait_max: float = 5.0
    """Seconds: no wait is longer; 0: no wait at all."""
    wait_jitter: float = 1.0
    """Seconds: a random part, from 0 to this, is added to each wait."""
    wait_exp_base: float = 2.0
    """Each wait is so many times the one before, without the jitter; more than 0."""

    def __post_init__(self) -> None:
        """Refuse nonsense."""
        _check_attempts(self.attempts)
        if self.timeout is not None:
            _check_seconds("timeout", self.timeout, "None is no limit")
            if self.timeout == 0:
                msg = "timeout must be more than 0 seconds: None is no limit"
                raise ValueError(msg)
        for name in ("wait_initial", "wait_max", "wait_jitter", "wait_exp_base"):
            _check_seconds(name, getattr(self, name), "0 is no wait")
        if self.wait_exp_base == 0:
            msg = "wait_exp_base must be more than 0: 1 makes all waits equal"
            raise ValueError(msg)
        _check_on(self.on)

    def retries(self, error: BaseException) -> bool:
        """Is `error` worth another attempt?

        Raises: whatever the predicate raises; TypeError: it answered neither True nor False.
        """
        on = self.on
        if isinstance(on, (type, tuple)):
            return isinstance(error, on)
        if not isinstance(error, Exception):
            return False
        return _checked_verdict(on(error))

    def delay(self, attempt: int) -> float:
        """Seconds to wait after attempt number `attempt`, the first being 1."""
        if not self.wait_max:
            return 0.0
        jitter = random.uniform(0, self.wait_jitter) if self.wait_jitter else 0.0  # noqa: S311  nobody's secret
        try:
            grown = self.wait_initial * self.wait_exp_base ** (attempt - 1)
        except OverflowError:
            grown = self.wait_max if self.wait_initial else 0.0
        return min(self.wait_max, grown + jitter)


class AttemptTimeout(TimeoutError):  # noqa: N818  named as the built-in one is
    """One attempt took longer than the policy allows. A call's own TimeoutError is never one of these (RTY-25).

    What a call of its own raised inside the attempt may be one, but says another `call`.
    """

    def __init__(self, call: str, attempt: int, limit: float) -> None:
        super().__init__(f"{call}: attempt {attempt} was given up after {limit:g} s")
        self.call = call
        """The name of what was called."""
        self.attempt = attempt
        """Which attempt; the first is 1."""
        self.limit = limit
        """Seconds."""

    def __reduce__(self) -> tuple[type[AttemptTimeout], tuple[str, int, float]]:
        """To travel between processes."""
        return type(self), (self.call, self.attempt, self.limit)


class TooManyAbandonedError(RuntimeError):
    """So many threads are stuck in attempts that were given up that no other attempt with a limit is begun.

    Not retried: only when some of the stuck come back, or the process ends, is there room again.
    """

    def __init__(self, bound: int) -> None:
        super().__init__(f"{bound} threads are stuck in attempts that were given up: no more are begun (max_abandoned)")
        self.bound = bound

    def __reduce__(self) -> tuple[type[TooManyAbandonedError], tuple[int]]:
        """To travel between processes."""
        return type(self), (self.bound,)


def name_of(fn: Callable[..., Any]) -> str:
    """What to call it in a message."""
    while isinstance(fn, partial):
        fn = fn.func
    name = _own_name(fn)
    owner = None if not isinstance(fn, MethodType) or isinstance(fn.__self__, type) else _own_name(fn.__self__)
    if owner is not None:
        return f"{owner}.{fn.__name__}"  # a method of something that has a name itself says more than its class would
    return _type(fn) if name is None else name


def _own_name(thing: object) -> str | None:
    for attribute in ("__qualname__", "__name__"):
        name = getattr(thing, attribute, None)
        if isinstance(name, str):
            return name
    return None


def linked(errors: Sequence[BaseException]) -> BaseException:
    """The last of `errors`, from which the others can now be reached by `__context__` (RTY-21).

    What these errors had for causes and contexts stays; each is linked once, and no circle is made, also where one
    object was raised twice. The one thing left out is an earlier error that itself leads to the last one.
    """
    last = errors[-1]
    spine = _spine(last)
    known = _reachable(last)
    for error in reversed(errors[:-1]):
        if id(error) in known:
            continue
        reach = _reachable(error)
        if id(last) in reach:
            continue
        # Where `error` leads back to something on the spine, it goes in before that: behind it would close a circle.
        apart = known.isdisjoint(reach)
        place = len(spine) if apart else next((i for i, link in enumerate(spine) if id(link) in reach), len(spine))
        spine[place - 1].__context__ = error
        known.update(reach)
        spine[place:] = _spine(error)
    return last


def _spine(error: BaseException) -> list[BaseException]:
    """`error`, its context, the context of that, …"""
    spine: dict[int, BaseException] = {}
    link: BaseException | None = error
    while link is not None and id(link) not in spine:
        spine[id(link)] = link
        link = link.__context__
    return list(spine.values())


def _reachable(error: BaseException) -> set[int]:
    """The ids of all that `error` leads to, itself included."""
    found: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if id(one) not in found:
            found.add(id(one))
            todo.extend(link for link in (one.__context__, one.__cause__) if link is not None)
    return found


def _check_attempts(value: object) -> None:
    """A whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        msg = f"attempts must be a whole number of at least 1, not {value!r} ({_type(value)})"
        raise TypeError(msg)
    if index(value) < 1:
        msg = f"attempts must be at least 1, not {value!r}: the first try counts"
        raise ValueError(msg)


def _check_on(value: object) -> None:
    """An exception class, a tuple of them, or a predicate; a class of something else is a mistake, not a predicate."""
    kind = _type(value)
    classes = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
    if all(isinstance(one, type) and issubclass(one, BaseException) for one in classes):
        return
    if isinstance(value, (type, tuple)) or not callable(value):
        msg = f"on must be exception classes or a predicate, not {value!r} ({kind})"
        raise TypeError(msg)


def _check_seconds(name: str, value: object, hint: str) -> None:
    """A finite number of at least 0 that a lock can wait for."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        msg = f"{name} must be a number, not {value!r} ({_type(value)})"
        raise TypeError(msg)
    if not 0 <= value <= threading.TIMEOUT_MAX or not isfinite(value):
        msg = (
            f"{name} must be a finite number, not negative and at most {threading.TIMEOUT_MAX:g}, not {value!r}: {hint}"
        )
        raise ValueError(msg)


def _checked_verdict(verdict: object) -> bool:
    """Strict: a coroutine, say, would count as true."""
    if not isinstance(verdict, bool):
        msg = f"the predicate `on` must answer True or False, not {verdict!r} ({_type(verdict)})"
        raise TypeError(msg)
    return verdict


def _type(value: object) -> str:
    """Its type's name."""
    return type(value).__name__
