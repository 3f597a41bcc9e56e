"""The preemption sweep finds what it must, every time, at the right line; and accuses nothing that is locked."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import math
import os
import queue
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import _base as futures_base
from concurrent.futures import thread as futures_thread
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bystanders import fresh_harness

from flowcheck_reference.broken.executor import shutdown, submit
from flowcheck_reference.broken.flow import beside
from flowcheck_reference.broken.store import logs
from flowcheck_reference.executor import Executor
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.errors import Inconclusive, NotTestable, Violated
from pytest_flowcheck.probes.lab import Lab
from pytest_flowcheck.proof import procfs
from pytest_flowcheck.proof.sweep import (
    Outcome,
    Race,
    Step,
    Sweep,
    Unsweepable,
    code_of,
    obstacle,
    replay,
    sweep,
)
from pytest_flowcheck.proof.sweeping import rest as rest_module
from pytest_flowcheck.proof.sweeping.rest import HOPELESS, RESTLESS, Rest
from pytest_flowcheck.proof.sweeping.steps import Code
from pytest_flowcheck.rules import rules_of
from pytest_flowcheck.running.judge import judge as judged_by_kit
from pytest_flowcheck.suites import executor, flow, store

HERE = sys.modules[__name__]
MONITORING = sys.version_info >= (3, 12)

pytestmark = pytest.mark.skipif(obstacle() is not None, reason=obstacle() or "")


# --- subjects, none of which knows that it is swept -----------------------------------------------------------------------


class Tally:
    """Counts, in five ways."""

    def __init__(self) -> None:
        self.counts = {"n": 0}
        self.n = 0
        self.lock = threading.Lock()

    def add(self) -> None:
        count = self.counts["n"]
        self.counts["n"] = count + 1

    def add_locked(self) -> None:
        with self.lock:
            count = self.counts["n"]
            self.counts["n"] = count + 1

    def add_on_one_line(self) -> None:
        self.n += 1

    def add_on_one_line_locked(self) -> None:
        with self.lock:
            self.n += 1

    def reset(self) -> None:
        self.counts["n"] = 0


class Engine:
    """Runs jobs on a pool of its own and counts them there."""

    def __init__(self) -> None:
        self.pool, self.done, self.lock = ThreadPoolExecutor(2), 0, threading.Lock()

    def _work(self) -> None:
        done = self.done
        self.done = done + 1

    def _work_on_one_line(self) -> None:
        self.done += 1

    def _work_locked(self) -> None:
        with self.lock:
            self.done += 1

    def run(self, job: str) -> None:
        self.pool.submit(getattr(self, job)).result()

    def close(self) -> None:
        self.pool.shutdown()


class Crossed:
    """Two locks, taken in either order."""

    def __init__(self) -> None:
        self.one, self.two = threading.Lock(), threading.Lock()

    def forth(self) -> None:
        with self.one:  # noqa: SIM117 - a line for each lock
            with self.two:
                pass

    def back(self) -> None:
        with self.two:  # noqa: SIM117
            with self.one:
                pass


def two(world: Tally, _outcome: Outcome) -> str | None:
    return None if world.counts["n"] == 2 else f"n is {world.counts['n']}, not 2"


def two_on_one_line(world: Tally, _outcome: Outcome) -> str | None:
    return None if world.n == 2 else f"n is {world.n}, not 2"


def two_done(world: Engine, _outcome: Outcome) -> str | None:
    return None if world.done == 2 else f"done is {world.done}, not 2"


def swept(method: Callable[[Tally], None], judge: Any = two, **options: Any) -> Sweep:
    return sweep(Tally, method, method, code=[HERE], judge=judge, **options)


def run_in_pool(job: str, **options: Any) -> Sweep:
    return sweep(
        Engine,
        lambda engine: engine.run(job),
        lambda engine: engine.run(job),
        code=[HERE],
        judge=two_done,
        leave=Engine.close,
        **options,
    )


# --- what it finds --------------------------------------------------------------------------------------------------------


def test_a_lost_update_is_found_by_line() -> None:
    """Exactly one place: after the read, before the write."""
    found = swept(Tally.add)
    (race,) = found.races
    assert race.says == "n is 1, not 2"
    assert race.key == "first:Tally.add+2#1"
    assert race.outcome.place == 'test_sweep.py, Tally.add: `self.counts["n"] = count + 1`'
    assert not race.outcome.blocked
    assert (found.steps, found.schedules, found.blocked, found.missed) == (2, 2, 0, ())
    assert str(race).splitlines()[1:] == [
        'first was parked before test_sweep.py, Tally.add: `self.counts["n"] = count + 1`',
        "meanwhile rival returned None",
        "then first returned None",
        "key: first:Tally.add+2#1",
    ]


def test_a_lost_update_on_one_line_needs_bytecode() -> None:
    assert not swept(Tally.add_on_one_line, two_on_one_line)
    found = swept(Tally.add_on_one_line, two_on_one_line, granularity="opcode")
    assert found
    assert all(race.outcome.step is not None and race.outcome.step.offset is not None for race in found.races)
    assert found.schedules == found.steps > 5


@pytest.mark.parametrize("granularity", ["line", "opcode"])
def test_what_is_locked_is_not_accused(granularity: Any) -> None:
    """The rival waits for the lock wherever the parked thread holds it, and that is no finding."""
    for method, judge in ((Tally.add_locked, two), (Tally.add_on_one_line_locked, two_on_one_line)):
        found = swept(method, judge, granularity=granularity)
        assert not found
        assert found.schedules == found.steps
        assert 0 < found.blocked < found.schedules


def test_a_lost_update_inside_a_pool_thread_is_found() -> None:
    """The engine makes the thread, and neither knows of the sweep."""
    found = run_in_pool("_work")
    assert {race.key for race in found.races} == {"thread 1:Engine._work+2#1"}
    assert "the subject's thread 1, during first, was parked before test_sweep.py, Engine._work" in str(found.races[0])
    assert run_in_pool("_work_on_one_line", granularity="opcode")
    assert not run_in_pool("_work_on_one_line", granularity="opcode", threads=False)
    locked = run_in_pool("_work_locked")
    assert not locked
    assert locked.blocked > 0


def test_locks_in_opposite_order_are_a_proven_deadlock() -> None:
    found = sweep(
        Crossed, Crossed.forth, Crossed.back, code=[HERE], judge=lambda *_: None, stop=True, harness=fresh_harness()
    )
    (race,) = found.races
    assert race.says == "first and rival never come back"
    assert race.outcome.first is race.outcome.rival is None
    waits = "\n".join(race.outcome.stuck)
    assert "'sweep: first' waits for a lock: `with self.two:`" in waits
    assert "'sweep: rival' waits for a lock: `with self.one:`" in waits
    assert not sweep(Crossed, Crossed.forth, Crossed.forth, code=[HERE], judge=lambda *_: None)


def test_the_other_way_round() -> None:
    """That the reader is interrupted is harmless; the writer must be."""

    def torn(world: Any, outcome: Outcome) -> str | None:
        seen = outcome.first.value if outcome.first else None
        return None if seen in {(0, 0), (1, 1)} else f"seen {seen}"

    class Pair:
        def __init__(self) -> None:
            self.left = self.right = 0

        def read(self) -> tuple[int, int]:
            return self.left, self.right

        def write(self) -> None:
            self.left = 1
            self.right = 1

    def both(way: bool) -> Sweep:
        return sweep(Pair, Pair.read, Pair.write, code=[HERE], judge=torn, both=way)

    assert not both(False)
    (race,) = both(True).races
    assert race.says == "seen (1, 0)"
    assert race.key.startswith("rival:")
    assert str(race).splitlines()[1].startswith("rival was parked before")


def test_the_same_is_found_every_time() -> None:
    """No chance is in it: keys, counts and findings are equal, over and over."""
    assert len({str(run_in_pool("_work")) for _ in range(10)}) == 1
    assert len({tuple(race.key for race in swept(Tally.add).races) for _ in range(30)}) == 1


# --- keys -----------------------------------------------------------------------------------------------------------------


def test_a_key_plays_its_schedule_again() -> None:
    def play(key: str) -> Race | Outcome:
        return replay(key, Tally, Tally.add, Tally.add, code=[HERE], judge=two)

    for _ in range(5):
        race = play("first:Tally.add+2#1")
        assert isinstance(race, Race)
        assert race.says == "n is 1, not 2"
    outcome = play("first:Tally.add+1#1")
    assert isinstance(outcome, Outcome)
    assert outcome.step is not None
    with pytest.raises(Unsweepable, match=r"first:Tally\.add\+2#2 was not reached"):
        play("first:Tally.add+2#2")
    with pytest.raises(ValueError, match="no key"):
        play("first, somewhere")


def test_a_key_of_a_pool_thread_and_of_an_instruction() -> None:
    for race in run_in_pool("_work_on_one_line", granularity="opcode").races:
        again = replay(
            race.key,
            Engine,
            lambda engine: engine.run("_work_on_one_line"),
            lambda engine: engine.run("_work_on_one_line"),
            code=[HERE],
            judge=two_done,
            leave=Engine.close,
        )
        assert isinstance(again, Race)
        assert (again.key, again.says) == (race.key, race.says)


@pytest.mark.parametrize(
    "key",
    [
        "first:Counter.add+2#1",
        "rival:Counter.add+0@14#12",
        "thread 3:make.<locals>.<lambda>+-1#1",
        "rival/thread 1:Pool.run+5#2",
    ],
)
def test_keys_are_read_as_they_are_written(key: str) -> None:
    step = Step.parse(key)
    assert str(step) == key
    assert step.leader == ("rival" if key.startswith("rival") else "first")


# --- what operations do ---------------------------------------------------------------------------------------------------


def test_an_error_is_a_finding_unless_it_is_allowed() -> None:
    class Shut:
        closed = False

        def use(self) -> None:
            if self.closed:
                raise RuntimeError("shut")

        def shut(self) -> None:
            self.closed = True

    def races(allowed: Any) -> tuple[Race, ...]:
        return sweep(Shut, Shut.use, Shut.shut, code=[HERE], judge=lambda *_: None, allowed=allowed).races

    assert {race.says for race in races(())} == {"first raised RuntimeError('shut')"}
    assert [race.key for race in races(())] == [
        "",
        "first:test_an_error_is_a_finding_unless_it_is_allowed.<locals>.Shut.use+1#1",
    ]
    assert races((RuntimeError,)) == ()
    assert races(lambda error: str(error) == "shut") == ()
    assert len(races((KeyError,))) == 2


def test_what_goes_wrong_in_sequence_has_no_key() -> None:
    found = sweep(Tally, Tally.add, Tally.reset, code=[HERE], judge=two, stop=True)
    assert found.races[0].key == ""
    assert str(found.races[0]) == "n is 0, not 2\nfirst returned None\nthen rival returned None"


def test_both_orders_must_be_legal() -> None:
    """That the rival comes first altogether is no race either."""

    def judge(world: Tally, outcome: Outcome) -> str | None:
        return None if world.counts["n"] == 0 else "n is not reset"

    found = sweep(Tally, Tally.add, Tally.reset, code=[HERE], judge=judge, stop=True)
    assert found.races[0].key == ""
    assert str(found.races[0]) == "n is not reset\nrival returned None\nthen first returned None"


def test_nothing_to_park_is_no_success() -> None:
    """A sweep of nothing says so."""
    with pytest.raises(Unsweepable, match=r"no step of queue\.py ran during first"):
        sweep(Tally, Tally.add, Tally.add, code=[queue], judge=two)

    async def nobody_awaits() -> None: ...

    with pytest.raises(Unsweepable, match="awaitable"):
        sweep(Tally, lambda _: nobody_awaits(), Tally.add, code=[HERE], judge=two)


def test_an_operation_that_needs_the_other_gets_it() -> None:
    """`first` waits for what `rival` brings: it is at rest, so the rival comes."""
    found = sweep(
        queue.SimpleQueue, lambda q: q.get(), lambda q: q.put(7), code=[HERE],
        judge=lambda _, outcome: None if outcome.first and outcome.first.value == 7 else "lost",
    )  # fmt: skip
    assert not found
    assert found.schedules == 1


def test_a_busy_rival_is_not_taken_for_a_blocked_one() -> None:
    """It waits for the interpreter now and then, with a deadline: that is no rest."""

    def busy(world: Tally) -> None:
        total = sum(number * number for number in range(150_000))
        world.n = total

    found = sweep(Tally, Tally.add, busy, code=[HERE], judge=lambda world, outcome: None, threads=False, limit=5)
    assert found.schedules > 1
    assert found.blocked == 0


def test_a_subject_that_polls_does_not_hold_up_the_sweep() -> None:
    """Its thread is never at rest; what it does beside does not matter."""

    class Polls(Tally):
        def __init__(self) -> None:
            super().__init__()
            self.over, self.turns = threading.Event(), 0
            self.poller = threading.Thread(target=self.poll, daemon=True)
            self.poller.start()

        def poll(self) -> None:
            while not self.over.wait(0.0005):
                self.turns += 1

        def close(self) -> None:
            self.over.set()
            self.poller.join()

    found = sweep(Polls, Tally.add, Tally.add, code=[HERE], judge=two, leave=Polls.close, limit=4, threads=False)
    assert len(found.races) == 1
    assert sweep(Polls, Tally.add, Tally.add, code=[HERE], judge=two, leave=Polls.close, limit=4)


def test_an_operation_that_spins_for_the_other_gets_it() -> None:
    """It never rests, and never ends while the other is parked: each schedule comes to its end all the same."""

    class Turn:
        def __init__(self) -> None:
            self.taken = False

        def take(self) -> None:
            self.taken = True

        def spin(self) -> None:
            while not self.taken:
                os.sched_yield()

    swept = sweep(Turn, Turn.take, Turn.spin, code=[HERE], judge=lambda _, __: None, limit=4)
    assert swept.schedules == swept.blocked == 1, swept


def test_a_loop_of_the_subjects_own_is_not_parked() -> None:
    """Tasks of one loop are interleaved at their awaits only: to hold the loop tries nothing."""

    class Looped:
        def __init__(self) -> None:
            self.loop = asyncio.new_event_loop()
            self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
            self.thread.start()

        async def work(self) -> int:
            return len(asyncio.all_tasks())

        def run(self) -> int:
            return asyncio.run_coroutine_threadsafe(self.work(), self.loop).result()

        def close(self) -> None:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
            self.loop.close()

    found = sweep(Looped, Looped.run, Looped.run, code=[HERE], judge=lambda *_: None, leave=Looped.close)
    assert found.schedules == found.steps == 1


def test_what_the_judge_raises_ends_the_sweep() -> None:
    left: list[Tally] = []

    def judge(world: Tally, outcome: Outcome) -> None:
        raise KeyError("of the judge")

    with pytest.raises(KeyError):
        swept(Tally.add, judge, leave=left.append)
    assert len(left) == 1


# --- which schedules ------------------------------------------------------------------------------------------------------


def test_each_place_is_tried_before_one_is_tried_again() -> None:
    class Long:
        def many(self) -> int:
            total = 0
            for number in range(50):
                total += number
            return total

    def plays(limit: int, within: float = math.inf) -> Sweep:
        return sweep(Long, Long.many, Long.many, code=[HERE], judge=lambda *_: None, limit=limit, within=within)

    full = plays(1000)
    assert full.schedules == full.steps > 100
    assert str(full) == f"parked at {full.steps} steps, blocked at 0"
    few = plays(6)
    assert (few.schedules, few.steps) == (6, full.steps)
    assert "each place before one is tried again" in str(few)
    assert few.missed == ()
    hasty = plays(1000, within=0)
    assert (hasty.schedules, hasty.untried, hasty.steps) == (10, full.steps - 10, full.steps)
    assert f"{full.steps - 10} not tried since each takes so long" in str(hasty)


def test_code_is_a_module_a_package_a_class_a_file_or_a_folder(tmp_path: Path) -> None:
    def has(spec: Any, function: Any) -> bool:
        return Code([spec]).has(function.__code__)

    assert has(HERE, Tally.add)
    assert has(Tally, Tally.add)
    assert has(Path(__file__), Tally.add)
    assert has(Path(__file__).parent, Tally.add)
    assert has("concurrent.futures", futures_thread.ThreadPoolExecutor.submit)
    assert not has(futures_thread, futures_base.Future.result)
    assert not has(tmp_path, Tally.add)
    assert not has(Path(__file__).with_suffix(""), Tally.add)


def test_where_an_objects_code_is() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert set(code_of(pool)) == {futures_thread, futures_base}
        holder = SimpleNamespace(engine=Executor(1), pool=pool)
    with holder.engine:
        names = {module.__name__ for module in code_of(holder) if not isinstance(module, str | Path)}
    assert "flowcheck_reference" in names
    assert not names & {"threading", "builtins", "pytest_flowcheck"}
    assert code_of(fresh_harness()) == ()


# --- other tracers --------------------------------------------------------------------------------------------------------


def test_nothing_is_left_behind() -> None:
    before = threading.enumerate()
    swept(Tally.add)
    run_in_pool("_work")
    assert threading.gettrace() is None
    assert sys.gettrace() is None
    assert threading.enumerate() == before
    if MONITORING:
        monitoring: Any = vars(sys)["monitoring"]
        assert [monitoring.get_tool(tool) for tool in range(6)].count("flowcheck sweep") == 0


@contextmanager
def traced(seen: list[str]) -> Iterator[Any]:
    def trace(frame: Any, event: str, argument: object) -> Any:
        seen.append(frame.f_code.co_name)
        return None

    sys.settrace(trace)
    try:
        yield trace
    finally:
        sys.settrace(None)


def test_another_tracer_is_named_and_left_alone() -> None:
    """Before Python 3.12 there is room for one; from then on they live side by side."""
    seen: list[str] = []
    with traced(seen) as trace:
        if MONITORING:
            assert len(swept(Tally.add).races) == 1
        else:
            with pytest.raises(Unsweepable, match=r"another tracer is at work \(test_sweep\.traced\.<locals>\.trace\)"):
                swept(Tally.add)
        assert sys.gettrace() is trace
    assert "sweep" in seen


@pytest.mark.skipif(not MONITORING, reason="sys.monitoring is of Python 3.12")
def test_no_free_tool_id_is_said() -> None:
    monitoring: Any = vars(sys)["monitoring"]
    mine = [tool for tool in range(6) if monitoring.get_tool(tool) is None]
    for tool in mine:
        monitoring.use_tool_id(tool, f"test {tool}")
    try:
        with pytest.raises(Unsweepable, match="all tool ids"):
            swept(Tally.add)
    finally:
        for tool in mine:
            monitoring.free_tool_id(tool)
    assert swept(Tally.add)


@pytest.mark.parametrize("core", ["ctrace", "sysmon"])
@pytest.mark.skipif(importlib.util.find_spec("coverage") is None, reason="coverage is not installed")
def test_beside_coverage(tmp_path: Path, core: str) -> None:
    """It measures what it would measure without us; and the sweep sweeps, or says why not."""
    if core == "sysmon" and not MONITORING:
        pytest.skip("coverage has no such core on this Python")
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import sys
        from pytest_flowcheck.proof.sweep import Unsweepable, sweep

        class Tally:
            n = 0
            def add(self):
                count = self.n
                self.n = count + 1

        try:
            found = sweep(Tally, Tally.add, Tally.add, code=["__main__"], judge=lambda w, o: None if w.n == 2 else "lost")
            print([race.key for race in found.races])
        except Unsweepable as why:
            Tally().add()
            print(why)
        print("after")
        """)
    )
    env = {
        **os.environ,
        "COVERAGE_CORE": core,
        "COVERAGE_FILE": str(tmp_path / "data"),
        "PYTHONPATH": os.pathsep.join(sys.path[1:]),
    }
    run = [sys.executable, "-m", "coverage"]
    done = subprocess.run(
        [*run, "run", str(program)], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    said = "['first:Tally.add+2#1']" if MONITORING else "another tracer is at work (coverage"
    assert done.stdout.startswith(said), done.stdout + done.stderr
    report = subprocess.run(
        [*run, "report", "-m", "--include=program.py"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = (line for line in report.stdout.splitlines() if line.startswith("program.py"))
    missing = line.partition("%")[2].strip()
    assert missing == ("14-16" if MONITORING else "13"), report.stdout


def test_one_sweep_at_a_time() -> None:
    def judge(world: Tally, outcome: Outcome) -> None:
        swept(Tally.add)

    with pytest.raises(Unsweepable, match=r"another sweep|another tracer"):
        swept(Tally.add, judge)


# --- rest -----------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not procfs.LINUX, reason="read from the Linux kernel")
def test_rest_is_a_wait_in_which_nothing_moves() -> None:
    lock, over = threading.Lock(), threading.Event()
    lock.acquire()
    waiting = threading.Thread(target=lock.acquire, daemon=True)

    def spin() -> None:
        while not over.is_set():
            pass

    spinning = threading.Thread(target=spin, daemon=True)
    waiting.start()
    spinning.start()
    pause = threading.Event()

    def looks(thread: threading.Thread, times: int) -> list[bool]:
        rest = Rest(lambda: {thread.native_id or 0})
        rest.begin()
        found = []
        for _ in range(times):
            found.append(rest.reached())
            pause.wait(0.001)
        return found

    assert True not in looks(spinning, 60)
    over.set()
    assert looks(waiting, 60)[-1]
    lock.release()
    waiting.join()
    spinning.join()


# --- in rules -------------------------------------------------------------------------------------------------------------


RULES = {rule.id: rule for suite in (executor, flow, store) for rule in rules_of(suite)}


def finding(rule: str, adapter: type[Any], backend: str = "asyncio") -> Finding:
    subject = subjects.first_probe(subjects.load(f"{adapter.__module__}:{adapter.__qualname__}"))
    subject = replace(subject, backend=backend)
    return judged_by_kit(RULES[rule], subject, fresh_harness(), patience=15.0, uncaught=[])


def test_who_is_given_no_processor_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long another one polls meanwhile; only who was seen to run again and again is not."""
    looks = itertools.count()
    starved, polls, waits = (b"running", (b"7", b"7")), b"0 0x0", (b"202 0x0 0x0 0x0 0x0 0x0 0x0 0x0", (b"1", b"1"))

    def sample(tid: int) -> Any:
        return {1: starved, 2: (polls, (b"%d" % next(looks), b"0")), 3: waits}[tid]

    monkeypatch.setattr(rest_module, "_sample", sample)
    rest = Rest(lambda: {1, 2, 3})
    rest.begin()
    assert not any(rest.reached() for _ in range(2 * HOPELESS))
    rest = Rest(lambda: {2, 3})
    rest.begin()
    assert RESTLESS < next(look for look in itertools.count(1) if rest.reached()) < 2 * RESTLESS


@pytest.mark.parametrize(
    ("rule", "adapter", "line", "key"),
    [
        (
            "EXE-15",
            submit.SubmitsThroughASlotForAMoment,
            'submit.py, SubmitsThroughASlotForAMoment.Pool.submit: `_LOG.debug("a call is submitted")`',
            "first:SubmitsThroughASlotForAMoment.Pool.submit+2#1",
        ),
        (
            "EXE-11",
            shutdown.FirstSubmitRacesShutdown,
            "shutdown.py, FirstSubmitRacesShutdown.Pool.submit: `self._begun = True`",
            "first:FirstSubmitRacesShutdown.Pool.submit+4#1",
        ),
        (
            "FLO-06",
            beside.InputOnSelf,
            "beside.py, InputOnSelf.Flow.begin: `return super().begin(graph, self.input)`",
            "first:InputOnSelf.Flow.begin+2#1",
        ),
    ],
)
def test_a_rule_names_the_line(rule: str, adapter: type[Any], line: str, key: str) -> None:
    """What stress misses is caught each time, and the message says where to look and what came in between."""
    for _ in range(3):
        found = finding(rule, adapter)
        assert found.verdict is Verdict.VIOLATED, found.message
        assert f"was parked before {line}" in found.message
        assert "meanwhile" in found.message
        assert f"key: {key}" in found.message


@pytest.mark.parametrize("rule", ["EXE-11", "EXE-15"])
@pytest.mark.parametrize("spec", ["stdlib-threads", "flowcheck_reference.subject:Reference"])
def test_sound_pools_are_swept_and_pass(rule: str, spec: str) -> None:
    """Nor is it vacuous: the history says how many places were tried."""
    found = judged_by_kit(RULES[rule], subjects.load(spec), fresh_harness(), patience=15.0, uncaught=[])
    assert found.verdict is Verdict.PASS, found.message
    assert "swept: parked at " in str(found.evidence["events"][-1]["probe"])


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_threads_below_a_loop_are_parked(backend: str) -> None:
    """Also where the loop library keeps its threads for the next call: with no more than the sweep the deadlock is found."""
    found = finding("STO-19", logs.TwoLocksInTwoOrdersOnThreads, backend)
    assert found.verdict is Verdict.HUNG, found.message
    assert "was parked before logs.py, TwoLocksInTwoOrdersOnThreads" in found.message


def a_lab() -> Lab:
    return Lab(subjects.load("stdlib-threads"))


def test_in_a_rule_a_race_is_a_violation() -> None:
    lab = a_lab()
    with pytest.raises(Violated) as caught:
        lab.sweep(Tally, Tally.add, Tally.add, code=[HERE], judge=two, names=("add()", "another add()"), expected="2")
    assert (caught.value.facts, caught.value.expected) == ("n is 1, not 2", "2")
    assert "add() was parked before" in lab.example
    assert [event.probe for event in caught.value.events or ()] == [
        'add() is parked before test_sweep.py, Tally.add: `self.counts["n"] = count + 1`',
        "another add() returned None; the parked thread goes on",
    ]


def test_in_a_rule_what_goes_wrong_in_sequence_is_another_rules_matter() -> None:
    names = ("add()", "reset()")
    with pytest.raises(Inconclusive, match=r"with no race at all, n is 0, not 2") as caught:
        a_lab().sweep(Tally, Tally.add, Tally.reset, code=[HERE], judge=two, names=names, needs="EXE-01")
    assert caught.value.because_of == "EXE-01"
    with pytest.raises(Violated) as found:
        a_lab().sweep(Tally, Tally.add, Tally.reset, code=[HERE], judge=two, names=names)
    assert found.value.proof == "no timing is in it: the one came after the other"


class Polled:
    """A run that looks again and again whether it may go on; there is one place for the input of all runs."""

    def __init__(self) -> None:
        self.input, self.looks, self.tick = 0, 0, threading.Event()

    def run(self, number: int, looks: int) -> int:
        self.input = number
        for _ in range(looks):
            self.tick.wait(0.03)
        return self.input


def test_who_polls_is_over_before_the_other_begins() -> None:
    """What goes wrong where they overlap is not told as wrong with the one after the other."""

    def own(_: Polled, outcome: Outcome) -> str | None:
        ends = (outcome.first, outcome.rival)
        wrong = [n for n, end in enumerate(ends, 1) if end is not None and end.value != n]
        return f"run {wrong[0]} had another's input" if wrong else None

    def run(number: int) -> Callable[[Polled], int]:
        return lambda world: world.run(number, 4)

    lab = a_lab()
    with pytest.raises(Violated):
        lab.sweep(Polled, run(1), run(2), code=[HERE], judge=own, names=("run 1", "run 2"), needs="EXE-01")
    assert lab.example.startswith("run 1 was parked before test_sweep.py, ")


def test_who_waits_for_the_other_is_beside_it() -> None:
    """Then that is what is told, and no claim is made of the one after the other."""
    lab = a_lab()

    def wrong(_: Any, outcome: Outcome) -> str | None:
        return "it gave something" if outcome.step is None else None

    with pytest.raises(Violated) as caught:
        lab.sweep(
            queue.Queue[int],
            lambda world: world.get(),
            lambda world: world.put(1),
            code=[queue],
            judge=wrong,
            names=("get()", "put()"),
            needs="EXE-01",
        )
    assert caught.value.proof == "no timing is in it: the one had begun, and was not over when the other began"
    assert lab.example == "get() waited for something, and put() began\nthen get() returned 1\nand put() returned None"
    assert lab.exhibits["schedule"]["beside"] is True  # type: ignore[index]


def test_in_a_rule_a_sweep_of_nothing_is_not_testable() -> None:
    def outside(world: Tally) -> None:
        with world.lock:  # whoever calls has locked before the first step that counts
            Executor(1).shutdown()

    lab = a_lab()
    with pytest.raises(NotTestable, match="blocked at each of the"):
        lab.sweep(Tally, outside, outside, code=[Executor], judge=lambda *_: None, names=("one", "other"), limit=20)
    with pytest.raises(NotTestable, match="no step of queue"):
        lab.sweep(Tally, Tally.add, Tally.add, code=[queue], judge=two, names=("one", "other"))


def test_in_a_rule_a_pass_counts_its_schedules() -> None:
    lab = a_lab()
    found = lab.sweep(
        Tally, Tally.add_locked, Tally.add_locked, code=[HERE], judge=two, names=("one", "other"), allowed=(KeyError,)
    )
    assert lab.probes_ran == found.schedules > 2
    assert lab.timeline.names("note") == [f"one against other, swept: {found}"]
    assert isinstance(found, Sweep)
    assert lab.grade == "proven"


def test_in_a_rule_what_was_not_tried_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    class Long(Tally):
        def add_often(self) -> None:
            for _ in range(30):
                self.add_locked()

    monkeypatch.setattr("pytest_flowcheck.probes.lab._SWEEP", 0)
    lab = a_lab()
    found = lab.sweep(Long, Long.add_often, Long.add_often, code=[HERE], judge=lambda *_: None, names=("one", "other"))
    assert (lab.grade, found.schedules) == ("observed", 10)
    assert f"{found.untried} places of one against other were not tried" in lab.observed_because


def test_an_open_future_is_seen_at_rest() -> None:
    """The judge is asked once the subject's own threads rest: what is not done by then never is."""

    class Forgets:
        def __init__(self) -> None:
            self.pool, self.busy = ThreadPoolExecutor(1), False

        def ask(self) -> Future[int]:
            future: Future[int] = Future()
            self.pool.submit(self.answer, future)
            return future

        def answer(self, future: Future[int]) -> None:
            if self.busy:
                return
            self.busy = True
            future.set_result(1)
            self.busy = False

        def close(self) -> None:
            self.pool.shutdown()

    def judge(world: Forgets, outcome: Outcome) -> str | None:
        ends = (outcome.first, outcome.rival)
        return None if all(end and end.value.done() for end in ends) else "a future is forgotten"

    assert not sweep(Forgets, Forgets.ask, Forgets.ask, code=[HERE], judge=judge, leave=Forgets.close)
