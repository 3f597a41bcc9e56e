"""The laws of crash states: what a crash can leave is found, what it can't is not accused, and the model says what it can't see.

The stores are in `crashing.py`. Each is recorded once, below strace, and its own `load` judges its states, in one process.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_flowcheck.proof import CrashState, ForkServer, Recording, RecordingError, record, strace
from pytest_flowcheck.proof.crash import Model
from pytest_flowcheck.proof.strace import missing, parse

sys.path.insert(0, str(Path(__file__).parent))
from crashing import NEW, OLD, STORES

PROGRAM = str(Path(__file__).with_name("crashing.py"))

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is such a place: thousands of states are written."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if os.access(place, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer([sys.executable, PROGRAM]) as server:
        yield server


@dataclass
class Judged:
    """A recorded store, and what its `load` says of each state: `old`, `new`, or `bad: ...`."""

    recording: Recording
    answers: dict[Model, list[tuple[CrashState, str]]] = field(default_factory=dict)

    def bad(self, model: Model) -> list[CrashState]:
        return [state for state, answer in self.answers[model] if answer not in ("old", "new")]

    def forgotten(self, model: Model) -> list[CrashState]:
        """States in which the save had returned, and yet the old state loads."""
        return [state for state, answer in self.answers[model] if state.returned and answer == "old"]

    def counts(self, model: Model) -> Counter[str]:
        return Counter(answer.partition(":")[0] for _, answer in self.answers[model])


@pytest.fixture(scope="module")
def judged(memory: Path, server: ForkServer) -> Iterator[Callable[[str], Judged]]:
    """Records a store and judges all of its states; each store once."""
    known: dict[str, Judged] = {}
    judge = subprocess.Popen(
        [sys.executable, PROGRAM, "judge"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert judge.stdin is not None
    assert judge.stdout is not None

    def answer(name: str, state: CrashState) -> str:
        assert judge.stdin is not None
        assert judge.stdout is not None
        place = memory / "state"
        state.put(place)
        judge.stdin.write(json.dumps([name, str(place)]) + "\n")
        judge.stdin.flush()
        said = json.loads(judge.stdout.readline())
        shutil.rmtree(place)
        return said

    def judged(name: str) -> Judged:
        if name not in known:
            folder = memory / name
            folder.mkdir()
            known[name] = one = Judged(record([name, str(folder), OLD], folder, server=server))
            assert one.recording.status == 0, one.recording.output
            for model in ("kill", "power"):
                one.answers[model] = [(state, answer(name, state)) for state in one.recording.states(model)]
        return known[name]

    with judge:
        yield judged
        judge.stdin.close()


def told(states: list[CrashState]) -> str:
    return "\n\n".join("\n".join(state.story) for state in states[:3])


# ------------------------------------------------------------------------------------------------ real stores


def test_a_plain_write_loses_both_states(judged: Callable[[str], Judged]) -> None:
    """Killed between truncating and writing, the file is empty; killed in the write, it is half."""
    plain = judged("Plain")
    assert plain.recording.operations == ("truncate 'state' to 0 bytes", "write 900 bytes at 0 into 'state'")
    bad = plain.bad("kill")
    assert bad[0].story == ("1. truncate 'state' to 0 bytes", "killed after operation 1")
    assert bad[0].files == {"state": b""}
    assert {len(state.files["state"]) for state in bad} == {0, 1, 225, 450, 512, 675, 899}
    assert len(plain.bad("power")) > len(bad)


@pytest.mark.parametrize("name", ["Replaced", "FromElsewhere", "InAProcess"])
def test_a_rename_without_sync_is_safe_from_kills_only(judged: Callable[[str], Judged], name: str) -> None:
    """The classic empty file: the rename reaches the disk before the data, wherever the file was written and by whom."""
    store = judged(name)
    assert store.bad("kill") == []
    assert store.counts("kill")["new"] == 2  # before and after the save has returned
    assert any(state.files["state"] == b"" for state in store.bad("power")), store.recording.operations
    assert any(state.files["state"] == bytes(900) for state in store.bad("power"))
    assert store.recording.limits == []


@pytest.mark.parametrize("name", ["Durable", "InAThread", "SqliteExtra"])
def test_a_durable_store_is_never_accused(judged: Callable[[str], Judged], name: str) -> None:
    """File synced, replaced, folder synced: either state at any crash, and the new one once the save has returned."""
    store = judged(name)
    for model in ("kill", "power"):
        assert told(store.bad(model)) == ""
        assert told(store.forgotten(model)) == ""
        assert store.counts(model)["old"] > 3
        assert store.counts(model)["new"] >= 2
    assert store.recording.limits == store.recording.left_out == []


def test_without_sync_of_the_folder_a_save_may_be_forgotten(judged: Callable[[str], Judged]) -> None:
    """Nothing is torn, but after the return the old state may come back."""
    store = judged("SyncedFile")
    assert store.bad("kill") == store.bad("power") == []
    assert store.forgotten("kill") == []
    assert [state.story[-2:] for state in store.forgotten("power")] == [
        ("power lost after operation 4", "folder '.': as before operation 1"),
        ("power lost after operation 4", "folder '.': as before operation 4"),
    ]


def test_sqlite_with_full_sync_is_sound_and_without_it_is_not(judged: Callable[[str], Judged]) -> None:
    """SQLite's own promise, and so a check of the model: FULL never corrupts, OFF does at a power loss only.

    FULL does not sync the folder after it has removed the journal: so the last transaction may be rolled back, which is
    what EXTRA is for.
    """
    full, off = judged("Sqlite"), judged("SqliteOff")
    assert told(full.bad("kill")) == told(full.bad("power")) == ""
    assert len(full.answers["power"]) > 60
    assert [state.story[-1] for state in full.forgotten("power")] == ["folder '.': as before operation 16"]
    assert told(off.bad("kill")) == ""
    assert len([state for state in off.bad("power") if not state.within_sector]) > 50
    assert full.recording.footprint.synced == 4
    assert off.recording.footprint.synced == 0
    assert full.recording.limits == off.recording.limits == full.recording.left_out == []


def test_sqlite_with_a_write_ahead_log_is_sound_whatever_its_memory_holds(judged: Callable[[str], Judged]) -> None:
    """The `-shm` file is mapped, so what it holds is not seen: no content of it spoils a load."""
    full, off = judged("SqliteWal"), judged("SqliteWalOff")
    assert full.recording.mapped == off.recording.mapped == ("db-shm",)
    assert full.recording.limits == []
    assert all(state.supposed for state, _ in full.answers["power"])
    assert any("mapped" in line and "noise" in line for state, _ in full.answers["power"] for line in state.story)
    for store in (full, off):
        assert told(store.bad("kill")) == told(store.bad("power")) == ""
        assert store.forgotten("kill") == []
    assert full.forgotten("power") == []
    assert off.forgotten("power") != []


def test_a_shelf_is_torn_by_a_kill(judged: Callable[[str], Judged]) -> None:
    """dbm.dumb overwrites data in place, and writes its index anew, twice."""
    answers = Counter(answer.split(":")[1].strip() for _, answer in judged("Shelf").answers["kill"] if ":" in answer)
    assert {"KeyError", "FileNotFoundError", "SyntaxError", "UnpicklingError"} <= answers.keys()
    whole = [state for state in judged("Shelf").bad("kill") if not state.within_sector]
    assert len(whole) >= 5  # without any torn sector


def test_a_line_in_two_writes_can_be_cut_between_them(judged: Callable[[str], Judged]) -> None:
    """One write can be torn anywhere; two can be cut at a place that no torn write explains."""
    one, two = judged("Log"), judged("LogInTwo")
    assert [state.story[-1] for state in two.bad("kill") if "in operation" not in state.story[-1]] == [
        "killed after operation 1"
    ]
    assert all("in operation 1" in state.story[-1] for state in one.bad("kill"))
    # reordered: the newline is there, and zeroes where the line should be
    assert any(b"\0" in state.files["state"] for state in two.bad("power"))


def test_operations_of_threads_and_processes_are_told(judged: Callable[[str], Judged]) -> None:
    """What a thread writes beside stands in the story, what the shell does too, with its working directory."""
    assert "write 10 bytes at 0 into 'beside'" in judged("InAThread").recording.operations
    assert judged("InAProcess").recording.operations == (
        "create 'state.tmp'",
        "write 900 bytes at 0 into 'state.tmp'",
        "rename 'state.tmp' to 'state'",
    )


@pytest.mark.parametrize("name", sorted(STORES))
def test_each_state_comes_once_and_its_key_says_so(judged: Callable[[str], Judged], name: str) -> None:
    """Keys tell states apart; the states of a kill are among those of a power loss; the first is the begin."""
    store = judged(name)
    keys = {model: [state.key for state, _ in answers] for model, answers in store.answers.items()}
    assert all(len(found) == len(set(found)) for found in keys.values())
    assert set(keys["kill"]) <= set(keys["power"])
    first = store.answers["kill"][0][0]
    assert (first.passed, first.returned) == (("begin",), False)
    last = store.answers["kill"][-1][0]
    assert (last.passed, last.returned) == (("begin", "end"), True)


def test_a_state_is_put_as_it_was(judged: Callable[[str], Judged], tmp_path: Path) -> None:
    """The last state without loss is the folder itself; a folder that holds something is refused."""
    recording = judged("Sqlite").recording
    states = list(recording.states("kill"))
    states[-1].put(tmp_path / "new")
    assert {p.name: p.read_bytes() for p in (tmp_path / "new").iterdir()} == states[-1].files
    assert states[-1].files == {p.name: p.read_bytes() for p in recording.folder.iterdir()}
    with pytest.raises(FileExistsError, match="empty folder"):
        states[0].put(tmp_path / "new")


def test_the_footprint_counts(judged: Callable[[str], Judged]) -> None:
    """Bytes, syncs, and names that came and went."""
    footprint = judged("Durable").recording.footprint
    assert (footprint.written, footprint.synced, footprint.left, footprint.gone) == (900, 2, (), ())


# ------------------------------------------------------------------------------------------------ the model


@pytest.fixture
def ran(memory: Path) -> Iterator[Callable[..., Recording]]:
    """Records a few lines of Python, given `folder`, in a folder of their own."""
    with tempfile.TemporaryDirectory(dir=memory) as place:
        folder = Path(place, "recorded")
        folder.mkdir()

        def ran(code: str, before: str = "", after: str = "") -> Recording:
            imports = "import os, sys, mmap, shutil, subprocess\nfrom pytest_flowcheck.proof import mark\n"
            script = f"{imports}folder = sys.argv[1]; os.chdir(folder)\n{before}\nmark('begin')\n{code}\nmark('end')\n{after}"
            recording = record([sys.executable, "-c", script, str(folder)], folder)
            assert recording.status == 0, recording.output
            return recording

        yield ran


def contents(recording: Recording, model: Model) -> set[tuple[tuple[str, bytes], ...]]:
    return {tuple(sorted(state.files.items())) for state in recording.states(model)}


def test_every_way_to_write_is_understood(ran: Callable[..., Recording]) -> None:
    """The model's last tree is the folder's: offsets, appends, gathered writes, copies, holes, links, renames."""
    recording = ran(
        """
