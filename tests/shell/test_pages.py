"""The commands that the documentation shows are there, and do what it says."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_flowcheck import subjects
from pytest_flowcheck.shell.main import commands

ROOT = Path(__file__).parent.parent.parent
HOW_TO = ROOT / "docs" / "how-to"

pytestmark = pytest.mark.skipif(not HOW_TO.is_dir(), reason="needs the source tree, not only the installed package")


def shown(page: str) -> list[list[str]]:
    """The commands of a page's console blocks."""
    blocks = re.findall(r"```console\n(.*?)```", (HOW_TO / page).read_text(), re.DOTALL)
    return [shlex.split(line[2:]) for block in blocks for line in block.splitlines()]


def test_the_adapter_of_the_page_is_drafted(flowcheck: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's own retry helper gets an adapter that claims what the page's helper does, under the name that it says."""
    (code,) = re.findall(r"```python\n(.*?)```", (HOW_TO / "draft-an-adapter.md").read_text(), re.DOTALL)
    (tmp_path / "patient.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    init, certify, doctor = shown("draft-an-adapter.md")
    done = flowcheck(*init[1:])
    assert done.status == 0, done.err
    assert shlex.join(certify) in done.out
    assert subjects.load(certify[-1].partition("=")[2]).claims == {"retry": {"policy", "context"}}
    assert flowcheck(*doctor[1:]).status in {0, 1}
    for name in ("patient", "flowcheck_adapter"):
        sys.modules.pop(name, None)


def test_the_commands_of_the_page_on_certificates(
    flowcheck: Any, written: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    """Each runs, in a folder that is as the page says, and ends as it says."""
    written("main/it")
    written("certificates/it", {"RTY-03": "HUNG"})
    monkeypatch.chdir(tmp_path)
    ended = {" ".join(words[1:3]): flowcheck(*words[1:]).status for words in shown("certificates-in-ci.md")}
    assert ended == {
        "diff main": 1,
        "summary certificates": 0,
        "badge certificates": 0,
        "verify certificates": 0,
        "explain RTY-03": 0,
        "replay certificates/it": 0,
    }


def test_the_commands_of_the_page_on_reports(flowcheck: Any, written: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The badges that it shows: grey of another version, which the line says in its words."""
    written("certificates/MyExecutor", label="MyExecutor")
    monkeypatch.chdir(tmp_path)
    matrix, here, told = shown("read-a-report.md")[-3:]
    assert matrix[:2] == ["flowcheck", "matrix"]
    assert flowcheck(*here[1:]).status == 0
    done = flowcheck(*told[1:])
    assert done.status == 0, done.err
    assert done.out.startswith("badges/badge.svg: ")
    assert done.out.endswith("\N{MIDDLE DOT} of 1.0 (lightgrey: it is 2.0 now)\n")


def test_every_command_is_documented() -> None:
    """Its module says what it does and by which exit codes it ends; the page of the reference is made from that."""
    page = (ROOT / "docs" / "reference" / "shell.md").read_text()
    for name, module in commands().items():
        assert f"## flowcheck {name}" in page
        assert "xit code" in module.__doc__ or name in {"explain", "init"}, name
