"""A drawn life of loops and their client, what the model says of it, and how it is played with a subject."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from pytest_flowcheck.errors import Inconclusive, Judgement
from pytest_flowcheck.probes.calls import offered
from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.protocols import Closed
from pytest_flowcheck.suites.client import _script
from pytest_flowcheck.suites.client._clients import factory
from pytest_flowcheck.suites.client._loops import Loop, Loops, Thread, loops
from pytest_flowcheck.suites.client._shared import Got, aclosed, client_of, closes, got, makings, reopens, result

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from pytest_flowcheck.probes.lab import Lab

Step: TypeAlias = tuple[str, int] | tuple[str, int, int]
"""`("begin", 0)`: a new loop on thread 0, where none runs; `("end", 0)`: it ends; `("get", 0, 2)`: two tasks of it ask for its
client at once, and use it; `("use", 0)`: what was got last there is used; `("aclose", 0)`; `("close", -1)`: from no loop."""

MAY_RAISE = "Closed"


class Scenario(NamedTuple):
    """What happens, in order."""

    turns: int
    """How many turns of the loop it takes to make a client."""
    steps: tuple[Step, ...]


@dataclass
class Model:
    """What a cache is: a client for each loop that asked, until that loop's `aclose`, a `close`, or the loop's end."""

    raises: bool
    """Declared: `get` raises behind a close."""
    has: dict[int, str] = field(default_factory=dict[int, str])
    """The client of the loop on this thread."""
    shut: bool = False
    """Something was closed; where the cache raises then, it may."""

    def may_raise(self) -> bool:
        """Whether `get` may say Closed."""
        return self.raises and self.shut

    def gets(self, thread: int, name: str) -> None:
        """This loop's client, from now on."""
        self.has[thread] = name

    def forgets(self, thread: int | None, *, shut: bool = True) -> None:
        """This loop's client is gone, or all are."""
        self.shut = self.shut or shut
        if thread is None:
            self.has.clear()
        else:
            self.has.pop(thread, None)


def sensible(steps: Sequence[tuple[str, int, int]], *, first: Sequence[int] = ()) -> tuple[Step, ...]:
    """The steps without those that make no sense where they stand: a call on a thread where no loop runs begins one."""
    alive, holding, kept = set(first), set[int](), list[Step]([("begin", thread) for thread in first])
    for what, thread, many in steps:
        if not what:
            continue
        if what == "close":
            holding.clear()
            kept.append((what, -1))
        elif what == "end":
            if thread in alive:
                alive.discard(thread)
                holding.discard(thread)
                kept.append((what, thread))
        else:
            if thread not in alive:
                alive.add(thread)
                kept.append(("begin", thread))
            if what == "get":
                holding.add(thread)
                kept.append((what, thread, many))
            elif what != "use" or thread in holding:
                if what == "aclose":
                    holding.discard(thread)
                kept.append((what, thread))
    return tuple(kept)


def scenarios(
    words: Sequence[str], *, threads: int, most: int, slow: bool, many: int = 1, first: Sequence[int] = ()
) -> SearchStrategy[Scenario]:
    """Scenarios of these words; see `Step`.

    Args:
        words: those that occur; one that stands twice occurs twice as often.
        threads: on how many threads loops run.
        most: at most so many words.
        slow: making a client may take turns of the loop.
        many: up to so many tasks ask at once.
        first: threads on which a loop runs from the beginning.
    """
    # as many as there may be, of which some are nothing: lists would mostly be short, and much like each other
    step = st.tuples(st.sampled_from(["", *words]), st.integers(0, threads - 1), st.integers(1, many))
    steps = st.tuples(*[step] * most).map(lambda drawn: sensible(drawn, first=first))
    return st.builds(Scenario, st.integers(0, 3) if slow else st.just(0), steps)


def table(scenario: Scenario) -> str:
    """The scenario for a failure message."""
    lines = [f"making a client takes {scenario.turns} turns of its loop"] if scenario.turns else []
    return "\n".join(lines + [told(step) for step in scenario.steps])


def told(step: Step) -> str:
    """A step in words."""
    what, thread, *many = step
    if what == "close":
        return "close(), without a loop"
    where = f"thread {chr(ord('A') + thread)}"
    if what == "begin":
        return f"{where}: a loop begins"
    if what == "end":
        return f"{where}: its loop ends"
    times = f" in {many[0]} tasks at once" if many and many[0] > 1 else ""
    return f"{where}: {'use what was got' if what == 'use' else f'{what}()'}{times}"


