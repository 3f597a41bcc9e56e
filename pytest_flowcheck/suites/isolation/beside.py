"""ISO-01, 04, 06, 07: what goes on while runs are stuck, work in parallel, or fail."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.isolation._shared import came_to, fails, lent, opened, queues

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("ISO-01")
def short_operations_complete(lab: Lab) -> None:
    """With every run slot taken by a stuck run, a short operation still completes.

    Intent: A status page must answer while the work hangs: then above all.

    Usual cause: Runs and short operations share a pool, most often the event loop's default executor; stuck runs take its threads, and whatever is asked afterwards waits behind them.

    Proof: Every slot is stuck at its gate, and where runs queue two more wait. Then three short operations at once: each completes, or it is proven that it never will while the runs are stuck. On a loop there are as many slots as its own executor has threads: whoever has runs on these has none left for the rest.

    Source: OpenHands, pull request 3169: sixteen long tool calls, and the server answers nobody. 1.22.1 gave runs a pool of their own; in 1.58.2 their tools are on the loop's executor again.
    """
    slots = max(3, lent(lab))
    with opened(lab, slots) as house:
        names = [f"stuck {number}" for number in range(1, slots + 1)]
        house.fill(*names)
        house.answers("while every slot is taken by a stuck run")
        if queues(lab):
            for name in ("waiting 1", "waiting 2"):
                house.run(name)
        calls = [house.short_op(f"another {number}") for number in range(3)]
        for call in calls:
            house.comes_back(call, "while every slot is taken by a stuck run", "it needs nothing that a run can hold")
            lab.check(call.error is None, came_to(call), "it completes")
        if not house.runs(*names):
            raise Inconclusive("the runs were not stuck any more", because_of="ISO-02")


@rule("ISO-04", "nested")
def work_within_runs(lab: Lab) -> None:
    """A run that itself works in parallel does not deadlock when all slots are taken so.

    Intent: A tool that calls tools, a map within a job: the run waits for parts of itself, and they need a place that no run occupies.

    Usual cause: The parts are submitted to the pool that the runs fill; each run waits for a part that waits for a run to end.

    Proof: Every slot is taken by a run at its gate. Then all of them go on to their parts at once; every part runs and every run ends, or it is proven that none ever will.

    Source: EXE-23; the deadlock in the Python library reference of ThreadPoolExecutor.
    """
    with opened(lab, 2) as house:
        names = ["first", "second"]
        calls = [house.run(name, then=[f"{name}, part a", f"{name}, part b"]) for name in names]
        for call, name in zip(calls, names, strict=True):
            house.in_flight(call, name)
        lab.open(*names)
        for call, name in zip(calls, names, strict=True):
            house.comes_back(
                call, "when all slots are taken by runs that work in parallel", "its parts run, and it ends"
            )
            missing = [part for part in (f"{name}, part a", f"{name}, part b") if part not in lab.ended()]
            lab.check(
                call.error is None and not missing,
                f"{came_to(call)}; of its parts there did not run: {', '.join(missing) or 'none'}",
                "it returns once its parts have run",
            )


@rule("ISO-06")
def failures_stay_where_they_are(lab: Lab) -> None:
    """A run's failure is its own: others and short operations go on.

    Intent: One bad job must not be the end of the shift.

    Usual cause: Runs share a task group, which cancels all when one fails; a worker thread that dies with the error; a pool that counts as broken.

    Proof: One run is at its gate while another fails. The failure is raised to whoever waits for that run; the other is still in flight, a short operation completes, a further run is taken, and all come to their own end.

    Source: trio's and anyio's task groups; `BrokenProcessPool`.
    """
    with opened(lab, 3) as house:
        (beside,) = house.fill("beside")
        failing = house.run("fails", fails, gated=False)
        house.comes_back(failing, "after its run has failed", "it raises the run's failure")
        if "fails" not in lab.started():
            raise Inconclusive(f"{came_to(failing)}, and it never ran", because_of="ISO-02")
        lab.check(failing.error is not None, came_to(failing), "the failure of a run is raised to whoever waits for it")
        house.answers("after a run has failed")
        later = house.fits("later", "after a run has failed")
        lab.check(
            house.runs("beside") and not beside.done,
            f"after another run has failed, {came_to(beside)}",
            "it is still in flight, at its gate",
        )
        for name, call in (("beside", beside), ("later", later)):
            lab.open(name)
            house.comes_back(call, "once its gate is open")
            lab.check(
                call.error is None and name in lab.ended(), came_to(call), "it returns, and its run has ended well"
            )


@rule("ISO-07", "threads", should=True)
def threads_are_named(lab: Lab) -> None:
    """Runs are on threads named for it.

    Intent: Whoever looks at a hung process sees forty threads; names tell which of them are runs.

    Usual cause: A pool without `thread_name_prefix`, or the event loop's default one, whose threads are called `asyncio_0`.

    Proof: Each run tells the name of its thread.

    Source: EXE-28.
    """
    with opened(lab, 2) as house:
        house.fill("first", "second")
        found = {event.thread for event in lab.timeline.of("started")}
    nameless = sorted(name for name in found if _NAMELESS.match(name))
    lab.check(
        not nameless,
        f"runs are on threads called {', '.join(nameless)}",
        "a name that says that they are a service's runs",
    )


_NAMELESS = re.compile(
    r"(Thread|Dummy)-\d+|MainThread|ThreadPoolExecutor-\d+|asyncio_\d+|AnyIO worker|Trio thread|caller: "
)
"""What threads are called that nobody gave a name; the last is the kit's own, of whoever called `run`."""