fd = os.open("a", os.O_RDWR | os.O_CREAT)
os.write(fd, b"0123456789"); os.lseek(fd, 2, 0); os.read(fd, 3); os.write(fd, b"X")
os.pwrite(fd, b"YY", 20); os.writev(fd, [b"uv", b"w"]); os.pwritev(fd, [b"p", b"q"], 30)
other = os.dup(fd); os.write(other, b"Z"); os.close(fd); os.write(other, b"!"); os.ftruncate(other, 28)
appending = os.open("a", os.O_WRONLY | os.O_APPEND); os.write(appending, b"end")
os.posix_fallocate(other, 0, 40)
shutil.copyfile("a", "b"); os.link("b", "c"); os.symlink("c", "d"); os.mkdir("f"); os.rename("c", "f/c")
with open("d0", "wb") as file: file.write(b"dangling")
with open("ä \\n'<>,", "w") as file: file.write("named")
with open(b"\\xff", "w") as file: file.write("bytes")
os.symlink(os.path.join(folder, "d0"), "absolute")
with open("absolute", "ab") as file: file.write(b" no more")
source = os.open("a", os.O_RDONLY); os.lseek(source, 4, 0)
os.copy_file_range(source, other, 6, None, 50)
held = os.open("f", os.O_RDONLY); fd = os.open("inner", os.O_WRONLY | os.O_CREAT, dir_fd=held); os.write(fd, b"i")
os.rename("inner", "moved", src_dir_fd=held, dst_dir_fd=held)
os.replace("f/moved", "f/../up"); os.remove("b"); os.truncate("up", 3)
os.mkdir("g"); os.rmdir("g"); os.chmod("up", 0o640)
""",
    )
    assert recording.limits == []
    last = list(recording.states("kill"))[-1]
    assert last.files == {
        name: (recording.folder / name).read_bytes()
        for name in ("a", "d0", "f/c", "up", "ä \n'<>,", os.fsdecode(b"\xff"))
    }
    assert last.files["up"] == b"i\0\0"
    assert last.files["a"][:11] == b"01234XuvwZ!"
    assert last.files["a"][20:22] + last.files["a"][28:31] + last.files["a"][50:] == b"YYend4XuvwZ"


def test_hard_links_and_absolute_links_survive_the_move(ran: Callable[..., Recording], tmp_path: Path) -> None:
    """Two names of one file are so in the state as well, modes too; a link into the folder leads into the new one."""
    recording = ran(
        "open('a', 'w').write('x'); os.chmod('a', 0o640); os.link('a', 'b'); os.symlink(folder + '/a', 'c')"
    )
    list(recording.states("kill"))[-1].put(tmp_path / "put")
    assert (tmp_path / "put/a").samefile(tmp_path / "put/b")
    assert (tmp_path / "put/c").readlink() == tmp_path / "put/a"
    assert (tmp_path / "put/a").stat().st_mode & 0o777 == 0o640


def test_a_descriptor_that_was_used_again_is_not_mistaken(ran: Callable[..., Recording]) -> None:
    """A pipe that got a file's number, here or in a program that was started, has nothing to do with the file."""
    other = "import os; read, write = os.pipe(); os.write(write, b'12345'); os.read(read, 5)"
    recording = ran(
        f"""
fds = [os.open(name, os.O_WRONLY | os.O_CREAT) for name in "abc"]
os.write(fds[0], b"file"); os.write(fds[1], b"file"); os.close(fds[1]); os.close(fds[2])
read, write = os.pipe(); os.write(write, b"pipe"); os.read(read, 4)
subprocess.run([sys.executable, "-c", {other!r}], check=True)
os.write(fds[0], b" and more")
"""
    )
    assert recording.limits == []
    assert recording.operations[3:] == (
        "write 4 bytes at 0 into 'a'",
        "write 4 bytes at 0 into 'b'",
        "write 9 bytes at the end into 'a'",
    )


