"""The flow engine keeps the rules of its facet; each test says which, and needs no kit to say it.

Nodes are held at gates. A wait that a broken engine would not end has a limit, so that the test fails rather than hangs;
a sound one never gets near it.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import itertools
import linecache
import logging
import math
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent import futures
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from gating import LIMIT, Gate, background

from flowcheck_reference._flow.run import Run
from flowcheck_reference._sizing import default_workers
from flowcheck_reference.executor import Executor
from flowcheck_reference.flow import Engine, Event, Flow, FlowError, Result, RetryPolicy, result_of
from flowcheck_reference.retry import AttemptTimeout, TooManyAbandonedError

if TYPE_CHECKING:
    from types import FrameType


NOW = partial(RetryPolicy, wait_max=0.0)
"""A policy without backoff."""
SOON = partial(RetryPolicy, wait_initial=0.001, wait_jitter=0.0)
"""A policy with one."""
LATE = partial(RetryPolicy, wait_initial=1000.0, wait_max=1000.0, wait_jitter=0.0)
"""A policy with one that nobody is to wait for."""


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Two nodes at a time."""
    with Engine(2) as engine:
        yield engine


@pytest.fixture(params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest) -> str:
    """Both event loops."""
    return request.param


Way = Callable[..., Result]


@pytest.fixture(params=["run", "asyncio", "trio"])
def way(request: pytest.FixtureRequest) -> Way:
    """All ways to run a flow."""

    def run(engine: Engine, flow: Flow, *args: Any, **options: Any) -> Result:
        if request.param == "run":
            return engine.run(flow, *args, **options)
        return anyio.run(partial(engine.arun, flow, *args, **options), backend=request.param)

    return run


class Inline(futures.Executor):
    """Its `submit` makes the call at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def until(true: Callable[[], object]) -> None:
    """Until what nothing announces has happened."""
    end = monotonic() + LIMIT
    while not true():
        assert monotonic() < end
        threading.Event().wait(0)


def raises(error: BaseException) -> Callable[..., Any]:
    """A node that does."""

    def fails(*_: Any) -> Any:
        raise error

    return fails


def araises(error: BaseException) -> Callable[..., Awaitable[Any]]:
    """An async node that does."""

    async def fails(*_: Any) -> Any:
        raise error

    return fails


def asynced(fn: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """The same function, async."""

    async def call(*args: Any) -> Any:
        await checkpoint()
        return fn(*args)

    return call


def one(fn: Callable[..., Any], **options: Any) -> Flow:
    """A flow of one node, `n`."""
    flow = Flow("one")
    flow.add(fn, id="n", **{"needs": [], **options})
    return flow


def over_items(fn: Callable[..., Any], items: Any, **options: Any) -> Flow:
    """A flow that calls `fn` for each item, as node `n`."""
    flow = Flow("items")
    flow.add(lambda: items, id="items")
    flow.add(fn, id="n", needs=["items"], each=True, **options)
    return flow


def chain(n: int, fn: Callable[..., Any], **options: Any) -> Flow:
    """`0` → `1` → …"""
    flow = Flow("chain")
    for i in range(n):
        flow.add(fn, id=str(i), needs=[str(i - 1)] if i else [], **options)
    return flow


def fan(n: int, fn: Callable[..., Any], **options: Any) -> Flow:
    """n nodes, and `last` after them all."""
    flow = Flow("fan")
    for i in range(n):
        flow.add(fn, id=str(i), needs=[], **options)
    flow.add(lambda: "last", id="last", after=[str(i) for i in range(n)])
    return flow


def statuses(result: Result) -> dict[str, str]:
    """By id."""
    return {own: node.status for own, node in result.nodes.items()}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Run]]:
    """All that are made; each must have given everything back at the end."""
    made: list[Run] = []
    init = Run.__init__

    def noted(self: Run, *args: Any) -> None:
        init(self, *args)
        made.append(self)

    monkeypatch.setattr(Run, "__init__", noted)
    yield made
    for run in made:
        until(lambda run=run: run.over and not run.active)  # type: ignore[misc]
        assert not run.ready
        assert not run.resting
        assert 0 not in run.arrays.status


# -- flows


def test_a_node_needs_what_its_parameters_are_named_after(way: Way, engine: Engine) -> None:
    """Those without a default; the outputs come in that order, and the input by its name (FLO-01)."""
    flow = Flow("report")

    @flow.node
    def total(left: int, right: int, scale: int = 10) -> int:
        return (left - right) * scale

    @flow.node()
    async def left(input: int) -> int:  # noqa: A002  that is what it is called
        return input + 2

    @flow.node(id="right", needs=["input"])
    def other(value: int) -> int:
        return value - 1

    assert total(3, 1) == 20, "a decorated function stays what it was"
    result = way(engine, flow, 5)
    assert dict(result) == {"total": 30, "left": 7, "right": 4}
    assert flow.nodes[0].waits_for == ("left", "right")
    assert repr(flow) == "<Flow 'report' of 3 nodes>"
    assert len(flow) == 3


def test_after_is_an_order_without_an_output(way: Way, engine: Engine) -> None:
    """What comes after runs after, and gets nothing (FLO-01)."""
    order: list[str] = []
    flow = Flow()
    flow.add(lambda: order.append("last"), id="last", after=["first", "input", "first"])
    flow.add(lambda: order.append("first"), id="first")
    way(engine, flow)
    assert order == ["first", "last"]


@pytest.mark.parametrize(
    ("edges", "named"),
    [
        ({"a": ["a"]}, {"a"}),
        ({"a": ["b"], "b": ["a"]}, {"a", "b"}),
        ({"x": [], "a": ["x", "c"], "b": ["a"], "c": ["b"], "y": ["c"]}, {"a", "b", "c"}),
        ({"a": ["gone"]}, {"a", "gone"}),
    ],
)
def test_a_flow_without_sense_is_refused(
    way: Way, engine: Engine, edges: dict[str, list[str]], named: set[str]
) -> None:
    """Before anything runs, and the nodes are named (FLO-04)."""
    ran: list[int] = []
    flow = Flow()
    for own, needs in edges.items():
        flow.add(lambda *_: ran.append(1), id=own, needs=needs)
    with pytest.raises(FlowError) as caught:
        way(engine, flow)
    assert set(caught.value.nodes) == named
    assert all(own in str(caught.value) for own in named)
    assert not ran
    twin = pickle.loads(pickle.dumps(caught.value))
    assert (str(twin), twin.nodes) == (str(caught.value), caught.value.nodes)


def test_an_id_twice_is_refused() -> None:
    """It names it (FLO-04)."""
    flow = Flow()
    flow.add(int, id="a", needs=[])
    flow.add(int, id="a", needs=[])
    with pytest.raises(FlowError, match="'a'") as caught:
        flow.compiled()
    assert caught.value.nodes == ("a",)


def test_a_flow_that_was_wrong_can_be_mended(engine: Engine) -> None:
    """By the node that it lacked; one that ran can grow, too."""
    flow = Flow()
    flow.add(lambda a: a + 1, id="b", needs=["a"])
    with pytest.raises(FlowError):
        engine.run(flow)
    flow.add(lambda: 1, id="a")
    assert engine.run(flow)["b"] == 2
    flow.add(lambda b: b + 1, id="c", needs=["b"])
    assert engine.run(flow)["c"] == 3


def _keyword(*, only: int) -> int:
    return only


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"fn": 5}, TypeError),
        ({"fn": int, "needs": "ab"}, TypeError),
        ({"fn": int, "needs": [1]}, TypeError),
        ({"fn": int, "needs": [], "after": "ab"}, TypeError),
        ({"fn": int, "needs": [], "policy": 3}, TypeError),
        ({"fn": int, "needs": [], "id": 5}, TypeError),
        ({"fn": int, "needs": [], "id": []}, TypeError),
        ({"fn": int, "needs": [], "id": ""}, FlowError),
        ({"fn": int, "needs": [], "id": "input"}, FlowError),
        ({"fn": _keyword}, FlowError),
        ({"fn": partial(max, 1), "id": "m"}, FlowError),
        ({"fn": int, "needs": [], "each": True}, FlowError),
        ({"fn": int, "needs": ["a", "b"], "each": True}, FlowError),
    ],
)
def test_a_node_without_sense_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    """When it is added, which leaves the flow as it was."""
    flow = Flow()
    with pytest.raises(error):
        flow.add(options.pop("fn"), **options)
    assert not len(flow)


def test_whatever_can_be_called_is_a_node(way: Way, engine: Engine) -> None:
    """A method, a partial, a class, an object, async or not; a class of async objects is no async function."""

    class Thing:
        def __init__(self, base: int = 0) -> None:
            self.base = base

        def method(self, a: int) -> int:
            return self.base + a

        async def __call__(self, a: int) -> int:
            return self.base * a

    async def double(factor: int, a: int) -> int:
        return factor * a

    flow = Flow()
    flow.add(lambda: 3, id="a")
    assert flow.add(Thing(4).method) == "method"
    assert flow.add(partial(double, 2)) == "double"
    flow.add(Thing(5), id="object")
    flow.add(Thing, id="class")
    result = way(engine, flow)
    assert (result["method"], result["double"], result["object"]) == (7, 6, 15)
    assert isinstance(result["class"], Thing)


def test_a_flow_may_grow_while_it_is_compiled() -> None:
    """A run has the nodes that were there when it began."""
    flow = fan(2000, int)

    def grow() -> None:
        for i in range(2000):
            flow.add(int, id=f"more {i}", needs=[])

    growing = background(grow)
    while not growing.done():
        plan = flow.compiled()
        assert len(plan.ids) == len(plan.fns) == len(plan.indegree) == len(plan.nodes)
    growing.result(LIMIT)


# -- results


def test_a_result_is_a_mapping_of_outputs(way: Way, engine: Engine) -> None:
    """And tells all of each node: attempts, times, errors (FLO-03)."""
    before = monotonic()
    flow = Flow("mapped")
    flow.add(lambda: 1, id="a")
    flow.add(raises(ValueError("b")), id="b", needs=[])
    flow.add(lambda b: b, id="c")
    flow.add(lambda c: c, id="d")
    result = way(engine, flow, on_error="continue")
    assert isinstance(result, Result)
    assert (dict(result), len(result), "a" in result, "b" in result, [] in [*result]) == (
        {"a": 1},
        1,
        True,
        False,
        False,
    )
    assert list(result.nodes) == ["a", "b", "c", "d"]
    assert statuses(result) == {"a": "ok", "b": "failed", "c": "skipped", "d": "skipped"}
    assert (result.status, type(result.error), result.id) == ("failed", ValueError, "mapped-1")
    a, b, c, d = result.nodes.values()
    assert (a.attempts, b.attempts, c.attempts) == (1, 1, 0)
    assert (c.because, d.because, a.because) == ("b", "b", "")
    assert (b.error, c.error, c.started, c.ended) == (result.error, None, None, None)
    assert a.started is not None
    assert a.ended is not None
    assert before <= result.started <= a.started <= a.ended <= result.ended <= monotonic()
    with pytest.raises(ValueError, match="b"):
        result["b"]
    with pytest.raises(LookupError, match="skipped"):
        result["c"]
    with pytest.raises(KeyError):
        result["nobody"]
    assert "mapped-1" in repr(result)
    assert "'skipped'" in repr(result.nodes)


def test_an_error_is_raised_itself(way: Way, engine: Engine) -> None:
    """With its own traceback, and the result of the rest (FLO-03)."""
    error = ValueError("mine")
    flow = Flow()
    flow.add(lambda: 1, id="a")
    flow.add(raises(error), id="b", needs=["a"])
    flow.add(lambda b: b, id="c")
    with pytest.raises(ValueError, match="mine") as caught:
        way(engine, flow)
    assert caught.value is error
    assert caught.traceback[-1].name == "fails"
    result = result_of(error)
    assert result is not None
    assert result["a"] == 1
    assert statuses(result) == {"a": "ok", "b": "failed", "c": "skipped"}
    assert result_of(KeyError()) is None


class MuteError(Exception):
    """Its text is nobody's to read."""

    def __str__(self) -> str:
        raise AttributeError


