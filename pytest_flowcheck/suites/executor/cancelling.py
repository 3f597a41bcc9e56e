"""EXE-08, 29, 31: cancellation and those who read it."""

from __future__ import annotations

from concurrent.futures import CancelledError, Future, as_completed, wait
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.executor._shared import draws, hold_all

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("EXE-08", property=True)
def cancel_means_what_it_says(lab: Lab) -> None:
    """A `cancel()` that returns True means CancelledError for every reader, and for local executors that the task never runs; one that returns False changes nothing; a task deep enough in the queue can be cancelled; no state goes back.

    Intent: The caller decides by the answer whether to undo, to wait or to forget; a wrong answer loses or doubles work.

    Usual cause: `cancel` marks the future but not the queue entry, or a worker sets a result over the cancellation.

    Proof: Every worker is gated before any cancel; answers, readers and starts are compared once all is done.

    Source: Python library reference, `Future.cancel`. Process pools prefetch, and `running()` is True for what they fetched.
    """

    def scenario(drawn: tuple[int, list[int]]) -> None:
        workers, chosen = drawn
        queued = 3 * workers + 5
        with lab.executor(max_workers=workers) as executor:
            futures = {f"hold {i}": future for i, future in enumerate(hold_all(lab, executor, workers))}
            for i in range(queued):
                futures[f"task {i}"] = lab.submit(executor, f"task {i}")
            deepest = f"task {queued - 1}"
            targets = [*dict.fromkeys([f"task {c % queued}" for c in chosen]), "hold 0", deepest]
            answers = {name: futures[name].cancel() for name in targets}
            lab.note(f"cancel() answered {answers}")
            states = {name: future.cancelled() for name, future in futures.items()}
            wrong = [n for n, answer in answers.items() if states[n] is not answer]
            lab.check(
                not wrong,
                f"cancelled() disagrees with the answer of cancel() for {wrong}",
                "cancelled() is what cancel() answered",
            )
            lab.open_all()
            lab.until(lambda: all(f.done() for f in futures.values()), "all futures are done", hung=True)
            _read_all(lab, futures, answers)
        lab.check(
            answers[deepest],
            f"{deepest}, {queued} deep in the queue of {workers} workers, could not be cancelled",
            "cancel() returns True",
        )

    strategy = st.tuples(st.integers(1, 3), st.lists(st.integers(0, 13), max_size=6))
    forall(
        lab,
        scenario,
        strategy,
        examples=draws(lab, 20),
        describe=lambda d: (
            f"{d[0]} gated workers, {3 * d[0] + 5} tasks queued behind them; cancelled: {sorted(set(d[1]))}, a gated one, and the last"
        ),
    )


def _read_all(lab: Lab, futures: dict[str, Future[Any]], answers: dict[str, bool]) -> None:
    ran = set(lab.started())
    for name, future in futures.items():
        cancelled = answers.get(name, False)
        for reader in (future.result, future.exception):
            try:
                value = reader(timeout=0)
                got = "a result"
            except CancelledError:
                value, got = None, "CancelledError"
            expected = "CancelledError" if cancelled else "a result"
            answer = f"cancel() answered {answers[name]}" if name in answers else "it was never cancelled"
            lab.check(got == expected, f"{name}: {answer}, yet {reader.__name__}() gave {got} ({value!r})", expected)
        if cancelled and not lab.claims("cluster"):
            lab.check(
                name not in ran, f"{name}: cancel() answered True, yet the task ran", "a cancelled task never runs"
            )
        if not cancelled:
            lab.check(name in ran, f"{name} has a result but never ran", "it ran")


@rule("EXE-29", cluster="exempt")
def a_running_task_cannot_be_cancelled(lab: Lab) -> None:
    """For local executors a task seen running can't be cancelled.

    Intent: True would tell the caller that nothing happened, while it is happening.

    Usual cause: The future is never marked as running (`set_running_or_notify_cancel` is not called).

    Proof: The task itself reported its start and sits at its gate when `cancel()` is called.

    Source: Python library reference, `Future.cancel`: False if currently being executed.
    """
    with lab.executor(max_workers=1) as executor:
        (future,) = hold_all(lab, executor, 1)
        answer = future.cancel()
        lab.check(not answer, "cancel() of a task that is at its gate answered True", "False: the task is running")
        lab.open_all()
        lab.check(lab.finish(future, "the running task") == "hold 0", "its result was lost", "the task's result")


@rule("EXE-31", should=True)
def waiters_wake_for_a_cancelled_future(lab: Lab) -> None:
    """A thread in `wait` or `as_completed` wakes for a future cancelled by `cancel()` or `shutdown` without waiting for a worker.

    Intent: Who waits for a cancelled task should not be held up by the very work it was cancelled to avoid.

    Usual cause: Waiters are told by the worker that finds the cancelled entry in its queue, which may be never.

    Proof: Every worker is gated, so that only the cancellation can wake the waiter.

    Source: CPython's `Future.cancel` leaves CANCELLED; only a worker makes it CANCELLED_AND_NOTIFIED.
    """
    with lab.executor(max_workers=1) as executor:
        hold_all(lab, executor, 1)
        queued = [lab.submit(executor, f"queued {i}") for i in range(8)]
        last = queued[-1]
        waiter = lab.call("wait([cancelled])", lambda: wait([last]))
        reader = lab.call("as_completed([cancelled])", lambda: list(as_completed([last])))
        lab.settle()
        lab.check(last.cancel(), "a task 8 deep in the queue can't be cancelled", "cancel() returns True (EXE-08)")
        for call in (waiter, reader):
            lab.until(
                lambda call=call: call.done,  # type: ignore[misc]
                f"{call.what} returns after cancel() while the only worker is busy",
            )
        if lab.claims("cancel_futures"):
            other = queued[-2]
            waiter = lab.call("wait([cancelled by shutdown])", lambda: wait([other]))
            lab.settle()
            lab.call("shutdown", lambda: executor.shutdown(wait=False, cancel_futures=True))
            lab.until(
                lambda: waiter.done, "wait() returns after shutdown(cancel_futures=True) while the only worker is busy"
            )
