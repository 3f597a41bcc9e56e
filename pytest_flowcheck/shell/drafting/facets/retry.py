"""retry: something that calls a function again, and is told how often."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.shell.drafting import names
from pytest_flowcheck.shell.drafting.draft import Draft, call, guard, method, opened, wrapped

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
_OPTIONS: Final[Sequence[tuple[Sequence[str], str]]] = (
    (
        ("attempts", "max_attempts", "tries", "max_tries", "stop_max_attempt_number", "n_attempts", "max_calls"),
        "policy.attempts",
    ),
    (("retries", "max_retries", "retry_count", "num_retries", "n_retries"), "policy.attempts - 1"),
    (
        (
            *("wait_initial", "backoff", "delay", "interval", "initial_delay", "base_delay", "wait_seconds"),
            *("retry_delay", "retry_interval", "retry_interval_seconds", "initial_backoff", "sleep_seconds"),
        ),
        "policy.backoff",
    ),
    (("wait_max", "max_delay", "max_wait", "max_backoff", "backoff_max", "max_interval"), "policy.backoff"),
    (("wait_jitter", "jitter", "max_jitter"), "0"),
    (("wait_exp_base", "exp_base", "exponential_base", "multiplier", "factor", "backoff_factor", "backoff_rate"), "1"),
    (
        ("on", "retry_on", "exceptions", "exception", "retry_exceptions", "errors", "catch", "retry_for"),
        "policy.retry_on",
    ),
    (("reraise",), "True"),
)
_ON: Final = _OPTIONS[6][0]
ENOUGH: Final = 4
"""Attempts after which a call that was told of none is taken to go on for ever."""

_TIMEOUT: Final = ("timeout", "attempt_timeout", "per_attempt_timeout", "time_limit", "timeout_seconds")
_TENACITY: Final = ("stop_after_attempt", "wait_fixed", "retry_if_exception_type")
"""Strategies as objects: tenacity's, and of those who follow it."""


WORDS: Final = (*(word for words, _ in _OPTIONS for word in words), *_TIMEOUT, "retry", "stop", "retrying")


def drafts(seen: Sight, *, aio: bool) -> Iterator[Draft]:
    """Options in a policy, in the constructor, in the call, or in a decorator; with a limit for each attempt if there is one."""
    for timed in (True, False):
        yield from _by_method(seen, aio=aio, timed=timed)
        yield from _by_function(seen, aio=aio, timed=timed)


def _by_method(seen: Sight, *, aio: bool, timed: bool) -> Iterator[Draft]:
    found = seen.find(CALLS, aio=aio) if seen.kind == "class" else None
    if found is None or not any(map(names.is_function, found.parameters)):
        return
    policy = next((p for p in found.parameters if _counts(p.options)), None)
    if policy is not None:
        made = _options(policy.options, seen, timed=timed)
        name = policy.type.rpartition(":")[2]
        yield from _held(seen, found, {policy.name: (f"{name}(", made)}, _import(policy.type), aio=aio, timed=timed)
    elif _counts(found.parameters):
        yield from _held(seen, found, {}, [], aio=aio, timed=timed)
    elif _counts(seen.made_by.parameters, seen):
        options = _options(seen.made_by.parameters, seen, timed=timed)
        if options is not None:
            target = "" if found.name == "__call__" else f".{found.name}"
            lines = call(
                f"{_await(aio)}{names.thing(seen)}(",
                options,
                f"){target}({', '.join(_arguments(found, aio))})",
                indent=8,
            )
            yield _free(seen, lines, _strategies(seen), aio=aio, timed=timed)


def _by_function(seen: Sight, *, aio: bool, timed: bool) -> Iterator[Draft]:
    if seen.kind != "function" or not _counts(seen.made_by.parameters, seen):
        return
    options = _options(seen.made_by.parameters, seen, timed=timed)
    if options is None:
        return
    name = names.thing(seen)
    function = next((p for p in seen.made_by.parameters if names.is_function(p)), None)
    if function is not None and function.required:
        if seen.made_by.aio == aio:
            lines = call(f"{_await(aio)}{name}(", [names.give(function, _body(aio)), *options], indent=8)
            yield _free(seen, lines, [], aio=aio, timed=timed)
    else:
        yield _free(
            seen, call(f"{_await(aio)}{name}(", options, f")({_body(aio)})()", indent=8), [], aio=aio, timed=timed
        )


def _held(
    seen: Sight,
    found: Signature,
    policies: dict[str, tuple[str, list[str] | None]],
    more: list[str],
    *,
    aio: bool,
    timed: bool,
) -> Iterator[Draft]:
    """A draft with one instance for all calls; none where more must be given than is known."""
    lines: list[str] = []
    given: list[str] = []
    for parameter in found.parameters:
        if parameter.name in policies:
            before, options = policies[parameter.name]
            lines = call(f"options = {before}", options or [], indent=8)
            given.append(names.give(parameter, "options"))
        elif names.is_function(parameter) and _body(aio) not in given:
            given.append(names.give(parameter, _body(aio)))
    if names.missing(found, [*policies, *(p.name for p in found.parameters if names.is_function(p)), *_known(found)]):
        return
    workers = seen.option(names.BOUND)
    if names.missing(seen.made_by, [] if workers is None else [workers.name]):
        return
    if not policies:
        given += _options(found.parameters, seen, timed=timed) or []
    body = [*lines, *call(f"return {_await(aio)[7:]}self.thing.{found.name}(", given, indent=8)]
    made = call(f"{names.thing(seen)}(", [] if workers is None else [names.give(workers, "max_workers")], indent=8)
    closes = names.closing(seen, aio=aio)
    lines = opened(made, "_Retry(thing)", enters=seen.aenters if aio else seen.enters, closes=closes, aio=aio)
    claims = ["bounded"] if workers is not None else []
    wrapper = wrapped("_Retry", [_call(body, aio=aio, timed=timed)])
    yield Draft("retry", aio, wrapper, lines, ASKED, [*names.imports(seen), *more], claims, timed=timed)


