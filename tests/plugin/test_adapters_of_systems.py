"""The bundled adapters of spec-kit and wool: listed without these, and driving them where they are installed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pytest_flowcheck import subjects
from pytest_flowcheck.adapters.spec_kit_ import SpecKit, SpecKitFlow
from pytest_flowcheck.adapters.wool_ import Resources, Wool
from pytest_flowcheck.errors import UsageError
from pytest_flowcheck.protocols import Closed, Failed, Halt, Inexpressible, Ok
from pytest_flowcheck.protocols.flow import Graph, Node


def needs(distribution: str) -> pytest.MarkDecorator:
    """Skip with a reason where it is not installed."""
    missing = not list(metadata.distributions(name=distribution))
    return pytest.mark.skipif(missing, reason=f"needs {distribution}; `python tests/world.py` certifies it")


class Body:
    """As the kit's: for threads and for loops."""

    __name__ = __qualname__ = "body"

    def __init__(self, does: Callable[..., Any]) -> None:
        self.does = does

    def __call__(self, *args: Any) -> Any:
        return self.does(*args)

    async def aio(self, *args: Any) -> Any:
        return self.does(*args)


def test_listing_imports_none_of_them() -> None:
    """They are known by name, whatever is installed, and their modules import nothing of theirs."""
    program = (
        "import sys\nfrom pytest_flowcheck import subjects\n"
        "from pytest_flowcheck.adapters import spec_kit_, wool_\n"
        "assert {'spec-kit', 'spec-kit-flow', 'wool', 'wool-resource-pool'} <= set(subjects.registered())\n"
        "assert not {'specify_cli', 'wool', 'grpc', 'cloudpickle', 'yaml'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(("name", "distribution"), [("spec-kit", "specify-cli"), ("wool", "wool")])
def test_what_is_missing_is_one_line(name: str, distribution: str) -> None:
    """It says what to install."""
    if list(metadata.distributions(name=distribution)):
        assert subjects.load(name).version == metadata.version(distribution)
        return
    with pytest.raises(UsageError, match=distribution) as told:
        subjects.load(name)
    assert "\n" not in str(told.value)


def act(item: int) -> int:
    if item < 0:
        raise Halt("paused")
    return 12 // item


@needs("specify-cli")
def test_spec_kit_fans_out() -> None:
    """Results in item order under the ids that are recorded; a halt's prefix; an exception as it is; failures in their slots."""
    with SpecKit().fanout() as fanout:
        outcomes = fanout.run(Body(act), [1, 2, 3], max_concurrency=2)
        assert list(outcomes) == [Ok(value, f"fan:item:{index}") for index, value in enumerate([12, 6, 4])]
        one, two = fanout.run(Body(act), [1, -1, 3], max_concurrency=1)
        assert (one, two.id, isinstance(two, Failed) and two.how) == (Ok(12, "fan:item:0"), "fan:item:1", "paused")
        with pytest.raises(ZeroDivisionError):
            fanout.run(Body(act), [1, 0], max_concurrency=2)

        def fails(item: int) -> int:
            if item == 2:
                raise Halt
            return item

        outcomes = fanout.run(Body(fails), [1, 2, 3], max_concurrency=2, continue_on_error=True)
        assert [type(outcome) for outcome in outcomes] == [Ok, Failed, Ok]


@needs("specify-cli")
def test_spec_kit_stores(tmp_path: Path) -> None:
    """What one handle saved another loads, and the log has what was appended, but for a torn line."""
    with SpecKit().store(tmp_path) as one, SpecKit().store(tmp_path) as other:
        one.save("report", {"step": 2})
        assert other.load("report") == {"step": 2}
        assert list(other.entries("report")) == []
        one.append("report", "first")
        other.append("report", {"n": 2})
        (log,) = tmp_path.rglob("log.jsonl")
        log.write_bytes(log.read_bytes() + b'{"entry": "to')
        assert list(one.entries("report")) == ["first", {"n": 2}]
        one.put("live", "a", 1)
        one.put("live", "b", 2)
        one.flush("live")
        assert other.load("live") == {"a": 1, "b": 2}
        with pytest.raises(FileNotFoundError):
            one.load("never")


@needs("specify-cli")
def test_spec_kit_resumes(tmp_path: Path) -> None:
    """A failed run goes on where it failed, in another engine, with the outputs that were saved; a circle has no place."""
    tries: list[str] = []

    def first(value: Any, upstream: Any) -> str:
        tries.append("first")
        return f"{value}!"

    def second(value: Any, upstream: Any) -> str:
        tries.append("second")
        if len(tries) == 2:
            raise OSError("not yet")
        return f"{upstream['a']}?"

    graph = Graph((Node("b", Body(second), ("a",)), Node("a", Body(first))))
    with SpecKitFlow().flow(folder=tmp_path) as flow:
        run = flow.run(graph, "page", run_id="r")
        assert (run.status, type(run.error)) == ("failed", OSError)
    with SpecKitFlow().flow(folder=tmp_path) as flow:
        run = flow.resume(graph, "r")
        assert (run.status, dict(run.nodes)) == ("completed", {"a": Ok("page!"), "b": Ok("page!?")})
        assert tries == ["first", "second", "second"]
        with pytest.raises(ValueError, match="missing"):
            flow.run(Graph((Node("c", Body(second), ("missing",)),)))
        with pytest.raises(Inexpressible):
            flow.run(Graph((Node("c", Body(second), ("d",)), Node("d", Body(second), ("c",)))))


@needs("wool")
def test_wool_dispatches() -> None:
    """A value and an error come back; after stop nothing runs."""

    async def ask() -> None:
        async with Wool().looppool(ttl=None) as pool:
            assert await pool.dispatch(Body(lambda: 6 * 7)) == 42
            with pytest.raises(ZeroDivisionError):
                await pool.dispatch(Body(lambda: 1 // 0))
            await pool.stop()
            with pytest.raises(Closed):
                await pool.dispatch(Body(int))

    asyncio.run(ask())


@needs("wool")
def test_wool_keeps_resources() -> None:
    """One for each key, until nobody holds it."""
    made: list[str] = []
    ended: list[str] = []

    async def ask() -> None:
        async with Resources().looppool(
            ttl=0, make=Body(lambda k: made.append(k) or f"{k}!"), finalize=Body(ended.append)
        ) as it:
            first, second = await it.acquire("a"), await it.acquire("a")
            assert (first.value, second.value, made) == ("a!", "a!", ["a"])
            await it.release(first)
            assert ended == []
            await it.release(second)
            assert ended == ["a!"]

    asyncio.run(ask())
