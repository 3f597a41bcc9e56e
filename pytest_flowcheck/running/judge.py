"""Judge one rule on one subject.

The rule runs on a driver thread; this thread watches. It looks at the kernel's view of the whole process tree, answers
the rule's `until` and `settle`, and proves a hang when nothing can move any more while the rule is inside a call of the
subject. It never decides by elapsed time: patience only bounds how long an *unprovable* silence is endured, and then the
verdict is INCONCLUSIVE.
"""

from __future__ import annotations

import gc
import threading
import traceback
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.errors import AdapterError, Grade, Inconclusive, Judgement, NotTestable, Violated
from pytest_flowcheck.probes import blame, kept, wire
from pytest_flowcheck.probes.calls import is_kit, own_word
from pytest_flowcheck.probes.lab import PROVEN_STILL, Lab, Request
from pytest_flowcheck.proof import Harness, Observer, Sighting, State, Waiting, census, descendants, waits_of
from pytest_flowcheck.proof.waitlist import where as place
from pytest_flowcheck.protocols import Inexpressible
from pytest_flowcheck.running.evidence import evidence

if TYPE_CHECKING:
    from pytest_flowcheck.rules import Rule
    from pytest_flowcheck.subjects import Subject

CALM = 0.4
"""Seconds without any event after which stillness that can't be proven is reported as observed."""

LOOK_AGAIN = (0.002, 0.02)
"""Seconds between looks while the tree moves or waits for a timer: at first, and, doubling, at last. From the start again
whenever something happens."""

IDLE_LOOK = 0.15
"""Seconds before the first look for a hang while the rule has not asked for anything: the common rule never pays for one."""


@dataclass
class Outcome:
    """How the driver came out."""

    error: BaseException | None = None
    done: bool = False


def judge(
    rule: Rule,
    subject: Subject,
    harness: Harness,
    *,
    patience: float = 30.0,
    seed: int = 0,
    uncaught: list[str] | None = None,
    thorough: bool = True,
) -> Finding:
    """Run `rule` against `subject` and say what was found.

    Args:
        rule: the rule.
        subject: a loaded subject.
        harness: which threads and descriptors are the test harness's own.
        patience: seconds to endure an unprovable silence before the verdict is INCONCLUSIVE.
        seed: for hypothesis.
        uncaught: where errors that nobody caught are noted meanwhile.
        thorough: draw all examples and repeat as often as the rule says; else a fifth of that, see `Lab.repeated`.

    Returns:
        The finding; never raises for anything that rule or subject do on the driver thread.
    """
    claims = subject.claims.get(rule.facet, frozenset())
    level = rule.level_for(claims)
    if level == "exempt":
        return Finding(rule.id, Verdict.NOT_CLAIMED, "SHOULD", message="exempt: a cluster need not keep this rule")
    if missing := rule.missing(claims):
        wanted = ", ".join(sorted(missing))
        return Finding(rule.id, Verdict.NOT_CLAIMED, level, message=f"capability not claimed: {wanted}")

    kept.keep_for((rule.facet, subject.spec, subject.backend))
    threads_before, children_before = set(threading.enumerate()), set(descendants())
    lab = Lab(subject, facet=rule.facet, seed=seed, adopt=harness.adopt, uncaught=uncaught, thorough=thorough)
    outcome = Outcome()
    began = monotonic()
    driver = threading.Thread(target=_drive, args=(rule, lab, outcome), daemon=True, name=f"flowcheck {rule.id}")
    driver.start()
    observer = Observer(harness)
    hang = _watch(lab, outcome, observer, harness, patience)
    found = lab.judgement
    if isinstance(hang, Violated):
        hang.events, hang.told = tuple(lab.timeline.events), lab.timeline.told()
    lab.open_all()  # whatever is still gated may go: the evidence is in
    driver.join(CALM if hang is not None else None)  # gates are open now: a rule that was merely held up by one ends
    _close_desk(lab)
    # what the opened gates let the rule find after a hang is the kit's own doing, and no judgement
    error = lab.judgement or outcome.error if hang is None else found or hang
    error = lab.fault or error
    verdict, message, grade = _sentence(rule, lab, error)
    return Finding(
        rule=rule.id,
        verdict=verdict,
        level=level,
        grade=grade,
        seconds=round(monotonic() - began, 4),
        message=message,
        evidence=evidence(rule, lab, error, hang),
        poisoned=verdict is Verdict.HUNG or driver.is_alive() or _remains(observer, threads_before, children_before),
    )


