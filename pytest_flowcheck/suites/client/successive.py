"""CLI-02, 03, 10: loops that come one after the other."""

from __future__ import annotations

import asyncio
import gc
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import AdapterError, Inconclusive, NotTestable
from pytest_flowcheck.probes.calls import is_cancellation
from pytest_flowcheck.probes.loops import new_loop, run
from pytest_flowcheck.probes.needs import TRIO, need
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.client._clients import Factory, factory, here, realities
from pytest_flowcheck.suites.client._loops import kinds, on_thread
from pytest_flowcheck.suites.client._play import at_once
from pytest_flowcheck.suites.client._shared import Got, aclosed, client_of, fetched, got, makings, may_refuse, reopens

if TYPE_CHECKING:
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab


def ways(lab: Lab) -> list[tuple[str, bool]]:
    """The kinds of loops and of clients to try: the usual loop with both, another one with a fake."""
    usual, *others = kinds(lab)
    if usual == "trio":
        need(TRIO)
    return [*((usual, real) for real in realities(lab)), *((kind, False) for kind in others)]


@rule("CLI-02")
def successive_runs_each_work(lab: Lab) -> None:
    """Successive `asyncio.run` calls each work; none meets "bound to a different event loop" or "Event loop is closed".

    Intent: Scripts, tests and worker threads call `asyncio.run` again and again; what was cached for one run must not be handed to the next.

    Usual cause: A module-level client, or one for each thread; an `asyncio.Lock` that belongs to the first loop on which somebody had to wait for it.

    Proof: On one thread, four loops run one after the other, and in each two tasks ask at once and use what they get; every other loop closes its client before it ends. With fakes, which are bound to their loop; with real `httpx.AsyncClient`s against a server on loopback where httpx is installed; and on uvloop's loops where that is.

    Source: dynamiq pull request 673; httpx issue 914, "RuntimeError: Event loop is closed".
    """
    for kind, real in ways(lab):
        with factory(lab, real=real, turns=2) as made, lab.instance(factory=made) as it:
            _successive(lab, it, kind)


_RUNS = 4


def _successive(lab: Lab, it: Instance, kind: str) -> None:
    seen: list[object] = []  # the loops, so that none is at another one's address: that is CLI-03's business
    came: list[tuple[list[Got], BaseException | None]] = []

    async def main() -> None:
        seen.append(here())
        gots = await at_once(it.raw, 2)
        error = None
        if len(seen) % 2 == 0 and (reopens(lab) or len(seen) == _RUNS):
            try:
                await aclosed(it.raw)
            except BaseException as raised:
                if is_cancellation(raised) or isinstance(raised, AdapterError):
                    raise
                error = raised
        came.append((gots, error))

    def all_runs() -> None:
        for _ in range(_RUNS):
            run(kind, main)

    on_thread(lab, f"{_RUNS} runs of {kind}, one after the other", all_runs)
    for number, (gots, error) in enumerate(came, 1):
        for given in gots:
            client_of(lab, given, of=f"run {number} of {kind} on one thread")
        lab.check(error is None, f"run {number} of {kind} on one thread: aclose raised {error!r}", "aclose returns")


# --- CLI-03 -------------------------------------------------------------------------------------------------------------

_ROUNDS, _AT_ONCE, _HELD = 40, 48, 5


@rule("CLI-03")
def a_loop_at_a_dead_loops_address_gets_its_own(lab: Lab) -> None:
    """A new loop at a dead loop's address gets a new client.

    Intent: What is known by its address is taken for another as soon as the memory is used again, and that is soon.

    Usual cause: A dict whose keys are `id(loop)`, because loops were thought not to be hashable, or in order not to hold them.

    Proof: Loops are made until one lies where a dead one lay, those that don't being kept meanwhile, so that the memory can only be used for this; then that one asks. If there never is such a loop, NOT-TESTABLE.

    Source: dynamiq pull request 673; Python documentation, `id`: "two objects with non-overlapping lifetimes may have the same id() value".
    """
    for kind in kinds(lab):
        with factory(lab) as made, lab.instance(factory=made) as it:
            search = (_Trio if kind == "trio" else _Asyncio)(lab, it.raw, kind)
            on_thread(lab, "loops one after the other, at each other's addresses", search.until_a_twin)
            if search.error is not None:
                raise Inconclusive(f"get raised {search.error!r}", because_of="CLI-02")
            if search.twin is None:
                raise NotTestable(f"no loop of {kind} came to lie where a dead one had lain; {search.held()}")
            given, new = search.twin
            lab.check(
                new and bool(given.name),
                f"on a loop at the address of a dead one, {given}; for it there was {'one' if new else 'none'} made",
                "a client of its own, made now",
            )


class _Search:
    """Loops come and go until one lies where a dead one lay. All of it on one thread; holds no client."""

    def __init__(self, lab: Lab, cache: Any, kind: str) -> None:
        self._lab, self._cache, self._kind = lab, cache, kind
        self._dead: dict[int, Any] = {}
        self.twin: tuple[Got, bool] | None = None
        """What it got, and whether that was made for it."""
        self.error: BaseException | None = None
        """Of a get on another loop."""

    def until_a_twin(self) -> None:
        """Until there is one, or none is to be expected."""
        for number in range(_ROUNDS):
            if not self._free() and self._dead:
                gc.collect()
            if number > _HELD and not self._free():
                return
            self._one_more(self._free())
            if self.twin is not None or self.error is not None:
                return

    def held(self) -> str:
        """Why there was none."""
        alive = sum(1 for loop in self._dead.values() if loop() is not None)
        return f"of {len(self._dead)} loops that have ended {alive} are still referred to"

    def _free(self) -> set[int]:
        """Where dead loops lay that nothing refers to any more."""
        return {address for address, loop in self._dead.items() if loop() is None}

    def _one_more(self, free: set[int]) -> None:
        """Let one loop ask, if possible at one of these addresses."""
        raise NotImplementedError

    async def _visit(self) -> None:
        """On a loop: ask; and where a dead one has lain, use what is given."""
        loop, before = here(), len(makings(self._lab))
        if id(loop) in self._dead:
            self.twin = await got(self._cache), len(makings(self._lab)) > before
            return
        try:
            await fetched(self._cache)
        except AdapterError:
            raise
        except Exception as error:  # noqa: BLE001 - it is told, and is another rule's affair
            self.error = error
        self._dead[id(loop)] = weakref.ref(loop)


