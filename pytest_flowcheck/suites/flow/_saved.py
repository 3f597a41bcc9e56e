"""What the rules about saved runs share: engines here and in other processes that are asked alike, and one graph.

fetch ──► parse ──┐
                  ├──► report
load ─────────────┘
"""

from __future__ import annotations

import resource
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import AdapterError, Inconclusive, Judgement
from pytest_flowcheck.probes.nursery import Answer, Worker, failure, nursery
from pytest_flowcheck.proof import descendants, kill_tree
from pytest_flowcheck.protocols import Ok, Outcome, Refused
from pytest_flowcheck.protocols.flow import Graph, Run
from pytest_flowcheck.suites.flow import _shared
from pytest_flowcheck.suites.flow._shared import a_run, call_of, complaint, given, over, starts
from pytest_flowcheck.suites.flow._worker import FlowServer

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.nursery import Nursery

RUN: Final = "report-17"
INPUT: Final = "page 1"

NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "fetch": (),
    "load": (),
    "parse": ("fetch",),
    "report": ("parse", "load"),
}


class Story:
    """One run from its beginning to its end, whoever runs it: its nodes are the same all the time.

    Args:
        lab: the rule's bench.
        name: tells its calls from those of others in histories and gates: `killed_parse #2`.
        fails: so many of the first calls of `parse` raise.
        gated: the nodes whose calls wait at their gates, each by itself.
        run_id: its id.
        input: its input.
    """

    def __init__(
        self,
        lab: Lab,
        name: str,
        *,
        fails: int = 0,
        gated: tuple[str, ...] = (),
        run_id: str = RUN,
        input: str = INPUT,  # noqa: A002 - the protocol's
    ) -> None:
        self.lab, self.name, self.run_id, self.input = lab, name, run_id, input
        lab.gates.shut_all()  # leaving an engine has opened all
        error = _shared.NodeError("parse failed")
        self.graph = Graph(
            tuple(
                given(
                    lab,
                    id_,
                    *needs,
                    run=input,
                    called=self.called(id_),
                    gated=id_ in gated,
                    raises=error if id_ == "parse" and fails else None,
                    times=fails,
                )
                for id_, needs in NEEDS.items()
            )
        )

    def called(self, id_: str) -> str:
        """How a node is called in histories."""
        return f"{self.name}_{id_}"

    def call(self, id_: str, number: int = 1) -> str:
        """The same of one call of it."""
        return call_of(self.called(id_), number)

    def times(self, id_: str) -> int:
        """How often the node has started so far, wherever."""
        return len(starts(self.lab, self.called(id_)))

    def until_in_flight(self, attempt: Attempt, id_: str, number: int = 1, *, needs: str = "FLO-02") -> None:
        """Wait until that call is at its gate, and the nodes that it doesn't wait for are through.

        Raises:
            Inconclusive: it never is, because of `needs`.
        """
        beside = [self.called(own) for own in ("fetch", "load") if own != id_]
        self.lab.until(
            lambda: (
                attempt.done or (self.call(id_, number) in self.lab.live() and all(over(self.lab, o) for o in beside))
            ),
            f"{self.call(id_, number)} is in flight in {attempt.what}, and {' and '.join(beside)} have ended",
            needs=needs,
        )
        if self.call(id_, number) not in self.lab.live():
            raise Inconclusive(
                f"{attempt.what} {shown(attempt.answer())} before {self.call(id_, number)} was in flight",
                because_of=needs,
            )

    def fails_in(self, attempt: Attempt, number: int = 1) -> None:
        """Wait until the run comes back, failed because `parse` raised in this call of it.

        Raises:
            Inconclusive: it came to something else.
        """
        answer = attempt.answer()
        run = run_in(answer)
        if run is None or run.status != "failed" or not over(self.lab, self.called("parse"), number):
            because = "FLO-03" if number == 1 else "FLO-24"
            raise Inconclusive(f"parse is to fail, and {attempt.what} {shown(answer)}", because_of=because)

    def ends_well(self, answer: Answer) -> bool:
        """The run is told as completed, and nothing wrong is told of its nodes."""
        run = run_in(answer)
        return run is not None and run.status == "completed" and all(self._right(*item) for item in run.nodes.items())

    def forgotten(self, answer: Answer) -> bool:
        """A node complains of what it was given, or is told to have given something else than it gave."""
        run = run_in(answer)
        return run is not None and bool(
            complaint(run) or any(isinstance(o, Ok) and not self._right(id_, o) for id_, o in run.nodes.items())
        )

    def still_held(self, answer: Answer) -> bool:
        """The run of a process that was killed is refused for as long as its lease lasts, as the subject has declared."""
        if not answer.is_a(Refused) or self.lab.declared("lease") != "timed":
            return False
        self.lab.grade = "observed"
        self.lab.observed_because = "the lease of a process that was killed lasts for some time, as declared"
        return True

    def mixed_up(self, answer: Answer, other: str) -> bool:
        """A node was given the input of another run, or is told to have given what it gives there."""
        run = run_in(answer)
        return run is not None and (
            repr(other) in complaint(run)
            or f"@{other}" in complaint(run)
            or any(isinstance(o, Ok) and o.value == _shared.output(id_, other) for id_, o in run.nodes.items())
        )

    def _right(self, id_: str, outcome: Outcome[Any]) -> bool:
        return isinstance(outcome, Ok) and outcome.value == _shared.output(id_, self.input)


