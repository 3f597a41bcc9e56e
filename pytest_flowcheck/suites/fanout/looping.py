"""FAN-27: cancellation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.fanout._shared import calls_of, fan_out, full, live_at_return, of, within

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("FAN-27", "async")
def cancellation_leaves_nothing_behind(lab: Lab) -> None:
    """Cancelling the caller while items wait loses no slot and leaves no item running unseen.

    Intent: A request that times out must take its work with it, and leave the engine as it found it.

    Usual cause: Items are tasks of nobody, created by `ensure_future`; a slot is given back behind the `await` that was cancelled.

    Proof: What was in flight as the cancelled call came back is in the history; the next call must have as many in flight as there are slots.

    Source: structured concurrency; asyncio.Semaphore before 3.11.2 (gh-90155).
    """
    bound = 3
    with lab.instance() as it:
        for name in ("first", "second"):
            call = fan_out(lab, it, 6, bound, name=name)
            # the first proves that there is concurrency at all, the second that the cancelled one gave it back
            full(lab, call, bound, name=name, needs="FAN-03" if name == "first" else None)
            lab.settle()
            before = of(lab.started(), name)
            call.cancel()
            if any(not e.coroutine for e in lab.timeline.of("started")):
                lab.settle()
                lab.open(*of(lab.live(), name))  # items on threads can't be cancelled
            call.join()
            live = live_at_return(lab, call, name)
            lab.check(
                not live,
                f"the cancelled call came back while {', '.join(live)} was in flight",
                "what runs is cancelled, or waited for",
            )
            lab.settle()
            within(lab, bound, name)
            late = [n for n in of(lab.started(), name) if n not in before]
            lab.check(not late, f"{', '.join(late)} started after the cancellation", "nothing starts any more")
        third = fan_out(lab, it, 4, bound, name="third")
        full(lab, third, bound, name="third", needs=None)
        lab.open(*calls_of(range(4), "third"))
        third.join()
