"""The laws of proof hold in company: beside xdist, pytest-timeout, coverage and hypothesis, in their very processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

import pytest_flowcheck
from pytest_flowcheck.proof import procfs

pytestmark = pytest.mark.skipif(not procfs.LINUX, reason="proof reads the Linux kernel's thread states")

HERE = Path(__file__).parent
PATH = os.pathsep.join([str(HERE), str(Path(pytest_flowcheck.__path__[0]).parent)])

CONFTEST = """
    import os, sys
    import pytest
    from pytest_flowcheck.proof import Harness, become_subreaper, descendants, kill_tree

    def pytest_configure(config):
        become_subreaper()
        config.harness = Harness.at_start()

    @pytest.fixture(scope="session")
    def harness(request):
        return request.config.harness

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_call(item):
        item.config.harness.between_rules()
        try:
            return (yield)
        finally:
            item.config.harness.rule_ended()

    def carries_subjects(config):
        return hasattr(config, "workerinput") or not config.getoption("numprocesses", None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(session, exitstatus):
        # before xdist hears of it, which gives a worker five seconds from then on
        session.config.status = int(exitstatus)
        if carries_subjects(session.config):
            kill_tree(descendants())

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(config):
        sys.stdout.flush()
        if carries_subjects(config):
            os._exit(config.status)
"""

RULES = '''
    import threading, time
    import pytest
    from controls import clocks, dead, live, outside
    from controls.stage import CONTROLS, Stage, judge
    from pytest_flowcheck.proof import Observer, State

    DEAD = ["nested_pool", "abba", "loop_and_pool", "own_pipe", "shared_semaphore"]
    LIVE = ["event_with_deadline", "call_later", "slow_ping_pong", "busy_c"]

    @pytest.mark.parametrize("name", DEAD)
    def test_dead(name, harness):
        """Proven, though an earlier dead subject's threads are still there."""
        CONTROLS[name].body(Stage())
        report = judge(CONTROLS[name], Observer(harness), 3)
        assert report["right"], report

    def test_nothing_of_a_subject_is_the_harnesss(harness):
        """What earlier rules left is looked at still."""
        assert len(Observer(harness).look().waits) >= 2

    @pytest.mark.parametrize("name", LIVE)
    def test_live(name, harness):
        """Never accused."""
        CONTROLS[name].body(Stage())
        report = judge(CONTROLS[name], Observer(harness), 5)
        assert report["right"], report
'''

PROPERTY = '''
    import threading
    from concurrent.futures import Future
    from hypothesis import given, settings, strategies as st
    from pytest_flowcheck.proof import Observer, State

    @given(st.integers(1, 4), st.booleans())
    @settings(max_examples=15, deadline=None, database=None)
    def test_property(harness, waiting, sleeping):
        """Any number of lost futures is proven, and not one of them beside a thread that has a deadline."""
        futures = [Future() for _ in range(waiting)]
        threads = [threading.Thread(target=future.result, daemon=True) for future in futures]
        stop = threading.Event()
        if sleeping:
            threads.append(threading.Thread(target=stop.wait, args=(30,), daemon=True))
        for thread in threads:
            thread.start()
        sighting = Observer(harness).prove(int)
        while sighting.state is State.RUNNING:
            sighting = Observer(harness).prove(int)
        stop.set()
        for future in futures:
            future.set_result(None)
        for thread in threads:
            thread.join()
        assert sighting.state is (State.TIMERS if sleeping else State.QUIESCENT), sighting
'''

LEFT_OUT = ("-c", os.devnull, "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:flowcheck")


def run(folder: Path, tests: str, *options: str) -> None:
    """The tests in a pytest of their own; they must pass, and there must be some."""
    (folder / "conftest.py").write_text(textwrap.dedent(CONFTEST))
    (folder / "test_rules.py").write_text(textwrap.dedent(tests))
    command = [sys.executable, "-m", "pytest", "-q", f"--rootdir={folder}", *LEFT_OUT, *options, str(folder)]
    printed = folder / "printed"
    with printed.open("w") as output:  # no pipe: a process that is left behind would hold it open
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": PATH},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(280)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert status == 0, printed.read_text()
    assert " passed" in printed.read_text()


COMPANY = [
    pytest.param("pytest", (), id="alone"),
    pytest.param("xdist", ("-n2",), id="xdist"),
    pytest.param("pytest_timeout", ("--timeout=60", "--timeout-method=thread"), id="timeout-thread"),
    pytest.param("pytest_timeout", ("--timeout=60", "--timeout-method=signal"), id="timeout-signal"),
    pytest.param("pytest_cov", ("--cov=controls", "--cov-report="), id="coverage"),
    pytest.param(
        "xdist",
        ("-n2", "--timeout=60", "--timeout-method=signal", "--cov=controls", "--cov-report="),
        id="all-of-them",
    ),
]


@pytest.mark.parametrize(("module", "options"), COMPANY)
def test_verdicts_do_not_depend_on_the_company(tmp_path: Path, module: str, options: tuple[str, ...]) -> None:
    """Dead subjects are proven and live ones are not, whoever else has threads and timers in the process."""
    if find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    run(tmp_path, RULES, *options)


@pytest.mark.parametrize("options", [(), ("-n2",)], ids=["alone", "xdist"])
def test_verdicts_hold_inside_a_property(tmp_path: Path, options: tuple[str, ...]) -> None:
    """A hypothesis test may prove in each of its examples."""
    if find_spec("hypothesis") is None or (options and find_spec("xdist") is None):
        pytest.skip("hypothesis or xdist is not installed")
    run(tmp_path, PROPERTY, *options)
