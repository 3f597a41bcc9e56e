"""One rule on one subject: what each way to end is called, and what its message says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest
from bystanders import fresh_harness
from hypothesis import strategies as st

from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.forall import SHRINK_BUDGET, forall
from pytest_flowcheck.probes.lab import Lab
from pytest_flowcheck.rules import Rule
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.subjects import Subject


def subject(make: Callable[..., Any] = ThreadPoolExecutor, *claims: str) -> Subject:
    return Subject("subject", "1", "tests:subject", {"executor": frozenset({"threads", *claims})}, target=make)


def rule(function: Callable[[Lab], None], **changes: Any) -> Rule:
    given: dict[str, Any] = {
        "id": "EXE-99",
        "facet": "executor",
        "level": "MUST",
        "capabilities": frozenset(),
        "cluster": "MUST",
        "property": False,
        "sentence": "The sentence.",
        "intent": "i",
        "usual_cause": "The usual cause.",
        "proof": "p",
        "source": "s",
        "function": function,
    }
    return Rule(**(given | changes))


def judged(
    function: Callable[[Lab], None],
    make: Callable[..., Any] = ThreadPoolExecutor,
    *,
    patience: float = 10.0,
    **changes: Any,
) -> Finding:
    # what other tests of this process left behind is none of this rule's business
    return judge(rule(function, **changes), subject(make), fresh_harness(), patience=patience)


def use(lab: Lab) -> None:
    with lab.executor(max_workers=1) as executor:
        lab.finish(lab.submit(executor, "task", gated=False), "the task")


def test_a_rule_that_comes_to_its_end_passes() -> None:
    """PASS, with the number of probes that ran."""
    finding = judged(use)
    assert (finding.verdict, finding.message, finding.grade) == (Verdict.PASS, "", "proven")
    assert finding.evidence["probes_ran"] == 1


def test_a_rule_whose_probes_never_ran_does_not_pass() -> None:
    """Nothing green is empty: it is the kit's own error."""
    finding = judged(lambda lab: None)
    assert finding.verdict is Verdict.KIT_ERROR
    assert "none of its probes ran" in finding.message


def test_an_absence_that_is_proven_violates() -> None:
    """What can never happen any more is a violation, with the wait list as proof."""

    def absent(lab: Lab) -> None:
        with lab.executor(max_workers=1) as executor:
            lab.submit(executor, "first")
            lab.submit(executor, "second")
            lab.until(lambda: len(lab.live()) == 2, "2 tasks are in flight")

    finding = judged(absent)
    assert (finding.verdict, finding.grade) == (Verdict.VIOLATED, "proven"), finding.message
    for part in (
        "EXE-99 The sentence.",
        "it never came about that 2 tasks are in flight",
        "first started",
        "Why proof:",
        "The usual cause.",
    ):
        assert part in finding.message
    assert "second started" not in finding.message, "what happens after the judgement is no part of the story"


def test_an_absence_that_a_timer_may_end_is_inconclusive() -> None:
    """Never VIOLATED without a proof: a timed wait may still change everything."""
    stop = threading.Event()

    def absent(lab: Lab) -> None:
        waiting = threading.Thread(target=stop.wait, args=(60,), daemon=True)
        waiting.start()
        use(lab)
        lab.until(lambda: False, "something happens")

    told: list[str] = []
    while not any("timers" in message for message in told) and len(told) < 20:
        finding = judged(absent, patience=0.5)
        assert finding.verdict is Verdict.INCONCLUSIVE
        told.append(finding.message)  # says what the last look saw: on a busy machine a thread of ours may just have run
    stop.set()
    assert "timers" in told[-1]


