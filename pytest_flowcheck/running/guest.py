"""Rules among a user's own tests: what `@certify` asked for becomes tests, which are judged in the process that runs them.

Here the kit is a guest. Between two rules everything is as the other tests know it: who hears uncaught errors, what the
garbage collector looks at, whose orphans are kept. And of the threads that are there only `Bystanders` are taken for the
harness's: any other may be the subject's, of a test before, and to leave that out would make false proofs. It can only make
a proof impossible.
"""

from __future__ import annotations

import gc
import importlib
import importlib.machinery
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from _pytest.mark import ParameterSet  # what pytest.param gives; it has no public name

from pytest_flowcheck import stock, subjects
from pytest_flowcheck.certificate import baseline
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.conformance import ATTRIBUTE, Wanted
from pytest_flowcheck.errors import UsageError
from pytest_flowcheck.probes import kept
from pytest_flowcheck.proof import Harness, become_subreaper
from pytest_flowcheck.proof.bystanders import Bystanders
from pytest_flowcheck.running import offers, shield, start
from pytest_flowcheck.running.bench import Bench
from pytest_flowcheck.running.item import OUTERMOST, properties, story, unstable
from pytest_flowcheck.running.plan import Column, Plan, Task
from pytest_flowcheck.running.resolve import resolve

if TYPE_CHECKING:
    import unittest
    from collections.abc import Callable, Generator, Iterator

    from pytest_flowcheck.subjects import Subject


class Case:
    """One rule for one subject, as a decorated test gets it: `pytest_flowcheck.conformance.RuleCase`."""

    def __init__(self, task: Task, guest: Guest, known: baseline.Baseline | None) -> None:
        self.task = task
        self._guest, self._known = guest, known
        self.finding: Finding | None = None
        self.nodeid = ""

    id = property(lambda self: self.task.rule.id)
    facet = property(lambda self: self.task.rule.facet)
    sentence = property(lambda self: self.task.rule.sentence)
    subject = property(lambda self: self.task.column.label)

    @property
    def level(self) -> str:
        """`MUST` or `SHOULD`, for this subject."""
        level = self.task.rule.level_for(self.task.column.claimed(self.task.rule.facet) or ())
        return "SHOULD" if level == "exempt" else level

    def __repr__(self) -> str:
        """As the terminal shows it among a test's arguments."""
        return f"<{self.id} of {self.subject}>"

    def __call__(self) -> None:
        """Judge it, and end as a test of this verdict ends."""
        __tracebackhide__ = True
        self.finding = found = self._guest.run(self.task) if self.finding is None else unstable(self.finding)
        if untrue := self._untrue(found):
            pytest.fail(untrue, pytrace=False)
        if found.verdict is Verdict.EXPECTED:
            pytest.xfail(found.message.partition("\n")[0])
        if found.verdict.fails(found.level):
            pytest.fail(story(self.task, found, f"pytest {self.nodeid!r}", drawn=self._guest.drawn), pytrace=False)
        if found.verdict in {Verdict.NOT_CLAIMED, Verdict.NOT_TESTABLE}:
            pytest.skip(f"{found.verdict.value}: {found.message}")

    def _untrue(self, finding: Finding) -> str:
        """What the baseline says of this rule and subject, and is not so."""
        if self._known is None:
            return ""
        one = [entry for entry in self._known.entries if entry.id == self.id and entry.subject in {"", self.subject}]
        found = {self.subject: {self.id: finding.verdict.value}}
        clauses = baseline.Baseline(self._known.path, tuple(one)).untrue(found)
        if not clauses:
            return ""
        return f"the baseline {str(self._known.path)!r} is out of date: {'; '.join(clauses)}\n\n{finding.message}".rstrip()


