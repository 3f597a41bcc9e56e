"""Operations that change files in a folder. Another process imports them, so there is nothing else in here."""

from __future__ import annotations

import json
import mmap
import os
import sys
from pathlib import Path
from typing import Any


def in_place(folder: Path, value: Any) -> None:
    """Empties the old state before the new one is there."""
    (folder / "state").write_text(json.dumps(value))


def replaced(folder: Path, value: Any, *, folder_too: bool = True) -> None:
    """As it should be, and with `folder_too` so that it stays."""
    with (folder / "new").open("w") as file:
        file.write(json.dumps(value))
        file.flush()
        os.fsync(file.fileno())
    (folder / "new").replace(folder / "state")
    if folder_too:
        fd = os.open(folder, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


async def on_a_loop(folder: Path, value: Any, library: str) -> None:
    """With a thread, on the loop that was asked for."""
    import anyio

    trio = sys.modules.get("trio.lowlevel")
    assert (trio is not None and trio.in_trio_run()) == (library == "trio")
    await anyio.to_thread.run_sync(replaced, folder, value)


async def careless_on_a_loop(folder: Path, value: Any) -> None:
    """`in_place`, on a loop."""
    import anyio

    await anyio.lowlevel.checkpoint()
    in_place(folder, value)


def raises(folder: Path) -> None:
    """Before it has written anything."""
    raise OSError(f"not today, {folder.name}")


def reads(folder: Path) -> None:
    """And writes nothing."""
    (folder / "state").read_text()


def maps_it(folder: Path) -> None:
    """What is stored through the mapping leaves no system call."""
    with (folder / "mapped").open("w+b") as file:
        file.truncate(4)
        with mmap.mmap(file.fileno(), 4) as memory:
            memory[:] = b"done"