class _Asyncio(_Search):
    def _one_more(self, free: set[int]) -> None:
        make, others = new_loop(self._kind), list[asyncio.AbstractEventLoop]()
        loop = make()
        while free and id(loop) not in free and len(others) < _AT_ONCE:
            others.append(loop)
            loop = make()
        for other in others:
            other.close()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(self._visit())


class _Trio(_Search):
    def _one_more(self, free: set[int]) -> None:
        others: list[Any] = []

        async def main() -> None:
            if free and id(here()) not in free and len(others) < _AT_ONCE:
                others.append(here())
            else:
                await self._visit()
                others.clear()

        while True:
            run("trio", main)
            if not others:
                return


# --- CLI-10 -------------------------------------------------------------------------------------------------------------


@rule("CLI-10")
def nothing_holds_what_is_gone(lab: Lab) -> None:
    """Once a loop is gone nothing holds its client or the loop: no growth over 100 loops, no ResourceWarning.

    Intent: A worker that calls `asyncio.run` for each job lives for months; each loop has sockets, and each client connections.

    Usual cause: A dict of loops that nobody tidies. Or a `WeakKeyDictionary` whose values, the clients, refer to their keys, the loops, as an `aiohttp.ClientSession` always does and an open connection of httpx too: then no key ever dies.

    Proof: Half of the loops come and go as they are, the other half close their client first; half of the clients hold their loop. Loops and clients are looked after by weak references, and counted after a collection; a few that wait for the next loop to be tidied up are no growth. ResourceWarnings count where clients were closed. With real clients, the server counts the connections that are left.

    Source: Python documentation, `weakref.WeakKeyDictionary`; aiohttp, "Unclosed client session".
    """
    for kind, real in ways(lab):
        rounds = lab.repeated(100) // 2 if kind == lab.subject.backend and not real else 10
        for closes in (True, False):
            with factory(lab, real=real) as made, lab.instance(factory=made) as it:
                with recorded() as warned:
                    loops, errors = _come_and_go(lab, it, kind, made, rounds, closes)
                    gc.collect()
                told = f"{rounds} loops of {kind} have come and gone{' and closed their clients' * closes}"
                _gone(lab, made, loops, told)
                if errors:
                    raise Inconclusive(f"on one of {rounds} loops, {errors[0]}", because_of="CLI-02")
                if closes:
                    _quietly(lab, warned, rounds, told)
                if closes and real:
                    lab.until(lambda made=made: not made.server.open, "no connection is open any more", needs="CLI-06")  # type: ignore[misc]


def _gone(lab: Lab, made: Factory, loops: list[Callable[[], Any]], told: str) -> None:
    """Of these loops, and of the clients that were made, hardly any is left."""
    alive = sum(1 for loop in loops if loop() is not None)
    for what, count in (("loops", alive), ("clients", len(made.alive))):
        lab.check(
            count < max(5, len(loops) // 4),
            f"{told}, and {count} {what} are still referred to",
            "as good as none: who is gone leaves nothing behind",
            leaked=True,
        )


def _quietly(lab: Lab, warned: list[warnings.WarningMessage], rounds: int, told: str) -> None:
    """Nothing was left open in every round. A single one may come from anywhere: the collector asks nobody when it comes."""
    left = [str(w.message) for w in warned if issubclass(w.category, ResourceWarning)]
    first = f": the first is {left[0]!r}" if left else ""
    lab.check(
        len(left) < rounds // 2, f"{told}, and there were {len(left)} ResourceWarnings{first}", "none", leaked=True
    )


def _come_and_go(
    lab: Lab, it: Instance, kind: str, made: Factory, rounds: int, closes: bool
) -> tuple[list[Callable[[], Any]], list[str]]:
    """So many loops, one after the other: weak references to them, and what went wrong on them."""
    loops: list[Callable[[], Any]] = []
    errors: list[str] = []

    async def attempted(what: str, call: Callable[[], Any]) -> Any:
        try:
            return await call()
        except AdapterError:
            raise
        except Exception as error:  # noqa: BLE001 - it is told, and is another rule's affair
            if not may_refuse(lab, error):
                errors.append(f"{what} raised {error!r}")
            return None

    async def main() -> None:
        loops.append(weakref.ref(here()))
        client = await attempted("get", lambda: fetched(it.raw))
        if client is not None:
            await attempted("using the client", client.use)
            del client
        if closes:
            await attempted("aclose", lambda: aclosed(it.raw))

    def all_of_them() -> None:
        for number in range(rounds):
            made.hold = number < rounds // 2  # these first: a loop that is held lies at nobody else's address
            run(kind, main)

    on_thread(lab, f"{rounds} runs of {kind}, one after the other", all_of_them)
    return loops, errors


def recorded() -> AbstractContextManager[list[warnings.WarningMessage]]:
    """All warnings from here on, kept."""
    return warnings.catch_warnings(record=True, action="always")