@pytest.mark.parametrize("second", [OSError("second"), MuteError()])
def test_other_errors_are_noted_once(engine: Engine, second: Exception) -> None:
    """However often one asks, and whatever their text is (FLO-03)."""
    both = threading.Barrier(2, timeout=LIMIT)

    def fails(error: Exception) -> None:
        both.wait()
        raise error

    flow = Flow()
    flow.add(partial(fails, ValueError("first")), id="a", needs=[])
    flow.add(partial(fails, second), id="b", needs=[])
    running = engine.start(flow)
    for _ in range(3):
        with pytest.raises((ValueError, type(second))) as caught:
            running.result(LIMIT)
        other = "OSError: second" if isinstance(second, OSError) else "MuteError"
        told = (
            f"node 'b' ended with {other}" if isinstance(caught.value, ValueError) else "node 'a' ended with ValueError"
        )
        assert len(caught.value.__notes__) == 1
        assert told in caught.value.__notes__[0]


def test_a_run_ended_when_it_ended(engine: Engine, runs: list[Run]) -> None:
    """Not when somebody asks, who gets the same each time."""
    running = engine.start(one(int))
    first = running.result(LIMIT)
    assert first.ended == running.result(LIMIT).ended == runs[0].arrays.over


def test_what_a_cancelled_node_was_told_is_not_raised_to_whoever_looks(engine: Engine, gate: Gate) -> None:
    """Else it would cancel him."""
    running = engine.start(one(gate.aio))
    gate.arrived()
    running.cancel()
    result = running.result(LIMIT)
    assert isinstance(result.nodes["n"].error, asyncio.CancelledError)
    with pytest.raises(LookupError, match="cancelled"):
        result["n"]


def test_branches_that_do_not_depend_on_a_failure_complete(way: Way, engine: Engine) -> None:
    """On "continue" only; no node that needs the failed one runs either way (FLO-03, 29)."""
    for on_error, d in (("continue", "ok"), ("raise", "cancelled")):
        flow = Flow()
        flow.add(raises(ValueError("a")), id="a", needs=[])
        flow.add(lambda: 1, id="b", after=["c"])
        flow.add(lambda: 1, id="c", after=["d"])
        flow.add(lambda: 1, id="d")
        flow.add(lambda a, b: a + b, id="e")
        if on_error == "continue":
            result = way(engine, flow, max_workers=1, on_error=on_error)
        else:
            with pytest.raises(ValueError, match="a") as caught:
                way(engine, flow, max_workers=1, on_error=on_error)
            told = result_of(caught.value)
            assert told is not None
            result = told
        assert result.nodes["d"].status == d
        assert result.nodes["a"].status == "failed"
        assert result.nodes["e"].status == "skipped"
        assert result.nodes["e"].because == "a"


@pytest.mark.parametrize("made", [raises, araises])
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.parametrize("on_error", ["raise", "continue"])
def test_an_interrupt_from_a_node_ends_the_run(
    way: Way, engine: Engine, made: Any, error: BaseException, on_error: str, runs: list[Run]
) -> None:
    """It is no result of a node, so "continue" is no answer; the engine stays usable (FLO-07, 38)."""
    error = type(error)(*error.args)
    flow = one(made(error))
    flow.add(lambda n: n, id="after")
    with pytest.raises(type(error)) as caught:
        way(engine, flow, on_error=on_error)
    assert caught.value is error
    assert way(engine, one(int))["n"] == 0


