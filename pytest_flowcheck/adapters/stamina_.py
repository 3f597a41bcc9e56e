"""stamina: retries with its own ideas of backoff, here told to wait the same each time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any, ClassVar, Final, TypeVar

from pytest_flowcheck.protocols import Adapter, Body, Inexpressible
from pytest_flowcheck.protocols.retry import Retry, RetryPolicy

T = TypeVar("T")

SUBJECTS: Final = {"stamina": "Stamina", "stamina-asyncio": "StaminaAsyncio"}


def _options(policy: RetryPolicy) -> dict[str, Any]:
    return {
        "attempts": policy.attempts,
        "timeout": None,  # its timeout is for all attempts together
        "wait_initial": policy.backoff,
        "wait_max": policy.backoff,
        "wait_jitter": 0,
        "wait_exp_base": 1,
    }


class _Inline:
    def call(self, body: Body[[], T], policy: RetryPolicy) -> T:
        from stamina import RetryingCaller

        if policy.timeout is not None:
            raise Inexpressible("stamina limits all attempts together, not each")
        retry_on: Any = policy.retry_on
        return RetryingCaller(**_options(policy))(retry_on, body)


class _Awaited:
    async def call(self, body: Body[[], T], policy: RetryPolicy) -> T:
        from stamina import AsyncRetryingCaller

        async def attempt() -> T:
            async with asyncio.timeout(policy.timeout):
                return await body.aio()

        retry_on: Any = policy.retry_on
        return await AsyncRetryingCaller(**_options(policy))(retry_on, attempt)


class Stamina(Adapter):
    """`RetryingCaller`: attempts run where the call is made."""

    name = "stamina"
    requires: ClassVar[Sequence[str]] = ("stamina",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"retry": frozenset({"policy", "context"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"retry": {"zero_attempts": "once"}}

    def retry(self, *, max_workers: int) -> AbstractContextManager[Retry]:  # noqa: ARG002 - it has no workers
        return nullcontext(_Inline())


class StaminaAsyncio(Adapter):
    """`AsyncRetryingCaller` around `asyncio.timeout`."""

    name = "stamina-asyncio"
    requires: ClassVar[Sequence[str]] = ("stamina",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"retry": frozenset({"timeout", "policy", "context"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "retry": {"zero_attempts": "once", "zero_timeout": "at_once"}
    }

    @asynccontextmanager
    async def retry(self, *, max_workers: int) -> AsyncGenerator[Retry]:  # noqa: ARG002 - it has no workers
        yield _Awaited()
