"""The fixture `flowcheck_crash`: what a crash can leave is shown, told, and never passed for nothing."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from saving import careless_on_a_loop, in_place, maps_it, on_a_loop, raises, reads, replaced

from pytest_flowcheck.fixtures.crash import Crash
from pytest_flowcheck.proof import strace

OLD, NEW = {"n": 1}, {"n": 2}

needs_strace = pytest.mark.skipif(strace.missing() is not None, reason=str(strace.missing()))


def look(folder: Path) -> None:
    assert json.loads((folder / "state").read_text()) in (OLD, NEW)


def is_new(folder: Path) -> None:
    assert json.loads((folder / "state").read_text()) == NEW


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "state").write_text(json.dumps(OLD))
    return tmp_path


@needs_strace
def test_a_sound_save_passes_and_says_how_much_was_looked_at(flowcheck_crash: Crash, place: Path) -> None:
    """All states, those of faults too; the folder itself stays as it is."""
    survey = flowcheck_crash(replaced, place, NEW, check=look, durable=is_new, faults=True)
    assert survey.states > 20
    assert survey.operations[-1] == "fsync folder '.'"
    assert survey.left_out == ()
    assert {path.name: path.read_text() for path in place.iterdir()} == {"state": json.dumps(OLD)}


@needs_strace
def test_a_state_that_is_wrong_is_told(flowcheck_crash: Crash, place: Path, tmp_path_factory: Any) -> None:
    """The error is that of the check; its note tells the state, and where it is. A kill is enough here, so it is told first."""
    with pytest.raises(json.JSONDecodeError) as caught:
        flowcheck_crash(in_place, place, NEW, check=look)
    (note,) = caught.value.__notes__
    assert "when the process was killed (it had not returned):\n  1. truncate 'state'" in note
    kept = Path(note.rpartition("The folder that this left: ")[2])
    assert (kept / "state").read_text() == ""
    assert kept.is_relative_to(tmp_path_factory.getbasetemp())


@needs_strace
def test_what_returned_must_stay(flowcheck_crash: Crash, place: Path) -> None:
    """`durable` is asked of what a power loss leaves after the return; of a kill there is nothing wrong with it."""
    careless = functools.partial(replaced, folder_too=False)
    survey = flowcheck_crash(careless, place, NEW, check=look, durable=is_new, model="kill", limit=3)
    assert survey.states <= 3
    assert "states: the limit is 3" in survey.left_out[0]
    with pytest.raises(AssertionError) as caught:
        flowcheck_crash(careless, place, NEW, check=look, durable=is_new)
    assert "when the power failed (it had returned)" in caught.value.__notes__[0]


@needs_strace
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_from_async_tests(flowcheck_crash: Crash, place: Path, anyio_backend: str) -> None:
    """On the test's own library, with checks that may be async, while the loop goes on."""

    async def check(folder: Path) -> None:
        await anyio.lowlevel.checkpoint()
        look(folder)

    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with anyio.create_task_group() as group:
        group.start_soon(turn)
        survey = await flowcheck_crash.aio(on_a_loop, place, NEW, anyio_backend, check=check, durable=is_new)
        group.cancel_scope.cancel()
    assert survey.states > 5
    assert turns > survey.states
    if anyio_backend == "asyncio":
        return
    with pytest.raises(json.JSONDecodeError):
        await flowcheck_crash.aio(careless_on_a_loop, place, NEW, check=check, model="kill")


@needs_strace
def test_as_loops(flowcheck_crash: Crash, place: Path) -> None:
    """States and faults, each with its story; an async operation from a plain test on the loop that is named."""
    states = returned = 0
    for state in flowcheck_crash.states(on_a_loop, place, NEW, "trio", backend="trio"):
        look(state.folder)
        states += 1
        assert state.model in {"kill", "power"}
        assert state.raised is None
        returned += state.returned
    assert states > returned > 0
    assert not state.folder.exists()
    conditions = set()
    for fault in flowcheck_crash.faults(replaced, place, NEW):
        look(fault.folder)
        assert fault.model == "fault"
        assert not fault.returned
        assert fault.raised is not None
        conditions.add(fault.raised.partition("]")[0])
    assert conditions == {"OSError: [Errno 5", "OSError: [Errno 28", "PermissionError: [Errno 13"}


@needs_strace
@pytest.mark.parametrize(
    ("operation", "args", "told"),
    [
        (reads, (), "reads changed nothing in the folder that it was given"),
        (raises, (), "not today, recorded"),
        (lambda folder: folder, (), "takes what another process can import: a function at the top of a module"),
        (in_place, (lambda: 0,), "arguments that can be pickled"),
    ],
)
def test_nothing_to_look_at_is_no_pass(
    flowcheck_crash: Crash, place: Path, operation: Callable[..., None], args: tuple[Any, ...], told: str
) -> None:
    """An operation that writes nothing, raises, or can't be run."""
    with pytest.raises(pytest.fail.Exception) as caught:
        flowcheck_crash(operation, place, *args, check=look)
    assert told in str(caught.value)


