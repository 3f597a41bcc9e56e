"""The fixture `flowcheck_watch`: breaches in sight are told in the rules' own words, and sound executors are never accused."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from flowcheck_reference import Executor as Reference
from flowcheck_reference.broken.executor import callbacks, cancelling, mapping, shutdown, submit, workers
from pytest_flowcheck.fixtures.watch import CLAIMS, JUDGED, ExecutorWatch, Watched
from pytest_flowcheck.protocols import broken_rules
from pytest_flowcheck.rules import rules_of
from pytest_flowcheck.suites import executor as suite

PATIENCE = 60


def fail(number: int) -> None:
    raise ValueError("no", number)


def held(executor: Executor, workers: int) -> tuple[threading.Event, list[Future[Any]]]:
    """All workers are at a gate."""
    gate, begun = threading.Event(), threading.Semaphore(0)

    def hold() -> None:
        begun.release()
        assert gate.wait(PATIENCE)

    futures = [executor.submit(hold) for _ in range(workers)]
    for _ in futures:
        assert begun.acquire(timeout=PATIENCE)
    return gate, futures


def results(executor: Executor) -> None:
    assert wait([executor.submit(pow, 2, 3), executor.submit(dict, a=1)], PATIENCE).not_done == set()


def errors(executor: Executor) -> None:
    assert wait([executor.submit(fail, 1)], PATIENCE).not_done == set()


def exits(executor: Executor) -> None:
    executor.submit(sys.exit, 3)


def cancels(executor: Executor) -> None:
    gate, futures = held(executor, 2)
    queued = executor.submit(str, 1)
    queued.cancel()
    gate.set()
    after = executor.submit(str, 2)
    assert wait([*futures, after], PATIENCE).not_done == set()
    results(executor)


def cancels_what_runs(executor: Executor) -> None:
    gate, futures = held(executor, 1)
    futures[0].cancel()
    gate.set()


def crowds(executor: Executor) -> None:
    """For one that takes one more than it should."""
    gate, _ = held(executor, 2)
    more = [executor.submit(str, n) for n in range(3)]
    assert wait(more[:1], PATIENCE).not_done == set()
    gate.set()


def queues(executor: Executor) -> None:
    gate, futures = held(executor, 1)
    later = [executor.submit(str, n) for n in range(4)]
    gate.set()
    assert wait([*futures, *later], PATIENCE).not_done == set()


def maps(executor: Executor) -> None:
    third = threading.Event()

    def late(number: int) -> str:
        if number == 10:
            assert third.wait(PATIENCE)
        elif number == 12:
            third.set()  # the worker that began it has told the result of the one before
        return f"result {number}"

    list(executor.map(late, iter(range(10, 40))))  # so many that a set of those that are done is not in their order
    list(executor.map(late, [20, 21]))


def reads_badly(executor: Executor) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise OSError("no more")

    with suppress(OSError):
        list(executor.map(str, numbers()))


def leaves(executor: Executor) -> None:
    """For one that does not wait."""
    with executor:
        gate, _ = held(executor, 1)
    gate.set()


def ends(executor: Executor) -> None:
    """For one that does not wait."""
    gate, _ = held(executor, 1)
    executor.shutdown(wait=True)
    gate.set()


def goes_on(executor: Executor) -> None:
    executor.shutdown()
    with suppress(RuntimeError):
        executor.submit(str, 1)


def carries(executor: Executor) -> None:
    results(executor)
    results(executor)


EVERYTHING = (results, errors, exits, cancels, cancels_what_runs, maps, reads_badly)
BROKEN: list[tuple[type[Any], int, Callable[[Executor], None], str]] = [
    (submit.LosesKeywordArguments, 2, results, "EXE-01"),
    (submit.CopiesErrors, 2, errors, "EXE-02"),
    (workers.OneTooMany, 2, crowds, "EXE-03"),
    (submit.LastInFirstOut, 1, queues, "EXE-05"),
    (mapping.MapYieldsAsCompleted, 2, maps, "EXE-06"),
    (cancelling.CancelledTasksRun, 2, cancels, "EXE-08"),
    (cancelling.RunningTasksCanBeCancelled, 2, cancels_what_runs, "EXE-29"),
    (shutdown.ShutdownDoesNotWait, 2, ends, "EXE-09"),
    (shutdown.WithBlockDoesNotWait, 2, leaves, "EXE-12"),
    (shutdown.TakesWorkAfterShutdown, 2, goes_on, "EXE-11"),
    (submit.LosesSystemExit, 2, exits, "EXE-13"),
    (callbacks.CallbacksRunTwice, 2, cancels_what_runs, "EXE-14"),
    (workers.LosesTheContext, 2, carries, "EXE-24"),
    (mapping.MapSwallowsItsInputsError, 2, reads_badly, "EXE-38"),
]


@pytest.mark.parametrize(("engine", "size", "use", "rule"), BROKEN, ids=lambda it: getattr(it, "__name__", str(it)))
def test_a_broken_engine_is_caught(engine: type[Any], size: int, use: Callable[[Executor], None], rule: str) -> None:
    """By a rule that it breaks, and by no other one."""
    assert rule in broken_rules(engine)
    watch = ExecutorWatch()
    claims = sorted({"context"} & engine().claims["executor"])
    executor = watch(engine().executor(max_workers=size), max_workers=size, claims=claims)
    use(executor)
    executor.shutdown()
    told = watch.breaches()
    assert [line for line in told if line.startswith(rule)], told
    assert {line[:6] for line in told} <= broken_rules(engine), told
    with pytest.raises(pytest.fail.Exception, match=f"{rule} "):
        watch.check()
    watch.check()  # what was told is told once


class TwiceExecutor(ThreadPoolExecutor):
    """Makes each call twice."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        super().submit(fn, *args, **kwargs).result()
        return super().submit(fn, *args, **kwargs)


