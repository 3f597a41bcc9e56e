"""EXE-09, 10, 11, 12, 30: the end of an executor's work."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.executor._shared import draws, error_of, hold_all, settle_done, swept

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.proof.sweep import Outcome


@rule("EXE-09")
def shutdown_waits_for_the_work(lab: Lab) -> None:
    """`shutdown(wait=True)` returns only when submitted tasks are done or cancelled.

    Intent: After it the caller closes files and connections that tasks still use.

    Usual cause: Workers are told to stop but not joined, or only those that happen to be idle; or the first `shutdown(wait=False)` forgets whom a later `shutdown(wait=True)` would have to wait for, as CPython's process pools do.

    Proof: All workers are gated; that the call came back is in the history. Futures are read in the thread that came back.

    Source: Python library reference, `Executor.shutdown`.
    """
    _waits(lab, told_before=False)
    lab.fresh()
    _waits(lab, told_before=True)


def _waits(lab: Lab, *, told_before: bool) -> None:
    with lab.executor(max_workers=2) as executor:
        futures = [*hold_all(lab, executor, 2), *(lab.submit(executor, f"queued {i}") for i in range(3))]
        if told_before:  # one that was told to stop must still be waited for
            first = lab.call("shutdown(wait=False)", lambda: executor.shutdown(wait=False))
            lab.until(lambda: first.done, "shutdown(wait=False) returns while tasks are gated", needs="EXE-30")

        def shut() -> list[bool]:
            executor.shutdown(wait=True)
            return [future.done() for future in futures]

        call = lab.call("shutdown(wait=True)", shut)
        lab.settle()
        lab.check(
            not call.done or all(f.done() for f in futures),
            f"shutdown(wait=True) came back with {len(lab.live())} tasks in flight",
            "it waits for them",
        )
        lab.open_all()
        done = call.result()
        lab.check(
            all(done),
            f"when shutdown(wait=True) came back {done.count(False)} of {len(done)} futures were not done",
            "all done",
        )


@rule("EXE-10", "cancel_futures")
def shutdown_cancels_what_is_queued(lab: Lab) -> None:
    """`shutdown(cancel_futures=True)` cancels what isn't yet handed to a worker and lets the rest finish; `result()` of each future returns or raises.

    Intent: Stop soon, lose nothing half-way, and leave no reader waiting.

    Usual cause: The queue is dropped without cancelling its futures: readers wait for ever.

    Proof: One worker is gated; which futures are cancelled is read at once, the others by proof.

    Source: Python library reference, `Executor.shutdown`, since 3.9.
    """
    for wait in (True, False):
        lab.fresh()
        _cancels(lab, wait=wait)


def _cancels(lab: Lab, *, wait: bool) -> None:
    what = f"shutdown(wait={wait}, cancel_futures=True)"
    with lab.executor(max_workers=1) as executor:
        (running,) = hold_all(lab, executor, 1)
        queued = {f"queued {i}": lab.submit(executor, f"queued {i}") for i in range(8)}
        call = lab.call(what, lambda: executor.shutdown(wait=wait, cancel_futures=True))
        last = queued["queued 7"]
        lab.watch(last)
        lab.until(
            lambda: last.cancelled() or call.error is not None,
            f"{what} cancels the last of 8 queued futures while the only worker is at its gate",
        )
        lab.open_all()
        call.result()
        lab.check(
            lab.finish(running, "the running task") == "hold 0", "the running task lost its result", "it finishes"
        )
        settle_done(lab, queued.values(), f"after {what}")
        ran = set(lab.started())
        for name, future in queued.items():
            cancelled = isinstance(error_of(lab, future, name), CancelledError)
            lab.check(
                cancelled != (name in ran),
                f"{name}: cancelled is {cancelled}, ran is {name in ran}",
                "either cancelled or run",
            )


@rule("EXE-11", property=True)
def shutdown_and_submit_may_race(lab: Lab) -> None:
    """`shutdown` is idempotent and callable from any thread but its own workers; `submit` after it raises RuntimeError; a submit that races it runs, is cancelled or raises, and is never left pending.

    Intent: Services stop while requests come in; no caller may be left waiting for a future that nobody will set.

    Usual cause: The flag is read, the queue closed, and only then the task is put into it.

    Proof: Each future that a racing `submit` gave is waited for; that one can never be done is proven from the kernel. Then the race is made: on threads, each of the two calls, and each worker, is parked at every line of the executor's own code until the other call is done or blocked.

    Source: Python library reference, `Executor.shutdown`; CPython's `_shutdown_lock`.
    """

    def scenario(drawn: tuple[int, int, int, bool]) -> None:
        workers, submitters, after, twice = drawn
        with lab.executor(max_workers=workers) as executor:
            barrier, enough = threading.Barrier(submitters + 1 + twice), threading.Event()
            if not after:
                enough.set()
            task = lab.probe("task", gated=False)
            lab.finish(executor.submit(task, "first"), "a task before the race")

            def submit_until_refused(submitter: int) -> list[Future[Any]]:
                futures: list[Future[Any]] = []
                barrier.wait()
                try:
                    for k in range(400):
                        futures.append(executor.submit(task, submitter, k))
                        if k + 1 == after:
                            enough.set()
                except RuntimeError:
                    lab.note(f"submitter {submitter} was refused after {len(futures)} tasks")
                finally:
                    enough.set()  # one that is refused early must not hold up the shutdown
                return futures

            def shut() -> None:
                barrier.wait()
                enough.wait()
                executor.shutdown(wait=True)

            calls = [lab.call(f"submitter {s}", lambda s=s: submit_until_refused(s)) for s in range(submitters)]  # type: ignore[misc]
            shuts = [lab.call("shutdown(wait=True)", shut) for _ in range(1 + twice)]
            for call in shuts:
                call.result()
            futures = [f for call in calls for f in call.result()]
            for future in futures:
                lab.watch(future)
            lab.until(
                lambda: all(f.done() for f in futures),
                "every future that a racing submit gave is done",
                expected="it runs, is cancelled, or submit raises RuntimeError; none stays pending",
            )
            _refuses(lab, executor)

    strategy = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 12), st.booleans())
    forall(
        lab,
        scenario,
        strategy,
        examples=draws(lab, 12),
        describe=lambda d: (
            f"{d[0]} workers; {d[1]} threads submit; after {d[2]} tasks {1 + d[3]} other(s) call shutdown(wait=True)"
        ),
    )
    for idle in (True, False):
        swept(
            lab,
            ("submit(task)", lambda pool: pool.submit("raced")),
            ("shutdown(wait=True)", lambda pool: pool.executor.shutdown(wait=True)),
            lambda _pool, outcome: _is_never_pending(lab, outcome),
            expected=_NEVER_PENDING,
            idle=idle,
            both=True,
        )


_NEVER_PENDING = "the task runs, is cancelled, or submit raises RuntimeError; its future does not stay pending"


def _is_never_pending(lab: Lab, outcome: Outcome) -> None:
    future: Future[Any] | None = outcome.first.value if outcome.first is not None else None
    if future is not None:
        lab.watch(future)
        lab.until(
            future.done,
            "the future that submit gave is done",
            expected=_NEVER_PENDING,
        )


def _refuses(lab: Lab, executor: Any) -> None:
    lab.call("a second shutdown()", executor.shutdown).result()

    def submit() -> str:
        try:
            executor.submit(lab.probe("too late", gated=False))
        except RuntimeError:
            return "RuntimeError"
        except BaseException as error:  # noqa: BLE001 - any other end is the finding
            return repr(error)
        return "a future"

    got = lab.call("submit after shutdown", submit).result()
    lab.check(got == "RuntimeError", f"submit after shutdown gave {got}", "RuntimeError")


@rule("EXE-12")
def leaving_the_with_block_waits(lab: Lab) -> None:
    """Leaving the `with` block waits for the work.

    Intent: The block is the lifetime of the work: what comes after it may rely on its results.

    Usual cause: `__exit__` calls `shutdown(wait=False)`, or `close()` without a join.

    Proof: A gated task is in flight when the block is left; that leaving came back is in the history.

    Source: Python library reference, `Executor` as a context manager.
    """
    for raising in (False, True):
        lab.fresh()
        _leaves(lab, raising=raising)


def _leaves(lab: Lab, *, raising: bool) -> None:
    future: list[Future[Any]] = []

    def use() -> tuple[bool, bool]:
        error = False
        try:
            with lab.executor_itself(max_workers=1) as executor:
                future.append(lab.submit(executor, "task"))
                if raising:
                    raise KeyError("of the with block")
        except KeyError:
            error = True
        return future[0].done(), error

    what = "the with block whose body raises" if raising else "the with block"
    call = lab.call(what, use)
    lab.until(lambda: call.done or "task" in lab.live(), "the task is in flight", needs="EXE-01")
    lab.settle()
    if call.error is not None:
        raise call.error  # it came to no task
    lab.check(not call.done, f"{what} was left with its task unfinished", "leaving it waits for the task")
    lab.open_all()
    done, error = call.result()
    lab.check(done, f"after {what} the future was not done", "it is done")
    lab.check(error == raising, f"{what} swallowed its error", "the error comes out")


@rule("EXE-30")
def shutdown_without_wait_returns(lab: Lab) -> None:
    """`shutdown(wait=False)` returns while tasks are gated, and they complete. `[cluster]` They complete or are cancelled, as declared.

    Intent: Letting go is not killing: the caller goes on, the work is finished behind it.

    Usual cause: `wait` is ignored; or workers are told to stop at once and what is queued is dropped.

    Proof: The tasks are gated while the call must come back; that it never does is proven from the kernel.

    Source: Python library reference, `Executor.shutdown`.
    """
    with lab.executor(max_workers=2) as executor:
        futures = [*hold_all(lab, executor, 2), lab.submit(executor, "queued")]
        lab.call("shutdown(wait=False)", lambda: executor.shutdown(wait=False)).result()
        may_cancel = lab.claims("cluster") and lab.subject.declared("executor", "shutdown_nowait") == "cancel"
        ended = [name for name in ("hold 0", "hold 1") if name not in lab.live()]
        lab.check(
            may_cancel or not ended, f"{', '.join(ended)} came to an end at shutdown(wait=False)", "gated tasks go on"
        )
        lab.open_all()
        settle_done(lab, futures, "after shutdown(wait=False)")
        for name, future in zip(("hold 0", "hold 1", "queued"), futures, strict=True):
            error = error_of(lab, future, name)
            allowed = error is None or (may_cancel and isinstance(error, CancelledError))
            lab.check(
                allowed, f"{name} ended with {error!r}", "it completes" + (" or is cancelled" if may_cancel else "")
            )
