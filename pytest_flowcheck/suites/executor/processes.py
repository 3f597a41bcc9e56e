"""EXE-22, 25, 32: workers that are processes die, and speak pickle."""

from __future__ import annotations

import os
import signal
import sys
import threading
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.proof import descendants
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.executor import _tasks as tasks
from pytest_flowcheck.suites.executor._shared import error_of, settle_done

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_flowcheck.probes.lab import Lab


@rule("EXE-22", "process")
def a_killed_worker_hangs_nothing(lab: Lab) -> None:
    """A worker killed mid-task: each future it carried fails with BrokenExecutor or another error that names the cause, or its task is run again; later submits raise or run; none hangs, also when the dead worker was the newest.

    Intent: The kernel's out-of-memory killer picks workers; whoever waits for their work must hear of it.

    Usual cause: The death is noticed by a pipe that the newest worker's siblings have inherited, so it never closes.

    Proof: The worker is killed while its probe is at its gate; each future is waited for, and that one can never be done is proven from the kernel. Where an initializer is claimed, its arguments hold up the start of the second worker, while it is pickled, until all else is at rest: whoever watches the workers has looked before the newest is there.

    Source: Python library reference, `BrokenProcessPool`; CPython `process.py`, where `submit` wakes the manager first and starts the worker after.
    """
    for which in ("newest", "oldest"):
        lab.fresh()
        hesitant = tasks.Hesitant(lab.probe("starting worker"))
        options = {"initializer": tasks.initialise, "initargs": (hesitant,)} if lab.claims("initializer") else {}
        with lab.executor(max_workers=2, **options) as executor:
            futures = _one_after_the_other(lab, executor, hesitant)
            pids = {e.probe: e.pid for e in lab.timeline.of("started")}
            victim = pids["hold 1" if which == "newest" else "hold 0"]
            if victim not in descendants() or pids["hold 0"] == pids["hold 1"]:
                raise NotTestable("its workers are no child processes of this one that could be killed one by one")
            lab.note(f"the {which} worker, pid {victim}, is killed")
            os.kill(victim, signal.SIGKILL)
            _survives(lab, executor, futures, "hold 1" if which == "newest" else "hold 0", which)


def _one_after_the_other(lab: Lab, executor: Any, hesitant: tasks.Hesitant) -> list[Any]:
    """Two tasks at their gates on two workers, the second started when all that serves the first is at rest.

    A pool that has started both workers by then pickles nothing any more, and nothing hesitates.
    """
    futures: list[Any] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # where nothing can be held up: change hands as often as possible instead
    try:
        for i in range(2):
            hesitant.armed = i == 1
            submit = lab.call(f"submit of hold {i}", partial(lab.submit, executor, f"hold {i}"))
            lab.settle()
            if i == 1:
                lab.open("starting worker")
            futures.append(submit.result())
            lab.until(lambda i=i: f"hold {i}" in lab.live(), "2 gated tasks are in flight on 2 workers", needs="EXE-03")  # type: ignore[misc]
            lab.settle()
    finally:
        sys.setswitchinterval(interval)
    return futures


def _survives(lab: Lab, executor: Any, futures: list[Any], carried: str, which: str) -> None:
    lab.until(lambda: carried in lab.timeline.names("lost"), "the worker is gone")
    # the other worker stays at its gate: its result must not be what makes the pool look at the dead one
    orphan = futures[int(carried[-1])]
    lab.until(
        lambda: orphan.done() or lab.started().count(carried) > 1,
        f"the future whose {which} worker was killed fails, or its task is run again",
        hung=True,
    )
    lab.open_all()
    settle_done(lab, futures, f"after its {which} worker was killed")
    for i, future in enumerate(futures):
        error = error_of(lab, future, f"the future of hold {i}")
        silent = error is not None and not str(error) and type(error) in (Exception, CancelledError)
        lab.check(not silent, f"the future of hold {i} failed with {error!r}", "an error that names the cause")

    def later() -> str:
        try:
            future = executor.submit(lab.probe("later", gated=False))
        except RuntimeError as refusal:  # BrokenExecutor is one
            return f"raised {refusal!r}"
        lab.watch(future)
        return f"ended with {error_of(lab, future, 'a task submitted after the death')!r}"

    lab.note(f"a later submit {lab.call('a submit after the death', later).result()}")


