"""EXE-06, 07, 38: `map`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.executor import _tasks as tasks
from pytest_flowcheck.suites.executor._shared import draws, release

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("EXE-06", property=True)
def map_keeps_the_input_order(lab: Lab) -> None:
    """`map` yields results in input order whatever the completion order, zips several iterables to the shortest, and raises the first error in input order (an Exception other than StopIteration) at its place.

    Intent: `map` is a drop-in for the builtin: only faster, never shuffled.

    Usual cause: Results are yielded as they complete, or the first error in time is raised instead of the first in order.

    Proof: All items are in flight at their gates and are let go in a drawn order; what `map` yields is compared.

    Source: Python library reference, `Executor.map`.
    """

    def scenario(drawn: tuple[list[int], int, int]) -> None:
        order, failing, longer = drawn
        count = len(order)
        names = [f"item({i}, {chr(97 + i)!r})" for i in range(count)]
        does = _FailAt(failing) if failing < count else _FailAt(-1)
        letters = "abcdefgh"[:count] if longer else "abcdefgh"  # now the one, now the other iterable is the shorter
        with lab.executor(max_workers=count) as executor:
            item = lab.probe("item", does)
            reader = lab.call("reading map()", lambda: _read(executor.map(item, range(count + longer), letters)))
            lab.until(
                lambda: len(lab.live()) == count, f"{count} items are in flight on {count} workers", needs="EXE-03"
            )
            release(lab, [names[i] for i in order])
            got = reader.result()
        expected: list[Any] = [i if i != failing else f"TaskError({i})" for i in range(min(count, failing + 1))]
        told = f"items completed in the order {order}; map gave {got}"
        lab.check(got == expected, told, f"{expected}: input order, up to and with the first error")

    orders = st.integers(1, 4 if lab.claims("threads") else 3).flatmap(lambda n: st.permutations(range(n)))
    strategy = st.tuples(orders, st.integers(0, 5), st.integers(0, 2))
    forall(
        lab,
        scenario,
        strategy,
        examples=draws(lab, 25),
        describe=lambda d: (
            f"completion order {list(d[0])}; item {d[1]} raises"
            if d[1] < len(d[0])
            else f"completion order {list(d[0])}"
        ),
    )


class _FailAt:
    """The item's number, or an error at one of them."""

    def __init__(self, failing: int) -> None:
        self.failing = failing

    def __call__(self, number: int, _letter: str) -> int:
        if number == self.failing:
            raise tasks.TaskError(number)
        return number


def _read(results: Iterator[Any]) -> list[Any]:
    """What `map` yields, with the text of the error that ends it."""
    seen: list[Any] = []
    try:
        for value in results:
            seen.append(value)  # noqa: PERF402 - what came before the error counts
    except tasks.TaskError as error:
        seen.append(f"TaskError({error.args[0]})")
    return seen


@rule("EXE-07")
def map_honours_its_timeout(lab: Lab) -> None:
    """`map(timeout=)`: reading a result not done by the deadline, counted from the call of `map`, raises TimeoutError; that read cancels what can still be cancelled.

    Intent: The deadline is for the whole of the iteration, and giving up must not leave a queue of unwanted work.

    Usual cause: The timeout is ignored, or applied to each item anew; the iterator's clean-up is forgotten.

    Proof: The first item is gated, so that only the deadline can end the read; once all gates are open and nothing moves any more, the items deep in the queue have not run.

    Source: Python library reference, `Executor.map`; CPython `Executor.map.result_iterator`.
    """
    count = 12  # more than any process pool prefetches for one worker
    with lab.executor(max_workers=1) as executor:
        item = lab.probe("item")

        def read_first() -> str:
            results = executor.map(item, range(count), timeout=0.1)
            try:
                return f"yielded {next(results)!r}"
            except TimeoutError:
                return "TimeoutError"

        reader = lab.call("reading the first of map(timeout=0.1)", read_first)
        lab.until(lambda: reader.done or bool(lab.live()), "the first item is in flight", needs="EXE-01")
        got = reader.result()
        lab.check(
            got == "TimeoutError", f"reading an item that is gated {got}", "TimeoutError once the deadline has passed"
        )
        lab.open_all()
        lab.settle()
        ran = lab.started()
        last = f"item({count - 1})"
        lab.check(
            last not in ran,
            f"after the timeout {len(ran)} of {count} items ran, {last} among them",
            "what was still queued is cancelled",
        )


class _FailingInputs:
    """An iterable, not an iterator: some clusters refuse the latter outright, which is another matter."""

    def __iter__(self) -> Iterator[int]:
        yield 0
        yield 1
        raise tasks.TaskError("the input failed")


@rule("EXE-38")
def an_input_that_raises_hangs_nothing(lab: Lab) -> None:
    """An input iterable of `map` that raises raises to the caller, and nothing submitted hangs.

    Intent: A generator that fails half-way is the caller's bug; it must be told, and find the executor usable.

    Usual cause: Inputs are read on a thread of the pool's own, whose exception goes nowhere.

    Proof: What the caller got is compared; the items submitted before are waited for by proof.

    Source: CPython `Executor.map` reads its inputs in the caller.
    """

    with lab.executor(max_workers=2) as executor:
        item = lab.probe("item", gated=False)

        def read() -> str:
            try:
                return f"gave {list(executor.map(item, _FailingInputs()))}"
            except tasks.TaskError as error:
                return f"raised {error}"

        got = lab.call("reading map() over a failing iterable", read).result()
        lab.check(got == "raised the input failed", f"map {got}", "the iterable's own TaskError('the input failed')")
        after = lab.submit(executor, "after", gated=False)
        lab.check(
            lab.finish(after, "a task after it") == "after",
            "a later task gave another result",
            "the executor is usable",
        )
