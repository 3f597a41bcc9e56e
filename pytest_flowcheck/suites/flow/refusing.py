"""FLO-04: graphs that make no sense."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.probes.calls import reachable
from pytest_flowcheck.protocols import Foreign, Invalid
from pytest_flowcheck.protocols.flow import Node, Run
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._shared import begin, completed, ended, errors_of, given, node, starts

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab


@rule("FLO-04")
def graphs_without_sense_are_refused(lab: Lab) -> None:
    """A cycle, an unknown dependency, a duplicate id: refused before anything runs, naming the nodes.

    Intent: Such a graph is a slip of the pen; it should cost a second, not the half of the run that still could be made, and the message should say where to look.

    Usual cause: The circle is noticed when nothing is ready any more; a dict of nodes, in which the second of one id replaces the first; a need that isn't there counts as done.

    Proof: Each wrong graph also holds a node that needs nothing: it must not have run. The text of the error is searched for the nodes that are wrong. A graph in which two ways lead to one node is no circle, and must run.

    Source: Python library reference, `graphlib.CycleError`; dynamiq, `Flow._init_graph`.
    """
    said: list[str] = []
    asked = 0
    with lab.instance(max_workers=2) as it:
        for what, wrong, nodes in _wrong(lab):
            free = f"free_{what.split(maxsplit=1)[0]}"
            call = begin(it, [node(lab, free, gated=False), *nodes], what=f"run of a graph with {what}")
            try:
                _refused(lab, call, wrong)
            except NotTestable as reason:
                said.append(str(reason))
                continue
            asked += 1
            lab.settle()
            ran = starts(lab)
            lab.check(not ran, f"{', '.join(ran)} ran, and {call.what} {ended(call)}", "refused before anything runs")
        if not asked:
            raise NotTestable("; ".join(said))
        two_ways = [("a", ()), ("b", ("a",)), ("c", ("a",)), ("d", ("b", "c", "a"))]
        right = begin(
            it, [given(lab, id_, *needs, gated=False) for id_, needs in reversed(two_ways)], what="a right run"
        )
        if right.join().error is not None:
            lab.check(False, f"{right.what}, in which two ways lead to d, {ended(right)}", "it is no circle, and runs")
        completed(lab, right, needs="FLO-01")


def _wrong(lab: Lab) -> list[tuple[str, list[str], list[Node]]]:
    """What is wrong, which nodes an error must name, and the nodes."""

    def free(id_: str, *needs: str) -> Node:
        return node(lab, id_, *needs, gated=False)

    circle = [free("tail", "third"), free("first", "third", "head"), free("second", "first"), free("third", "second")]
    return [
        ("one node that needs itself", ["loner"], [free("loner", "loner")]),
        ("a circle of three nodes", ["first", "second", "third"], [free("head"), *circle]),
        ("an unknown dependency", ["ghost"], [free("haunted", "ghost")]),
        ("two nodes of one id", ["twin"], [free("twin"), free("twin"), free("sister", "twin")]),
    ]


def _refused(lab: Lab, call: Call[Any], wrong: list[str]) -> None:
    call.join()
    error = call.error
    if error is None and isinstance(call.value, Run) and call.value.status == "failed":
        errors = list(errors_of(call.value))
    else:
        errors = list(reachable(error))
    # ValueError is what `Invalid` is, and what graphlib and others raise
    lab.check(
        any(lab.is_a(e, Invalid) or isinstance(e, ValueError) for e in errors),
        f"{call.what} {ended(call)}",
        "refused with Invalid, or an error that the subject's table `errors` names for it",
    )
    text = " ".join(_text(e) for e in _shown(errors[0]))
    missing = [id_ for id_ in wrong if not re.search(rf"\b{id_}\b", text)]
    lab.check(
        not missing, f"the error of {call.what} does not name {', '.join(missing)}: {text!r}", "it names the nodes"
    )


def _shown(error: BaseException) -> Iterator[BaseException]:
    """The error, and what a traceback shows with it."""
    yield error
    for part in getattr(error, "exceptions", ()):
        yield from _shown(part)
    behind = error.__cause__ if error.__suppress_context__ else error.__context__
    if behind is not None:
        yield from _shown(behind)


def _text(error: BaseException) -> str:
    own = error.message if isinstance(error, Foreign) else f"{error} {error.args}"
    return " ".join([own, *getattr(error, "__notes__", ())])
