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


def scheduled(pytestconfig: pytest.Config, items: list[str], *workers: Worker) -> Scheduler:
    """Items that are shared by their first letter, begun by these workers."""

    class Config:
        def getvalue(self, name: str) -> Any:
            return {"maxschedchunk": 1, "tx": ["popen"] * 2}.get(name)

        def getoption(self, name: str) -> Any:
            return self.getvalue(name)

        hook = pytestconfig.hook
        option = SimpleNamespace(maxschedchunk=1)

    config: Any = Config()
    scheduler = Scheduler(config, None, set(), lambda worker: worker == "gone", lambda nodeid: nodeid[0])
    for worker in workers:
        scheduler.add_node(worker)
        scheduler.add_node_collection(worker, items)
    scheduler.schedule()
    return scheduler


def test_what_was_sent_to_a_worker_that_has_just_ended_goes_to_another(pytestconfig: pytest.Config) -> None:
    """It may end, on purpose, between its last report and its next rule."""
    stays, gone = Worker("stays"), Worker("gone", gone=True)
    scheduler = scheduled(pytestconfig, [f"item {number}" for number in range(8)], stays, gone)
    assert scheduler.remove_node(gone) is None
    while done := [i for i in stays.given if i in scheduler.node2pending[stays]]:
        scheduler.mark_test_complete(stays, done[0])
    assert sorted(stays.given) == list(range(8))


def test_a_worker_goes_on_with_its_subject_and_helps_at_the_end(pytestconfig: pytest.Config) -> None:
    """However fast the other one is: it takes the next subject, and only when none is left a part of the same."""
    items = [f"{subject}{number}" for subject in "abc" for number in range(6)]
    slow, fast = Worker("slow"), Worker("fast")
    scheduler = scheduled(pytestconfig, items, slow, fast)
    while scheduler.node2pending[fast]:
        for worker in (slow, *[fast] * 9):
            if scheduler.node2pending[worker]:
                scheduler.mark_test_complete(worker, scheduler.node2pending[worker][0])
    while scheduler.node2pending[slow]:
        scheduler.mark_test_complete(slow, scheduler.node2pending[slow][0])
    done = {worker: "".join(items[item][0] for item in worker.given) for worker in (slow, fast)}
    assert sorted(slow.given + fast.given) == list(range(18))
    assert done[slow] == "a" * len(done[slow])
    assert done[fast] == "b" * 6 + "c" * 6 + "a" * (6 - len(done[slow]))
    assert len(done[slow]) < 6


def test_the_subject_of_a_worker_that_ended_is_free(pytestconfig: pytest.Config) -> None:
    """The one that replaces it, or another, goes on with it before it helps anybody."""
    items = [f"{subject}{number}" for subject in "ab" for number in range(9)]
    stays, gone, new = Worker("stays"), Worker("gone"), Worker("new")
    scheduler = scheduled(pytestconfig, items, stays, gone)
    assert scheduler.remove_node(gone) is None
    scheduler.add_node(new)
    scheduler.add_node_collection(new, items)
    scheduler.schedule()
    assert {items[item][0] for item in new.given} == {items[item][0] for item in gone.given} == {"b"}