def _remains(observer: Observer, threads_before: set[threading.Thread], children_before: set[int]) -> bool:
    """Whether threads that hold up the exit, processes that are no shared helpers, or calls that still work outlive the rule.

    A call that goes on working, on a thread that is a daemon's, would keep the rules behind it from ever seeing stillness.
    """
    deadline = monotonic() + CALM
    while True:
        new = [t for t in threading.enumerate() if t not in threads_before]
        threads = [t for t in new if not t.daemon]
        calls = [t for t in new if t.daemon and t.name.startswith("caller: ")]
        children = set(descendants()) - children_before - kept.pids()
        if children:
            children -= {held.number for held in census().helpers if held.kind == "child process"}
        if not threads and not children and not calls:
            return False
        if observer.look().state is State.QUIESCENT:
            return bool(threads or children)
        if monotonic() > deadline:
            return True


def _drive(rule: Rule, lab: Lab, outcome: Outcome) -> None:
    try:
        rule.function(lab)
        lab.probes_ran += len(lab.timeline.of("started"))
        if not lab.probes_ran:
            raise RuntimeError(f"{rule.id} came to its end although none of its probes ran")
    except BaseException as error:  # noqa: BLE001 - every end of a rule is a finding
        outcome.error = error
    finally:
        lab.open_all()
        # What the rule left behind is finalised here, so that its warnings fall on it and not on its successor.
        gc.collect()
        outcome.done = True
        lab.asked.set()


def _watch(lab: Lab, outcome: Outcome, observer: Observer, harness: Harness, patience: float) -> Judgement | None:
    """Until the driver is done: answer its requests. Returns the finding if it never will be."""
    pending: Request | None = None
    since = calm_since = monotonic()
    history, length, pause = lab.timeline, -1, LOOK_AGAIN[0]
    while True:
        if pending is None:
            lab.asked.wait(IDLE_LOOK)
        lab.asked.clear()
        if outcome.done:
            return None
        request, now = lab.request, monotonic()
        if request is not pending:
            pending, since, calm_since, pause = request, now, now, LOOK_AGAIN[0]
        if lab.timeline is not history or len(lab.timeline) != length:  # an example, or a schedule, is a history each
            history, length = lab.timeline, len(lab.timeline)
            calm_since, pause = now, LOOK_AGAIN[0]
            if request is None:
                since = now
        timeline = lab.timeline
        sighting = observer.prove(lambda timeline=timeline: len(timeline))  # type: ignore[misc]
        if lab.request is not request or outcome.done:
            continue
        if sighting.state is State.QUIESCENT:
            waits = _waits(sighting, harness)
            if request is None:
                return _hang(lab, waits)
            lab.answer(request, "proven", "", waits)
            pending = None
            continue
        late = _too_late(request, sighting, monotonic(), since, calm_since, patience)
        if late and request is not None:
            lab.answer(
                request,
                "observed" if request.kind == "settle" else "gave up",
                _why_not(sighting),
                _waits(sighting, harness),
            )
            pending = None
        elif late:
            return Inconclusive(
                f"the subject did not come back within {patience:g} s of patience, and that it never will could not be "
                f"proven ({_why_not(sighting)})\n" + "\n".join(map(str, _waits(sighting, harness)))
            )
        else:
            lab.timeline.poke()
            lab.asked.wait(pause)
            pause = min(2 * pause, LOOK_AGAIN[1])


def _waits(sighting: Sighting, harness: Harness) -> list[Waiting]:
    """The wait list without the rule's own thread, which waits for the very thing that can't happen."""
    return [wait for wait in waits_of(sighting, harness) if not wait.name.startswith("flowcheck ")]


def _too_late(
    request: Request | None, sighting: Sighting, now: float, since: float, calm_since: float, patience: float
) -> bool:
    if request is not None and request.kind == "settle" and sighting.state is not State.RUNNING:
        return now - calm_since > CALM
    if request is not None and request.kind == "settle":
        return now - calm_since > 3 * CALM
    return now - since > patience


def _why_not(sighting: Sighting) -> str:
    return f"{sighting.state.name.lower()}: {sighting.reason}" if sighting.reason else sighting.state.name.lower()