def test_arguments_without_sense_are_refused(engine: Engine) -> None:
    """Before anything runs, where they came from (FLO-09)."""
    flow = one(raises(AssertionError()))
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("2", TypeError)):
        with pytest.raises(error, match="max_workers"):
            engine.run(flow, max_workers=wrong)  # type: ignore[arg-type]
        with pytest.raises(error, match="max_workers"):
            Engine(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_error"):
        engine.run(flow, on_error="perhaps")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Flow"):
        engine.run("flow")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="executor"):
        Engine(executor=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_abandoned"):
        Engine(max_abandoned=0)


def test_an_empty_flow_is_over_at_once(way: Way, engine: Engine, runs: list[Run]) -> None:
    """With nothing in it."""
    result = way(engine, Flow())
    assert (dict(result), result.status) == ({}, "completed")


# -- places


@pytest.mark.parametrize("kind", ["blocking", "async", "mixed", "ThreadPoolExecutor", "mixed on it"])
@pytest.mark.parametrize("limit", [1, 2, 3])
def test_so_many_nodes_are_in_flight_and_no_more(kind: str, limit: int, runs: list[Run]) -> None:
    """Blocking and async ones together, whatever the engine has (FLO-02, 22)."""
    gate, lock, now, most = Gate(), threading.Lock(), [0], [0]

    def comes(by: int) -> None:
        with lock:
            now[0] += by
            most[0] = max(most[0], now[0])

    def blocking() -> None:
        comes(1)
        gate()
        comes(-1)

    async def waiting() -> None:
        comes(1)
        await gate.aio()
        comes(-1)

    flow = Flow()
    for i in range(12):
        flow.add(
            blocking if kind in {"blocking", "ThreadPoolExecutor"} or ("mixed" in kind and i % 2) else waiting,
            id=str(i),
        )
    with ThreadPoolExecutor(12) as pool, Engine(2, executor=pool if "T" in kind or "it" in kind else None) as engine:
        running = engine.start(flow, max_workers=limit)
        gate.arrived(limit)
        assert gate.nobody_waits()
        gate.opened.set()
        assert running.result(LIMIT).status == "completed"
    assert most[0] == limit


def test_a_mixed_run_on_an_executor_keeps_its_bound(runs: list[Run]) -> None:
    """Also where async nodes and an executor's callbacks take places at the same time (FLO-22)."""
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        lock, now, most = threading.Lock(), [0], [0]

        def comes(by: int) -> None:
            with lock:
                now[0] += by
                most[0] = max(most[0], now[0])

        def blocking(*_: Any) -> None:
            comes(1)
            comes(-1)

        async def waiting(*_: Any) -> None:
            comes(1)
            await checkpoint()
            comes(-1)

        flow = Flow()
        for i in range(120):
            flow.add(waiting if i % 2 else blocking, id=str(i), needs=[] if i < 8 else [str(i - 7), str(i - 8)])
        with ThreadPoolExecutor(4) as pool, Engine(2, executor=pool) as engine:
            for _ in range(10):
                engine.run(flow)
        assert most[0] <= 2
    finally:
        sys.setswitchinterval(switch)


def test_a_node_starts_as_soon_as_it_can(way: Way, gate: Gate) -> None:
    """It waits for what it needs, and not for slower siblings (FLO-21)."""
    flow = Flow()
    flow.add(gate, id="slow", needs=[])
    for i in range(5):
        flow.add(lambda *_: 1, id=str(i), needs=[str(i - 1)] if i else [])
    flow.add(lambda *_: gate.opened.set(), id="opens", needs=["4"])
    with Engine(2) as engine:
        assert way(engine, flow).status == "completed"


@pytest.mark.parametrize("fn", [lambda *_: None, asynced(lambda *_: None)])
@pytest.mark.parametrize("shape", [chain, fan])
def test_a_deep_chain_and_a_wide_fan(engine: Engine, shape: Callable[..., Flow], fn: Any) -> None:
    """No recursion, also where all of it is skipped or cancelled (FLO-18)."""
    n = 20_000 if inspect.iscoroutinefunction(fn) else 100_000
    flow = shape(n, fn)
    assert len(engine.run(flow)) == len(flow)
    failing = Flow()
    failing.add(raises(ValueError()), id="bad", needs=[])
    for node in flow.nodes[: n // 5]:
        failing.add(fn, id=node.id, needs=node.needs or ["bad"], after=node.after)
    result = engine.run(failing, on_error="continue")
    assert Counter(statuses(result).values()) == {"failed": 1, "skipped": n // 5}
    running = engine.start(flow)
    running.cancel()
    assert 0 not in [*running.result(LIMIT)._arrays.status]


@pytest.mark.parametrize("executor", [Inline, partial(ThreadPoolExecutor, 2)])
def test_a_deep_chain_on_an_executor(executor: Callable[[], futures.Executor]) -> None:
    """Also where the call is over before `submit` returns (FLO-18, 20)."""
    with executor() as pool, Engine(executor=pool) as engine:
        assert len(engine.run(chain(5000, lambda *_: 1))) == 5000
        assert len(engine.run(fan(5000, lambda *_: 1))) == 5001
        assert len(engine.run(over_items(abs, range(5000)))["n"]) == 5000


def test_a_run_may_have_more_or_fewer_workers(gate: Gate) -> None:
    """For itself; then there are as many threads as before (FLO-08, 34)."""
    with Engine(1) as engine:
        assert engine.max_workers == 1
        wide = engine.start(fan(5, gate), max_workers=5)
        gate.arrived(5)
        gate.opened.set()
        wide.result(LIMIT)
        until(lambda: engine._crew.pool.live <= 1)
        assert engine.run(fan(3, threading.get_ident), max_workers=1)["last"] == "last"
        assert engine._crew.pool.limit == 1


def test_the_environment_sizes_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument wins over it, it over the default; nonsense is refused by its name (FLO-09)."""
    monkeypatch.delenv("FLOWCHECK_MAX_WORKERS", raising=False)
    with Engine() as engine:
        assert engine.max_workers == default_workers()
    monkeypatch.setenv("FLOWCHECK_MAX_WORKERS", "3")
    with Engine() as engine, Engine(5) as told, ThreadPoolExecutor(1) as pool, Engine(executor=pool) as given:
        assert (engine.max_workers, told.max_workers, given.max_workers) == (3, 5, math.inf)
        with Executor(4) as own, Engine(executor=own) as carried:
            assert carried.max_workers == 4
    monkeypatch.setenv("FLOWCHECK_MAX_WORKERS", "many")
    with pytest.raises(ValueError, match="FLOWCHECK_MAX_WORKERS"):
        Engine()


def test_many_runs_share_the_threads(engine: Engine) -> None:
    """One after another, and side by side (FLO-05, 35)."""
    seen: set[int] = set()
    flow = fan(8, lambda: seen.add(threading.get_ident()))
    for _ in range(30):
        engine.run(flow)
    calls = [background(partial(engine.run, flow)) for _ in range(8)]
    for call in calls:
        call.result(LIMIT)
    assert len(seen) <= 2


def test_overlapping_runs_see_nothing_of_each_other(way: Way, engine: Engine, runs: list[Run]) -> None:
    """From many threads, of one flow, some of which fail (FLO-06)."""
    flow = Flow()
    flow.add(lambda value: value, id="a", needs=["input"])
    flow.add(asynced(lambda a: a * 2), id="b", needs=["a"])

    @flow.node(policy=NOW(attempts=2))
    def c(a: int, b: int) -> int:
        if a % 3 == 0:
            raise ValueError(a)
        return a + b

    def runs_many(first: int) -> None:
        for i in range(first, first + 10):
            if i % 3:
                assert dict(way(engine, flow, i)) == {"a": i, "b": 2 * i, "c": 3 * i}
            else:
                with pytest.raises(ValueError, match=f"^{i}$") as caught:
                    way(engine, flow, i)
                result = result_of(caught.value)
                assert result is not None
                assert (dict(result), result.nodes["c"].attempts) == ({"a": i, "b": 2 * i}, 2)

    for call in [background(partial(runs_many, 100 * i)) for i in range(6)]:
        call.result(LIMIT)


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


@pytest.mark.parametrize("executor", [None, partial(ThreadPoolExecutor, 2)])
def test_nodes_see_the_callers_context_and_change_nothing(way: Way, executor: Any) -> None:
    """Each in a copy of its own, retries and items too (FLO-13)."""
    tries: list[str] = []

    def look(*_: Any) -> str:
        value = VARIABLE.get()
        VARIABLE.set("node's")
        return value

    def again(*_: Any) -> str:
        tries.append(look())
        if len(tries) < 2:
            raise ValueError
        return tries[-1]

    flow = Flow()
    flow.add(look, id="a")
    flow.add(asynced(look), id="b", needs=["a"])
    flow.add(again, id="c", needs=["b"], policy=SOON())
    flow.add(lambda: [1, 2], id="items", after=["c"])
    flow.add(look, id="d", needs=["items"], each=True)
    flow.add(asynced(look), id="e", needs=["items"], each=True)
    token = VARIABLE.set("caller's")
    try:
        with Engine(2, executor=executor and executor()) as engine:
            result = way(engine, flow)
    finally:
        VARIABLE.reset(token)
    assert {result[own] for own in "abc"} == {"caller's"} == {*tries}
    assert result["d"] == result["e"] == ["caller's"] * 2


# -- policies


@pytest.mark.parametrize("policy", [NOW, SOON])
@pytest.mark.parametrize("executor", [None, partial(ThreadPoolExecutor, 2), Inline])
@pytest.mark.parametrize("colour", [lambda fn: fn, asynced])
def test_a_node_is_tried_as_its_policy_says(way: Way, policy: Any, executor: Any, colour: Any, runs: list[Run]) -> None:
    """Attempts are counted; the last error is raised, the others are behind it (FLO-17)."""
    errors = [ValueError(i) for i in range(3)]
    left = iter(errors)

    def flaky() -> int:
        if len(errors) == 3 and (error := next(left, None)) is not None:
            raise error
        return 7

    with Engine(2, executor=executor and executor()) as engine:
        result = way(engine, one(colour(flaky), policy=policy(attempts=4)))
        assert (result["n"], result.nodes["n"].attempts) == (7, 4)
        left = iter(errors)
        with pytest.raises(ValueError, match="2") as caught:
            way(engine, one(colour(flaky), policy=policy(attempts=3)))
    assert caught.value is errors[2]
    assert caught.value.__context__ is errors[1]
    told = result_of(caught.value)
    assert told is not None
    assert told.nodes["n"].attempts == 3


@pytest.mark.parametrize("colour", ["blocking", "async"])
def test_an_attempt_that_takes_too_long_is_given_up(way: Way, gate: Gate, colour: str, runs: list[Run]) -> None:
    """And its worker is replaced: the next attempt needs no other thread's end (FLO-17)."""
    came: list[int] = []

    def blocking() -> int:
        came.append(1)
        return gate() if len(came) == 1 else 5

    async def waiting() -> int:
        came.append(1)
        return await gate.aio() if len(came) == 1 else 5

    fn = blocking if colour == "blocking" else waiting
    with Engine(1) as engine:
        result = way(engine, one(fn, policy=NOW(attempts=2, timeout=0.05)))
        assert (result["n"], result.nodes["n"].attempts) == (5, 2)
        came.clear()
        with pytest.raises(AttemptTimeout) as caught:
            way(engine, one(fn, policy=NOW(attempts=1, timeout=0.05)))
        assert fn.__name__ in caught.value.call
        assert engine.run(one(int))["n"] == 0
        gate.opened.set()


def test_no_attempt_begins_when_too_many_are_stuck(gate: Gate, runs: list[Run]) -> None:
    """It is not counted either."""
    with Engine(1, max_abandoned=1) as engine:
        with pytest.raises(AttemptTimeout):
            engine.run(one(gate, policy=NOW(attempts=1, timeout=0.02)))
        with pytest.raises(TooManyAbandonedError) as caught:
            engine.run(one(gate, policy=NOW(timeout=0.02)))
        result = result_of(caught.value)
        assert result is not None
        assert result.nodes["n"].attempts == 0
        gate.opened.set()


@pytest.mark.parametrize("colour", [lambda fn: fn, asynced])
@pytest.mark.parametrize("executor", [None, partial(ThreadPoolExecutor, 1)])
def test_a_backoff_holds_neither_worker_nor_place(way: Way, colour: Any, executor: Any, runs: list[Run]) -> None:
    """A node that is to open the way runs meanwhile, on the only worker, in the only place (FLO-17)."""
    opened: list[int] = []

    def fails() -> int:
        if not opened:
            raise ValueError
        return 1

    flow = Flow()
    flow.add(colour(fails), id="a", needs=[], policy=SOON(attempts=10_000, wait_max=0.002))
    flow.add(lambda: opened.append(1), id="b")
    with Engine(1, executor=executor and executor()) as engine:
        assert way(engine, flow)["a"] == 1


@pytest.mark.parametrize("kind", ["blocking", "async", "each", "async each"])
@pytest.mark.parametrize("executor", [None, partial(ThreadPoolExecutor, 1)])
@pytest.mark.parametrize("how", ["cancel", "failure"])
def test_a_stop_ends_a_backoff_at_once(kind: str, executor: Any, how: str, gate: Gate, runs: list[Run]) -> None:
    """What waits for its next attempt is not wanted any more, an item of a fan-out neither (FLO-32)."""
    failed = threading.Event()

    def fails(*_: Any) -> None:
        failed.set()
        raise ValueError

    fn = asynced(fails) if "async" in kind else fails
    flow = over_items(fn, [0], policy=LATE()) if "each" in kind else one(fn, policy=LATE())
    flow.add(asynced(gate) if "async" not in kind and executor else gate, id="gate", needs=[])
    if how == "failure":
        flow.add(raises(OSError()), id="other", needs=["gate"])
    with Engine(3, executor=executor and executor()) as engine:
        running = engine.start(flow)
        gate.arrived()
        assert failed.wait(LIMIT)
        if how == "cancel":
            running.cancel()
            gate.opened.set()
            result = running.result(LIMIT)
            assert (result.status, result.nodes["n"].status) == ("cancelled", "cancelled")
        else:
            gate.opened.set()
            with pytest.raises(OSError):  # noqa: PT011
                running.result(LIMIT)


@pytest.mark.parametrize("executor", [None, partial(ThreadPoolExecutor, 2), Inline])
@pytest.mark.parametrize("colour", [lambda fn: fn, asynced])
def test_each_calls_for_each_item(way: Way, executor: Any, colour: Any, runs: list[Run]) -> None:
    """In the order of the items, retried one by one; an iterator will do, and its error is the node's."""
    tries: Counter[int] = Counter()

    def flaky(item: int) -> int:
        tries[item] += 1
        if item % 3 == 0 and tries[item] < 2:
            raise ValueError(item)
        return item * 10

    def broken() -> Iterator[int]:
        yield 1
        msg = "the iterator's"
        raise OSError(msg)

    with Engine(3, executor=executor and executor()) as engine:
        result = way(engine, over_items(colour(flaky), range(8), policy=SOON(attempts=2), max_concurrency=2))
        assert result["n"] == [0, 10, 20, 30, 40, 50, 60, 70]
        assert set(tries.values()) == {1, 2}
        assert way(engine, over_items(colour(flaky), iter([1, 2])))["n"] == [10, 20]
        assert way(engine, over_items(colour(flaky), []))["n"] == []
        with pytest.raises(OSError, match="the iterator's"):
            way(engine, over_items(colour(flaky), broken()))
        with pytest.raises(TypeError):
            way(engine, over_items(colour(flaky), 5))
        tries.clear()
        with pytest.raises(ValueError, match="0"):
            way(engine, over_items(colour(flaky), range(4)))


@pytest.mark.parametrize("executor", [None, partial(ThreadPoolExecutor, 4)])
@pytest.mark.parametrize("width", [1, 2])
def test_each_has_a_width(executor: Any, width: int, gate: Gate) -> None:
    """So many items at a time."""
    with Engine(4, executor=executor and executor()) as engine:
        running = engine.start(over_items(gate, range(5), max_concurrency=width))
        gate.arrived(width)
        assert gate.nobody_waits()
        gate.opened.set()
        assert running.result(LIMIT)["n"] == [*range(5)]


@pytest.mark.parametrize("executor", [None, partial(ThreadPoolExecutor, 1)])
def test_a_run_that_is_cancelled_in_a_fan_out_is_cancelled(executor: Any, gate: Gate, runs: list[Run]) -> None:
    """It has not failed; no other item begins (FLO-32)."""
    with Engine(1, executor=executor and executor()) as engine:
        running = engine.start(over_items(gate, range(5), max_concurrency=1))
        gate.arrived()
        running.cancel()
        gate.opened.set()
        result = running.result(LIMIT)
        assert (result.status, statuses(result)) == ("cancelled", {"items": "ok", "n": "cancelled"})
        assert gate.nobody_waits()


# -- cancelling


def test_a_cancelled_run_gives_its_result(engine: Engine, gate: Gate, runs: list[Run]) -> None:
    """What runs goes on to its end, what is async ends now, nothing else begins (FLO-32)."""
    flow = Flow()
    flow.add(gate, id="blocking", needs=[])
    flow.add(gate.aio, id="async", needs=[])
    flow.add(lambda *_: 1, id="later", needs=["blocking"])
    flow.add(lambda: 1, id="third")
    running = engine.start(flow)
    assert not running.done()
    gate.arrived(2)
    running.cancel()
    running.cancel()
    until(lambda: runs[0].active == 1)
    assert not running.done()
    gate.opened.set()
    result = running.result(LIMIT)
    assert running.done()
    assert running.id == result.id
    assert result.status == "cancelled"
    assert statuses(result) == {"blocking": "ok", "async": "cancelled", "later": "cancelled", "third": "cancelled"}
    running.cancel()
    assert running.result().status == "cancelled"


@pytest.mark.parametrize("policy", [NOW(attempts=2), SOON(attempts=2), None])
@pytest.mark.parametrize("colour", [lambda fn: fn, asynced])
@pytest.mark.parametrize("executor", [None, partial(ThreadPoolExecutor, 2)])
def test_an_attempt_that_fails_in_a_cancelled_run(
    executor: Any, colour: Any, policy: Any, gate: Gate, runs: list[Run]
) -> None:
    """It would have been tried again: so its node is cancelled, not failed. Without another attempt it has failed."""

    def fails() -> None:
        gate()
        raise ValueError("the first attempt")

    flow = Flow()
    flow.add(colour(fails), id="n", policy=policy)
    with (executor() if executor else nullcontext()) as pool, Engine(executor=pool) as engine:
        running = engine.start(flow, on_error="continue")
        gate.arrived()
        running.cancel()
        gate.opened.set()
        assert statuses(running.result(LIMIT)) == {"n": "failed" if policy is None else "cancelled"}


def test_a_run_that_no_worker_has_is_cancelled_at_once(gate: Gate, runs: list[Run]) -> None:
    """Its end waits for no worker, were all of them busy."""
    with Engine(1) as engine:
        busy = engine.start(one(gate))
        gate.arrived()
        waiting = engine.start(fan(3, int))
        waiting.cancel()
        result = waiting.result(LIMIT)
        assert set(statuses(result).values()) == {"cancelled"}
        gate.opened.set()
        busy.result(LIMIT)


def test_a_wait_for_a_run_has_a_limit(engine: Engine, gate: Gate) -> None:
    """The run goes on; any limit has a sense, and a wrong one does no harm."""
    running = engine.start(one(gate))
    gate.arrived()
    for limit in (0, 0.01, -1):
        with pytest.raises(TimeoutError, match=running.id):
            running.result(limit)
    with pytest.raises(TypeError):
        running.result("1")  # type: ignore[arg-type]
    waits = background(partial(running.result, math.inf))
    gate.opened.set()
    assert waits.result(LIMIT).status == running.result(1e12).status == "completed"


@pytest.mark.parametrize("native", [True, False])
def test_cancelling_arun_waits_for_what_runs(
    backend: str, native: bool, engine: Engine, gate: Gate, runs: list[Run]
) -> None:
    """Async nodes clean up first, a blocking one ends; the cancellation comes through; the engine stays usable (FLO-23, 32)."""
    if native and backend == "trio":
        pytest.skip("trio has no cancellation but its scopes'")
    cleaned, began = anyio.Event, threading.Event()
    log: list[str] = []

    async def slow() -> None:
        try:
            began.set()
            await anyio.Event().wait()
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(20):
                    await checkpoint()
            log.append("cleaned")

    flow = Flow()
    flow.add(gate, id="blocking", needs=[])
    flow.add(slow, id="async")
    flow.add(lambda *_: log.append("began"), id="later", needs=["blocking"])

    async def call() -> None:
        try:
            await engine.arun(flow)
        except BaseException as error:
            log.append(type(error).__name__)
            raise

    async def both_run() -> None:
        while not began.is_set() or gate.nobody_waits():
            await checkpoint()

    async def ends() -> None:
        while "cleaned" not in log:
            await checkpoint()
        assert log == ["cleaned"]
        gate.opened.set()

    async def natively() -> None:
        task = asyncio.ensure_future(call())
        await both_run()
        task.cancel()
        await ends()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def by_scope() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await both_run()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await ends()

    anyio.run(natively if native else by_scope, backend=backend)
    assert log == ["cleaned", "Cancelled" if backend == "trio" else "CancelledError"]
    assert cleaned is anyio.Event
    assert statuses(result_at(runs[0])) == {"blocking": "ok", "async": "cancelled", "later": "cancelled"}
    assert anyio.run(engine.arun, one(int), backend=backend)["n"] == 0


def result_at(run: Run) -> Result:
    """What nobody was there to get."""
    return Result(run.arrays, run.name, run.status, None)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
def test_a_task_that_was_cancelled_before_it_began_is_no_reason_to_wait(engine: Engine, runs: list[Run]) -> None:
    """As a loop does that shuts down: it cancels whatever is there (FLO-23)."""

    async def main() -> None:
        call = asyncio.ensure_future(engine.arun(one(asyncio.Event().wait)))
        mine = asyncio.current_task()
        for _ in range(100):
            await asyncio.tasks.sleep(0)
            others = asyncio.all_tasks() - {mine}
            if len(others) > 1:
                break
        for task in others:
            task.cancel()
        done, _ = await asyncio.wait([call], timeout=LIMIT)
        assert done
        assert call.cancelled()

    asyncio.run(main())
    assert [*runs[0].arrays.status] == [4]
    gc.collect()


def test_a_failure_cancels_async_nodes_and_waits_for_blocking_ones(way: Way, gate: Gate, runs: list[Run]) -> None:
    """Then the error is raised (FLO-03)."""
    flow = Flow()
    flow.add(gate, id="blocking", needs=[])
    flow.add(gate.aio, id="async", needs=[])

    @flow.node
    def fails() -> None:
        gate.arrived(2)
        raise ValueError

    with Engine(3) as engine:
        call = background(partial(way, engine, flow))
        until(lambda: runs and runs[0].stopped and runs[0].active == 1)
        gate.opened.set()
        error = call.exception(LIMIT)
        assert isinstance(error, ValueError)
        result = result_of(error)
        assert result is not None
        assert statuses(result) == {"blocking": "ok", "async": "cancelled", "fails": "failed"}


def test_a_node_that_cancels_itself_has_failed(engine: Engine) -> None:
    """Nobody cancelled the run (FLO-23)."""
    with pytest.raises(asyncio.CancelledError) as caught:
        engine.run(one(araises(asyncio.CancelledError())))
    result = result_of(caught.value)
    assert result is not None
    assert (result.status, result.nodes["n"].status) == ("failed", "failed")


class Interrupt:
    """Ctrl-C at the n-th line of some files that this thread comes to."""

    def __init__(self, n: int, *files: str) -> None:
        self.n, self.files = n, files

    def __call__(self, frame: FrameType, event: str, arg: object) -> Interrupt | None:
        if not any(part in frame.f_code.co_filename for part in self.files):
            return None
        if event == "line" and not self._gives_a_lock_back(frame):
            self.n -= 1
            if not self.n:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self

    @staticmethod
    def _gives_a_lock_back(frame: FrameType) -> bool:
        """The end of a `with` is a line again to a tracer; an interrupt doesn't come there before it is through."""
        return linecache.getline(frame.f_code.co_filename, frame.f_lineno).lstrip().startswith("with ")


@pytest.mark.parametrize("kind", ["blocking", "async", "inline"])
def test_an_interrupt_at_any_line_leaves_nothing_to_wait_for(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it comes in the caller's thread: it is raised, no node begins any more, `close` ends (FLO-36, 38)."""
    flow = Flow()
    flow.add(lambda value: value, id="a", needs=["input"])
    flow.add(asynced(abs) if kind == "async" else abs, id="b", needs=["a"])
    flow.add(abs, id="c", needs=["b"])
    for n in itertools.count(1):
        engine, interrupted = Engine(1, executor=Inline() if kind == "inline" else None), False
        outer = sys.gettrace()
        sys.settrace(Interrupt(n, "flowcheck_reference/_flow/", "flowcheck_reference/flow.py"))
        try:
            engine.run(flow, 1, max_workers=2)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            sys.settrace(outer)
        background(engine.close).result(LIMIT)
        assert not engine._runs
        if not interrupted:
            assert n > 30
            return


@pytest.mark.skipif(not hasattr(threading, "main_thread") or os.name != "posix", reason="needs signals")
def test_ctrl_c_ends_a_run_and_a_second_one_its_wait() -> None:
    """The first waits for what runs, and no node begins any more (FLO-38)."""
    code = """
import signal, threading
from flowcheck_reference.flow import Engine, Flow, Running
gate, noticed = threading.Event(), threading.Event()
asleep, sleep = threading.Semaphore(0), Running._sleep
Running._sleep = lambda *args: (asleep.release(), sleep(*args))[1]
def notice(*_):
    if not noticed.is_set():
        noticed.set()
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, notice)
def ctrl_c():
    asleep.acquire()
    noticed.clear()
    while not noticed.wait(0.05):  # one that comes just before the interpreter takes a lock is noticed after that
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
def node():
    ctrl_c()
    if second:
        ctrl_c()
        gate.wait(30)
    asleep.acquire(timeout=0 if second else 30)
flow = Flow()
flow.add(node)
flow.add(lambda: print("began"), id="later", after=["node"])
for second in (False, True):
    engine = Engine(1)
    gate.clear()
    try:
        engine.run(flow)
    except KeyboardInterrupt:
        print("interrupted", not engine._runs)
    gate.set()
    engine.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("interrupted True\ninterrupted False\n", "")


# -- runs inside runs


@pytest.mark.parametrize("depth", [1, 5])
def test_a_blocking_node_may_run_a_flow(depth: int) -> None:
    """On the same engine, however few workers it has (FLO-37)."""
    with Engine(1) as engine:

        def nested(left: int) -> int:
            if not left:
                return 1
            return 1 + sum(engine.run(fan(2, partial(nested, left - 1)))[str(i)] for i in range(2))

        assert engine.run(one(partial(nested, depth)))["n"] == 2 ** (depth + 1) - 1


def test_an_async_node_may_run_a_flow(backend: str, engine: Engine) -> None:
    """By `arun`, in the loop that it is in (FLO-37)."""
    inner = chain(3, asynced(lambda *_: threading.get_ident()))
    inner.add(threading.get_ident, id="blocking", needs=[])

    async def outer() -> Result:
        return await engine.arun(inner)

    for result in (
        anyio.run(engine.arun, one(outer), backend=backend)["n"],
        engine.run(one(outer))["n"],
        engine.run(one(lambda: engine.run(one(outer))["n"]))["n"],
    ):
        assert len(result) == 4
        assert result["0"] == result["2"] != result["blocking"]


def test_a_run_that_would_block_its_own_loop_is_refused(engine: Engine) -> None:
    """It is said so, whatever the inner flow is: the loop is everybody's (FLO-37)."""

    async def asks() -> Any:
        return engine.run(one(asynced(int)))

    async def could() -> Any:
        return engine.run(one(int))["n"]

    for node in (asks, could):
        with pytest.raises(RuntimeError, match="arun"):
            engine.run(one(node))
    assert dict(anyio.run(engine.arun, one(asks)))["n"]["n"] == 0


def test_the_callers_event_loop_is_not_the_nodes(backend: str, engine: Engine) -> None:
    """What anyio knows of the caller's loop is not true of a node's."""
    flow = Flow()

    @flow.node(policy=NOW())
    async def waits() -> int:
        await anyio.sleep(0)  # noqa: TID251  what anyio does for the loop that it takes this for
        return 1

    @flow.node
    def own() -> int:
        async def main() -> int:
            await checkpoint()
            return 1

        return anyio.run(main, backend="trio" if backend == "asyncio" else "asyncio")

    async def main() -> None:
        assert dict(engine.run(flow)) == {"waits": 1, "own": 1}
        assert dict(await engine.arun(flow)) == {"waits": 1, "own": 1}

    anyio.run(main, backend=backend)


# -- executors that were given


def square(x: int) -> int:
    """For other processes."""
    return x * x


def dies(_: int) -> None:
    """And takes its process along."""
    os._exit(3)


def slow_square(x: int, started: Any, go: Any) -> int:
    """A node in another process that waits."""
    started.set()
    assert go.wait(LIMIT)
    return x * x


def test_processes_can_carry_the_nodes() -> None:
    """Functions and arguments travel, nothing else; a dead worker is the node's error (FLO-20)."""
    flow = Flow()
    flow.add(square, id="a", needs=["input"])
    flow.add(square, id="b", needs=["a"], policy=NOW())
    flow.add(asynced(lambda a, b: [a, b]), id="c", needs=["a", "b"])
    flow.add(square, id="d", needs=["c"], each=True)
    broken = one(dies, needs=["input"], policy=NOW(attempts=2))
    unsendable = one(lambda _: 1, needs=["input"])
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        Engine(executor=pool) as engine,
    ):
        assert dict(engine.run(flow, 3)) == {"a": 9, "b": 81, "c": [9, 81], "d": [81, 6561]}
        assert dict(anyio.run(engine.arun, flow, 2, backend="trio"))["d"] == [16, 256]
        with pytest.raises((pickle.PicklingError, AttributeError)):
            engine.run(unsendable, 1)
        with pytest.raises((BrokenProcessPool, RuntimeError)):
            engine.run(broken, 1)
        with pytest.raises((BrokenProcessPool, RuntimeError)):
            engine.run(flow, 1)


def test_a_limit_that_an_executor_cannot_keep_is_refused() -> None:
    """Before anything runs, naming the nodes; an async node's it need not keep (FLO-04, 20)."""
    with ThreadPoolExecutor(1) as pool, Engine(executor=pool) as engine:
        with pytest.raises(FlowError, match="ThreadPoolExecutor") as caught:
            engine.run(one(int, policy=RetryPolicy(timeout=1)))
        assert caught.value.nodes == ("n",)
        assert engine.run(one(asynced(int), policy=RetryPolicy(timeout=LIMIT)))["n"] == 0


@pytest.mark.parametrize("made", [partial(ThreadPoolExecutor, 1), partial(Executor, 1)])
@pytest.mark.parametrize("empties", [True, False])
def test_an_executor_that_is_shut_down_meanwhile_fails_the_run(
    made: Any, empties: bool, gate: Gate, runs: list[Run]
) -> None:
    """Nothing hangs; what runs ends (FLO-20, 36)."""
    pool = made()
    with Engine(executor=pool) as engine:
        flow = fan(3, gate)
        running = engine.start(flow, max_workers=2)
        gate.arrived()
        pool.shutdown(wait=False, cancel_futures=empties)
        gate.opened.set()
        with suppress(RuntimeError, futures.CancelledError):
            running.result(LIMIT)
        assert running.done()
        with pytest.raises(RuntimeError):
            engine.run(flow)
        if isinstance(pool, Executor):
            runs.pop()  # it never began
    pool.shutdown()


def test_a_given_executor_stays_open() -> None:
    """It is the caller's (FLO-20)."""
    for made in (Executor, ThreadPoolExecutor):
        with made(1) as pool:
            with Engine(executor=pool) as engine:
                assert engine.run(one(int))["n"] == 0
            assert pool.submit(int).result(LIMIT) == 0


class Broken(futures.Executor):
    """Takes so many calls, then none."""

    def __init__(self, takes: int) -> None:
        self.takes = takes

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.takes -= 1
        if self.takes < 0:
            msg = "full"
            raise OSError(msg)
        return Inline().submit(fn, *args, **kwargs)


@pytest.mark.parametrize("takes", [0, 1, 3])
def test_what_an_executor_refuses_has_failed(way: Way, takes: int, runs: list[Run]) -> None:
    """The node, with the executor's own error; and it is no attempt (FLO-20)."""
    with Engine(executor=Broken(takes)) as engine, pytest.raises(OSError, match="full") as caught:
        way(engine, chain(5, lambda *_: 1, policy=NOW(attempts=2)))
    result = result_of(caught.value)
    assert result is not None
    assert len(result) == takes
    assert result.nodes[str(takes)].attempts == 0
    assert result.nodes[str(takes)].started is None


def test_what_an_executor_has_not_begun_is_taken_back(gate: Gate, runs: list[Run]) -> None:
    """And counts as not begun (FLO-32)."""
    with ThreadPoolExecutor(1) as pool, Engine(executor=pool) as engine:
        running = engine.start(fan(3, gate))
        gate.arrived()
        running.cancel()
        gate.opened.set()
        result = running.result(LIMIT)
        assert sorted(node.attempts for node in result.nodes.values()) == [0, 0, 0, 1]
        assert gate.nobody_waits()


# -- events


def test_events_tell_what_happens(way: Way) -> None:
    """In order, all before the run's caller goes on."""
    events: list[Event] = []
    flow = Flow("told")
    flow.add(lambda: 1, id="a")
    flow.add(raises(ValueError()), id="b", needs=["a"])
    flow.add(lambda b: b, id="c")
    with Engine(1, on_event=events.append) as engine:
        way(engine, flow, on_error="continue")
        told = [(event.kind, event.node, event.status) for event in events]
        assert told == [
            ("run started", "", ""),
            ("node started", "a", ""),
            ("node ended", "a", "ok"),
            ("node started", "b", ""),
            ("node ended", "b", "failed"),
            ("node ended", "c", "skipped"),
            ("run ended", "", "failed"),
        ]
        assert {(event.run, event.nodes) for event in events} == {("told-1", 3)}
        assert [event.at for event in events] == sorted(event.at for event in events)
        assert repr(events[2]) == "<Event node ended: told-1 a ok>"


@pytest.mark.parametrize("kind", ["run started", "node started", "node ended", "run ended"])
@pytest.mark.parametrize("colour", [lambda fn: fn, asynced])
def test_what_a_listener_raises_is_logged(
    way: Way, kind: str, colour: Any, caplog: pytest.LogCaptureFixture, runs: list[Run]
) -> None:
    """An error changes nothing; what is none, as an interrupt, ends the run (FLO-38)."""
    errors: list[BaseException] = [ValueError("mine"), SystemExit(4)]

    def on_event(event: Event) -> None:
        if event.kind == kind:
            raise errors[0]

    with Engine(1, on_event=on_event) as engine:
        assert way(engine, one(colour(int)))["n"] == 0
        assert [record.message for record in caplog.records] == ["on_event raised"]
        del errors[0]
        with pytest.raises(SystemExit) as caught:
            way(engine, one(colour(int)))
        assert caught.value is errors[0]


def test_a_listener_may_cancel(way: Way, runs: list[Run]) -> None:
    """In the middle of a node's end."""

    def on_event(event: Event) -> None:
        if event.kind == "node ended" and event.node == "1":
            runs[-1].stop("cancelled")

    with Engine(1, on_event=on_event) as engine:
        with suppress(anyio.get_cancelled_exc_class() if way is None else ZeroDivisionError):
            result = way(engine, chain(4, lambda *_: 1))
        assert [*statuses(result).values()] == ["ok", "ok", "cancelled", "cancelled"]


# -- what all runs share


def test_a_shared_resource_is_made_once(gate: Gate, backend: str) -> None:
    """However many ask, threads and tasks, and given ones win; closed with the engine (FLO-15)."""
    made: list[str] = []
    closed: list[Any] = []

    class Thing:
        def close(self) -> None:
            closed.append(self)

    def make() -> Thing:
        gate()
        made.append("thing")
        return Thing()

    given = Thing()
    with Engine(4, resources={"given": given}) as engine:
        assert engine.resource("given", make) is given
        flow = fan(4, lambda: engine.resource("a", make))
        flow.add(lambda: engine.aresource("a", make), id="async", needs=[])
        calls = [background(partial(engine.run, flow)) for _ in range(2)]
        gate.arrived()
        gate.opened.set()
        things = {call.result(LIMIT)[str(i)] for call in calls for i in range(4)}
        for call in calls:
            things.add(anyio.run(lambda call=call: call.result()["async"], backend=backend))
        assert len(things) == len(made) == 1
    assert closed == [*things]


def test_a_resource_that_was_made_a_moment_ago_is_not_made_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the question (FLO-15)."""
    shared, asks = engine._shared, engine._shared._asks

    def late(key: str, ring: Any) -> Any:
        monkeypatch.undo()
        assert shared.get(key, lambda: "first") == "first"
        return asks(key, ring)

    async def alate() -> Any:
        monkeypatch.setattr(shared, "_asks", late)
        return await engine.aresource("b", lambda: "second")

    monkeypatch.setattr(shared, "_asks", late)
    assert engine.resource("a", lambda: "second") == "first"
    assert anyio.run(alate) == "first"


def test_a_maker_that_fails_is_followed_by_the_next(engine: Engine) -> None:
    """The error is his alone; one that waits for itself is told so (FLO-15)."""
    with pytest.raises(ZeroDivisionError):
        engine.resource("a", lambda: 1 / 0)
    assert engine.resource("a", lambda: 1) == 1
    with pytest.raises(RuntimeError, match="itself"):
        engine.resource("b", lambda: engine.resource("b", int))
    assert engine.resource("b", lambda: 2) == 2


def test_async_resources_are_closed_by_aclose(backend: str, caplog: pytest.LogCaptureFixture) -> None:
    """The last first, all of them, also where one fails, or the scope around is cancelled already (FLO-10)."""
    closed: list[str] = []

    class Thing:
        def __init__(self, name: str) -> None:
            self.name = name

        async def aclose(self) -> None:
            closed.append(self.name)
            if self.name == "b":
                raise ValueError
            await checkpoint()

    async def make(name: str) -> Thing:
        await checkpoint()
        return Thing(name)

    async def main(cancelled: bool) -> None:
        with anyio.CancelScope() as scope:
            async with Engine(1) as engine:
                for name in "abc":
                    assert (await engine.aresource(name, partial(make, name))).name == name
                if cancelled:
                    scope.cancel()

    for cancelled in (False, True):
        closed.clear()
        anyio.run(main, cancelled, backend=backend)
        assert closed == ["c", "b", "a"]


class Client:
    """Bound to the loop that it is made on, as connections are."""

    def __init__(self) -> None:
        self.thread, self.closed = threading.get_ident(), 0

    async def aclose(self) -> None:
        assert threading.get_ident() == self.thread
        await checkpoint()
        self.closed += 1


def asks(engine: Engine, name: str, factory: Callable[[], Client] = Client) -> Any:
    """An async node that gives the client of its loop."""

    async def node() -> Client:
        return await engine.client(name, factory)

    return node


def asking(engine: Engine, *names: str) -> Flow:
    """Two of them for each name."""
    flow = Flow()
    for name in names:
        for i in range(2):
            flow.add(asks(engine, name), id=f"{name}{i}", needs=[])
    return flow


def test_async_nodes_of_a_loop_share_a_client(backend: str) -> None:
    """All runs that aren't awaited have one loop; those that are, their caller's. Each is closed where it was made."""
    with Engine(4) as engine:
        flow = asking(engine, "a", "b")
        runs = [engine.run(flow) for _ in range(2)]
        own = {name: {run[f"{name}{i}"] for run in runs for i in range(2)} for name in "ab"}

        async def main() -> set[Client]:
            try:
                run = await engine.arun(flow)
                return {run[f"a{i}"] for i in range(2)}
            finally:
                await engine.aclose()

        (theirs,) = anyio.run(main, backend=backend)
    (a,), (b,) = own.values()
    assert len({a, b, theirs}) == 3
    assert a.thread == b.thread != theirs.thread == threading.get_ident()
    assert [a.closed, b.closed, theirs.closed] == [1, 1, 1]


def test_clients_are_closed_with_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    """All of them, also where closing one fails; one that was given is its giver's."""

    class Ill(Client):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("the connection was lost")

    given = Client()
    with Engine(2, resources={"given": given}) as engine:
        flow = asking(engine, "given", "a")
        flow.add(asks(engine, "ill", Ill), id="ill", needs=[])
        run = engine.run(flow)
        assert run["given0"] is run["given1"] is given
    assert [given.closed, run["a0"].closed, run["ill"].closed] == [0, 1, 1]
    assert "closing the client 'ill' failed" in caplog.text
    with pytest.raises(RuntimeError, match="'a' is not made any more"):
        anyio.run(engine.client, "a", Client)


def test_a_client_is_given_to_nodes_that_an_engine_waits_for_when_it_closes(gate: Gate) -> None:
    """`close` has been called, and is not over: the run goes on as any."""
    engine = Engine(2)
    flow = Flow()
    flow.add(gate, id="first", needs=[])
    flow.add(asks(engine, "a"), id="second", needs=[], after=["first"])
    running = engine.start(flow)
    gate.arrived()
    closing = background(engine.close)
    until(lambda: engine._closed)
    gate.opened.set()
    closing.result(LIMIT)
    assert running.result(LIMIT)["second"].closed == 1


# -- the end


def left(before: set[threading.Thread]) -> list[threading.Thread]:
    """Threads that are here since."""
    return [thread for thread in threading.enumerate() if thread not in before]


@pytest.mark.parametrize("how", ["close", "aclose", "dropped"])
def test_an_engine_that_is_closed_or_dropped_leaves_no_thread(how: str, backend: str) -> None:
    """Its own, the watchdog's, the loop's, and what nodes left in that (FLO-10, 16)."""
    gc.collect()
    before = {*threading.enumerate()}
    log: list[str] = []

    async def leaves() -> int:
        async def endless() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                log.append("ended")

        endlesses.append(asyncio.ensure_future(endless()))
        return await asyncio.to_thread(int)

    endlesses: list[Any] = []
    flow = fan(3, lambda: 1, policy=SOON(timeout=LIMIT))
    flow.add(leaves, needs=[])
    flow.add(abs, id="each", needs=["items"], each=True)
    flow.add(lambda: [1, 2], id="items")
    engine = Engine(2)
    assert engine.run(flow).status == "completed"
    anyio.run(engine.arun, fan(3, asynced(int)), backend=backend)
    if how == "close":
        engine.close()
        engine.close()
    elif how == "aclose":
        anyio.run(engine.aclose, backend=backend)
    else:
        gone = weakref.ref(engine)
        del engine
        gc.collect()
        assert gone() is None
    until(lambda: not left(before))
    assert log == ["ended"]


def test_a_closed_engine_takes_no_run(way: Way) -> None:
    """It says so, also where the run would need what an open one has (FLO-10)."""
    engine = Engine(2)
    engine.close()
    for flow in (one(int), one(asynced(int)), one(int, policy=SOON())):
        with pytest.raises(RuntimeError, match="closed"):
            way(engine, flow)
        with pytest.raises(RuntimeError, match="closed"):
            way(engine, flow, max_workers=8)
    assert engine._crew.pool.limit == 2
    assert not engine._runs


@pytest.mark.parametrize("kind", ["close", "aclose"])
def test_close_waits_for_runs(kind: str, gate: Gate, backend: str) -> None:
    """They end as ever (FLO-36)."""
    engine = Engine(1)
    running = engine.start(chain(3, gate))
    gate.arrived()
    closing = background(engine.close if kind == "close" else partial(anyio.run, engine.aclose, backend=backend))
    until(lambda: engine._closed)
    with pytest.raises(RuntimeError, match="closed"):
        engine.start(one(int))
    assert not closing.done()
    gate.opened.set()
    closing.result(LIMIT)
    assert running.result(0).status == "completed"


@pytest.mark.parametrize("executor", [None, partial(ThreadPoolExecutor, 2)])
def test_close_inside_is_refused(way: Way, executor: Any) -> None:
    """It would wait for itself: in a node, a task of one, or beside an awaited run (FLO-36)."""
    engine = Engine(2, executor=executor and executor())

    def blocking(*_: Any) -> None:
        with pytest.raises(RuntimeError, match="itself"):
            engine.close()

    async def awaiting() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(asynced(blocking))
        blocking()
        with pytest.raises(RuntimeError, match="itself"):
            await engine.aclose()

    flow = Flow()
    flow.add(blocking, needs=[])
    flow.add(awaiting)
    flow.add(lambda: [1], id="items")
    flow.add(blocking, id="each", needs=["items"], each=True)
    with engine:
        assert way(engine, flow).status == "completed"

        async def beside() -> None:
            async with anyio.create_task_group() as group:
                gate = Gate()
                group.start_soon(engine.arun, one(gate.aio))
                while gate.nobody_waits():
                    await checkpoint()
                with pytest.raises(RuntimeError, match="aclose"):
                    engine.close()
                gate.opened.set()

        anyio.run(beside)


def test_many_runs_leave_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run, no value, no error (FLO-16)."""

    class Value:
        pass

    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    init = Run.__init__
    monkeypatch.setattr(Run, "__init__", lambda self, *args: (init(self, *args), alive.add(self))[0])

    def make(*_: Any) -> Value:
        value = Value()
        alive.add(value)
        return value

    flow = Flow()
    flow.add(make, id="a")
    flow.add(asynced(make), id="b", needs=["a"])
    flow.add(make, id="c", needs=["b"], policy=NOW(timeout=LIMIT))
    flow.add(lambda _: 1 / 0, id="d", needs=["c"])
    for _ in range(200):
        assert engine.run(flow, on_error="continue").status == "failed"
    until(lambda: gc.collect() is not None and not alive)


def test_a_forked_child_has_an_engine_of_its_own() -> None:
    """It waits for none of the parent's runs, also when it was forked inside a node (FLO-10)."""
    code = """
import os, sys, threading
from flowcheck_reference.flow import Engine, Flow
began, go = threading.Event(), threading.Event()
async def waits():
    pass
def flow(fn):
    made = Flow()
    made.add(fn, id="n", needs=[])
    made.add(waits)
    return made
def child():
    assert dict(engine.run(flow(int))) == {"n": 0, "waits": None}
    engine.close()
def fork():
    pid = os.fork()
    if not pid:
        def work():
            try:
                child()
            except BaseException as error:
                print(repr(error), flush=True)
                os._exit(1)
            os._exit(0)
        threading.Thread(target=work, daemon=True).start() if inside is None else work()
        threading.Event().wait(30)
        os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
inside = None
engine = Engine(2)
engine.run(flow(int))
running = engine.start(flow(lambda: (began.set(), go.wait())))
began.wait()
print(fork())
inside = True
print(engine.run(flow(fork))["n"])
go.set()
running.result()
engine.close()
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("0\n0\n", "")


def test_the_interpreter_exits_while_a_node_is_stuck() -> None:
    """Past its timeout nobody waits for it, nor for an engine that was not closed (FLO-10)."""
    code = """
import threading
from flowcheck_reference.flow import Engine, Flow, RetryPolicy
engine = Engine(2)
flow = Flow()
async def waits(): pass
flow.add(waits)
flow.add(threading.Event().wait, id="stuck", needs=[], policy=RetryPolicy(attempts=1, timeout=0.05))
try:
    engine.run(flow)
except TimeoutError as error:
    print(type(error).__name__)
late = Flow()
late.add(lambda: print("done"), id="n")
engine.start(late)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("AttemptTimeout\ndone\n", "", 0)


def test_without_a_thread_a_run_fails_clearly(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a worker, the watchdog or the loop; the next run finds one (FLO-36)."""

    def no_thread(*_: object) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    for flow in (one(int), one(asynced(int)), one(int, policy=SOON())):
        fresh = Engine(1)
        logging.disable(logging.CRITICAL)
        try:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", no_thread)
                with pytest.raises(RuntimeError, match="thread"):
                    fresh.run(flow)
        finally:
            logging.disable(logging.NOTSET)
        assert fresh.run(flow)["n"] == 0
        background(fresh.close).result(LIMIT)


# -- all at once


@pytest.mark.parametrize("seed", range(4))
def test_random_graphs_come_to_what_a_sequential_run_would(seed: int, runs: list[Run]) -> None:
    """Blocking, async, failing, retried, in few places, cancelled at any moment (FLO-01, 03, 06, 07, 22, 29)."""
    dice = random.Random(seed)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    pool = ThreadPoolExecutor(2)
    engines = [Engine(2), Engine(3, executor=pool), Engine(executor=Inline())]
    try:
        for _ in range(25):
            n, calls = dice.choice([3, 10, 40]), Counter[int]()
            needs = [[j for j in range(i) if dice.random() < 0.15] for i in range(n)]
            fails = [dice.choice([0, 0, 0, 0, 0, 1, 9]) for _ in range(n)]
            flow = Flow()

            def node(i: int, *given: int, calls: Counter[int], needs: Any = needs, fails: Any = fails) -> int:
                assert list(given) == needs[i]
                calls[i] += 1
                if calls[i] <= fails[i]:
                    raise ValueError(i)
                return i

            for i in range(n):
                fn = partial(node, i, calls=calls)
                policy = dice.choice([NOW(attempts=2), SOON(attempts=2), None])
                colour = dice.choice([fn, asynced(fn)])
                flow.add(colour, id=str(i), needs=[str(p) for p in needs[i]], policy=policy)
            expected: list[str] = []
            for i, before in enumerate(needs):
                well = fails[i] < (1 if flow.nodes[i].policy is None else 2)
                expected.append("skipped" if any(expected[p] != "ok" for p in before) else "ok" if well else "failed")
            running = dice.choice(engines).start(flow, max_workers=dice.choice([None, 1, 2]), on_error="continue")
            cancelled = dice.random() < 0.3
            if cancelled:
                running.cancel()
            got = statuses(running.result(LIMIT))
            for i, status in enumerate(expected):
                assert got[str(i)] == status or (cancelled and got[str(i)] == "cancelled")
                attempts = 0 if status == "skipped" else 1 if flow.nodes[i].policy is None else min(fails[i] + 1, 2)
                assert calls[i] == attempts or cancelled
                assert calls[i] == running.result().nodes[str(i)].attempts
    finally:
        sys.setswitchinterval(switch)
        for engine in engines:
            background(engine.close).result(LIMIT)
        pool.shutdown()


@pytest.mark.parametrize("ends", ["close", "aclose"])
def test_a_closed_engine_makes_no_resource(ends: str) -> None:
    """Who would close it? What was made before is still given."""
    engine = Engine(1)
    assert engine.resource("made", dict) == {}
    if ends == "close":
        engine.close()
    else:
        anyio.run(engine.aclose)
    assert engine.resource("made", list) == {}
    with pytest.raises(RuntimeError, match="closed"):
        engine.resource("other", dict)


# -- nothing is left for the garbage collector


@pytest.mark.parametrize("nested", [False, True])
def test_a_run_leaves_no_cycle(nested: bool) -> None:
    """Thousands of runs cost no collection: what a run made is gone when its result is."""
    flow, outer = Flow(), Flow()
    flow.add(int, id="a", needs=[])
    flow.add(str, id="b", needs=["a"])
    with Engine(2) as engine:
        outer.add(lambda: engine.run(flow)["b"], id="runs", needs=[])
        engine.run(outer if nested else flow)
        gc.collect()
        gc.disable()
        try:
            for _ in range(10):
                engine.run(outer if nested else flow)
            found = gc.collect()
        finally:
            gc.enable()
    assert found < 10, f"{found} objects in cycles after ten runs"
