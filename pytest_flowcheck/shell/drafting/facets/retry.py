"""retry: something that calls a function again, and is told how often."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.shell.drafting import names
from pytest_flowcheck.shell.drafting.draft import Draft, call, can_not, guard, method, opened, wrapped

if TYPE_CHECKING:
    from pytest_flowcheck.shell.drafting.sight import Parameter, Sight, Signature
    from pytest_flowcheck.shell.drafting.trying import Held

LOOKS_FOR: Final = "a number of attempts (attempts, max_attempts, retries, stop, ...) and a function to call"
ASKED: Final = "*, max_workers"
CALLS: Final = ("call", "run", "execute", "invoke", "retry", "__call__")
SKELETON: Final = [
    method(
        "def call(self, body, policy)",
        guard("how body is called under policy.attempts, .backoff, .retry_on"),
    )
]
_COUNTS: Final[Sequence[tuple[Sequence[str], str]]] = (
    (
        (
            *("attempts", "max_attempts", "tries", "max_tries", "stop_max_attempt_number", "n_attempts", "max_calls"),
            *("times", "n_tries", "num_tries", "num_attempts", "attempt_limit", "total_attempts", "trials"),
        ),
        "policy.attempts",
    ),
    (("retries", "max_retries", "retry_count", "num_retries", "n_retries", "max_retry"), "policy.attempts - 1"),
)
"""What usually counts attempts, and what the tries after the first; a trial shows which it is."""
_WAITS: Final = (
    *("wait_initial", "backoff", "delay", "interval", "initial_delay", "base_delay", "wait_seconds"),
    *("retry_delay", "retry_interval", "retry_interval_seconds", "initial_backoff", "sleep_seconds"),
    *("delay_seconds", "backoff_seconds", "pause_seconds", "retry_wait", "wait_time", "sleep_time", "wait_fixed"),
    *("wait_min", "min_wait", "min_delay"),
    *("wait_max", "max_delay", "max_wait", "max_backoff", "backoff_max", "max_interval"),
)
_PERHAPS_WAITS: Final = (
    *("wait", "pause", "sleep", "sleep_for", "sleeptime", "wait_for", "wait_between", "sleep_between", "pause_between"),
    *("cooldown", "gap", "seconds", "delay_ms", "wait_ms", "backoff_ms", "interval_ms", "pause_ms", "sleep_ms"),
)
"""Seconds to wait, where none of the names above is there: some libraries take a function or a strategy by these."""
_ON: Final = (
    *("on", "retry_on", "exceptions", "exception", "retry_exceptions", "errors", "catch", "retry_for", "error", "exc"),
    *("retry_on_exceptions", "exception_types", "exc_types", "error_types", "retryable", "retryable_exceptions"),
    *("on_exceptions", "on_errors", "catches", "expected", "allowed_exceptions", "handle", "handles"),
)
_PLAIN: Final[Sequence[tuple[Sequence[str], str]]] = (
    (("wait_jitter", "jitter", "max_jitter"), "0"),
    (("wait_exp_base", "exp_base", "exponential_base", "multiplier", "factor", "backoff_factor", "backoff_rate"), "1"),
    (("reraise",), "True"),
)
ENOUGH: Final = 4
"""Attempts after which a call that was told of none is taken to go on for ever."""

WAIT: Final = 0.05
"""Seconds to wait between two attempts."""
LONG: Final = 0.5
"""More seconds than anything takes that waits for nothing."""
GAVE_A_FUNCTION: Final = "calling it gave a function and made no attempt"

_TIMEOUT: Final = ("timeout", "attempt_timeout", "per_attempt_timeout", "time_limit", "timeout_seconds")
_TENACITY: Final = ("stop_after_attempt", "wait_fixed", "retry_if_exception_type")
"""Strategies as objects: tenacity's, and of those who follow it."""
_DECORATES: Final = ("__call__", "wrap", "wraps", "decorate", "decorator")
"""Methods that may give a function to be called in its turn."""
_FIELDS: Final = (
    ("timeout", "policy.timeout is not None", "no limit on one attempt was found"),
    ("backoff", "policy.backoff != 0", "no wait between two attempts was found"),
    ("retry_on", "policy.retry_on != (Exception,)", "no choice of the errors that are worth another try was found"),
)
"""A field of a policy, when it asks for something, and what is said where no way to tell the thing of it was found."""


