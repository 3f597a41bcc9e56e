"""pebble: attempts with a time limit, in processes that can be killed or in threads that are left alone.

It retries nothing, so tenacity does that around it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar

from pytest_flowcheck.protocols import Adapter, Body
from pytest_flowcheck.protocols.retry import Retry, RetryPolicy

if TYPE_CHECKING:
    from pebble import ProcessPool

T = TypeVar("T")

SUBJECTS: Final = {"pebble": "Processes", "pebble-threads": "Threads"}


def _retried(attempt: Callable[[], T], policy: RetryPolicy) -> T:
    from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

    retrying = Retrying(
        stop=stop_after_attempt(policy.attempts),
        wait=wait_fixed(policy.backoff),
        retry=retry_if_exception_type(policy.retry_on),
        reraise=True,
    )
    return retrying(attempt)


class _InProcesses:
    def __init__(self, pool: ProcessPool) -> None:
        self._pool = pool

    def call(self, body: Body[[], T], policy: RetryPolicy) -> T:
        return _retried(lambda: self._pool.schedule(body, timeout=policy.timeout).result(), policy)


class _InThreads:
    def call(self, body: Body[[], T], policy: RetryPolicy) -> T:
        from pebble import concurrent

        start = concurrent.thread(body)
        return _retried(lambda: start().result(policy.timeout), policy)


class Processes(Adapter):
    """`ProcessPool.schedule(timeout=...)`: an attempt that takes too long is killed."""

    name = "pebble"
    requires: ClassVar[Sequence[str]] = ("pebble", "tenacity")
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"retry": frozenset({"timeout", "bounded", "policy"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "retry": {"abandoned": "killed", "zero_attempts": "once", "zero_timeout": "none"}
    }

    @contextmanager
    def retry(self, *, max_workers: int) -> Generator[Retry]:
        from pebble import ProcessPool

        with ProcessPool(max_workers) as pool:
            yield _InProcesses(pool)


class Threads(Adapter):
    """`concurrent.thread`: a daemon thread for each attempt."""

    name = "pebble-threads"
    requires: ClassVar[Sequence[str]] = ("pebble", "tenacity")
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"retry": frozenset({"timeout", "policy"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "retry": {"zero_attempts": "once", "zero_timeout": "at_once"}
    }

    def retry(self, *, max_workers: int) -> AbstractContextManager[Retry]:  # noqa: ARG002 - a thread for each attempt
        return nullcontext(_InThreads())