def for_all(
    lab: Lab,
    strategy: SearchStrategy[Scenario],
    *,
    examples: int,
    needs: str | None = None,
) -> None:
    """Play drawn scenarios, each with a fresh cache, on threads that stay.

    `needs`: the rule whose affair it is that an `aclose` closes nothing.
    """
    with ExitStack() as stack:
        stages: list[Loops] = []

        def scenario(drawn: Scenario) -> None:
            if not stages:
                stages.append(stack.enter_context(loops(lab, None)))
            with factory(lab, turns=drawn.turns) as made, lab.instance(factory=made) as it:
                stages[0].cache = it.raw
                play = Play(lab, stages[0], Model(not reopens(lab)), needs)
                try:
                    for step in drawn.steps:
                        play.step(step)
                except Judgement:
                    stages.pop().abandon()  # one of its loops may be frozen
                    raise
                finally:
                    play.end()

        def reproduce(drawn: Scenario) -> str:
            return _script.program(lab, drawn.turns, drawn.steps)

        forall(lab, scenario, strategy, examples=examples, describe=table, reproduce=reproduce)


class Play:
    """One scenario under way."""

    def __init__(self, lab: Lab, stage: Loops, model: Model, needs: str | None) -> None:
        self.lab, self.model, self._needs = lab, model, needs
        self._stage = stage
        self._loops: dict[int, Loop] = {}
        self._got: dict[int, Any] = {}
        self._seen: set[str] = set()

    def step(self, step: Step) -> None:
        """Play it, and compare with the model."""
        what, thread, *many = step
        if what == "begin":
            self._loops[thread] = self._stage.begin(self._threads(thread))
            self._got.pop(thread, None)
        elif what == "end":
            self._loops[thread].end()
            del self._loops[thread]
            self.model.forgets(thread, shut=False)
        elif what == "get":
            self._get(thread, many[0])
        elif what == "use":
            self._use(thread)
        elif what == "aclose":
            self._aclose(thread)
        else:
            self._close()

    def end(self) -> None:
        """Its loops end."""
        self._stage.forget()

    def _threads(self, number: int) -> Thread:
        while len(self._stage.threads) <= number:
            self._stage.thread()
        return self._stage.threads[number]

    def _get(self, thread: int, many: int) -> None:
        lab, loop = self.lab, self._loops[thread]
        had, made = self.model.has.get(thread), len(makings(lab))
        what = "get" if many == 1 else f"get in {many} tasks"
        call = loop.start(what, lambda cache: at_once(cache, many))
        gots: list[Got] = result(lab, call)
        if self.model.may_raise() and all(lab.is_a(given.refused, Closed) for given in gots):
            return
        names = list(dict.fromkeys(client_of(lab, given, of=call.what).name for given in gots))
        lab.check(len(names) == 1, f"{call.what} gave {' and '.join(names)}", "one client for one loop")
        expected = f"{had}, as before" if had is not None else "a client of its own, made now"
        right = names[0] == had if had is not None else names[0] not in self._seen
        lab.check(right, f"{call.what} gave {names[0]}{self._whose(names[0], thread)}", expected)
        begun = makings(lab)[made:]
        lab.check(
            len(begun) == (had is None),
            f"{call.what} had {len(begun)} made: {', '.join(begun)}",
            "a loop's client is made once",
        )
        self._seen.add(names[0])
        self._got[thread] = gots[0].client
        self.model.gets(thread, names[0])

    def _whose(self, name: str, thread: int) -> str:
        others = [
            loop.name for number, loop in self._loops.items() if number != thread and self.model.has.get(number) == name
        ]
        if others:
            return f", which is {others[0]}'s"
        return ", which was closed, or made for another loop" if name in self._seen else ""

    def _use(self, thread: int) -> None:
        """Only where the model says that it is open."""
        if self.model.has.get(thread) is None:
            return
        client, loop = self._got[thread], self._loops[thread]
        call = loop.start(f"use of {self.model.has[thread]}", lambda _: client.use())
        call.join()
        self.lab.check(call.error is None, f"{call.what} raised {call.error!r}", "it is open: nobody has closed it")

    def _aclose(self, thread: int) -> None:
        lab, loop = self.lab, self._loops[thread]
        had, before = self.model.has.get(thread), len(closes(lab))
        call = loop.start("aclose", aclosed)
        result(lab, call)
        expected = [f"close of {had} #1"] if had is not None else []
        # what becomes of those that nobody has any more, of dead loops or behind a close(), is not asked here
        held = tuple(f"close of {name} #" for name in self.model.has.values())
        begun = [name for name in closes(lab)[before:] if name.startswith(held)]
        if self._needs is not None and expected and not begun:
            raise Inconclusive(f"{call.what} did not close {had}", because_of=self._needs)
        lab.check(
            begun == expected,
            f"{call.what} brought about: {', '.join(begun) or 'no close of any client'}",
            f"just the {expected[0]}" if expected else "nothing: this loop has no client",
        )
        self.model.forgets(thread)
        self._got.pop(thread, None)

    def _close(self) -> None:
        call = self.lab.call("close() without a loop", offered(self._stage.cache, "close", "client"))
        result(self.lab, call)
        self.model.forgets(None)
        self._got.clear()


async def at_once(cache: Any, many: int) -> list[Got]:
    """So many tasks ask at once."""
    if many == 1:
        return [await got(cache)]
    import anyio

    gots: list[Got] = []

    async def one() -> None:
        gots.append(await got(cache))

    async with anyio.create_task_group() as group:
        for _ in range(many):
            group.start_soon(one)
    return gots