@rule("EXE-25", "process")
def what_cannot_be_pickled_fails_alone(lab: Lab) -> None:
    """A task, argument, result or exception that can't be pickled fails that future, promptly and clearly, and no other.

    Intent: One unlucky argument must not break the pool, or hang its reader without a word.

    Usual cause: The pickling error is raised on a feeder thread, or in the worker after the task, where nobody reads it.

    Proof: A neighbour task is at its gate all the while; every future is waited for by proof.

    Source: Python library reference, `ProcessPoolExecutor`: only picklable objects.
    """
    lock = threading.Lock()
    cases: list[tuple[str, Callable[[Any], Any]]] = [
        ("an argument", lambda executor: executor.submit(lab.probe("takes a lock", gated=False), lock)),
        ("a function", lambda executor: executor.submit(lock.acquire)),
        ("a result", lambda executor: executor.submit(lab.probe("returns a lock", tasks.make_lock, gated=False))),
        ("an exception", lambda executor: executor.submit(lab.probe("raises a lock", tasks.raise_lock, gated=False))),
    ]
    with lab.executor(max_workers=2) as executor:
        neighbour = lab.submit(executor, "neighbour")
        lab.until(lambda: "neighbour" in lab.live(), "the neighbour task is in flight", needs="EXE-01")
        for what, submit in cases:
            error = _error_of_submit(lab, executor, what, submit)
            lab.check(error is not None, f"{what} that can't be pickled gave a result", "an error")
            lab.check(
                not neighbour.done(),
                f"{what} that can't be pickled ended the neighbour's future with it: {neighbour}",
                "no other future",
            )
        lab.open_all()
        lab.check(
            lab.finish(neighbour, "the neighbour task") == "neighbour", "the neighbour lost its result", "'neighbour'"
        )
        after = lab.submit(executor, "after", gated=False)
        lab.check(lab.finish(after, "a later task") == "after", "a later task lost its result", "'after'")


def _error_of_submit(lab: Lab, executor: Any, what: str, submit: Callable[[Any], Any]) -> BaseException | None:
    """The error, whether `submit` raised it at once or the future gave it."""

    def attempt() -> Any:
        try:
            return submit(executor)
        except Exception as error:  # noqa: BLE001 - refusing at once is as good as failing the future
            return error

    got = lab.call(f"submitting {what} that can't be pickled", attempt).result()
    if isinstance(got, BaseException):
        return got
    lab.watch(got)
    return error_of(lab, got, f"the future of {what} that can't be pickled")


@rule("EXE-32", "process")
def what_cannot_be_unpickled_hangs_nothing(lab: Lab) -> None:
    """What pickles but can't be unpickled (an exception whose constructor wants more arguments) fails its future and hangs none. SHOULD break nothing else.

    Intent: Exceptions with a rich constructor are everywhere, and most of them can't be unpickled.

    Usual cause: Unpickling happens on the thread that serves all futures, which dies of it.

    Proof: Every future is waited for; that one can never be done is proven from the kernel.

    Source: bpo-32714 and many reports of exceptions with required arguments hanging multiprocessing pools.
    """
    for what, argument, does in (("an exception", None, tasks.raise_picky), ("an argument", tasks.Unloadable(), None)):
        lab.fresh()
        with lab.executor(max_workers=1) as executor:
            first = lab.submit(executor, "first", gated=False)
            lab.check(lab.finish(first, "a task before it") == "first", "a task before it lost its result", "'first'")

            def submit(executor: Any, argument: Any = argument, does: Any = does, what: str = what) -> Any:
                return executor.submit(lab.probe(f"carries {what}", does, gated=False), argument)

            error = _error_of_submit(lab, executor, what, submit)
            lab.check(error is not None, f"{what} that can't be unpickled gave a result", "an error")
