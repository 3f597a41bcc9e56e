"""One process that judges: its harness, the subjects that it has loaded, and whether it may go on."""

from __future__ import annotations

import dataclasses
import faulthandler
import gc
import importlib
import json
import os
import select
import sys
import threading
import traceback
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck import subjects
from pytest_flowcheck.certificate import baseline
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.probes import kept
from pytest_flowcheck.proof import Harness, become_subreaper, descendants, kill_tree
from pytest_flowcheck.running import shield
from pytest_flowcheck.running.judge import judge

if TYPE_CHECKING:
    from collections.abc import Collection

    from pytest_flowcheck.running.journal import Journal
    from pytest_flowcheck.running.plan import Column, Plan, Task
    from pytest_flowcheck.subjects import Subject


ENDING: Final = 0.1
"""Seconds that a thread which Python has done with is given to leave the kernel."""

PATH_OF_THREADS: Final = Path("/proc/self/task")


class Bench:
    """Judges the tasks that this process is given.

    Guarantee: after `poisoned`, nothing of the subject is trusted to end by itself; the process leaves by `leave`.
    """

    def __init__(self, plan: Plan, journal: Journal | None, strangers: Collection[int] = ()) -> None:
        self.plan, self.journal = plan, journal
        self.poisoned = False
        self._subjects: dict[str, Subject | str] = {}
        self._stack = ExitStack()
        if journal is not None:
            journal.hello()
            # a segmentation fault says where on the journal's shelf, not in the middle of the user's terminal
            faulthandler.enable(self._stack.enter_context(journal.fault.open("w")), all_threads=False)
        self._reaps = become_subreaper()
        self._children = set(descendants())
        self._noted = self._hears()
        self.harness = Harness.at_start(but=strangers)

    def _hears(self) -> list[str]:
        """Where errors that nobody caught are noted, from now on."""
        return self._stack.enter_context(shield.own_hooks())

    def run(self, task: Task) -> Finding:
        """Judge one task. Raises nothing but what stops the whole run."""
        if self.journal is not None:
            self.journal.write("begin", nodeid=task.nodeid, rule=task.rule.id, subject=task.column.label)
        try:
            finding = self._judge(task)
        except BaseException:
            self.poisoned = True  # interrupted in the middle of a rule: who knows what still runs
            raise
        finally:
            if self.journal is not None:
                self.journal.write("end", nodeid=task.nodeid)
        self.poisoned = self.poisoned or finding.poisoned
        return baseline.expect(finding, task.column.expected)

    def _judge(self, task: Task) -> Finding:
        rule, column = task.rule, task.column
        level = rule.level_for(column.claimed(rule.facet) or ())
        level = "SHOULD" if level == "exempt" else level
        del self._noted[:]
        with shield.shielded():
            self._begins()
            subject = column.problem or self._subject(column)
            if isinstance(subject, str):
                return Finding(rule.id, Verdict.ADAPTER_ERROR, level, "observed", message=subject)
            if self.journal is not None:
                self.journal.write(
                    "ready", tids=[tid for pid, tid in self.harness.threads() if self.harness.owns(pid, tid)]
                )
            try:
                finding = judge(
                    rule,
                    subject,
                    self.harness,
                    patience=self.plan.patience,
                    seed=self.plan.seed,
                    uncaught=self._noted,
                    thorough=column.breaks is None or rule.id in column.breaks,
                )
            except Exception:  # noqa: BLE001 - a bug of ours must cost one verdict, like any other
                return Finding(
                    rule.id, Verdict.KIT_ERROR, level, "observed", message=traceback.format_exc(), poisoned=True
                )
            finally:
                self._let_threads_end()
                self.harness.rule_ended()
        return _plain(finding)

    def _begins(self) -> None:
        """A rule is about to begin."""
        self.harness.between_rules()

    def _let_threads_end(self) -> None:
        """Wait for threads that Python has done with and the kernel not yet: for a moment, as they may be C's own.

        A thread seen on its way out counts as the subject's, and when it is gone the harness must believe that the
        subject ran between two rules: then pytest-timeout's next timer is nobody's, and no hang can be proven.
        """
        deadline = monotonic() + ENDING
        while monotonic() < deadline:
            known = {thread.native_id for thread in threading.enumerate()} | {os.getpid()}
            known |= {tid for _, tid in self.harness.threads()}
            if not PATH_OF_THREADS.is_dir() or all(int(tid) in known for tid in os.listdir(PATH_OF_THREADS)):
                return
            select.select((), (), (), 0.001)

    def _subject(self, column: Column) -> Subject | str:
        """The loaded subject, or why it can't be loaded here although it was in the child that resolved it."""
        if column.label not in self._subjects:
            try:
                self._subjects[column.label] = self._load(column)
            except Exception as error:  # noqa: BLE001 - whatever it raises, its rules read ADAPTER-ERROR
                self._subjects[column.label] = f"loading {column.spec} raised {type(error).__name__}: {error}"
            self._warm_up()
            self._freeze()
            self.harness.rule_ended()  # threads that the subject's modules start when they are imported are no harness's
        return self._subjects[column.label]

    def _freeze(self) -> None:
        """Every rule collects garbage, most of them several times. What is here now stays: half of a cheap rule's time
        was spent on looking through pytest, hypothesis and the subject's modules again and again."""
        gc.collect()
        gc.freeze()

    def _load(self, column: Column) -> Subject:
        subject = self._loaded(column)
        if subject.is_adapter and (warm_up := getattr(subject.target, "warm_up", None)) is not None:
            warm_up()
        claims = {facet: frozenset(capabilities) for facet, capabilities in column.claims.items()}
        return dataclasses.replace(subject, name=column.name, claims=claims, backend=column.backend)

    def _loaded(self, column: Column) -> Subject:
        return subjects.load(column.spec)

    def _warm_up(self) -> None:
        """Import what properties need before it would be counted as a rule's, and before memory is frozen: hypothesis looks
        through it for who refers to trio's random numbers."""
        if any(task.rule.property for task in self.plan.tasks.values()):
            importlib.import_module("hypothesis.strategies")

    def close(self, *, reap: bool = True) -> None:
        """At the end of the run: end what the subjects left behind."""
        gc.unfreeze()
        kept.let_go()
        self._stack.close()
        if reap:
            kill_tree([pid for pid in descendants() if pid not in self._children])
        if self._reaps:
            become_subreaper(on=False)

    def leave(self, status: int) -> None:
        """End this process now, without waiting for threads that will never end."""
        if self.journal is not None:
            self.journal.write("leave")
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue  # closed by somebody
        kill_tree([pid for pid in descendants() if pid not in self._children])
        os._exit(status)

    def stuck(self) -> bool:
        """Whether threads remain that would hold up a normal exit."""
        main = threading.main_thread()
        return self.poisoned and any(t is not main and not t.daemon for t in threading.enumerate())


def _plain(finding: Finding) -> Finding:
    """With evidence that JSON, and any transport between processes, can carry."""
    evidence: dict[str, Any] = json.loads(json.dumps(finding.evidence, default=repr))
    return dataclasses.replace(finding, evidence=evidence)
