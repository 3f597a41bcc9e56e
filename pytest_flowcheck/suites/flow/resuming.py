"""FLO-19, 24, 25, 28: runs that are resumed, here and in other processes, and ids that are used again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.nursery import folder
from pytest_flowcheck.protocols import Invalid, NotFound, Refused
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._saved import Story, elsewhere, gave, here, rest, shown

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.suites.flow._saved import Attempt, Here, Others, There

OTHER: Final = "page 2"
"""The input of a run whose id is in use."""

STEPS: Final = 12
"""At most so many steps of a resume are tried."""


@rule("FLO-19", "resume")
def finished_nodes_are_not_run_again(lab: Lab) -> None:
    """A run saved half-way resumes without running finished nodes again, in a new process too.

    Intent: What was paid for, sent, or computed for an hour is done; it must not be done twice because something else failed.

    Usual cause: State that only says how far the list of nodes had come; outputs that are kept in memory; a resume that is a new run with the old input.

    Proof: `parse` fails while `fetch` and `load` are through; the run is resumed by the same engine, where it fails again, and then by a fresh one in another process. And a process is killed while `parse` is at its gate, after all has come to rest, and the run is resumed in another one. The history of all processes together must show one start of `fetch` and of `load`; and each node looks at what it is given, so that a run whose outputs were lost says so.

    Source: langgraph, "durable execution"; Airflow, "clear" of failed tasks; spec-kit, `engine.resume`.
    """
    with elsewhere(lab) as others:
        with folder() as path:
            story = Story(lab, "failed", fails=2, gated=("parse",))
            with here(lab, path) as engine:
                first = engine.run(story)
                story.until_in_flight(first, "parse")
                lab.open(*(story.call("parse", number) for number in (1, 2, 3)))
                story.fails_in(first)
                _not_again(story, second := engine.resume(story), "by the same engine")
                story.fails_in(second, 2)
            _not_again(story, third := others.engine(path).resume(story), "in another process")
            _ended(story, third)
        with folder() as path:
            story = _killed(lab, others, path, "killed")
            lab.open(story.call("parse", 2))
            _not_again(
                story, resumed := others.engine(path).resume(story), "in another process, once its own was killed"
            )
            _ended(story, resumed)


def _not_again(story: Story, attempt: Attempt, where: str) -> None:
    """`fetch` and `load` have run once, and the resumed run knows what they gave."""
    answer = attempt.answer()
    for id_ in ("fetch", "load"):
        story.lab.check(
            story.times(id_) == 1,
            f"{id_} had ended, and {attempt.what} was called {where}: {id_} has started {story.times(id_)} times in all",
            "a finished node is not run again",
        )
    story.lab.check(
        not story.forgotten(answer),
        f"{attempt.what}, called {where}, {shown(answer)}",
        f"the input, {story.input!r}, and the outputs of the nodes that had ended are as they were",
    )


def _ended(story: Story, attempt: Attempt) -> None:
    """The resumed run completed; or else another rule is broken."""
    answer = attempt.answer()
    if not story.ends_well(answer) and not story.still_held(answer):
        raise Inconclusive(f"{attempt.what} {shown(answer)}", because_of="FLO-24")


def _killed(lab: Lab, others: Others, path: Path, name: str) -> Story:
    """A run whose process was killed while `parse` was at its gate, and all else that could move had come to rest."""
    story = Story(lab, name, gated=("parse",))
    engine = others.engine(path)
    story.until_in_flight(engine.run(story), "parse")
    rest(lab)  # who saves beside the run has saved
    engine.kill()
    return story


@rule("FLO-24", "resume")
def a_run_that_was_cut_short_can_be_resumed(lab: Lab) -> None:
    """A run whose process was killed, or whose save failed once, can be resumed; a failed node is tried again.

    Intent: That is when resuming is needed. A lock that a dead process holds, or a failure that is final, is a run lost.

    Usual cause: A lock file with a pid, or a row `status = running`, which nobody takes away; a half-written state; failed nodes that count as done.

    Proof: Three runs are cut short while `fetch` and `load` are through: `parse` fails; its process is killed while `parse` is at its gate; no file may grow (RLIMIT_FSIZE) while `parse` comes to its end. Each is then resumed, by a fresh engine, and must complete with what its nodes give. (Where a lease is declared to end with time, and not with its process, a refusal of the killed run is no finding.)

    Source: flock(2), whose lock goes with its process; Temporal, "activity retries".
    """
    with elsewhere(lab) as others:
        with folder() as path:
            story = Story(lab, "failed", fails=1)
            with here(lab, path) as engine:
                story.fails_in(engine.run(story))
            with here(lab, path) as engine:
                _completes(story, engine, "its node parse had failed")
            lab.check(
                story.times("parse") == 2,
                f"parse had failed; the run was resumed, completed, and parse has started {story.times('parse')} times in all",
                "a failed node is tried again",
            )
        with folder() as path:
            story = _killed(lab, others, path, "killed")
            lab.open(story.call("parse", 2))
            _completes(story, others.engine(path), "its process had been killed", killed=True)
        with folder() as path:
            story = Story(lab, "unsaved", gated=("parse",))
            full = others.engine(path)
            attempt = full.run(story)
            story.until_in_flight(attempt, "parse")
            rest(lab)  # who saves beside the run has saved
            with full.without_room():
                lab.open(story.call("parse"))
                answer = attempt.answer()
            lab.open(story.call("parse", 2))
            why = f"no file could grow when parse ended ({attempt.what} {shown(answer)}); then they could again"
            _completes(story, others.engine(path), why)


def _completes(story: Story, engine: Here | There, why: str, *, killed: bool = False) -> None:
    """The run is resumed, and completes."""
    attempt = engine.resume(story)
    answer = attempt.answer()
    if story.forgotten(answer):
        raise Inconclusive(f"{why}; {attempt.what} {shown(answer)}", because_of="FLO-19")
    story.lab.check(
        story.ends_well(answer) or (killed and story.still_held(answer)),
        f"{why}; {attempt.what} {shown(answer)}",
        "the run goes on, and completes",
    )


@rule("FLO-25", "resume", "lease")
def one_of_two_resumes_is_refused(lab: Lab) -> None:
    """Of two resumes of one run at once, one runs and the other is refused: no node runs twice.

    Intent: Two people, or a person and a supervisor, see a run that has stopped, and both press the button.

    Usual cause: No lock at all; a lock of threads, which another process knows nothing of; a look whether somebody is at it, and only then the mark that one is.

    Proof: A run has failed. It is resumed, and while its node `parse` is at its gate it is resumed again: from the same engine, from another one of the same process, and from another process. The second must come back refused while the first waits. Then a process is held before each file that its resume opens, renames, removes or locks, and before each statement of SQLite outside of a transaction, until its first node runs, while another process resumes the run; where that one gets in, the first goes on while it is at `parse`, and in another run once it is through: no node may run twice. (Not so where a lease is declared to end with time: who is held may lose it.) Then two processes resume it at the same moment, some times over: `parse` must never be in flight twice.

    Source: DBOS, "workflow recovery"; Kleppmann, "How to do distributed locking".
    """
    with elsewhere(lab) as others, folder() as path, here(lab, path) as one, here(lab, path) as other:
        pair = others.engine(path), others.engine(path)
        _in_turn(lab, "same", one, one, one)
        _in_turn(lab, "threads", one, one, other)
        _in_turn(lab, "processes", one, one, pair[0])
        if lab.declared("lease") == "timed":
            lab.grade = "observed"
            lab.observed_because = "who is held may lose a lease that lasts for some time, as declared: nobody was"
        else:
            _between_steps(lab, one, *pair)
        for number in range(lab.repeated(5)):
            _at_once(lab, f"both{number}", one, pair)


def _paused(lab: Lab, name: str, engine: Here) -> Story:
    """A run that has failed; when it is resumed, `parse` waits at its gate."""
    story = Story(lab, name, fails=1, gated=("parse",), run_id=name)
    lab.open(story.call("parse"))
    story.fails_in(engine.run(story))
    return story


def _in_turn(lab: Lab, name: str, maker: Here, first: Here | There, second: Here | There) -> None:
    """The second resume comes while the first is in the middle of a node."""
    story = _paused(lab, name, maker)
    began = first.resume(story)
    story.until_in_flight(began, "parse", 2, needs="FLO-24")
    late = second.resume(story)
    where = {"same": "by the same engine", "threads": "by another engine of its process"}.get(
        name, "by another process"
    )
    what = f"while {began.what} was in flight, {late.what} was called {where}"
    lab.until(lambda: late.done or story.times("parse") > 2, f"{what}, and comes back", expected="it is refused")
    _one_of_two(story, late, what)
    lab.open(story.call("parse", 2))
    answer = began.answer()
    if story.forgotten(answer):
        raise Inconclusive(f"{began.what} {shown(answer)}", because_of="FLO-19")
    lab.check(
        story.ends_well(answer) and story.times("parse") == 2 and story.times("report") == 1,
        f"{what}, which was refused; the first {shown(answer)}; parse has started {story.times('parse')} times in all, "
        f"report {story.times('report')} times",
        "the one that was first goes on undisturbed, and completes",
    )


def _one_of_two(story: Story, late: Attempt, what: str) -> None:
    lab = story.lab
    lab.check(
        story.times("parse") <= 2,
        f"{what}, and ran as well: parse, which had failed once, started {story.times('parse') - 1} times more",
        "one of the two is refused: no node runs twice",
    )
    answer = late.answer()
    lab.check(
        answer.is_a(Refused),
        f"{what}: it {shown(answer)}",
        "it is refused: Refused (in itself or by the table `errors`)",
    )


def _between_steps(lab: Lab, maker: Here, holder: There, rival: There) -> None:
    """One process is held before each step of its resume with a file, until its first node runs, while another one resumes."""
    step = 1
    while step <= STEPS and (let_in := _held_at(lab, maker, holder, rival, step)) is not None:
        if let_in:
            _held_at(lab, maker, holder, rival, step, through=True)
        step += 1
    lab.note(f"a process was held at {step - 1} steps of its resume while another one resumed the run")


def _held_at(lab: Lab, maker: Here, holder: There, rival: There, step: int, *, through: bool = False) -> bool | None:
    """Whether the rival got in while the holder was held at this step; None if the holder's first node runs before that.

    `through`: the rival, if it gets in, ends the run before the holder goes on.
    """
    lab.fresh()
    story = _paused(lab, f"step{step}{'through' if through else ''}", maker)
    parse = story.call("parse", 2)
    held = holder.hold(story, step)
    lab.until(
        lambda: held.done or parse in lab.live(),
        f"a process that resumes the run comes to step {step}, or to parse",
        needs="FLO-24",
    )
    if not held.done or parse in lab.live() or (name := held.result()) is None:
        lab.open(parse)
        held.join()
        holder.go(story).answer()
        return None
    if through:
        lab.open(parse)
    late = rival.resume(story)
    lab.rest(lambda: late.done or (not through and parse in lab.live()))
    let_in = story.times("parse") == 2
    if story.times("fetch") > 1:
        raise Inconclusive(f"{late.what} runs what had ended", because_of="FLO-19")
    began = holder.go(story)
    what = f"{began.what} was held before {name} (step {step}), while {late.what} was called"
    if late.done:
        what = f"{what}, which {shown(late.answer())}"
    elif let_in:
        what = f"{what}, and was at parse"

    def check() -> None:
        lab.check(
            story.times("parse") <= 2,
            f"{what}; then it went on, and ran as well: parse, which had failed once, started "
            f"{story.times('parse') - 1} times more",
            "one of the two is refused: no node runs twice",
        )

    lab.rest(lambda: began.done or story.times("parse") > 1 + let_in)
    check()
    lab.open(parse, story.call("parse", 3))
    for attempt in (began, late):
        attempt.answer()
    check()
    return let_in


def _at_once(lab: Lab, name: str, maker: Here, pair: tuple[There, There]) -> None:
    """Two processes resume at the same moment."""
    story = _paused(lab, name, maker)
    attempts = [engine.resume(story) for engine in pair]
    parse = story.call("parse", 2)

    def told() -> bool:
        done = [attempt for attempt in attempts if attempt.done]
        return story.times("parse") > 2 or len(done) == 2 or (bool(done) and parse in lab.live())

    what = f"two processes called {attempts[0].what} at the same moment"
    lab.until(told, f"{what}: one is refused, and one runs parse", expected="one of them comes back, refused")
    done = [attempt for attempt in attempts if attempt.done]
    if len(done) == 2 and story.times("parse") < 2:
        came = ", the other ".join(shown(attempt.answer()) for attempt in done)
        lab.check(False, f"{what}: one {came}", "one of them runs")
    _one_of_two(story, (done or attempts)[0], what)
    lab.open(parse)
    for attempt in attempts:
        attempt.answer()


@rule("FLO-28", "resume")
def an_id_that_is_used_again_overwrites_nothing(lab: Lab) -> None:
    """Reusing a run id never overwrites a live or paused run silently.

    Intent: An id made of a date or a customer comes twice. The one who used it first has hours of work behind it.

    Usual cause: A new run saves its first state without looking; a lease that guards `resume` and not `run`.

    Proof: While a run is in flight in another process, and again after its process was killed, `run` is called with its id and another input. It may be refused, join in, or be kept apart; then the first run must complete as it would have, and be there afterwards: a resume must tell what its nodes gave for its own input, without running those again that were through. (Whether an id may be used again once its run has completed is not judged.)

    Source: Temporal, "workflow id conflict policy"; DBOS, "workflow ids and idempotency".
    """
    with elsewhere(lab) as others:
        with folder() as path:
            story = Story(lab, "live", gated=("parse",))
            first = others.engine(path).run(story)
            story.until_in_flight(first, "parse")
            with here(lab, path) as other:
                second = other.run(Story(lab, "again", input=OTHER))
                if not second.done:
                    rest(lab)  # it may wait for the first
                lab.open(story.call("parse"))
                answer = first.answer()
                what = f"{first.what} was in flight; then {second.what} {shown(second.answer())}"
            lab.check(
                story.ends_well(answer), f"{what}; then the first {shown(answer)}", "it completes as it would have"
            )
            _is_there(story, others.engine(path), what, completed=True)
        with folder() as path:
            story = _killed(lab, others, path, "killed")
            lab.open(story.call("parse", 2))
            with here(lab, path) as other:
                second = other.run(Story(lab, "after", input=OTHER))
                what = f"a run was killed half-way; then {second.what} {shown(second.answer())}"
            _is_there(story, others.engine(path), what, completed=False)


def _is_there(story: Story, engine: There, what: str, *, completed: bool) -> None:
    """The first run can be had, as it was."""
    lab = story.lab
    attempt = engine.resume(story)
    answer = attempt.answer()
    facts = f"{what}; then {attempt.what} {shown(answer)}"
    lab.check(
        not story.mixed_up(answer, OTHER) and not answer.is_a(NotFound),
        f"{facts}; its nodes gave: {gave(answer)}" if answer.returned else facts,
        f"the first run is as it was, with its input {story.input!r}, or the second is refused",
    )
    if story.forgotten(answer) or story.times("fetch") > 1 or story.times("load") > 1:
        raise Inconclusive(f"{facts}, and runs what had ended", because_of="FLO-19")
    told = answer.is_a(Refused, Invalid) if completed else story.still_held(answer)
    if not story.ends_well(answer) and not told:
        raise Inconclusive(facts, because_of="FLO-24")