class Promise:
    """No future."""


def test_a_call_that_is_made_twice_and_what_is_no_future(flowcheck_watch: ExecutorWatch) -> None:
    """Neither is any of the broken engines."""
    with flowcheck_watch(TwiceExecutor(1)) as executor:
        assert executor.submit(str, 1).result() == "1"
    assert flowcheck_watch.breaches() == ["EXE-15: call 1 (str) was made twice"]
    inner = ThreadPoolExecutor(1)
    inner.submit = lambda *_: Promise()  # type: ignore[assignment,method-assign,return-value]
    flowcheck_watch(inner).submit(str, 1)
    assert "EXE-01: submit returned an object of type Promise" in flowcheck_watch.breaches()
    with pytest.raises(pytest.fail.Exception, match="broke 2 rules"):
        flowcheck_watch.check()


@pytest.mark.parametrize("make", [ThreadPoolExecutor, Reference])
def test_a_sound_executor_is_not_accused(flowcheck_watch: ExecutorWatch, make: Callable[[int], Executor]) -> None:
    """Whatever is done with it."""
    claims = ["context", "nested"] if make is Reference else []
    with flowcheck_watch(make(2), claims=claims) as executor:
        for use in EVERYTHING:
            use(executor)
        carries(executor)
    goes_on(executor)
    queues(executor := flowcheck_watch(make(1), claims=claims))
    gate, _ = held(executor, 1)
    threading.Timer(0, gate.set).start()
    executor.shutdown(cancel_futures=True)
    assert flowcheck_watch.breaches() == []


def test_a_task_that_waits_for_another_one_may_let_one_more_in(flowcheck_watch: ExecutorWatch) -> None:
    """Who waits for a future lends its place where the executor is made so; that is no breach, unclaimed neither."""
    with flowcheck_watch(Reference(1)) as executor:
        assert executor.submit(lambda: executor.submit(str, 1).result(PATIENCE)).result(PATIENCE) == "1"
    with flowcheck_watch(Reference(1)) as executor:
        ready = threading.Event()
        outer = executor.submit(lambda: ready.wait(PATIENCE) and inner.result(PATIENCE))
        inner = executor.submit(str, 2)  # submitted by nobody inside
        ready.set()
        assert outer.result(PATIENCE) == "2"


def remote(path: str) -> tuple[int, str]:
    return os.getpid(), Path(path).name


def test_processes_get_the_function_itself(flowcheck_watch: ExecutorWatch) -> None:
    """Pickled is what they submitted, so that workers need nothing of ours; map and errors are as they were."""
    with flowcheck_watch(ProcessPoolExecutor(2)) as executor:
        pid, name = executor.submit(remote, path="/a/b").result(PATIENCE)
        assert (pid != os.getpid(), name) == (True, "b")
        assert list(executor.map(abs, iter((-1, -2, -3)), chunksize=2)) == [1, 2, 3]
        error = executor.submit(fail, 3).exception(PATIENCE)
        assert (type(error), error.args if error else None) == (ValueError, ("no", 3))
        with pytest.raises(Exception, match=r"pickle|local object"):
            executor.submit(lambda: None).result(PATIENCE)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_loop_uses_it(flowcheck_watch: ExecutorWatch, anyio_backend: str) -> None:
    """By `run_in_executor`; a breach of what is behind it is seen as well."""
    loop = asyncio.get_running_loop()
    with flowcheck_watch(ThreadPoolExecutor(2)) as executor:
        assert await loop.run_in_executor(executor, str, 1) == "1"
        assert await asyncio.gather(*(loop.run_in_executor(executor, str, n) for n in range(3))) == ["0", "1", "2"]
    with flowcheck_watch(TwiceExecutor(1)) as executor:
        assert await loop.run_in_executor(executor, str, 1) == "1"
    with pytest.raises(pytest.fail.Exception, match="EXE-15"):
        flowcheck_watch.check()


