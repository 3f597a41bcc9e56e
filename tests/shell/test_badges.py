"""`flowcheck badge`: badges made anew, compared with what is installed now."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_flowcheck.certificate import document
from pytest_flowcheck.rules import REVISION, bundled_rules

DOT = "\N{MIDDLE DOT}"
MUST = sum(rule.facet == "retry" and rule.level == "MUST" for rule in bundled_rules())
SCORE = f"{REVISION} {DOT} {MUST}/{MUST}"

MINE = """
class Mine:
    version = {version!r}
    claims = {{"executor": {{"threads"}}}}

    def executor(self, *, max_workers):
        from concurrent.futures import ThreadPoolExecutor

        return ThreadPoolExecutor(max_workers)
"""


def of(folder: Path) -> tuple[str, str]:
    """Message and colour of the badge in a folder; the picture says the same."""
    made = json.loads((folder / "badge.json").read_text(encoding="utf-8"))
    assert f"{made['label']}: {made['message']}" in (folder / "badge.svg").read_text(encoding="utf-8")
    return made["message"], made["color"]


def test_what_is_installed_now_decides(flowcheck: Any, written: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Of the version that the subject has now: as it was. Of another: grey, and the line says which it is now."""
    monkeypatch.chdir(tmp_path)
    folder = written("a", asked="mine.py:Mine")
    for version, message, color, more in (
        ("1.0", SCORE, "brightgreen", ""),
        ("1.0.1", f"{SCORE} {DOT} of 1.0", "lightgrey", ": it is 1.0.1 now"),
    ):
        # versions of other lengths: of two files of one length and second, Python's cache knows the first
        (tmp_path / "mine.py").write_text(MINE.format(version=version))
        done = flowcheck("badge", folder)
        assert (done.status, done.err) == (0, "")
        assert done.out == f"{folder / 'badge.svg'}: retry {message} ({color}{more})\n"
        assert of(folder) == (message, color)
    assert "mine" not in sys.modules  # it was imported elsewhere


def test_the_version_is_said(flowcheck: Any, written: Any, tmp_path: Path) -> None:
    """`--version` imports nothing; `--out` is made, and the certificate's folder is left alone."""
    folder, out = written("a", asked="nobody:Has"), tmp_path / "some" / "badges"
    done = flowcheck("badge", folder / "certificate.json", "--version=2.0", "--out", out)
    assert (done.status, done.err) == (0, "")
    assert of(out) == (f"{SCORE} {DOT} of 1.0", "lightgrey")
    assert sorted(path.name for path in folder.iterdir()) == ["certificate.json"]
    assert flowcheck("badge", folder, "--version", "1.0").out.endswith("(brightgreen)\n")


def test_the_revision_of_the_kit_at_hand_decides(flowcheck: Any, written: Any) -> None:
    """A certificate by other rules is grey, whatever the version is."""
    folder = written("a")
    certificate = document.read(folder)
    document.write({**certificate, "revision": "2019.7"}, folder)
    assert flowcheck("badge", folder, "--version=1.0").status == 0
    assert of(folder) == (f"2019.7 {DOT} {MUST}/{MUST} {DOT} not {REVISION}", "lightgrey")


@pytest.mark.parametrize(
    ("asked", "version", "source", "why"),
    [
        ("nobody:Has", "1.0", None, "nobody"),
        ("mine.py:Mine", "1.0", "raise ValueError('not today\\n\\x1b[2J')", "mine.py raised ValueError: not today"),
        ("mine.py:Mine", "1.0", "import os; os._exit(3)", "exited with status 3"),
        ("mine.py:Mine", "unknown", MINE.format(version="1.0"), "it is unknown"),
        ("mine.py:Mine", "1.0", MINE.format(version="unknown"), "it is unknown"),
    ],
    ids=["not installed", "raises", "dies", "was unknown", "is unknown"],
)
def test_what_can_not_be_compared(
    flowcheck: Any, written: Any, tmp_path: Path, monkeypatch: Any, asked: str, version: str, source: str, why: str
) -> None:
    """One line says so and why, and the badge is what the certificate says of itself; that is no failure."""
    monkeypatch.chdir(tmp_path)
    if source:
        (tmp_path / "mine.py").write_text(source)
    folder = written("a", asked=asked, version=version, label="it\n\x1b[2J")
    done = flowcheck("badge", folder)
    assert done.status == 0
    assert len(done.err.splitlines()) == 1, done.err
    assert re.match(r"flowcheck badge: it\S*: its version could not be compared: .*; give it by --version$", done.err)
    assert why in done.err
    assert done.err.strip().isprintable()
    assert of(folder) == (SCORE, "brightgreen")


def test_a_folder_of_a_report(flowcheck: Any, written: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Each certificate has its badge beside it: one that is of what is there, one that is not, one that can't be compared."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE.format(version="2.0"))
    (tmp_path / "other.py").write_text("raise SystemExit")
    told = {"new": ("mine.py:Mine", "2.0"), "old": ("mine.py:Mine", "1.0"), "other": ("other.py:Other", "1.0")}
    for name, (asked, version) in told.items():
        written(f"run/{name}", asked=asked, version=version, name=asked, label=name)
    done = flowcheck("badge", "run")
    assert (done.status, len(done.out.splitlines()), len(done.err.splitlines())) == (0, 3, 1)
    assert {name: of(tmp_path / "run" / name)[1] for name in told} == {
        "new": "brightgreen",
        "old": "lightgrey",
        "other": "brightgreen",
    }
    for arguments, words in (
        (["--out", "x"], "--out: one folder for the badges of 3 certificates"),
        (["--version", "2.0"], "--version: one version for certificates of 2 subjects"),
    ):
        done = flowcheck("badge", "run", *arguments)
        assert (done.status, done.out, done.err.count("\n")) == (4, "", 1)
        assert words in done.err


def test_what_can_not_be_done_is_one_line(flowcheck: Any, written: Any, tmp_path: Path) -> None:
    """No certificate, a torn one, no version, a place where nothing can be written: exit code 4, and nothing is written."""
    good, torn, taken = written("good"), tmp_path / "torn.json", tmp_path / "taken"
    torn.write_text((good / "certificate.json").read_text()[:-20])
    taken.write_text("")
    for arguments, words in (
        ((tmp_path / "none",), "no such file"),
        ((torn,), "no JSON, or torn"),
        ((good, torn), "no JSON, or torn"),
        ((good, "--version="), "--version: got an empty word; expected"),
        ((good, "--version=1.0", "--out", taken), f"--out: can't write badges to {str(taken)!r}"),
    ):
        done = flowcheck("badge", *arguments)
        assert (done.status, done.out, len(done.err.splitlines())) == (4, "", 1), arguments
        assert words in done.err
    assert sorted(path.name for path in good.iterdir()) == ["certificate.json"]


def test_a_facet_is_no_path(flowcheck: Any, written: Any, tmp_path: Path) -> None:
    """Badges of a stranger's certificate stay in their folder, whatever its facets are called."""
    folder = written("deep/down/a")
    certificate = document.read(folder)
    passed = certificate["facets"]["retry"]
    document.write({**certificate, "facets": {"../../x": passed, "/tmp/y": passed}}, folder)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert flowcheck("badge", folder, "--version=1.0").status == 0
    made = {
        path.relative_to(folder).as_posix() for path in tmp_path.rglob("*") if path.is_file() and path not in before
    }
    assert made == {f"badge{name}.{kind}" for name in ("", "-x", "-tmp-y") for kind in ("svg", "json")}
