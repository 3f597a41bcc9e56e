"""Runs are kept in a store and resumed from there (FLO-19, 24 to 28); each test says which promise, and needs no kit to say it.

Processes that are killed are real ones. Where a thread must be held at some point, it waits at a gate; nothing waits for time.
"""

from __future__ import annotations

import gc
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from gating import LIMIT, Gate, background

import flowcheck_reference
from flowcheck_reference import (
    Engine,
    Event,
    Flow,
    FlowError,
    InvalidRunIdError,
    JsonStore,
    LeaseHeldError,
    NotJsonError,
    NotSavedError,
    Result,
    RetryPolicy,
    RunExistsError,
    RunNotFoundError,
    SqliteStore,
    StoreClosedError,
    StoreError,
    result_of,
)
from flowcheck_reference._flow.run import Run

RUN = "report-17"


@pytest.fixture
def folder() -> Iterator[Path]:
    """On a memory file system, where there is one: nothing here is about the disk."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        yield Path(path)


@pytest.fixture(params=["json", "sqlite"])
def store(request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    """Either of the two."""
    with JsonStore(folder) if request.param == "json" else SqliteStore(folder / "runs.db") as store:
        yield store


@pytest.fixture
def files(folder: Path) -> Iterator[JsonStore]:
    """Where it doesn't matter."""
    with JsonStore(folder) as store:
        yield store


def until(holds: Callable[[], bool]) -> None:
    """Look again and again; what is broken takes `LIMIT`."""
    late = monotonic() + LIMIT
    while not holds():
        assert monotonic() < late, "it never came about"
        os.sched_yield()


class Way:
    """`run` and `resume`, or awaited on one of the loop libraries."""

    def __init__(self, backend: str | None) -> None:
        self.backend = backend

    def run(self, engine: Engine, flow: Flow, given: Any = None, **options: Any) -> Result:
        if self.backend is None:
            return engine.run(flow, given, **options)
        return anyio.run(lambda: engine.arun(flow, given, **options), backend=self.backend)

    def resume(self, engine: Engine, flow: Flow, run_id: str = RUN, **options: Any) -> Result:
        if self.backend is None:
            return engine.resume(flow, run_id, **options)
        return anyio.run(lambda: engine.aresume(flow, run_id, **options), backend=self.backend)


@pytest.fixture(params=[None, "asyncio", "trio"], ids=["blocking", "asyncio", "trio"])
def way(request: pytest.FixtureRequest) -> Way:
    """All three."""
    return Way(request.param)


class Diamond:
    """`a` and `b`; `c` needs both, `d` needs `c`. `b` and `d` are async. Counts calls; nodes that are `ill` fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.ill: set[str] = set()
        self.before: Callable[[str], object] = lambda _: None
        self.flow = Flow("diamond")
        self.flow.add(self.blocking("a"), id="a", needs=["input"])
        self.flow.add(self.awaited("b"), id="b", needs=["input"])
        self.flow.add(self.blocking("c"), id="c", needs=["a", "b"])
        self.flow.add(self.awaited("d"), id="d", needs=["c"])

    def does(self, own: str, *given: Any) -> Any:
        self.calls.append(own)
        self.before(own)
        if own in self.ill:
            raise OSError(f"{own} is ill")
        return [own, *given]

    def blocking(self, own: str) -> Callable[..., Any]:
        return lambda *given: self.does(own, *given)

    def awaited(self, own: str) -> Callable[..., Any]:
        async def call(*given: Any) -> Any:
            await checkpoint()
            return self.does(own, *given)

        return call


A, B = ["a", {"page": 1}], ["b", {"page": 1}]
WHOLE = {"a": A, "b": B, "c": ["c", A, B], "d": ["d", ["c", A, B]]}
INPUT = {"page": 1}


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ill", ["a", "b", "c", "d"])
def test_nodes_that_were_through_are_not_run_again(store: Any, way: Way, ill: str) -> None:
    """What failed, and what waited for it, runs; with the input that the run began with (FLO-19, 24)."""
    diamond = Diamond()
    diamond.ill = {ill}
    with Engine(2, store=store) as engine:
        with pytest.raises(OSError, match=f"{ill} is ill"):
            way.run(engine, diamond.flow, INPUT, run_id=RUN)
        through = set(diamond.calls) - {ill}
        kept = store.load(RUN)
        assert kept["status"] == "failed"
        assert kept["errors"] == {ill: f"OSError: {ill} is ill"}
        assert set(kept["outputs"]) <= through  # one that was cancelled when the other failed has none
        done = set(kept["outputs"])
        diamond.calls, diamond.ill = [], set()
    with Engine(2, store=store) as engine:
        result = way.resume(engine, diamond.flow)
    assert sorted(diamond.calls) == sorted(set("abcd") - done)
    assert (result.status, dict(result), result.id) == ("completed", WHOLE, RUN)
    assert [result.nodes[own].attempts for own in "abcd"] == [int(own not in done) for own in "abcd"]


def test_a_run_that_completed_gives_its_result_again(store: Any, way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is run, and nothing is written."""
    diamond = Diamond()
    with Engine(2, store=store) as engine:
        way.run(engine, diamond.flow, INPUT, run_id=RUN)
        diamond.calls.clear()
        for name in ("save", "fold", "append", "extend"):
            monkeypatch.delattr(type(store), name)
        result = way.resume(engine, diamond.flow)
    assert (result.status, dict(result), diamond.calls) == ("completed", WHOLE, [])


