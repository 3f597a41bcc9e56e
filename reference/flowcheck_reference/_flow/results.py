"""What became of a run, node by node. Read off the run's own arrays: nothing is made for nodes that nobody asks about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from flowcheck_reference._window import Record

    from .graph import Plan

Status: TypeAlias = Literal["completed", "failed", "cancelled"]
NodeStatus: TypeAlias = Literal["pending", "ok", "failed", "skipped", "cancelled"]

PENDING: Final = 0
OK: Final = 1
FAILED: Final = 2
SKIPPED: Final = 3
CANCELLED: Final = 4
_WORDS: Final[tuple[NodeStatus, ...]] = ("pending", "ok", "failed", "skipped", "cancelled")


class RunExistsError(RuntimeError):
    """A run of this id was begun before: it is resumed, not begun again (FLO-28)."""


class NotSavedError(RuntimeError):
    """What became of a run could not be saved, so the run has failed (FLO-26). `__cause__` says why.

    What was saved before is there: once the cause has passed, the run can be resumed.
    """


@dataclass(frozen=True, slots=True)
class NodeResult:
    """What became of one node."""

    id: str
    status: NodeStatus
    """"skipped": what it needs failed, or was skipped. "cancelled": the run ended before it began, or it was cancelled
    while it ran."""
    value: Any
    """Its output, if "ok"."""
    error: BaseException | None
    """Its own, if it ran and is not "ok"."""
    because: str
    """The id of the node that failed first on the way to this one, if "skipped"; else empty."""
    attempts: int
    """How many were started; none in a run that was resumed after this node was through."""
    started: float | None
    ended: float | None
    """`time.monotonic()`, seconds; None: it never was."""


class Result(Mapping[str, Any]):
    """What became of a run: a mapping from a node's id to its output, and more.

        result["parse"]                 the output; if it has none, the error that it failed with is raised, or a LookupError
        result.status                   "completed", "failed", "cancelled"
        result.nodes["parse"].attempts  all about one node
        result.error                    the first error of all

    The mapping's keys are the nodes that have an output.
    """

    __slots__ = ("_arrays", "ended", "error", "id", "started", "status")

    def __init__(self, arrays: Arrays, run: str, status: Status, error: BaseException | None) -> None:
        self._arrays = arrays
        self.id = run
        """Unique in the engine; the `run_id`, if there is one."""
        self.status: Status = status
        self.error = error
        """The first error of all."""
        self.started, self.ended = arrays.began, arrays.over
        """`time.monotonic()`, seconds."""

    @property
    def nodes(self) -> Mapping[str, NodeResult]:
        """By id, in the order of declaration."""
        return _Nodes(self._arrays)

    def __repr__(self) -> str:
        return f"<Result of {self.id}: {self.status}>"

    def __getitem__(self, node: str) -> Any:
        arrays = self._arrays
        i = arrays.plan.index[node]
        if arrays.status[i] == OK:
            return arrays.values[i]
        error = arrays.errors.get(i)
        if error is not None and arrays.status[i] == FAILED:
            raise error
        # Not the loop's word to a node that was cancelled: whoever asks here isn't.
        msg = f"node {node!r} has no output: it was {_WORDS[arrays.status[i]]}"
        raise LookupError(msg)

    def __iter__(self) -> Iterator[str]:
        return (own for own, status in zip(self._arrays.plan.ids, self._arrays.status, strict=True) if status == OK)

    def __len__(self) -> int:
        return self._arrays.status.count(OK)

    def __contains__(self, node: object) -> bool:
        i = self._arrays.plan.index.get(node)  # type: ignore[call-overload]
        return i is not None and self._arrays.status[i] == OK


@dataclass(slots=True)
class Arrays:
    """What a run writes down, by a node's number. Each place is written by whoever has the node, once."""

    plan: Plan
    values: list[Any]
    """The outputs, and last the run's input."""
    status: bytearray
    started: list[float]
    """0: never."""
    ended: list[float]
    attempts: dict[int, int]
    """Only where it isn't one for each node that started."""
    errors: dict[int, BaseException]
    """In the order in which they came."""
    because: dict[int, int]
    began: float = 0.0
    over: float = 0.0

    def word(self, k: int) -> NodeStatus:
        """Its status."""
        return _WORDS[self.status[k]]


class _Nodes(Mapping[str, NodeResult]):
    __slots__ = ("_arrays",)

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def __getitem__(self, node: str) -> NodeResult:
        a = self._arrays
        i = a.plan.index[node]
        because = a.because.get(i)
        return NodeResult(
            node,
            _WORDS[a.status[i]],
            a.values[i],
            a.errors.get(i),
            "" if because is None else a.plan.ids[because],
            a.attempts.get(i, 1 if a.started[i] else 0),
            a.started[i] or None,
            a.ended[i] or None,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays.plan.ids)

    def __len__(self) -> int:
        return len(self._arrays.plan.ids)

    def __repr__(self) -> str:
        return repr(dict(self))


def result_of(error: BaseException) -> Result | None:
    """The whole result, when `error` was raised by `Engine.run` or `arun`. None: it wasn't, or takes no attributes."""
    return getattr(error, "_flow_result", None)


def values_of(records: Sequence[Record[Any]]) -> list[Any]:
    """The results of a fan-out node; raises the error of an item that halted it."""
    if records and records[-1].error is not None:
        raise records[-1].error
    return [record.value for record in records]


def first_of(errors: Sequence[BaseException]) -> BaseException:
    """Which of them is raised: an interrupt, or whatever else is no Exception, goes first; else the first that came."""
    return next((error for error in errors if not isinstance(error, Exception)), errors[0])
