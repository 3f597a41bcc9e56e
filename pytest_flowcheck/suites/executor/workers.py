"""EXE-03, 04, 23, 24, 27, 28: the workers, how many they are and what they carry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import AdapterError, NotTestable
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.executor import _tasks as tasks
from pytest_flowcheck.suites.executor._shared import draws, hold_all, settle_done, worker_set

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("EXE-03", property=True)
def as_many_in_flight_as_workers(lab: Lab) -> None:
    """With `max_workers=n`, n gated tasks are in flight together, and never n+1.

    Intent: The bound is why a pool is chosen: fewer wastes it, more breaks what the bound protects.

    Usual cause: An off-by-one in lazy worker creation, or a second pool behind the first; a worker that was woken for one task still counts as idle for the next.

    Proof: In flight is what the probes themselves report. A missing one is proven from the kernel; an extra one is there. Asked of fresh pools, and of pools in which workers have come to rest after earlier tasks: those are woken, and the others started, by tasks that come at once.

    Source: PEP 3148, `max_workers`.
    """

    def told(drawn: tuple[int, int, int, int]) -> str:
        workers, extra, freed, warm = drawn
        after = f"after {min(warm, workers)} earlier tasks, " if warm else ""
        return f"{after}{workers} workers, {workers + extra} gated tasks, {min(extra, freed)} of them let go one by one"

    def scenario(drawn: tuple[int, int, int, int]) -> None:
        workers, extra, freed, warm = drawn
        names = [f"task {i}" for i in range(workers + extra)]
        with lab.executor(max_workers=workers) as executor:
            if warm := min(warm, workers):
                earlier = [lab.submit(executor, f"earlier {i}", gated=False) for i in range(warm)]
                settle_done(lab, earlier, "of the first tasks")
                lab.settle()
            futures = [lab.submit(executor, name) for name in names]
            lab.until(
                lambda: len(lab.live()) >= workers,
                f"{workers} of {len(names)} gated tasks are in flight on {workers} workers",
            )
            lab.settle()
            _exactly(lab, workers)
            for _ in range(min(freed, extra)):
                before = len(lab.started())
                lab.open(lab.live()[0])
                lab.until(lambda before=before: len(lab.started()) > before, "a freed worker takes the next task")  # type: ignore[misc]
            if freed and extra:
                lab.settle()
                _exactly(lab, workers)
            lab.open_all()
            settle_done(lab, futures, "once all gates are open")

    warmed = (2, 0, 0, 1)  # the smallest pool in which one is woken and another must be started
    lab.example = told(warmed)
    scenario(warmed)
    lab.example = ""
    lab.fresh()
    strategy = st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(0, 3), st.integers(0, 4))
    forall(
        lab,
        scenario,
        strategy,
        examples=draws(lab, 8),
        describe=told,
    )


def _exactly(lab: Lab, workers: int) -> None:
    live = lab.live()
    lab.check(
        len(live) <= workers,
        f"{len(live)} tasks are in flight: {', '.join(live)}",
        f"never more than max_workers={workers}",
    )
    lab.check(
        len(live) >= workers,
        f"only {len(live)} tasks are in flight: {', '.join(live)}",
        f"{workers}, one on each worker",
        absence=True,
    )


@rule("EXE-04")
def sequential_tasks_reuse_workers(lab: Lab) -> None:
    """Sequential tasks reuse workers: 10·n tasks run on at most n workers, in all.

    Intent: Starting a worker for each task is what a pool is there to save.

    Usual cause: A thread or an executor per call, often hidden behind a helper that "runs it with a timeout".

    Proof: Each probe reports the process and the kernel's thread id that ran it.

    Source: dynamiq pull request 674 (an executor per node); PEP 3148.
    """
    workers = 2
    with lab.executor(max_workers=workers) as executor:
        for i in range(10 * workers):
            lab.finish(lab.submit(executor, f"task {i}", gated=False), f"task {i}")
    used = worker_set(lab)
    lab.check(
        len(used) <= workers,
        f"{10 * workers} tasks, one after the other, ran on {len(used)} workers",
        f"at most max_workers={workers}, in all",
    )


@rule("EXE-23", "nested")
def nested_tasks_do_not_deadlock(lab: Lab) -> None:
    """A task that submits to its own executor and waits does not deadlock when every worker is so occupied.

    Intent: Code that runs in parallel is called from code that runs in parallel; neither knows of the other.

    Usual cause: The waiting task keeps its worker, and the inner task waits for that very worker.

    Proof: Every worker is occupied by an outer task before the first inner one is submitted; a deadlock is proven from the kernel.

    Source: Python library reference, the deadlock examples of `ThreadPoolExecutor`.
    """
    if not lab.claims("threads"):
        raise NotTestable(
            "a task in another process can't reach the executor that runs it; only [threads] subjects can be asked"
        )
    workers = 2
    with lab.executor(max_workers=workers) as executor:

        def inner_of(i: int) -> Any:
            def outer() -> Any:
                return executor.submit(lab.probe(f"inner {i}", gated=False)).result()

            return outer

        outers = [lab.submit(executor, f"outer {i}", does=inner_of(i)) for i in range(workers)]
        lab.until(
            lambda: len(lab.live()) == workers, f"{workers} outer tasks occupy the {workers} workers", needs="EXE-03"
        )
        lab.open_all()
        for i, outer in enumerate(outers):
            got = lab.finish(outer, f"outer {i}, which waits for inner {i},")
            lab.check(got == f"inner {i}", f"outer {i} got {got!r}", "the inner task's result")


@rule("EXE-24", "context")
def tasks_see_the_context_of_their_submit(lab: Lab) -> None:
    """Context variables at `submit` are visible in the task; changes made there don't leak to the next task.

    Intent: Request ids, tracing spans and decimal contexts follow the work, and stay with it.

    Usual cause: `copy_context()` is forgotten, or made once per worker instead of once per task.

    Proof: One worker serves all tasks; each returns the variable as it saw it.

    Source: PEP 567.
    """
    with lab.executor(max_workers=1) as executor:
        token = tasks.VARIABLE.set("of the submit")
        try:
            first = lab.submit(executor, "changes", gated=False, does=tasks.change_variable)
            second = lab.submit(executor, "reads", gated=False, does=tasks.read_variable)
        finally:
            tasks.VARIABLE.reset(token)
        token = tasks.VARIABLE.set("of the map")
        try:
            mapped = lab.call(
                "map", lambda: list(executor.map(lab.probe("mapped", tasks.read_variable, gated=False), [1]))
            ).result()
        finally:
            tasks.VARIABLE.reset(token)
        lab.check(mapped == ["of the map"], f"a task of map saw {mapped}", "the variable as it was when map was called")
        third = lab.submit(executor, "reads later", gated=False, does=tasks.read_variable)
        for name, future, expected in (
            ("a task", first, "of the submit"),
            ("the next task, after one that changed it,", second, "of the submit"),
            ("a task submitted after the variable was reset", third, "unset"),
        ):
            got = lab.finish(future, name)
            lab.check(got == expected, f"{name} saw {got!r}", repr(expected))


@rule("EXE-27", "resize")
def a_resize_takes_effect(lab: Lab) -> None:
    """A changed `max_workers` takes effect without losing queued work.

    Intent: A limit that comes from configuration changes while work is queued.

    Usual cause: A new pool replaces the old one and its queue is dropped; or the new limit is stored and never read.

    Proof: In flight is what the gated probes report, before and after; each future is read by proof.

    Source: dynamiq pull request 674.
    """
    with lab.executor(max_workers=1) as executor:
        futures = [lab.submit(executor, f"task {i}") for i in range(5)]
        lab.until(lambda: bool(lab.live()), "a task is in flight on 1 worker", needs="EXE-03")
        lab.settle()
        lab.check(len(lab.live()) == 1, f"{len(lab.live())} tasks are in flight before the resize", "1")
        lab.call("resize(3)", lambda: _resize(executor, 3)).result()
        lab.until(lambda: len(lab.live()) >= 3, "3 tasks are in flight after resize(3)")
        lab.settle()
        lab.check(len(lab.live()) == 3, f"{len(lab.live())} tasks are in flight after resize(3)", "3")
        lab.call("resize(1)", lambda: _resize(executor, 1)).result()
        # shrinking must not take a running task's worker, nor a queued task
        for name in ("task 0", "task 1"):
            lab.open(name)
            lab.until(lambda name=name: name in lab.ended(), f"{name} ends once its gate is open")  # type: ignore[misc]
        lab.settle()
        lab.check(
            len(lab.live()) == 1,
            f"{len(lab.live())} tasks are in flight after resize(1) and two ends",
            "1: a freed worker above the limit takes nothing new",
        )
        lab.open_all()
        for i, future in enumerate(futures):
            lab.check(
                lab.finish(future, f"task {i}, queued while the size changed") == f"task {i}",
                f"task {i} gave another result",
                "its own",
            )


def _resize(executor: Any, max_workers: int) -> None:
    if not callable(getattr(executor, "resize", None)):
        raise AdapterError(f"claims resize, but {type(executor).__name__} has no method resize(max_workers)")
    executor.resize(max_workers)


@rule("EXE-28", "threads", should=True)
def worker_threads_have_a_name(lab: Lab) -> None:
    """Workers carry a recognisable name, so that a stack dump says whose they are.

    Intent: Whoever looks at a hung process sees forty threads; names tell which are idle by right.

    Usual cause: `threading.Thread(target=...)` without a name gives `Thread-7 (worker)`.

    Proof: Each probe reports the name of the thread that ran it.

    Source: Python library reference, `thread_name_prefix`.
    """
    with lab.executor(max_workers=2) as executor:
        hold_all(lab, executor, 2)
    nameless = sorted(
        {e.thread for e in lab.timeline.of("started") if re.match(r"(Thread|Dummy)-\d+|MainThread", e.thread)}
    )
    lab.check(
        not nameless, f"workers are named {', '.join(nameless)}", "a name that says which executor they belong to"
    )
