"""EXE-26: any sequence of operations against a small model."""

from __future__ import annotations

from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.executor._shared import draws

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from pytest_flowcheck.probes.lab import Lab

Operation = Literal["submit", "cancel", "open", "shutdown"]


class Step(NamedTuple):
    """One operation, on the `which`-th task (modulo those there are), by one of several threads."""

    operation: Operation
    which: int
    thread: int


@dataclass
class Model:
    """What an executor of `workers` workers may look like from outside. A reader can check it by eye.

    A task is in flight from its start (reported by the probe) to its gate's opening, or it waits, or it was cancelled.
    The model takes starts from the history and says only: never more than `workers`, in order where one worker serves,
    a cancelled task never starts, and in the end every task that was not cancelled has its own result.
    """

    workers: int
    shut: bool = False
    submitted: list[str] = field(default_factory=list[str])
    cancelled: set[str] = field(default_factory=set[str])
    opened: set[str] = field(default_factory=set[str])


@rule("EXE-26", property=True)
def any_sequence_agrees_with_the_model(lab: Lab) -> None:
    """Any sequence of submit / cancel / gate / shutdown from several threads agrees with the model.

    Intent: Each rule asks one question; bugs live where two of them meet.

    Usual cause: A state that one operation leaves and another does not expect, such as a cancel between queue and worker.

    Proof: Operations are drawn and forced one after the other by threads of their own; gates decide what is in flight; answers and results are compared with a model of twenty lines.

    Source: property-based state machines; Lamport, *On interprocess communication*, for reading histories.
    """

    def scenario(drawn: tuple[int, list[Step]]) -> None:
        workers, steps = drawn
        model = Model(workers)
        with lab.executor(max_workers=workers) as executor:
            futures: dict[str, Future[Any]] = {}
            for step in steps:
                apply = partial(_apply, lab, executor, model, futures, step)
                lab.call(f"thread {step.thread}: {_told(step, len(model.submitted))}", apply).result()
                _bounded(lab, model)
            lab.open_all()
            lab.until(
                lambda: all(f.done() for f in futures.values()),
                "every future is done once all gates are open",
                hung=True,
            )
            lab.call("shutdown(wait=True)", executor.shutdown).result()
            _bounded(lab, model)
            _compare(lab, model, futures)

    steps = st.lists(
        st.builds(
            Step,
            st.sampled_from(("submit", "submit", "submit", "cancel", "open", "shutdown")),
            st.integers(0, 7),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=12,
    )
    # at least one task in every scenario: without one nothing is judged
    strategy = st.tuples(st.integers(1, 3), steps.map(lambda s: [Step("submit", 0, 0), *s]))
    forall(lab, scenario, strategy, examples=draws(lab, 40), describe=_table)


def _apply(lab: Lab, executor: Executor, model: Model, futures: dict[str, Future[Any]], step: Step) -> None:
    if step.operation == "submit":
        name = f"task {len(model.submitted)}"
        try:
            with lab.submission(name):
                future = executor.submit(lab.probe(name))
        except RuntimeError:
            lab.check(model.shut, "submit raised RuntimeError before any shutdown", "it takes the task")
            return
        lab.check(not model.shut, "submit after shutdown gave a future", "RuntimeError")
        model.submitted.append(name)
        futures[name] = future
        lab.watch(future)
    elif step.operation == "shutdown":
        executor.shutdown(wait=False)
        model.shut = True
    else:
        name = model.submitted[step.which % len(model.submitted)]
        if step.operation == "open":
            lab.open(name)
            model.opened.add(name)
            return
        answer = futures[name].cancel()
        lab.note(f"cancel() of {name} answered {answer}")
        again = futures[name].cancel()
        lab.check(again == answer, f"cancel() of {name} answered {answer}, then {again}", "the same answer")
        if answer:
            model.cancelled.add(name)
        else:
            lab.check(
                name not in model.cancelled, f"cancel() of {name} answered True, and later False", "no state goes back"
            )


def _bounded(lab: Lab, model: Model) -> None:
    """At no moment of the history were more tasks in flight than there are workers."""
    live = 0
    for event in list(lab.timeline.events):
        live += (event.kind == "started") - (event.kind in ("ended", "raised", "lost"))
        lab.check(live <= model.workers, f"{live} tasks were in flight at once", f"at most max_workers={model.workers}")


def _compare(lab: Lab, model: Model, futures: dict[str, Future[Any]]) -> None:
    started = lab.started()
    for name, future in futures.items():
        times = started.count(name)
        if name in model.cancelled:
            lab.check(
                future.cancelled(),
                f"{name}: cancel() answered True, yet cancelled() is False at the end",
                "it stays cancelled",
            )
            lab.check(
                times == 0 or lab.claims("cluster"),
                f"{name}: cancel() answered True, yet it ran",
                "a cancelled task never runs",
            )
            continue
        try:
            got = future.result(timeout=0)
        except CancelledError:
            got = "CancelledError, although cancel() never answered True"
        except Exception as error:  # noqa: BLE001 - any error is the finding
            got = repr(error)
        lab.check(got == name, f"{name} gave {got}", "its own result")
        lab.check(times == 1, f"{name} started {times} times", "once")
    if model.workers == 1 and not lab.claims("cluster"):
        expected = [n for n in model.submitted if n in started]
        lab.check(started == expected, f"one worker started {started}", f"the order of submission: {expected}")


def _table(drawn: tuple[int, list[Step]]) -> str:
    workers, steps = drawn
    lines = [f"{workers} worker(s)", "step  thread  operation"]
    submitted = 0
    for number, step in enumerate(steps):
        lines.append(f"{number:4}  {step.thread:6}  {_told(step, submitted)}")
        submitted += step.operation == "submit"
    return "\n".join(lines)


def _told(step: Step, submitted: int) -> str:
    """A step in words, once so many tasks were submitted."""
    if step.operation == "submit":
        return f"submit task {submitted}"
    if step.operation in ("cancel", "open") and submitted:
        return f"{step.operation} task {step.which % submitted}"
    return step.operation
