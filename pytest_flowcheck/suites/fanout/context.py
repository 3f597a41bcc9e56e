"""FAN-12, 14, 20, 25: what an item sees, and under which name it is recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.probes.instance import on_a_loop
from pytest_flowcheck.protocols import Refused
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.fanout._play import Scenario, Stage, all_return, conserves, for_all, forced
from pytest_flowcheck.suites.fanout._shared import (
    calls_of,
    fan_out,
    full,
    in_flight,
    let_go,
    of,
    outcomes,
    told,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab

CALLER: ContextVar[str] = ContextVar("CALLER", default="(unset)")
"""Set by callers, read by items."""
LEFT: ContextVar[str] = ContextVar("LEFT", default="nothing")
"""Set by items; another item must not see it."""


def see_and_leave(item: int) -> str:
    """The item, and what an earlier one left in its context."""
    left = LEFT.get()
    LEFT.set(f"item {item}")
    return f"{item} finds {left}"


@rule("FAN-12", property=True)
def each_call_sees_its_own_item(lab: Lab) -> None:
    """Each call sees its own item and context: nothing shared is clobbered between items.

    Intent: The one thing that a fan-out adds to a loop is that items run at once; nothing of them may mix.

    Usual cause: A lambda in a loop that captures the variable and not its value; `self.item`, `self.results`; a worker's context that keeps what the last item set.

    Proof: The calls that the probes report are compared with the items; every item reads what others left in its context (where `context` is claimed); a second fan-out runs beside the first on the same instance.

    Source: spec-kit pull request 3224 (`context.item`); FAN-20 for the caller's context.
    """

    def judge(stage: Stage, scenario: Scenario) -> None:
        count = len(scenario.acts)
        names = calls_of(range(count))
        call = fan_out(lab, stage.it, count, scenario.bound, see_and_leave)
        size = min(scenario.bound, count)
        lab.until(lambda: call.done or len(in_flight(lab)) >= size, f"{size} items are in flight", needs=stage.blame)
        beside = fan_out(lab, stage.it, range(100, 103), 3, see_and_leave, name="beside", gated=False)
        _each_its_own(lab, names, whole=False)
        for step in forced(scenario):
            full(lab, call, step.in_flight, needs="FAN-04")
            let_go(lab, names[step.item])
        _each_its_own(lab, names, whole=True)
        _see(lab, call, range(count))
        if not (beside.join().error is not None and lab.is_a(beside.error, Refused)):
            _see(lab, beside, range(100, 103))

    for_all(lab, judge, all_return(), examples=20)


def _each_its_own(lab: Lab, names: list[str], *, whole: bool) -> None:
    started = of(lab.started(), "item")
    twice = sorted({n for n in started if started.count(n) > 1})
    never = [n for n in names if n not in started] if whole else []
    lab.check(
        not twice and not never and set(started) <= set(names),
        f"calls: {', '.join(started)}" + (f"; never called: {', '.join(never)}" if never else ""),
        "one call for each item, with that item",
    )


def _see(lab: Lab, call: Call[Any], items: range) -> None:
    """Whether each item saw itself and nothing of the others. In which order they are told is FAN-01's business."""
    got = sorted(told(outcomes(call)))
    if not lab.claims("context"):
        got = [text.partition(" finds")[0] for text in got]
    right = sorted(f"{item} finds nothing" if lab.claims("context") else str(item) for item in items)
    lab.check(got == right, f"{call.what}: items {'; '.join(got)}", "; ".join(right))


ON_A_THREAD = "on a thread, nobody can await the instance's own call"


class Nest:
    """Each item fans out in its turn, on the same instance, `depth` levels deep, and returns what that gave."""

    def __init__(self, lab: Lab, raw: Any, depth: int) -> None:
        self.lab, self.raw, self.depth = lab, raw, depth

    def __call__(self, item: int) -> Any:
        below = Nest(self.lab, self.raw, self.depth - 1) if self.depth else None
        body = self.lab.probe(f"level {self.depth}, below {item}", below, gated=False)
        given = self.raw.run(body, [item * 10 + 1, item * 10 + 2], max_concurrency=2)
        if not hasattr(given, "__await__"):
            return flat(given)
        if on_a_loop():
            return self._later(given)
        given.close()
        return [ON_A_THREAD]

    async def _later(self, given: Any) -> list[str]:
        return flat(await given)


