"""What a worker is doing, on disk, so that the controller knows it even when the worker can't speak any more.

One append-only file per worker, one JSON line per fact, each written before what it announces. The file is opened anew
for each line: a subject that closes descriptors it does not own can't close this one. A pulse beside it is a file whose
time of change a thread of the worker renews every second: it stops when the interpreter does.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from time import time
from typing import Any, Final

BEAT: Final = 1.0
"""Seconds between two beats of a pulse."""


class Journal:
    """The worker's side."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._file, self._pulse = folder / f"{worker}.journal", folder / f"{worker}.pulse"
        self.fault = folder / f"{worker}.fault"
        self._stop = threading.Event()

    def hello(self) -> None:
        """Begin: start the pulse, then say who this is and which threads were here first."""
        self._pulse.touch()
        pulse = threading.Thread(target=self._beat, daemon=True, name="flowcheck pulse")
        pulse.start()
        tids = [int(tid) for tid in os.listdir("/proc/self/task")] if Path("/proc/self/task").is_dir() else []
        self.write("hello", pid=os.getpid(), tids=tids, pulse_tid=pulse.native_id)

    def write(self, kind: str, **facts: Any) -> None:
        """Add one line."""
        line = json.dumps({"kind": kind, "at": time(), **facts}) + "\n"
        descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            try:
                os.utime(self._pulse)
            except OSError:
                return  # the run is over and its folder gone


@dataclass
class Page:
    """The controller's side: what one worker's journal says by now."""

    worker: str
    pid: int = 0
    tids: list[int] = field(default_factory=list[int])
    """Its threads that are the harness's."""
    pulse_tid: int = 0
    nodeid: str = ""
    """The item that is being judged, or was last."""
    begun: float = 0.0
    """When that item began; 0 when it is over."""
    leaving: bool = False
    """It said that it leaves on purpose."""
    beat: float = 0.0
    """When its pulse last beat."""


def read(folder: Path, worker: str) -> Page:
    """What this worker wrote so far; an empty page if it has not yet."""
    page = Page(worker)
    try:
        text = (folder / f"{worker}.journal").read_text()
        page.beat = (folder / f"{worker}.pulse").stat().st_mtime
    except OSError:
        return page
    for line in text.splitlines():
        try:
            fact: dict[str, Any] = json.loads(line)
        except ValueError:
            continue  # the line is being written
        if fact["kind"] == "hello":
            page.pid, page.tids, page.pulse_tid = fact["pid"], fact["tids"], fact["pulse_tid"]
        elif fact["kind"] == "ready":
            page.tids = fact["tids"]
        elif fact["kind"] == "begin":
            page.nodeid, page.begun = fact["nodeid"], fact["at"]
        elif fact["kind"] == "end":
            page.begun = 0.0
        elif fact["kind"] == "leave":
            page.leaving = True
    return page


def fault(folder: Path, worker: str) -> list[str]:
    """Where the interpreter was when it crashed, innermost first; empty if it did not, or could not say."""
    try:
        text = (folder / f"{worker}.fault").read_text(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.startswith("  File ")]
