"""RTY-11, 20, 22, 23: the time between attempts, and how many run at once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.protocols.retry import RetryPolicy
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.retry._shared import (
    Fails,
    all_done,
    begin,
    ended,
    in_hand,
    over,
    runs,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab

BACKOFFS: Final = (0.02, 0.08, 0.32)
"""Seconds. The order of events under one backoff may be an accident of a busy machine; the same wrong order under all of
them, sixteenfold, is not."""

PATIENCE: Final = {0.02: 0.08, 0.08: 0.64, 0.32: 6.4}
"""The longer backoff beside the reference's, where there is a suspicion that none is waited: at last no machine is so busy."""

NOT_WAITED: Final = "the backoff is waited at all"


def repeatedly(lab: Lab, scenario: Callable[[float, dict[str, str]], dict[str, str]]) -> None:
    """Judge what is wrong under every one of `BACKOFFS`; a scenario is told what was wrong before, and gives the
    wrong orders of events that it saw.

    Where the largest shows that no backoff is waited at all (`NOT_WAITED`), that is RTY-11's to say.
    """
    wrong: dict[str, str] = {}
    seen: dict[str, str] = {}
    for backoff in BACKOFFS:
        if wrong:
            lab.fresh()
        seen = scenario(backoff, wrong)
        found = {what: said for what, said in seen.items() if what != NOT_WAITED}
        wrong = found if backoff == BACKOFFS[0] else {what: found[what] for what in wrong if what in found}
        if not wrong:
            return
    if NOT_WAITED in seen:
        raise Inconclusive(f"there is no backoff to ask about: {seen[NOT_WAITED]}", because_of="RTY-11")
    asked = ", ".join(f"{b:g}" for b in BACKOFFS)
    lab.check(False, f"{'; '.join(wrong.values())} (the same with backoffs of {asked} s)", "; ".join(wrong))


@rule("RTY-11")
def backoff_is_waited_between_attempts(lab: Lab) -> None:
    """Backoff is waited between attempts, and only there.

    Intent: Nobody should wait a minute for an error that is already final, or before anything was tried.

    Usual cause: The sleep stands at the end of the loop's body, behind the check of what failed but before that of how often.

    Proof: The order of events, no clock: a reference call, begun after the others' attempts, has waited its backoff in full when its attempt 2 starts; who has nothing to wait for is back by then, who has several times as long to wait is not. Judged when it comes again with fourfold and sixteenfold backoffs.

    Source: tenacity `wait_fixed`, which waits before a retry only.
    """

    waited = "the backoff is waited between two attempts"

    def scenario(backoff: float, wrong: dict[str, str]) -> dict[str, str]:
        seen: dict[str, str] = {}
        with lab.instance(max_workers=8) as it:
            good = begin(it, lab.attempts("good", gated=False), RetryPolicy(2, backoff=4 * backoff))
            first = _reference(lab, it, "reference A", backoff)
            if backoff == BACKOFFS[-1]:
                _let_others_run(lab, it)
            if not good.done:
                begun = "its attempt 1 had returned" if runs(lab, "good", 1) else "its attempt 1 had not started"
                seen["no backoff before the first attempt, none after a success"] = (
                    f"a call with a backoff of {4 * backoff:g} s had not come back ({begun}) when one that was made later had "
                    f"waited {backoff:g} s between its attempts"
                )
            bad = begin(it, lab.attempts("bad", Fails(9), gated=False), RetryPolicy(1, backoff=6 * backoff))
            wait = PATIENCE[backoff] if waited in wrong else 4 * backoff
            names = ("patient A", "patient B", "patient C")
            patient = [
                begin(it, lab.attempts(name, Fails(1), gated=False), RetryPolicy(2, backoff=wait)) for name in names
            ]
            lab.until(
                lambda: all(
                    over(lab, f"{name} #1") or c.done for name, c in zip(("bad", *names), (bad, *patient), strict=True)
                ),
                "attempt 1 of all failing calls ends",
                needs="RTY-01",
            )
            second = _reference(lab, it, "reference B", backoff)
            at_once = bad.done
            _let_others_run(lab, it)
            if not (bad.done if backoff == BACKOFFS[-1] else at_once):
                seen["no backoff after the last attempt"] = (
                    f"a call with attempts=1 and a backoff of {6 * backoff:g} s, whose attempt had failed, had not come back "
                    f"when one that was made later had waited {backoff:g} s between its attempts"
                )
            if hasty := [name for name in names if runs(lab, name, 2)]:
                seen[waited] = (
                    f"attempt 2 of {hasty[0]}, with a backoff of {wait:g} s, had started when a call that was made later had waited "
                    f"{backoff:g} s and a few others had come and gone"
                )
            calls = (good, first, bad, *patient, second)
            lab.until(lambda: all_done(calls), "all calls come back", hung=True)
        return seen

    repeatedly(lab, scenario)


def _reference(lab: Lab, it: Instance, name: str, backoff: float) -> Call[Any]:
    """A call that fails once. Returns when its attempt 2 has started: then it has waited the backoff."""
    call = begin(it, lab.attempts(name, Fails(1), gated=False), RetryPolicy(2, backoff=backoff))
    lab.until(lambda: runs(lab, name, 2) or call.done, "the reference call's attempt 2 starts", needs="RTY-02")
    if not runs(lab, name, 2):
        raise Inconclusive(f"the reference call {ended(call)} after one attempt", because_of="RTY-02")
    lab.note(f"{name} has waited its backoff: judged here")
    return call


