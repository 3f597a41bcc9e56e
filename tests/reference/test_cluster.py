"""Flows on Dask's distributed scheduler: a real cluster of processes, on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowcheck_reference import Engine, Flow, RetryPolicy, result_of

distributed: Any = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture
def executor(client: Any) -> Iterator[Any]:
    with client.get_executor(pure=False, retries=0) as executor:
        yield executor
        assert executor.submit(int).result() == 0, "the caller's executor was shut down"


def pid(*_: object) -> int:
    return os.getpid()


def dies(once: str) -> str:
    """The first worker that has it is gone."""
    path = Path(once)
    if not path.exists():
        path.touch()
        os._exit(1)
    return "survived"


def always_dies() -> None:
    os._exit(1)


def fails() -> None:
    raise OSError("its own")


def test_nodes_run_in_other_processes(executor: Any) -> None:
    """Blocking nodes travel, also those of a fan-out; async ones stay here; outputs are handed on."""

    async def here(numbers: list[int]) -> int:
        return os.getpid()

    flow = Flow("far")
    flow.add(range, id="numbers", needs=["input"])
    flow.add(pid, id="pids", needs=["numbers"], each=True, max_concurrency=2)
    flow.add(here, id="here", needs=["pids"])
    flow.add(pid, id="last", needs=["here"])
    with Engine(executor=executor) as engine:
        result = engine.run(flow, 6)
        again = engine.run(flow, 2)
    assert len(result["pids"]) == 6
    assert os.getpid() not in result["pids"]
    assert result["here"] == os.getpid() != result["last"]
    assert len(again["pids"]) == 2


def test_a_node_s_own_error_comes_back(executor: Any) -> None:
    """Itself, by type and text; what depends on it is skipped."""
    flow = Flow()
    flow.add(fails, id="bad")
    flow.add(pid, id="behind", needs=["bad"])
    with Engine(executor=executor) as engine, pytest.raises(OSError, match="its own") as caught:
        engine.run(flow)
    result = result_of(caught.value)
    assert result is not None
    assert (result.nodes["behind"].status, result.nodes["behind"].because) == ("skipped", "bad")


def test_the_death_of_a_worker_is_reported(executor: Any) -> None:
    """As the node's error, and the engine goes on; what doesn't depend on it completes.

    One at a time: Dask suspects all that was on a worker when it died.
    """
    flow = Flow()
    flow.add(always_dies, id="deadly")
    flow.add(pid, id="beside", needs=[])
    with Engine(1, executor=executor) as engine:
        result = engine.run(flow, on_error="continue")
        assert result.status == "failed"
        assert type(result.nodes["deadly"].error).__name__ == "KilledWorker"
        assert result.nodes["beside"].status == "ok"


def test_a_death_is_retried_where_the_policy_says_so(executor: Any, tmp_path: Path) -> None:
    """It is an error like any other: Dask's own second try, or ours."""
    flow = Flow()
    flow.add(dies, id="deadly", needs=["input"], policy=RetryPolicy(attempts=3, wait_initial=0.05, wait_jitter=0))
    with Engine(executor=executor) as engine:
        assert engine.run(flow, str(tmp_path / "once"))["deadly"] == "survived"
