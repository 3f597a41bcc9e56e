"""What a flow is: named functions, and which of them needs which. Declared by `Flow`, compiled once into a `Plan`.

A plan is arrays of numbers and functions, so that a run looks up nothing by name.
"""

from __future__ import annotations

import inspect
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar, cast, overload

from flowcheck_reference._policy import RetryPolicy, name_of
from flowcheck_reference._window import Concurrency

F = TypeVar("F", bound=Callable[..., Any])

INPUT: Final = "input"
"""Needed like a node: what the run was given."""


class FlowError(ValueError):
    """A flow that makes no sense. Nothing of it has run (FLO-04).

    `nodes`: the ids of those that are wrong.
    """

    def __init__(self, message: str, nodes: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.nodes: tuple[str, ...] = tuple(nodes)

    def __reduce__(self) -> tuple[type[FlowError], tuple[str, tuple[str, ...]]]:
        """To travel between processes."""
        return type(self), (str(self), self.nodes)


@dataclass(frozen=True, slots=True)
class Node:
    """One node, as it was declared: `fn` is called with the outputs of `needs`, in that order."""

    id: str
    fn: Callable[..., Any]
    needs: tuple[str, ...]
    after: tuple[str, ...]
    policy: RetryPolicy | None
    each: bool
    max_concurrency: Concurrency

    @property
    def waits_for(self) -> tuple[str, ...]:
        """The nodes that must have ended well before it: each once."""
        return tuple(dict.fromkeys(name for name in (*self.needs, *self.after) if name != INPUT))


class Flow:
    """A graph of functions, each of which runs when all that it needs has run.

        flow = Flow("report")

        @flow.node(policy=RetryPolicy(attempts=3, timeout=10.0))
        async def fetch(input): ...

        @flow.node
        def parse(fetch): ...                       # needs what its parameters are named after

        @flow.node(needs=["parse"], each=True, max_concurrency=8)
        def check(row): ...                         # once for each item of `parse`'s output

    Declare it once, run it as often as you like, also at the same time. Nodes may be added between runs; a run has those
    that were there when it began.
    """

    def __init__(self, name: str = "flow") -> None:
        self.name = name
        self._nodes: list[Node] = []
        self._plan: Plan | None = None

    def __repr__(self) -> str:
        return f"<Flow {self.name!r} of {len(self._nodes)} nodes>"

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """As declared."""
        return tuple(self._nodes)

    def add(
        self,
        fn: Callable[..., Any],
        *,
        id: str | None = None,  # noqa: A002  the field's word
        needs: Sequence[str] | None = None,
        after: Sequence[str] = (),
        policy: RetryPolicy | None = None,
        each: bool = False,
        max_concurrency: Concurrency = None,
    ) -> str:
        """Add a node that calls `fn`, blocking or async, with the outputs of `needs`; its id.

        `id`: by default the function's name. "input" is no node's id, but what the run was given.
        `needs`: ids, also of nodes that are yet to be added. By default the names of the function's parameters that have
        no default.
        `after`: runs after these too, without their outputs.
        `policy`: how often and how long each call is tried. An attempt of a blocking function that takes too long is given
        up, one of an async function is cancelled.
        `each`: `needs` is one node whose output is iterable; `fn` is called for each item of it, `max_concurrency` at a
        time (as in `Fanout.run`, but None is as many as there are workers), the policy holding for each call. The
        output is the list of results.

        Raises: TypeError; FlowError: needs can't be read off the function.
        """
        if not callable(fn):
            msg = f"a node is a function, not {fn!r}"  # type: ignore[unreachable]
            raise TypeError(msg)
        _check_policy(policy)
        own = name_of(fn).rpartition(".")[2] if id is None else id
        _check_id(own)
        if own in {"", INPUT}:
            msg = f"a node's id must not be {own!r}: {INPUT!r} is what the run was given"
            raise FlowError(msg, [own])
        wanted = _parameters(fn, own) if needs is None else _texts(needs, "needs", own)
        if each and len(wanted) != 1:
            msg = f"node {own!r} is to be called for each item of one node's output, but needs {len(wanted)} of them"
            raise FlowError(msg, [own])
        self._nodes.append(Node(own, fn, wanted, _texts(after, "after", own), policy, each, max_concurrency))
        self._plan = None
        return own

    @overload
    def node(self, fn: F, /) -> F: ...
    @overload
    def node(
        self,
        fn: None = None,
        /,
        *,
        id: str | None = None,
        needs: Sequence[str] | None = None,
        after: Sequence[str] = (),
        policy: RetryPolicy | None = None,
        each: bool = False,
        max_concurrency: Concurrency = None,
    ) -> Callable[[F], F]: ...

    def node(self, fn: F | None = None, /, **options: Any) -> F | Callable[[F], F]:
        """`add` as a decorator, with its options or without; the function stays what it was."""

        def declare(fn: F) -> F:
            self.add(fn, **options)
            return fn

        return declare if fn is None else declare(fn)

    def compiled(self) -> Plan:
        """What a run needs to know; made once for all runs.

        Raises: FlowError: an id twice, a need that is no node, a cycle; it names the nodes.
        """
        plan = self._plan
        if plan is None or len(plan.ids) != len(self._nodes):
            plan = self._plan = Plan(self.name, self._nodes)
        return plan


def _check_id(own: object) -> None:
    if not isinstance(own, str):
        msg = f"a node's id must be a text, not {own!r}"
        raise TypeError(msg)


def _check_policy(policy: object) -> None:
    if policy is not None and not isinstance(policy, RetryPolicy):
        msg = f"policy must be a RetryPolicy or None, not {policy!r}"
        raise TypeError(msg)


def _texts(names: Sequence[object], what: str, own: str) -> tuple[str, ...]:
    texts = () if isinstance(names, str) else tuple(name for name in names if isinstance(name, str))
    if isinstance(names, str) or len(texts) != len(names):
        msg = f"{what} of node {own!r} must be a sequence of ids, not {names!r}"
        raise TypeError(msg)
    return texts


def _parameters(fn: Callable[..., Any], own: str) -> tuple[str, ...]:
    """The names of those that have no default."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        msg = f"node {own!r}: {fn!r} tells nothing of its parameters, so say what it needs: needs=[…]"
        raise FlowError(msg, [own]) from None
    names = [p.name for p in parameters if p.default is p.empty and p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    if any(p.default is p.empty and p.kind is p.KEYWORD_ONLY for p in parameters):
        msg = f"node {own!r}: a parameter that is given by keyword only can't be a need: say needs=[…], or give it a default"
        raise FlowError(msg, [own])
    return tuple(names)


def is_async(fn: Any) -> bool:
    """Is what it gives to be awaited?"""
    while isinstance(fn, partial):
        fn = fn.func
    kind = cast("type[object]", type(fn))  # not itself: a class is called to make an object, whose calls may be async
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(kind, "__call__", None))  # noqa: B004


class Plan:
    """A flow as arrays, by a node's number. `len(ids)` stands for the run's input.

    Guarantees: linear in nodes and edges, without recursion (FLO-18).
    """

    __slots__ = (
        "args", "asynchronous", "awaits", "fns", "ids", "indegree", "index", "many", "name", "nodes", "plain", "policies",
        "preds", "roots", "sinks", "succs", "watched",
    )  # fmt: skip

    def __init__(self, name: str, nodes: Sequence[Node]) -> None:
        self.name = name
        self.nodes = nodes = tuple(nodes)  # others may add some meanwhile
        self.ids = [node.id for node in nodes]
        self.index = index = {own: i for i, own in enumerate(self.ids)}
        if len(index) != len(self.ids):
            twice = [own for own, times in Counter(self.ids).items() if times > 1]
            msg = f"each node needs an id of its own; more than one is called {_listed(twice)}"
            raise FlowError(msg, twice)
        number = {**index, INPUT: len(nodes)}
        try:
            self.args = [tuple(number[need] for need in node.needs) for node in nodes]
            self.preds = [tuple(index[before] for before in node.waits_for) for node in nodes]
        except KeyError:
            raise _unknown(nodes, index) from None
        self.succs: list[tuple[int, ...]] = _turned(self.preds)
        self.indegree = [len(before) for before in self.preds]
        self.roots = [i for i, before in enumerate(self.preds) if not before]
        self.sinks = sum(not behind for behind in self.succs)
        self.many = [i for i, before in enumerate(self.preds) if len(before) > 2]  # two are counted otherwise
        self.fns = [node.fn for node in nodes]
        self.policies = [node.policy for node in nodes]
        self.asynchronous = bytes(is_async(node.fn) for node in nodes)
        self.awaits = any(self.asynchronous)
        """Is there one that an event loop is needed for?"""
        self.plain = bytes(
            node.policy is None and not node.each and not waits for node, waits in zip(nodes, self.asynchronous, strict=True)
        )
        """A call on a thread, and nothing else."""
        self.watched = any(node.policy is not None and not waits for node, waits in zip(nodes, self.asynchronous, strict=True))
        """Is there one that the watchdog may be needed for?"""
        self._check_acyclic()

    def _check_acyclic(self) -> None:
        left = self.indegree.copy()
        ready = deque(self.roots)
        seen = 0
        while ready:
            seen += 1
            for behind in self.succs[ready.popleft()]:
                left[behind] -= 1
                if not left[behind]:
                    ready.append(behind)
        if seen < len(self.ids):
            circle = self._circle({i for i, waits in enumerate(left) if waits})
            msg = f"nodes need each other in a circle: {' → '.join([*circle, circle[0]])}"
            raise FlowError(msg, circle)

    def _circle(self, left: set[int]) -> list[str]:
        """One of them: go from need to need, until one comes again."""
        path: dict[int, None] = {}
        here = min(left)
        while here not in path:
            path[here] = None
            here = next(before for before in self.preds[here] if before in left)
        way = list(path)
        return [self.ids[i] for i in reversed(way[way.index(here) :])]


def _turned(preds: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    succs: list[list[int]] = [[] for _ in preds]
    for i, before in enumerate(preds):
        for p in before:
            succs[p].append(i)
    return [tuple(behind) for behind in succs]


def _unknown(nodes: Sequence[Node], index: dict[str, int]) -> FlowError:
    wrong = {node.id: [name for name in node.waits_for if name not in index] for node in nodes}
    wrong = {own: names for own, names in wrong.items() if names}
    told = "; ".join(f"{own!r} needs {_listed(names)}" for own, names in wrong.items())
    return FlowError(f"no such node: {told}", [*wrong, *(name for names in wrong.values() for name in names)])


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
