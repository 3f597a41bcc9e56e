"""`flowcheck matrix`: one page of many certificates."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def test_one_page_of_many_certificates(flowcheck: Any, written: Any, tmp_path: Path) -> None:
    """Folders and files, each certificate once; two releases of a subject are told apart."""
    old, new = written("old", {"RTY-04": "VIOLATED"}), written("run/new", version="2.0")
    out = tmp_path / "pages" / "matrix.html"
    done = flowcheck("matrix", old, new / "certificate.json", tmp_path / "run", "--out", out)
    assert (done.status, done.out, done.err) == (0, f"{out}: 2 certificates\n", "")
    found = re.search(r'id="data">(.*?)</script>', out.read_text(encoding="utf-8"))
    assert found is not None
    subjects = json.loads(found[1])["subjects"]
    assert [subject["label"] for subject in subjects] == ["it 1.0", "it 2.0"]
    assert subjects[0]["details"]["RTY-04"]["reproduce"].endswith("--flowcheck-only=RTY-04")


def test_what_can_not_be_done_is_one_line(flowcheck: Any, written: Any, tmp_path: Path) -> None:
    """No certificate, a torn one, a folder in place of the page: exit code 4, and no page is left half-way."""
    good, torn = written("good"), tmp_path / "torn.json"
    torn.write_text((good / "certificate.json").read_text()[:-20])
    out = tmp_path / "taken"
    out.mkdir()
    for arguments in ((tmp_path / "none",), (torn,), (good, torn), (good, "--out", out)):
        done = flowcheck("matrix", *arguments, *(() if "--out" in arguments else ("--out", tmp_path / "page.html")))
        assert (done.status, done.out) == (4, "")
        assert len(done.err.splitlines()) == 1
        assert done.err.startswith("flowcheck matrix: ")
    assert not (tmp_path / "page.html").exists()
    assert list(out.iterdir()) == []
    assert not list(tmp_path.glob(".report-*"))