def test_a_call_that_never_returns_is_hung() -> None:
    """A hang anywhere in the subject is found by the same look; the process is poisoned."""
    release = threading.Event()

    class Stuck(ThreadPoolExecutor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            release.wait()
            return super().submit(int)

    def stuck(lab: Lab) -> None:
        with lab.executor(max_workers=1) as executor:
            lab.submit(executor, "task")

    finding = judged(stuck, Stuck)
    release.set()
    assert finding.verdict is Verdict.HUNG
    assert finding.poisoned
    assert "never returns" in finding.message


def test_a_hang_on_the_way_out_does_not_hide_what_was_found() -> None:
    """The first judgement stands, even if the subject then hangs in its own clean-up."""
    release = threading.Event()

    class StuckOnExit(ThreadPoolExecutor):
        def __exit__(self, *_: object) -> None:
            release.wait()

    def violated(lab: Lab) -> None:
        with lab.executor(max_workers=1):
            lab.check(False, "the finding", "something else")

    finding = judged(violated, StuckOnExit)
    release.set()
    assert finding.verdict is Verdict.VIOLATED
    assert "the finding" in finding.message


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (NotTestable("nothing to ask"), Verdict.NOT_TESTABLE),
        (Inconclusive("lost", because_of="EXE-01"), Verdict.INCONCLUSIVE),
        (RuntimeError("a bug of the rule"), Verdict.VIOLATED),
    ],
)
def test_each_end_has_its_word(error: Exception, verdict: Verdict) -> None:
    """How a rule ends decides the verdict, and its words are in the message."""

    def ends(lab: Lab) -> None:
        raise error

    finding = judged(ends)
    assert finding.verdict is verdict
    assert str(error) in finding.message


