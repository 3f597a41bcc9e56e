"""EXE-21, 39: the initializer."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.executor import _tasks as tasks
from pytest_flowcheck.suites.executor._shared import error_of, settle_done

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from pytest_flowcheck.probes.lab import Lab


@rule("EXE-21", "initializer")
def the_initializer_comes_first(lab: Lab) -> None:
    """It runs once in each worker before its tasks; if it raises, pending futures and later submits fail with BrokenExecutor; none hangs.

    Intent: Connections and models are set up per worker; tasks rely on it, and a failed set-up must show.

    Usual cause: It runs per task or per pool; its exception ends the worker thread and nobody tells the futures.

    Proof: Each worker is occupied at the same time and says what its initializer left; each future of the failing pool is waited for by proof.

    Source: Python library reference, `initializer`; `BrokenThreadPool`.
    """
    workers = 2
    with lab.executor(max_workers=workers, initializer=tasks.initialise, initargs=("mark",)) as executor:
        futures = [lab.submit(executor, f"task {i}", does=tasks.marks) for i in range(workers)]
        lab.until(
            lambda: len(lab.live()) == workers, f"{workers} tasks are in flight on {workers} workers", needs="EXE-03"
        )
        lab.open_all()
        futures += [lab.submit(executor, f"later {i}", gated=False, does=tasks.marks) for i in range(workers)]
        for i, future in enumerate(futures):
            got = lab.finish(future, f"task {i}")
            lab.check(
                got == ("mark",),
                f"task {i} found its worker initialised {len(got)} times: {got}",
                "once, before its tasks",
            )
    _breaks(lab, tasks.fail_to_initialise)


def _breaks(lab: Lab, initializer: Callable[[], Any]) -> None:
    with lab.executor(max_workers=2, initializer=initializer) as executor:
        pending: list[Future[Any]] = []
        submit = lab.call("submitting to a pool whose initializer fails", lambda: _submit_all(lab, executor, pending))
        submit.result()
        settle_done(lab, pending, "although the initializer failed")
        for i, future in enumerate(pending):
            error = error_of(lab, future, f"pending task {i}")
            lab.check(isinstance(error, BrokenExecutor), f"pending task {i} ended with {error!r}", "BrokenExecutor")

        def later() -> BaseException | None:
            try:
                return error_of(lab, executor.submit(lab.probe("later", gated=False)), "a later task")
            except BrokenExecutor as error:
                return error

        late = later()
        lab.check(isinstance(late, BrokenExecutor), f"a later submit gave {late!r}", "BrokenExecutor")


def _submit_all(lab: Lab, executor: Any, pending: list[Future[Any]]) -> None:
    try:
        for i in range(4):
            future = executor.submit(lab.probe(f"pending {i}", gated=False))
            lab.watch(future)
            pending.append(future)
    except BrokenExecutor:
        lab.note(f"submit raised BrokenExecutor after {len(pending)} tasks")


@rule("EXE-39", "initializer")
def an_initializer_that_exits_hangs_nothing(lab: Lab) -> None:
    """SystemExit in the initializer hangs no future.

    Intent: `sys.exit()` in set-up code ends a thread or a process silently; the futures must still be told.

    Usual cause: `except Exception` around the initializer.

    Proof: Each future is waited for; that one can never be done is proven from the kernel.

    Source: CPython `_worker` catches BaseException around the initializer.
    """
    with lab.executor(max_workers=1) as executor:
        lab.finish(lab.submit(executor, "without an initializer", gated=False), "a task without an initializer")
    with lab.executor(max_workers=2, initializer=tasks.exit_in_initialiser) as executor:
        pending: list[Future[Any]] = []
        lab.call("submitting to a pool whose initializer exits", lambda: _submit_all(lab, executor, pending)).result()
        settle_done(lab, pending, "although the initializer raised SystemExit")
