"""The plugin costs nothing when it is off."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = (
    *("hypothesis", "anyio", "xdist", "asyncio"),
    *(f"pytest_flowcheck.{name}" for name in ("suites", "proof", "probes", "subjects", "rules", "certificate")),
    "pytest_flowcheck.running.session",
)
PROGRAM = """
import sys, pytest
class Spy:
    def pytest_unconfigure(self):
        print("LOADED", *sorted(sys.modules))
sys.exit(pytest.main(["-p", "no:cacheprovider", "-p", "pytest_flowcheck.plugin", "-q", "."], plugins=[Spy()]))
"""


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    """A run without `--flowcheck` loads the hooks, the option declarations, and nothing that they might need one day."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_theirs.py").write_text("def test_it(): pass\n")
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    loaded = line.split()[1:]
    assert "pytest_flowcheck.plugin" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_its_own_import_is_little_beside_pytests(tmp_path: Path) -> None:
    """Importing the plugin, by the interpreter's own account: at most a twenty-fifth of what pytest itself takes."""
    seen: list[float] = []
    while not seen or (min(seen) > 0.04 and len(seen) < 20):  # a busy machine may need a few tries
        seen.append(_import_time(tmp_path))
    assert min(seen) <= 0.04, seen


def _import_time(folder: Path) -> float:
    """Of all modules that `pytest_flowcheck.plugin` adds to pytest, as a part of those of pytest, in one interpreter."""
    code = "import pytest, sys; sys.stderr.write('MARK\\n'); import pytest_flowcheck.plugin"
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    theirs, _, ours = done.stderr.partition("MARK\n")
    return _microseconds(ours) / _microseconds(theirs)


def _microseconds(printed: str) -> int:
    lines = printed.splitlines()
    return sum(int(line.split(":")[1].split("|")[0]) for line in lines if line.startswith("import time:  "))


def test_rules_are_known_without_hypothesis() -> None:
    """Every process of a certification imports its rules; only a property that runs needs hypothesis, and nobody trio."""
    code = "import sys; from pytest_flowcheck.rules import bundled_rules; bundled_rules(); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "pytest_flowcheck.suites.flow.beside" in loaded
    assert [name for name in ("hypothesis", "trio", "pytest", "xdist") if name in loaded] == []
