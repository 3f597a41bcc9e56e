"""The pytest side of one task: a synthetic collector per facet and an item per rule and subject.

The items lie, by their path, in the suite's own folder. So the `conftest.py` hooks of the user's folders, which pytest
applies by path, neither see them run nor can disturb them.
"""

from __future__ import annotations

import gc
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.running import selftest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_flowcheck.running.bench import Bench
    from pytest_flowcheck.running.plan import Plan, Task


OUTERMOST: Final = 600.0
"""Seconds after which pytest-timeout may end a rule that neither came to an end nor was given up."""


class RuleFailed(Exception):  # noqa: N818 - it carries a verdict
    """Ends an item whose verdict fails the run. The finding is its whole story."""

    def __init__(self, story: str) -> None:
        super().__init__(story)
        self.story = story


class FacetCollector(pytest.Collector):
    """`flowcheck/executor`."""

    def collect(self) -> Iterable[pytest.Item]:
        """Nothing to look for: items are added with their collector as parent."""
        return ()


class RuleItem(pytest.Item):
    """One rule on one subject.

    `function`, `obj`, `fixturenames` and the like are here for hooks of other plugins that take every item for a
    Python function; nothing of the kit reads them.
    """

    task: Task
    bench: Bench | None

    def __init__(self, *, task: Task, bench: Bench | None, **rest: Any) -> None:
        super().__init__(**rest)  # pyright: ignore[reportUnknownMemberType] - pytest leaves it untyped
        self.task, self.bench = task, bench
        self.finding: Finding | None = None
        self.fixturenames: list[str] = []
        self.funcargs: dict[str, Any] = {}
        self.function = self.obj = task.rule.function
        self.originalname = task.rule.id
        self.module, self.cls, self.instance = sys.modules[task.rule.function.__module__], None, None
        self.user_properties += properties(task)

    def runtest(self) -> None:
        """Judge, and end as pytest expects an item of this verdict to end."""
        if self.bench is None:
            raise RuntimeError("rules are judged in a process that has a bench")
        if self.finding is not None:
            self.finding = unstable(self.finding)
        else:
            self.finding = self.bench.run(self.task)
        self.user_properties.append(("flowcheck_verdict", self.finding.verdict.value))
        conclude(self.task, self.finding, drawn=self.config.get_verbosity() > 0)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The story of the verdict; a traceback only where something other than a verdict ended the item."""
        if isinstance(excinfo.value, RuleFailed):
            return excinfo.value.story
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the rule stands, and its id."""
        return self.path, self.line, f"{self.task.rule.facet} {self.name}"

    @property
    def line(self) -> int:
        """The line of the rule's function, counted from 0."""
        return inspect.getsourcelines(self.task.rule.function)[1] - 1


def properties(task: Task) -> list[tuple[str, object]]:
    """What JUnit and other reports say of an item besides its outcome."""
    level = task.rule.level_for(task.column.claimed(task.rule.facet) or ())
    return [("flowcheck_rule", task.rule.id), ("flowcheck_level", level), ("flowcheck_subject", task.column.label)]


def unstable(first: Finding) -> Finding:
    """The verdict of a rule that some plugin runs again: a rule that needs two tries has none."""
    story = f"the rule was run again after it had read {first.verdict.value}: what needs two tries has no verdict"
    if first.verdict is Verdict.UNSTABLE:
        return first
    return Finding(
        first.rule,
        Verdict.UNSTABLE,
        first.level,
        "observed",
        message=f"{story}\n\n{first.message}".rstrip(),
        evidence={"first": first.to_json()},
        poisoned=first.poisoned,
    )


def miss_or_story(task: Task, finding: Finding, *, drawn: bool = False) -> str | None:
    """What a failed item says; None if it does not fail. `drawn`: with a picture of what happened."""
    if task.column.breaks is not None:
        return (
            None if selftest.right(task, finding) else f"{selftest.miss(task, finding)}\n\n{finding.message}".rstrip()
        )
    return story(task, finding, drawn=drawn) if finding.verdict.fails(finding.level) else None


def conclude(task: Task, finding: Finding, *, drawn: bool = False) -> None:
    """Return for an outcome `passed`; raise for the others."""
    told = miss_or_story(task, finding, drawn=drawn)
    if told is not None:
        raise RuleFailed(told)
    if task.column.breaks is None and finding.verdict in {Verdict.NOT_CLAIMED, Verdict.NOT_TESTABLE}:
        pytest.skip(f"{finding.verdict.value}: {finding.message}")


def story(task: Task, finding: Finding, reproducer: str = "", *, drawn: bool = False) -> str:
    """The whole failure message, and the command that shows it again: the task's own, or this one.

    Args:
        task: the rule and its subject.
        finding: what was found.
        reproducer: another command that shows it again.
        drawn: with a picture of what happened.
    """
    head = f"{finding.verdict.value} ({finding.level}) {task.rule.id} on {task.column.label}"
    message = finding.message
    if not message.startswith(task.rule.id) and finding.verdict is not Verdict.ADAPTER_ERROR:
        message = f"{task.rule.id} {task.rule.sentence}\n\n{message}"
    if drawn:
        from pytest_flowcheck.certificate import drawing

        if lines := drawing.drawn(finding.evidence):
            message = "\n  ".join([f"{message}\n\nTimeline:", *lines])
    return f"{head}\n\n{message}\n\nReproduce:     {reproducer or task.reproducer}"


def shown_as(data: Mapping[str, Any], *, failed: bool) -> tuple[str, str, str]:
    """Category, letter and word of a finding in pytest's terminal: verdicts, instead of `passed` and `failed`."""
    word = str(data["verdict"])
    if failed:
        return "failed", word[0], word
    if word == Verdict.PASS.value:
        return "passed", ".", word
    if word == Verdict.EXPECTED.value:
        return "expected to fail", "x", word
    return "should not kept", "s", f"SHOULD {word}"


def collect(session: pytest.Session, plan: Plan, bench: Bench | None) -> list[pytest.Item]:
    """The items of a plan, in its order.

    A selftest has more than ten thousand, and each of its workers makes them all anew, those that take the place of others
    as well: looking for garbage among what stays would take a third of that time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return _collect(session, plan, bench)
    finally:
        if collects:
            gc.enable()


def _collect(session: pytest.Session, plan: Plan, bench: Bench | None) -> list[pytest.Item]:
    parents: dict[str, FacetCollector] = {}
    items: list[pytest.Item] = []
    paths: dict[str, Path] = {}
    # the outermost bound: so far above patience that the kit has long decided, and above any --timeout of the user
    known = session.config.pluginmanager.hasplugin("timeout")
    bound = pytest.mark.timeout(max(OUTERMOST, 20 * plan.patience)) if known else None
    for task in plan.tasks.values():
        facet = task.rule.facet
        if task.rule.id not in paths:
            paths[task.rule.id] = Path(inspect.getfile(task.rule.function))
        path = paths[task.rule.id]
        if facet not in parents:
            new = FacetCollector.from_parent  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            parents[facet] = new(session, name=f"flowcheck/{facet}", nodeid=f"flowcheck/{facet}", path=path.parent)
        add = RuleItem.from_parent  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        item = add(parents[facet], name=task.name, nodeid=task.nodeid, path=path, task=task, bench=bench)
        if bound is not None:
            item.add_marker(bound)
        items.append(item)
    return items
