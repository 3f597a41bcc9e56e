"""Runs pytest in a process of its own on a copy of `nasty/`, and tells what it left behind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from pytest_flowcheck.certificate import document

NASTY = Path(__file__).parent / "nasty"
QUIET = ("randomly", "asyncio", "pytest_cov", "rerunfailures", "anyio", "hypothesispytest")
"""Plugins that these runs do without, for speed; `test_company_of_plugins.py` has them."""


@dataclass
class Run:
    """What one run of pytest did."""

    status: int
    output: str
    seconds: float
    left: list[str] = field(default_factory=list[str])
    """Command lines of processes that outlived it."""
    certificates: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])

    def verdicts(self, label: str) -> dict[str, str]:
        """Rule -> verdict of the facet `tiny`."""
        return {r["id"]: r["verdict"] for r in self.certificates[label]["rules"] if r["facet"] == "tiny"}

    @property
    def last(self) -> str:
        """The last line."""
        return self.output.strip().splitlines()[-1]


class Runner:
    """`run("--flowcheck", ...)`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mark = f"flowcheck-test-{uuid.uuid4().hex}"

    def __call__(
        self, *args: str, quiet: bool = True, env: dict[str, str] | None = None, report: bool = True, below: str = "."
    ) -> Run:
        """Run pytest in the folder or `below` it; certificates go to `certificates/` unless `report` is off."""
        began = monotonic()
        process = self.start(*args, quiet=quiet, env=env, report=report, below=below)
        output, _ = process.communicate(timeout=240)
        return self.finished(process.returncode, output, monotonic() - began)

    def start(
        self, *args: str, quiet: bool = True, env: dict[str, str] | None = None, report: bool = True, below: str = "."
    ) -> subprocess.Popen[str]:
        """The same, not waited for."""
        command = [sys.executable, "-m", "pytest"]
        if quiet:
            command += [word for name in QUIET for word in ("-p", f"no:{name}")]
        if report:
            command.append("--flowcheck-report=certificates")
        return subprocess.Popen(
            [*command, *args],
            cwd=self.folder / below,
            env={**_plain_environment(), "FLOWCHECK_TEST_MARK": self.mark, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def finished(self, status: int, output: str, seconds: float) -> Run:
        """What a run did that is over."""
        found = {
            path.parent.name: document.read(path)
            for path in self.folder.glob("certificates/*/certificate.json")
        }
        return Run(status, output, seconds, self.left(), found)

    def left(self) -> list[str]:
        """Processes that carry the run's mark in their environment and still live."""
        return [words for pid, words in _marked(self.mark)]


def _plain_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}


def _marked(mark: str) -> Iterator[tuple[int, str]]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                yield int(folder.name), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Runner]:
    """A runner in a fresh copy of `nasty/`; what its runs left behind is ended."""
    folder = tmp_path / "theirs"
    shutil.copytree(NASTY, folder)
    (folder / "conftest_of_theirs.py").rename(folder / "conftest.py")
    (folder / "pytest.ini").write_text("[pytest]\n")
    runner = Runner(folder)
    yield runner
    for pid, _ in _marked(runner.mark):
        os.kill(pid, 9)


@pytest.fixture
def theirs(run):
    """`theirs(text, *options, ini="")`: a run of a test module of theirs."""

    def theirs(text: str, *options: str, ini: str = "", quiet: bool = True):
        (run.folder / "pytest.ini").write_text(f"[pytest]\n{ini}")
        (run.folder / "test_theirs.py").write_text(text)
        return run("test_theirs.py", "-p", "no:cacheprovider", *options, report=False, quiet=quiet)

    return theirs


@pytest.fixture
def page_of_theirs(theirs):
    """`page_of_theirs("find-leaks", *options)`: a run of all Python blocks of a how-to page, word for word, as one module. It
    must print each line of the page's text blocks, but for folders, pids and times."""

    def page(name: str, *options: str) -> Run:
        path = Path(__file__).parents[2] / f"docs/how-to/{name}.md"
        if not path.exists():
            pytest.skip("needs the source tree, not only the installed package")
        blocks = path.read_text().split("```")[1::2]
        modules = [block.removeprefix("python\n") for block in blocks if block.startswith("python\n")]
        done = theirs("\n".join(modules), *options)
        for text in [block.removeprefix("text\n") for block in blocks if block.startswith("text\n")]:
            for line in map(str.strip, text.splitlines()):
                known = re.sub(r"\d{4,}|[\d\\.]+(?=\\ ms)", r"[\\d.]+", re.escape(line))  # pids, thread ids, times
                known = re.sub(r"(/home/me/)?test_\w+\\\.py", r"\\S*test_theirs[.]py", known)
                assert re.search(known, done.output), (line, done.output)
        return done

    return page