def test_a_run_of_nothing_is_kept_too(store: Any, way: Way) -> None:
    """A flow without nodes is over at once."""
    with Engine(2, store=store) as engine:
        assert way.run(engine, Flow(), INPUT, run_id=RUN).status == "completed"
        assert way.resume(engine, Flow()).status == "completed"


def test_an_output_is_saved_before_anything_is_built_on_it(store: Any, way: Way) -> None:
    """A node finds what it was given in the store."""
    diamond = Diamond()
    needs = {"a": set(), "b": set(), "c": {"a", "b"}, "d": {"a", "b", "c"}}
    seen: dict[str, set[str]] = {}
    diamond.before = lambda own: seen.update({own: {entry["node"] for entry in store.entries(RUN)}})
    with Engine(2, store=store) as engine:
        way.run(engine, diamond.flow, INPUT, run_id=RUN)
    assert all(needs[own] <= seen[own] for own in "abcd"), seen
    assert store.load(RUN) == {
        "flowcheck": 1,
        "flow": "diamond",
        "status": "completed",
        "input": INPUT,
        "nodes": {"a": [], "b": [], "c": ["a", "b"], "d": ["c"]},
        "outputs": WHOLE,
        "errors": {},
    }
    assert store.entries(RUN) == []


def test_other_branches_are_kept_where_the_run_goes_on(store: Any, way: Way) -> None:
    """`on_error="continue"` holds for both."""
    calls: list[str] = []
    ill = ["a", "a"]

    def node(own: str, *needs: str) -> None:
        def call(*_: Any) -> str:
            calls.append(own)
            if own in ill:
                ill.remove(own)
                raise ValueError(own)
            return own

        flow.add(call, id=own, needs=list(needs))

    flow = Flow()
    for own, *needs in (("a",), ("a2", "a"), ("b",), ("b2", "b")):
        node(own, *needs)
    with Engine(2, store=store) as engine:
        first = way.run(engine, flow, run_id=RUN, on_error="continue")
        assert (first.status, dict(first)) == ("failed", {"b": "b", "b2": "b2"})
        assert (first.nodes["a2"].status, first.nodes["a2"].because) == ("skipped", "a")
        calls.clear()
        second = way.resume(engine, flow, on_error="continue")
        assert (second.status, calls, second.nodes["a2"].because) == ("failed", ["a"], "a")
        calls.clear()
        third = way.resume(engine, flow, on_error="continue")
    assert (third.status, calls) == ("completed", ["a", "a2"])


def test_what_a_node_does_to_what_it_was_given_is_not_kept(store: Any) -> None:
    """An output is what its node returned; so a resume gives what the run gave."""
    flow, ill = Flow(), [True]

    def second(first: list[int], input: dict[str, int]) -> list[int]:  # noqa: A002
        first.append(4)
        input["changed"] = 1
        if ill:
            ill.pop()
            raise ValueError("ill")
        return first

    flow.add(lambda: [1, 2, 3], id="first")
    flow.add(second)
    with Engine(2, store=store) as engine:
        with pytest.raises(ValueError, match="ill"):
            engine.run(flow, {}, run_id=RUN)
        assert engine.resume(flow, RUN)["second"] == [1, 2, 3, 4]
    assert (store.load(RUN)["outputs"]["first"], store.load(RUN)["input"]) == ([1, 2, 3], {})


