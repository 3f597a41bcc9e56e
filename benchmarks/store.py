"""The stores against the calls that any of them must make: medians of the ratios of neighbours, taking turns.

    python benchmarks/store.py [rounds]

What can't be had for less is: write the bytes, which are ready, fsync, rename, fsync of the folder; for an entry of a
log, write and fsync. A ratio is what a store takes of that; behind it stands the target, where there is one. States come
in two shapes: *records*, whose values are texts of some length, as results of nodes mostly are, and *numbers*, of which a
state of the same size has ten times as many values, and each is looked at. Run it on the disk that you mean:
`TMPDIR` says where.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

from flowcheck_reference.store import JsonStore, SqliteStore, Store

RUN = "report-17"
TEXT = "The quick brown fox jumps over the lazy dog. " * 18
ENTRY = {"node": "node-17", "status": "succeeded", "value": TEXT[:100], "attempts": 1, "ended": 1_795_272_153.68}


class Case(NamedTuple):
    """Ours against what can't be had for less."""

    name: str
    ours: Callable[[], object]
    least: Callable[[], object]
    target: float | None


def records(size: int) -> dict[str, Any]:
    """A state of about so many bytes, most of them text."""
    nodes = range(max(1, size // 890))
    return {
        "nodes": {
            f"node-{i}": {"status": "succeeded", "value": TEXT, "attempts": 1, "ended": 1e9 + i / 3} for i in nodes
        }
    }


def numbers(size: int) -> dict[str, Any]:
    """A state of about so many bytes, made of small values."""
    nodes = range(max(1, size // 112))
    return {
        "nodes": {
            f"node-{i}": {"status": "ok", "value": {"rows": i, "mean": i / 7, "least": -i}, "ended": 1e9 + i / 3}
            for i in nodes
        }
    }


def replaced(folder: Path, data: bytes) -> None:
    """A durable save of bytes that are ready, and nothing else."""
    fd = os.open(folder / "new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
    os.write(fd, data)
    os.fsync(fd)
    os.close(fd)
    os.replace(folder / "new", folder / "state")  # noqa: PTH105
    above = os.open(folder, os.O_RDONLY)
    os.fsync(above)
    os.close(above)


def appended(fd: int, data: bytes) -> None:
    """A durable entry of bytes that are ready, and nothing else."""
    os.write(fd, data)
    os.fsync(fd)


def cases(folder: Path, clean: ExitStack) -> list[Case]:
    """All of them, on one disk."""
    files = clean.enter_context(JsonStore(folder / "runs"))
    database = clean.enter_context(SqliteStore(folder / "runs.db"))
    journal = clean.enter_context(SqliteStore(folder / "journal.db", journal="delete"))
    bare = folder / "bare"
    bare.mkdir()
    log = os.open(bare / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    clean.callback(os.close, log)
    line = json.dumps(ENTRY).encode()
    found: list[Case] = []

    def saves(what: str, store: Store, state: Any, target: float | None) -> None:
        data = json.dumps(state, separators=(",", ":")).encode()
        store.save(RUN, state)
        found.append(
            Case(
                f"{what}, {len(data) / 1e3:.0f} kB",
                lambda: store.save(RUN, state),
                lambda: replaced(bare, data),
                target,
            )
        )

    saves("save records to a file", files, records(10_000), 1.2)
    saves("save records to a file", files, records(1_000_000), 1.8)
    saves("save numbers to a file", files, numbers(10_000), None)
    saves("save numbers to a file", files, numbers(1_000_000), None)
    saves("save records to SQLite", database, records(10_000), None)
    saves("save records to SQLite", database, records(1_000_000), None)
    saves("the same, rollback journal", journal, records(10_000), None)
    files.append("alone", ENTRY)
    found.append(Case("append to a log", lambda: files.append("alone", ENTRY), lambda: appended(log, line), None))
    clean.enter_context(files.lease(RUN))
    found.append(Case("append, holding the lease", lambda: files.append(RUN, ENTRY), lambda: appended(log, line), None))
    hundred = [ENTRY] * 100
    found.append(Case("extend by 100, for each", lambda: files.extend(RUN, hundred), lambda: appended(log, line), None))
    found.append(Case("append to SQLite", lambda: database.append(RUN, ENTRY), lambda: appended(log, line), None))
    found.append(
        Case("the same, rollback journal", lambda: journal.append(RUN, ENTRY), lambda: appended(log, line), None)
    )
    return found


def timed(call: Callable[[], object]) -> float:
    """Seconds for one call."""
    start = perf_counter()
    call()
    return perf_counter() - start


def main(rounds: int = 60) -> None:
    """Print one line per case."""
    with TemporaryDirectory() as folder, ExitStack() as clean:
        for case in cases(Path(folder), clean):
            times: tuple[list[float], list[float]] = [], []
            for i in range(2 * rounds):  # A B, B A, A B, …: neither always follows the other
                which = int(i % 4 in {1, 2})
                times[which].append(timed(case.least if which else case.ours))
            each = 100 if "for each" in case.name else 1
            ours, least = median(times[0]) / each, median(times[1])
            ratio = median(a / b for a, b in zip(*times, strict=True)) / each
            wanted = "" if case.target is None else f"   (target {case.target})"
            print(f"{case.name:34} {ratio:6.2f}   ({ours * 1e3:.3f} ms against {least * 1e3:.3f} ms){wanted}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
