"""What the documentation shows does what it says."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from importlib import metadata
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        ROOT / "README.md",
        *ROOT.glob("docs/tutorial/*.md"),
        *ROOT.glob("docs/how-to/**/*.md"),
        *ROOT.glob("docs/explanation/found-in-*.md"),
    ]
)


def blocks(language: str) -> list[Any]:
    found: list[Any] = []
    for page in PAGES:
        for number, match in enumerate(re.finditer(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)):
            found.append(pytest.param(match[1], id=f"{page.stem}-{number}"))
    return found


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str) -> None:
    """Each Python block runs as it stands, and prints what its comments say."""
    if "distributed" in code:
        pytest.importorskip("distributed", reason="the cluster example needs the extra `distributed`")
    if needs := re.match(r"# needs ([\w-]+)==([\w.]+)\n", code):
        reproduces(code, *needs.groups())
        return
    printed = StringIO()
    with redirect_stdout(printed):
        exec(compile(code, "<documentation>", "exec"), {"__name__": "suites.scheduler"})
    # a comment behind a print says what it prints; comments on lines of their own after a loop, what the loop prints
    told = re.findall(r"print\(.*\)  # (.*)|^    # (.*)", code, re.MULTILINE)
    told = [behind or below for behind, below in told]
    assert printed.getvalue().split("\n")[:-1] == told


def reproduces(code: str, distribution: str, release: str) -> None:
    """A report's program prints what its comments say, on the release that the report is about.

    `python tests/world.py` has them run where that is installed. In processes of their own: some end what they run on.
    """
    found = [each.version for each in metadata.distributions(name=distribution)]
    if found[:1] != [release]:
        pytest.skip(f"needs {distribution} {release}; installed is {found[0] if found else 'none'}")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    told = re.findall(r"print\(.*\)  # (.*)|^ +# (.*)", code, re.MULTILINE)
    assert done.stdout.splitlines() == [behind or below for behind, below in told], done.stderr[-2000:]


@pytest.mark.parametrize("text", blocks("toml"))
def test_toml_blocks_are_valid(text: str) -> None:
    """Each TOML block can be pasted."""
    assert tomllib.loads(text)


def test_the_readme_names_the_commands_that_ci_runs() -> None:
    """CI passes the tests by the README's own command."""
    assert ".venv/bin/pytest tests -n 2" in (ROOT / "README.md").read_text()
    assert ".venv/bin/pytest tests -n 2" in (ROOT / ".ci" / "run").read_text()