def _free(seen: Sight, lines: list[str], more: list[str], *, aio: bool, timed: bool) -> Draft:
    """A draft that makes what it needs for each call."""
    wrapper = wrapped("_Retry", [_call(lines, aio=aio, timed=timed)], held=())
    return Draft("retry", aio, wrapper, ["yield _Retry()"], ASKED, [*names.imports(seen), *more], timed=timed)


def _call(lines: list[str], *, aio: bool, timed: bool) -> list[str]:
    limit = (
        []
        if timed
        else ["if policy.timeout is not None:", '    raise Inexpressible("no limit on one attempt was found")']
    )
    return method(f"{'async ' if aio else ''}def call(self, body, policy)", [*limit, *lines])


def _await(aio: bool) -> str:
    return "return await " if aio else "return "


def _body(aio: bool) -> str:
    return "body.aio" if aio else "body"


def _arguments(found: Signature, aio: bool) -> list[str]:
    """What the call takes besides what its instance was made with."""
    given: list[str] = []
    for parameter in found.parameters:
        if parameter.name in _ON:
            given.append(names.give(parameter, "policy.retry_on"))
        elif names.is_function(parameter):
            return [*given, names.give(parameter, _body(aio))]
    return given


def _counts(parameters: Sequence[Parameter], seen: Sight | None = None) -> bool:
    """Whether one of these says how often."""
    own = {parameter.name for parameter in parameters}
    return any(own & set(words) for words, _ in _OPTIONS[:2]) or (
        seen is not None and "stop" in own and set(_TENACITY) <= set(seen.names)
    )


def _options(parameters: Sequence[Parameter], seen: Sight, *, timed: bool) -> list[str] | None:
    """The arguments that say how often and how long; None for the timed way where nothing limits an attempt."""
    own = {parameter.name for parameter in parameters}
    given = [f"{name}={value}" for words, value in _OPTIONS for name in words if name in own]
    if "stop" in own and set(_TENACITY) <= set(seen.names):
        given = [
            "stop=stop_after_attempt(policy.attempts)",
            "wait=wait_fixed(policy.backoff)",
            "retry=retry_if_exception_type(policy.retry_on)",
            *(["reraise=True"] if "reraise" in own else []),
        ]
    limit = next((name for name in _TIMEOUT if name in own), None)
    if timed and limit is None:
        return None
    if limit is not None:
        given.append(f"{limit}={'policy.timeout' if timed else 'None'}")
    return given


def _known(found: Signature) -> list[str]:
    """The parameters that say how often and how long."""
    words = {name for words, _ in _OPTIONS for name in words} | set(_TIMEOUT)
    return [parameter.name for parameter in found.parameters if parameter.name in words]


def _strategies(seen: Sight) -> list[str]:
    if {"stop"} <= {p.name for p in seen.made_by.parameters} and set(_TENACITY) <= set(seen.names):
        return [f"from {seen.module.partition('.')[0]} import {', '.join(sorted(_TENACITY))}"]
    return []


def _import(where: str) -> list[str]:
    module, _, name = where.partition(":")
    return [f"from {module} import {name.partition('.')[0]}"]


# --- the child's side ---------------------------------------------------------------------------------------------------


async def check(held: Held) -> None:
    """Fails once, then returns; always fails; fails with what is not to be tried again; is stuck once, where that is mapped."""
    from pytest_flowcheck.protocols.retry import RetryPolicy

    async with held.open(max_workers=2) as retry:
        tries: list[str] = []

        def second() -> int:
            tries.append(held.variable())
            if len(tries) == 1:
                raise OSError("the first attempt fails")
            return 7

        value = await held.value(retry.call(held.body(second), RetryPolicy(attempts=3, retry_on=(OSError,))))
        held.expect(value == 7 and len(tries) == 2, f"after one failure: {value!r} by {len(tries)} attempts")
        if tries[-1] == "seen":
            held.claims.add("context")
        await _always(held, retry)
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
        raise OSError("always")

    error = await held.error(retry, "call", held.body(fails), RetryPolicy(attempts=2, retry_on=(OSError,)))
    held.expect(
        error is not None and len(tries) == 2, f"of two attempts that fail, {len(tries)} ran, and {error!r} came of it"
    )
    if not isinstance(error, OSError):
        held.declares["raises"] = "wrapper"


async def _not_this(held: Held, retry: object) -> None:
    from pytest_flowcheck.protocols.retry import RetryPolicy

    tries: list[int] = []

    def fails() -> None:
        tries.append(1)
        raise KeyError("not to be tried again")

    await held.error(retry, "call", held.body(fails), RetryPolicy(attempts=2, retry_on=(OSError,)))
    if len(tries) == 1:
        held.claims.add("policy")


async def _odd(held: Held, retry: object, choice: str, attempts: Any) -> None:
    """What it makes of a number of attempts that is none: refuses it, tries once, or goes on."""
    from pytest_flowcheck.protocols.retry import RetryPolicy

    tries: list[int] = []

    def fails() -> int:
        tries.append(1)
        if len(tries) < ENOUGH:
            raise OSError("not yet")
        return 7

    await held.error(retry, "call", held.body(fails), RetryPolicy(attempts=attempts, retry_on=(OSError,)))
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
