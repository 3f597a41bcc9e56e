"""What the documentation says of adapters: a page for each facet, whose example is told what the page says it will hear;
and the page of those that are bundled, which says what they say of themselves."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections import defaultdict
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from flowcheck_reference import subject as reference
from pytest_flowcheck import subjects
from pytest_flowcheck.protocols import Adapter
from pytest_flowcheck.rules import bundled_facets

ROOT = Path(__file__).parent.parent
OVERVIEW = ROOT / "docs/how-to/adapters.md"
PAGES = sorted((ROOT / "docs/how-to/adapters").glob("*.md"))
BUNDLED = ROOT / "docs/reference/bundled-adapters.md"

pytestmark = pytest.mark.skipif(not BUNDLED.exists(), reason="needs the source tree, not only the installed package")


def test_each_facet_has_a_page() -> None:
    """Of that name, and the overview leads to it. A bare executor's is the overview itself."""
    assert {page.stem for page in PAGES} == {*bundled_facets()} - {"executor"}
    text = OVERVIEW.read_text()
    rows = dict(re.findall(r"^\|[^|]*\| `(\w+)` \| (.*) \|$", text, re.MULTILINE))
    assert rows.keys() == {*bundled_facets()}
    for page in PAGES:
        assert rows[page.stem] == f"{{doc}}`adapters/{page.stem}`"
        claims = re.findall(r"claims = \{\"(\w+)\"", page.read_text())
        assert {*claims} == {page.stem}, "its example is an adapter for it"


def test_the_overview_names_all_that_an_adapter_may_say() -> None:
    """Each attribute of the base class."""
    said = {name for name in vars(Adapter) if not name.startswith("_")}
    assert [name for name in sorted(said) if f"`{name}`" not in OVERVIEW.read_text()] == []


# --- what the examples hear -------------------------------------------------------------------------------------------


def heard() -> dict[str, list[str]]:
    """Rule -> the examples, as `page.py:Class`, that break it: those whose page says behind them that they will hear so."""
    found: dict[str, list[str]] = defaultdict(list)
    for page in PAGES:
        for code, prose in re.findall(r"```python\n(.*?)```(.*?)(?=```|\Z)", page.read_text(), re.DOTALL):
            (example,) = re.findall(r"^class (\w+)\(Adapter\)", code, re.MULTILINE)
            said = " ".join(paragraph for paragraph in prose.split("\n\n") if "will hear" in paragraph)
            for rule in re.findall(r"\(([A-Z]{3}-\d\d)\)", said):
                found[rule].append(f"{page.stem}.py:{example}")
    return found


JUDGES = """
import json, os, sys
from pytest_flowcheck import subjects
from pytest_flowcheck.proof import Harness
from pytest_flowcheck.rules import bundled_rules
from pytest_flowcheck.running.judge import judge

rules = {rule.id: rule for rule in bundled_rules()}
for id_, example in json.loads(sys.argv[1]):
    found = judge(rules[id_], subjects.first_probe(subjects.load(example)), Harness(), patience=30.0, uncaught=[])
    print(id_, example, found.verdict.value, flush=True)
os._exit(0)  # some of them never end by themselves
"""
"""In a process of its own, for what broken examples leave behind; not by pytest, which would judge each in another one."""


def test_examples_are_told_what_their_pages_say(tmp_path: Path) -> None:
    """Each example is judged by the rules that its page names, and breaks them all."""
    asked = [(rule, example) for rule, examples in heard().items() for example in examples]
    assert {example.partition(".")[0] for _, example in asked} == {page.stem for page in PAGES}
    for page in PAGES:
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
        (tmp_path / f"{page.stem}.py").write_text("\n\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "-c", JUDGES, json.dumps(asked)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    told = [line.split() for line in done.stdout.splitlines() if re.match(r"[A-Z]{3}-\d\d ", line)]
    assert [(rule, example) for rule, example, _ in told] == asked, done.stderr
    assert [line for line in told if line[2] not in {"VIOLATED", "HUNG", "LEAKED"}] == []


# --- the bundled ones -------------------------------------------------------------------------------------------------


def rows() -> dict[tuple[str, str], tuple[str, str, str]]:
    """Name and facet -> what it drives, its claims, what it needs: every row of the page's tables."""
    found: dict[tuple[str, str], tuple[str, str, str]] = {}
    for section in re.split(r"^## ", BUNDLED.read_text(), flags=re.MULTILINE)[1:]:
        facet = section.partition("\n")[0]
        for line in re.findall(r"^\|( `.*)\|$", section, re.MULTILINE):
            names, drives, claims, needs = (cell.strip() for cell in line.split("|"))
            for name in re.findall(r"`(.+?)`", names):
                assert (name, facet) not in found, "said twice"
                found[name, facet] = drives, claims, needs
    return found


def adapters() -> dict[str, Any]:
    """The bundled adapters, by name."""
    found: dict[str, Any] = {}
    for name, where in subjects.registered().items():
        module, _, attribute = where.partition(":")
        if module.startswith("pytest_flowcheck.adapters."):
            found[name] = getattr(importlib.import_module(module), attribute)
    return found


@pytest.mark.parametrize("name", sorted(adapters()))
def test_a_bundled_adapter_is_as_its_page_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Facets, claims, the loops, the extras that bring its library, the Python."""
    adapter = adapters()[name]
    if isinstance(
        adapter.claims, property
    ):  # it reads its claims off the release: ask as if all that is new were there
        monkeypatch.setattr(metadata, "version", lambda _: "9999")
        monkeypatch.setattr(sys.modules[adapter.__module__], "_has", lambda *_: True, raising=False)
    claims = adapter().claims
    told = {facet: row for (each, facet), row in rows().items() if each == name}
    assert told.keys() == claims.keys()
    for facet, (drives, claimed, needs) in told.items():
        assert claimed == ", ".join(f"`{each}`" for each in sorted(claims[facet]))
        assert ("trio" in drives) is ("trio" in getattr(adapter, "backends", ()))
        assert brought(re.findall(r"`(.+?)`", needs)) >= {*getattr(adapter, "requires", ())} - brought([""])
        assert all(brought([extra]) & {*adapter.requires} for extra in re.findall(r"`(.+?)`", needs)), "not needed"
        python = re.search(r"Python ([\d.]+)", needs)
        assert (python[1] if python else "") == ".".join(map(str, getattr(adapter, "requires_python", ())))


def brought(extras: list[str]) -> set[str]:
    """The distributions that come with these extras of the kit; `""`: those that come with the kit itself."""
    needed = [Requirement(line) for line in metadata.requires("pytest-flowcheck") or ()]
    return {
        each.name
        for each in needed
        for extra in extras
        if (f"extra == '{extra}'" if extra else "None") in str(each.marker).replace('"', "'")
    }


def test_the_page_has_no_adapter_that_is_not_there() -> None:
    """And says of the engine that comes with the kit what that claims."""
    assert {name for name, _ in rows()} == {*adapters()}
    sides = [reference.Reference, reference.ReferenceAsync, reference.ReferenceSqlite]
    promised = {
        f"{facet}.{each}"
        for facet in bundled_facets()
        for each in importlib.import_module(f"pytest_flowcheck.protocols.{facet}").CAPABILITIES
    }
    claimed = {f"{facet}.{each}" for side in sides for facet, some in side.claims.items() for each in some}
    assert promised - claimed == {"executor.process"}
    assert "every capability but `process`" in BUNDLED.read_text()
