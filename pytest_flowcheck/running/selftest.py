"""The selftest: each deliberately broken engine must fail exactly the rules that it names.

It is how a user learns, on his own machine, that a green certificate is no accident: the same rules, run the same way,
catch every engine that is known to be wrong, and accuse none of them of anything else.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.errors import UsageError
from pytest_flowcheck.protocols import broken_rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_flowcheck.running.plan import Plan, Task

ENTRY_POINTS: Final = "pytest_flowcheck.broken"
"""Entry point group by which a distribution offers a package of broken engines."""

_QUIET = frozenset({Verdict.PASS, Verdict.NOT_CLAIMED, Verdict.NOT_TESTABLE})


def engines() -> Iterator[tuple[type[Any], frozenset[str]]]:
    """Every class marked by `@breaks`, with the rules that it must fail; sorted by module and name.

    Raises:
        UsageError: no installed distribution offers any, or one can't be imported.
    """
    found: dict[str, tuple[type[Any], frozenset[str]]] = {}
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        for name in _modules(entry.value):
            module = importlib.import_module(name)
            for _, engine in inspect.getmembers(module, inspect.isclass):
                if engine.__module__ == name and (rules := broken_rules(engine)):
                    found[f"{name}:{engine.__qualname__}"] = engine, rules
    if not found:
        raise UsageError(
            f"no broken engines to test the kit with: no installed package has the entry point {ENTRY_POINTS!r}"
        )
    return (found[key] for key in sorted(found))


def _modules(package: str) -> list[str]:
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the entry point {ENTRY_POINTS!r} names {package}, which can't be imported: {error}"
        ) from error
    below = pkgutil.walk_packages(getattr(module, "__path__", ()), package + ".")
    return sorted({package, *(m.name for m in below)})


def right(task: Task, finding: Finding) -> bool:
    """Whether the verdict is what the selftest asks of this rule and this broken engine."""
    if task.rule.id in (task.column.breaks or ()):
        return finding.verdict.broken
    if finding.verdict is Verdict.INCONCLUSIVE:
        return bool(finding.evidence.get("because_of"))
    return finding.verdict in _QUIET


def miss(task: Task, finding: Finding) -> str:
    """What was wrong, in one line."""
    wanted = "must fail it" if task.rule.id in (task.column.breaks or ()) else "must not fail it"
    named = ""
    if finding.verdict is Verdict.INCONCLUSIVE and not finding.evidence.get("because_of"):
        named = " (and names no rule to which it lost its precondition)"
    return f"{task.rule.id} on {task.column.label} reads {finding.verdict.value}{named}; that engine {wanted}"


def card(plan: Plan, findings: Mapping[str, Finding]) -> tuple[list[str], int]:
    """The lines of the selftest's card, and the exit code.

    Args:
        plan: what was to be judged.
        findings: by node id.
    """
    wrong: dict[str, list[str]] = {}
    unseen: dict[str, int] = {}
    for nodeid, task in plan.tasks.items():
        finding = findings.get(nodeid)
        if finding is None:
            unseen[task.column.label] = unseen.get(task.column.label, 0) + 1
        elif not right(task, finding):
            wrong.setdefault(task.column.label, []).append(miss(task, finding))
    labels = dict.fromkeys(task.column.label for task in plan.tasks.values())
    caught = [label for label in labels if label not in wrong and label not in unseen]
    some = " of those selected" if plan.partial else ""
    lines = [f"selftest: {len(caught)} of {len(labels)} broken engines caught by exactly their rules{some}"]
    lines += [f"  {line}" for label in labels for line in wrong.get(label, ())]
    lines += [f"  {label}: {count} rules NOT-RUN" for label, count in unseen.items()]
    if not findings:
        return [*lines, "exit 5: nothing was judged"], 5
    if wrong or unseen:
        return [*lines, f"exit 1: {len(labels) - len(caught)} broken engines were not caught by exactly their rules"], 1
    return [*lines, "exit 0: every broken engine is caught by exactly the rules that it names"], 0
