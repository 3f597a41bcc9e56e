"""The stores keep the rules of their facet; each test says which, and needs no kit to say it.

Savers, loggers and holders are real processes, which are killed where that is the point; where a thread or a process must
be held at some point, it waits at a pipe or a gate, and nothing waits for time.
"""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import pickle
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum, IntEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from gating import LIMIT, Gate
from hypothesis import given, settings
from hypothesis import strategies as st

import flowcheck_reference
from flowcheck_reference import (
    CorruptStateError,
    InvalidRunIdError,
    JsonStore,
    LeaseHeldError,
    NotJsonError,
    RunNotFoundError,
    Snapshot,
    SqliteStore,
    StoreBusyError,
    StoreClosedError,
    StoreError,
)
from flowcheck_reference._store import codec, files, replacing
from flowcheck_reference._store.log import entry_of, line
from flowcheck_reference._store.names import LONGEST, file_name, run_id_of

Opener = Callable[[], Any]

KINDS: dict[str, str] = {
    "json": "JsonStore({folder!r})",
    "wal": "SqliteStore({folder!r} + '/runs.db')",
    "delete": "SqliteStore({folder!r} + '/runs.db', journal='delete')",
}


def expression(kind: str, folder: Path) -> str:
    """How a store is opened, here and in another process."""
    return KINDS[kind].format(folder=str(folder))


def opened(kind: str, folder: Path) -> Any:
    return eval(expression(kind, folder))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def store(kind: str, tmp_path: Path) -> Iterator[Any]:
    with opened(kind, tmp_path) as store:
        yield store


@pytest.fixture
def again(kind: str, tmp_path: Path) -> Iterator[Opener]:
    """Further handles on the same folder."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(opened(kind, tmp_path))


@pytest.fixture(params=["orjson", "json"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of making JSON."""
    name: str = request.param
    if name == "json":
        monkeypatch.setattr(codec, "_orjson", None)
    elif codec._orjson is None:
        pytest.skip("the extra `store` (orjson) is not installed")
    return name