class Guest(Bench):
    """The bench of a process that runs a user's tests, too. A plugin of their session."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        option = config.option
        debugged = option.usepdb or getattr(option, "trace", False) or "pydevd" in sys.modules
        patience = 1e6 if debugged else option.flowcheck_patience  # a person at a breakpoint is no silence
        facets = offers.all_facets(config)
        super().__init__(Plan([], facets, [], [], [], patience, option.flowcheck_seed), None)
        self.given: dict[str, Any] = {}
        """Label -> the very object that a test module named: where modules are imported by their files, a second import
        would make another."""
        then = stock.of(config)
        self.harness: Harness = Bystanders.as_of(then.at, then.threads, then.objects)
        self._before: set[int] = set()
        self.drawn: bool = option.verbose > 0
        self._status = 0
        become_subreaper(on=not self._reaps)

    # --- the bench ------------------------------------------------------------------------------------------------------

    def run(self, task: Task) -> Finding:
        """Judge one task, with nothing left of it for the next test but what it leaked."""
        self.harness.adopt(threading.get_native_id())  # from here the rule is watched
        with shield.own_hooks() as self._noted, _frozen():
            return super().run(task)

    def _hears(self) -> list[str]:
        return []

    def _freeze(self) -> None:
        gc.collect()

    def _warm_up(self) -> None:
        importlib.import_module("hypothesis.strategies")

    def _loaded(self, column: Column) -> Subject:
        target = self.given.get(column.label)
        return subjects.load(column.spec) if target is None else subjects.understand(column.spec, target)

    def _begins(self) -> None:
        """Adopt the one thread that pytest's faulthandler has started for this test: it is C's, and has no name."""
        if float(self.config.getini("faulthandler_timeout") or 0) > 0:
            known = {thread.native_id for thread in threading.enumerate()}
            came = [tid for tid in self.harness.living() if tid not in known and tid not in self._before]
            if len(came) == 1:
                self.harness.adopt(came[0])

    # --- the session ----------------------------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        """Around the tests that judge: before any plugin bounds them, and after the last."""
        case = case_of(item)
        if case is None:
            return (yield)
        case.nodeid = item.nodeid
        item.user_properties += properties(case.task)
        if self._reaps:
            become_subreaper()
        self._before = set(self.harness.living())
        try:
            return (yield)
        finally:
            if nextitem is None or case_of(nextitem) is None:
                kept.let_go()
                become_subreaper(on=not self._reaps)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let the finding travel on the report."""
        report = yield
        case = case_of(item)
        if case is not None and call.when == "call" and case.finding is not None:
            report.flowcheck = case.finding.to_json()  # type: ignore[attr-defined]
            report.user_properties = [*item.user_properties, ("flowcheck_verdict", case.finding.verdict.value)]
        return report

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """For leaving."""
        self._status = int(exitstatus)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        """Where threads that a rule proved to be stuck would hold up the exit, leave at once, with the right status."""
        if self.stuck():
            self.leave(self._status)
        self.close()


