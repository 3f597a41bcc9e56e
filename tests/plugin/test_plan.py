"""The plan: which rules are judged on which subject, and who gets what when a worker has gone."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.running.plan import Column, Plan
from pytest_flowcheck.running.scheduling import Scheduler

if TYPE_CHECKING:
    import pytest


def plan(*columns: Column, **changes: Any) -> Plan:
    """A plan over these columns, of two bundled facets."""
    suites = "pytest_flowcheck.suites"
    given: dict[str, Any] = {
        "columns": list(columns),
        "facets": {"executor": f"{suites}.executor", "retry": f"{suites}.retry"},
        "chosen_facets": [],
        "only": [],
        "ids": [],
        "patience": 1.0,
        "seed": 0,
    }
    return Plan(**(given | changes))


def test_a_twin_is_judged_by_the_rules_that_it_breaks() -> None:
    """The same engine on a second loop library; `--flowcheck-only` narrows both."""
    first = Column("e", label="e", claims={"retry": []}, breaks=["RTY-05", "RTY-06"])
    twin = Column("e", label="e@trio", claims={"retry": []}, breaks=["RTY-05", "RTY-06"], twin=True)

    def asked(label: str, **changes: Any) -> list[str]:
        return [t.rule.id for t in plan(first, twin, **changes).tasks.values() if t.column.label == label]

    assert asked("e@trio") == ["RTY-05", "RTY-06"]
    assert len(asked("e")) > 20
    assert asked("e@trio", only=["RTY-06", "RTY-07"]) == ["RTY-06"]
    assert asked("e", only=["RTY-06", "RTY-07"]) == ["RTY-06", "RTY-07"]


def test_a_suite_that_nobody_asks_for_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker need not know costs it no time."""
    for name in [name for name in sys.modules if name.startswith("pytest_flowcheck.suites.executor")]:
        monkeypatch.delitem(sys.modules, name)
    assert plan(Column("e", label="e", claims={"retry": []})).tasks
    assert "pytest_flowcheck.suites.executor" not in sys.modules


class Worker:
    """What the scheduler sees of a worker; `gone`: its pipe is closed."""

    shutting_down = False

    def __init__(self, name: str, gone: bool = False) -> None:
        self.gateway, self.gone, self.given = SimpleNamespace(id=name), gone, list[int]()

    def send_runtest_some(self, indices: list[int]) -> None:
        if self.gone:
            raise OSError("cannot send (already closed?)")
        self.given += indices

    def shutdown(self) -> None:
        pass


def test_what_was_sent_to_a_worker_that_has_just_ended_goes_to_another(pytestconfig: pytest.Config) -> None:
    """It may end, on purpose, between its last report and its next rule."""

    class Config:
        def getvalue(self, name: str) -> Any:
            return {"maxschedchunk": 1, "tx": ["popen"] * 2}.get(name)

        def getoption(self, name: str) -> Any:
            return self.getvalue(name)

        hook = pytestconfig.hook
        option = SimpleNamespace(maxschedchunk=1)

    scheduler = Scheduler(Config(), None, set(), lambda worker: worker == "gone")  # type: ignore[arg-type]
    stays, gone = Worker("stays"), Worker("gone", gone=True)
    items = [f"item {number}" for number in range(8)]
    for worker in (stays, gone):
        scheduler.add_node(worker)
        scheduler.add_node_collection(worker, items)
    scheduler.schedule()
    assert scheduler.remove_node(gone) is None
    while done := [i for i in stays.given if i in scheduler.node2pending[stays]]:
        scheduler.mark_test_complete(stays, done[0])
    assert sorted(stays.given) == list(range(8))
