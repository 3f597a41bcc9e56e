"""CLI-12: the same on trio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.loops import run
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.client._clients import here
from pytest_flowcheck.suites.client._loops import on_thread
from pytest_flowcheck.suites.client._play import at_once
from pytest_flowcheck.suites.client._shared import Got, aclosed, client_of, closes, reopens, result, stage

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("CLI-12", "trio")
def the_same_on_trio(lab: Lab) -> None:
    """The same on trio: each `trio.run` has a client of its own, made and closed on that very loop, never on a helper's.

    Intent: A cache that takes asyncio for granted shuts out half of those for whom httpx, which runs on both, was chosen.

    Usual cause: `asyncio.Lock` or `asyncio.get_running_loop()` in a corner; the thread taken for the loop; clients that are made on a helper thread, with or without a loop of its own.

    Proof: Two runs of trio on one thread, one after the other, and two at once on two threads; in each, three tasks ask at once. The client tells whether it was made, used and closed on the loop of those who got it. The column of trio judges every other rule on trio as well.

    Source: anyio documentation, "Why you should be using AnyIO APIs instead of asyncio"; httpx documentation, "Supported async environments".
    """
    tasks, runs = 3, 2
    with stage(lab, turns=1) as (made, loops):
        came: list[list[Got]] = []
        seen: list[object] = []  # so that no run is taken for one before it: that is CLI-03's business

        async def main() -> None:
            seen.append(here())
            came.append(await at_once(loops.cache, tasks))
            if reopens(lab):
                await aclosed(loops.cache)

        def in_a_row() -> None:
            for _ in range(runs):
                run("trio", main)

        on_thread(lab, f"{runs} runs of trio, one after the other", in_a_row)
        at_once_ = [
            loop.start(f"get in {tasks} tasks", lambda cache: at_once(cache, tasks))
            for loop in (loops.begin(), loops.begin())
        ]
        came += [result(lab, call) for call in at_once_]
        names: list[str] = []
        for number, gots in enumerate(came, 1):
            mine = {client_of(lab, given, of=f"run {number} of trio").name for given in gots}
            if len(mine) > 1:
                raise Inconclusive(
                    f"in run {number} of trio the tasks got {' and '.join(sorted(mine))}", because_of="CLI-01"
                )
            names += mine
        lab.check(len(set(names)) == len(names), f"{len(names)} runs of trio got {', '.join(names)}", "each its own")
        elsewhere = [name for name in names if not made.made_on[name]]
        lab.check(not elsewhere, f"{', '.join(elsewhere)} was made where no loop runs", "it is made on its own loop")
        open_ = [name for name in names[:runs] if reopens(lab) and not closes(lab, name)]
        lab.check(not open_, f"aclose left {', '.join(open_)} open", "it is closed on its own loop")
