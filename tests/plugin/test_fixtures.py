"""Fixtures in a user's own suite: what they find, what they say, what they cost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

CARELESS = """
import asyncio, threading
import pytest

class Server:
    def __init__(self):
        self.loop = asyncio.new_event_loop()  # LINE
        self.thread = threading.Thread(target=self.loop.run_forever, name="server", daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.begin(), self.loop).result()

    async def begin(self):
        self.task = asyncio.create_task(self.serve(), name="serves")

    async def serve(self):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("served")

ended = []
"""
LEAKS = f"""{CARELESS}
@pytest.mark.usefixtures("flowcheck_loops")
def test_careless():
    Server()

def test_what_became_of_it():
    assert ended == ["served"]
    assert [t.name for t in threading.enumerate() if t.name == "server"] == []
"""
LINE = 1 + CARELESS.splitlines().index("        self.loop = asyncio.new_event_loop()  # LINE")


def test_the_example_of_its_page_does_what_the_page_says(theirs) -> None:
    """Word for word, but for the folder."""
    page = Path(__file__).parents[2] / "docs/how-to/find-left-loops.md"
    if not page.exists():
        pytest.skip("needs the source tree, not only the installed package")
    _, python, _, text, *_ = page.read_text().split("```")
    done = theirs(python.removeprefix("python\n"))
    assert done.status == 1, done.output
    for line in text.removeprefix("text\n").replace("/home/me/test_server.py", "theirs/test_theirs.py").splitlines():
        assert line.removeprefix("  event loop made at ") in done.output, line


@pytest.mark.parametrize("mode", [(), ("-n2",)], ids=["alone", "xdist"])
def test_a_test_that_leaves_a_loop_fails_and_the_loop_is_ended(theirs, mode: tuple[str, ...]) -> None:
    """It is told with who made it, its thread and its tasks; the next test finds nothing."""
    done = theirs(LEAKS, *mode, "--maxprocesses=1")
    assert done.status == 1, done.output
    assert "2 passed, 1 error" in done.output
    line, *_ = [line for line in done.output.splitlines() if "event loop made at" in line]
    assert f"test_theirs.py:{LINE} in __init__ runs on thread 'server': task 'serves' (Server.serve)" in line
    assert "the test left an event loop behind:" in done.output
    assert "all of it was ended" in done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("ini", "marker", "status", "warned"),
    [
        ("flowcheck_loops = warn", "", 0, True),
        ("flowcheck_loops = reap", "", 0, False),
        ("", "@pytest.mark.flowcheck_loops(on_leak='warn')", 0, True),
        ("flowcheck_loops = warn", "@pytest.mark.flowcheck_loops(on_leak='fail')", 1, False),
        ("flowcheck_loops = warn\nfilterwarnings = error", "", 1, True),
    ],
)
def test_what_it_does_is_configured(theirs, ini: str, marker: str, status: int, warned: bool) -> None:
    """By project and by test; it is ended in any case."""
    done = theirs(LEAKS.replace("@pytest.mark.usefixtures", f"{marker}\n@pytest.mark.usefixtures"), ini=ini)
    assert done.status == status, done.output
    assert ("LeftBehindWarning: the test left" in done.output) == warned
    assert "2 passed" in done.output, done.output


def test_for_all_tests_by_the_ini_file(theirs) -> None:
    """`usefixtures` there; tests that leave nothing pass, in whichever way they use loops."""
    text = f"""{CARELESS}
import anyio

async def turn():
    await anyio.lowlevel.checkpoint()
    return 1

@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_careful(backend):
    assert anyio.run(turn, backend=backend) == 1

@pytest.mark.anyio
async def test_theirs():
    assert await turn() == 1

@pytest.mark.asyncio
async def test_of_another_plugin():
    assert await turn() == 1

@pytest.mark.asyncio(loop_scope="module")
async def test_on_its_loop_for_the_module():
    assert await turn() == 1

