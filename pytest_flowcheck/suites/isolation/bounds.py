"""ISO-02, 03, 11, 12: how many are in flight, who waits, who is refused."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from pytest_flowcheck.protocols import Invalid, Refused
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.isolation._shared import (
    House,
    asked,
    came_to,
    expressible,
    fails,
    lent,
    listening,
    opened,
    queues,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_flowcheck.probes.lab import Lab


@rule("ISO-02")
def exactly_so_many_are_in_flight(lab: Lab) -> None:
    """At most `max_concurrent_runs` runs are in flight; exactly that many when as many were asked.

    Intent: The bound protects memory, a quota, a licence. A bound that is not reached wastes what was paid for.

    Usual cause: A pool that is smaller, or shared with other work; or check-then-act: the count is looked at, something is awaited, and the count goes up behind it, so that all who asked meanwhile pass.

    Proof: Two runs more than the bound are asked for at once, and wait at their gates. One more in flight than allowed is its own proof; that no further one starts is read from the kernel. On a loop the bound is also larger than the number of threads that the loop's own executor has. Where `admission` is claimed, all are asked for while the hook waits, and it lets go of them together.

    Source: OpenHands, pull request 3169: `max_concurrent_runs`.
    """
    for bound in (1, 3) if lab.thorough else (3,):
        with opened(lab, bound) as house:
            _exactly(lab, house, bound, f"of {bound} ")
    if lab.claims("admission"):
        with opened(lab, 2, admit=lab.probe("admit")) as house:
            _exactly(lab, house, 2, "admitted ", together=True)
    if threads := lent(lab):
        with opened(lab, threads + 1) as house:
            _exactly(lab, house, threads + 1, f"of {threads + 1} ")


def _exactly(lab: Lab, house: House, bound: int, prefix: str, *, together: bool = False) -> None:
    names = [f"run {prefix}{number}" for number in range(1, bound + 3)]
    calls = [house.run(name, admitted=not together) for name in names]
    if together:
        lab.settle()  # as many as the service asks at once are in the hook
        lab.open(*map(asked, names))

    def arrived() -> int:
        return sum(house.runs(name) for name in names)

    lab.until(
        lambda: arrived() >= bound,
        f"{bound} of {len(names)} runs are in flight",
        expected=f"exactly {bound}, its bound: as many were asked for",
    )
    house.at_most(bound)
    lab.open(*names)
    for call in calls:
        house.comes_back(call, "once every gate is open")


@rule("ISO-03")
def beyond_the_bound(lab: Lab) -> None:
    """A run beyond the bound waits visibly (counted, started in order, none lost) or is refused at once with a clear error, as declared; never silently queued.

    Intent: Whoever asks for a run must be able to know whether it runs, waits, or never will; and how long the queue is.

    Usual cause: The bound is the size of a thread pool, and what is beyond it sits in the pool's own queue, which nobody counts; or the slot is given back when the caller is cancelled, while the thread works on: the next run has a slot, and no thread.

    Proof: All slots are stuck at their gates. Queue: three more are asked for, one by one, and `queued` counts them; slots come free one at a time, each is taken by the longest waiting, and in the end all have run and none waits. Refuse: one more comes back with Refused while the others are stuck, or it is proven that it never does; and is taken once a slot is free. Both: the same for one more while the only slot is held by a run that was cancelled and has not ended.

    Source: OpenHands agent server 1.22.1 queued silently; 1.58.2 refuses with ConversationRunLimitExceeded.
    """
    with opened(lab, 2) as house:
        calls = house.fill("first", "second")
        if not queues(lab):
            beyond = house.run("beyond")
            lab.until(
                lambda: beyond.done or house.runs("beyond"),
                "a run beyond the bound is refused while all slots are stuck",
                expected="it is refused at once, as declared: it neither waits nor runs",
                hung=True,
            )
            lab.check(
                lab.is_a(beyond.error, Refused),
                f"with all slots taken, {came_to(beyond)}",
                "an error that says that the service is full: Refused, by the subject's table",
            )
            lab.open("first")
            calls[0].join()
            house.fits("later", "once a slot is free")
            lab.check(not house.begun("beyond"), "the run that was refused has run", "what is refused never runs")
            lab.open_all()
            _behind_a_cancelled_one(lab)
            return
        house.waits(0)
        names = ["third", "fourth", "fifth"]
        for count, name in enumerate(names, 1):
            calls.append(house.run(name))
            house.waits(count)
        for index, free in enumerate(("first", "second", "third"), 1):
            lab.open(free)
            lab.until(
                _so_many(lab, names, index),
                f"the slot of {free!r}, which has ended, is taken by one that waits",
                expected="none is lost in the queue",
            )
            if index == 1:
                lab.settle()  # another one would be in flight by now
            lab.check(
                _of(lab, names) == names[:index],
                f"with {index} slots that came free, of those that waited there were started {', '.join(_of(lab, names))}",
                f"one for each slot, in the order in which they came: {', '.join(names[:index])}",
            )
            house.waits(len(names) - index)
        lab.open_all()
        for call in calls:
            house.comes_back(call, "once every gate is open", "none is lost")
    _behind_a_cancelled_one(lab)


def _behind_a_cancelled_one(lab: Lab) -> None:
    """A slot is held by whoever is in flight, also when nobody waits for him any more."""
    lab.fresh()
    with opened(lab, 1) as house:
        (cancelled,) = house.fill("cancelled")
        if house.it.colour == "async":
            cancelled.cancel()
            house.turns("while the caller of a run is cancelled", needs="ISO-09")
        elif not house.offers("cancel") or not expressible(
            lab, house.comes_back(house.cancel("cancelled"), "at once", needs="ISO-14")
        ):
            return
        lab.settle()
        behind = house.run("behind it")
        lab.rest(lambda: behind.done or house.runs("behind it"))
        if house.runs("behind it"):
            house.at_most(1)  # the cancelled one has ended
        elif queues(lab):
            house.waits(1, while_="the one slot is held by a run that was cancelled, and is in flight still")
        else:
            lab.check(
                lab.is_a(behind.error, Refused),
                f"with the one slot held by a run that was cancelled, and is in flight still, {came_to(behind)}",
                "it is refused: Refused, by the subject's table",
            )


def _of(lab: Lab, names: list[str]) -> list[str]:
    """Those of them that have started, in order."""
    return [name for name in lab.started() if name in names]


def _so_many(lab: Lab, names: list[str], count: int) -> Callable[[], bool]:
    return lambda: len(_of(lab, names)) >= count


@rule("ISO-11")
def a_bad_bound_is_refused(lab: Lab) -> None:
    """A bad `max_concurrent_runs` is refused at construction.

    Intent: A service that takes no run at all should say so when it is configured, and not when the first user waits for ever.

    Usual cause: `Semaphore(0)` is a legal semaphore; a negative number is "no limit" for some pool below.

    Proof: A service with 1 runs something. Then services are opened with 0, -1 and a word; each raises.

    Source: EXE-33.
    """
    with opened(lab, 1) as house:
        house.comes_back(house.run("run", gated=False), "with max_concurrent_runs=1", needs="ISO-02")
    for bad in (0, -1, "many"):
        came: BaseException | None = None
        try:
            with opened(lab, bad):  # type: ignore[arg-type]
                lab.note(f"a service with max_concurrent_runs={bad!r} is open")
        except Exception as error:  # noqa: BLE001 - judged below
            came = _itself(error)
        lab.check(
            came is not None and (isinstance(came, ValueError | TypeError) or lab.is_a(came, Invalid)),
            f"opening with max_concurrent_runs={bad!r} {'was let pass' if came is None else f'raised {came!r}'}",
            "it is refused with ValueError, TypeError, or what the subject's table has for Invalid",
        )


def _itself(error: BaseException) -> BaseException:
    """Out of the group into which trio puts what is raised within a nursery, the kit's here."""
    inside: Sequence[BaseException] = getattr(error, "exceptions", ())
    return _itself(inside[0]) if len(inside) == 1 else error


