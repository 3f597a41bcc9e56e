"""Rules are judged in workers of pytest-xdist: what a subject does to its process costs one verdict, never the run.

`--dist load`, always: `loadscope` runs a killer again in every new worker, `loadgroup` and `loadfile` break when a
worker dies, and `worksteal` waits ten seconds at the end for a stuck thread.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_flowcheck.certificate.baseline import expect
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.proof import become_subreaper
from pytest_flowcheck.running import journal
from pytest_flowcheck.running.guardian import Guardian
from pytest_flowcheck.running.item import miss_or_story, properties

if TYPE_CHECKING:
    import argparse

    from pytest_flowcheck.running.plan import Task
    from pytest_flowcheck.running.session import Certification

WORKERS: Final = 2
"""At most so many workers unless the user says how many: rules look at a whole machine's schedule, and want some calm."""


def prepare(option: argparse.Namespace) -> bool:
    """Set xdist's options for a certification.

    Returns:
        Whether rules will be judged in workers: not with `-n0`, `--pdb`, `--trace`, `--co` or `-p no:xdist`.
    """
    here = option.usepdb or getattr(option, "trace", False) or option.collectonly
    if here or not hasattr(option, "numprocesses") or option.numprocesses == 0:
        return False
    if option.numprocesses is None and not option.tx:
        option.numprocesses = min(WORKERS, _usable_cpus())
    if isinstance(option.numprocesses, int):
        option.tx = ["popen"] * option.numprocesses
    option.dist, option.maxschedchunk = "load", 1
    option.maxworkerrestart = str(10**6)
    return True


def _usable_cpus() -> int:
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable is not None else os.cpu_count() or 1