def flat(given: Any) -> list[str]:
    """The innermost calls, in no order: that of results is FAN-01's business."""
    return sorted(_innermost(given))


def _innermost(given: Any) -> Iterator[str]:
    for outcome in given:
        value: Any = getattr(outcome, "value", repr(outcome))
        yield from value if isinstance(value, list) else [str(value)]


@rule("FAN-14", "nested")
def nested_fan_outs_do_not_deadlock(lab: Lab) -> None:
    """A fan-out inside a fan-out item does not deadlock.

    Intent: Whoever writes an item can't know whether what it calls fans out as well.

    Usual cause: One pool or one semaphore for the whole instance: items wait in all its slots for items that wait for a slot.

    Proof: All slots are occupied by items that are then let go to fan out at once, three levels deep; that they never come back is read from the kernel.

    Source: EXE-23; spec-kit, a fan-out as the step of a fan-out.
    """
    with lab.instance() as it:
        call = fan_out(lab, it, 4, 2, Nest(lab, it.raw, 1), name="outer")
        full(lab, call, 2, name="outer")
        lab.open_all()
        got = outcomes(call)
        came = flat(got)
    if ON_A_THREAD in came:
        raise NotTestable("its items run on threads and can't await the instance's own call")
    right = sorted(
        call
        for outer in range(4)
        for middle in (outer * 10 + 1, outer * 10 + 2)
        for call in calls_of((middle * 10 + 1, middle * 10 + 2), f"level 0, below {middle}")
    )
    lab.check(came == right, f"the innermost items were: {', '.join(came)}", ", ".join(right))


def who_calls(_: int) -> str:
    """The caller's variable, as an item sees it."""
    return CALLER.get()


@rule("FAN-20", "context")
def items_see_the_callers_context(lab: Lab) -> None:
    """Items see the caller's context variables.

    Intent: Request ids, tenants and open spans follow the work, or logs of a fan-out belong to nobody.

    Usual cause: `loop.run_in_executor` and `executor.submit`, which don't carry the context; workers that keep that of whoever came first.

    Proof: Two calls in turn from different contexts; each item returns what it sees, those too that run in a used slot.

    Source: PEP 567; `asyncio.to_thread`.
    """
    with lab.instance() as it:
        for who in ("the first caller", "the second caller"):
            reset = CALLER.set(who)
            call = fan_out(lab, it, 5, 2, who_calls, name=f"by {who}", gated=False)
            CALLER.reset(reset)
            got = told(outcomes(call))
            lab.check(got == [who] * 5, f"called by {who!r}, the items saw {got!r}", f"{who!r} in each")


@rule("FAN-25")
def recorded_ids_are_unique_and_stable(lab: Lab) -> None:
    """Each item's recorded id is unique, and the same for every concurrency.

    Intent: What was recorded yesterday one by one is looked up today, four at a time.

    Usual cause: Ids from a counter that items draw when they start or end, or from the worker that runs them.

    Proof: The same items at 1, 2 and 4 at a time, completed in reverse; the outcomes' `id` are compared.

    Source: spec-kit's ids of nested steps, `fan:item:3`.
    """
    count = 6
    conserving = conserves(lab)
    told_as: dict[int, list[str]] = {}
    for bound in (1, 2, 4):
        names = calls_of(range(count))
        with lab.instance() as it:
            call = fan_out(lab, it, count, bound)
            full(lab, call, bound)
            while not call.done and (live := in_flight(lab)):
                left = count - len(lab.timeline.of("ended", "raised", "lost")) - 1
                let_go(lab, max(live, key=names.index))
                if left:
                    size = min(bound, left) if conserving or len(live) == 1 else len(live) - 1
                    full(lab, call, size, needs="FAN-04")
            by_result = {told([outcome])[0]: str(outcome.id) for outcome in outcomes(call)}
            told_as[bound] = [by_result.get(name, "") for name in names]
        lab.fresh()
    if not any(any(ids) for ids in told_as.values()):
        raise NotTestable("the subject records no ids: an item's place in the results is its only name")
    for bound, ids in told_as.items():
        lab.check(
            len(set(ids)) == count and all(ids),
            f"at max_concurrency={bound} the ids of {count} items are {', '.join(map(repr, ids))}",
            "each has one of its own",
        )
        lab.check(
            ids == told_as[1],
            f"items 0 to {count - 1} are {', '.join(told_as[1])} at max_concurrency=1, and {', '.join(ids)} at {bound}",
            "the same ids",
        )