@pytest.fixture(scope="module")
def shared():
    with asyncio.Runner() as runner:
        yield runner

def test_a_loop_of_a_wider_fixture(shared):
    assert shared.run(turn()) == 1

def test_a_task_on_it(shared):
    async def main():
        global task
        task = asyncio.ensure_future(asyncio.Event().wait())
        await turn()
    shared.run(main())

def test_the_loop_goes_on(shared):
    assert task.cancelled()
    assert shared.run(turn()) == 1

def test_kept(flowcheck_loops):
    global server
    server = Server()
    assert len(flowcheck_loops.left()) == 1
    flowcheck_loops.keep(server.loop)
    assert flowcheck_loops.left() == []

def test_reaped_by_hand(flowcheck_loops):
    assert server.loop.is_running()
    Server()
    assert flowcheck_loops.reap() == []
    assert ended == ["served"]
"""
    ini = "usefixtures = flowcheck_loops\nasyncio_default_fixture_loop_scope = function\n"
    done = theirs(text, "-p", "no:randomly", ini=ini, quiet=False)
    assert done.status == 1, done.output
    failed = [line for line in done.output.splitlines() if line.startswith(("FAILED", "ERROR test"))]
    assert [line.split(" - ")[0] for line in failed] == ["ERROR test_theirs.py::test_a_task_on_it"], done.output
    assert "the test left tasks on an event loop behind" in done.output


def test_what_can_not_be_ended_is_told(theirs) -> None:
    """A thread that is stuck in a coroutine costs its limit, and the run goes on."""
    text = f"""{CARELESS}
gate = threading.Event()

@pytest.mark.flowcheck_loops(on_leak="reap", limit=0.05)
@pytest.mark.usefixtures("flowcheck_loops")
def test_careless():
    server = Server()
    server.loop.call_soon_threadsafe(gate.wait)
"""
    done = theirs(text)
    assert (done.status, "its thread is stuck" in done.output) == (0, True), done.output
    assert "could not be ended within 0.05 s:" in done.output


@pytest.mark.parametrize(
    ("ini", "marker", "told"),
    [
        ("flowcheck_loops = fial", "", "flowcheck_loops = 'fial' in"),
        ("", "@pytest.mark.flowcheck_loops(on_leak='x')", "got on_leak='x'; it takes 'fail', 'warn' or 'reap'"),
        ("", "@pytest.mark.flowcheck_loops('warn')", "flowcheck_loops(on_leak='warn')"),
        ("", "@pytest.mark.flowcheck_loops(limit=-1)", "got limit=-1; it takes a number of seconds, more than 0"),
        ("", "@pytest.mark.flowcheck_loops(leak='warn')", "got leak; it takes on_leak and limit"),
    ],
)
def test_bad_settings_get_one_clear_line(theirs, ini: str, marker: str, told: str) -> None:
    """What we got, and what was expected; no traceback."""
    done = theirs(LEAKS.replace("@pytest.mark.usefixtures", f"{marker}\n@pytest.mark.usefixtures"), ini=ini)
    assert done.status == (4 if ini else 1), done.output
    assert told in done.output
    assert "Traceback" not in done.output


def test_fixtures_that_nobody_requests_import_nothing(theirs) -> None:
    """The plugin is there, and the watch is not."""
    done = theirs(
        "import sys\ndef test_it(): assert not [m for m in sys.modules if m.startswith('pytest_flowcheck.proof')]\n"
    )
    assert done.status == 0, done.output


@pytest.mark.skipif(sys.version_info < (3, 12), reason="pytest-run-parallel is for newer Pythons")
def test_beside_itself_in_many_threads(theirs) -> None:
    """pytest-run-parallel runs a test in many threads at once, with the same fixtures."""
    pytest.importorskip("pytest_run_parallel")
    done = theirs(LEAKS, "--parallel-threads=4")
    assert "the test left 4 event loops behind" in done.output, done.output
