"""STO-12, 13, 18: the files themselves: corrupted ones, their modes, symbolic links. The kit finds them by looking."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.nursery import folder, told
from pytest_flowcheck.protocols import Corrupt
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.store._shared import RUN, among, at_rest, files, granted, state, visit

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab

MARK: Final = "a text that nothing else holds"


def _marked(step: int) -> dict[str, object]:
    return {**state(step, 30), "mark": f"{MARK} {step}"}


def _saved(lab: Lab, path: Path, run: str, step: int) -> None:
    granted(at_rest(lab, path, ("save", run, _marked(step)))[0], f"save({run!r})", "STO-01")


def _written_by(before: Mapping[Path, bytes], after: Mapping[Path, bytes]) -> list[Path]:
    """Files with something in them that a save made or changed."""
    return [name for name, data in after.items() if data and before.get(name) != data]


# --- STO-12 -------------------------------------------------------------------------------------------------------------


@rule("STO-12")
def a_corrupted_state_is_told_and_kept(lab: Lab) -> None:
    """A corrupted state is a clear error that names the file, and is never overwritten silently.

    Intent: Somebody can often still mend a broken file, if he is told which one it is and nobody has written over it.

    Usual cause: `except ValueError: return {}`: the run starts again from nothing, and its next save destroys what was left.

    Proof: The files of a saved state are found by looking. One after the other is filled with what no format holds, and cut to half, unless saves only append to it: then a crash leaves the same (STO-04). One that holds this run alone is emptied, too. Each time it is a copy of the folder, since who still has the first one open may have mapped it into memory. A load by a fresh handle must raise Corrupt with the file's name in its text, or give the right state where the damage does not reach it. A save after that must raise, or leave the damaged bytes somewhere in the folder.

    Source: git's "object file is empty"; Prometheus WAL repair; spec-kit `_load_run`.
    """
    with folder() as path, folder() as home:
        _saved(lab, path, "another", 1)
        bystanders = files(path)
        _saved(lab, path, RUN, 2)
        intact = files(path)
        of_the_run = _written_by(bystanders, intact)
        if not of_the_run:
            raise NotTestable("what the store saves stands in no file of its folder")
        _saved(lab, path, RUN, 3)
        damages = [
            (name, how, data)
            for name in of_the_run
            for how, data in _damages(intact[name], files(path).get(name, b""), name not in bystanders)
        ]
        detected = 0
        for number, (name, how, damaged) in enumerate(damages):
            copy = home / str(number)
            for place, data in {**intact, name: damaged}.items():
                there = copy / place.relative_to(path)
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(data)
            detected += _told(lab, copy, copy / name.relative_to(path), how, damaged)
        if not detected:
            raise Inconclusive(f"no damage to {', '.join(name.name for name in of_the_run)} reached what is loaded")


def _damages(data: bytes, later: bytes, alone: bool) -> Iterator[tuple[str, bytes]]:
    """How it came to be, and what is left of the file. `later`: after one more save; `alone`: it holds no other run."""
    yield "filled with noise", bytes(range(127, 255)) * (len(data) // 128) + b"\xfe" * (len(data) % 128)
    if len(later) > len(data) and later.startswith(data):
        return  # it is only appended to: what is cut off at its end was never written (STO-04)
    yield "cut to half", data[: len(data) // 2]
    if alone:
        yield "emptied", b""


def _told(lab: Lab, path: Path, name: Path, how: str, damaged: bytes) -> bool:
    """Whether the damage reached the load."""
    (loaded,) = visit(lab, path, ("load", RUN))
    if among(loaded, [_marked(2)]):
        return False
    facts = f"{name.name} was {how}; the load {loaded}"
    lab.check(loaded.is_a(Corrupt), facts, "Corrupt (in itself or by the table `errors`)")
    lab.check(name.name in loaded.text, facts, f"an error whose text names {name.name}")
    (saved,) = visit(lab, path, ("save", RUN, _marked(4)))
    if saved.returned and damaged:
        lab.check(
            any(damaged in data for data in files(path).values()),
            f"{name.name} was {how}, a load raised {loaded.error}; then a save returned, and the damaged file is gone",
            "the save raises, or keeps what was there",
        )
    return True


# --- STO-13 -------------------------------------------------------------------------------------------------------------


@rule("STO-13", "files", should=True)
def the_mode_is_kept(lab: Lab) -> None:
    """An existing state's mode is kept.

    Intent: Who takes a file with secrets away from others, or opens it to his group, does so once.

    Usual cause: The temporary file has the mode of all new files, or `mkstemp`'s 0600, and takes the old one's place.

    Proof: The files of a saved state are found by looking, given another mode, once a narrower and once a wider one, and looked at again after the next save.

    Source: rename(2); `sed -i` and editors, which keep it.
    """
    with folder() as path:
        _saved(lab, path, RUN, 1)
        for step, mode in ((2, 0o600), (3, 0o664), (4, 0o640)):
            there = [name for name, data in files(path).items() if data]
            if not there:
                raise NotTestable("what the store saves stands in no file of its folder")
            for name in there:
                name.chmod(mode)
            _saved(lab, path, RUN, step)
            for name in there:
                if not name.exists():
                    continue
                now = name.stat().st_mode & 0o7777
                lab.check(
                    now == mode, f"{name.name} had mode {mode:04o}; after the next save it has {now:04o}", f"{mode:04o}"
                )


# --- STO-18 -------------------------------------------------------------------------------------------------------------


@rule("STO-18", "files", should=True)
def a_symbolic_link_is_followed(lab: Lab) -> None:
    """A symbolic link is followed, not replaced.

    Intent: Who keeps his state on another disk by a link finds it there, not beside the link.

    Usual cause: `os.replace(temporary, path)` replaces the link itself; the file behind it stays as it was for ever.

    Proof: The file that holds a saved state is found by a text in it, moved to another folder, and a link is put in its place. After the next save the link must still be one, the file behind it must hold the new state, and it must load.

    Source: rename(2): "If newpath refers to a symbolic link, it will be overwritten"; `os.path.realpath`.
    """
    with folder() as around:
        path, away = around / "store", around / "another-disk"
        path.mkdir()
        away.mkdir()
        _saved(lab, path, RUN, 1)
        holding = [name for name, data in files(path).items() if f"{MARK} 1".encode() in data]
        if not holding:
            raise NotTestable("no file of the store's folder holds the text of a state as it is")
        for name in holding:
            target = away / name.name
            name.rename(target)
            name.symlink_to(target)
        _saved(lab, path, RUN, 2)
        for name in holding:
            lab.check(
                name.is_symlink(),
                f"{name.name} was a symbolic link to {os.path.relpath(away / name.name, path)}; after the next save it is a file",
                "the link stays a link",
            )
        texts = [target.read_bytes() for target in away.iterdir()]
        lab.check(
            any(f"{MARK} 2".encode() in text for text in texts),
            f"{told([name.name for name in holding])}: a link led there, and after the next save what it leads to does not hold the new state",
            "the new state is behind the link",
        )
        (loaded,) = visit(lab, path, ("load", RUN))
        lab.check(among(loaded, [_marked(2)]), f"after that save through a link, the load {loaded}", "the new state")
