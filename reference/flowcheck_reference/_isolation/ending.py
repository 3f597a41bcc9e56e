"""The end of an executor, within a limit."""

from __future__ import annotations

import threading
from time import monotonic

from flowcheck_reference.executor import Executor, Worker


def end_by(executor: Executor, deadline: float, *, cancels: bool) -> list[Worker]:
    """Shut it down; `cancels`: what it has not begun is cancelled.

    Workers that are stuck at the deadline (`time.monotonic`) are written off, so that nobody waits for them, not even the
    interpreter at its exit. The calling thread, if it is one of them, is left alone.

    Returns: those that were written off.
    """
    executor.shutdown(wait=False, cancel_futures=cancels)
    pool = executor._pool  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001  as `_attempts.Crew` does
    with pool.lock:
        workers = list(pool.threads)
    stuck: list[Worker] = []
    for worker in workers:
        if worker is threading.current_thread():
            continue
        worker.join(max(0.0, deadline - monotonic()))
        if worker.is_alive():
            pool.write_off(worker)
            stuck.append(worker)
    return stuck