def test_a_long_chain_and_a_wide_fan_are_resumed_without_recursion(folder: Path) -> None:
    """In linear time and without a stack (FLO-18)."""
    size, ill = 4000, [True]

    def last(*values: int) -> int:
        if ill:
            ill.pop()
            raise ValueError("ill")
        return sum(values)

    chain, fan = Flow("chain"), Flow("fan")
    for i in range(size):
        chain.add(lambda x: x + 1, id=f"n{i}", needs=[f"n{i - 1}" if i else "input"])
        fan.add(lambda x: x, id=f"n{i}", needs=["input"])
    chain.add(last, needs=[f"n{size - 1}"])
    fan.add(last, needs=[f"n{i}" for i in range(size)])
    with JsonStore(folder, durable=False) as store, Engine(2, store=store) as engine:
        for flow in (chain, fan):
            ill.append(True)
            with pytest.raises(ValueError, match="ill"):
                engine.run(flow, 1, run_id=flow.name)
            ill.clear()
            result = engine.resume(flow, flow.name)
            assert result["last"] == size + (flow is chain)
            assert [node.id for node in result.nodes.values() if node.attempts] == ["last"]


def test_a_fan_out_node_and_attempts_are_kept_as_one_output(store: Any, way: Way) -> None:
    """Its list is saved once it is whole; a node's retries are one node."""
    tries: list[int] = []

    def flaky(row: int) -> int:
        tries.append(row)
        if tries.count(row) < 2:
            raise ValueError(row)
        return -row

    flow = Flow()
    flow.add(lambda: [1, 2, 3], id="rows")
    flow.add(flaky, id="each", needs=["rows"], each=True, policy=RetryPolicy(attempts=2, wait_max=0.0))
    with Engine(2, store=store) as engine:
        assert way.run(engine, flow, run_id=RUN)["each"] == [-1, -2, -3]
        assert way.resume(engine, flow)["each"] == [-1, -2, -3]
    assert len(tries) == 6


def test_any_executor_carries_runs_that_are_kept(store: Any, way: Way) -> None:
    """The store is written here, and on none of its workers (FLO-20)."""
    diamond = Diamond()
    diamond.ill = {"c"}
    writers: set[str] = set()
    extend = store.extend
    store.extend = lambda *args: (writers.add(threading.current_thread().name), extend(*args))
    with ThreadPoolExecutor(2, "theirs") as executor, Engine(executor=executor, store=store) as engine:
        with pytest.raises(OSError, match="c is ill"):
            way.run(engine, diamond.flow, INPUT, run_id=RUN)
        diamond.ill.clear()
        diamond.calls.clear()
        assert dict(way.resume(engine, diamond.flow)) == WHOLE
    assert diamond.calls == ["c", "d"]
    assert writers
    assert not any(name.startswith("theirs") for name in writers)


def test_events_tell_of_nodes_that_were_through(files: JsonStore) -> None:
    """So that a bar that counts is full in the end."""
    diamond, events = Diamond(), list[Event]()
    diamond.ill = {"c"}
    with Engine(2, store=files, on_event=events.append) as engine:
        with pytest.raises(OSError, match="c is ill"):
            engine.run(diamond.flow, INPUT, run_id=RUN)
        events.clear()
        diamond.ill.clear()
        engine.resume(diamond.flow, RUN)
    assert [f"{event.kind} {event.node}".strip() for event in events] == [
        "run started", "node ended a", "node ended b", "node started c", "node ended c", "node started d", "node ended d",
        "run ended",
    ]  # fmt: skip
    assert {event.run for event in events} == {RUN}


def test_a_run_without_an_id_is_not_kept(store: Any, way: Way) -> None:
    """A store is for those who ask for it; and any value will do then."""
    with Engine(2, store=store) as engine:
        flow = Flow()
        flow.add(lambda: {1, 2}, id="a")
        assert way.run(engine, flow).status == "completed"
    assert store.runs() == []


def test_a_lost_line_of_the_log_costs_what_stood_behind_it(folder: Path, files: JsonStore) -> None:
    """A disk that forgets: the node runs again, and so does what was built on it, so that outputs fit each other."""
    diamond = Diamond()
    diamond.ill = {"d"}
    files.fold = no_room  # type: ignore[method-assign]
    with Engine(2, store=files) as engine, pytest.raises(OSError, match="d is ill"):
        engine.run(diamond.flow, INPUT, run_id=RUN)
    del files.fold
    log = folder / f"{RUN}.log"
    lines = log.read_bytes().split(b"\n")
    log.write_bytes(b"\n".join(line.replace(b"page", b"pagx") if b'"node":"a"' in line else line for line in lines))
    diamond.calls, diamond.ill = [], set()
    with Engine(2, store=files) as engine:
        assert dict(engine.resume(diamond.flow, RUN)) == WHOLE
    assert diamond.calls == ["a", "c", "d"]


