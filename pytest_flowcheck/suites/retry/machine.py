"""RTY-05: any pattern of attempts against a small model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.protocols.retry import RetryPolicy
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.retry import _script
from pytest_flowcheck.suites.retry._shared import (
    LIMITS,
    AttemptError,
    all_done,
    attempts_of,
    begin,
    ended,
    is_the,
    raised_last,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab

Does = Literal["returns", "raises", "stuck"]


class Expected(NamedTuple):
    """How a call comes out, and how many attempts it takes."""

    outcome: str
    """`result 2`, `error 3` or `timeout 3`: the last attempt's."""
    starts: int


def model(pattern: tuple[Does, ...]) -> Expected:
    """All that a retry promises: one attempt after the other, until one returns or there are no more."""
    outcome = ""
    for number, does in enumerate(pattern, 1):
        outcome = {"returns": f"result {number}", "raises": f"error {number}", "stuck": f"timeout {number}"}[does]
        if does == "returns":
            return Expected(outcome, number)
    return Expected(outcome, len(pattern))


def slower(pattern: tuple[Does, ...]) -> Iterator[Expected]:
    """What the model says where some attempts that nothing holds up were timed out by a busy machine."""
    choices: list[tuple[Does, ...]] = [("stuck",) if does == "stuck" else (does, "stuck") for does in pattern]
    return (model(other) for other in product(*choices))


class Plays:
    """A body whose attempts follow a pattern; the stuck ones stand at their gates."""

    def __init__(self, pattern: tuple[Does, ...]) -> None:
        self.pattern = pattern

    def __call__(self, number: int) -> str:
        if self.pattern[number - 1 : number] == ("raises",):
            raise AttemptError(f"error {number}")
        return f"result {number}"


