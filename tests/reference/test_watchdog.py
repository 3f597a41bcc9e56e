"""The watchdog gives up what is late, once, and sleeps otherwise; a worker that was written off is replaced."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from flowcheck_reference._watchdog import Watchdog
from flowcheck_reference.executor import Executor, here

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 30.0
"""Seconds: the fence around what must not hang."""


def nobody(_: object) -> None:
    """What must not be called."""
    pytest.fail("an attempt that was in time was given up")


def ended(thread: threading.Thread | None) -> bool:
    """Does it end?"""
    assert thread is not None
    thread.join(LIMIT)
    return not thread.is_alive()


@pytest.fixture
def dog() -> Iterator[Watchdog]:
    """A watchdog that is closed at the end."""
    dog = Watchdog()
    yield dog
    thread = dog._state.thread
    dog.close()
    assert thread is None or ended(thread)


def test_who_is_late_loses_its_token(dog: Watchdog) -> None:
    """At the deadline the watchdog takes the token out of the cell, and hands it on, once."""
    tokens: list[object] = []
    done = threading.Event()
    post, token = dog.post(), object()
    cell = [token]
    post.publish(monotonic() - 1, cell, lambda it: (tokens.append(it), done.set()))
    assert done.wait(LIMIT)
    assert tokens == [token]
    assert cell == []


def test_who_is_in_time_is_left_alone(dog: Watchdog) -> None:
    """A cell that the worker emptied is passed over, also by a look that comes after the deadline."""
    later = threading.Event()
    cell = [1]
    cell.pop()
    dog.post().publish(monotonic() - 1, cell, nobody)
    dog.call_at(monotonic(), later.set)
    assert later.wait(LIMIT)


def test_an_earlier_deadline_wakes_it(dog: Watchdog) -> None:
    """It sleeps until the earliest, whichever was published first; the later one stays pending."""
    first, second = dog.post(), dog.post()
    done = threading.Event()
    far = [1]
    first.publish(monotonic() + 3600, far, nobody)
    second.publish(monotonic() + 0.01, [2], lambda _: done.set())
    assert done.wait(LIMIT)
    assert far == [1]
    far.clear()


def test_later_deadlines_wake_nobody(dog: Watchdog) -> None:
    """Only a deadline before the one it sleeps for needs a nudge: so equal limits cost a store each."""
    post = dog.post()
    when = monotonic() + 3600
    post.publish(when, [1], nobody)
    while dog._state.wake != when:  # it is on its way to bed; nothing announces that
        threading.Event().wait(0)
    nudge, nudges = dog._state.nudge, []
    dog._state.nudge = lambda when: (nudges.append(when), nudge(when))  # type: ignore[method-assign,assignment]
    for i in range(10):
        post.publish(when + i, [1], nobody)
    assert nudges == []
    post.publish(when - 1, [1], nobody)
    assert nudges == [when - 1]
    post.leave()


def test_timers_go_off_in_order(dog: Watchdog) -> None:
    """`call_at` calls at the time, the earlier first, equal ones in the order they came."""
    order: list[int] = []
    done = threading.Event()
    now = monotonic()
    dog.call_at(now + 0.03, lambda: (order.append(3), done.set()))
    for i in (1, 2):
        dog.call_at(now + 0.02, lambda i=i: order.append(i))  # type: ignore[misc]
    dog.call_at(now - 1, lambda: order.append(0))
    assert done.wait(LIMIT)
    assert order == [0, 1, 2, 3]


def test_a_callback_that_raises_is_logged(dog: Watchdog, caplog: pytest.LogCaptureFixture) -> None:
    """It doesn't end the watchdog, whatever it raises."""
    done = threading.Event()

    def bad() -> None:
        raise SystemExit(1)

    with caplog.at_level(logging.ERROR):
        dog.call_at(monotonic() - 1, bad)
        dog.call_at(monotonic() - 0.5, done.set)
        assert done.wait(LIMIT)
    assert "watchdog" in caplog.text


def test_with_nothing_pending_it_sleeps_untimed(dog: Watchdog) -> None:
    """`relax` makes it forget the deadlines that were met: no timed wait is left."""
    cell = [1]
    when = monotonic() + 3600
    dog.post().publish(when, cell, nobody)
    while dog._state.wake != when:
        threading.Event().wait(0)
    cell.pop()
    dog.relax()
    while dog._state.wake != inf:
        threading.Event().wait(0)


