"""FLO-23, 30, 31, 32: runs that are awaited on the caller's loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.calls import is_cancellation
from pytest_flowcheck.protocols.flow import Graph, Kind, Node
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._shared import (
    NodeBody,
    a_run,
    begin,
    completed,
    ended,
    fan,
    in_flight,
    let_all_go,
    node,
    ran_as_coroutine,
    running,
    some_in_flight,
    starts,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.probe import Probe


def was_cancelled(error: BaseException | None) -> bool:
    """Whether it is a cancellation, or a group of nothing else."""
    if isinstance(error, BaseExceptionGroup):
        return all(was_cancelled(part) for part in error.exceptions)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType, reportUnknownMemberType]
    return is_cancellation(error)


class Tidy(NodeBody):
    """A node that tidies up when it is cancelled, and takes its time for that: until the gate of `tidying` is open."""

    def __init__(self, probe: Probe, tidying: Probe) -> None:
        super().__init__(probe)
        self._tidying = tidying

    async def aio(self, input: Any, upstream: Mapping[str, Any]) -> Any:  # noqa: A002 - the protocol's
        import anyio

        try:
            return await super().aio(input, upstream)
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                await self._tidying.aio()
            raise


def tidy(lab: Lab, name: str, kind: Kind) -> Node:
    """Such a node."""
    return Node(name, Tidy(lab.attempts(name, _number), lab.attempts(f"{name} tidies", _number)), kind=kind)


def _number(number: int, **_: Any) -> int:
    return number


class Deadline:
    """A deadline around a run that passes when the rule says so, not when a clock does."""

    def __init__(self) -> None:
        self._pass: Callable[[], object] = lambda: None

    async def around(self, flow: Any, graph: Graph) -> Any:
        """Await the run; raises TimeoutError once the deadline has passed."""
        if (trio := sys.modules.get("trio")) is not None and trio.lowlevel.in_trio_run():
            import anyio

            with anyio.fail_after(None) as scope:
                self._pass = lambda: setattr(scope, "deadline", anyio.current_time())
                return await flow.run(graph)
        # asyncio's own, which cancels once: anyio's would cancel again and again, which a plain asyncio engine needn't bear
        async with asyncio.timeout(None) as limit:
            self._pass = lambda: limit.reschedule(asyncio.get_running_loop().time())
            return await flow.run(graph)

    def passes(self, _flow: Any) -> None:
        """Now. Called on the loop."""
        self._pass()


Way = Literal["cancelled", "timed out"]


@rule("FLO-23", "async")
def cancellation_reaches_the_caller(lab: Lab) -> None:
    """Cancelling or timing out the awaiting caller delivers the cancellation after async nodes' cleanup, and is never swallowed; a gated synchronous node is abandoned or waited for, as declared.

    Intent: A caller that gives up must know, when it goes on, what still runs: none of the async nodes, and of the others what was declared.

    Usual cause: `except BaseException` around the nodes, which makes a failed node of the cancellation and a result of the run; `task.cancel()` without awaiting the task.

    Proof: Async nodes, when cancelled, wait at a gate before they are done: until it opens the caller must not come back, which is proven. Then its call must end as a cancelled one, or with the TimeoutError of its deadline.

    Source: asyncio documentation, "CancelledError should almost always be re-raised"; trio's design, structured concurrency.
    """
    with lab.instance(max_workers=2) as it:
        ways: tuple[Way, ...] = ("cancelled", "timed out")
        kinds: tuple[Kind, ...] = ("async", "blocking") if lab.claims("mixed") else ("own",)
        for kind in kinds:
            for way in ways:
                _give_up(lab, it, kind, way)


def _give_up(lab: Lab, it: Instance, kind: Kind, way: Way) -> None:
    """The caller gives up a run of two gated nodes."""
    names = [f"{letter}_{kind}_{way.replace(' ', '_')}" for letter in "ab"]
    graph = Graph(tuple(tidy(lab, name, kind) for name in names))
    what, deadline = f"the run that is {way}", Deadline()
    call = it.start(what, lambda flow: flow.run(graph) if way == "cancelled" else deadline.around(flow, graph))
    call.giving(lambda gave: a_run(what, gave))
    running(lab, call, *names)
    if way == "cancelled":
        lab.note("the caller is cancelled")
        call.cancel()
    else:
        it.start("the deadline passes", deadline.passes).join()
    if ran_as_coroutine(lab, names[0]):
        _tidied(lab, call, names)
    elif lab.declared("cancel") == "abandon":
        lab.until(lambda: call.done, f"{call.what} comes back, its nodes at their gates", expected="declared: abandon")
        lab.open(*(f"{name} #1" for name in names))
    else:
        lab.settle()
        lab.check(
            not call.done,
            f"{call.what} {ended(call)}, while {' and '.join(names)}, which run on threads, were at their gates",
            "it waits for them: declared, or the default, is cancel = 'wait'",
        )
        lab.open(*(f"{name} #1" for name in names))
    call.join()
    if lab.subject.backend == "trio" and call.returned and not ran_as_coroutine(lab, names[0]):
        return  # trio's cancellation stays: the caller meets it at his next await, as what was awaited came to its end
    right = was_cancelled(call.error) if way == "cancelled" else isinstance(call.error, TimeoutError)
    lab.check(
        right,
        f"{call.what} {ended(call)}",
        "the cancellation goes through to the caller" + ("" if way == "cancelled" else ", as a TimeoutError there"),
    )


def _tidied(lab: Lab, call: Call[Any], names: list[str]) -> None:
    """The nodes are cancelled, and the caller waits until they have tidied up."""
    tidying = [f"{name} tidies" for name in names]
    lab.until(
        lambda: call.done or set(tidying) <= set(in_flight(lab)),
        f"the cancellation reaches {' and '.join(names)}, which begin to tidy up",
    )
    lab.settle()
    missing = [name for name in tidying if name not in starts(lab)]
    lab.check(
        not call.done,
        f"{call.what} {ended(call)}, "
        + (f"and {', '.join(missing)} has not begun" if missing else f"while {', '.join(in_flight(lab, *tidying))}"),
        "it comes back once its nodes have tidied up",
    )
    lab.open(*(f"{name} #1" for name in tidying))


class NoTrio(Exception):  # noqa: N818 - a finding, about the engine
    """A node runs on a loop that is not the caller's."""