def test_a_task_that_failed_by_itself_is_blamed() -> None:
    """Attribute first: a broken task makes an absence true, and the absence is not the finding."""

    class Broken(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(OSError("no worker"))
            return future

    def absent(lab: Lab) -> None:
        with lab.executor(max_workers=1) as executor:
            lab.submit(executor, "task")
            lab.until(lambda: bool(lab.live()), "the task is in flight")

    finding = judged(absent, Broken)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "EXE-01" in finding.message
    assert "no worker" in finding.message


def test_unclaimed_capabilities_are_not_judged() -> None:
    """NOT-CLAIMED names what is missing, and no probe runs."""
    finding = judged(use, capabilities=frozenset({"nested", "resize"}))
    assert finding.verdict is Verdict.NOT_CLAIMED
    assert "nested, resize" in finding.message


def test_late_probes_report_to_their_own_scenario() -> None:
    """A probe that ends after `fresh` is no event of the next scenario."""

    def late(lab: Lab) -> None:
        executor = ThreadPoolExecutor(1)
        probe = lab.probe("task")
        future = executor.submit(probe)
        lab.until(lambda: "task" in lab.live(), "it is in flight")
        lab.fresh()
        future.result()
        executor.shutdown()
        assert len(lab.timeline) == 0

    assert judged(late).verdict is Verdict.PASS


def test_properties_shrink_within_a_budget() -> None:
    """The smallest failing scenario is told, after a bounded number of further runs."""
    runs: list[int] = []

    def find(lab: Lab) -> None:
        def scenario(number: int) -> None:
            runs.append(number)
            with lab.executor(max_workers=1) as executor:
                lab.finish(lab.submit(executor, "task", gated=False), "the task")
            lab.check(number < 10, f"{number} is too large", "less than 10")

        forall(lab, scenario, st.integers(0, 1000), examples=50, describe=lambda n: f"the number {n}")

    finding = judged(find)
    assert finding.verdict is Verdict.VIOLATED
    assert "the number 10" in finding.message
    assert "10 is too large" in finding.message
    first = next(i for i, n in enumerate(runs) if n >= 10)
    assert len(runs) - first - 1 <= SHRINK_BUDGET


def test_a_failure_that_does_not_come_again_is_still_a_fact() -> None:
    """A scenario that failed once is reported, though shrinking could not repeat it."""
    failed: list[int] = []

    def find(lab: Lab) -> None:
        def scenario(number: int) -> None:
            use(lab)
            if not failed and number > 3:
                failed.append(number)
                lab.check(False, f"{number} failed once", "never")

        forall(lab, scenario, st.integers(0, 100), examples=30)

    finding = judged(find)
    assert finding.verdict is Verdict.VIOLATED
    assert "failed once" in finding.message


def test_a_finding_crosses_processes() -> None:
    """`to_json` and `from_json` are inverse."""
    finding = judged(use)
    assert Finding.from_json(finding.to_json()) == finding


def test_the_same_seed_draws_the_same_scenarios() -> None:
    """Reproducible: a seed decides what is drawn."""
    drawn: list[list[int]] = [[], []]
    for row in drawn:

        def find(lab: Lab, row: list[int] = row) -> None:
            def scenario(number: int) -> None:
                row.append(number)
                use(lab)

            forall(lab, scenario, st.integers(), examples=10)

        assert judged(find).verdict is Verdict.PASS
    assert drawn[0] == drawn[1]


def test_executors_opened_by_a_context_manager_work() -> None:
    """A factory may own more than the executor."""
    from contextlib import contextmanager

    @contextmanager
    def make(max_workers: int) -> Any:
        with ThreadPoolExecutor(max_workers) as executor:
            assert isinstance(executor, Executor)
            yield executor

    assert judged(use, make).verdict is Verdict.PASS


class Bounded(ThreadPoolExecutor):
    """Back-pressure: `submit` waits for a free worker."""

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        self._free = threading.Semaphore(max_workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self._free.acquire()
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(lambda _: self._free.release())
        return future


def needs_a_queue(lab: Lab) -> None:
    with lab.executor(max_workers=1) as executor:
        lab.submit(executor, "first")
        lab.submit(executor, "second")
        lab.check("first" in lab.live(), "the first task has ended", "it is at its gate")


def test_back_pressure_is_no_hang() -> None:
    """A submit that waits for a worker is no violation, and what the kit's opened gates let happen is no finding."""
    finding = judged(needs_a_queue, Bounded)
    assert finding.verdict is Verdict.INCONCLUSIVE, finding.message
    assert "flowcheck_declares = {'submit': 'block'}" in finding.message


def test_declared_back_pressure_is_not_asked_about() -> None:
    """Where it is declared, rules that need a queue can't be asked."""
    declared = Subject(
        "s", "1", "t:s", {"executor": frozenset({"threads"})}, {"executor": {"submit": "block"}}, target=Bounded
    )
    finding = judge(rule(needs_a_queue), declared, fresh_harness(), patience=10)
    assert finding.verdict is Verdict.NOT_TESTABLE, finding.message


def test_a_claim_that_can_not_be_opened_is_the_adapters_error() -> None:
    """Claiming what the factory doesn't take is no bug of the kit's."""

    def opens(lab: Lab) -> None:
        with lab.executor(max_workers=1, initializer=print):
            pass

    finding = judged(opens, Bounded)
    assert finding.verdict is Verdict.ADAPTER_ERROR
    assert "initializer" in finding.message


def test_an_error_that_comes_through_the_subject_is_the_subjects() -> None:
    """One task's error given to another is a violation, though the task that raised it is the kit's."""
    errors: list[BaseException] = []

    class Sticky(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            def call() -> Any:
                if errors:
                    raise errors[0]
                try:
                    return fn(*args, **kwargs)
                except Exception as error:
                    errors.append(error)
                    raise

            return super().submit(call)

    def rule_function(lab: Lab) -> None:
        with lab.executor(max_workers=1) as executor:
            lab.submit(executor, "fails", gated=False, does=lambda: 1 // 0)
            lab.finish(lab.submit(executor, "works", gated=False), "the second task")

    finding = judged(rule_function, Sticky)
    assert finding.verdict is Verdict.VIOLATED, finding.message
    assert "ZeroDivisionError" in finding.message


def test_a_hang_in_a_property_tells_its_scenario() -> None:
    """The scenario at which the subject hung is in the message."""
    release = threading.Event()

    def find(lab: Lab) -> None:
        def scenario(number: int) -> None:
            use(lab)
            if number > 5:
                release.wait()

        forall(lab, scenario, st.integers(0, 1000), examples=30, describe=lambda n: f"the number {n}")

    finding = judged(find)
    release.set()
    assert finding.verdict is Verdict.HUNG
    assert "the number " in finding.message