@dataclass(frozen=True)
class _Way:
    """Which of the parameters that were found are used, and how."""

    timed: bool
    wait: str
    """What is waited; empty: its parameters are left alone."""
    on: bool
    swapped: bool
    """What is called as a number of retries counts attempts, or the other way round."""


_WAYS: Final = tuple(
    _Way(timed, wait, on, swapped)
    for timed in (True, False)
    for wait, on in (
        *(("policy.backoff", True), ("0", True), ("", True)),
        *(("policy.backoff", False), ("0", False), ("", False)),
    )
    for swapped in (False, True)
)
"""The likeliest first. What a way leaves out stands in its draft as what can't be asked."""


WORDS: Final = (
    *(word for words, _ in (*_COUNTS, *_PLAIN) for word in words),
    *(word for word in (*_WAITS, *_ON, *_TIMEOUT) if word not in {"error", "expected", "handle"}),
    *("retry", "stop", "retrying"),
)


def drafts(seen: Sight, *, aio: bool) -> Iterator[Draft]:
    """Options in a policy, in the constructor, in the call, or in a decorator; with a limit for each attempt if there is one."""
    told: set[str] = set()
    for way in _WAYS:
        for draft in (*_by_method(seen, way, aio=aio), *_by_function(seen, way, aio=aio)):
            text = "\n".join([*draft.wrapper, *draft.opening])
            if text not in told:
                told.add(text)
                yield draft


def _by_method(seen: Sight, way: _Way, *, aio: bool) -> Iterator[Draft]:
    found = seen.find(CALLS, aio=aio) if seen.kind == "class" else None
    if found is not None and any(map(names.is_function, found.parameters)):
        policy = next((p for p in found.parameters if _counts(p.options)), None)
        if policy is not None:
            made = _options(policy.options, seen, way)
            name = policy.type.rpartition(":")[2]
            if made is not None:
                yield from _held(seen, found, {policy.name: (f"{name}(", made)}, _import(policy.type), way, aio=aio)
            return
        if _counts(found.parameters):
            yield from _held(seen, found, {}, [], way, aio=aio)
            return
    if seen.kind == "class" and _counts(seen.made_by.parameters, seen):
        yield from _by_constructor(seen, found, way, aio=aio)


def _by_constructor(seen: Sight, found: Signature | None, way: _Way, *, aio: bool) -> Iterator[Draft]:
    """Made with what it is told, for each call; it calls the function, or gives one to be called."""
    options = _options(seen.made_by.parameters, seen, way)
    if options is None or names.missing(seen.made_by, _named(options)):
        return
    decorator = seen.find(_DECORATES, aio=False)
    ways: list[tuple[Signature, str]] = []
    if found is not None and any(map(names.is_function, found.parameters)):
        ways.append((found, ""))
    if decorator is not None and any(map(names.is_function, decorator.parameters)):
        ways.append((decorator, "()"))
    for called, behind in ways:
        target = "" if called.name == "__call__" else f".{called.name}"
        lines = call(
            f"{_await(aio)}{names.thing(seen)}(",
            options,
            f"){target}({', '.join(_arguments(called, way, aio))}){behind}",
            indent=8,
        )
        yield _free(seen, lines, _strategies(seen), way, aio=aio)