def _let_others_run(lab: Lab, it: Instance) -> None:
    """Give whoever is about to start the time to do so, on a busy machine too: calls on every processor come and go.

    A subject that waits for no backoff must not be lucky: its attempts 2 may be runnable and not yet have run.
    """
    for turn in range(6):
        calls = [begin(it, lab.attempts(f"plain {turn}.{n}", gated=False), RetryPolicy()) for n in range(4)]
        lab.until(partial(all_done, calls), "plain calls come back", hung=True)


@rule("RTY-20", "bounded")
def attempts_stay_within_the_bound(lab: Lab) -> None:
    """Attempts stay within the worker bound while none has timed out.

    Intent: The bound is what the other side can bear; retries under load are the moment when it is needed.

    Usual cause: A retry is started on a thread of its own, beside the pool that the first attempt ran on.

    Proof: More gated calls than workers; all that will ever start has, when nothing moves any more; the highest number in flight in all of the history is judged.

    Source: the bound of `concurrent.futures.ThreadPoolExecutor`.
    """
    workers, calls = 2, 5
    with lab.instance(max_workers=workers) as it:
        names = [f"fetch {i}" for i in range(calls)]
        started = [begin(it, lab.attempts(name, Fails(1)), RetryPolicy(attempts=2)) for name in names]
        for _ in range(3):  # first attempts, then retries among them
            lab.until(lambda: len(lab.live()) >= workers, f"{workers} attempts are in flight", needs="RTY-08")
            lab.settle()
            _within(lab, workers)
            held = lab.live()
            lab.open(*held)
            lab.until(lambda held=held: all(over(lab, name) for name in held), "they end once their gates are open")  # type: ignore[misc]
        lab.open_all()
        lab.until(lambda: all_done(started), "all calls come back once all gates are open", hung=True)
        _within(lab, workers)


def _within(lab: Lab, workers: int) -> None:
    live: list[str] = []
    for event in tuple(lab.timeline.events):
        if event.kind == "started":
            live.append(event.probe)
        elif event.kind in ("ended", "raised", "lost") and event.probe in live:
            live.remove(event.probe)
        lab.check(
            len(live) <= workers,
            f"{len(live)} attempts were in flight at once: {', '.join(live)}",
            f"at most max_workers={workers}",
        )


@rule("RTY-22", "bounded")
def backoff_holds_no_worker(lab: Lab) -> None:
    """Backoff holds no shared worker.

    Intent: A call that waits for a minute before it tries again must not keep others from trying at all.

    Usual cause: The retry loop, sleep included, is what was submitted to the pool.

    Proof: The order of events, no clock: a call made when another's attempt 1 has failed starts before that one's attempt 2, with one worker. Judged when it comes again with fourfold and sixteenfold backoffs.

    Source: Celery, *Retrying*: a task that is to be retried goes back to the queue.
    """

    def scenario(backoff: float, _: dict[str, str]) -> dict[str, str]:
        with lab.instance(max_workers=1) as it, lab.instance(max_workers=1) as beside:
            waiting = begin(it, lab.attempts("waits", Fails(1), gated=False), RetryPolicy(2, backoff=4 * backoff))
            lab.until(lambda: over(lab, "waits #1") or waiting.done, "attempt 1 fails", needs="RTY-01")
            other = begin(it, lab.attempts("other", gated=False), RetryPolicy())
            reference = begin(beside, lab.attempts("reference", Fails(1), gated=False), RetryPolicy(2, backoff=backoff))
            lab.until(lambda: all_done([waiting, other, reference]), "all calls come back", hung=True)
            order = lab.started()
            if not {"waits #2", "reference #2"} <= set(order):
                raise Inconclusive(f"a failing call {ended(waiting)} after one attempt", because_of="RTY-02")
            if "other #1" in order and order.index("other #1") < order.index("waits #2"):
                return {}
            seen = {
                "a call in its backoff leaves the worker to others": "a call made during another's backoff, on the one worker, "
                "started only when that one's attempt 2 had"
            }
            if order.index("waits #2") < order.index("reference #2"):
                seen[NOT_WAITED] = (
                    "its attempt 2 started before that of a call, made later, with a quarter of its backoff"
                )
            return seen

    repeatedly(lab, scenario)


@rule("RTY-23")
def attempts_of_a_call_do_not_overlap(lab: Lab) -> None:
    """No attempt runs beside a live one of its own call that hasn't timed out.

    Intent: Two attempts at once send the order twice; a retry is for when the first has failed.

    Usual cause: Hedging, a second attempt *to be safe*; or an attempt that counts as failed before it is over.

    Proof: One attempt is held at its gate without any limit: nothing else may have started when nothing moves any more.

    Source: RFC 9110, 9.2.2: what is not idempotent must not be repeated without knowing that the first had no effect.
    """
    with lab.instance(max_workers=4) as it:
        call = begin(it, lab.attempts("fetch", Fails(2)), RetryPolicy(attempts=3))
        for number in (1, 2, 3):
            in_hand(lab, call, f"fetch #{number}")
            lab.settle()
            _alone(lab)
            lab.open(f"fetch #{number}")
        call.join()
        _alone(lab)


def _alone(lab: Lab) -> None:
    live: list[str] = []
    for event in tuple(lab.timeline.events):
        if event.kind == "started":
            lab.check(not live, f"{event.probe} started while {', '.join(live)} was live", "one after the other")
            live.append(event.probe)
        elif event.kind in ("ended", "raised", "lost") and event.probe in live:
            live.remove(event.probe)