# --- kills ------------------------------------------------------------------------------------------------------------

PROGRAM = """
    import os, signal, sys
    import anyio
    from flowcheck_reference import Engine, Flow, JsonStore, SqliteStore

    folder, kind, way, killed = sys.argv[1:]
    store = JsonStore(folder) if kind == "json" else SqliteStore(folder + "/runs.db")
    calls = os.open(folder + "/calls.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def does(own, given):
        os.write(calls, own.encode() + b" ")
        if own == killed:
            os.kill(os.getpid(), signal.SIGKILL)
        return [own, *given]

    def node(own, awaited):
        async def call(*given):
            return does(own, given)
        return call if awaited else lambda *given: does(own, given)

    flow = Flow("killed")
    for i, (own, needs) in enumerate({"a": ["input"], "b": ["a"], "c": ["a"], "d": ["b", "c"]}.items()):
        flow.add(node(own, i % 2 and way != "threads"), id=own, needs=needs)
    with Engine(1, store=store) as engine:
        new = not os.path.exists(folder + "/begun")
        open(folder + "/begun", "a").close()
        if way == "threads":
            result = engine.run(flow, 7, run_id="r") if new else engine.resume(flow, "r")
        else:
            result = anyio.run(
                lambda: engine.arun(flow, 7, run_id="r") if new else engine.aresume(flow, "r"), backend=way
            )
    print(result.status, result["d"])
"""


@pytest.mark.parametrize(
    ("kind", "way", "nodes"),
    [("json", "threads", "abcd"), ("sqlite", "threads", "bd"), ("json", "trio", "b"), ("sqlite", "asyncio", "c")],
)
def test_a_run_survives_a_kill_in_any_node(folder: Path, kind: str, way: str, nodes: str) -> None:
    """Process after process is killed, each in the next node; what was through when it was has run once (FLO-19, 24)."""
    for killed in nodes:
        done = process(folder, kind, way, killed)
        assert done.returncode == -signal.SIGKILL, done.stderr
    done = process(folder, kind, way, "")
    assert done.stdout.strip() == "completed ['d', ['b', ['a', 7]], ['c', ['a', 7]]]", done.stderr
    calls = (folder / "calls.txt").read_text().split()
    assert sorted(set(calls)) == [*"abcd"]
    # with one worker b and c are never under way at once; so whoever was not killed has run once
    assert {own for own in calls if calls.count(own) > 1} <= {*nodes}
    assert all(calls.count(own) == 2 for own in nodes)
    assert not list(folder.glob("*lease*"))


def process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(flowcheck_reference.__file__).parent.parent)},
    )


# --- one at a time ----------------------------------------------------------------------------------------------------


@contextmanager
def held(store: Any, gate: Gate, engine: Engine) -> Iterator[Any]:
    """A run of `RUN` is in the middle of its node."""
    flow = Flow("held")
    flow.add(lambda: gate(5), id="a")
    running = engine.start(flow, run_id=RUN)
    gate.arrived()
    yield flow
    gate.opened.set()
    assert running.result(LIMIT)["a"] == 5
    assert running.id == RUN


def test_a_run_that_is_under_way_is_refused(store: Any, way: Way, gate: Gate) -> None:
    """To `run` and `resume`, of the same engine and of others (FLO-25, 28); afterwards it is free."""
    with Engine(2, store=store) as engine, Engine(2, store=store) as other:
        with held(store, gate, engine) as flow:
            for who in (engine, other):
                with pytest.raises(LeaseHeldError, match=RUN):
                    way.resume(who, flow)
                with pytest.raises(LeaseHeldError, match=f"process {os.getpid()}"):
                    way.run(who, flow, run_id=RUN)
        assert way.resume(other, flow)["a"] == 5
    assert gate.nobody_waits()


