"""The laws of injected faults: the call that was meant is hit, no other, and what the subject makes of it is seen."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_flowcheck.proof import Fault, ForkServer, Injected, Recording, RecordingError, inject, plans, record
from pytest_flowcheck.proof.strace import TraceError, missing

sys.path.insert(0, str(Path(__file__).parent))
from crashing import NEW, OLD, STORES

PROGRAM = str(Path(__file__).with_name("crashing.py"))

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


class Bench:
    """One store, its recording, and runs with faults over the old state."""

    def __init__(self, name: str, place: Path, server: ForkServer) -> None:
        self.name, self.place, self.server = name, place, server
        self.runs = 0
        folder = self.fresh()
        self.recording: Recording = record([name, str(folder)], folder, server=server)
        assert self.recording.status == 0, self.recording.output
        assert self.recording.limits == []

    def fresh(self) -> Path:
        """A folder that holds the old state."""
        self.runs += 1
        folder = self.place / f"{self.name}-{self.runs}"
        folder.mkdir()
        store = STORES[self.name](folder)
        store.save(OLD)
        store.close()
        return folder

    def inject(self, fault: Fault) -> tuple[Injected, Path]:
        folder = self.fresh()
        return inject([self.name, str(folder)], fault, self.recording, folder, server=self.server), folder

    def load(self, folder: Path) -> str:
        store = STORES[self.name](folder)
        try:
            return {OLD: "old", NEW: "new"}[store.load()]
        finally:
            store.close()


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer([sys.executable, PROGRAM]) as server:
        yield server


@pytest.fixture
def place() -> Iterator[Path]:
    memory = "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


def test_plans_name_each_call_and_what_it_can_meet(place: Path, server: ForkServer) -> None:
    """Each file-changing call of the operation; disk full where space is needed, permission where a name is looked up."""
    faults = plans(Bench("Durable", place, server).recording)
    assert [(fault.number, fault.call) for fault in faults if fault.condition == "KILL"] == [
        (1, "openat"),
        (2, "write"),
        (3, "fsync"),
        (4, "rename"),
        (5, "fsync"),
    ]
    assert Counter(fault.condition for fault in faults) == {"EIO": 5, "ENOSPC": 5, "KILL": 5, "EACCES": 2}
    assert [fault.occurrence for fault in faults if fault.call == "fsync" and fault.condition == "EIO"] == [1, 2]
    assert str(faults[0]) == "EIO at operation 1: create 'state.tmp'"


def test_every_fault_hits_the_call_that_was_meant(place: Path, server: ForkServer) -> None:
    """A careful store survives all of them: the error comes out, the old state is there, and no litter."""
    bench = Bench("Durable", place, server)
    faults = plans(bench.recording)
    assert len(faults) == 17
    for fault in faults:
        injected, folder = bench.inject(fault)
        assert injected.hit, (str(fault), injected.hits)
        assert len(injected.hits) == 1
        assert injected.hits[0].startswith(fault.call + "(")
        if fault.condition == "KILL":
            assert (injected.status, injected.marks) == (-9, ("begin",))
            assert bench.load(folder) == ("new" if fault.number == 5 else "old")
        else:
            kind = "PermissionError" if fault.condition == "EACCES" else "OSError"
            assert (injected.status, injected.marks) == (0, ("begin", f"raised {kind}")), str(fault)
            assert {path.name for path in folder.iterdir()} == {"state"}
            assert bench.load(folder) == ("new" if fault.number == 5 else "old")


def test_a_store_that_swallows_errors_is_seen_to(place: Path, server: ForkServer) -> None:
    """It says that it saved, yet holds the old state, and leaves its temporary file."""
    bench = Bench("Littering", place, server)
    (full,) = [fault for fault in plans(bench.recording) if (fault.call, fault.condition) == ("fsync", "ENOSPC")]
    injected, folder = bench.inject(full)
    assert injected.hit
    assert injected.marks == ("begin", "end")
    assert bench.load(folder) == "old"
    assert {path.name for path in folder.iterdir()} == {"state", "state.tmp"}


def test_a_condition_that_lasts_hits_every_later_call(place: Path, server: ForkServer) -> None:
    """The disk stays full: Python tries thrice to write what it buffered, and each try fails."""
    bench = Bench("Durable", place, server)
    faults = plans(bench.recording, lasting=True)
    assert {fault.call for fault in faults} == {"write", "fsync"}
    (full,) = [fault for fault in faults if (fault.call, fault.condition) == ("write", "ENOSPC")]
    assert str(full) == "ENOSPC from operation 2 on: write 900 bytes at 0 into 'state.tmp'"
    injected, folder = bench.inject(full)
    assert injected.hit
    assert len(injected.hits) > 1
    assert bench.load(folder) == "old"


def test_sqlite_in_c_meets_them_too(place: Path, server: ForkServer) -> None:
    """Native code as well: after each failure the database is sound, and holds one of the two states."""
    bench = Bench("Sqlite", place, server)
    faults = [fault for fault in plans(bench.recording) if fault.condition in ("EIO", "KILL")]
    assert len(faults) == 32
    for fault in faults[::3]:
        injected, folder = bench.inject(fault)
        assert injected.hit, (str(fault), injected.hits)
        loaded = bench.load(folder)
        if "end" in injected.marks:
            assert loaded == "new", str(fault)
        elif fault.condition == "KILL":
            assert loaded == "old", str(fault)


def test_a_call_in_a_thread_is_hit_there(place: Path, server: ForkServer) -> None:
    """strace counts in each thread for itself; a run in which another thread's call was hit is drawn again, or says so."""
    bench = Bench("InAThread", place, server)
    (fault,) = [f for f in plans(bench.recording) if (f.call, f.condition) == ("rename", "EIO")]
    injected, folder = bench.inject(fault)
    assert injected.hit
    assert bench.load(folder) == "old"
    assert not (folder / "state.tmp").exists()


