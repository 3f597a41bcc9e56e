"""The reference engine as two subjects: what `pytest --flowcheck` certifies when it is told nothing else.

`reference` is its blocking side, `reference-async` the one that is awaited, on asyncio and on trio. Each keeps every
rule of its facets: that they can be kept is what the engine is for.
"""
from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pytest_flowcheck.protocols import Body, Failed, Invalid, Ok, Outcome
from pytest_flowcheck.protocols import Halt as Halts

from . import __version__
from .executor import Executor
from .fanout import AsyncFanout, Fanout, Halt, Record
from .retry import AsyncRetrier, Retrier, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from pytest_flowcheck.protocols.retry import RetryPolicy as Asked

S = TypeVar("S")
T = TypeVar("T")

RETRY = frozenset({"timeout", "bounded", "history", "context", "policy", "fence"})
FANOUT = frozenset({"halt", "continue", "coerce", "lazy", "nested", "context"})


class Reference:
    """The blocking side."""

    name: str = "reference"
    version: str = __version__
    claims: Mapping[str, AbstractSet[str]] = {
        "executor": frozenset({"threads", "cancel_futures", "initializer", "nested", "context", "resize"}),
        "retry": RETRY,
        "fanout": FANOUT,
    }
    errors: Mapping[type[BaseException], tuple[type[BaseException], ...]] = {Invalid: (ValueError, TypeError)}

    def executor(
        self, *, max_workers: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
    ) -> Executor:
        """A fresh executor."""
        return Executor(max_workers, initializer=initializer, initargs=initargs)

    @contextmanager
    def retry(self, *, max_workers: int) -> Generator[_Retry]:
        """A fresh retrier."""
        with Retrier(max_workers) as retrier:
            yield _Retry(retrier)

    @contextmanager
    def fanout(self) -> Generator[_Fanout]:
        """A fresh fan-out."""
        with Fanout() as fanout:
            yield _Fanout(fanout)


class ReferenceAsync:
    """The side that is awaited."""

    name: str = "reference-async"
    version: str = __version__
    claims: Mapping[str, AbstractSet[str]] = {"retry": RETRY, "fanout": FANOUT}
    errors = Reference.errors
    backends: tuple[str, ...] = ("asyncio", "trio")

    @asynccontextmanager
    async def retry(self, *, max_workers: int) -> AsyncGenerator[_AsyncRetry]:
        """A fresh retrier."""
        async with AsyncRetrier(max_workers) as retrier:
            yield _AsyncRetry(retrier)

    @asynccontextmanager
    async def fanout(self) -> AsyncGenerator[_AsyncFanout]:
        """A fresh fan-out."""
        async with AsyncFanout() as fanout:
            yield _AsyncFanout(fanout)


class _Retry:
    def __init__(self, retrier: Retrier) -> None:
        self._retrier = retrier

    def call(self, body: Body[[], T], policy: Asked) -> T:
        return self._retrier.call(_policy(policy), body)


class _AsyncRetry:
    def __init__(self, retrier: AsyncRetrier) -> None:
        self._retrier = retrier

    async def call(self, body: Body[[], T], policy: Asked) -> T:
        return await self._retrier.call(_policy(policy), body.aio)


def _policy(asked: Asked) -> RetryPolicy:
    """The kit asks for a constant backoff."""
    return RetryPolicy(
        attempts=asked.attempts,
        timeout=asked.timeout,
        on=asked.retry_on,
        wait_initial=asked.backoff,
        wait_max=asked.backoff,
        wait_jitter=0.0,
        wait_exp_base=1.0,
    )


class _Fanout:
    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout

    def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> list[Outcome[T]]:
        def one(item: S) -> T:
            try:
                return body(item)
            except Halts as halt:
                raise Halt(halt.how) from halt

        on_error = _on_error(continue_on_error)
        return _outcomes(self._fanout.run(one, items, max_concurrency=max_concurrency, on_error=on_error))


class _AsyncFanout:
    def __init__(self, fanout: AsyncFanout) -> None:
        self._fanout = fanout

    async def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> list[Outcome[T]]:
        async def one(item: S) -> T:
            try:
                return await body.aio(item)
            except Halts as halt:
                raise Halt(halt.how) from halt

        on_error = _on_error(continue_on_error)
        return _outcomes(await self._fanout.run(one, items, max_concurrency=max_concurrency, on_error=on_error))


def _on_error(continues: bool) -> Literal["raise", "continue"]:
    return "continue" if continues else "raise"


def _outcomes(records: Iterable[Record[T]]) -> list[Outcome[T]]:
    """In the kit's words: a halt is told by the error that the body raised."""
    outcomes: list[Outcome[T]] = []
    for record in records:
        error = record.error
        if error is None:
            outcomes.append(Ok(record.value, record.id))  # type: ignore[arg-type]
        else:
            own = error.__cause__ if isinstance(error, Halt) and error.__cause__ is not None else error
            how = record.status if record.status != "ok" else "failed"
            outcomes.append(Failed(own, how, record.id))
    return outcomes