def _by_function(seen: Sight, way: _Way, *, aio: bool) -> Iterator[Draft]:
    if seen.kind != "function" or not _counts(seen.made_by.parameters, seen):
        return
    options = _options(seen.made_by.parameters, seen, way)
    if options is None:
        return
    name = names.thing(seen)
    function = next(
        (p for p in seen.made_by.parameters if names.is_function(p) and p.name not in _named(options)), None
    )
    if function is not None and function.required:
        if names.missing(seen.made_by, [function.name, *_named(options)]):
            return
        given = [names.give(function, _body(aio)), *options]
        if seen.made_by.aio == aio:
            yield _free(seen, call(f"{_await(aio)}{name}(", given, indent=8), _strategies(seen), way, aio=aio)
        if not seen.made_by.aio:
            yield _free(seen, call(f"{_await(aio)}{name}(", given, ")()", indent=8), _strategies(seen), way, aio=aio)
    else:
        lines = call(f"{_await(aio)}{name}(", options, f")({_body(aio)})()", indent=8)
        yield _free(seen, lines, _strategies(seen), way, aio=aio)


def _named(options: Sequence[str]) -> list[str]:
    """The parameters that these arguments give."""
    return [option.partition("=")[0] for option in options]


def _held(
    seen: Sight,
    found: Signature,
    policies: dict[str, tuple[str, list[str]]],
    more: list[str],
    way: _Way,
    *,
    aio: bool,
) -> Iterator[Draft]:
    """A draft with one instance for all calls; none where more must be given than is known."""
    lines: list[str] = []
    given: list[str] = []
    for parameter in found.parameters:
        if parameter.name in policies:
            before, made_with = policies[parameter.name]
            lines = call(f"options = {before}", made_with, indent=8)
            given.append(names.give(parameter, "options"))
        elif names.is_function(parameter) and _body(aio) not in given:
            given.append(names.give(parameter, _body(aio)))
    if names.missing(found, [*policies, *(p.name for p in found.parameters if names.is_function(p)), *_known(found)]):
        return
    workers = seen.option(names.BOUND)
    if names.missing(seen.made_by, [] if workers is None else [workers.name]):
        return
    if not policies:
        options = _options(found.parameters, seen, way)
        if options is None:
            return
        given += options
    body = [*lines, *call(f"return {_await(aio)[7:]}self.thing.{found.name}(", given, indent=8)]
    made = call(f"{names.thing(seen)}(", [] if workers is None else [names.give(workers, "max_workers")], indent=8)
    closes = names.closing(seen, aio=aio)
    lines = opened(made, "_Retry(thing)", enters=seen.aenters if aio else seen.enters, closes=closes, aio=aio)
    claims = ["bounded"] if workers is not None else []
    wrapper = wrapped("_Retry", [_call(body, aio=aio)])
    yield Draft("retry", aio, wrapper, lines, ASKED, [*names.imports(seen), *more], claims, timed=way.timed)


def _free(seen: Sight, lines: list[str], more: list[str], way: _Way, *, aio: bool) -> Draft:
    """A draft that makes what it needs for each call."""
    wrapper = wrapped("_Retry", [_call(lines, aio=aio)], held=())
    return Draft("retry", aio, wrapper, ["yield _Retry()"], ASKED, [*names.imports(seen), *more], timed=way.timed)


def _call(lines: list[str], *, aio: bool) -> list[str]:
    """The method; what of a policy its lines don't use can't be asked."""
    text = "\n".join(lines)
    guards: list[str] = []
    for name, asked, said in _FIELDS:
        if f"policy.{name}" not in text:
            guards += can_not(asked, said)
    return method(f"{'async ' if aio else ''}def call(self, body, policy)", [*guards, *lines])


def _await(aio: bool) -> str:
    return "return await " if aio else "return "


def _body(aio: bool) -> str:
    return "body.aio" if aio else "body"


def _arguments(found: Signature, way: _Way, aio: bool) -> list[str]:
    """What the call takes besides what its instance was made with."""
    given: list[str] = []
    for parameter in found.parameters:
        if parameter.name in _ON and way.on:
            given.append(names.give(parameter, "policy.retry_on"))
        elif names.is_function(parameter):
            return [*given, names.give(parameter, _body(aio))]
    return given


def _counts(parameters: Sequence[Parameter], seen: Sight | None = None) -> bool:
    """Whether one of these says how often."""
    own = {parameter.name for parameter in parameters}
    return any(own & set(words) for words, _ in _COUNTS) or (
        seen is not None and "stop" in own and set(_TENACITY) <= set(seen.names)
    )