@contextmanager
def _frozen() -> Generator[None]:
    """Rules collect garbage again and again: what other tests left in memory need not be looked through each time."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def case_of(item: pytest.Item) -> Case | None:
    """The rule that this test judges."""
    params: dict[str, Any] = getattr(getattr(item, "callspec", None), "params", {})
    found = params.get("rule") if params else getattr(getattr(item, "obj", None), _CASE, None)
    return found if isinstance(found, Case) else None


_CASE = "__flowcheck_case__"


# --- collection ---------------------------------------------------------------------------------------------------------


def parametrize(metafunc: pytest.Metafunc, wanted: Wanted, guest: Guest) -> None:
    """Give a decorated function its rules."""
    if "rule" not in metafunc.fixturenames:
        name = metafunc.function.__name__
        pytest.fail(f"certify(): {name} takes no argument `rule`; write def {name}(rule): rule()", pytrace=False)
    module: Any = metafunc.module  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - untyped there
    metafunc.parametrize("rule", _params(wanted, guest, module))


def unroll(case_class: type[unittest.TestCase], guest: Callable[[], Guest]) -> None:
    """Give a `unittest.TestCase`, which knows no parameters, a method for each rule of its decorated methods."""
    for name, function in list(vars(case_class).items()):
        wanted = getattr(function, ATTRIBUTE, None)
        if not isinstance(wanted, Wanted):
            continue
        function.__test__ = False  # pytest leaves it out
        for param in _params(wanted, guest(), sys.modules[case_class.__module__]):
            method = _method(function, param.values[0])
            method.pytestmark = [*getattr(function, "pytestmark", ()), *param.marks]  # type: ignore[attr-defined]
            setattr(case_class, f"{name}[{param.id}]", method)


def _method(function: Callable[..., Any], case: Any) -> Callable[[Any], Any]:
    def method(self: Any) -> Any:
        return function(self, case)

    method.__doc__ = f"{case.id} {case.sentence}"
    setattr(method, _CASE, case)
    return method


def _params(wanted: Wanted, guest: Guest, module: Any) -> list[ParameterSet]:
    try:
        return list(_cases(wanted, guest, module))
    except UsageError as error:
        line = f"certify(): {error}"
    pytest.fail(line, pytrace=False)


def _cases(wanted: Wanted, guest: Guest, module: Any) -> Iterator[ParameterSet]:
    config = guest.config
    facets = guest.plan.facets
    chosen = start.chosen_facets(wanted.facets, facets, "facets")
    only = start.only_these(wanted.only, facets)
    known = _baseline(wanted, guest, module)
    columns: list[tuple[Column, object, ParameterSet]] = []
    for given in wanted.subjects:
        param = given if isinstance(given, ParameterSet) else pytest.param(given)
        if len(param.values) != 1:
            raise UsageError(f"pytest.param({', '.join(map(repr, param.values))}): expected one subject in it")
        (subject,) = param.values
        columns += [(column, subject, param) for column in _columns(subject, str(param.id or ""), guest)]
    labelled = start.label([column for column, _, _ in columns])
    for column, (_, subject, param) in zip(labelled, columns, strict=True):
        own = replace(column, expected=known.of(column.label) if known is not None else {})
        if not isinstance(subject, str):
            guest.given[own.label] = subject
        plan = Plan([own], facets, chosen, only, [], guest.plan.patience, guest.plan.seed)
        if not plan.tasks:
            what = ", ".join([*chosen, *only]) or "anything"
            raise UsageError(f"subject {own.label!r} has nothing to judge: it claims {', '.join(own.claims)}, not {what}")
        for task in plan.tasks.values():
            word = task.rule.id if len(columns) == 1 else f"{task.rule.id}-{own.label}"
            yield pytest.param(Case(task, guest, known), id=word, marks=[*_marks(config), *param.marks])


def _marks(config: pytest.Config) -> Iterator[pytest.MarkDecorator]:
    """A rule is bounded by patience, long before the bound of a usual test; and no two run at a time in one process."""
    manager = config.pluginmanager
    if manager.hasplugin("timeout"):
        yield pytest.mark.timeout(max(OUTERMOST, 20 * config.option.flowcheck_patience))
    if manager.hasplugin("run-parallel") or manager.hasplugin("pytest_run_parallel"):
        yield pytest.mark.thread_unsafe(reason="rules look at the whole process")


def _baseline(wanted: Wanted, guest: Guest, module: Any) -> baseline.Baseline | None:
    facets = guest.plan.facets
    if wanted.baseline is None:
        return start.baseline_of(guest.config, facets)
    return baseline.read(Path(module.__file__).parent / wanted.baseline, start.every_rule(facets))


def _columns(subject: Any, name: str, guest: Guest) -> list[Column]:
    """The columns of one subject: found out in a child process, which may hang or die of it."""
    extra = offers.extra_subjects(guest.config)
    spec = subject if isinstance(subject, str) else _spec(subject)
    found = resolve([spec], extra, guest.config.invocation_params.dir, guest.config.option.flowcheck_patience)
    for column in found:
        if column.problem:
            raise UsageError(f"subject {spec!r}: {column.problem}")
    return [replace(column, name=name or column.name) for column in found]


def _spec(subject: Any) -> str:
    """What loads this object again in another process: `module:attr`, or `file.py:attr` where its module is not on the path."""
    module, name = getattr(subject, "__module__", None), getattr(subject, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        raise UsageError(
            f"got {subject!r}; expected a class, a function that takes max_workers, or a string such as 'my_pkg:MyEngine'"
        )
    if "<" in name:
        raise UsageError(
            f"{name} is made inside a function, so no other process can load it: define it at the top of a module"
        )
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is not None and _origin(module) != file:
        return f"{file}:{name}"
    return f"{module}:{name}"


def _origin(module: str) -> str | None:
    """The file that importing this name in a fresh process with the same path would find."""
    path: Any = None
    found = None
    words = module.split(".")
    for count in range(1, len(words) + 1):
        found = importlib.machinery.PathFinder.find_spec(".".join(words[:count]), path)
        if found is None:
            return None
        path = found.submodule_search_locations
    return found.origin if found is not None else None
