"""The fixture `flowcheck_sweep`: each interruption is tried, those that go wrong are told, and nothing passes untried."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from pytest_flowcheck.fixtures import sweep as fixture
from pytest_flowcheck.fixtures.sweep import Sweeper
from pytest_flowcheck.proof.sweep import obstacle

HERE = Path(__file__)
needs_threads = pytest.mark.skipif(obstacle() is not None, reason=str(obstacle()))


class Counter:
    """A number, two locks, and ways to add to it."""

    def __init__(self) -> None:
        self.n = 0
        self.lock, self.other = threading.Lock(), threading.Lock()

    def add(self) -> None:
        n = self.n
        self.n = n + 1

    def add_alone(self) -> None:
        with self.lock:
            self.add()

    def one_way(self) -> None:
        with self.lock, self.other:
            self.add()

    def the_other_way(self) -> None:
        with self.other, self.lock:
            self.add()

    def refuse(self) -> None:
        n = self.n
        if n:
            raise LookupError("it was there already")


class Account:
    """The same for tasks of one loop."""

    def __init__(self) -> None:
        self.n = 0
        self.lock, self.asked = anyio.Lock(), anyio.Event()

    async def add(self) -> None:
        n = await self.read()
        await anyio.lowlevel.checkpoint()
        self.n = n + 1

    async def read(self) -> int:
        await anyio.lowlevel.checkpoint()
        return self.n

    async def add_alone(self) -> None:
        async with self.lock:
            await self.add()

    async def add_in_one_go(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.n += 1

    async def answer(self) -> None:
        await self.asked.wait()
        self.n += 1

    async def ask(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.asked.set()
        self.n += 1

    async def wait_for_ever(self) -> None:
        await anyio.Event().wait()

    async def refuse(self) -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("no")

    async def cancel_itself(self) -> None:
        await anyio.lowlevel.checkpoint()
        raise asyncio.CancelledError

    async def at_once(self) -> None:
        self.n += 1


def is_two(world: Any) -> None:
    assert world.n == 2


def is_one(world: Any) -> bool:
    return bool(world.n == 1)


@needs_threads
def test_a_race_of_threads_is_told_and_played_again(flowcheck_sweep: Sweeper) -> None:
    """The error is the check's own; its notes say where the one was parked, what the other did, and how to do it again."""
    with pytest.raises(AssertionError) as caught:
        flowcheck_sweep(Counter.add, Counter.add, over=[Counter], fresh=Counter, check=is_two)
    *_, parked, between, then, again = caught.value.__notes__
    assert parked == "add (first) was parked before test_fixtures_sweep.py, Counter.add: `self.n = n + 1`"
    assert (between, then) == ("meanwhile add (second) returned None", "then add (first) returned None")
    key = again.partition("key='")[2].removesuffix("')")
    with pytest.raises(AssertionError, match="1 == 2"):
        flowcheck_sweep(Counter.add, Counter.add, over=Counter, fresh=Counter, check=is_two, key=key)
    assert flowcheck_sweep(
        Counter.add, Counter.add, over=HERE, fresh=Counter, check=is_two, key="first:Counter.add+1#1"
    ).schedules


@needs_threads
def test_what_is_right_passes_and_says_how_much_was_tried(flowcheck_sweep: Sweeper) -> None:
    """With a lock whoever comes in between waits; both ways, and worlds are left."""
    left: list[Counter] = []
    swept = flowcheck_sweep(
        Counter.add_alone, Counter.one_way, over=__name__, fresh=Counter, check=is_two, leave=left.append
    )
    assert swept.schedules == swept.steps > swept.blocked > 0
    assert len(left) > swept.schedules
    flowcheck_sweep(Counter.add, Counter.refuse, over=[HERE], fresh=Counter, check=is_one, allowed=(LookupError,))


@needs_threads
def test_errors_and_deadlocks_are_findings(flowcheck_sweep: Sweeper) -> None:
    """An error with its traceback, a deadlock with who waits for what, a check that returns False."""
    with pytest.raises(pytest.fail.Exception) as caught:
        flowcheck_sweep(Counter.add, Counter.refuse, over=HERE, fresh=Counter, check=is_one)
    assert "refuse raised LookupError('it was there already')" in str(caught.value)
    assert "No interruption is needed, it goes wrong with the one simply after the other:" in str(caught.value)
    assert 'raise LookupError("it was there already")' in str(caught.value)
    with pytest.raises(pytest.fail.Exception) as caught:
        flowcheck_sweep(
            Counter.one_way, Counter.the_other_way, over=HERE, fresh=Counter, check=is_two, granularity="opcode"
        )
    assert "one_way and the_other_way never come back" in str(caught.value)
    assert "waits for a lock" in str(caught.value)
    with pytest.raises(AssertionError, match="is_one returned False"):
        flowcheck_sweep(Counter.add, Counter.add, over=HERE, fresh=Counter, check=is_one)


