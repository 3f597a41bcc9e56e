"""tenacity: retries. It limits no attempt, so one subject takes it as it is, and two add the limit that its users add."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, ClassVar, Final, TypeVar

from pytest_flowcheck.protocols import Adapter, Body, Inexpressible
from pytest_flowcheck.protocols.retry import Retry, RetryPolicy

T = TypeVar("T")

SUBJECTS: Final = {
    "tenacity": "Tenacity",
    "tenacity-threads": "TenacityThreads",
    "tenacity-asyncio": "TenacityAsyncio",
}


def _options(policy: RetryPolicy) -> dict[str, Any]:
    from tenacity import retry_if_exception_type, stop_after_attempt, wait_fixed

    return {
        "stop": stop_after_attempt(policy.attempts),
        "wait": wait_fixed(policy.backoff),
        "retry": retry_if_exception_type(policy.retry_on),
        "reraise": True,
    }


class _Inline:
    def call(self, body: Body[[], T], policy: RetryPolicy) -> T:
        from tenacity import Retrying

        if policy.timeout is not None:
            raise Inexpressible("tenacity stops retrying after a while, but puts no limit on an attempt")
        return Retrying(**_options(policy))(body)


class _InPool:
    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    def call(self, body: Body[[], T], policy: RetryPolicy) -> T:
        from tenacity import Retrying

        return Retrying(**_options(policy))(lambda: self._pool.submit(body).result(policy.timeout))


class _Awaited:
    async def call(self, body: Body[[], T], policy: RetryPolicy) -> T:
        from tenacity import AsyncRetrying

        async def attempt() -> T:
            async with asyncio.timeout(policy.timeout):
                return await body.aio()

        return await AsyncRetrying(**_options(policy))(attempt)


class Tenacity(Adapter):
    """`Retrying`: attempts run where the call is made."""

    name = "tenacity"
    requires: ClassVar[Sequence[str]] = ("tenacity",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"retry": frozenset({"policy", "context"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"retry": {"zero_attempts": "once"}}

    def retry(self, *, max_workers: int) -> AbstractContextManager[Retry]:  # noqa: ARG002 - it has no workers
        return nullcontext(_Inline())


class TenacityThreads(Adapter):
    """`Retrying` around `ThreadPoolExecutor.submit(...).result(timeout)`, the usual way to a limit in plain threads."""

    name = "tenacity-threads"
    requires: ClassVar[Sequence[str]] = ("tenacity",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"retry": frozenset({"timeout", "bounded", "policy"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "retry": {"zero_attempts": "once", "zero_timeout": "at_once"}
    }

    @contextmanager
    def retry(self, *, max_workers: int) -> Generator[Retry]:
        with ThreadPoolExecutor(max_workers) as pool:
            yield _InPool(pool)


class TenacityAsyncio(Adapter):
    """`AsyncRetrying` around `asyncio.timeout`."""

    name = "tenacity-asyncio"
    requires: ClassVar[Sequence[str]] = ("tenacity",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"retry": frozenset({"timeout", "policy", "context"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "retry": {"zero_attempts": "once", "zero_timeout": "at_once"}
    }

    @asynccontextmanager
    async def retry(self, *, max_workers: int) -> AsyncGenerator[Retry]:  # noqa: ARG002 - it has no workers
        yield _Awaited()
