"""What several rules of this suite share: items that do as they are told, and waits that blame the right rule."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from pytest_flowcheck.errors import AdapterError, Inconclusive
from pytest_flowcheck.protocols import Failed, Foreign, Halt, Ok, Skipped

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab

Act: TypeAlias = Literal["ok", "raises", "crashes", "failed", "paused", "aborted"]
"""What an item does once its gate is open: returns, raises `ItemError`, raises `Crash`, or halts in one of three ways."""

HALTS: tuple[Literal["failed", "paused", "aborted"], ...] = ("failed", "paused", "aborted")


class ItemError(Exception):
    """An item's own error."""


class Crash(BaseException):
    """An item's own error that `except Exception` doesn't catch."""


class Script:
    """What each item does; items that are not named return the name of their call.

    An item raises the object in `errors`, so that the rule knows it again where it was not copied.
    """

    def __init__(self, acts: Mapping[int, Act], name: str = "item") -> None:
        self.name = name
        self.errors: dict[int, BaseException] = {
            item: _error(act, f"{name}({item})") for item, act in acts.items() if act != "ok"
        }

    def __call__(self, item: int) -> str:
        if item in self.errors:
            raise self.errors[item]
        return f"{self.name}({item})"


def _error(act: Act, name: str) -> BaseException:
    if act == "raises":
        return ItemError(f"{name} failed")
    if act == "crashes":
        return Crash(f"{name} failed")
    assert act in HALTS
    return Halt(act)


def calls_of(items: Iterable[int], name: str = "item") -> list[str]:
    """How the calls for these items are named in gates and histories."""
    return [f"{name}({item})" for item in items]


def fan_out(
    lab: Lab,
    it: Instance,
    items: int | Iterable[Any],
    max_concurrency: Any,
    does: Callable[..., Any] | None = None,
    *,
    name: str = "item",
    gated: bool = True,
    body: Any = None,
    continue_on_error: bool = False,
) -> Call[Any]:
    """Begin a fan-out over `items`: so many, or these. Its name in the history is unique if `name` is."""
    given: Iterable[Any] = list(range(items)) if isinstance(items, int) else items
    how_many = f"{len(given)} items" if isinstance(given, list) else "an iterator"
    task = lab.probe(name, does, gated=gated) if body is None else body
    more = {"continue_on_error": True} if continue_on_error else {}
    told = "".join(f", {key}={value}" for key, value in more.items())
    what = f"run({name}, {how_many}, max_concurrency={max_concurrency!r}{told})"
    call = it.start(what, lambda fanout: fanout.run(task, given, max_concurrency=max_concurrency, **more))
    return call.giving(lambda gave: some_outcomes(what, gave))


# --- waits ------------------------------------------------------------------------------------------------------------


def full(lab: Lab, call: Call[Any], size: int, *, needs: str | None = "FAN-03", name: str = "item") -> None:
    """Wait until `size` items of this fan-out are in flight; the concurrency that order and halt are judged by.

    Raises:
        Inconclusive: they never are, because of `needs`; or one item runs twice (FAN-12).
    """
    lab.until(
        lambda: call.done or len(in_flight(lab, name)) >= size,
        f"{size} gated items are in flight",
        expected=f"{size} in flight: so many slots are free, and so many items are left",
        needs=needs,
    )
    started = of(lab.started(), name)
    if len(set(started)) < len(started):
        twice = next(n for n in started if started.count(n) > 1)
        raise Inconclusive(f"{twice} runs twice in one fan-out: items are mixed up", because_of="FAN-12")
    if call.done and len(in_flight(lab, name)) < size:
        ended = f"{call.what} ended with {call.error!r}" if call.error is not None else f"{call.what} returned"
        if needs is not None:
            raise Inconclusive(f"{ended} before {size} gated items were in flight", because_of=needs)
        lab.check(False, f"{ended} while {len(in_flight(lab, name))} items were in flight", f"{size} in flight")


def of(names: Iterable[str], name: str) -> list[str]:
    """Those of the calls that are items of the fan-out `name`."""
    return [n for n in names if n.startswith(f"{name}(")]


def in_flight(lab: Lab, name: str = "item") -> list[str]:
    """Items of one fan-out in flight."""
    return of(lab.live(), name)


