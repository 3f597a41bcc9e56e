"""Pages that lead a reader by the hand are walked through, step by step, as he would: in an empty folder, word for word.

Of such a page, a Python or TOML block that begins with `# name` is that file; a console block is commands; a text block
after it is what they print, line by line, each perhaps with more around it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["tutorial/first-certificate", "how-to/in-your-own-suite", "how-to/baseline"]
QUIET = " ".join(f"-p no:{name}" for name in ("randomly", "asyncio", "pytest_cov", "rerunfailures", "cacheprovider"))
"""What is installed here for other tests, and is not at a reader's."""


@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_followed(page: str, tmp_path: Path) -> None:
    """Files are written, commands run, and what they print is what the page shows."""
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    printed, ran = "", 0
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        named = re.match(r"# (\S+\.\w+)\n", block)
        if language in {"python", "toml"} and named:
            (tmp_path / named[1]).write_text(block, encoding="utf-8")
        elif language == "console":
            commands = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
            assert commands, block
            printed = "".join(_run(command, tmp_path) for command in commands if not command.startswith("pip install"))
            ran += 1
        elif language == "text":
            for line in block.splitlines():
                assert line in printed, f"{line!r} is not in:\n{printed}"
    assert ran, "a page to be followed has commands"


def _run(command: str, folder: Path) -> str:
    program, *words = shlex.split(command)
    assert program == "pytest", command
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=folder,
        env={**os.environ, "PYTEST_ADDOPTS": QUIET, "COLUMNS": "200"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,
    )
    return re.sub(r" +\[ *\d+%\]", "", done.stdout)