def test_it_ends_when_closed_and_begins_anew_when_needed() -> None:
    """`close` ends the thread as soon as nothing is pending; a later deadline is kept all the same."""
    dog, pending, done = Watchdog(), threading.Event(), threading.Event()
    dog.call_at(monotonic() + 0.02, pending.set)
    first = dog._state.thread
    dog.close()
    assert ended(first)
    assert pending.is_set()
    dog.call_at(monotonic() + 0.01, done.set)
    second = dog._state.thread
    assert done.wait(LIMIT)
    assert ended(second)


def test_dropped_it_ends() -> None:
    """The thread doesn't refer to the watchdog, so that is collected, and that ends the thread."""
    dog = Watchdog()
    dog.ensure()
    thread = dog._state.thread
    del dog
    gc.collect()
    assert ended(thread)


def test_one_of_the_two_settles() -> None:
    """Workers that end just at the deadline: each call is settled once, by the worker or by the watchdog."""
    dog, given_up, kept = Watchdog(), [], []

    def work(name: int) -> None:
        for i in range(300):
            post = dog.post()
            cell = [(name, i)]
            post.publish(monotonic(), cell, given_up.append)
            with suppress(IndexError):
                kept.append(cell.pop())
            post.leave()

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        assert ended(thread)
    last = dog._state.thread
    dog.close()
    assert last is None or ended(last)
    assert sorted(given_up + kept) == [(name, i) for name in range(4) for i in range(300)]


