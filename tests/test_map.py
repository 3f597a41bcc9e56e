"""The map is true: folders, rules, specification and broken engines say the same thing."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import flowcheck_reference
import pytest_flowcheck
from pytest_flowcheck import protocols
from pytest_flowcheck.protocols import broken_rules
from pytest_flowcheck.rules import Rule, bundled_facets, bundled_rules

ROOT = Path(__file__).parent.parent
KIT, REFERENCE = ROOT / "pytest_flowcheck", ROOT / "reference" / "flowcheck_reference"

pytestmark = pytest.mark.skipif(not KIT.is_dir(), reason="needs the source tree, not only the installed package")


def words(folder: Path) -> set[str]:
    """The public modules and packages of a folder."""
    return {
        p.stem
        for p in folder.iterdir()
        if p.suffix == ".py" or (p.is_dir() and (p / "__init__.py").exists())
        if not p.stem.startswith("_")
    }


def broken_engines(facet: str) -> dict[str, frozenset[str]]:
    package = importlib.import_module(f"flowcheck_reference.broken.{facet}")
    names = [package.__name__, *(m.name for m in pkgutil.iter_modules(package.__path__, package.__name__ + "."))]
    return {
        value.__qualname__: broken_rules(value)
        for name in names
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, type) and value.__module__ == name and broken_rules(value)
    }


def test_facets_agree_across_folders() -> None:
    """Each facet is one word and five places."""
    facets = set(bundled_facets())
    assert words(KIT / "protocols") == facets
    assert words(REFERENCE / "broken") == facets
    assert facets <= words(REFERENCE)
    assert {p.stem for p in (ROOT / "docs" / "spec").glob("*.md")} - {"index"} == facets


@pytest.mark.parametrize("facet", bundled_facets())
def test_every_rule_has_a_broken_engine(facet: str) -> None:
    """Each rule bites: there is an engine that it must fail; and no engine names a rule that does not exist."""
    rules = {rule.id for rule in bundled_rules() if rule.facet == facet}
    caught = frozenset[str]().union(*broken_engines(facet).values())
    assert caught == rules


def test_rule_numbers_are_consecutive() -> None:
    """Numbers are for ever: none is missing, none is used twice."""
    by_prefix: dict[str, list[int]] = {}
    for rule in bundled_rules():
        prefix, number = rule.id.split("-")
        by_prefix.setdefault(prefix, []).append(int(number))
    for prefix, numbers in by_prefix.items():
        assert sorted(numbers) == list(range(1, len(numbers) + 1)), prefix


@pytest.mark.parametrize("rule", bundled_rules(), ids=lambda r: r.id)
def test_a_rule_claims_only_known_capabilities(rule: Rule) -> None:
    """The capabilities of a facet stand in its protocol, and nowhere else."""
    protocol = importlib.import_module(f"pytest_flowcheck.protocols.{rule.facet}")
    assert rule.capabilities <= {*protocol.CAPABILITIES, *protocol.READ_OFF}


def test_generated_pages_are_up_to_date() -> None:
    """The specification is what the rules say."""
    done = subprocess.run(
        [sys.executable, "docs/specification.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def imports(folder: Path) -> dict[str, set[str]]:
    """Which modules the files of a folder import, wherever in the file."""
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module or "")
        found[str(path.relative_to(ROOT))] = names
    return found


def own(names: set[str]) -> set[str]:
    return {name for name in names if name.startswith(("pytest_flowcheck", "flowcheck_reference"))}


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        ("pytest_flowcheck/protocols", ("pytest_flowcheck.protocols",)),
        ("pytest_flowcheck/proof", ("pytest_flowcheck.proof",)),
        (
            "pytest_flowcheck/suites",
            tuple(
                f"pytest_flowcheck.{part}"
                for part in ("suites", "protocols", "probes", "proof", "rules", "errors", "subjects")
            ),
        ),
        ("reference/flowcheck_reference", ("pytest_flowcheck.protocols", "flowcheck_reference")),
        ("pytest_flowcheck", ("pytest_flowcheck",)),
    ],
)
def test_imports_go_one_way(folder: str, allowed: tuple[str, ...]) -> None:
    """protocols → nothing of ours; suites → protocols, probes, proof; reference → protocols; the kit knows no engine."""
    wrong = {
        path: sorted(n for n in own(names) if not n.startswith(allowed))
        for path, names in imports(ROOT / folder).items()
    }
    assert {path: names for path, names in wrong.items() if names} == {}


def test_protocols_need_only_the_standard_library() -> None:
    """An adapter can be written, and a reference engine shipped, without what the kit itself depends on."""
    for path, names in imports(KIT / "protocols").items():
        foreign = {n.partition(".")[0] for n in names} - set(sys.stdlib_module_names) - {"pytest_flowcheck"}
        assert foreign == set(), path


@pytest.mark.parametrize("module", [pytest_flowcheck, flowcheck_reference, protocols], ids=lambda m: m.__name__)
def test_public_names_are_listed_and_sorted(module: object) -> None:
    """`__all__` is sorted and everything in it is there."""
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    assert sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n)) == names
    for name in names:
        assert getattr(module, name) is not None


def test_the_wheel_holds_two_packages(tmp_path: Path) -> None:
    """A wheel has the kit and the engine, their type markers, and nothing else at its top."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {n.partition("/")[0] for n in names if ".dist-info" not in n} == {"pytest_flowcheck", "flowcheck_reference"}
    for needed in (
        "pytest_flowcheck/py.typed",
        "flowcheck_reference/py.typed",
        "pytest_flowcheck/certificate/schema.json",
        "pytest_flowcheck/certificate/page/page.js",
    ):
        assert needed in names