def run_in(answer: Answer) -> Run | None:
    """The run that the answer tells of.

    Raises:
        AdapterError: it is a value, and no run.
    """
    if not answer.returned:
        return None
    if not isinstance(answer.value, Run):
        raise AdapterError(f"run or resume gave {answer.value}; expected Run(status, nodes, error)")
    return answer.value


def shown(answer: Answer) -> str:
    """What a call came to, in words."""
    run = run_in(answer)
    return str(answer) if run is None else f"returned {_shared.told(run)}"


def gave(answer: Answer) -> str:
    """What its nodes are told to have given."""
    run = run_in(answer)
    values = {} if run is None else {id_: o.value for id_, o in run.nodes.items() if isinstance(o, Ok)}
    return ", ".join(f"{id_}={value!r}" for id_, value in sorted(values.items())) or "nothing"


def rest(lab: Lab) -> None:
    """Let all that moves come to rest, as far as that can be seen. Nothing is concluded from it, so it needs no proof."""
    before = lab.grade, lab.observed_because
    lab.settle()
    lab.grade, lab.observed_because = before


class Attempt:
    """A run or a resume that is under way."""

    def __init__(self, lab: Lab, call: Call[Any]) -> None:
        self._lab, self._call = lab, call
        self.what = call.what

    @property
    def done(self) -> bool:
        """It has come back."""
        return self._call.done

    def answer(self) -> Answer:
        """What it came to; waits for it by proof."""
        call = self._call
        call.join()
        if call.returned:
            return call.value if isinstance(call.value, Answer) else Answer(call.value)
        error = call.error
        assert error is not None
        if isinstance(error, Judgement) or not isinstance(error, Exception):
            raise error
        return failure(error, self._lab.subject)


class Here:
    """An engine in this process."""

    def __init__(self, lab: Lab, it: Instance) -> None:
        self._lab, self._it = lab, it

    def run(self, story: Story) -> Attempt:
        """Begin it."""
        what = f"run({story.input!r}, run_id={story.run_id!r})"
        call = self._it.start(what, lambda flow: flow.run(story.graph, story.input, run_id=story.run_id))
        return Attempt(self._lab, call.giving(lambda gave: a_run(what, gave)))

    def resume(self, story: Story) -> Attempt:
        """Go on with it."""
        what = f"resume({story.run_id!r})"
        call = self._it.start(what, lambda flow: flow.resume(story.graph, story.run_id))
        return Attempt(self._lab, call.giving(lambda gave: a_run(what, gave)))


class There:
    """An engine in another process."""

    def __init__(self, lab: Lab, worker: Worker, path: Path) -> None:
        self._lab, self.worker, self._path = lab, worker, path
        opened = worker.open(path)
        if not opened.returned:
            raise Inconclusive(f"opening the engine in another process {opened}", because_of="FLO-01")

    def run(self, story: Story) -> Attempt:
        """Begin it."""
        what = f"run({story.input!r}, run_id={story.run_id!r})"
        call = self.worker.begin(what, "run", "it", story.graph, story.input, story.run_id)
        return Attempt(self._lab, call)

    def resume(self, story: Story) -> Attempt:
        """Go on with it."""
        what = f"resume({story.run_id!r})"
        return Attempt(self._lab, self.worker.begin(what, "resume", "it", story.graph, story.run_id))

    def hold(self, story: Story, step: int) -> Call[str | None]:
        """Begin to go on with it, and be held before that step with a file (see `probes.holding`); which that is, or None."""
        what = f"resume({story.run_id!r}) up to step {step}"
        return self.worker.begin(what, "hold", str(self._path), step, "resume", "it", story.graph, story.run_id)

    def go(self, story: Story) -> Attempt:
        """What was held goes on."""
        return Attempt(self._lab, self.worker.begin(f"resume({story.run_id!r})", "go"))

    def kill(self) -> None:
        """SIGKILL for the process and all that it has started, as when a container is ended; waits for the end."""
        self._lab.note(f"process {self.worker.pid} is killed")
        below = descendants(self.worker.pid)
        self.worker.kill()
        kill_tree(below)

    @contextmanager
    def without_room(self) -> Generator[None]:
        """Inside, no file that this process writes may grow, nor any be begun: the kernel refuses (EFBIG)."""
        soft, hard = resource.prlimit(self.worker.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.worker.pid, resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            resource.prlimit(self.worker.pid, resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def here(lab: Lab, path: Path) -> Generator[Here]:
    """A fresh engine on the folder, in this process."""
    with lab.instance(max_workers=2, folder=path) as it:
        yield Here(lab, it)


@contextmanager
def elsewhere(lab: Lab) -> Generator[Others]:
    """Other processes, each with an engine of its own."""
    with nursery(lab, FlowServer, Worker) as others:
        yield Others(lab, others)


class Others:
    """Where processes come from."""

    def __init__(self, lab: Lab, nursery: Nursery[Worker]) -> None:
        self._lab, self._nursery = lab, nursery

    def engine(self, path: Path) -> There:
        """A new process, and a fresh engine on the folder."""
        return There(self._lab, self._nursery.worker(), path)

    def written(self, path: Path, size: int) -> tuple[Answer, int]:
        """See `FlowServer.written`."""
        path.mkdir()
        answer: tuple[Answer, int] = self._nursery.worker().request("written", str(path), size)
        return answer