class Containment:
    """The controller's side of the workers. Registered only where xdist is."""

    def __init__(self, config: pytest.Config, certification: Certification) -> None:
        self._config, self._certification = config, certification
        self._plan = certification.plan
        self._folder = Path(tempfile.mkdtemp(prefix="flowcheck-"))
        self._guardian = Guardian(self._folder, self._plan.patience)
        self._begun: set[str] = set()
        self._reaps = False

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Keep orphans in this process's tree from now on, and keep xdist's own chatter for `-vv`."""
        self._reaps = become_subreaper()
        self._guardian.start()
        if getattr(config.option, "verbose", 0) < 2:
            manager = config.pluginmanager
            manager.unregister(name="terminaldistreporter")
            distributed: Any = manager.getplugin("dsession")
            if distributed is not None:
                distributed.terminal = None

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Nothing of a subject outlives the run."""
        self._guardian.close()
        if self._reaps:
            become_subreaper(on=False)
        shutil.rmtree(self._folder, ignore_errors=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Workers that do not end now are not waited for."""
        self._guardian.hurry()

    # --- xdist's hooks -------------------------------------------------------------------------------------------------

    def pytest_xdist_setupnodes(self, specs: list[Any]) -> None:
        """The first workers are being started."""
        self._guardian.starting(len(specs))

    def pytest_configure_node(self, node: Any) -> None:
        """A worker's interpreter runs: give it the plan."""
        node.workerinput["flowcheck"] = self._plan.to_json()
        node.workerinput["flowcheck_journal"] = str(self._folder)
        self._guardian.started(node.gateway.id, node.gateway._rinfo().pid)  # noqa: SLF001 - as xdist asks

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Tests go one by one to whoever is free, and a worker that left on purpose is blamed for nothing."""
        from pytest_flowcheck.running.scheduling import Scheduler

        return Scheduler(config, log, self._begun, self._left, self._share)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A worker has begun this item."""
        self._begun.add(nodeid)

    def _share(self, nodeid: str) -> tuple[str, str] | None:
        """A facet of a subject; None for what is no rule."""
        task = self._plan.tasks.get(nodeid)
        return None if task is None else (task.rule.facet, task.column.label)

    def _left(self, worker: str) -> bool:
        return journal.read(self._folder, worker).leaving

    def pytest_testnodedown(self, node: Any, error: object) -> None:
        """A worker is gone. If it died between two rules, the one that had just ended is what killed it."""
        if not error or error == "keyboard-interrupt":
            return
        self._guardian.starting(1)  # xdist replaces it
        page = journal.read(self._folder, node.gateway.id)
        task = self._plan.tasks.get(page.nodeid)
        if task is None or page.leaving or page.begun:
            return
        before = self._certification.ledger.of(task.column.label).get(task.rule.id)
        if before is None:
            return  # its report never came: xdist will name it as the crashed item
        how = self._guardian.how(node.gateway.id)
        late = f"after the rule had ended as {before.verdict.value}, its process {how}: what it left behind did that"
        message = f"{_sentence(task)}{late}"
        finding = Finding(task.rule.id, Verdict.CRASHED, before.level, message=message)
        self._certification.ledger.amend(task.column.label, expect(finding, task.column.expected))

    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """A worker died in the middle of a rule: that is the rule's verdict."""
        task = self._plan.tasks.get(crashitem)
        if task is None:
            return
        worker = str(report.node.gateway.id)
        finding = expect(self._crash(task, worker), task.column.expected)
        self._begun.discard(crashitem)  # a plugin may have it run again
        report.when, report.keywords = "call", {task.name: 1}
        report.location = (f"flowcheck/{task.rule.facet}", None, f"{task.rule.facet} {task.name}")
        report.flowcheck = finding.to_json()  # type: ignore[attr-defined]
        report.user_properties = [*properties(task), ("flowcheck_verdict", finding.verdict.value)]
        told = miss_or_story(task, finding)
        if told is None:
            report.outcome, report.longrepr = "passed", None
        else:
            report.longrepr = told
        page = journal.read(self._folder, worker)
        report.flowcheck_late = page.nodeid == crashitem and not page.begun  # type: ignore[attr-defined]
        report.flowcheck_died = True  # type: ignore[attr-defined]

    def _crash(self, task: Task, worker: str) -> Finding:
        level = task.rule.level_for(task.column.claimed(task.rule.facet) or ())
        shown = "SHOULD" if level == "exempt" else level
        if (judged := self._guardian.verdicts.get(worker)) is not None:
            verdict, grade, message = judged
            return Finding(task.rule.id, verdict, shown, grade, message=f"{_sentence(task)}{message}")
        if task.nodeid not in self._begun:
            message = f"workers keep dying before they can begin this rule; the last one {self._guardian.how(worker)}"
            return Finding(task.rule.id, Verdict.KIT_ERROR, shown, "observed", message=message)
        message = f"{_sentence(task)}{self._obituary(worker)}"
        return Finding(task.rule.id, Verdict.CRASHED, shown, "proven", message=message)

    def _obituary(self, worker: str) -> str:
        how = self._guardian.how(worker)
        frames = journal.fault(self._folder, worker)[:6]
        where = "".join(f"\n    {line}" for line in ["Innermost first:", *frames]) if frames else ""
        cause = (
            "Native code that touches memory it does not own."
            if frames
            else "`os._exit`, or a signal to the whole process."
        )
        return (
            f"What it did:   the process that carried the subject {how} in the middle of the rule{where}\n"
            "Expected:      the process outlives whatever a task or a call into the subject does\n"
            "Why proof:     the process is gone, and nothing but the subject ran in it\n"
            f"Usual cause:   {cause}"
        )

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """xdist reports a dead worker's item once; JUnit writes an item's properties only at its teardown."""
        if getattr(report, "flowcheck_died", False):
            delattr(report, "flowcheck_died")
            ending = pytest.TestReport(
                nodeid=report.nodeid,
                location=report.location,
                keywords={},
                outcome="passed",
                longrepr=None,
                when="teardown",
                user_properties=report.user_properties,
            )
            ending.node = report.node  # type: ignore[attr-defined]
            self._config.hook.pytest_runtest_logreport(report=ending)


def _sentence(task: Task) -> str:
    return f"{task.rule.id} {task.rule.sentence}\n\n"