@needs_strace
def test_what_can_t_be_told_is_no_verdict(flowcheck_crash: Crash, place: Path) -> None:
    """What a mapped file holds after a crash is not known: where only that is wrong, the test is skipped, or fails."""

    def check(folder: Path) -> None:
        if (folder / "mapped").exists():
            assert (folder / "mapped").read_bytes() in (b"", bytes(4), b"done")

    with pytest.raises(pytest.skip.Exception, match=r"mapped: mapped into memory.*with some contents"):
        flowcheck_crash(maps_it, place, check=check)
    with pytest.raises(pytest.fail.Exception, match="mapped: mapped into memory"):
        next(flowcheck_crash.states(maps_it, place, unable="fail"))


def test_without_strace(flowcheck_crash: Crash, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, and a skip unless a failure was asked for."""
    monkeypatch.setattr(strace, "missing", lambda: "strace is not on the PATH")
    with pytest.raises(pytest.skip.Exception, match=r"^flowcheck_crash can't tell: strace is not on the PATH$"):
        flowcheck_crash(replaced, place, NEW, check=look)
    with pytest.raises(pytest.fail.Exception, match=r"^flowcheck_crash can't tell: strace is not on the PATH$"):
        flowcheck_crash(replaced, place, NEW, check=look, unable="fail")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"model": "fire"}, "flowcheck_crash got model='fire'; it takes 'power' or 'kill'"),
        ({"limit": 0}, "got limit=0; it takes a number of states, 1 or more"),
        ({"modle": "kill"}, "got modle; it takes model, backend, limit"),
        ({"backend": "curio"}, "got backend='curio'; it takes 'asyncio' or 'trio'"),
        ({"unable": "pass"}, "got unable='pass'; it takes 'skip' or 'fail'"),
        ({"folder": "nowhere"}, "got 'nowhere', which is no folder"),
        ({"operation": 3}, "got 3; it takes a function, and then the folder in which it works"),
    ],
)
def test_bad_input_gets_one_clear_line(
    flowcheck_crash: Crash, place: Path, given: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What we got, and what was expected."""
    monkeypatch.setattr(strace, "missing", lambda: "it is not there")
    operation, folder = given.pop("operation", replaced), given.pop("folder", place)
    with pytest.raises(pytest.fail.Exception) as caught:
        flowcheck_crash(operation, folder, NEW, check=look, **given)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


OTHERS = """
import pytest

def scratches(folder):
    (folder / "log").write_text("one")
    (folder / "log").write_text("two")

def test_fails_in_a_loop(tmp_path, flowcheck_crash):
    for state in flowcheck_crash.states(scratches, tmp_path, model="kill"):
        assert state.folder.name != "3"

def test_passes_in_a_loop(tmp_path, flowcheck_crash):
    for state in flowcheck_crash.states(scratches, tmp_path, model="kill"):
        last = state
    assert last.returned
"""


@needs_strace
def test_the_examples_of_its_page_and_what_a_report_tells(theirs) -> None:
    """Word for word but for the folder; below xdist, in pytest's import mode `importlib`."""
    page = Path(__file__).parents[2] / "docs/how-to/survive-crashes.md"
    if not page.exists():
        pytest.skip("needs the source tree, not only the installed package")
    _, python, _, text, *rest = page.read_text().split("```")
    loops = next(block for block in rest if block.startswith("python\n"))
    loops = loops.replace("def save(", "def log(").replace("(save,", "(log,").replace("async def test", ANYIO)
    blocks = [python.removeprefix("python\n"), loops.removeprefix("python\n"), OTHERS]
    done = theirs("\n".join(blocks), "-n2", "--maxprocesses=1", "--import-mode=importlib", "-p", "anyio", "-v")
    assert done.status == 1, done.output
    *lines, _folder = text.removeprefix("text\n").strip().splitlines()
    for line in lines:
        assert line in done.output, (line, done.output)
    assert "2 failed, 3 passed" in done.output, done.output
    _, told = done.output.split("- flowcheck_crash -")
    assert "  1. create 'log'\n  killed in operation 2, when 1 of 3 bytes were written\n" in told


ANYIO = """import pytest


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test"""


def test_the_ini_key_says_what_to_do_where_nothing_can_be_told(theirs) -> None:
    """Without strace on the PATH; and a word that makes no sense is refused."""
    text = """
def test_it(tmp_path, flowcheck_crash, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    flowcheck_crash(print, tmp_path, check=print)
"""
    done = theirs(text, ini="flowcheck_unable = fail")
    assert (done.status, "flowcheck_crash can't tell: strace is not on the PATH" in done.output) == (1, True), (
        done.output
    )
    assert "Traceback" not in done.output
    done = theirs(text, ini="flowcheck_unable = pass")
    assert done.status == 4, done.output
    assert "flowcheck_unable = 'pass' in" in done.output
