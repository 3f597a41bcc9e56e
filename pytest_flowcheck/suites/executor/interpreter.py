"""EXE-20, 36, 37: the end of the interpreter, an interrupt, a fork. Each in a fresh interpreter of its own."""

from __future__ import annotations

import atexit
import os
import signal
import warnings
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive, NotTestable
from pytest_flowcheck.probes.child import Child, child
from pytest_flowcheck.probes.needs import FORK, need
from pytest_flowcheck.rules import rule

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.subjects import Subject

_kept: list[Any] = []
"""What a scenario keeps until its interpreter ends: an executor that is collected earlier is not the question here."""


@rule("EXE-20", cluster="SHOULD")
def a_process_ends_without_shutdown(lab: Lab) -> None:
    """A process that ends without `shutdown` runs what was submitted and then exits, if its tasks end; a submit during exit raises or runs, never hangs. `[cluster]` may drop the work.

    Intent: A script that forgets the `with` block must neither lose its work nor hang in the terminal.

    Usual cause: Daemon workers that die with the interpreter, or non-daemon ones that nobody tells to stop.

    Proof: The probes report from the ending process over a connection of their own; that it never exits is proven from the kernel.

    Source: CPython `threading._register_atexit(_python_exit)`.
    """
    names = ["task 0", "task 1", "task 2"]
    with child(
        lab, leave_without_shutdown, lab.probe("main ends", gated=False), *(lab.probe(name) for name in names)
    ) as process:
        _until_child(
            lab,
            process,
            lambda: "main ends" in lab.ended() and (bool(lab.live()) or process.exited),
            "the main thread ends with a task in flight",
        )
        lab.open_all()
        lab.until(lambda: process.exited, "the process exits once its tasks have ended", hung=True)
        lost = [name for name in names if name not in lab.ended()]
        if not lab.claims("cluster"):
            lab.check(
                not lost,
                f"the process ended with status {process.status} without running {', '.join(lost)}",
                "what was submitted runs first",
            )
    lab.fresh()
    with child(
        lab,
        submit_while_exiting,
        lab.probe("first", gated=False),
        lab.probe("late", gated=False),
        lab.probe("answered", gated=False),
    ) as process:
        lab.until(lambda: process.exited, "a process that submits while it exits comes to its end", hung=True)
        lab.check(
            "answered" in lab.ended(),
            f"a submit during exit neither raised nor ran: {process.output()[-300:]}",
            "it raises RuntimeError or runs",
        )


def leave_without_shutdown(subject: Subject, main_ends: Any, *tasks: Any) -> None:
    """Scenario: submit, keep the executor, end."""
    executor = subject.make_executor(max_workers=1)
    _kept.append(executor)
    for task in tasks:
        executor.submit(task)
    main_ends()


def submit_while_exiting(subject: Subject, first: Any, late: Any, answered: Any) -> None:
    """Scenario: an exit handler submits and waits."""
    executor = subject.make_executor(max_workers=1)
    _kept.append(executor)
    executor.submit(first).result()

    def on_exit() -> None:
        try:
            executor.submit(late).result()
        except Exception:  # noqa: BLE001 - refused, cancelled or failed: any exception is an answer
            answered()
        else:
            answered()

    atexit.register(on_exit)


def _until_child(lab: Lab, process: Child, predicate: Any, what: str) -> None:
    """As `lab.until`, and says what the child wrote if it ended instead."""
    lab.until(lambda: process.exited or predicate(), what, needs="EXE-01")
    if not predicate():
        output = process.output()
        if "NotTestable" in output:
            raise NotTestable(output.rpartition("NotTestable: ")[2].strip())
        raise Inconclusive(
            f"the scenario ended early with status {process.status}: {output[-600:]}", because_of="EXE-01"
        )


@rule("EXE-36")
def an_interrupted_reader_leaves_it_usable(lab: Lab) -> None:
    """KeyboardInterrupt in a thread that waits for a future leaves the executor usable.

    Intent: Ctrl-C ends the waiting, not the pool; a REPL and a graceful stop both rely on it.

    Usual cause: A lock that is held while waiting, or a state that is changed before and put right after.

    Proof: SIGINT is sent to a process whose main thread is proven to wait; the same process must then run another task.

    Source: Python library reference, `signal`: handlers run in the main thread.
    """
    probes = (lab.probe("held"), lab.probe("interrupted", gated=False), lab.probe("after", gated=False))
    with child(lab, wait_and_be_interrupted, *probes) as process:
        _until_child(lab, process, lambda: "held" in lab.live(), "the main thread waits for a gated task")
        lab.settle()
        os.kill(process.pid, signal.SIGINT)
        lab.note("SIGINT sent to the process that waits")
        _until_child(
            lab, process, lambda: "interrupted" in lab.ended(), "the waiting main thread gets KeyboardInterrupt"
        )
        lab.open("held")
        lab.until(lambda: process.exited, "the interrupted process runs another task and exits", hung=True)
        lab.check(
            "after" in lab.ended() and process.status == 0,
            f"after the interrupt the process ended with status {process.status}: {process.output()[-300:]}",
            "the executor runs another task",
        )


def wait_and_be_interrupted(subject: Subject, held: Any, interrupted: Any, after: Any) -> None:
    """Scenario: the main thread waits for a task, is interrupted, and uses the executor again."""
    # a process that was started in the background inherits SIGINT ignored, and Python then leaves it so
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subject.open_executor(max_workers=2) as executor:
        waited = executor.submit(held)
        try:
            waited.result()
        except KeyboardInterrupt:
            interrupted()
        executor.submit(after).result()
        waited.result()


@rule("EXE-37", should=True)
def a_forked_child_is_told(lab: Lab) -> None:
    """After a fork, a child that uses an inherited executor works or fails clearly.

    Intent: Web servers fork after import; a pool made at import time is then used in the child.

    Usual cause: The child inherits the queue and the counters, but none of the worker threads.

    Proof: The child reports its answer; that it never will is proven from the kernel.

    Source: Python library reference, `os.fork` and threads; the standard library hangs here.
    """
    need(FORK)
    with child(lab, fork_and_use, lab.probe("parent ran", gated=False), lab.probe("answered", gated=False)) as process:
        _until_child(lab, process, lambda: "parent ran" in lab.ended(), "the executor works before the fork")
        lab.until(lambda: "answered" in lab.ended() or process.exited, "the forked child's submit runs or fails")
        lab.until(lambda: process.exited, "the process that forked exits")
        lab.check(
            "answered" in lab.ended(),
            f"the forked child ended without an answer: {process.output()[-300:]}",
            "it runs the task or raises clearly",
        )


def fork_and_use(subject: Subject, parent_ran: Any, answered: Any) -> None:
    """Scenario: use an executor, fork, and use it again in the child."""
    executor = subject.make_executor(max_workers=1)
    executor.submit(parent_ran).result()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of exactly what this rule is about
        pid = os.fork()
    if pid == 0:
        try:
            right = executor.submit(int, "1").result() == 1
        except Exception:  # noqa: BLE001 - any exception is a clear answer
            answered()
        else:
            if right:
                answered()
        os._exit(0)
    os.waitpid(pid, 0)
    executor.shutdown()