def over(lab: Lab, name: str) -> None:
    """Wait until this call has come to its end; its gate is open."""
    lab.until(lambda: name in lab.timeline.names("ended", "raised", "lost"), f"{name} ends once its gate is open")


def let_go(lab: Lab, *names: str) -> None:
    """Open these gates one at a time, each once the one before has ended: a forced completion order.

    Raises:
        Inconclusive: it is not in flight; other items have started before it.
    """
    for name in names:
        if name not in lab.started():
            raise Inconclusive(f"{name} has not started in its turn", because_of="FAN-23")
        lab.open(name)
        over(lab, name)


def within(lab: Lab, bound: int, name: str = "item") -> None:
    """What started too much is no finding of a rule that asks what starts *later*.

    Raises:
        Inconclusive: more were in flight than the bound allows.
    """
    most, which = most_in_flight(lab, name)
    if most > bound:
        raise Inconclusive(f"{', '.join(which)} were in flight at max_concurrency={bound}", because_of="FAN-02")


# --- what a call gave -------------------------------------------------------------------------------------------------


def outcomes(call: Call[Any]) -> list[Any]:
    """What the fan-out returned; waits for it by proof, and raises what it raised.

    Raises:
        AdapterError: these are no outcomes.
    """
    return some_outcomes(call.what, call.result())


def some_outcomes(what: str, gave: Any) -> list[Any]:
    """What `what` gave, which must be outcomes: the one place that says so.

    Raises:
        AdapterError: it is no sequence, or holds what is no outcome.
    """
    if not isinstance(gave, Sequence):
        raise AdapterError(f"{what} gave {gave!r}; expected a sequence of Ok, Failed and Skipped")
    listed: list[Any] = list(gave)  # pyright: ignore[reportUnknownArgumentType]
    for outcome in listed:
        if not isinstance(outcome, Ok | Failed | Skipped):
            raise AdapterError(f"{what} gave {outcome!r} among its outcomes; expected Ok, Failed or Skipped")
        if isinstance(outcome, Ok) and hasattr(outcome.value, "__await__"):  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
            raise AdapterError(f"{what} gave Ok of an awaitable, which nobody awaits: await `body.aio(item)`")
    return listed


def told(listed: Iterable[Any]) -> list[str]:
    """Outcomes as words: the value of an Ok as text, and `Failed` or `Skipped`."""
    return [str(getattr(outcome, "value", type(outcome).__name__)) for outcome in listed]


def leaves(error: BaseException | None) -> Generator[BaseException]:
    """The errors in a group, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for part in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves(part)
    elif error is not None:
        yield error


def is_that(lab: Lab, error: BaseException, meant: BaseException) -> bool:
    """Whether it is this error of an item, a copy of it, or its account as text."""
    text = error.message if isinstance(error, Foreign) else str(error)
    return error is meant or (lab.is_a(error, type(meant)) and str(meant) in text)


def moment_of_return(lab: Lab, call: Call[Any]) -> int:
    """Where in the history the call came back."""
    notes = (f"{call.what} returned", f"{call.what} raised")
    for position, event in enumerate(list(lab.timeline.events)):
        if event.kind == "note" and event.probe.startswith(notes):
            return position
    return len(lab.timeline.events)


def live_at_return(lab: Lab, call: Call[Any], name: str = "item") -> list[str]:
    """Items that were still in flight when the call came back."""
    live: list[str] = []
    for event in list(lab.timeline.events)[: moment_of_return(lab, call)]:
        if event.kind == "started":
            live.append(event.probe)
        elif event.kind in ("ended", "raised", "lost") and event.probe in live:
            live.remove(event.probe)
    return of(live, name)


def most_in_flight(lab: Lab, name: str = "item") -> tuple[int, list[str]]:
    """The most items that the history shows in flight together, and which."""
    live: list[str] = []
    most: list[str] = []
    for event in list(lab.timeline.events):
        if not event.probe.startswith(f"{name}("):
            continue
        if event.kind == "started":
            live.append(event.probe)
        elif event.kind in ("ended", "raised", "lost") and event.probe in live:
            live.remove(event.probe)
        if len(live) > len(most):
            most = list(live)
    return len(most), most


@contextmanager
def several(lab: Lab, count: int) -> Generator[list[Instance]]:
    """As many fresh instances, all open at once."""
    with ExitStack() as stack:
        yield [stack.enter_context(lab.instance()) for _ in range(count)]
