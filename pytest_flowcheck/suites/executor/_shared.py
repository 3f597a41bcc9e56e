"""What several rules of this suite share."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.proof.sweep import code_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Executor, Future

    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.probe import Probe
    from pytest_flowcheck.proof.sweep import Outcome


def draws(lab: Lab, threads: int) -> int:
    """How many scenarios a property draws: as many as asked for on threads, few where each opens processes."""
    if lab.claims("cluster"):
        return 1
    return threads if lab.claims("threads") else max(2, threads // 10)


def worker_set(lab: Lab) -> set[Any]:
    """Who has run probes: processes where these are the workers, else threads."""
    return {e.pid for e in lab.timeline.of("started")} if lab.claims("process") else lab.workers()


def hold_all(lab: Lab, executor: Executor, workers: int, name: str = "hold") -> list[Future[Any]]:
    """Occupy every worker with a gated task, and return their futures once all are in flight.

    A subject that can't do so breaks EXE-03 first.
    """
    futures = [lab.submit(executor, f"{name} {i}") for i in range(workers)]
    wanted = {f"{name} {i}" for i in range(workers)}
    lab.until(
        lambda: wanted <= set(lab.live()), f"{workers} gated tasks are in flight on {workers} workers", needs="EXE-03"
    )
    return futures


def release(lab: Lab, names: Iterable[str]) -> None:
    """Open these gates one at a time, each once the one before has ended: a forced completion order."""
    for name in names:
        lab.open(name)
        lab.until(lambda name=name: name in lab.timeline.names("ended", "raised"), f"{name} ends once its gate is open")  # type: ignore[misc]


def settle_done(lab: Lab, futures: Iterable[Future[Any]], what: str) -> None:
    """Wait until every one of the futures is done; HUNG if one never can be."""
    listed = list(futures)
    lab.until(lambda: all(f.done() for f in listed), f"all futures are done {what}", hung=True)


def error_of(lab: Lab, future: Future[Any], what: str) -> BaseException | None:
    """The exception of a future, waited for by proof; a cancelled one's is its CancelledError."""
    from concurrent.futures import CancelledError

    try:
        lab.finish(future, what)
    except CancelledError as error:
        return error
    except BaseException as error:
        from pytest_flowcheck.errors import Judgement

        if isinstance(error, Judgement):
            raise
        return error
    return None


@dataclass
class Pool:
    """The world of a sweep: an executor, and the task that is submitted to it."""

    executor: Executor
    task: Probe
    stack: ExitStack

    def submit(self, name: str) -> Future[Any] | None:
        """The future; None where the executor refuses, as one that was shut down must."""
        try:
            return self.executor.submit(self.task, name)
        except RuntimeError:
            return None


def swept(
    lab: Lab,
    first: tuple[str, Callable[[Pool], Any]],
    rival: tuple[str, Callable[[Pool], Any]],
    judge: Callable[[Pool, Outcome], str | None],
    *,
    expected: str,
    idle: bool,
    both: bool = False,
    limit: int = 80,
) -> None:
    """Every single preemption of `first` by `rival` in the executor's own code, where that is Python and in this process.

    Args:
        lab: the rule's bench.
        first: what is interrupted, and what it is called.
        rival: what comes in between.
        judge: says what is wrong.
        expected: what the rule's sentence asks for.
        idle: one of the two workers has run a task before, and waits for the next; else none has been needed yet.
        both: also the other way round.
        limit: at most so many schedules each way.
    """
    if not lab.claims("threads"):
        return
    with lab.executor(max_workers=2) as executor:
        code = code_of(executor)

    def arrange() -> Pool:
        stack = ExitStack()
        pool = Pool(stack.enter_context(lab.executor(max_workers=2)), lab.probe("task", gated=False), stack)
        if idle:
            lab.finish(pool.executor.submit(pool.task, "before"), "a task before the race")
        return pool

    try:
        lab.sweep(
            arrange,
            first[1],
            rival[1],
            code=code,
            judge=judge,
            names=(first[0], rival[0]),
            leave=lambda pool: pool.stack.close(),
            both=both,
            settle=False,
            limit=limit,
            expected=expected,
            needs="EXE-01",
        )
    except NotTestable as why:
        lab.note(str(why))  # what real threads showed before stands