def test_of_many_resumes_at_once_one_runs(store: Any, gate: Gate) -> None:
    """The others are refused, whoever is first (FLO-25)."""
    ill = [True]

    def node() -> int:
        if ill:
            raise ValueError(ill.pop())
        return int(gate(5))

    flow = Flow()
    flow.add(node)
    with Engine(8, store=store) as engine:
        with pytest.raises(ValueError, match="True"):
            engine.run(flow, run_id=RUN)
        calls = [background(lambda: engine.resume(flow, RUN)) for _ in range(8)]
        refused = [*itertools.islice(as_completed(calls, LIMIT), 7)]
        gate.arrived()
        gate.opened.set()
        assert {type(call.exception()) for call in refused} == {LeaseHeldError}
        (ran,) = {*calls} - {*refused}
        assert ran.result(LIMIT)["node"] == 5
    assert gate.nobody_waits()


@pytest.mark.parametrize("ends", ["completed", "failed", "cancelled"])
def test_an_id_is_used_once(store: Any, way: Way, gate: Gate, ends: str) -> None:
    """The error says what to do instead (FLO-28), and what is there stays."""
    flow = Flow()
    flow.add((lambda: 1 / 0) if ends == "failed" else gate, id="a", needs=[] if ends == "failed" else ["input"])
    with Engine(2, store=store) as engine:
        running = engine.start(flow, 3, run_id=RUN)
        if ends == "cancelled":
            gate.arrived()
            running.cancel()
        gate.opened.set()
        if ends == "failed":
            with pytest.raises(ZeroDivisionError):
                running.result(LIMIT)
        else:
            assert running.result(LIMIT).status == ends
        before = store.load(RUN)
        assert before["status"] == ends
        with pytest.raises(RunExistsError, match=rf"'{RUN}' is there already, and .*: resume\(flow, '{RUN}'\)"):
            way.run(engine, flow, 4, run_id=RUN)
        assert store.load(RUN) == before
        store.delete(RUN)
        if ends != "failed":
            assert way.run(engine, flow, 4, run_id=RUN)["a"] == 4


def test_a_run_that_was_half_deleted_is_not_begun_again(files: JsonStore, way: Way) -> None:
    """Its log has forgotten nothing: it would count for the new one."""
    files.append(RUN, {"node": "a", "output": 1})
    flow = Flow()
    flow.add(lambda: 2, id="a")
    with Engine(2, store=files) as engine:
        with pytest.raises(RunExistsError, match="delete it again"):
            way.run(engine, flow, run_id=RUN)
        files.delete(RUN)
        assert way.run(engine, flow, run_id=RUN)["a"] == 2


# --- what makes no sense ----------------------------------------------------------------------------------------------


def test_only_the_same_flow_goes_on_with_a_run(store: Any, way: Way) -> None:
    """Nodes, and what they need, must be as they were; the functions may be others. Nothing runs (FLO-04)."""
    diamond = Diamond()
    with Engine(2, store=store) as engine:
        way.run(engine, diamond.flow, INPUT, run_id=RUN)
        other = Flow("other")
        other.add(lambda: 1 / 0, id="a")
        other.add(lambda: 1 / 0, id="b", needs=["a"])
        other.add(lambda: 1 / 0, id="new")
        with pytest.raises(FlowError) as raised:
            way.resume(engine, other)
        assert str(raised.value) == (
            "run 'report-17' was begun with another flow than 'other' is now: the flow has no node 'c', 'd'; "
            "the run has no node 'new'; other needs than they had have 'b'"
        )
        assert raised.value.nodes == ("c", "d", "new", "b")
        assert way.resume(engine, Diamond().flow).status == "completed"