def test_a_miss_is_no_hit(place: Path, server: ForkServer) -> None:
    """Where the call does not come, nothing was shown, and the folder was put back before each draw."""
    bench = Bench("Durable", place, server)
    *_, kill = [fault for fault in plans(bench.recording) if (fault.call, fault.condition) == ("fsync", "KILL")]
    assert kill.occurrence == 2
    injected, folder = bench.inject(replace(kill, occurrence=7))
    assert (injected.hit, injected.hits) == (False, ())
    assert bench.load(folder) == "new"
    injected, folder = bench.inject(replace(kill, occurrence=1))
    assert (injected.hit, len(injected.hits)) == (False, 1)
    assert bench.load(folder) == "old"


def test_a_command_of_its_own_can_be_hit_as_well(place: Path) -> None:
    """Without a server: strace attaches to the child at its mark, and counts from there."""
    script = """
import os, sys
from pathlib import Path
from pytest_flowcheck.proof import mark
os.chdir(sys.argv[1]); Path("early").write_text("x")
mark("begin")
try: Path("late").write_text("x" * int(sys.stdin.read()))
except OSError as error: mark(f"raised {error.strerror}")
mark("end"); print("done")
"""
    argv = [sys.executable, "-c", script]
    folders = [place / "a", place / "b"]
    for folder in folders:
        folder.mkdir()
    recording = record([*argv, str(folders[0])], folders[0], stdin=b"12")
    assert recording.operations == ("create 'late'", "write 12 bytes at 0 into 'late'")
    (fault,) = [f for f in plans(recording) if (f.call, f.condition) == ("write", "ENOSPC")]
    injected = inject([*argv, str(folders[1])], fault, recording, folders[1], stdin=b"12")
    assert injected.hit
    assert injected.marks == ("begin", "raised No space left on device", "end")
    assert (injected.status, injected.output) == (0, "done\n")
    assert (folders[1] / "early").read_text() == "x"


# ------------------------------------------------------------------------------------------------ the fork server


def test_a_run_that_raises_says_so_and_the_next_goes_on(place: Path, server: ForkServer) -> None:
    """Each run is a process of its own: its status and its output are told apart from the next one's."""
    with pytest.raises(RecordingError, match=r"exit status 1, it printed .*KeyError: .*NoSuchStore"):
        record(["NoSuchStore", str(place)], place, server=server)
    assert record(["Durable", str(place)], place, server=server).output == ""


def test_a_server_that_does_not_start_says_what_it_printed() -> None:
    """No waiting for what never comes."""
    with (
        pytest.raises(TraceError, match=r"status 3 before it called serve\(\); it printed: 'oh no"),
        ForkServer([sys.executable, "-c", "print('oh no'); raise SystemExit(3)"]),
    ):
        pass


def test_a_run_that_never_ends_is_killed(place: Path) -> None:
    """Patience is a guard; the server is gone with the run."""
    program = """
from pytest_flowcheck.proof import mark, serve
import select
serve(lambda arguments: (mark("begin"), select.select([], [], [])))
"""
    with (
        ForkServer([sys.executable, "-c", program]) as server,
        pytest.raises(RecordingError, match=r"did not end in|outlived patience"),
    ):
        record([], place, server=server, patience=0.5)