@rule("ISO-12")
def every_way_in_is_bounded(lab: Lab) -> None:
    """Every way to start a run, fire-and-forget included, is under the same bound, and its failure is reported.

    Intent: The bound is that of the machine, not that of one method. And a failure that nobody waits for must still reach somebody.

    Usual cause: `create_task` or `Thread(...).start()` beside the path that counts; a future that nobody looks at keeps the only copy of the error.

    Proof: Slots are taken both ways, and more is asked for both ways; no more than allowed are in flight when nothing moves. Then one that nobody waits for fails: that is logged, warned, given to a handler of uncaught errors, or told by `report`; or it is proven that nobody will ever hear of it.

    Source: asyncio's `create_task` and `Future.__del__`, the only report that many programs have.
    """
    with opened(lab, 2) as house:
        started = house.start("started")
        lab.until(
            lambda: started.error is not None or house.runs("started"),
            "a run that nobody waits for is in flight",
            expected="a slot is free",
        )
        lab.check(house.runs("started"), came_to(started), "it is in flight: a slot is free")
        house.fill("awaited")
        beyond = [house.start("started beyond"), house.run("awaited beyond")]
        house.at_most(2)
        lab.open_all()
        for call in beyond:
            house.comes_back(call, "once every gate is open")
        names = ["started", "awaited", *(("started beyond", "awaited beyond") if queues(lab) else ())]
        lab.until(lambda: all(name in lab.ended() for name in names), "all that were taken have run", needs="ISO-03")
    with opened(lab, 1) as house, listening(lab) as heard:
        house.start("fails", fails, gated=False)
        lab.until(lambda: "fails" in lab.timeline.names("raised"), "the run that nobody waits for has failed")
        lab.check(
            _told_of(lab, house, heard.anything),
            "a run that nobody waits for raised BodyError; nothing was logged or warned, no handler of uncaught errors was "
            f"called, and {'report() says nothing' if house.offers('report') else 'there is no report()'}",
            "its failure is reported",
            absence=True,
        )


def _told_of(lab: Lab, house: House, anything: Callable[[], bool]) -> bool:
    """Whether anybody hears of the failure, by the time that nothing moves and all garbage is gone."""

    def reported() -> bool:
        if not house.offers("report"):
            return False
        return house.it.start("report(fails)", lambda service: service.report(session="fails")).result() is not None

    if anything() or reported() or lab.rest(anything):
        return True
    gc.collect()  # a task that nobody refers to says so now
    lab.settle()
    return anything() or reported()
