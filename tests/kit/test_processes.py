"""Who is below whom: what is remembered of strangers must never hide a child."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_flowcheck.proof import processes, procfs

pytestmark = pytest.mark.skipif(not procfs.LINUX, reason="read from /proc")


@contextmanager
def child() -> Iterator[int]:
    """A process below this one that waits."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield process.pid
    finally:
        process.communicate(b"\n")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The `stat` files that are read from now on."""
    read: list[str] = []
    stat: Callable[[str], procfs.Stat] = procfs.stat

    def noting(path: str) -> procfs.Stat:
        read.append(path)
        return stat(path)

    monkeypatch.setattr(procfs, "stat", noting)
    return read


def test_strangers_are_asked_once_and_a_new_child_is_found(asked: list[str]) -> None:
    """The second call reads what the family has, and a child that came in between."""
    me = os.getpid()
    processes.family(me)
    with child() as old:
        assert old in processes.family(me)
        asked.clear()
        family = processes.family(me)
        # others may come and go on this machine; but nobody who was there before is asked again
        assert {f"/proc/{pid}/stat" for pid in family} <= set(asked)
        assert f"/proc/{os.getppid()}/stat" not in asked
        with child() as new:
            assert {old, new} <= set(processes.family(me))
        assert new not in processes.family(me)


def test_the_dead_are_asked_once(asked: list[str]) -> None:
    """Zombies stay until their parent looks at them; nobody is below one."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it is over, and still listed
        own = f"/proc/{process.pid}/stat"
        assert process.pid not in processes.family(os.getpid())
        assert own in asked
        asked.clear()
        assert process.pid not in processes.family(os.getpid())
        assert own not in asked
    finally:
        process.wait()


def test_a_folder_without_a_number_of_its_own_names_nobody(monkeypatch: pytest.MonkeyPatch, asked: list[str]) -> None:
    """Where the listing has no inode, every process is asked again: a pid alone would outlive its process."""

    class Entry:
        def __init__(self, name: str) -> None:
            self.name = name

        def inode(self) -> int:
            return 1

    @contextmanager
    def listing(path: str) -> Iterator[Iterator[Entry]]:
        yield (Entry(found.name) for found in Path(path).iterdir())

    me = os.getpid()
    monkeypatch.setattr(processes, "_known_strangers", {})
    monkeypatch.setattr(processes.os, "scandir", listing)
    processes.family(me)
    asked.clear()
    processes.family(me)
    assert f"/proc/{os.getppid()}/stat" in asked