def test_o_sync_and_sync_make_durable(ran: Callable[..., Recording]) -> None:
    """Data written through O_DSYNC, and all before sync(2), can't be lost any more; a name still can."""
    recording = ran(
        """
fd = os.open("a", os.O_WRONLY | os.O_DSYNC); os.write(fd, b"new")
open("b", "w").write("b"); os.sync()
open("c", "w").write("c")
""",
        before="open('a', 'w').write('old')",
    )
    after = [dict(state.files) for state in recording.states("power") if state.returned]
    assert {files["a"] for files in after} == {b"new"}
    assert {files["b"] for files in after} == {b"b"}
    assert {files.get("c") for files in after} == {None, b"", b"c", b"\0"}


def test_reordered_writes_and_late_truncation(ran: Callable[..., Recording]) -> None:
    """Of three un-synced writes any may be missing; a truncation may reach the disk before, or after, the data."""
    recording = ran(
        "fd = os.open('a', os.O_RDWR); os.pwrite(fd, b'X', 0); os.pwrite(fd, b'Y', 1); os.pwrite(fd, b'Z', 2)",
        before="open('a', 'w').write('old')",
    )
    found = {dict(files)["a"] for files in contents(recording, "power")}
    assert found == {bytes(one) for one in itertools.product(b"oX", b"lY", b"dZ")}
    assert {dict(files)["a"] for files in contents(recording, "kill")} == {b"old", b"Xld", b"XYd", b"XYZ"}
    # all three lie in one sector: hardware that writes sectors whole keeps their order
    plain = {state.files["a"] for state in recording.states("power") if not state.within_sector}
    assert plain == {b"old", b"Xld", b"XYd", b"XYZ"}


