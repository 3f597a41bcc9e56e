"""EXE-17, 18, 19: what remains."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Judgement
from pytest_flowcheck.proof import Census, census
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.executor import _tasks as tasks
from pytest_flowcheck.suites.executor._shared import hold_all

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from pytest_flowcheck.probes.lab import Lab


@rule("EXE-17")
def nothing_remains_after_shutdown(lab: Lab) -> None:
    """After `shutdown(wait=True)` no worker thread, child, socket or descriptor of it remains; process-wide helpers may stay but don't grow over open-use-close rounds.

    Intent: A service that opens a pool per request must live as long as one that doesn't.

    Usual cause: A helper thread or a wake-up pipe per pool that is never closed; workers that are told to stop but stay.

    Proof: The process's own threads, children and descriptors are counted by the kernel before and after; growth in every round, judged when nothing moves any more.

    Source: CPython's `_ThreadWakeup` and its leaks (bpo-39104, gh-94777).
    """
    rounds = 3

    def use() -> None:
        with lab.executor(max_workers=2) as executor:
            hold_all(lab, executor, 2)
            lab.open_all()
        lab.fresh()

    use()  # the first round may start process-wide helpers
    lab.settle()
    before = census()
    for _ in range(rounds):
        use()
    lab.settle()
    after = census()
    for what, grown in _grown(before, after).items():
        lab.check(
            grown < rounds,
            f"{rounds} rounds of open, use and shutdown(wait=True) left {grown} more {what}: {'; '.join(after.growth_since(before)[:6])}",
            "none: everything of a round is gone when its shutdown has returned",
            absence=True,
            leaked=True,
        )


def _grown(before: Census, after: Census) -> dict[str, int]:
    """What grew, by kind. Compared by number: a process-wide helper that was replaced is no leak."""
    return {
        "threads": len(after.threads) - len(before.threads),
        "child processes": len(after.children) - len(before.children),
        "descriptors": len(after.descriptors) - len(before.descriptors),
        "process-wide helpers": len(after.helpers) - len(before.helpers),
        "event loops": after.loops - before.loops,
    }


@rule("EXE-18")
def done_tasks_are_forgotten(lab: Lab) -> None:
    """Once a task is done and its future dropped, no reference to function, arguments, result or exception remains after a collection, even while idle; a cancelled one is freed once the queue has passed it.

    Intent: An idle worker that still holds the last task's arguments holds gigabytes until the next task comes.

    Usual cause: The worker loop's local variables keep the last work item while it waits for the next.

    Proof: Weak references, read after a collection while the executor is open and idle.

    Source: CPython `_worker`: `del work_item`.
    """
    with lab.executor(max_workers=1) as executor:
        # one after the other: a worker may hold on to the last task only, and the next would hide it
        for stage in (_run_and_drop, _fail_and_drop, _cancel_and_drop):
            watched = stage(lab, executor)
            lab.settle()
            gc.collect()
            held = [what for what, reference in watched if reference() is not None]
            lab.check(
                not held,
                f"still referenced while the executor is idle: {', '.join(held)}",
                "nothing of a task whose future was dropped",
                leaked=True,
            )


_Watched = list[tuple[str, "weakref.ref[Any]"]]


def _run_and_drop(lab: Lab, executor: Executor) -> _Watched:
    argument = tasks.Thing("the argument")
    function = lab.probe("works", tasks.make_thing, gated=False)
    future = executor.submit(function, argument)
    lab.watch(future)
    result = lab.finish(future, "the task's future")
    return [
        ("the function", weakref.ref(function)),
        ("the argument", weakref.ref(argument)),
        ("the result", weakref.ref(result)),
        ("the future", weakref.ref(future)),
    ]


def _fail_and_drop(lab: Lab, executor: Executor) -> _Watched:
    argument = tasks.Thing("the failing task's argument")
    future = executor.submit(lab.probe("fails", tasks.raise_task_error, gated=False), argument)
    lab.watch(future)
    lab.until(future.done, "the failing task's future is done", hung=True)
    error = future.exception(timeout=0)
    assert error is not None
    return [("the exception", weakref.ref(error)), ("the failing task's argument", weakref.ref(argument))]


def _cancel_and_drop(lab: Lab, executor: Executor) -> _Watched:
    held = [executor.submit(lab.probe("holds"))]
    lab.until(lambda: "holds" in lab.live(), "a task occupies the worker", needs="EXE-01")
    fillers = [executor.submit(lab.probe(f"filler {i}", gated=False)) for i in range(8)]
    argument = tasks.Thing("the cancelled task's argument")
    future = executor.submit(lab.probe("cancelled", gated=False), argument)
    future.cancel()
    behind = executor.submit(lab.probe("behind", gated=False))
    lab.open("holds")
    for waited in (*held, *fillers, behind):
        lab.watch(waited)
        lab.until(waited.done, "the tasks around the cancelled one are done", hung=True)
    return [("the cancelled task's argument", weakref.ref(argument))]


@rule("EXE-19", should=True)
def a_dropped_executor_frees_its_workers(lab: Lab) -> None:
    """An executor dropped without shutdown frees its workers.

    Intent: A forgotten pool costs its user a warning at most, not threads until the process ends.

    Usual cause: Worker threads hold a strong reference to their executor, so it is never collected.

    Proof: Threads and children are counted by the kernel before and after, when nothing moves any more.

    Source: CPython `_worker` holds a weak reference to its executor.
    """

    def use_and_drop() -> None:
        executor = lab.subject.make_executor(max_workers=2)
        try:
            futures = hold_all(lab, executor, 2)
        except Judgement:
            lab.open_all()
            executor.shutdown(wait=False)
            raise
        lab.open_all()
        for i, future in enumerate(futures):
            lab.finish(future, f"task {i}")
        lab.futures.clear()

    def after_a_round() -> Census:
        use_and_drop()
        lab.settle()  # a thread of the executor may hold it for a moment more, and a cycle outlive the collection
        gc.collect()
        lab.settle()
        return census()

    # the first use may start what stays for the whole process: helpers of the library, the kit's own probe server
    before = after_a_round()
    lab.fresh()
    now = after_a_round()
    lab.check(
        len(now.threads) <= len(before.threads) and len(now.children) <= len(before.children),
        f"after the last reference was dropped and collected there remain: {'; '.join(now.growth_since(before)[:6])}",
        "its workers end by themselves",
        absence=True,
        leaked=True,
    )
