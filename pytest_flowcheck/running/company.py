"""`pytest --flowcheck tests/`: the user's tests run as he configured them; the certification runs beside them.

It is a child pytest of its own, so that neither can disturb the other: other workers, other plugins' state, another
cache. It gets the same ini file and root, but neither `addopts` nor paths: these were meant for the user's tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowcheck.certificate.card import fit
from pytest_flowcheck.running.options import COMPANY

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_flowcheck.running.plan import Plan


class Company:
    """The parent's side: starts the child once the user's tests are done, shows its card, adds its exit code."""

    def __init__(self, config: pytest.Config, plan: Plan) -> None:
        self._config, self._plan = config, plan
        self._lines: list[str] = []
        self._status = 0

    def pytest_report_header(self) -> str:
        """Who is judged."""
        return f"flowcheck: {', '.join(c.label for c in self._plan.columns)}, certified beside these tests"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int | pytest.ExitCode
    ) -> Generator[None, object, object]:
        """Certify, then let the summary be printed."""
        stopped = (
            session.shouldfail
            or session.shouldstop
            or exitstatus in {pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR}
        )
        if self._config.option.collectonly:
            self._lines = [f"{len(self._plan.tasks)} rules would be judged; `pytest --flowcheck --co` lists them"]
        elif stopped:
            self._lines = ["not certified: the run was stopped early"]
        else:
            self._certify()
            if exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED} and self._status:
                session.exitstatus = self._status
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The card."""
        terminalreporter.write_sep("=", "flowcheck")
        for line in fit(self._lines, getattr(sys.__stdout__, "encoding", None)):
            terminalreporter.write_line(line)

    def _certify(self) -> None:
        with tempfile.TemporaryDirectory(prefix="flowcheck-") as scratch:
            card, output = Path(scratch, "card.json"), Path(scratch, "output")
            command = [sys.executable, "-m", "pytest", *self._arguments(), "-o", f"cache_dir={scratch}/cache"]
            environment = {k: v for k, v in os.environ.items() if k not in {"PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST"}}
            with output.open("wb") as stream:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=stream,
                    cwd=self._config.invocation_params.dir,
                    env={**environment, COMPANY: str(card)},
                    check=False,
                )
            self._status = done.returncode
            if card.exists():
                told: dict[str, Any] = json.loads(card.read_text(encoding="utf-8"))
                self._lines = told["lines"]
            else:
                said = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                self._lines = [*said[-40:], f"exit {self._status}: the certification itself came to no end"]

    def _arguments(self) -> list[str]:
        option = self._config.option
        arguments = ["--flowcheck", "-o", "addopts=", "--rootdir", str(self._config.rootpath)]
        if self._config.inipath is not None:
            arguments += ["-c", str(self._config.inipath)]
        for name in option.plugins:
            arguments += ["-p", name]
        for setting in option.override_ini or ():
            arguments += ["-o", setting]
        for key in ("subject", "facet", "only"):
            arguments += [f"--flowcheck-{key}={value}" for value in getattr(option, f"flowcheck_{key}")]
        arguments += ["--flowcheck-baseline-write"] if option.flowcheck_baseline_write else []
        for key in ("report", "baseline", "patience", "seed"):
            value = getattr(option, f"flowcheck_{key}")
            arguments += [f"--flowcheck-{key}={value}"] if value is not None else []
        if isinstance(getattr(option, "numprocesses", None), int):
            arguments.append(f"-n{option.numprocesses}")
        return arguments
