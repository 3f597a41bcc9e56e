"""FAN-05, 13, 16, 21, 22: odd bounds, no items, endless and mutable ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.proof import census, descendants
from pytest_flowcheck.protocols import Invalid
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.fanout._shared import (
    calls_of,
    fan_out,
    full,
    in_flight,
    let_go,
    of,
    outcomes,
    several,
    told,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab

ODD: tuple[Any, ...] = (float("nan"), float("inf"), float("-inf"), True, 0, -1, 2.5, "x", None, 10**9)
"""Bounds that come out of configuration files. The largest last: who starts a worker for each is found out before."""


@rule("FAN-05")
def any_bound_is_refused_or_served(lab: Lab) -> None:
    """Any `max_concurrency` is either refused before the first item or runs all of them, never with more workers than items; nan, inf, True, 10**9 included.

    Intent: The number comes from a configuration file; the worst it may do is to be refused.

    Usual cause: `int(value)` outside of the `try`, `range(max_concurrency)` workers made beforehand, a semaphore of 0.

    Proof: Results and errors are in the history, HUNG is proven; threads, children and tasks are counted with 3 items at their gates, at 3 and at 64 at a time.

    Source: spec-kit 0.12.4, where inf raised OverflowError half-way; dynamiq `max_workers`.
    """
    modest, generous = _crew(lab, 3), _crew(lab, 64)
    lab.check(
        generous - modest <= 3,
        f"for 3 items at max_concurrency=64 it made {generous} threads, processes and tasks, at max_concurrency=3 {modest}",
        "never more workers than items",
    )
    expressed = 0
    with lab.instance() as it:
        for number, value in enumerate(ODD):
            name = f"no. {number}"
            call = fan_out(lab, it, 3, value, name=name, gated=False).join()
            try:
                error = call.error
            except NotTestable:
                continue
            expressed += 1
            _refused_or_served(lab, call, error, name, value)
        if not expressed:
            raise NotTestable("the subject's terms can't express any odd max_concurrency")
        outcomes(fan_out(lab, it, 3, 2, name="afterwards", gated=False))


def _refused_or_served(lab: Lab, call: Call[Any], error: BaseException | None, name: str, value: Any) -> None:
    started = of(lab.started(), name)
    if error is None:
        got = told(outcomes(call))
        right = calls_of(range(3), name)
        lab.check(
            sorted(got) == right,
            f"max_concurrency={value!r} gave {', '.join(got) or 'no results'}",
            f"all of them: {right}",
        )
        return
    lab.check(
        any(lab.is_a(error, kind) for kind in (Invalid, ValueError, TypeError)),
        f"max_concurrency={value!r} raised {error!r}",
        "it is refused with ValueError, TypeError or the subject's own word for Invalid, or it runs all items",
    )
    lab.check(
        not started,
        f"max_concurrency={value!r} was refused with {error!r} when {', '.join(started)} had started",
        "it is refused before the first item",
    )


def _crew(lab: Lab, bound: int) -> int:
    """How many threads, child processes and tasks three gated items cost."""
    name = f"{bound} at a time"
    with lab.instance() as it:
        before, tasks = _heads(), _tasks(it)
        call = fan_out(lab, it, 3, bound, name=name)
        full(lab, call, 3, name=name)
        lab.settle()
        crew = len(_heads() - before) + _tasks(it) - tasks
        lab.open(*calls_of(range(3), name))
        call.join()
    return crew


def _heads() -> set[threading.Thread | int]:
    """Each by itself: what an earlier rule has left may go meanwhile."""
    return {*threading.enumerate(), *descendants()}


def _tasks(it: Instance) -> int:
    return census().tasks if it.colour == "async" else 0


@rule("FAN-13")
def no_items_no_results(lab: Lab) -> None:
    """No items: an empty result, at once.

    Intent: The empty list is the most usual edge there is.

    Usual cause: Waiting for a first completion that never comes; `max(1, ...)` workers that wait for work; `min()` of nothing.

    Proof: The call's end and its value; that it never ends is proven.

    Source: sequential equivalence; `wait([])`, which differs among libraries.
    """
    with lab.instance() as it:
        outcomes(fan_out(lab, it, 1, 2, name="one", gated=False))
        for bound in (1, 3):
            empty: dict[str, Any] = {"[]": [], "an empty iterator": iter(())}
            for given, nothing in empty.items():
                call = fan_out(lab, it, nothing, bound, name=f"none, from {given}", gated=False)
                call.giving(lambda _: None).join()  # what it gives for nothing is the question, and the subject's affair
                came = f"raised {call.error!r}" if call.error is not None else f"gave {call.value!r}"
                lab.check(
                    call.error is None and is_empty(call.value),
                    f"no items ({given}), max_concurrency={bound}: it {came}",
                    "an empty sequence",
                )


def is_empty(value: Any) -> bool:
    """Whether it is a sequence of nothing."""
    return isinstance(value, Sequence) and not [*map(repr, value)]  # pyright: ignore[reportUnknownArgumentType]


class Endless:
    """Items without an end, as far as anybody can see; counts how many were asked for."""

    def __init__(self, patience: int = 400) -> None:
        self.pulled, self.patience = 0, patience

    def __iter__(self) -> Iterator[int]:
        while self.pulled < self.patience:
            self.pulled += 1
            yield self.pulled - 1


AHEAD = 4
"""How many times `max_concurrency` a window may be, look-ahead included. What matters is that it does not grow."""


@rule("FAN-16", "lazy")
def an_endless_iterator_is_read_lazily(lab: Lab) -> None:
    """An unbounded iterator is consumed no further than the window, however far the items have come.

    Intent: Items may come from a queue or a file that is larger than memory.

    Usual cause: `list(items)`, `enumerate` into a dict of futures, `asyncio.gather(*...)`.

    Proof: The iterator counts. All items that run are gated, and that it is not asked again is proven; the look-ahead that prefetching engines take, some slots' worth (joblib: up to `3*n_jobs`), is allowed.

    Source: joblib `pre_dispatch`; `Executor.map(buffersize=)` of Python 3.14.
    """
    bound = 3
    source = Endless()
    with lab.instance() as it:
        call = fan_out(lab, it, source, bound)
        lab.until(
            lambda: call.done or len(in_flight(lab)) >= bound or source.pulled >= source.patience,
            f"{bound} gated items are in flight",
            needs="FAN-03",
        )
        for ended in range(3):
            lab.settle()
            lab.check(
                source.pulled <= ended + AHEAD * bound,
                f"with {ended} items done and {bound} at a time it had asked for {source.pulled} items",
                f"at most {ended} + {AHEAD} * {bound}",
            )
            full(lab, call, bound, needs="FAN-04")
            let_go(lab, in_flight(lab)[0])
        source.patience = source.pulled  # it ends here
        lab.open_all()
        call.join()


def leave_a_mark(item: dict[str, Any]) -> dict[str, Any]:
    """Tells what it finds in its item, and leaves something there."""
    found = {"id": item["id"], "marks": list(item["marks"])}
    item["marks"].append(f"item {item['id']} was here")
    item["left by"] = item["id"]
    return found


@rule("FAN-21", should=True)
def items_change_only_themselves(lab: Lab) -> None:
    """Where items are distinct objects, an item that changes its own input changes no other item's and no recorded state.

    Intent: Items of a fan-out know nothing of each other; what they do to their input is their own matter.

    Usual cause: Inputs are built by updating one shared dict, or equal ones are made one.

    Proof: Each item tells what it finds in its input before it leaves a mark there; recorded are the results, read at the end.

    Source: spec-kit, whose items live in the run's own state.
    """
    for bound in (1, 3):
        items = [{"id": item, "marks": list[str]()} for item in range(6)]
        with lab.instance() as it:
            got = outcomes(fan_out(lab, it, items, bound, leave_a_mark, name=f"by {bound}", gated=False))
        found = [mine for outcome in got if (mine := getattr(outcome, "value", None)) is not None]
        if sorted(f["id"] for f in found) != list(range(len(items))):
            raise Inconclusive(f"the items that ran were {[f['id'] for f in found]}", because_of="FAN-12")
        for mine in found:
            lab.check(
                mine["marks"] == [],
                f"at max_concurrency={bound}, item {mine['id']} found in its own list: {mine['marks']}",
                "an empty list, as the caller made it",
            )


@rule("FAN-22", "coerce")
def odd_bounds_are_coerced(lab: Lab) -> None:
    """None (absent), 0, negative and non-numbers run sequentially; '4' and 4.0 count as 4.

    Intent: A value from YAML or an environment variable means what its writer meant, or the safe thing.

    Usual cause: `isinstance(value, int)` decides, so that '4' is no number; `value or DEFAULT`, so that 0 is many.

    Proof: Each in a fan-out of its own, all items at their gates; how many are in flight when nothing moves is proven.

    Source: spec-kit pull request 3224, `max_concurrency` from YAML.
    """
    means: list[tuple[Any, int]] = [(None, 1), (0, 1), (-1, 1), ("many", 1), ("", 1), ("4", 4), (4.0, 4)]
    with lab.instance() as it:
        control = fan_out(lab, it, 5, 4, name="control")
        full(lab, control, 4, name="control")
        lab.open(*calls_of(range(5), "control"))
        control.join()
    with several(lab, len(means)) as instances:
        calls = [fan_out(lab, it, 6, value, name=repr(value)) for it, (value, _) in zip(instances, means, strict=True)]
        lab.settle()
        for call, (value, size) in zip(calls, means, strict=True):
            if call.done:
                lab.check(False, f"max_concurrency={value!r} raised {call.error!r}", f"it counts as {size}")
            live = in_flight(lab, repr(value))
            lab.check(
                len(live) == size, f"max_concurrency={value!r}: {len(live)} items are in flight", f"it counts as {size}"
            )
        lab.open_all()
        for call in calls:
            outcomes(call)
