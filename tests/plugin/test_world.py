"""`tests/world.py`: the list of other people's releases, and what it makes of a certificate. It installs nothing here."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_flowcheck import subjects
from pytest_flowcheck.rules import bundled_rules

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.skipif(not (ROOT / "tests/world.py").exists(), reason="needs the source tree")


@pytest.fixture(scope="module")
def world() -> Any:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("world_of_releases", ROOT / "tests/world.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


def test_the_list_names_subjects_and_rules_that_there_are(world: Any) -> None:
    """All are bundled; a rule that fails or passes is a MUST of this revision; each page is there."""
    known, musts = subjects.registered(), {rule.id for rule in bundled_rules() if rule.level == "MUST"}
    for it in world.listed():
        assert {*it.subjects} <= {*known}, it
        for ids in (*it.fails.values(), *it.passes.values(), *it.varies.values()):
            assert {*ids} <= musts, it
        assert not it.page or (ROOT / "docs/explanation" / f"{it.page}.md").exists(), it


def certificate(**verdicts: str) -> dict[str, Any]:
    """One with these verdicts of MUST rules, and a SHOULD that fails."""
    rules = [{"id": id_.replace("_", "-"), "level": "MUST", "verdict": verdict} for id_, verdict in verdicts.items()]
    return {"rules": [*rules, {"id": "STO-13", "level": "SHOULD", "verdict": "VIOLATED"}]}


def test_what_differs_from_the_list_is_told(world: Any) -> None:
    """What fails anew, what fails no more, and what should pass and does not; SHOULD rules and what isn't listed are left."""
    it = world.Certified(
        "d", "1", "3.11", ["s", "t"], fails={"s": ["STO-01", "STO-02"]}, passes={"s": ["STO-03", "STO-04"]}
    )
    it = dataclasses.replace(it, varies={"s": ["STO-06"]})
    found = certificate(
        STO_06="VIOLATED", STO_01="VIOLATED", STO_02="PASS", STO_03="INCONCLUSIVE", STO_04="PASS", STO_05="HUNG"
    )
    assert list(world.differences(it, "s", found)) == [
        "STO-05 is HUNG, and the list does not say so",
        "STO-02 is PASS, and fails by the list",
        "STO-03 is INCONCLUSIVE, and passes by the list",
    ]
    assert list(world.differences(it, "t", found)) == []


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ('distribution = "d"\nrelease = "1"\npython = "3.11"\nsubjects = []\nsubject = "s"', "d 1: .*'subject'"),
        ('distribution = "d"\nrelease = "1"', "d 1: .*'python' and 'subjects'"),
        (
            'distribution = "d"\nrelease = "1"\npython = "3.11"\nsubjects = ["s"]\nfails.z = ["STO-01"]',
            "d-1: z is not among",
        ),
    ],
)
def test_a_bad_entry_is_one_line(world: Any, tmp_path: Path, entry: str, told: str) -> None:
    """A key too many, one that is missing, and results of who is not certified."""
    path = tmp_path / "world.toml"
    path.write_text(f"[[certified]]\n{entry}\n")
    with pytest.raises(world.WorldError, match=told) as raised:
        world.listed(path)
    assert "\n" not in str(raised.value)


def test_an_unknown_name_is_one_line() -> None:
    """It says what there is, and installs nothing."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/world.py"), "--only=wol"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("--only=wol: expected one of specify-cli-0.12.1, ")
    assert done.stderr.count("\n") == 1