def test_writes_to_different_sectors_come_in_any_order(ran: Callable[..., Recording]) -> None:
    """The later one without the earlier one needs no torn sector there."""
    recording = ran(
        "fd = os.open('a', os.O_RDWR); os.pwrite(fd, b'X', 0); os.pwrite(fd, b'Y', 512)",
        before="open('a', 'wb').write(bytes(1000))",
    )
    states = {(state.files["a"][:1], state.files["a"][512:513]): state for state in recording.states("power")}
    assert {key for key, state in states.items() if not state.within_sector} == {
        *((b"\0", b"\0"), (b"X", b"\0"), (b"\0", b"Y"), (b"X", b"Y"))
    }


def test_reordered_truncation(ran: Callable[..., Recording]) -> None:
    """The file may be cut early, with none of the new data, or late, with the old end behind it."""
    recording = ran("open('a', 'w').write('n')", before="open('a', 'w').write('old')")
    assert {dict(files)["a"] for files in contents(recording, "power")} == {b"old", b"", b"n", b"nld", b"\0"}


def test_a_rename_between_folders_is_atomic_and_orders_both(ran: Callable[..., Recording]) -> None:
    """The file is in exactly one of the two; syncing one of them settles the rename in both."""
    code = "os.rename('x/f', 'y/f'); open('x/g', 'w').close(); open('y/h', 'w').close()"
    before = "os.mkdir('x'); os.mkdir('y'); open('x/f', 'w').close()"
    names = {frozenset(state.files) for state in ran(code, before).states("power")}
    both = frozenset(
        frozenset(one) for one in (["x/f"], ["y/f"], ["y/f", "x/g"], ["y/f", "y/h"], ["y/f", "x/g", "y/h"])
    )
    assert names == both


