"""Wrong in timeouts and retries inside a graph."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from time import monotonic
from typing import Any

from flowcheck_reference.broken.flow._sound import AsyncEngine, Engine, Job, Sound, SoundAsync, call, perform
from pytest_flowcheck.protocols import breaks
from pytest_flowcheck.protocols.flow import Kind, Node
from pytest_flowcheck.protocols.retry import RetryPolicy


@breaks("FLO-17")
class TheClockStartsInTheQueue(Sound):
    """The limit counts from `submit`, as in `future.result(timeout)`."""

    class Flow(Engine):
        def submit(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Future[Any]:
            if not self.own or node.policy.timeout is None:
                return super().submit(job, node, upstream)
            deadline = monotonic() + node.policy.timeout
            return self.executor.submit(in_time, deadline, node, job.input, upstream)


def in_time(deadline: float, node: Node, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002 - the protocol's
    """On a worker: the node, unless it is late."""
    if monotonic() > deadline:
        raise TimeoutError(f"{node.id} took too long")
    return perform(node.body, node.policy, node.kind, input, upstream)


@breaks("FLO-17")
class WaitsForTheStuckAttempt(Sound):
    """`with ThreadPoolExecutor(1)` around an attempt, which waits for it on the way out. (dynamiq pull request 674)"""

    class Flow(Engine):
        def submit(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Future[Any]:
            if not self.own or node.policy.timeout is None:
                return super().submit(job, node, upstream)
            return self.executor.submit(patiently, node.body, node.policy, node.kind, job.input, upstream)


def patiently(body: Any, policy: RetryPolicy, kind: Kind, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002
    """On a worker: the attempts of one node."""
    for number in range(1, policy.attempts + 1):
        try:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(call, body, kind, input, upstream).result(policy.timeout)
        except policy.retry_on:
            if number == policy.attempts:
                raise
    return None


@breaks("FLO-17")
class ItsRetriesAreBesides(SoundAsync):
    """`attempts` is taken for the number of retries, besides the first attempt."""

    class Flow(AsyncEngine):
        async def perform(self, job: Job, node: Node, upstream: Mapping[str, Any]) -> Any:
            if node.policy.attempts > 1:
                node = replace(node, policy=replace(node.policy, attempts=node.policy.attempts + 1))
            return await super().perform(job, node, upstream)
