"""A drawn scenario as a program of its own: what is printed below a failure, to be run with `python script.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_flowcheck.suites.flow._play import Scenario

_PROGRAM: Final = '''\
import sys
import threading
import time

{imports}from pytest_flowcheck.protocols import Failed, Ok, Skipped
from pytest_flowcheck.protocols.flow import Graph, Node

{source}

WORKERS = {workers}
RUNS = [  # at once; of each its nodes, what they need, and what they do once their gates are open
{runs}
]
PICKS = {picks}  # which of those in flight ends next, modulo how many there are, again and again
EXPECTED = [
{expected}
]
GOES_ON = {goes_on}  # branches that don't depend on a failed node complete
PATIENCE = 10.0  # seconds until this program gives up

changed = threading.Condition()
history = []  # (run, node, "started" | "ended" | "raised")
problems = []
came = {{}}


def note(run, node, what):
    with changed:
        history.append((run, node, what))
        changed.notify_all()


def until(holds):
    with changed:
        return changed.wait_for(holds, PATIENCE)


class Body:
    """Reports its start, waits at its gate, does its work. A thread calls it, a loop awaits `aio`."""

    def __init__(self, run, node, needs, act):
        self.run, self.node, self.needs, self.act = run, node, needs, act
        self.__name__ = self.__qualname__ = node
        self.gate = threading.Event()

    def __call__(self, input, upstream):
        note(self.run, self.node, "started")
        self.gate.wait()
        return self.work(input, upstream)

    async def aio(self, input, upstream):
        note(self.run, self.node, "started")
        try:
            while not self.gate.is_set():
                await sleep(0.001)
        except BaseException:
            note(self.run, self.node, "raised")
            raise
        return self.work(input, upstream)

    def work(self, input, upstream):
        right = {{need: f"{{need}}@{{self.run}}" for need in self.needs}}
        got = {{need: upstream.get(need, "nothing") for need in self.needs}}
        if (input, got) != (self.run, right):
            problems.append(f"{{self.node}} of run {{self.run}} was given {{input!r}}, {{got}}, not {{self.run!r}}, {{right}}")
        note(self.run, self.node, "ended" if self.act == "returns" else "raised")
        if self.act == "raises":
            raise ValueError(f"{{self.node}} of run {{self.run}} failed")
        return f"{{self.node}}@{{self.run}}"


bodies = [{{node: Body(run, node, needs, act) for node, needs, act in nodes}} for run, nodes in enumerate(RUNS)]


def those(run, *kinds):
    return [node for r, node, what in list(history) if r == run and what in kinds]


def live(run):
    over = those(run, "ended", "raised")
    return [node for node, _, _ in RUNS[run] if those(run, "started").count(node) > over.count(node)]


def ready(run):
    started, ended = those(run, "started"), those(run, "ended")
    return [node for node, needs, _ in RUNS[run] if node not in started and set(needs) <= set(ended)]


def stopped(run):
    return not GOES_ON and those(run, "raised") != []


def graph(run):
    nodes = [Node(node, bodies[run][node], tuple(needs)) for node, needs, _ in RUNS[run]]
    return Graph(tuple(nodes{order}))


def told(outcome):
    if isinstance(outcome, Ok):
        return "ok"
    return "skipped" if isinstance(outcome, Skipped) else "failed" if isinstance(outcome, Failed) else None


def reachable(error):
    return {{str(error)}}.union(
        *map(reachable, filter(None, (error.__cause__, error.__context__, *getattr(error, "exceptions", ())))))


def errors(end):
    """The texts of all errors that a run tells."""
    failed = [outcome.error for outcome in getattr(end, "nodes", {{}}).values() if isinstance(outcome, Failed)]
    return set().union(*map(reachable, filter(None, (getattr(end, "error", None), *failed))))


{call}

caller = threading.Thread(target=call, daemon=True)
caller.start()
until(lambda: all(those(run, "started") or run in came for run in range(len(RUNS))))
for turn in range(sum(map(len, RUNS))):
    for run in range(len(RUNS)):
        if stopped(run):
            continue
        due = min(WORKERS, len(live(run)) + len(ready(run)))
        if not until(lambda: run in came or len(live(run)) >= due) or (run in came and ready(run)):
            problems.append(f"run {{run}}: in flight {{live(run)}}, ready {{ready(run)}}; expected {{due}} in flight")
    going = [(run, node) for run in range(len(RUNS)) if not stopped(run) for node in live(run)]
    if problems or not going:
        break
    time.sleep(0.05)  # what starts too early may do so
    run, node = going[PICKS[turn % len(PICKS)] % len(going)]
    bodies[run][node].gate.set()
    until(lambda: node not in live(run))
for run in bodies:
    for body in run.values():
        body.gate.set()
caller.join(PATIENCE)

for run, nodes in enumerate(RUNS):
    most = now = 0
    for r, node, what in history:
        if r == run:
            now += 1 if what == "started" else -1
            most = max(most, now)
    if most > WORKERS:
        problems.append(f"run {{run}}: {{most}} were in flight together, max_workers={{WORKERS}}")
    for node, needs, _ in nodes:
        began = [i for i, event in enumerate(history) if event == (run, node, "started")]
        if len(began) > 1:
            problems.append(f"run {{run}}: {{node}} ran {{len(began)}} times")
        for need in needs if began else []:
            if not any(event[:2] == (run, need) and event[2] != "started" for event in history[: began[0]]):
                problems.append(f"run {{run}}: {{node}} started before {{need}} had ended")
        if not began and EXPECTED[run][node] != "skipped" and not stopped(run):
            problems.append(f"run {{run}}: {{node}} never ran")
    end = came.get(run, "nothing: it never came back")
    status = "failed" if "failed" in EXPECTED[run].values() else "completed"
    print(f"run {{run}} came:    ", end)
    print(f"run {{run}} expected:", status, EXPECTED[run])
    if getattr(end, "status", None) != status:
        problems.append(f"run {{run}} is not {{status}}")
    texts = {{r: errors(end) & {{f"{{node}} of run {{r}} failed" for node, _, _ in RUNS[r]}} for r in range(len(RUNS))}}
    for r in range(len(RUNS)):
        if r != run and texts[r]:
            problems.append(f"run {{run}} tells of run {{r}}: {{texts[r]}}")
    if status == "failed" and not texts[run]:
        problems.append(f"run {{run}} does not tell its own node's error")
    for node, outcome in getattr(end, "nodes", {{}}).items():
        right, got = EXPECTED[run][node], told(outcome)
        wrong = got != right and (status == "completed" or got == "ok" or (got == "failed" and right == "skipped"))
        if wrong or (got == "ok" and outcome.value != f"{{node}}@{{run}}"):
            problems.append(f"run {{run}}: {{node}} is {{outcome}}, expected {{right}}")
for problem in problems:
    print("problem:", problem)
sys.exit(problems != [])
'''

_BLOCKING: Final = """\
def call():
    def one(run):
        try:
            came[run] = it.run(graph(run), run)
        except BaseException as error:
            came[run] = error
        with changed:
            changed.notify_all()

    with subject.flow(max_workers=WORKERS) as it:
        callers = [threading.Thread(target=one, args=(run,), daemon=True) for run in range(len(RUNS))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()"""

_ONE: Final = """\
async def one(it, run):
    try:
        came[run] = await it.run(graph(run), run)
    except BaseException as error:
        came[run] = error
    with changed:
        changed.notify_all()


async def serve():
    async with subject.flow(max_workers=WORKERS) as it:
        {together}


def call():
    {runs}"""

_LOOPS: Final = {
    "asyncio": _ONE.format(
        together="await asyncio.gather(*(one(it, run) for run in range(len(RUNS))))", runs="asyncio.run(serve())"
    ),
    "trio": _ONE.format(
        together="async with trio.open_nursery() as nursery:\n            for run in range(len(RUNS)):\n"
        "                nursery.start_soon(one, it, run)",
        runs="trio.run(serve)",
    ),
}


def program(
    source: str, *, loop: str | None, scenario: Scenario, expected: Sequence[Mapping[str, str]], goes_on: bool
) -> str:
    """The program.

    Args:
        source: makes the adapter, as `subject`.
        loop: the loop library on which it runs; None for threads.
        scenario: the runs and their completion order.
        expected: what becomes of each node, for each run.
        goes_on: whether `continue` is claimed.
    """
    runs = [
        [(f"n{place}", [f"n{need}" for need in step.needs], step.act) for place, step in enumerate(dag)]
        for dag in scenario.dags
    ]
    return _PROGRAM.format(
        imports=f"import {loop}\nfrom {loop} import sleep\n\n" if loop else "",
        source=source,
        workers=scenario.workers,
        runs="\n".join(f"    {run}," for run in runs),
        picks=list(scenario.picks),
        expected="\n".join(f"    {dict(one)}," for one in expected),
        goes_on=goes_on,
        order="[::-1]" if scenario.backwards else "",
        call=_LOOPS[loop] if loop else _BLOCKING,
    )