def on_trio(number: int, *, input: Any, upstream: Mapping[str, Any]) -> str:  # noqa: A002, ARG001 - the protocol's
    """Where a node runs: on the caller's loop or in a thread. Anywhere else is wrong."""
    if sys.modules["trio"].lowlevel.in_trio_run():
        return "on trio"
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "in a thread"
    raise NoTrio("the node runs on an asyncio loop, and its caller on trio")


@rule("FLO-30", "trio")
def runs_on_trio(lab: Lab) -> None:
    """`arun` works on trio.

    Intent: An engine that takes a loop library for granted shuts out half of those that it was written for with anyio.

    Usual cause: `asyncio.create_task` or `asyncio.Event` in a corner; or the whole run under `asyncio.run` in a helper thread, where nodes can use nothing that belongs to the caller's loop.

    Proof: A diamond with two gated nodes in flight together completes on a trio loop, and each node looks at where it runs.

    Source: anyio documentation, "Why you should be using AnyIO APIs instead of asyncio".
    """
    kinds: tuple[Kind, ...] = ("async", "blocking") if lab.claims("mixed") else ("own", "own")
    with lab.instance(max_workers=2) as it:
        nodes = [
            node(lab, "top", does=on_trio, gated=False),
            node(lab, "left", "top", does=on_trio, kind=kinds[0]),
            node(lab, "right", "top", does=on_trio, kind=kinds[1]),
            node(lab, "join", "left", "right", does=on_trio, gated=False),
        ]
        call = begin(it, nodes, what="run on trio")
        running(lab, call, "left", "right", needs=None)
        lab.open("left #1", "right #1")
        completed(lab, call)
        lab.check(len(starts(lab)) == len(nodes), f"of four nodes ran: {', '.join(starts(lab))}", "each once")