def test_syncing_one_folder_settles_a_rename_from_another(ran: Callable[..., Recording]) -> None:
    """What came before the rename in the other folder is settled with it."""
    recording = ran(
        "open('x/early', 'w').close(); os.rename('x/f', 'y/f'); os.fsync(os.open('y', os.O_RDONLY))",
        before="os.mkdir('x'); os.mkdir('y'); open('x/f', 'w').close()",
    )
    assert {frozenset(state.files) for state in recording.states("power") if state.returned} == {
        frozenset(["x/early", "y/f"])
    }


def test_a_new_folder_that_is_not_synced_takes_all_with_it(ran: Callable[..., Recording]) -> None:
    """Strictly: neither the file's sync nor the inner folder's makes the name of the inner folder durable."""
    recording = ran(
        """
os.mkdir("in"); fd = os.open("in/f", os.O_CREAT | os.O_WRONLY); os.write(fd, b"f"); os.fsync(fd)
os.fsync(os.open("in", os.O_RDONLY))
"""
    )
    assert {frozenset(state.files) for state in recording.states("power") if state.returned} == {
        frozenset(),
        frozenset(["in/f"]),
    }


def test_an_unnamed_file_gets_its_name_at_once(ran: Callable[..., Recording], memory: Path) -> None:
    """O_TMPFILE and linkat: there is no state with a half-written name."""
    if memory.parent != Path("/dev/shm"):
        pytest.skip("O_TMPFILE needs a file system that has it")
    recording = ran(
        """
fd = os.open(".", os.O_TMPFILE | os.O_RDWR); os.write(fd, b"whole"); os.fsync(fd)
os.link(f"/proc/self/fd/{fd}", "a", src_dir_fd=os.open("/", os.O_RDONLY), follow_symlinks=True)
"""
    )
    assert recording.limits == []
    assert contents(recording, "power") == {(), (("a", b"whole"),)}