def _options(parameters: Sequence[Parameter], seen: Sight, way: _Way) -> list[str] | None:
    """The arguments that say how often and how long; None for the timed way where nothing limits an attempt."""
    own = {parameter.name: parameter for parameter in parameters}
    given = _how_often(own, way)
    if "stop" in own and set(_TENACITY) <= set(seen.names):
        given = [
            "stop=stop_after_attempt(policy.attempts)",
            "wait=wait_fixed(policy.backoff)",
            "retry=retry_if_exception_type(policy.retry_on)",
            *(["reraise=True"] if "reraise" in own else []),
        ]
    limit = next((name for name in _TIMEOUT if name in own), None)
    if way.timed and limit is None:
        return None
    if limit is not None:
        given.append(f"{limit}={'policy.timeout' if way.timed else 'None'}")
    return given


def _how_often(own: Mapping[str, Parameter], way: _Way) -> list[str]:
    counts = dict(_COUNTS)
    if way.swapped:
        counts = dict(zip(counts, reversed(counts.values()), strict=True))
    given = [f"{name}={value}" for words, value in counts.items() for name in words if name in own]
    waits = [name for name in _WAITS if name in own] or [
        name for name in _PERHAPS_WAITS if name in own and "Callable" not in own[name].annotation
    ][:1]
    if way.wait:
        given += [f"{name}={way.wait}{' * 1000' if name.endswith('_ms') else ''}" for name in waits]
    given += [f"{name}={value}" for words, value in _PLAIN[:2] for name in words if name in own]
    if way.on:
        given += [f"{name}=policy.retry_on" for name in [name for name in _ON if name in own][:1]]
    return [*given, *(f"{name}={value}" for words, value in _PLAIN[2:] for name in words if name in own)]


def _known(found: Signature) -> list[str]:
    """The parameters that say how often and how long."""
    words = {name for words, _ in (*_COUNTS, *_PLAIN) for name in words} | {*_WAITS, *_PERHAPS_WAITS, *_ON, *_TIMEOUT}
    return [parameter.name for parameter in found.parameters if parameter.name in words]


def _strategies(seen: Sight) -> list[str]:
    if {"stop"} <= {p.name for p in seen.made_by.parameters} and set(_TENACITY) <= set(seen.names):
        return [f"from {seen.module.partition('.')[0]} import {', '.join(sorted(_TENACITY))}"]
    return []


def _import(where: str) -> list[str]:
    module, _, name = where.partition(":")
    return [f"from {module} import {name.partition('.')[0]}"]


# --- the child's side ---------------------------------------------------------------------------------------------------


class _Fails(Exception):  # noqa: N818 - what an attempt raises
    """None of those that a library may have thought of."""


async def check(held: Held) -> None:
    """Fails once, then returns; always fails; waits; fails with what is not to be tried again; is stuck once, where that is
    mapped."""
    from pytest_flowcheck.protocols.retry import RetryPolicy

    async with held.open(max_workers=2) as retry:
        tries: list[str] = []

        def second() -> int:
            tries.append(held.variable())
            if len(tries) == 1:
                raise _Fails("the first attempt fails")
            return 7

        value = await held.value(retry.call(held.body(second), RetryPolicy(attempts=3)))
        held.expect(tries or not callable(value), GAVE_A_FUNCTION)
        held.expect(value == 7 and len(tries) == 2, f"after one failure: {value!r} by {len(tries)} attempts")
        if tries[-1] == "seen":
            held.claims.add("context")
        await _always(held, retry)
        await _waits(held, retry)
        await _not_this(held, retry)
        for choice, attempts in (("zero_attempts", 0), ("none_attempts", None)):
            await _odd(held, retry, choice, attempts)
        if held.timed:
            await _stuck(held, retry)
            held.claims.add("timeout")
            await _no_time(held, retry)