@needs_threads
def test_in_many_threads_at_once(flowcheck_sweep: Sweeper) -> None:
    """Tests that run side by side wait for one another: one sweep at a time."""
    swept: list[object] = []

    def sweep() -> None:
        swept.append(flowcheck_sweep(Counter.add_alone, Counter.add_alone, over=HERE, fresh=Counter, check=is_two))

    threads = [threading.Thread(target=sweep) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(swept) == 3


@needs_threads
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_against_another_thread(flowcheck_sweep: Sweeper, backend: Any) -> None:
    """Of a blocking and a coroutine function each has a thread, and lines count, between two awaits as well."""

    def add(account: Account) -> None:
        account.n += 1

    with pytest.raises(AssertionError) as caught:
        flowcheck_sweep(Account.add, add, over=[Account], fresh=Account, check=is_two, backend=backend)
    assert "meanwhile add (second) returned None" in caught.value.__notes__


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_two_tasks_of_one_loop(flowcheck_sweep: Sweeper, anyio_backend: str) -> None:
    """At each await the one is held until the other is done, or blocked; checks and makers may be async."""

    async def fresh() -> Account:
        await anyio.lowlevel.checkpoint()
        return Account()

    async def check(account: Account) -> None:
        await anyio.lowlevel.checkpoint()
        is_two(account)

    with pytest.raises(AssertionError) as caught:
        await flowcheck_sweep.aio(Account.add, Account.add, over=[Account], fresh=fresh, check=check)
    place = "test_fixtures_sweep.py, Account.add: `await anyio.lowlevel.checkpoint()`"
    *_, parked, between, _, again = caught.value.__notes__
    assert parked == f"add (first) was parked before the end of its await in {place}"
    assert between == "meanwhile add (second) returned None"
    key = again.partition("key='")[2].removesuffix("')")
    with pytest.raises(AssertionError):
        await flowcheck_sweep.aio(Account.add, Account.add, over=HERE, fresh=Account, check=is_two, key=key)

    swept = await flowcheck_sweep.aio(
        Account.add_alone, Account.add_in_one_go, over=HERE, fresh=fresh, check=is_two_or_one
    )
    assert swept.schedules == swept.steps > swept.blocked == 0
    swept = await flowcheck_sweep.aio(Account.add_alone, Account.add_alone, over=HERE, fresh=fresh, check=check)
    assert swept.schedules == swept.blocked > 1
    swept = await flowcheck_sweep.aio(Account.answer, Account.ask, over=HERE, fresh=fresh, check=check, both=False)
    assert (swept.schedules, swept.blocked) == (1, 0)


def is_two_or_one(world: Any) -> None:
    """An update may be lost between a lock and none."""
    assert world.n in (1, 2)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_tasks_that_fail_or_never_come_back(flowcheck_sweep: Sweeper, anyio_backend: str) -> None:
    """Errors are findings; what was awaited in vain until patience was over is no verdict, and says so."""
    with pytest.raises(pytest.fail.Exception, match=r"refuse raised LookupError\('no'\)"):
        await flowcheck_sweep.aio(Account.refuse, Account.at_once, over=HERE, fresh=Account, check=is_one)
    await flowcheck_sweep.aio(
        Account.refuse, Account.at_once, over=HERE, fresh=Account, check=is_one, both=False, allowed=(LookupError,)
    )
    with pytest.raises(pytest.fail.Exception, match=r"wait_for_ever.* did not come back within 0.01 s.*was not proven"):
        await flowcheck_sweep.aio(
            Account.wait_for_ever, Account.at_once, over=HERE, fresh=Account, check=is_one, patience=0.01
        )
    with pytest.raises(pytest.fail.Exception, match=r"at_once came to no await in test_fixtures_sweep.py"):
        await flowcheck_sweep.aio(Account.at_once, Account.add, over=HERE, fresh=Account, check=is_two)
    if anyio_backend == "asyncio":
        with pytest.raises(pytest.fail.Exception, match=r"cancel_itself raised CancelledError\(\)"):
            await flowcheck_sweep.aio(Account.cancel_itself, Account.at_once, over=HERE, fresh=Account, check=is_one)
    with pytest.raises(pytest.fail.Exception, match=r"it takes `await flowcheck_sweep.aio\(...\)` there"):
        flowcheck_sweep(Account.add, Account.add, over=HERE, fresh=Account, check=is_two)


@needs_threads
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_threads_from_an_async_test(flowcheck_sweep: Sweeper, anyio_backend: str) -> None:
    """The loop goes on meanwhile."""
    swept = await flowcheck_sweep.aio(Counter.add_alone, Counter.add_alone, over=HERE, fresh=Counter, check=is_two)
    assert swept.schedules


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_tasks_from_a_plain_test(flowcheck_sweep: Sweeper, backend: Any) -> None:
    """On a loop of the fixture's own."""
    flowcheck_sweep(Account.add_alone, Account.add_alone, over=HERE, fresh=Account, check=is_two, backend=backend)
    with pytest.raises(AssertionError):
        flowcheck_sweep(Account.add, Account.add, over=HERE, fresh=Account, check=is_two, backend=backend)


@needs_threads
def test_nothing_tried_is_no_pass(flowcheck_sweep: Sweeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of theirs ran, the key leads nowhere; or this process can't be looked at, which is a skip or a failure."""
    with pytest.raises(pytest.fail.Exception, match=r"no step of json ran during add"):
        flowcheck_sweep(Counter.add, Counter.refuse, over="json", fresh=Counter, check=is_one, allowed=(LookupError,))
    with pytest.raises(pytest.fail.Exception, match=r"first:Counter.add\+9#1 was not reached"):
        flowcheck_sweep(Counter.add, Counter.add, over=HERE, fresh=Counter, check=is_two, key="first:Counter.add+9#1")
    with pytest.raises(pytest.fail.Exception, match="'add' is no key of a schedule"):
        flowcheck_sweep(Counter.add, Counter.add, over=HERE, fresh=Counter, check=is_two, key="add")
    monkeypatch.setattr(fixture, "obstacle", lambda: "another tracer is at work")
    with pytest.raises(pytest.skip.Exception, match=r"^flowcheck_sweep can't tell: another tracer is at work$"):
        flowcheck_sweep(Counter.add, Counter.add, over=HERE, fresh=Counter, check=is_two)
    with pytest.raises(pytest.fail.Exception, match=r"^flowcheck_sweep can't tell: another tracer is at work$"):
        flowcheck_sweep(Counter.add, Counter.add, over=HERE, fresh=Counter, check=is_two, unable="fail")


async def coroutine(world: object) -> None:
    """Where none is of use."""


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"over": "no_such_module"}, "got over='no_such_module' (No module named 'no_such_module'); it takes modules"),
        ({"over": [HERE, "threading"]}, "would stop the sweep); it takes modules"),
        ({"over": []}, "got over=[] (nothing); it takes modules"),
        ({"fresh": 3}, "got fresh=3; it takes a function there"),
        ({"chekc": 3}, "got chekc; it takes over, fresh, check and leave, allowed"),
        ({"check": coroutine}, "got a coroutine function as check; it takes one only where both operations are"),
    ],
)
def test_bad_input_gets_one_clear_line(flowcheck_sweep: Sweeper, given: dict[str, Any], told: str) -> None:
    """What we got, and what was expected."""
    asked: dict[str, Any] = {"over": HERE, "fresh": Counter, "check": is_two, **given}
    with pytest.raises(pytest.fail.Exception) as caught:
        flowcheck_sweep(Counter.add, Counter.add, **asked)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_threads
def test_the_examples_of_its_page_do_what_the_page_says(theirs: Callable[..., Any]) -> None:
    """Word for word."""
    page = HERE.parents[2] / "docs/how-to/find-races.md"
    if not page.exists():
        pytest.skip("needs the source tree, not only the installed package")
    _, python, _, text, _, tasks, *_ = page.read_text().split("```")
    tasks = tasks.removeprefix("python\n").replace("async def test", "@pytest.mark.anyio\nasync def test")
    modules = python.removeprefix("python\n") + "import pytest\n" + tasks
    done = theirs(modules, "-p", "anyio")
    assert done.status == 1, done.output
    assert "1 failed, 3 passed" in done.output, done.output
    for line in text.removeprefix("text\n").replace("test_counter.py", "test_theirs.py").splitlines():
        assert line in done.output, (line, done.output)
    assert "fixtures/sweep.py" not in done.output