def test_bad_arguments_are_refused_before_anything_is_saved(store: Any, way: Way) -> None:
    """Each by an error that says what to do; and the lease is free afterwards."""
    flow = Flow()
    flow.add(lambda: 1, id="a")
    circle = Flow()
    circle.add(lambda b: 1, id="a", needs=["b"])
    circle.add(lambda a: 1, id="b", needs=["a"])
    with Engine(2, store=store) as engine:
        with pytest.raises(RunNotFoundError, match=RUN):
            way.resume(engine, flow)
        for wrong in ("", "a\0b", "x" * 300):
            with pytest.raises(InvalidRunIdError):
                way.run(engine, flow, run_id=wrong)
        with pytest.raises(InvalidRunIdError):
            way.run(engine, flow, run_id=17)
        with pytest.raises(FlowError, match="circle"):
            way.run(engine, circle, run_id=RUN)
        with pytest.raises(ValueError, match="on_error"):
            way.run(engine, flow, run_id=RUN, on_error="ignore")
        with pytest.raises(TypeError, match="Flow"):
            way.run(engine, "flow", run_id=RUN)  # type: ignore[arg-type]
        with pytest.raises(NotSavedError, match=r"was not begun: .*\['input'\]: a tuple") as raised:
            way.run(engine, flow, (1, 2), run_id=RUN)
        assert isinstance(raised.value.__cause__, NotJsonError)
        store.save("theirs", {"status": "completed"})
        with pytest.raises(StoreError, match="'theirs' is no run of this engine"):
            way.resume(engine, flow, "theirs")
        with pytest.raises(RunExistsError, match="none of this engine's"):
            way.run(engine, flow, run_id="theirs")
        assert store.runs() == ["theirs"]
        way.run(engine, flow, run_id="mixed")
        for entry in ({"node": "b", "output": 1}, {"step": 1}, [1]):
            store.append("mixed", entry)
            with pytest.raises(StoreError, match="no run of this engine has written"):
                way.resume(engine, flow, "mixed")
        store.delete("mixed")
        for run_id in (RUN, "theirs", "mixed"):
            with store.lease(run_id):
                pass
    with pytest.raises(RuntimeError, match="closed"):
        way.run(engine, flow, run_id=RUN)
    with pytest.raises(RuntimeError, match="closed"):
        way.resume(engine, flow)
    assert store.runs() == ["theirs"]
    with Engine(2) as engine, pytest.raises(ValueError, match=r"Engine\(store=JsonStore"):
        way.run(engine, flow, run_id=RUN)


def test_a_run_that_would_block_the_loop_is_refused_before_anything_is_saved(store: Any) -> None:
    """`run`, `resume` and `start` inside an async node, with and without an id; and the lease is free afterwards."""
    inner, outer = Flow(), Flow()
    inner.add(lambda: 5, id="a")
    with Engine(2, store=store) as engine:
        engine.run(inner, run_id="old")
        before = store.load("old")

        async def node() -> list[str]:
            told = []
            for call in (
                lambda: engine.run(inner),
                lambda: engine.run(inner, run_id=RUN),
                lambda: engine.start(inner, run_id=RUN),
                lambda: engine.resume(inner, "old"),
            ):
                with pytest.raises(RuntimeError, match=r"await arun\(\)") as raised:
                    call()
                told.append(str(raised.value))
            return told

        outer.add(node)
        assert len(engine.run(outer)["node"]) == 4
        assert store.runs() == ["old"]
        assert store.load("old") == before
        assert engine.run(inner, run_id=RUN)["a"] == engine.resume(inner, "old")["a"] == 5