def test_nothing_is_held_by_the_watch(flowcheck_watch: ExecutorWatch) -> None:
    """Not what a call was given or gave once its future is dropped, nor the executor."""

    class Thing:
        pass

    executor = flowcheck_watch(ThreadPoolExecutor(1))
    given = Thing()
    future = executor.submit(lambda thing: Thing(), given)
    made = weakref.ref(future.result(PATIENCE))
    executor.submit(str).result(PATIENCE)
    there = weakref.ref(given)
    del given, future
    gc.collect()
    assert (there(), made()) == (None, None)
    inner = weakref.ref(executor._executor)
    executor.shutdown()
    del executor
    gc.collect()
    assert inner() is None


def test_it_is_the_executor_in_all_else(flowcheck_watch: ExecutorWatch) -> None:
    """Attributes, methods, coroutine functions as they are; and `resize` moves the bound."""
    with flowcheck_watch(Reference(1), claims=["context"]) as executor:
        executor.resize(2)
        gate, futures = held(executor, 2)
        gate.set()
        wait(futures, PATIENCE)

        async def peculiar() -> None:
            pass

        coroutine = executor.submit(peculiar).result(PATIENCE)
        coroutine.close()
        with pytest.raises(AttributeError):
            executor.nothing  # noqa: B018
    assert "watched" in repr(executor)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"executor": 3}, "flowcheck_watch got 3; it takes a concurrent.futures.Executor"),
        ({"max_workers": 0}, "got max_workers=0; it takes a number, 1 or more, or None"),
        ({"claims": "nest"}, "got claims=['nest']; it takes 'context' and 'nested'"),
        ({"but": ["EXE-99"]}, "no rule 'EXE-99'"),
        ({"but": "EXE-17"}, "got but=['EXE-17'], which it does not judge; it takes of EXE-01"),
    ],
)
def test_bad_input_gets_one_clear_line(flowcheck_watch: ExecutorWatch, given: dict[str, Any], told: str) -> None:
    """What we got, and what was expected."""
    with ThreadPoolExecutor(1) as executor, pytest.raises(pytest.fail.Exception) as caught:
        flowcheck_watch(**{"executor": executor, **given})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rule_can_be_left_out(flowcheck_watch: ExecutorWatch) -> None:
    """By its id, in any case of letters."""
    with flowcheck_watch(TwiceExecutor(1), but="exe-15") as executor:
        executor.submit(str, 1)


def test_what_is_judged_is_there() -> None:
    """Rules of the suite, each with a broken engine here, and capabilities of the protocol."""
    rules = {rule.id: rule for rule in rules_of(suite)}
    assert set(JUDGED) <= rules.keys()
    assert {rule for *_, rule in BROKEN} | {"EXE-15"} == set(JUDGED)
    assert {claim for rule in rules.values() for claim in rule.capabilities} >= CLAIMS


def test_the_example_of_its_page_does_what_the_page_says(theirs) -> None:
    """Word for word."""
    page = Path(__file__).parents[2] / "docs/how-to/watch-an-executor.md"
    if not page.exists():
        pytest.skip("needs the source tree, not only the installed package")
    _, python, _, text, *_ = page.read_text().split("```")
    done = theirs(python.removeprefix("python\n"))
    assert done.status == 1, done.output
    for line in text.removeprefix("text\n").splitlines():
        assert line in done.output, (line, done.output)
    assert "Traceback" not in done.output


def test_one_watch_for_many_threads() -> None:
    """Tests that run side by side in threads share a fixture: nothing is mixed up."""
    watch = ExecutorWatch()

    def use() -> None:
        with watch(ThreadPoolExecutor(2)) as executor:
            for part in (results, errors, cancels, maps):
                part(executor)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert watch.breaches() == []
    assert isinstance(watch(ThreadPoolExecutor(1)), Watched)