async def _always(held: Held, retry: object) -> None:
    from pytest_flowcheck.protocols.retry import RetryPolicy

    tries: list[int] = []

    def fails() -> None:
        tries.append(1)
        raise _Fails("always")

    error = await held.error(retry, "call", held.body(fails), RetryPolicy(attempts=2))
    held.expect(
        error is not None and len(tries) == 2, f"of two attempts that fail, {len(tries)} ran, and {error!r} came of it"
    )
    if not isinstance(error, _Fails):
        held.declares["raises"] = "wrapper"


async def _waits(held: Held, retry: object) -> None:
    """Nothing is waited where none is asked for, and what is asked for is waited in full, unless it can't be asked."""
    from pytest_flowcheck.protocols import Inexpressible

    error, gap = await _gap(held, retry, 0.0)
    for _ in range(2):  # a busy machine may take its time, but hardly three times
        if gap > LONG:
            gap = min(gap, (await _gap(held, retry, 0.0))[1])
    held.expect(gap <= LONG, f"told to wait for nothing, it waits {gap:.1f} s between two attempts")
    error, gap = await _gap(held, retry, WAIT)
    if not isinstance(error, Inexpressible):
        held.expect(gap >= 0.9 * WAIT, f"told to wait {WAIT} s between two attempts, it waits {gap:.3f} s ({error!r})")


async def _gap(held: Held, retry: object, backoff: float) -> tuple[BaseException | None, float]:
    """What a call raised that fails once, and the seconds between its attempts."""
    from pytest_flowcheck.protocols.retry import RetryPolicy

    tries: list[float] = []

    def second() -> int:
        tries.append(time.monotonic())
        if len(tries) == 1:
            raise _Fails("the first attempt fails")
        return 7

    error = await held.error(retry, "call", held.body(second), RetryPolicy(attempts=2, backoff=backoff))
    return error, tries[-1] - tries[0] if len(tries) > 1 else 0.0


async def _not_this(held: Held, retry: object) -> None:
    from pytest_flowcheck.protocols.retry import RetryPolicy

    tries: list[int] = []

    def fails() -> None:
        tries.append(1)
        raise KeyError("not to be tried again")

    await held.error(retry, "call", held.body(fails), RetryPolicy(attempts=2, retry_on=(OSError,)))
    if len(tries) == 1:  # none at all where it can't be asked
        held.claims.add("policy")


async def _odd(held: Held, retry: object, choice: str, attempts: Any) -> None:
    """What it makes of a number of attempts that is none: refuses it, tries once, or goes on."""
    from pytest_flowcheck.protocols.retry import RetryPolicy

    tries: list[int] = []

    def fails() -> int:
        tries.append(1)
        if len(tries) < ENOUGH:
            raise _Fails("not yet")
        return 7

    await held.error(retry, "call", held.body(fails), RetryPolicy(attempts=attempts))
    if tries:
        held.declares[choice] = "once" if len(tries) == 1 else "forever"


async def _no_time(held: Held, retry: object) -> None:
    """What it makes of a limit of no seconds."""
    from pytest_flowcheck.protocols import Invalid
    from pytest_flowcheck.protocols.retry import RetryPolicy

    error = await held.error(retry, "call", held.body(lambda: 7), RetryPolicy(attempts=1, timeout=0))
    if error is None:
        held.declares["zero_timeout"] = "none"
    elif not isinstance(error, (Invalid, ValueError, TypeError)):
        held.declares["zero_timeout"] = "at_once"


async def _stuck(held: Held, retry: object) -> None:
    """An attempt that never ends of itself, under a short limit; the next returns. Should the limit be for all attempts
    together, or none at all, the call raises or never comes back, and this way is given up."""
    from pytest_flowcheck.protocols.retry import RetryPolicy

    body, let_go = held.stuck_once()
    try:
        value = await held.value(retry.call(body, RetryPolicy(attempts=2, timeout=0.05)))  # type: ignore[attr-defined]
    finally:
        let_go()
    held.expect(value == 7, f"with a limit on each attempt: {value!r}")