def test_a_run_that_can_not_begin_gives_its_lease_back(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gives no thread for its async nodes: what was saved is a run that is resumed when it does."""
    flow = Flow()

    @flow.node
    async def a() -> int:
        await checkpoint()
        return 5

    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with Engine(2, store=store) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "_loop_pool", no_thread)
            with pytest.raises(RuntimeError, match="new thread"):
                engine.run(flow, run_id=RUN)
        assert engine.resume(flow, RUN)["a"] == 5


# --- saves that fail --------------------------------------------------------------------------------------------------


def no_room(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("on_error", ["raise", "continue"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_save_that_fails_fails_the_run(store: Any, way: Way, nth: int, on_error: Any) -> None:
    """Whatever `on_error` is: nothing more is begun, the error says why, and once there is room it is resumed (FLO-24, 26)."""
    diamond, saves, extend = Diamond(), itertools.count(1), store.extend
    store.extend = lambda *args: no_room() if next(saves) == nth else extend(*args)
    with Engine(1, store=store) as engine:
        with pytest.raises(
            NotSavedError, match="is through, but its output could not be saved in run 'report-17'"
        ) as raised:
            way.run(engine, diamond.flow, INPUT, run_id=RUN, on_error=on_error)
        assert isinstance(raised.value.__cause__, OSError)
        result = result_of(raised.value)
        assert result is not None
        assert result.status == "failed"
        failed = [own for own in "abcd" if result.nodes[own].status == "failed"]
        assert len(failed) == 1
        assert len(diamond.calls) <= nth + 1  # a and b may both be under way
        kept = store.load(RUN)
        assert kept["status"] == "failed"
        assert not {*failed} & {*kept["outputs"]}
        done = {*kept["outputs"]}
        diamond.calls.clear()
        assert dict(way.resume(engine, diamond.flow)) == WHOLE
    assert sorted(diamond.calls) == sorted({*"abcd"} - done)


def test_a_store_that_is_closed_meanwhile_fails_the_run(files: JsonStore, way: Way) -> None:
    """It is not a crash of the engine, and no hang."""
    flow = Flow()
    flow.add(files.close, id="a")
    with Engine(2, store=files) as engine, pytest.raises(NotSavedError) as raised:
        way.run(engine, flow, run_id=RUN)
    assert isinstance(raised.value.__cause__, StoreClosedError)


@pytest.mark.parametrize("value", [(1, 2), object(), float("nan"), {1: 2}], ids=["tuple", "object", "nan", "key"])
def test_an_output_that_is_no_json_value_fails_its_node(store: Any, way: Way, value: object) -> None:
    """And no other: it is no fault of the store. The error says where, and what to give instead."""
    flow = Flow()
    flow.add(lambda: value, id="a")
    flow.add(lambda a: a, id="a2", needs=["a"])
    flow.add(lambda: 1, id="b")
    with Engine(1, store=store) as engine:
        result = way.run(engine, flow, run_id=RUN, on_error="continue")
        assert (result.status, dict(result), result.nodes["a2"].status) == ("failed", {"b": 1}, "skipped")
        error = result.nodes["a"].error
        assert isinstance(error, NotSavedError)
        assert isinstance(error.__cause__, NotJsonError)
        assert "node 'a'" in str(error)
        assert "['output']" in str(error)
        with pytest.raises(NotSavedError, match="node 'a' is through"):
            way.resume(engine, flow)
    assert store.load(RUN)["outputs"] == {"b": 1}


def test_an_end_that_can_not_be_saved_is_told(files: JsonStore, way: Way) -> None:
    """All outputs are in the log, so nothing is run again; but who is told "completed" may rely on it."""
    diamond = Diamond()
    files.fold = no_room  # type: ignore[method-assign]
    with Engine(2, store=files) as engine:
        with pytest.raises(NotSavedError, match="the end of run 'report-17'") as raised:
            way.run(engine, diamond.flow, INPUT, run_id=RUN)
        result = result_of(raised.value)
        assert result is not None
        assert dict(result) == WHOLE
        del files.fold
        diamond.calls.clear()
        assert dict(way.resume(engine, diamond.flow)) == WHOLE
    assert diamond.calls == []
    assert files.load(RUN)["status"] == "completed"
    assert files.entries(RUN) == []


def test_a_failed_run_is_told_by_its_own_error(files: JsonStore, way: Way, caplog: pytest.LogCaptureFixture) -> None:
    """Also where its end can't be saved either: the log has all that a resume needs."""
    diamond = Diamond()
    diamond.ill = {"c"}
    files.fold = no_room  # type: ignore[method-assign]
    with Engine(2, store=files) as engine:
        with caplog.at_level(logging.WARNING), pytest.raises(OSError, match="c is ill"):
            way.run(engine, diamond.flow, INPUT, run_id=RUN)
        assert "the end of run 'report-17' could not be saved" in caplog.text
        del files.fold
        diamond.ill, diamond.calls = set(), []
        assert dict(way.resume(engine, diamond.flow)) == WHOLE
    assert diamond.calls == ["c", "d"]


# --- on the way -------------------------------------------------------------------------------------------------------


def test_nodes_that_end_together_share_a_write(files: JsonStore, gate: Gate) -> None:
    """While one is being written, others come: the next write takes them all."""
    writes: list[int] = []
    extend = files.extend

    def slow(run_id: str, entries: Any) -> None:
        writes.append(len(entries))
        if len(writes) == 1:
            gate()
        extend(run_id, entries)

    files.extend = slow  # type: ignore[method-assign]
    flow, left = Flow(), threading.Barrier(4)
    flow.add(lambda: "first", id="n0")
    for i in range(1, 4):
        flow.add(lambda: left.wait(LIMIT) and None, id=f"n{i}")
    with Engine(4, store=files) as engine:
        running = engine.start(flow, run_id=RUN)
        gate.arrived()
        left.wait(LIMIT)
        keeper = next(iter(engine._runs))._keeper  # type: ignore[attr-defined]
        until(lambda: len(keeper._waiting) == 3)  # they are on their way
        gate.opened.set()
        assert running.result(LIMIT).status == "completed"
    assert writes == [1, 3]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_loop_goes_on_while_the_disk_is_waited_for(files: JsonStore, backend: str, gate: Gate) -> None:
    """For the first state, an output, the end, and what is read (FLO-31)."""
    at: list[str] = []

    def slow(name: str) -> None:
        call = getattr(files, name)

        def held(*args: Any, **options: Any) -> Any:
            at.append(name)
            gate()
            return call(*args, **options)

        setattr(files, name, held)

    for name in ("load", "save", "extend", "fold"):
        slow(name)

    async def main() -> None:
        diamond = Diamond()
        async with Engine(2, store=files) as engine, anyio.create_task_group() as group:
            results: list[Result] = []

            async def run() -> None:
                results.append(await engine.arun(diamond.flow, INPUT, run_id=RUN))

            group.start_soon(run)
            beats = 0
            while not results:
                await checkpoint()
                beats += 1
                if len(at) == 1 and beats > 10:  # it stands at the gate, and this loop goes on
                    gate.opened.set()
            assert dict(results[0]) == WHOLE
            assert beats > 10

    anyio.run(main, backend=backend)
    assert {"load", "save", "extend", "fold"} <= set(at)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_whose_caller_is_cancelled_is_resumed(store: Any, backend: str) -> None:
    """What was through is kept; the lease is free when the cancellation comes through (FLO-23, 32)."""
    calls: list[str] = []

    async def main() -> None:
        forever = anyio.Event()
        flow = Flow()

        async def first() -> int:
            calls.append("first")
            return 1

        async def second(first: int) -> int:
            calls.append("second")
            if calls.count("second") == 1:
                scope.cancel()
                await forever.wait()
            return first + 1

        flow.add(first)
        flow.add(second)
        async with Engine(2, store=store) as engine:
            with anyio.CancelScope() as scope:
                await engine.arun(flow, run_id=RUN)
            assert scope.cancelled_caught
            assert store.load(RUN)["status"] == "cancelled"
            assert dict(await engine.aresume(flow, RUN)) == {"first": 1, "second": 2}

    anyio.run(main, backend=backend)
    assert calls == ["first", "second", "second"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_output_counts_although_its_caller_was_cancelled_while_it_was_saved(
    files: JsonStore, backend: str, gate: Gate
) -> None:
    """The node is through: it is not run again."""
    calls: list[str] = []
    extend = files.extend

    def slow(*args: Any) -> None:
        gate()
        extend(*args)

    async def main() -> None:
        async def node() -> int:
            calls.append("node")
            return 1

        async def cancel() -> None:
            while not gate.came.acquire(blocking=False):
                await checkpoint()
            scope.cancel()
            gate.opened.set()

        flow = Flow()
        flow.add(node)
        flow.add(lambda node: node + 1, id="last", needs=["node"])
        async with Engine(2, store=files) as engine:
            files.extend = slow  # type: ignore[method-assign]
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(cancel)
                    await engine.arun(flow, run_id=RUN)
            del files.extend
            assert scope.cancelled_caught
            assert (await engine.aresume(flow, RUN))["last"] == 2

    anyio.run(main, backend=backend)
    assert calls == ["node"]


def test_a_run_that_is_over_leaves_nothing(
    files: JsonStore, folder: Path, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cycle for the garbage collector, no thread, no lease, no open log (FLO-16)."""
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    init = Run.__init__
    monkeypatch.setattr(Run, "__init__", lambda self, *args: (init(self, *args), alive.add(self))[0])
    diamond = Diamond()
    with Engine(2, store=files) as engine:
        way.run(engine, diamond.flow, INPUT, run_id="before")
        gc.collect()
        gc.disable()
        try:
            for i in range(3):
                way.run(engine, diamond.flow, INPUT, run_id=f"r{i}")
                way.resume(engine, diamond.flow, f"r{i}")
            if way.backend is None:  # a loop library remembers a task for a while
                until(lambda: not alive)  # who ended the last node is still on his way out
        finally:
            gc.enable()
        diamond.ill = {"c"}
        with pytest.raises(OSError, match="c is ill"):
            way.run(engine, diamond.flow, INPUT, run_id="failed")
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "flowcheck-keep"])
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["before.json", "failed.json", "r0.json", "r1.json", "r2.json"]


def test_what_is_kept_is_plain_json(files: JsonStore, folder: Path) -> None:
    """Anybody may look."""
    flow = Flow("sum")
    flow.add(lambda x: x + 1, id="more", needs=["input"])
    with Engine(1, store=files) as engine:
        engine.run(flow, 1, run_id=RUN)
    assert json.loads((folder / f"{RUN}.json").read_text()) == {
        "flowcheck": 1, "flow": "sum", "status": "completed", "input": 1, "nodes": {"more": []}, "outputs": {"more": 2},
        "errors": {},
    }  # fmt: skip