def _hang(lab: Lab, waits: list[Waiting]) -> Judgement:
    if (pressure := lab.back_pressure()) is not None:
        return pressure
    live = ", ".join(lab.live()) or "none"
    hang = Violated(
        f"a call into the subject never returns; probes in flight: {live}",
        expected="the call returns or raises",
        proof="\n".join([PROVEN_STILL, *map(str, waits)]),
        hung=True,
    )
    hang.waiting = tuple(waits)
    return hang


def _close_desk(lab: Lab) -> None:
    """Probes that report from now on find nobody: they are let go at once."""
    if (server := wire.current()) is not None:
        for bench in lab.benches:
            server.desks.pop(bench.token, None)


def _sentence(rule: Rule, lab: Lab, error: BaseException | None) -> tuple[Verdict, str, Grade]:
    """Verdict, message and grade."""
    if error is None:
        return Verdict.PASS, "", lab.grade
    error = own_word(error)
    if isinstance(error, Violated):
        verdict = Verdict.HUNG if error.hung else Verdict.LEAKED if error.leaked else Verdict.VIOLATED
        return verdict, tell(rule, lab, error), error.grade
    if isinstance(error, Inconclusive):
        because = f" (lost its precondition to {error.because_of})" if error.because_of else ""
        return Verdict.INCONCLUSIVE, error.reason + because, "observed"
    if isinstance(error, NotTestable):
        return Verdict.NOT_TESTABLE, str(error), "observed"
    if isinstance(error, Inexpressible):  # as it was opened: a call that raises it says so where it is asked for
        return Verdict.NOT_TESTABLE, f"the subject can't express it: {error}", "observed"
    if isinstance(error, AdapterError):
        return Verdict.ADAPTER_ERROR, str(error), "observed"
    return _unforeseen(rule, lab, error)


def _unforeseen(rule: Rule, lab: Lab, error: BaseException) -> tuple[Verdict, str, Grade]:
    """An exception that the rule did not expect: the subject's, where a frame of it is on the way; else our own bug."""
    if fault := blame.slip(error, lab.subject):
        return Verdict.ADAPTER_ERROR, str(fault), "observed"
    opening, whose, never = lab.unopened if lab.unopened is not None else (None, None, False)
    if whose is not None and error is opening and never:
        return Verdict.ADAPTER_ERROR, str(blame.not_opened(error, whose, lab.facet)), "observed"
    lab.doubtful(error, whose if error is opening else None)
    frames = traceback.extract_tb(error.__traceback__)
    step = next((f for f in reversed(frames) if not is_kit(f.filename) and not _is_plumbing(f.filename)), None)
    if step is None:
        return Verdict.KIT_ERROR, "".join(traceback.format_exception(error)), "observed"
    at = f" at {place(step.filename, step.lineno or 0)} in {step.name}"
    violated = Violated(
        f"the subject raised {error!r}{at}",
        expected="no exception here: the rule made only calls that a correct subject answers",
        proof="the exception came through the subject's code",
    )
    return Verdict.VIOLATED, tell(rule, lab, violated), "proven"


def _is_plumbing(filename: str) -> bool:
    """The standard library's helpers through which the kit's own calls go."""
    return filename.endswith(("/threading.py", "/contextlib.py", "/functools.py"))


def tell(rule: Rule, lab: Lab, error: Violated) -> str:
    """The failure message: the sentence, what the subject did, what was expected, why that is proof, the usual cause."""
    lines = [f"{rule.id} {rule.sentence}", "", f"What it did:   {error.facts}"]
    lines += [f"In doubt:      {said}" for said in dict(d for d in lab.doubts if d[0] in error.facts).values()]
    if lab.example:
        lines += ["", "Scenario:", *(f"    {line}" for line in lab.example.splitlines())]
    if events := lab.timeline.events if error.events is None else error.events:
        lines += ["", "In order:", *(f"  {event}" for event in _abridged(list(map(str, events))))]
    if lab.script is not None:
        lines += ["", "Without pytest:", *(f"    {line}".rstrip() for line in lab.script().splitlines())]
    lines += [
        "",
        f"Expected:      {error.expected}",
        f"Why proof:     {_indent(error.proof)}",
        f"Usual cause:   {rule.usual_cause}",
    ]
    return "\n".join(lines)


def _abridged(lines: list[str], most: int = 24) -> list[str]:
    if len(lines) <= most:
        return lines
    half = most // 2
    return [*lines[:half], f"  ... {len(lines) - most} more ...", *lines[-half:]]


def _indent(text: str) -> str:
    first, *rest = text.splitlines() or [""]
    return "\n".join([first, *(f"    {line}" for line in rest)])