@rule("FLO-31", "async")
def no_node_blocks_the_loop(lab: Lab) -> None:
    """No node blocks the loop.

    Intent: The loop serves others while a flow runs; one node that blocks it is an outage of all of them.

    Usual cause: A blocking node is called on the loop, because wrapping it in `async def` seems to be enough; or the loop waits for a slot on a lock for threads.

    Proof: While nodes are at their gates and one more waits for a slot, another call on the same loop must come back; that it never will is proven from the kernel.

    Source: asyncio documentation, "Running Blocking Code".
    """
    kinds: tuple[Kind, ...] = ("blocking", "async") if lab.claims("mixed") else ("own",)
    with lab.instance(max_workers=2) as it:
        for kind in kinds:
            for size in (3, 1):
                _answers_beside(lab, it, [node(lab, f"{kind}{size}_{number}", kind=kind) for number in range(size)])


def _answers_beside(lab: Lab, it: Instance, nodes: list[Node]) -> None:
    """The loop answers while as many of these nodes as may are at their gates."""
    call = begin(it, nodes, what=f"run of {len(nodes)} gated nodes")
    some_in_flight(lab, call, nodes, 1, needs="FLO-01")
    beside = it.start("another call on the loop", lambda _: "answer")
    lab.until(lambda: beside.done, f"the loop answers while {', '.join(in_flight(lab))} is at its gate", hung=True)
    some_in_flight(lab, call, nodes, min(2, len(nodes)))
    it.start("one more call on the loop", lambda _: "answer").join()
    let_all_go(lab, call, nodes)


@rule("FLO-32", "async")
def cancelling_a_run_stops_it(lab: Lab) -> None:
    """Cancelling `arun` cancels its async nodes, starts no other, and leaves the engine usable.

    Intent: A request that is given up must not go on spending money, nor take the engine along.

    Usual cause: Nodes are tasks of nobody; a slot is given back behind the `await` that was cancelled; a node's end starts its dependents, whoever still waits.

    Proof: Two nodes are at their gates, one waits for a slot and one for its dependency. After the cancellation nothing may start, which is proven, and no async node may be left in flight. The next run must have as many in flight as the engine has slots.

    Source: structured concurrency; asyncio.Semaphore before 3.11.2 (gh-90155).
    """
    kind: Kind = "async" if lab.claims("mixed") else "own"
    with lab.instance(max_workers=2) as it:
        nodes = [*(node(lab, f"n{number}", kind=kind) for number in range(3)), node(lab, "last", "n0", "n1", kind=kind)]
        call = begin(it, nodes, what="the cancelled run")
        some_in_flight(lab, call, nodes, 2)
        lab.settle()
        before = starts(lab)
        if len(before) > 2:
            raise Inconclusive(f"{', '.join(before)} were in flight at max_workers=2", because_of="FLO-02")
        lab.note("the caller is cancelled")
        call.cancel()
        lab.settle()
        coroutines = [name for name in before if ran_as_coroutine(lab, name)]
        alive = in_flight(lab, *coroutines) if coroutines else []
        lab.check(
            not alive, f"the run was cancelled, and {', '.join(alive)} is still in flight", "async nodes are cancelled",
            absence=True,
        )  # fmt: skip
        lab.open_all()  # nodes on threads can't be cancelled, and end now
        call.join()
        lab.settle()
        late = starts(lab)[len(before) :]
        lab.check(not late, f"{', '.join(late)} started after the run was cancelled", "nothing starts any more")
        lab.gates.shut_all()
        again = fan(lab, "again", 3)
        call = begin(it, again, what="the next run")
        some_in_flight(lab, call, again, 2, needs=None)
        let_all_go(lab, call, again, needs=None)