class _Reused:
    """One instance for all scenarios without stuck attempts. A new one after a scenario that failed, and for each with
    stuck ones: those may leave something behind, and a scenario must tell all that it takes to see it again."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._opened = ExitStack()
        self._instance: Instance | None = None

    def get(self) -> Instance:
        if self._instance is None:
            self._instance = self._opened.enter_context(self._lab.instance(max_workers=4))
        return self._instance

    def drop(self) -> None:
        self._lab.open_all()
        self._instance = None
        self._opened.close()


@rule("RTY-05", property=True)
def any_pattern_agrees_with_the_model(lab: Lab) -> None:
    """For any pattern of attempts (returns, raises, `[timeout]` is stuck) the outcome, the number of starts and their order match the model.

    Intent: Each rule asks one question; bugs live where two of them meet, such as an error after a timeout.

    Usual cause: A state that one kind of failure leaves and another does not expect; a counter that only one of them counts.

    Proof: Patterns are drawn for one to three calls at once and forced by gates; outcome and starts are compared with a model of ten lines. An attempt that a busy machine timed out, though nothing held it up, is no evidence: the scenario is run again with a larger limit.

    Source: property-based state machines.
    """
    reused = _Reused(lab)

    def scenario(patterns: Patterns) -> None:
        timed = any("stuck" in pattern for pattern in patterns)
        limits: tuple[float | None, ...] = LIMITS if timed else (None,)
        agrees = False
        try:
            for limit in limits:
                if timed:
                    reused.drop()
                    lab.fresh()
                if agrees := _agrees(lab, reused.get(), patterns, limit):
                    return
        finally:
            if not agrees:
                reused.drop()
        raise Inconclusive(f"attempts that nothing held up were timed out, with a limit of {LIMITS[-1]:g} s too")

    try:
        forall(lab, scenario, _patterns(), examples=60, describe=_table, reproduce=lambda p: _script.write(lab, p))
        if lab.claims("timeout"):
            forall(lab, scenario, _with_stuck(), examples=5, describe=_table, reproduce=lambda p: _script.write(lab, p))
    finally:
        reused.drop()


Patterns: TypeAlias = "list[tuple[Does, ...]]"


def _patterns() -> st.SearchStrategy[Patterns]:
    """One to three calls without any stuck attempt."""
    does: list[Does] = ["raises", "returns"]
    return st.lists(st.lists(st.sampled_from(does), min_size=1, max_size=4).map(tuple), min_size=1, max_size=3)


def _with_stuck() -> st.SearchStrategy[Patterns]:
    """The same with stuck attempts in each call, three at most in all: fewer than there are workers (RTY-09 is about more)."""
    before: list[Does] = ["raises"]
    after: list[Does] = ["raises", "returns", "stuck"]
    one = st.tuples(st.lists(st.sampled_from(before), max_size=1), *[st.sampled_from(after)] * 2).map(
        lambda parts: (*parts[0], "stuck", *parts[1:])
    )

    def bounded(patterns: list[tuple[Does, ...]]) -> Patterns:
        left, kept = 3, list[tuple[Does, ...]]()
        for pattern in patterns:
            left -= pattern.count("stuck")
            if left < 0 and kept:
                break
            kept.append(pattern)
        return kept

    # mostly several at once, for there are few examples; shrunk to one where that is enough
    single, many = st.lists(one, min_size=1, max_size=1), st.lists(one, min_size=2, max_size=3)
    return st.one_of(single, many, many, many).map(bounded)


def _agrees(lab: Lab, it: Instance, patterns: Patterns, limit: float | None) -> bool:
    """Force the patterns and compare. False: an attempt that nothing held up was timed out."""
    calls: list[Call[Any]] = []
    for index, pattern in enumerate(patterns):
        name = f"call {index}"
        lab.open(*(f"{name} #{n}" for n in range(1, 9) if pattern[n - 1 : n] != ("stuck",)))
        policy = RetryPolicy(attempts=len(pattern), timeout=limit)
        calls.append(begin(it, lab.attempts(name, Plays(pattern)), policy))
    lab.until(
        lambda: all_done(calls),
        f"{'the call comes' if len(calls) == 1 else f'all {len(calls)} calls come'} back",
        hung=True,
    )
    for index, (pattern, call) in enumerate(zip(patterns, calls, strict=True)):
        name = f"call {index}"
        starts = attempts_of(lab, name)
        got, expected = Expected(_outcome(lab, call, len(starts)), len(starts)), model(pattern)
        if got == expected:
            continue
        if limit is not None and got in slower(pattern):
            return False
        if limit is not None and got.starts < expected.starts and lab.is_a(raised_last(lab, call.error), TimeoutError):
            # blocked, or slow to start, or not tried: RTY-04 tells these apart
            raise Inconclusive(
                f"{name} ({', '.join(pattern)}) {ended(call)} after {got.starts} of {expected.starts} attempts",
                because_of="RTY-04",
            )
        lab.check(
            False,
            f"{name} ({', '.join(pattern)}): {got.outcome} after {got.starts} started attempts",
            f"{expected.outcome} after {expected.starts}",
        )
    return True


def _outcome(lab: Lab, call: Call[Any], starts: int) -> str:
    """In the model's words; whatever it has no word for in the subject's own."""
    if call.returned:
        return call.value if isinstance(call.value, str) else repr(call.value)
    error = raised_last(lab, call.error)
    for number in range(1, 9):
        if is_the(lab, error, AttemptError(f"error {number}")):
            return f"error {number}"
    return f"timeout {starts}" if lab.is_a(error, TimeoutError) else repr(error)


def _table(patterns: Patterns) -> str:
    lines = ["call  attempts  pattern                          expected"]
    for index, pattern in enumerate(patterns):
        expected = model(pattern)
        attempts = "attempt" if expected.starts == 1 else "attempts"
        lines.append(
            f"{index:4}  {len(pattern):8}  {', '.join(pattern):31}  {expected.outcome} after {expected.starts} {attempts}"
        )
    return "\n".join(lines)
