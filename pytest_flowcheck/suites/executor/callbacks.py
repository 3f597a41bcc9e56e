"""EXE-14, 35: done-callbacks."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.executor import _tasks as tasks
from pytest_flowcheck.suites.executor._shared import hold_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowcheck.probes.lab import Lab


@rule("EXE-14")
def callbacks_run_once_in_order(lab: Lab) -> None:
    """A done-callback runs exactly once with the future, in the order added, at once when added late; one that raises an Exception neither stops the others nor kills the worker.

    Intent: asyncio, `wait` and every bridge to another library are built from done-callbacks.

    Usual cause: Callbacks are called without a guard, or a second time when a state is set twice.

    Proof: Each callback records itself; that one never comes, or comes again, is judged once nothing can move.

    Source: Python library reference, `Future.add_done_callback`.
    """
    lab.fresh()
    _cancelled(lab)
    for outcome, does in (("returns", None), ("raises", tasks.raise_task_error)):
        seen: list[tuple[str, bool]] = []
        with lab.executor(max_workers=1) as executor:
            future = executor.submit(lab.probe(outcome, does))

            def record(
                name: str, future: Future[Any] = future, seen: list[tuple[str, bool]] = seen
            ) -> Callable[[Future[Any]], None]:
                def callback(given: Future[Any]) -> None:
                    seen.append((name, given is future))
                    lab.note(f"callback {name} ran")
                    if name == "second":
                        raise tasks.TaskError("a callback of the test raised this on purpose")

                return callback

            for name in ("first", "second", "third"):
                future.add_done_callback(record(name))
            lab.until(lambda outcome=outcome: outcome in lab.live(), "the task is in flight", needs="EXE-01")  # type: ignore[misc]
            lab.check(not seen, f"callbacks {seen} ran while the task was gated", "none before the task is done")
            lab.open(outcome)
            lab.until(lambda seen=seen: len(seen) >= 3, "all three callbacks run once the task is done")  # type: ignore[misc]
            future.add_done_callback(record("late"))
            lab.check(
                ("late", True) in seen,
                "a callback added to a done future had not run when add_done_callback returned",
                "it runs at once",
            )
            after = executor.submit(lab.probe(f"after {outcome}", gated=False))
            lab.finish(after, "a task after the callback that raised")
            lab.settle()
            names = [name for name, _ in seen]
            expected = ["first", "second", "third", "late"]
            lab.check(names == expected, f"callbacks ran in the order {names}", f"{expected}, each once")
            lab.check(all(same for _, same in seen), "a callback was given another object", "the future itself")


def _cancelled(lab: Lab) -> None:
    """A cancelled future runs its callbacks too."""
    seen: list[Future[Any]] = []
    with lab.executor(max_workers=1) as executor:
        hold_all(lab, executor, 1)
        queued = [lab.submit(executor, f"queued {i}", gated=False) for i in range(8)]
        queued[-1].add_done_callback(seen.append)
        if not queued[-1].cancel():
            raise Inconclusive("a task 8 deep in the queue can't be cancelled", because_of="EXE-08")
        lab.open_all()
        for future in queued[:-1]:
            lab.finish(future, "a task around the cancelled one")
        lab.settle()
        lab.check(
            seen == [queued[-1]], f"the callback of a cancelled future ran {len(seen)} times", "once", absence=not seen
        )


@rule("EXE-35")
def callbacks_may_use_the_executor(lab: Lab) -> None:
    """A done-callback may submit, cancel or add callbacks without deadlock.

    Intent: Chaining work on completion is what callbacks are for.

    Usual cause: Callbacks run while the pool's own lock is held.

    Proof: The callback reports that it came back; that it never does is proven from the kernel.

    Source: CPython runs callbacks outside of the future's condition.
    """
    with lab.executor(max_workers=1) as executor:
        (future,) = hold_all(lab, executor, 1)
        queued = [lab.submit(executor, f"queued {i}") for i in range(8)]
        chained: list[Future[Any]] = []
        done: list[str] = []

        def callback(_: Future[Any]) -> None:
            chained.append(executor.submit(lab.probe("chained", gated=False)))
            done.append("submitted")
            queued[-1].cancel()
            done.append("cancelled")
            future.add_done_callback(lambda _: done.append("added"))
            lab.note("the callback has submitted, cancelled and added another")

        future.add_done_callback(callback)
        lab.open_all()
        lab.until(lambda: len(done) >= 3, "the callback gets through submit, cancel and add_done_callback", hung=True)
        lab.check(
            lab.finish(chained[0], "the task that the callback submitted") == "chained",
            "its result was lost",
            "'chained'",
        )