class Child:
    """A Python process with `store` open. `body` may call `told(text)`, and `asked()`, which waits for `go`."""

    def __init__(self, kind: str, folder: Path, body: str) -> None:
        code = textwrap.dedent(
            f"""
            import os, signal, sys, threading
            from flowcheck_reference import *
            def told(text): print(text, flush=True)
            def asked(): return sys.stdin.readline()
            store = {expression(kind, folder)}
            """
        ) + textwrap.dedent(body)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def tells(self) -> str:
        """The next line that it tells."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Let it go on from `asked`."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def ends(self) -> str:
        """Wait for it; what it still told."""
        out, err = self.process.communicate(timeout=60)
        assert (self.process.returncode, err) == (0, "")
        return out.strip()


@contextmanager
def child(kind: str, folder: Path, body: str) -> Iterator[Child]:
    process = Child(kind, folder, body)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.kill()
        for pipe in (process.process.stdin, process.process.stdout, process.process.stderr):
            assert pipe is not None
            pipe.close()


def in_threads(n: int, body: Callable[[int], None]) -> None:
    """Run `body(0) … body(n - 1)` at once; the first error is raised here."""
    start, errors = threading.Barrier(n), []

    def run(i: int) -> None:
        start.wait(LIMIT)
        try:
            body(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def forked(body: Callable[[], object]) -> str:
    """Do it in a forked child, and give what it came to, as text."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of exactly what is tested
        pid = os.fork()
    if not pid:
        signal.alarm(30)
        try:
            os.write(write, repr(body()).encode())
        except BaseException as error:
            os.write(write, repr(error).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        told = pipe.read().decode()
    os.waitpid(pid, 0)
    return told


def left(folder: Path) -> list[str]:
    """What is there that is no run's."""
    return sorted(p.name for p in folder.iterdir() if p.suffix not in {".json", ".log", ".db", ".db-wal", ".db-shm"})


def is_same(a: Any, b: Any) -> bool:
    """Equal, and of the same types throughout."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(is_same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(is_same, a, b))
    return bool(a == b) and (type(a) is not float or math.copysign(1, a) == math.copysign(1, b))


# -- values (STO-01, 10)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inside: st.lists(inside, max_size=5) | st.dictionaries(st.text(), inside, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(value=JSON)
@settings(max_examples=200, deadline=None)
def test_json_is_the_same_when_it_comes_back(value: Any) -> None:
    """Whichever library wrote it, and whichever reads it (STO-01)."""
    orjson = codec._orjson
    libraries = [orjson, None] if orjson is not None else [None]
    try:
        for writer in libraries:
            codec._orjson = writer
            data = codec.encode(value)
            assert b"\n" not in data
            assert json.loads(data) == value
            for reader in libraries:
                codec._orjson = reader
                assert is_same(codec.decode(data), value)
    finally:
        codec._orjson = orjson


class Colour(Enum):
    RED = 1


class Number(IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def circle() -> list[Any]:
    value: list[Any] = []
    value.extend((value, value))
    return value


REFUSED: list[tuple[str, Any, str]] = [
    ("nan", math.nan, "nan is no JSON number"),
    ("infinity", -math.inf, "-inf is no JSON number"),
    ("two infinities", [math.inf, -math.inf], "inf is no JSON number"),
    ("nan beside None", {"a": None, "b": [1.0, math.nan]}, r"at \['b'\]\[1\]: nan"),
    ("tuple", {"a": [(1, 2)]}, r"at \['a'\]\[0\]: a tuple would load as a list"),
    ("int key", {1: "a"}, "the key 1 is no str"),
    ("None key", [{None: 1}], r"at \[0\]: the key None is no str"),
    ("str subclass as key", {Text("a"): 1}, "no str"),
    ("surrogate", ["a", "b\ud800"], r"at \[1\]: 'b\\ud800' has half a character"),
    ("surrogate in a key", {"\udfff": 1}, "half a character"),
    ("set", {"a": {1}}, "builtins.set is no type of JSON"),
    ("bytes", b"a", "builtins.bytes is no type"),
    ("enum", Colour.RED, "Colour is no type"),
    ("int enum", [Number.ONE], "Number is no type"),
    ("str subclass", Text("a"), "Text is no type"),
    ("dict subclass", OrderedDict(a=1), "OrderedDict is no type"),
    ("uuid", uuid.UUID(int=1), "uuid.UUID is no type"),
    ("object", object(), "builtins.object is no type"),
    ("too deep", nested(200), "nested more than 200 deep"),
    ("far too deep", nested(100_000), "nested more than 200 deep"),
    ("holds itself", circle(), "holds itself"),
    ("too long a number", 10**5000, "not JSON: Exceeds the limit"),
]


@pytest.mark.parametrize(("value", "text"), [(v, t) for _, v, t in REFUSED], ids=[name for name, _, _ in REFUSED])
def test_what_would_not_load_equal_is_refused(library: str, value: Any, text: str, tmp_path: Path) -> None:
    """It is refused with the reason and the place, and what was saved stays (STO-01, 10)."""
    store = JsonStore(tmp_path)
    store.save("run", {"before": True})
    for refuse in (store.save, store.append):
        with pytest.raises(NotJsonError, match=text):
            refuse("run", value)
    assert store.load("run") == {"before": True}
    assert os.listdir(tmp_path) == ["run.json"]


@pytest.mark.parametrize(
    "value", [nested(199), 2**64, -(2**63) - 1, 10**4000, -0.0, 5e-324, [1.7e308, 1.7e308], "\u2028\0"]
)
def test_the_edges_are_kept(library: str, value: Any, store: Any) -> None:
    """What is just within JSON is kept as it is, each number to the last digit (STO-01)."""
    store.save("run", value)
    store.append("run", value)
    assert is_same(store.load("run"), value)
    assert is_same(store.entries("run"), [value])


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"a": 1', b"NaN", b"-Infinity", b"1e400\n", b'"\\ud800"', b'"\xff"', b"\0\0\0\0", b"12", b"\xef\xbb\xbf1\n",
     b"'a'", b"[1,]", b"1 2\n", b"[" * 100_000 + b"]" * 100_000],
)  # fmt: skip
def test_a_file_that_is_no_json_is_corrupt(library: str, data: bytes, tmp_path: Path) -> None:
    """The error names the file; the next save refuses, too, and leaves it as it is; there are two ways out (STO-12)."""
    store = JsonStore(tmp_path)
    path = tmp_path / "run.json"
    path.write_bytes(data)
    for touch in (store.load, lambda run: store.save(run, 1), lambda run: store.fold(run, 1)):
        with pytest.raises(CorruptStateError, match=r"run\.json") as caught:
            touch("run")
        assert caught.value.path == str(path)
        assert path.read_bytes() == data
    store.save("run", 1, overwrite=True)
    assert store.load("run") == 1
    path.write_bytes(data)
    store.delete("run")
    store.save("run", 2)
    assert store.load("run") == 2


def test_a_file_that_was_mended_by_hand_is_read(library: str, tmp_path: Path) -> None:
    """Any JSON will do, from any tool; it need not look like ours."""
    store = JsonStore(tmp_path)
    store.save("run", {"a": 1})
    (tmp_path / "run.json").write_text(
        '\r\n{\n  "a": 2,\n  "b": "\\u00e9 \\ud83d\\ude00",\n  "c": 123456789012345678901234567890\n}\n'
    )
    assert store.load("run") == {"a": 2, "b": "é 😀", "c": 123456789012345678901234567890}
    store.save("run", {"a": 3})
    assert store.load("run") == {"a": 3}


def test_damage_right_after_a_save_is_seen_by_the_next(store: Any, again: Opener, kind: str, tmp_path: Path) -> None:
    """Also by the handle that has just saved, and where the file is as long as before (STO-12)."""
    store.save("run", {"a": "x" * 100})
    if kind == "json":
        path = tmp_path / "run.json"
        path.write_bytes(path.read_bytes().replace(b'"a"', b'"a '))
    else:
        with sqlite3.connect(tmp_path / "runs.db") as connection:
            connection.execute("UPDATE state SET state = replace(CAST(state AS TEXT), 'x', 'y'), revision = 7")
        connection.close()
    for handle in (store, again()):
        with pytest.raises(CorruptStateError, match=r"run\.json|runs\.db"):
            handle.save("run", 1)
        with pytest.raises(CorruptStateError):
            handle.load("run")
    store.save("run", 1, overwrite=True)
    assert again().load("run") == 1


def test_a_snapshot_is_the_value_as_it_was(store: Any) -> None:
    """Taken under its owner's lock, it can be saved without (STO-03)."""
    state = {"n": 1}
    snapshot = Snapshot(state)
    state["n"] = 2
    store.save("run", snapshot)
    store.append("run", snapshot)
    assert (store.load("run"), store.entries("run")) == ({"n": 1}, [{"n": 1}])
    with pytest.raises(NotJsonError):
        Snapshot({1})


# -- ids (STO-11)


@given(a=st.text(min_size=1, max_size=30), b=st.text(min_size=1, max_size=30))
@settings(max_examples=300, deadline=None)
def test_two_ids_never_share_a_name(a: str, b: str) -> None:
    """Not where case is ignored, nor where Unicode is rewritten; and a name tells its id (STO-11)."""
    names = []
    for run_id in (a, b):
        try:
            name = file_name(run_id)
        except InvalidRunIdError:
            return
        assert name.isascii()
        assert name == name.lower()
        assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-_%")
        assert run_id_of(name) == run_id
        names.append(name)
    assert (names[0] == names[1]) == (a == b)


@pytest.mark.parametrize(
    ("run_id", "name"),
    [("report-17", "report-17"), ("Report", "%52eport"), ("..", "%2e%2e"), ("a/b", "a%2fb"), ("é", "%c3%a9"), ("con", "%63on"),
     ("com1", "%63om1"), ("-rf", "%2drf"), ("a b", "a%20b"), ("%41", "%2541"), ("v1.2", "v1%2e2"), ("\n", "%0a")],
)  # fmt: skip
def test_names_are_readable(run_id: str, name: str) -> None:
    """An ordinary id is its own name, and no id leaves the folder."""
    assert file_name(run_id) == name


IDS = ["report-17", "Report-17", "../up", "/etc/passwd", ".", "..", "a/b", "a\\b", "é", "e\u0301", "con", "a.json", "a", "a.log",
       "a.lease", ".a.0.tmp", "-rf", "%61", " ", "\n", "🙂", "x" * LONGEST]  # fmt: skip


def test_odd_ids_are_kept_apart(store: Any, again: Opener, tmp_path: Path) -> None:
    """Each has a state, a log and a lease of its own, and nothing appears outside the store's folder (STO-11)."""
    around = sorted(tmp_path.parent.iterdir())
    for i, run_id in enumerate(IDS):
        with store.lease(run_id):
            store.save(run_id, i)
            store.append(run_id, -i)
    other = again()
    for i, run_id in enumerate(IDS):
        assert (other.load(run_id), other.entries(run_id)) == (i, [-i])
    assert store.runs() == sorted(IDS)
    assert sorted(tmp_path.parent.iterdir()) == around
    for run_id in IDS:
        store.delete(run_id)
    assert store.runs() == []


@pytest.mark.parametrize("run_id", ["", "a\0b", "\ud800", "x" * (LONGEST + 1), "é" * 40, None, 17, b"run"])
def test_ids_that_make_no_sense_are_refused(store: Any, run_id: Any) -> None:
    """By every method, before anything else (STO-11)."""
    for call in (
        lambda: store.save(run_id, 1), lambda: store.load(run_id), lambda: store.append(run_id, 1), lambda: store.entries(run_id),
        lambda: store.fold(run_id, 1), lambda: store.delete(run_id), lambda: store.lease(run_id).__enter__(),
    ):  # fmt: skip
        with pytest.raises(InvalidRunIdError, match="a run's id"):
            call()
    assert store.runs() == []


def test_strange_files_are_no_runs(tmp_path: Path) -> None:
    """What no id is named for is passed over."""
    store = JsonStore(tmp_path)
    for name in (
        "A.json",
        "%61.json",
        "%zz.json",
        "%ff.json",
        "con.json",
        ".json",
        "a.txt",
        "a",
        ".a.0.tmp",
        "b.lease",
        "a.b.json",
    ):
        (tmp_path / name).touch()
    store.append("b", 1)
    assert store.runs() == ["b"]


# -- states


def test_what_was_never_saved_is_told_apart(store: Any) -> None:
    """A run with a log only has no state either (STO-16)."""
    store.append("logged", 1)
    for run_id in ("never", "logged"):
        with pytest.raises(RunNotFoundError, match=f"{run_id}.*never saved"):
            store.load(run_id)
    assert store.entries("never") == []
    assert store.runs() == ["logged"]


def test_the_last_save_is_what_all_handles_load(store: Any, again: Opener) -> None:
    """At once, whichever saved it (STO-14)."""
    other = again()
    for i in range(10):
        (store, other)[i % 2].save("run", {"i": i})
        assert store.load("run") == other.load("run") == {"i": i}


def test_savers_at_once_leave_one_whole_state(store: Any, again: Opener, tmp_path: Path) -> None:
    """In threads, with one handle and with several; nothing is left behind (STO-07)."""
    handles = [store, again()]

    def save(i: int) -> None:
        for k in range(10):
            handles[i % 2].save("run", {"by": i, "k": k, "all": [i] * 3000})
            seen = handles[0].load("run")
            assert seen["all"] == [seen["by"]] * 3000

    in_threads(6, save)
    assert store.load("run")["k"] == 9
    assert left(tmp_path) == []


def test_savers_in_several_processes_leave_one_whole_state(kind: str, store: Any, tmp_path: Path) -> None:
    """Each save succeeds, and what is loaded meanwhile is whole (STO-02, 07)."""
    body = """
    told("ready"); asked()
    for k in range(20):
        store.save("run", {"by": sys.argv[0] + str(os.getpid()), "k": k, "all": [os.getpid()] * 2000})
        store.append("run", [os.getpid(), k])
    """
    store.save("run", {"k": -1, "all": []})
    with child(kind, tmp_path, body) as a, child(kind, tmp_path, body) as b:
        for process in (a, b):
            assert process.tells() == "ready"
        for process in (a, b):
            process.go()
        while a.process.poll() is None or b.process.poll() is None:
            assert len(set(store.load("run")["all"])) <= 1
        a.ends(), b.ends()
        pids = {a.process.pid, b.process.pid}
    assert store.load("run")["k"] == 19
    logged = store.entries("run")
    assert {pid: [k for who, k in logged if who == pid] for pid in pids} == {pid: list(range(20)) for pid in pids}
    assert left(tmp_path) == []


def test_the_mode_of_a_state_is_kept(tmp_path: Path) -> None:
    """A new one has what the umask leaves (STO-13)."""
    store = JsonStore(tmp_path)
    store.save("run", 1)
    path, plain = tmp_path / "run.json", tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    store.save("run", 2)
    assert path.stat().st_mode & 0o7777 == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_state_is_kept_by_root(tmp_path: Path) -> None:
    """Whoever owned it can still read it."""
    store = JsonStore(tmp_path)
    store.save("run", 1)
    os.chown(tmp_path / "run.json", 1234, 1235)
    store.save("run", 2)
    status = (tmp_path / "run.json").stat()
    assert (status.st_uid, status.st_gid) == (1234, 1235)


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_is_followed(exists: bool, tmp_path: Path) -> None:
    """Through several, relative and absolute, to a file that need not be there yet (STO-18)."""
    store = JsonStore(tmp_path / "runs")
    far = tmp_path / "far"
    far.mkdir()
    (far / "link").symlink_to("state.json")
    (tmp_path / "runs" / "run.json").symlink_to(far / "link")
    if exists:
        (far / "state.json").write_text("1")
        (far / "state.json").chmod(0o600)
    else:
        with pytest.raises(RunNotFoundError):
            store.load("run")
    if exists:
        with pytest.raises(CorruptStateError, match="without its end of line"):
            store.save("run", 1)
    store.save("run", {"a": 1}, overwrite=True)
    assert (tmp_path / "runs" / "run.json").is_symlink()
    assert (far / "link").is_symlink()
    assert json.loads((far / "state.json").read_text()) == store.load("run") == {"a": 1}
    assert sorted(p.name for p in far.iterdir()) == ["link", "state.json"]
    store.delete("run")
    assert (far / "state.json").exists()
    assert store.runs() == []


def test_links_in_a_circle_are_a_clear_error(tmp_path: Path) -> None:
    """And not a loop."""
    store = JsonStore(tmp_path)
    (tmp_path / "run.json").symlink_to("run.json")
    for touch in (store.load, lambda run: store.save(run, 1)):
        with pytest.raises(OSError, match="Too many levels of symbolic links") as caught:
            touch("run")
        assert caught.value.errno == errno.ELOOP


def test_after_close_there_is_a_clear_error(store: Any) -> None:
    """From each method; closing again is no matter."""
    with store.lease("run"):
        store.save("run", 1)
        store.close()
        store.close()
    for call in (
        lambda: store.save("run", 1), lambda: store.load("run"), lambda: store.append("run", 1), lambda: store.entries("run"),
        lambda: store.fold("run", 1), lambda: store.delete("run"), lambda: store.lease("run").__enter__(), store.runs,
    ):  # fmt: skip
        with pytest.raises(StoreClosedError, match="was closed"):
            call()


def test_a_folder_is_made_where_it_is_missing(kind: str, tmp_path: Path) -> None:
    """With those above it."""
    with opened(kind, tmp_path / "a" / "b") as store:
        store.save("run", 1)
    with opened(kind, tmp_path / "a" / "b") as store:
        assert store.load("run") == 1


def test_errors_travel_between_processes() -> None:
    """With what they know."""
    error = pickle.loads(pickle.dumps(CorruptStateError("no", "/a")))
    assert (str(error), error.path) == ("no", "/a")


# -- faults (STO-06, 20)


@pytest.fixture
def saved(tmp_path: Path) -> JsonStore:
    store = JsonStore(tmp_path)
    store.save("run", {"old": True})
    return store


def intact(store: JsonStore, folder: Path) -> None:
    """The old state is there, nothing else is, and the next save works."""
    assert store.load("run") == JsonStore(folder).load("run") == {"old": True}
    assert os.listdir(folder) == ["run.json"]
    store.save("run", {"new": True})
    assert store.load("run") == {"new": True}


CALLS = ["open", "flock", "write", "utime", "fchmod", "fsync 1", "replace", "fsync 2"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("call", CALLS)
def test_a_save_that_fails_changes_nothing(
    call: str, code: int, saved: JsonStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever call fails, the old state is there, no litter is, and the next save works (STO-06)."""
    name, _, number = call.partition(" ")
    module: Any = fcntl if name == "flock" else os
    real = getattr(module, name)
    turns = iter(range(1, 100))
    made = "open" if name == "open" else ""

    def failing(*args: Any, **kwargs: Any) -> Any:
        if (made and ".tmp" not in str(args[0])) or (number and next(turns) != int(number)):
            return real(*args, **kwargs)
        monkeypatch.setattr(module, name, real)
        raise OSError(code, os.strerror(code))

    (tmp_path / "run.json").chmod(0o666)  # more than the umask leaves: a new file needs fchmod
    monkeypatch.setattr(module, name, failing)
    with pytest.raises(OSError, match="run 'run' was not saved, what was saved before is intact") as caught:
        saved.save("run", {"new": True})
    assert type(caught.value) is type(OSError(code, ""))
    assert caught.value.errno == code
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o666
    intact(saved, tmp_path)


@pytest.mark.parametrize("before", [True, False])
def test_a_folder_that_can_never_be_synced_is_told(
    before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the old state can't even be put back, the error says that the new one is there (STO-06)."""
    store = JsonStore(tmp_path)
    if before:
        store.save("run", {"old": True})
    real, calls = os.fsync, iter(range(100))

    def broken(fd: int) -> None:
        if next(calls):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(fd)

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="was not saved") as caught:
        store.save("run", {"new": True})
    monkeypatch.undo()
    if before:
        assert "not saved for sure; the new state is there" in str(caught.value)
        assert store.load("run") == {"new": True}
    else:
        assert store.runs() == []
    assert left(tmp_path) == []


def test_a_file_system_without_folder_sync_is_served(saved: JsonStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """EINVAL there means that there is no such call."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").is_dir():
            raise OSError(errno.EINVAL, "")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    saved.save("run", 2)
    assert saved.load("run") == 2


def test_short_writes_are_finished(saved: JsonStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write may do a part of what it is asked."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:7]))
    state = {"all": list(range(100))}
    saved.save("run", state)
    saved.append("run", state)
    monkeypatch.undo()
    assert (saved.load("run"), saved.entries("run")) == (state, [state])


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system lets no file grow larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


FULL = "intact|nothing was added"


def test_a_full_disk_changes_nothing(store: Any, again: Opener, tmp_path: Path) -> None:
    """Neither of the state nor of the log; a clear error, and then it works again (STO-06)."""
    store.save("run", {"old": True})
    store.append("run", 1)
    with files_of_at_most(4096):
        with pytest.raises(OSError, match=FULL):
            store.save("run", ["x" * 100_000])
        with pytest.raises(OSError, match=FULL):
            store.append("run", ["x" * 100_000])
        with store.lease("run"), pytest.raises(OSError, match=FULL):
            store.append("run", ["x" * 100_000])
    assert again().load("run") == {"old": True}
    assert again().entries("run") == [1]
    assert left(tmp_path) == []
    store.append("run", 2)
    store.save("run", {"new": True})
    assert (store.load("run"), store.entries("run")) == ({"new": True}, [1, 2])


READ_ONLY = """
import os, sys
from flowcheck_reference import JsonStore
if os.geteuid() == 0:  # who may write anywhere: be nobody
    os.setegid(65534); os.seteuid(65534)
try:
    JsonStore(sys.argv[1]).save("run", 1)
except PermissionError as error:
    print(error)
"""


def test_a_folder_that_is_read_only_changes_nothing() -> None:
    """A clear error, the old state, no litter (STO-06)."""
    with TemporaryDirectory() as home:  # pytest's own can't be entered by others
        Path(home).chmod(0o755)
        folder = Path(home, "runs")
        store = JsonStore(folder)
        store.save("run", {"old": True})
        (folder / "run.json").chmod(0o644)
        folder.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", READ_ONLY, str(folder)], capture_output=True, text=True, check=False
        )
        folder.chmod(0o755)
        assert "what was saved before is intact: Permission denied" in done.stdout, done.stderr
        intact(store, folder)


def test_an_interrupt_amid_a_save_leaves_nothing(
    saved: JsonStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KeyboardInterrupt goes through, the temporary file goes away."""

    def interrupted(fd: int) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        saved.save("run", {"new": True})
    intact(saved, tmp_path)


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_what_killed_savers_leave_neither_blocks_nor_grows(call: str, saved: JsonStore, tmp_path: Path) -> None:
    """The next save takes it away (STO-04, 20)."""
    body = f"""
    def dying(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
    os.{call} = dying
    store.save("run", {{"new": True}})
    """
    for _ in range(3):
        with child("json", tmp_path, body) as process:
            process.process.communicate()
            assert process.process.returncode == -signal.SIGKILL
        assert saved.load("run") == {"old": True}
        assert left(tmp_path) == [".run.0.tmp"]
    intact_after = {"new": True}
    saved.save("run", intact_after)
    assert left(tmp_path) == []
    assert saved.load("run") == intact_after


def test_a_living_savers_file_is_never_taken_away(saved: JsonStore, tmp_path: Path) -> None:
    """Another takes the next name, in this process and in others; and the first still gets done (STO-20)."""
    body = """
    real = os.fsync
    def held(fd):
        os.fsync = real
        told("held"); asked()
        real(fd)
    os.fsync = held
    store.save("run", "slow")
    """
    with child("json", tmp_path, body) as process:
        assert process.tells() == "held"
        assert left(tmp_path) == [".run.0.tmp"]
        saved.save("run", "quick")
        saved.delete("run")
        assert left(tmp_path) == [".run.0.tmp"]
        process.go()
        process.ends()
    assert saved.load("run") == "slow"
    assert left(tmp_path) == []


def test_a_left_over_that_cannot_be_removed_is_passed_by(saved: JsonStore, tmp_path: Path) -> None:
    """A folder by that name, a link to nowhere: others' things."""
    (tmp_path / ".run.0.tmp").mkdir()
    (tmp_path / ".run.1.tmp").symlink_to("nowhere")
    saved.save("run", 2)
    assert saved.load("run") == 2
    assert left(tmp_path) == [".run.0.tmp", ".run.1.tmp"]


def test_a_name_that_is_lost_before_it_is_locked_is_made_again(
    saved: JsonStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Race 1 of `replacing`: another saver took the new file for a left-over."""
    real = fcntl.flock

    def raced(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        assert replacing.reap(str(tmp_path / ".run.0.tmp"))
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", raced)
    saved.save("run", 2)
    assert saved.load("run") == 2
    assert left(tmp_path) == []


# -- the log (STO-08, 09, 19, 21)


def test_entries_are_kept_in_order(store: Any, again: Opener) -> None:
    """Line breaks and all, with and without the lease (STO-08, 21)."""
    wanted: list[Any] = ["a\nb\r\n\u2028", {"n": [1, None]}, 12, "", [], "#torn", '["00000000",1]']
    store.extend("run", wanted[:2])
    with store.lease("run"):
        for entry in wanted[2:]:
            store.append("run", entry)
        assert again().entries("run") == wanted
    store.extend("run", [])
    store.append("run", 99)
    assert store.entries("run") == [*wanted, 99]


def test_an_entry_that_is_refused_takes_its_fellows_with_it(store: Any) -> None:
    """`extend` is all or nothing (STO-10)."""
    store.append("run", 1)
    with pytest.raises(NotJsonError):
        store.extend("run", [2, {3}])
    assert store.entries("run") == [1]


@pytest.mark.parametrize("leased", [False, True])
def test_threads_that_append_lose_nothing(leased: bool, store: Any, again: Opener) -> None:
    """Also beside saves, by one handle and by several (STO-08, 19)."""
    handles = [store, again()]

    def work(i: int) -> None:
        for k in range(15):
            handles[i % 2].append("run", [i, k, "x" * 50])
            if i == 0:
                store.save("run", {"k": k})

    with ExitStack() as stack:
        if leased:
            stack.enter_context(store.lease("run"))
        in_threads(4, work)
    logged = store.entries("run")
    assert {i: [k for who, k, _ in logged if who == i] for i in range(4)} == {i: list(range(15)) for i in range(4)}


@given(cut=st.integers(0, 10_000), entry=JSON)
@settings(max_examples=100, deadline=None)
def test_a_torn_tail_loses_nothing_but_itself(cut: int, entry: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wherever the last line is cut, those before it are kept, and the next is whole (STO-09, 21)."""
    store = JsonStore(tmp_path_factory.mktemp("runs"), durable=False)
    store.extend("run", [1, "two"])
    path = Path(store._folder, "run.log")
    whole = path.read_bytes()
    tail = line(codec.encode(entry))
    path.write_bytes(whole + tail[: cut % len(tail)])
    assert store.entries("run") == [1, "two"]
    store.append("run", entry)
    store.append("run", 4)
    assert store.entries("run") == [1, "two", entry, 4]


def test_a_number_that_was_cut_is_not_whole() -> None:
    """`12` of `123` would be JSON; and a line that lacks only its end stays torn (STO-09)."""
    text = line(b"123")[:-1]
    assert entry_of(text) == b"123"
    for damaged in (
        text[:-2] + b"]",
        text[:-1],
        text + b"#torn",
        text.replace(b"3]", b"4]"),
        b"",
        b"[]",
        b'["zzzzzzzz",1]',
    ):
        assert entry_of(damaged) is None


def test_damage_in_the_middle_is_passed_over_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Torn tails that were marked are no damage; what else is not whole is told in the log."""
    store = JsonStore(tmp_path)
    path = tmp_path / "run.log"
    store.append("run", 1)
    path.write_bytes(path.read_bytes() + b'["00')
    store.extend("run", [2, 3])
    assert store.entries("run") == [1, 2, 3]
    assert not caplog.records
    path.write_bytes(path.read_bytes().replace(b",2]", b",7]"))
    assert store.entries("run") == [1, 3]
    assert [record.getMessage() for record in caplog.records] == [f"{path}: 1 of 4 lines are damaged, and passed over"]


@pytest.mark.parametrize("leased", [False, True])
def test_an_append_that_fails_adds_nothing(leased: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the write fails half-way, or the sync; the log is cut to what it was."""
    store = JsonStore(tmp_path)
    with ExitStack() as stack:
        if leased:
            stack.enter_context(store.lease("run"))
        store.append("run", 1)
        before = (tmp_path / "run.log").read_bytes()
        real = os.write
        calls = iter(range(100))

        def half(fd: int, data: bytes) -> int:
            if next(calls):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, bytes(data)[:5])

        def broken(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        for name, fault in (("write", half), ("fsync", broken)):
            with monkeypatch.context() as patch:
                patch.setattr(os, name, fault)
                with pytest.raises(OSError, match="nothing was added to the log of run 'run'"):
                    store.append("run", 2)
            assert (tmp_path / "run.log").read_bytes() == before
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            patch.setattr(os, "ftruncate", broken_truncate)
            with pytest.raises(OSError, match="nothing was added") as caught:
                store.append("run", "torn?")
            assert "could not be cut" in str(getattr(caught.value.__cause__, "__notes__", ""))
        store.append("run", 3)
    assert store.entries("run")[0] == 1
    assert store.entries("run")[-1] == 3


def broken_truncate(fd: int, size: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_killed_logger_blocks_nobody(tmp_path: Path) -> None:
    """Its lock goes with it; its torn line is marked, once."""
    body = """
    real = os.write
    def dying(fd, data):
        real(fd, bytes(data)[:9]); os.kill(os.getpid(), signal.SIGKILL)
    os.write = dying
    store.append("run", "never")
    """
    store = JsonStore(tmp_path)
    store.append("run", 1)
    for i in range(2, 4):
        with child("json", tmp_path, body) as process:
            process.process.communicate()
        assert store.entries("run") == list(range(1, i))
        store.append("run", i)
    assert store.entries("run") == [1, 2, 3]
    assert (tmp_path / "run.log").read_bytes().count(b"#torn\n") == 2


def test_bytes_grow_with_the_entries_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append writes its line and nothing else (FLO-27)."""
    written: list[int] = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: written.append(len(data)) or real(fd, data))
    store = JsonStore(tmp_path)
    with store.lease("run"):
        for i in range(100):
            store.append("run", {"node": i, "value": "x" * 100})
    assert len(written) == 100
    assert sum(written) == (tmp_path / "run.log").stat().st_size
    assert max(written) - min(written) <= 1


def test_a_new_log_is_synced_into_its_folder_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that somebody else made and may not have come to sync; without `durable` nothing is synced."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append("folder" if Path(f"/proc/self/fd/{fd}").is_dir() else "file")
        real(fd)

    JsonStore(tmp_path, durable=False).append("run", 1)
    monkeypatch.setattr(os, "fsync", fsync)
    JsonStore(tmp_path, durable=False).append("run", 2)
    assert synced == []
    store = JsonStore(tmp_path)
    for _ in range(3):
        store.append("run", 3)
    assert synced == ["file", "folder", "file", "file"]


def test_fold_lets_the_log_go(store: Any, again: Opener) -> None:
    """The state is saved first; who has the log open goes on in a new one (FLO-27)."""
    with store.lease("run"):
        store.append("run", 1)
        again().fold("run", {"done": [1]})
        assert (store.load("run"), store.entries("run")) == ({"done": [1]}, [])
        store.append("run", 2)
        assert again().entries("run") == [2]
        store.fold("run", {"done": [1, 2]})
    assert again().entries("run") == []
    with pytest.raises(NotJsonError):
        store.fold("run", {3})


# -- leases (FLO-25)


def test_a_run_has_one_holder(store: Any, again: Opener, tmp_path: Path) -> None:
    """By any handle of this process, by the same thread even; other runs are free; nothing is left behind."""
    with store.lease("run"):
        for handle in (store, again()):
            with pytest.raises(LeaseHeldError, match=f"'run' is held by process {os.getpid()}"), handle.lease("run"):
                pass
        with again().lease("other"):
            pass
        assert issubclass(LeaseHeldError, StoreBusyError)
    with again().lease("run"):
        pass
    assert left(tmp_path) == []


def test_a_lease_holds_between_processes_and_dies_with_its_own(kind: str, store: Any, tmp_path: Path) -> None:
    """A holder that is killed can't hold it for ever."""
    body = """
    with store.lease("run"):
        store.append("run", 1)
        told("held"); asked()
    told("gone"); asked()
    """
    with child(kind, tmp_path, body) as process:
        assert process.tells() == "held"
        with pytest.raises(LeaseHeldError, match=f"process {process.process.pid} on"), store.lease("run"):
            pass
        with pytest.raises(LeaseHeldError):
            store.delete("run")
        process.go()
        assert process.tells() == "gone"
        with store.lease("run"):
            pass
    with child(kind, tmp_path, body) as process:
        assert process.tells() == "held"
        process.kill()
    with store.lease("run"):
        assert store.entries("run") == [1, 1]
        store.delete("run")
    assert left(tmp_path) == []


def test_of_many_that_want_it_at_once_one_gets_it(store: Any, again: Opener) -> None:
    """The others are refused at once, and no two have it together."""
    handles = [store, again()]
    inside: list[int] = []
    held = 0

    def want(i: int) -> None:
        nonlocal held
        for _ in range(40):
            try:
                with handles[i % 2].lease("run"):
                    inside.append(i)
                    assert len(inside) == 1
                    inside.pop()
                    held += 1
            except LeaseHeldError:
                pass

    in_threads(4, want)
    assert held >= 1


def test_a_lease_may_end_in_another_thread(store: Any, again: Opener) -> None:
    """A run does not end where it began."""
    stack = ExitStack()
    stack.enter_context(store.lease("run"))
    thread = threading.Thread(target=stack.close)
    thread.start()
    thread.join(LIMIT)
    with again().lease("run"):
        pass


def test_a_forked_child_has_no_lease(kind: str, store: Any, tmp_path: Path) -> None:
    """It is refused like anybody else, leaving the `with` there is nothing, and it doesn't keep the parent's alive."""

    def child_tries() -> object:
        try:
            with store.lease("run"):
                return "held"
        except LeaseHeldError:
            pass
        store.append("run", "child")
        stack.close()
        return next(tmp_path.glob("*.lease")).exists()

    with ExitStack() as stack:
        stack.enter_context(store.lease("run"))
        store.append("run", "parent")
        assert forked(child_tries) == "True"
        store.append("run", "parent")
    assert store.entries("run") == ["parent", "child", "parent"]
    body = """
    lease = store.lease("run"); lease.__enter__()
    store.append("run", "held")
    pid = os.fork()
    if not pid:
        told("child"); asked(); os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    with child(kind, tmp_path, body) as process:
        assert process.tells() == "child"
        os.waitid(os.P_PID, process.process.pid, os.WEXITED | os.WNOWAIT)  # the parent is dead, the child is not
        with store.lease("run"):
            store.append("run", "next")
        process.go()


def test_a_child_forked_amid_an_open_does_not_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the open and its being written down: the child finds its copy by the path."""
    path = str(tmp_path / "run.lease")
    real, told = os.open, []

    def opening(*args: Any) -> int:
        fd = real(*args)
        monkeypatch.setattr(os, "open", real)
        told.append(
            forked(lambda: [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if n == str(fd)])
        )
        return fd

    monkeypatch.setattr(os, "open", opening)
    files.drop(files.lock(path, os.O_RDWR | os.O_CREAT, wait=True))
    assert path not in told[0]
    assert not files._kept
    assert not files._opening


# -- forks (STO-22)


@pytest.mark.parametrize("held", ["fsync", "replace", "flock", "open"])
def test_a_child_forked_amid_a_save_can_save(
    held: str, saved: JsonStore, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the handle that it inherits: another thread's save stands still, wherever it stands (STO-22)."""
    module: Any = fcntl if held == "flock" else os
    real = getattr(module, held)
    entered = threading.Event()

    def stands(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is thread:
            entered.set()
            gate.opened.wait(LIMIT)
        return real(*args, **kwargs)

    monkeypatch.setattr(module, held, stands)
    thread = threading.Thread(target=saved.save, args=("run", "parent"), daemon=True)
    thread.start()
    assert entered.wait(LIMIT)

    def in_child() -> object:
        saved.save("run", "child")
        saved.append("run", "child")
        with saved.lease("run"):
            return saved.load("run")

    assert forked(in_child) == "'child'"
    assert saved.entries("run") == ["child"]
    gate.opened.set()
    thread.join(LIMIT)
    assert saved.load("run") == "parent"
    assert left(tmp_path) == []


def test_a_child_forked_beside_savers_can_save(store: Any) -> None:
    """Threads save and append all the time; each child does so, too, with what it inherits (STO-22)."""
    over = threading.Event()

    def work(i: int) -> None:
        while not over.is_set():
            store.save(f"run-{i}", [i] * 100)
            store.append(f"run-{i}", i)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(3)]
    for thread in threads:
        thread.start()
    try:
        for n in range(8):

            def in_child(n: int = n) -> object:
                store.save("run-0", ["child"] * 50)
                store.append("child", n)
                return store.load("run-0") in (["child"] * 50, [0] * 100)

            assert forked(in_child) == "True"
    finally:
        over.set()
        for thread in threads:
            thread.join(LIMIT)
    assert store.entries("child") == list(range(8))
    assert all(store.load(f"run-{i}") == [i] * 100 for i in (1, 2))


# -- deleting


def test_delete_forgets_all_of_a_run(store: Any, again: Opener, tmp_path: Path) -> None:
    """And nothing of others; there is no need for the run to be there."""
    for run_id in ("a", "b"):
        store.save(run_id, 1)
        store.append(run_id, 1)
    again().delete("a")
    store.delete("a")
    assert store.runs() == ["b"]
    assert store.entries("a") == []
    with pytest.raises(RunNotFoundError):
        store.load("a")
    store.save("a", 2)
    assert (store.load("a"), store.load("b")) == (2, 1)
    with store.lease("a"):
        store.delete("a")
    assert left(tmp_path) == []


def test_delete_takes_what_dead_savers_left(saved: JsonStore, tmp_path: Path) -> None:
    """All of it."""
    for number in range(3):
        (tmp_path / f".run.{number}.tmp").touch()
    saved.delete("run")
    assert os.listdir(tmp_path) == []


# -- SQLite


def test_others_in_the_way_are_a_clear_error(tmp_path: Path) -> None:
    """After `timeout`, and nothing was changed (STO-07)."""
    with SqliteStore(tmp_path / "runs.db", timeout=0.01) as store:
        store.save("run", 1)
        other = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
        with ExitStack() as stack:
            for busy in (
                lambda: stack.enter_context(store._database.writing()),
                lambda: other.execute("BEGIN IMMEDIATE"),
            ):
                busy()
                for change in (
                    lambda: store.save("run", 2),
                    lambda: store.append("run", 2),
                    lambda: store.delete("run"),
                ):
                    with pytest.raises(StoreBusyError, match=r"were at .*runs\.db for too long: nothing was changed"):
                        change()
                assert store.load("run") == 1
                stack.close()
        other.close()
        store.save("run", 2)
        assert store.load("run") == 2


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_the_settings_are_those_that_last(journal: Any, durable: bool, tmp_path: Path) -> None:
    """With a rollback journal FULL would not last: the journal's name may come back (STO-17)."""
    with SqliteStore(tmp_path / "runs.db", journal=journal, durable=durable) as store:
        assert store._database.fetch("PRAGMA journal_mode") == [(journal,)]
        wanted = 3 if durable else 1 if journal == "wal" else 2
        assert store._database.fetch("PRAGMA synchronous") == [(wanted,)]
    with SqliteStore(tmp_path / "runs.db", journal="delete"):  # it keeps its own
        pass
    with sqlite3.connect(tmp_path / "runs.db") as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == (journal,)
    plain.close()


def test_a_file_that_is_no_database_of_runs_is_left_alone(tmp_path: Path) -> None:
    """An empty one, one of something else, one of another application, one of a later version (STO-12)."""
    path = tmp_path / "runs.db"
    path.touch()
    with pytest.raises(CorruptStateError, match=r"runs\.db is empty"):
        SqliteStore(path)
    assert path.stat().st_size == 0
    path.write_text("{}" * 5000)
    with pytest.raises(CorruptStateError, match=r"runs\.db is damaged: file is not a database"):
        SqliteStore(path)
    assert path.read_text() == "{}" * 5000
    path.unlink()
    with sqlite3.connect(path) as plain:
        plain.execute("CREATE TABLE t (a)")
    with pytest.raises(StoreError, match="no database of runs"):
        SqliteStore(path)
    plain.execute("PRAGMA application_id = 0x666c6f77")
    plain.execute("PRAGMA user_version = 2")
    plain.close()
    with pytest.raises(StoreError, match="of another version"):
        SqliteStore(path)
    assert os.listdir(tmp_path) == ["runs.db"]
    with pytest.raises(ValueError, match="in memory"):
        SqliteStore(":memory:")
    with pytest.raises(ValueError, match="journal"):
        SqliteStore(path, journal="off")  # type: ignore[arg-type]


def test_damaged_pages_are_a_clear_error(tmp_path: Path) -> None:
    """Whichever method meets them (STO-12)."""
    path = tmp_path / "runs.db"
    with SqliteStore(path, journal="delete") as store:
        for i in range(50):
            store.save(f"run-{i}", "x" * 3000)
    data = path.read_bytes()
    path.write_bytes(data[:8192] + os.urandom(1) * (len(data) - 8192))
    with SqliteStore(path) as store:
        for touch in (store.load, lambda run: store.save(run, 1)):
            with pytest.raises(CorruptStateError, match=r"runs\.db"):
                touch("run-20")
    path.write_bytes(data)
    with SqliteStore(path) as store:
        assert store.load("run-20") == "x" * 3000


def test_a_damaged_entry_is_a_clear_error(tmp_path: Path) -> None:
    """SQLite tears none, so it is damage."""
    with SqliteStore(tmp_path / "runs.db") as store:
        store.extend("run", [1, 2])
        with store._database.writing() as connection:
            connection.execute("UPDATE log SET entry = x'37' WHERE number = 1")
        with pytest.raises(CorruptStateError, match=r"runs\.db: the checksum of an entry"):
            store.entries("run")


def test_a_database_is_made_once(tmp_path: Path) -> None:
    """By many at once, after makers that were killed."""
    (tmp_path / "runs.db-new").write_text("left by a dead maker")
    (tmp_path / "runs.db-making").touch()
    stores: list[SqliteStore] = []
    in_threads(6, lambda i: stores.append(SqliteStore(tmp_path / "runs.db")))
    for i, store in enumerate(stores):
        store.append("run", i)
    assert stores[0].entries("run") == list(range(6))
    for store in stores:
        store.close()
    assert os.listdir(tmp_path) == ["runs.db"]


def test_a_database_that_is_gone_is_told(tmp_path: Path) -> None:
    """It isn't made anew behind anybody's back."""
    with SqliteStore(tmp_path / "runs.db") as store:
        store.save("run", 1)
        store._database._drain()
        (tmp_path / "runs.db").unlink()
        with pytest.raises(FileNotFoundError, match="is gone"):
            store.load("run")
    assert os.listdir(tmp_path) == []


def test_connections_are_as_many_as_operations_at_once(tmp_path: Path) -> None:
    """Threads that have ended leave none; after `close` there is none."""
    with SqliteStore(tmp_path / "runs.db") as store:
        for _ in range(5):
            in_threads(2, lambda i: store.save("run", i))
        assert 1 <= len(store._database._idle) <= 2
    assert not store._database._idle


def test_what_is_under_way_at_close_comes_to_its_end(tmp_path: Path) -> None:
    """And its connection is closed then."""
    store = SqliteStore(tmp_path / "runs.db")
    with store._database.writing() as connection:
        store.close()
        connection.execute("DELETE FROM log")
    assert not store._database._idle
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_killed_writers_leave_a_sound_database(kind: str, store: Any, tmp_path: Path) -> None:
    """Amid a save: the old state or the new, and the next save works (STO-04, 20)."""
    body = """
    told("ready")
    while True:
        store.save("run", ["x" * 20000, os.getpid()])
        store.append("run", os.getpid())
        told("saved")
    """
    sizes = []
    for _ in range(4):
        with child(kind, tmp_path, body) as process:
            assert process.tells() == "ready"
            assert process.tells() == "saved"
            process.kill()
            text, pid = store.load("run")
            assert (len(text), pid) == (20000, process.process.pid)
            assert process.process.pid in store.entries("run")
            store.save("run", ["y" * 20000, 0])
        sizes.append(len(left(tmp_path)))
    assert sizes[-1] == 0


# -- the package


def test_the_names_are_there() -> None:
    """Also without orjson, and without paying for SQLite."""
    for name in ("JsonStore", "SqliteStore", "Store", "Snapshot", "StoreError"):
        assert getattr(flowcheck_reference, name).__name__ == name
    code = (
        "import sys; sys.modules['orjson'] = None; from flowcheck_reference import JsonStore, SqliteStore;"
        "import tempfile; s = JsonStore(tempfile.mkdtemp()); s.save('run', [1.5, None]); s.append('run', 2);"
        "assert s.load('run') == [1.5, None] and s.entries('run') == [2]; assert 'sqlite3' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
