"""A thread is held between two steps of what it does to files, or to a database, and nowhere else."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pytest_flowcheck.probes.holding import Step


@contextmanager
def held(step: Step, work: Callable[[], object]) -> Generator[None]:
    """Inside, `work` is held at that step, on a thread of its own; or it is through."""

    def run() -> None:
        try:
            work()
        finally:
            step.reached.set()

    step.begin()
    thread = threading.Thread(target=run)
    thread.start()
    try:
        step.reached.wait()
        yield
    finally:
        step.end()
        thread.join()


def replace(folder: Path) -> None:
    (folder / "new").write_text("new")
    (folder / "new").rename(folder / "it")


@pytest.mark.parametrize(
    ("number", "name", "there"), [(1, "open", set()), (2, "os.rename", {"new"}), (3, "", {"it"})], ids=["1", "2", "3"]
)
def test_a_thread_is_held_before_a_step(tmp_path: Path, number: int, name: str, there: set[str]) -> None:
    """What comes before it is done, what comes after it is not; let go, it goes on."""
    step = Step(str(tmp_path), number)
    with held(step, lambda: replace(tmp_path)):
        assert step.name == name
        assert {path.name for path in tmp_path.iterdir()} == there
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_what_happens_to_other_files_is_no_step(tmp_path: Path) -> None:
    """The folder says whose files are meant."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "other").mkdir()
    step = Step(str(tmp_path / "mine"), 1)
    with held(step, lambda: replace(tmp_path / "other")):
        assert not step.name


def counted(path: Path) -> None:
    """Two statements by themselves, and between them two in a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE counts (n)")
        database.cursor().execute("BEGIN")
        database.execute("INSERT INTO counts VALUES (1)")
        database.execute("COMMIT")
        database.execute("INSERT INTO counts VALUES (2)")


@pytest.mark.parametrize(("number", "rows"), [(2, []), (3, [(1,)]), (4, [(1,), (2,)])], ids=["2", "3", "4"])
def test_a_statement_is_a_step_outside_of_a_transaction(tmp_path: Path, number: int, rows: list[tuple[int]]) -> None:
    """Before `BEGIN`, and after `COMMIT`; in between others would wait for seconds, and not get in."""
    step = Step(str(tmp_path), number, statements=True)
    with held(step, lambda: counted(tmp_path / "db")), closing(sqlite3.connect(tmp_path / "db")) as other:
        assert step.name == ("" if number == 4 else "a statement")
        assert other.execute("SELECT n FROM counts").fetchall() == rows


def test_statements_count_where_they_are_asked_for(tmp_path: Path) -> None:
    """SQLite's own files are opened by SQLite: Python is told nothing of it."""
    step = Step(str(tmp_path), 1)
    with held(step, lambda: counted(tmp_path / "db")):
        assert not step.name