def test_marks_in_a_row_make_no_states_of_their_own(ran: Callable[..., Recording]) -> None:
    """A child may say a lot by marks at its end: that alone makes no state more."""
    few, many = (
        ran(
            "open('a', 'w').write('1')",
            "for name in os.listdir(): os.remove(name)",
            f"for n in range({n}): mark(str(n))",
        )
        for n in (0, 50)
    )
    for model in ("kill", "power"):
        assert len(list(few.states(model))) == len(list(many.states(model)))
    assert next(state for state in many.states("kill") if state.returned).passed[-1] == "49"


def test_marks_tell_how_far_the_child_was(ran: Callable[..., Recording]) -> None:
    """Each mark that was passed stands in the states: several saves can be judged in one recording."""
    recording = ran(
        "open('a', 'w').write('1'); mark('one'); open('a', 'w').write('2')",
        after="open('b', 'w').close(); mark('closed')",
    )
    assert recording.marks == ("begin", "one", "end", "closed")
    seen = {(state.passed, state.files.get("a")) for state in recording.states("kill")}
    assert (("begin",), b"") in seen
    assert (("begin", "one"), b"1") in seen
    assert (("begin", "one"), b"2") in seen
    assert (("begin", "one", "end"), b"2") in seen
    assert (("begin", "one", "end"), b"1") not in seen
    assert recording.returned == 4
    assert len(recording.operations) == 5
    assert any("(one)" in line for state in recording.states("kill") for line in state.story)


# ------------------------------------------------------------------------------------------------ what is not seen


def test_a_mapping_is_named_and_its_states_prove_nothing(ran: Callable[..., Recording]) -> None:
    """What is stored into memory leaves no system call: every state with that file is only supposed."""
    recording = ran(
        """
with open("m", "w+b") as file:
    file.truncate(8)
    with mmap.mmap(file.fileno(), 8) as memory: memory[:4] = b"data"
open("other", "w").write("x")
"""
    )
    assert recording.mapped == ("m",)
    assert recording.limits == []
    held = {state.files["m"] for state in recording.states("kill") if "m" in state.files}
    assert {bytes(8), b"data" + bytes(4)} < held
    assert all(state.supposed == ("m" in state.files) for state in recording.states("kill"))


def test_what_others_do_to_the_folder_is_a_limit(memory: Path) -> None:
    """A change that no traced call explains is found, since the last tree is compared with the model's."""
    folder = memory / "changed"
    folder.mkdir()
    (folder / "there").write_text("x")
    helper = f"input(); open({str(folder / 'by-another')!r}, 'w').close()"
    with subprocess.Popen([sys.executable, "-c", helper], stdin=subprocess.PIPE) as other:
        # a server that does something on the child's behalf is not traced
        script = f"""
import os, select
from pytest_flowcheck.proof import mark
mark("begin"); mark("end")
with open("/proc/{other.pid}/fd/0", "w") as line: line.write("\\n")
select.select([os.pidfd_open({other.pid})], [], [])
"""
        recording = record([sys.executable, "-c", script], folder)
    assert recording.status == 0, recording.output
    assert recording.limits == ["'by-another' is there at last, but no system call seen made it"]


def test_missing_marks_are_an_error_that_tells_what_the_child_said(tmp_path: Path) -> None:
    """No empty recording passes for one without operations."""
    with pytest.raises(RecordingError, match=r"did not pass mark\('begin'\).*exit status 3.*it printed 'hello"):
        record([sys.executable, "-c", "print('hello'); raise SystemExit(3)"], tmp_path)
    begun = "from pytest_flowcheck.proof import mark; mark('begin'); raise SystemExit('no')"
    with pytest.raises(RecordingError, match=r"did not pass mark\('end'\): marks \['begin'\]"):
        record([sys.executable, "-c", begun], tmp_path)


def test_a_child_that_never_ends_is_killed(tmp_path: Path) -> None:
    """Patience is a guard: the child and what it started are gone, and the error says why."""
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=open('/dev/ptmx'))"
    with pytest.raises(RecordingError, match=r"did not end in 0\.5 s"):
        record([sys.executable, "-c", script], tmp_path, patience=0.5)


