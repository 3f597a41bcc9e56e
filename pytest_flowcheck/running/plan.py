"""What a run will judge: subjects as resolved, facets, rules, seed. Plain data, so that workers get it as JSON."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_flowcheck.rules import Rule


@dataclass(frozen=True)
class Column:
    """One subject of the run, as its resolution in a child process found it. One column of the matrix."""

    asked: str
    """What the user wrote: what a reproducer must say."""
    label: str = ""
    """Unique within the run; the word in brackets of an item's id."""
    name: str = ""
    version: str = "unknown"
    spec: str = ""
    """What loads it again in another process."""
    claims: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    declares: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    backend: str = "asyncio"
    """The loop library on which its async instances run; a subject has one column for each."""
    unclaimed: list[str] = field(default_factory=list[str])
    is_adapter: bool = False
    problem: str = ""
    """It died or hung while it was loaded: every rule reads ADAPTER-ERROR with this line."""
    expected: dict[str, str] = field(default_factory=dict[str, str])
    """The rules that the baseline expects it to fail -> why."""
    breaks: list[str] | None = None
    """In a selftest: the rules that this broken engine must fail."""
    twin: bool = False
    """In a selftest: the same engine on another loop library. That it fails what it must is shown there too; that it keeps
    the rest was shown on the first."""

    def claimed(self, facet: str) -> frozenset[str] | None:
        """The capabilities that it claims of a facet; None if it does not claim the facet."""
        capabilities = self.claims.get(facet)
        return None if capabilities is None else frozenset(capabilities)


@dataclass(frozen=True)
class Task:
    """One rule for one subject: one item."""

    rule: Rule
    column: Column

    @property
    def name(self) -> str:
        """`EXE-04[my-engine]`."""
        return f"{self.rule.id}[{self.column.label}]"

    @property
    def nodeid(self) -> str:
        """Stable everywhere: it names no file of any machine."""
        return f"flowcheck/{self.rule.facet}::{self.name}"

    @property
    def reproducer(self) -> str:
        """The command that judges this rule on this subject again."""
        selftest = " --flowcheck-selftest" if self.column.breaks is not None else ""
        return f"pytest --flowcheck{selftest} --flowcheck-subject={self.column.asked} --flowcheck-only={self.rule.id}"


@dataclass(frozen=True)
class Plan:
    """Everything that controller and workers must agree on."""

    columns: list[Column]
    facets: dict[str, str]
    """Every facet known to this run -> the module of its suite."""
    chosen_facets: list[str]
    """Those to judge; empty: all that a subject claims."""
    only: list[str]
    """Ids of the rules to judge; empty: all."""
    ids: list[str]
    """Node ids given as paths; empty: all."""
    patience: float
    seed: int
    selftest: bool = False

    @cached_property
    def rules(self) -> dict[str, list[Rule]]:
        """The rules of every facet, sorted. Imports all suites, which a worker has no need of."""
        return {facet: self._rules_of(facet) for facet in sorted(self.facets)}

    def _rules_of(self, facet: str) -> list[Rule]:
        """The rules of one facet, sorted. Imports its suite."""
        from pytest_flowcheck.rules import rules_of

        return rules_of(importlib.import_module(self.facets[facet]))

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """What is to be judged, by node id, in the order of the run."""
        return {task.nodeid: task for task in self._tasks() if not self.ids or task.nodeid in self.ids}

    def _tasks(self) -> Iterator[Task]:
        for facet in sorted(self.facets):
            if self.chosen_facets and facet not in self.chosen_facets:
                continue
            columns = [column for column in self.columns if column.problem or column.claimed(facet) is not None]
            rules = self._rules_of(facet) if columns else []
            for column in columns:
                yield from (Task(rule, column) for rule in rules if self._asks(rule, column))

    def _asks(self, rule: Rule, column: Column) -> bool:
        if self.only and rule.id not in self.only:
            return False
        return not column.twin or rule.id in (column.breaks or ())

    @property
    def unclaimed(self) -> list[str]:
        """The facets that were asked for and that no subject claims."""
        known = [column for column in self.columns if not column.problem]
        return [facet for facet in self.chosen_facets if all(column.claimed(facet) is None for column in known)]

    @property
    def partial(self) -> bool:
        """Whether some rules were left out on purpose."""
        return bool(self.chosen_facets or self.only or self.ids)

    def to_json(self) -> str:
        """For a worker."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """In the worker."""
        data: dict[str, Any] = json.loads(text)
        data["columns"] = [Column(**column) for column in data["columns"]]
        return cls(**data)
