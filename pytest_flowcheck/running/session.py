"""The plugin of a session that certifies: adds the items, hears the reports, builds certificates, sets the exit code.

The same object serves three roles: the controller of workers (which judges nothing), a worker (which reports to its
controller), and a process that does both because there are no workers.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowcheck import stock
from pytest_flowcheck.certificate import baseline, card, document, policy
from pytest_flowcheck.certificate.accounting import Ledger, account
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.errors import UsageError
from pytest_flowcheck.running import options, selftest
from pytest_flowcheck.running.item import RuleItem, collect, shown_as

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_flowcheck.running.bench import Bench
    from pytest_flowcheck.running.journal import Journal
    from pytest_flowcheck.running.plan import Column, Plan

_ENVIRONMENT = ("pytest", "pytest-xdist", "pytest-timeout", "execnet", "hypothesis", "anyio")


class Certification:
    """One run."""

    def __init__(
        self,
        config: pytest.Config,
        plan: Plan,
        *,
        journal: Journal | None = None,
        report: Path | None = None,
        baseline: Path | None = None,
        contained: bool = False,
    ) -> None:
        self.config, self.plan = config, plan
        self.ledger = Ledger()
        self.bench: Bench | None = None
        self._journal, self._report, self._baseline = journal, report, baseline
        self._worker, self._contained = journal is not None, contained
        self._lines: list[str] = []
        self._status = 0
        self._finished = False
        self._by_hand = False

    # --- set-up and collection -----------------------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Take stock of this process before any subject exists, after the other plugins have set up theirs."""
        if not self._contained and not config.option.collectonly:
            from pytest_flowcheck.running.bench import Bench

            self.bench = Bench(self.plan, self._journal, strangers=stock.of_conftests(config))

    def pytest_report_header(self) -> list[str]:
        """Who is judged, by which rules."""
        from pytest_flowcheck.rules import REVISION

        who = ", ".join(column.label for column in self.plan.columns)
        if self.plan.selftest:
            who = f"selftest with {len(self.plan.columns)} broken engines"
        return [f"flowcheck: rules {REVISION}, {len(self.plan.tasks)} to judge: {who}"]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
    ) -> Generator[None, object, object]:
        """Add the items once the user's own hooks have seen an empty list, and let pytest's plugins select among them.

        A conftest.py that marks, skips or sorts its tests knows nothing of these; `-k`, `--lf` and `--deselect` do.
        """
        result = yield
        own = collect(session, self.plan, self.bench)
        manager = config.pluginmanager
        conftests = [p for p in manager.get_plugins() if Path(str(getattr(p, "__file__", ""))).name == "conftest.py"]
        select = manager.subset_hook_caller("pytest_collection_modifyitems", [*conftests, self])
        select(session=session, config=config, items=own)
        items += own
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """A worker in which stuck threads remain judges nothing more: it leaves, and another takes over."""
        if self._worker and self.bench is not None and self.bench.poisoned and isinstance(item, RuleItem):
            self.bench.leave(0)

    # --- reports -------------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the finding travel on the report."""
        report = yield
        if isinstance(item, RuleItem) and call.when == "call" and item.finding is not None:
            report.flowcheck = item.finding.to_json()  # type: ignore[attr-defined]
            report.user_properties = list(item.user_properties)
        return report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Enter the finding that a report carries, or why there is none."""
        task = self.plan.tasks.get(report.nodeid)
        if self._worker or task is None:
            return
        data: dict[str, Any] | None = getattr(report, "flowcheck", None)
        if data is not None:
            enter = self.ledger.amend if getattr(report, "flowcheck_late", False) else self.ledger.record
            enter(task.column.label, Finding.from_json(data))
        elif report.when != "teardown" and not report.passed:
            verdict = Verdict.NOT_RUN if report.skipped else Verdict.KIT_ERROR
            message = f"not judged: {report.when} ended it first: {report.longreprtext}"
            level = task.rule.level_for(task.column.claimed(task.rule.facet) or ())
            finding = Finding(
                task.rule.id, verdict, "SHOULD" if level == "exempt" else level, "observed", message=message
            )
            self.ledger.record(task.column.label, finding)

    def pytest_report_teststatus(self, report: Any) -> tuple[str, str, str] | None:
        """Verdicts instead of `passed` and `failed`; a SHOULD that is not kept is a category of its own."""
        data: dict[str, Any] | None = getattr(report, "flowcheck", None)
        if data is None or report.outcome not in {"passed", "failed"}:
            return None
        if self.plan.selftest and report.passed:
            return "passed", ".", str(data["verdict"])
        return shown_as(data, failed=report.failed)

    # --- the end -------------------------------------------------------------------------------------------------------

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Tell Ctrl-C from xdist's way to stop for `-x`."""
        self._by_hand = "stopping after" not in str(excinfo.value)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int | pytest.ExitCode
    ) -> Generator[None, object, object]:
        """Write the certificates first, so that nothing that fails later can prevent it; print the card last."""
        judging = not self._worker and not self.config.option.collectonly
        if judging:
            self._finish(int(exitstatus))
            session.exitstatus = self._status
        result = yield
        if judging:
            self._print()
        if not self._worker:
            self._status = int(session.exitstatus)
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """End what subjects left behind; where their threads would hold up the exit, leave at once."""
        if self.bench is None:
            return
        if self.bench.poisoned if self._worker else self.bench.stuck():
            self.bench.leave(self._status)
        self.bench.close()

    def _finish(self, exitstatus: int) -> None:
        if self._finished:
            return
        self._finished = True
        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED and self._by_hand
        if self.plan.selftest:
            found = {
                nodeid: self.ledger.findings.get((t.column.label, t.rule.id)) for nodeid, t in self.plan.tasks.items()
            }
            self._lines, status = selftest.card(self.plan, {nodeid: f for nodeid, f in found.items() if f is not None})
        else:
            status = self._certify(interrupted=interrupted)
        broken = exitstatus in {pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR}
        fine = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
        if self._baseline is not None and self.config.option.flowcheck_baseline_write:
            fine.add(pytest.ExitCode.TESTS_FAILED)  # by what stands in the baseline now
        odd = status == 0 and exitstatus not in fine
        if broken or odd or (self.plan.selftest and interrupted):
            said = self._lines.pop().partition(": ")[2]
            self._lines.append(f"exit {int(exitstatus)}: pytest itself ended so; of what was reached: {said}")
            status = exitstatus
        self._status = status
        if options.forced_alone():
            told = {"lines": self._lines, "status": status}
            Path(os.environ[options.COMPANY]).write_text(json.dumps(told), encoding="utf-8")

    def _certify(self, *, interrupted: bool) -> int:
        from pytest_flowcheck.certificate import badge, html

        certificates: list[dict[str, Any]] = []
        folders = document.folder_names(column.label for column in self.plan.columns)
        unbalanced: list[str] = []
        for column in self.plan.columns:
            certificate, why = self._certificate(column)
            certificates.append(certificate)
            if why:
                unbalanced.append(f"{column.label}: {why}")
            self._lines += [*card.card(certificate), ""]
            if self._report is not None:
                path = document.write(certificate, self._report / folders[column.label])
                badge.write(certificate, path.parent)
                self._lines += [f"  {path}", ""]
        if self._report is not None:
            self._lines += [f"to look at: {html.write(certificates, self._report / 'report.html')}", ""]
        status, line = self._decide(certificates, interrupted=interrupted)
        if status == policy.NOTHING and (unclaimed := self.plan.unclaimed):
            line += f"; no subject claims {' or '.join(unclaimed)}"
        if unbalanced:
            status, line = (
                policy.KIT_ERROR,
                f"exit {policy.KIT_ERROR}: the books do not balance: {'; '.join(unbalanced)}",
            )
        self._lines.append(line)
        return status

    def _decide(self, certificates: list[dict[str, Any]], *, interrupted: bool) -> tuple[int, str]:
        """The exit code, once the baseline was held against what was found, or written anew."""
        if self._baseline is None:
            return policy.decide(certificates, interrupted=interrupted)
        rules = [rule for rules in self.plan.rules.values() for rule in rules]
        try:
            if self.config.option.flowcheck_baseline_write and not interrupted:
                added, gone = baseline.update(self._baseline, certificates, rules)
                self._lines += [f"  {self._baseline}: {', '.join(added) or 'nothing'} added", ""]
                self._lines += [f"  {self._baseline}: {', '.join(gone)} taken out", ""] if gone else []
                if self._baseline.exists():
                    known = baseline.read(self._baseline, rules)
                    certificates = [baseline.excused(certificate, known) for certificate in certificates]
            if not self._baseline.exists() and self.config.option.flowcheck_baseline_write:
                return policy.decide(certificates, interrupted=interrupted)  # nothing fails: there is none
            untrue = baseline.read(self._baseline, rules).untrue(baseline.verdicts_of(certificates))
        except UsageError as error:
            return policy.USAGE, f"exit {policy.USAGE}: {'; '.join(str(error).splitlines())}"
        return policy.decide(certificates, interrupted=interrupted, untrue=untrue)

    def _certificate(self, column: Column) -> tuple[dict[str, Any], str]:
        """The certificate of one subject, and why its books do not balance."""
        from pytest_flowcheck import __version__
        from pytest_flowcheck.rules import REVISION

        claims = None if column.problem else column.claims
        booked = account(self.plan.rules, claims, self.ledger.of(column.label))
        certificate = document.build(
            account=booked,
            subject={
                "name": column.name or column.label,
                "version": column.version,
                "spec": column.spec or column.asked,
                "asked": column.asked,
                "label": column.label,
                "backend": column.backend,
                "unclaimed": column.unclaimed,
            },
            claims=claims,
            seed=self.plan.seed,
            kit=__version__,
            revision=REVISION,
            packages=self._packages(),
        )
        return certificate, booked.violated_identity(r for rules in self.plan.rules.values() for r in rules)

    def _packages(self) -> dict[str, str]:
        from importlib import metadata

        found = {d.metadata["Name"]: d.version for _, d in self.config.pluginmanager.list_plugin_distinfo()}
        for name in _ENVIRONMENT:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return found

    def _print(self) -> None:
        reporter: Any = self.config.pluginmanager.getplugin("terminalreporter")
        if reporter is None or not self._lines:
            return
        encoding = getattr(sys.__stdout__, "encoding", None)
        reporter.write_sep("=", "flowcheck")
        *lines, last = card.fit(self._lines, encoding)
        for line in lines:
            reporter.write_line(line)
        reporter.write_line(last, **({"green": True} if self._status == 0 else {"red": True}), bold=True)