def test_what_was_left_out_is_said(ran: Callable[..., Recording]) -> None:
    """Too many combinations are not made in silence; kills are still all there."""
    recording = ran(
        """
files = [os.open(name, os.O_CREAT | os.O_WRONLY) for name in "abcd"]
for fd in files * 3: os.write(fd, b"0123456789" * 10)
""",
        before="pass",
    )
    states = sum(1 for _ in recording.states("power", bound=100))
    assert any("pairs were looked at" in line for line in recording.left_out), recording.left_out
    assert 1000 < states < 60_000
    assert {s.key for s in recording.states("kill")} <= {s.key for s in recording.states("power", bound=100)}


def test_a_large_file_in_many_writes_does_not_fill_the_memory(ran: Callable[..., Recording]) -> None:
    """Fewer writes are torn and reordered then, which is said; a kill's states are all there."""
    recording = ran("with open('a', 'wb', buffering=0) as file:\n    for _ in range(60): file.write(bytes(20_000))")
    kills = sum(1 for _ in recording.states("kill"))
    assert kills > 300
    assert recording.left_out == []
    assert kills < sum(1 for _ in recording.states("power")) < kills + 500
    assert any("60 un-synced changes, 1200000 bytes" in line for line in recording.left_out)


# ------------------------------------------------------------------------------------------------ where there is no strace


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not on the path, or not permitted: one line, with what to do; and no recording."""
    monkeypatch.setenv("PATH", str(tmp_path))
    ask = strace.missing.__wrapped__
    assert "install it" in (ask() or "")
    fake = tmp_path / "strace"
    fake.write_text("#!/bin/sh\necho 'strace: ptrace(PTRACE_TRACEME, ...): Operation not permitted' >&2; exit 1\n")
    fake.chmod(0o700)
    said = ask() or ""
    assert "Operation not permitted" in said
    assert "SYS_PTRACE" in said
    assert "\n" not in said
    monkeypatch.setattr(strace, "missing", ask)
    with pytest.raises(RecordingError, match="SYS_PTRACE"):
        record([sys.executable, "-c", "pass"], tmp_path)


# ------------------------------------------------------------------------------------------------ reading strace


def test_calls_that_others_interrupt_are_joined() -> None:
    """In the order in which they completed; killed ones last, without a result; nonsense is reported."""
    log = r"""
7 write(3<\x2f\x61>, "\x61\x62" <unfinished ...>
8 openat(AT_FDCWD<\x2f>, "\x62", O_RDONLY) = -1 ENOENT (No such file or directory)
7 <... write resumed>, 2) = 2
8 fsync(4<\x2f\x61> <unfinished ...>
7 rename("\x61", "\x62") = -1 EIO (Input/output error) (INJECTED)
7 fsync(3<\x2f\x61>) = ?
7 +++ killed by SIGKILL +++
8 <... fsync resumed>) = ?
8 +++ killed by SIGKILL +++
9 read(0x3, 0x7ffd, 0x10 <unfinished ...>
9 +++ killed by SIGKILL +++
10 <... read resumed>, 10) = 4
11 umask(022) = 077
12 this is not strace's
"""
    calls, unread = parse(log.strip("\n").split("\n"))
    assert [(c.pid, c.name, c.result, c.error, c.injected) for c in calls] == [
        (8, "openat", -1, "ENOENT", False),
        (7, "write", 2, None, False),
        (7, "rename", -1, "EIO", True),
        (7, "fsync", None, None, False),
        (8, "fsync", None, None, False),
        (9, "read", None, None, False),
        (11, "umask", 0o77, None, False),
    ]
    assert calls[1].args == [r"3<\x2f\x61>", r'"\x61\x62"', "2"]
    assert calls[1].readable == "write(3, 'ab', 2)"
    assert [c.failed for c in calls] == [True, False, True, True, True, True, False]
    assert unread == ["12 this is not strace's"]


def test_the_value_under_test_is_not_trivial() -> None:
    """Old and new differ in length and bytes, so no state can pass for both."""
    assert len(OLD) != len(NEW)
    assert OLD[0] != NEW[0]
