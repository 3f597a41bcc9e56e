"""What several rules of this suite share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Executor, Future

    from pytest_flowcheck.probes.lab import Lab


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