def test_every_deadline_is_kept() -> None:
    """However adding one and going to sleep meet, no wake-up is lost."""
    dog, n = Watchdog(), 400
    all_gone = threading.Barrier(5)

    def work() -> None:
        for i in range(n // 4):
            gone = threading.Event()
            if i % 2:
                dog.call_at(monotonic() + 0.0001 * (i % 7), gone.set)
            else:
                dog.post().publish(monotonic() + 0.0001 * (i % 7), [1], lambda _, gone=gone: gone.set())  # type: ignore[misc]
            assert gone.wait(LIMIT), "a deadline was forgotten"
        all_gone.wait(LIMIT)

    for _ in range(4):
        threading.Thread(target=work, daemon=True).start()
    all_gone.wait(LIMIT)
    dog.close()


def no_thread(*_: object) -> None:
    """In place of what would start one."""
    msg = "can't start new thread"
    raise RuntimeError(msg)


def test_without_a_thread_nothing_is_promised(dog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    """`publish` and `call_at` say so, and what they were told is not done later, by a thread that does start."""
    called: list[str] = []
    cell, later = [1], threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(RuntimeError, match="can't start"):
            dog.call_at(monotonic() - 1, lambda: called.append("a timer"))
        with pytest.raises(RuntimeError, match="can't start"):
            dog.post().publish(monotonic() - 1, cell, lambda _: called.append("a limit"))
        with pytest.raises(RuntimeError, match="can't start"):
            dog.ensure()
    dog.call_at(monotonic(), later.set)
    assert later.wait(LIMIT)
    assert called == []


def test_a_thread_that_another_got_meanwhile_is_enough(dog: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has seen what was told: so there is nothing to raise, and nobody acts on it twice."""
    done: list[object] = []

    def look_then_fail(_: float) -> None:
        dog._state.look()
        no_thread()

    monkeypatch.setattr(dog._state, "nudge", look_then_fail)
    dog.call_at(monotonic() - 1, lambda: done.append("a timer"))
    dog.post().publish(monotonic() - 1, ["a limit"], done.append)
    assert done == ["a timer", "a limit"]


@pytest.mark.parametrize("there", [True, False])
def test_interrupted_while_it_starts(dog: Watchdog, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """There is one thread afterwards, whether the interrupted start had got as far as that or not."""
    plain, threads = threading.Thread.start, []

    def start(thread: Any) -> None:
        threads.append(thread)
        if there:
            plain(thread)
            while thread._args[0]:  # its ticket
                threading.Event().wait(0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(KeyboardInterrupt):
            dog.ensure()
    if not there:
        plain(threads[0])
        assert ended(threads[0])
    done = threading.Event()
    dog.call_at(monotonic(), done.set)
    assert done.wait(LIMIT)
    assert (dog._state.thread is threads[0]) == there


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_a_watchdog_of_its_own() -> None:
    """Nothing of the parent's is pending there, and a new deadline starts a thread."""
    code = """
import os, threading
from time import monotonic
from flowcheck_reference._watchdog import Watchdog
dog = Watchdog()
dog.call_at(monotonic() + 3600, print)
pid = os.fork()
if not pid:
    done = threading.Event()
    dog.call_at(monotonic(), done.set)
    os._exit(0 if done.wait(30) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert script(code) == "0\n"


def script(code: str) -> str:
    """Run `code` in an interpreter of its own, and give what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# -- workers that are written off


class Stuck:
    """A task that hangs until `end`."""

    def __init__(self) -> None:
        self.began, self._go = threading.Event(), threading.Event()
        self.worker: Any = None

    def __call__(self) -> str:
        self.worker = here.worker
        self.began.set()
        assert self._go.wait(LIMIT), "it was never released"
        return "late"

    def end(self) -> None:
        """Let it go on."""
        self._go.set()


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    """Released at the end."""
    stuck = Stuck()
    yield stuck
    stuck.end()


def test_a_worker_that_was_written_off_is_replaced(stuck: Stuck) -> None:
    """Another begins at once; shutdown waits for it, not for the stuck one; that one ends when it comes back."""
    executor = Executor(1)
    pool = executor._pool
    future = executor.submit(stuck)
    behind = executor.submit(int, 3)
    assert stuck.began.wait(LIMIT)
    pool.write_off(stuck.worker)
    pool.write_off(stuck.worker)
    assert behind.result(LIMIT) == 3
    assert (pool.live, pool.abandoned) == (1, 1)
    executor.shutdown()
    assert not future.done()
    stuck.end()
    assert ended(stuck.worker)
    assert (pool.live, pool.abandoned) == (0, 0)
    assert future.result(LIMIT) == "late"


def test_a_join_that_is_under_way_hears_of_it(stuck: Stuck) -> None:
    """`shutdown(wait=True)` returns when the last worker that it waits for is written off."""
    executor = Executor(1)
    executor.submit(stuck)
    assert stuck.began.wait(LIMIT)
    closer = threading.Thread(target=executor.shutdown, daemon=True)
    closer.start()
    while not executor._pool.closed:
        threading.Event().wait(0)
    executor._pool.write_off(stuck.worker)
    assert ended(closer)


@pytest.mark.parametrize("queued", [True, False])
def test_written_off_while_it_waits_for_a_task_of_the_pool(stuck: Stuck, queued: bool) -> None:
    """What it had lent or had counted as waiting is taken back once, and the bound holds afterwards."""
    with Executor(2) as executor:
        pool = executor._pool
        workers: list[Any] = []

        def outer() -> str:
            workers.append(here.worker)
            if queued:
                return inner_future().result(LIMIT)
            future = inner_future()
            assert stuck.began.wait(LIMIT)
            return future.result(LIMIT)

        def inner_future() -> Any:
            return executor.submit(stuck)

        future = executor.submit(outer)
        assert stuck.began.wait(LIMIT)
        while not (pool.lent or pool.waiting):
            threading.Event().wait(0)
        pool.write_off(workers[0])
        assert (pool.lent, pool.waiting, pool.abandoned) == (0, 0, 1)
        stuck.end()
        assert future.result(LIMIT) == "late"
        assert ended(workers[0])
        assert (pool.lent, pool.waiting, pool.abandoned) == (0, 0, 0)
        assert list(executor.map(int, range(5))) == list(range(5))
        assert 0 <= pool.live <= 2


@pytest.mark.parametrize("daemon", [True, False])
def test_at_exit_all_work_gets_done(daemon: bool) -> None:
    """The interpreter waits for daemon workers as for others (EXE-20), also if the executor was dropped."""
    code = f"""
import threading
from flowcheck_reference import Executor
gate = threading.Event()
def task(i):
    gate.wait(0.05)
    print(f"{{i}} ", end="")
for i in range(2):
    executor = Executor(1, daemon={daemon})
    executor.submit(task, i)
    executor.submit(task, i)
print("end")
"""
    assert sorted(script(code).split()) == ["0", "0", "1", "1", "end"]


def test_a_stuck_daemon_worker_does_not_keep_the_process() -> None:
    """Written off before or during exit, it isn't waited for; what stands behind it gets done (RTY-17)."""
    code = """
import threading
from time import monotonic
from flowcheck_reference.executor import Executor, here
from flowcheck_reference._watchdog import Watchdog
executor, dog = Executor(1, daemon=True), Watchdog()
began = threading.Event()
def hang(seconds):
    dog.post().publish(monotonic() + seconds, [here.worker], executor._pool.write_off)
    began.set()
    threading.Event().wait()
executor.submit(hang, 0)
executor.submit(print, "behind")
began.wait()
other = Executor(1, daemon=True)
def late():
    dog.post().publish(monotonic() + 0.2, [here.worker], other._pool.write_off)
    threading.Event().wait()
other.submit(late)
"""
    assert script(code) == "behind\n"
