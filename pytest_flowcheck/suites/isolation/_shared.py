"""What several rules of this suite share: an opened service, and waits that blame the right rule."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import AdapterError, Inconclusive, Judgement, NotTestable, Violated
from pytest_flowcheck.probes import instance
from pytest_flowcheck.protocols import Refused

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.probe import Probe

LIMIT: Final = 0.05
"""Seconds that leaving may wait for a run that never ends, where a rule asks for that. No rule measures it."""


class BodyError(Exception):
    """A run's own error."""


def fails() -> None:
    """A body that fails."""
    raise BodyError("this run fails")


class House:
    """An opened service. Each run has a probe and a session of its own, both by the run's name."""

    def __init__(self, lab: Lab, it: Instance) -> None:
        self.lab, self.it = lab, it

    # --- calls -----------------------------------------------------------------------------------------------------------

    def run(
        self,
        name: str,
        does: Callable[[], Any] | None = None,
        *,
        gated: bool = True,
        then: Sequence[str] = (),
        admitted: bool = True,
        heeds: bool = True,
    ) -> Call[Any]:
        """Begin a run. `then`: names of what it does in parallel afterwards. `admitted`: the hook, if any, lets it pass.
        `heeds`: it can be cancelled at its gate, if it is a coroutine."""
        probe = self.lab.probe(name, does, gated=gated)
        body = probe if heeds else Heedless(probe)
        if admitted:
            self.lab.open(asked(name))
        more = {"then": [self.lab.probe(part, gated=False) for part in then]} if then else {}
        return self.it.start(f"run({name})", lambda service: service.run(body, session=name, **more))

    def start(self, name: str, does: Callable[[], Any] | None = None, *, gated: bool = True) -> Call[Any]:
        """Begin a run that nobody waits for. What the service gives is dropped."""
        body = self.lab.probe(name, does, gated=gated)
        self.lab.open(asked(name))
        return self._ask("start", name, lambda service: _forget(service.start(body, session=name)))

    def cancel(self, name: str) -> Call[Any]:
        """Begin to cancel this run."""
        return self._ask("cancel", name, lambda service: service.cancel(session=name))

    def short_op(self, session: str = "another") -> Call[Any]:
        """Begin a short operation, on a session that is in no run."""
        return self.it.start("short_op()", lambda service: service.short_op(session=session))

    def queued(self) -> int:
        """How many the service says are waiting.

        Raises:
            AdapterError: it says no number.
        """
        call = self.it.start("queued()", lambda service: service.queued())
        said = call.result()
        if isinstance(said, bool) or not isinstance(said, int):
            raise AdapterError(f"queued() gave {said!r}; expected how many runs wait, a whole number")
        return said

    def offers(self, method: str) -> bool:
        """Whether the adapter has this optional method."""
        return hasattr(self.it.raw, method)

    def _ask(self, method: str, name: str, ask: Callable[[Any], Any]) -> Call[Any]:
        if not self.offers(method):
            raise AdapterError(
                f"the service has no method {method!r}; where the system has no words for it, let it raise "
                "Inexpressible with a sentence that says so"
            )
        return self.it.start(f"{method}({name})", ask)

    # --- waits -----------------------------------------------------------------------------------------------------------

    def runs(self, *names: str) -> bool:
        """Whether these are in flight, by their own word."""
        live = self.lab.live()
        return all(name in live for name in names)

    def begun(self, name: str) -> bool:
        """Whether it was ever in flight."""
        return name in self.lab.started()

    def in_flight(self, call: Call[Any], name: str, *, needs: str | None = "ISO-02") -> None:
        """Wait until this run is at its gate.

        Raises:
            Inconclusive: it never is, because of `needs`.
        """
        self.lab.until(
            lambda: call.error is not None or self.runs(name),
            f"the run {name!r} is in flight",
            expected="a slot is free",
            needs=needs,
        )
        if not self.runs(name):
            if needs is None:
                self.lab.check(False, came_to(call), f"the run {name!r} is in flight: a slot is free")
            raise Inconclusive(f"{came_to(call)} while a slot was free", because_of=needs)

    def fill(self, *names: str) -> list[Call[Any]]:
        """Take these slots with runs that are stuck at their gates."""
        calls = [self.run(name) for name in names]
        for call, name in zip(calls, names, strict=True):
            self.in_flight(call, name)
        return calls

    def fits(self, name: str, when: str) -> Call[Any]:
        """A slot is free: this run is in flight at once. Where it is refused, once more when nothing moves: the slot of a run
        comes back with its end, not with the news of it."""
        call = self.run(name)
        self.lab.until(
            lambda: call.error is not None or self.runs(name),
            f"{when}, the run {name!r} is in flight",
            expected="each run gives its slot back, however it ended",
        )
        if not self.runs(name) and self.lab.is_a(call.error, Refused):
            self.lab.settle()
            call = self.run(name)
            self.lab.until(lambda: call.error is not None or self.runs(name), f"{when}, the run {name!r} is in flight")
        self.lab.check(
            self.runs(name),
            f"{when}, {came_to(call)}",
            "it is in flight: each run gives its slot back, however it ended",
        )
        return call

    def waits(self, count: int, *, while_: str = "", needs: str | None = None) -> None:
        """The service says that so many wait. At rest at the latest."""
        try:
            for _ in range(8):  # a moment for whoever is on his way
                if self.queued() == count:
                    return
            self.lab.settle()
            said = self.queued()
        except Violated as violated:
            if needs is None:
                raise
            raise Inconclusive(violated.facts, because_of=needs) from None
        if said != count and needs is not None:
            raise Inconclusive(f"queued() says {said} while {count} wait", because_of=needs)
        self.lab.check(
            said == count,
            f"queued() says {said}; asked for and not in flight {'is' if count == 1 else 'are'} {count}"
            f"{', while ' + while_ if while_ else ''}",
            f"{count}: who waits is counted",
            absence=True,
        )

    def comes_back(self, call: Call[Any], when: str, expected: str = "", *, needs: str | None = None) -> Call[Any]:
        """Wait until it has; that it never will is the finding, or that of `needs`."""
        self.lab.until(lambda: call.done, f"{call.what} comes back {when}", expected=expected, hung=True, needs=needs)
        return call

    def turns(self, when: str, *, needs: str | None = None) -> None:
        """The loop comes round, and again: a call may go on only in its next turn. Asked for from another thread."""
        for _ in range(3):
            turn = self.it.start("a turn of the loop", lambda _: None)
            self.comes_back(turn, when, "nothing blocks the loop", needs=needs)

    def answers(self, when: str, *, needs: str | None = None) -> None:
        """A short operation completes now."""
        call = self.comes_back(
            self.short_op(), when, "a short operation needs nothing that a run can hold", needs=needs
        )
        self.lab.check(call.error is None, f"{when}, {came_to(call)}", "it completes")

    def at_most(self, bound: int) -> None:
        """Nothing moves, and no more than so many are in flight. Or fewer have been all the time."""
        self.lab.settle()
        live = self.lab.live()
        self.lab.check(
            len(live) <= bound, f"{len(live)} runs are in flight: {', '.join(live)}", f"at most {bound}, its bound"
        )


def asked(name: str) -> str:
    """The gate of the hook, for this run."""
    return f"admit({name!r})"


def _forget(value: Any) -> Any:
    """What came of it once it was awaited is nobody's: an error that waits in a handle must not be kept alive by us."""
    return _awaited_and_dropped(value) if inspect.isawaitable(value) else None


async def _awaited_and_dropped(value: Any) -> None:
    await value


def came_to(call: Call[Any]) -> str:
    """In words."""
    if not call.done:
        return f"{call.what} is under way"
    return f"{call.what} {'returned' if call.error is None else 'raised ' + repr(call.error)}"


def expressible(lab: Lab, call: Call[Any]) -> bool:
    """Whether it could be asked at all. For rules that ask for it by the way."""
    try:
        lab.note(came_to(call))
    except NotTestable as why:
        lab.note(str(why))
        return False
    return True


def queues(lab: Lab) -> bool:
    """Whether a run beyond the bound waits, as declared."""
    return lab.declared("overflow") == "queue"


def lent(lab: Lab) -> int:
    """How many threads the loop of this instance lends to whoever asks for one; 0 where it is called from threads.

    In the selftest 0 as well: the broken engines show that the rules bite, and for that a few slots are enough.
    """
    if not lab.thorough or not lab.claims("async"):
        return 0
    if lab.subject.backend == "trio":
        return 40
    count: int | None = getattr(os, "process_cpu_count", os.cpu_count)()  # what ThreadPoolExecutor asks, from 3.13 on
    return min(32, (count or 1) + 4)


@contextmanager
def opened(lab: Lab, bound: int | None, **options: Any) -> Generator[House]:
    """A fresh service."""
    with lab.instance(max_concurrent_runs=bound, **options) as it:
        yield House(lab, it)


class ByHand:
    """A service that is left while its runs are stuck: the gates stay shut, as they don't when `opened` is left."""

    def __init__(self, lab: Lab, house: House, manager: Any) -> None:
        self.house = house
        self._lab, self._manager = lab, manager
        self._leaving: Call[None] | None = None

    def leave(self) -> Call[None]:
        """Begin to leave, on a thread of its own."""
        self._leaving = self._lab.call("leaving the service", self._leave)
        return self._leaving

    def _leave(self) -> None:
        self._manager.__exit__(None, None, None)

    def end(self) -> None:
        """Leave it if nobody has, with the gates open."""
        self._lab.gates.open_all()
        if self._leaving is None:
            self._leave()


@contextmanager
def by_hand(lab: Lab, bound: int, **options: Any) -> Generator[ByHand]:
    """A fresh service, to be left by `leave`."""
    lab.gates.shut_all()
    subject = lab.subject
    with lab.opening(subject, {"max_concurrent_runs": bound, **options}):
        opener = subject.open(lab.facet, max_concurrent_runs=bound, **options)
        manager = instance.opened(lab, opener, subject.spec, subject.backend)
        it = manager.__enter__()
    opened_by_hand = ByHand(lab, House(lab, it), manager)
    try:
        yield opened_by_hand
    except Judgement as judgement:
        # as `lab.instance` does: a hang on the way out must not hide what was found
        lab.judgement = lab.judgement or judgement
        raise
    finally:
        opened_by_hand.end()


# --- threads ----------------------------------------------------------------------------------------------------------


def threads() -> set[threading.Thread]:
    """Those that are no calls of the kit's; nor of trio's cache, which keeps its idle threads for the whole process."""
    return {
        thread
        for thread in threading.enumerate()
        if not thread.name.startswith(("caller: ", "Trio thread", "flowcheck "))
        and thread is not threading.main_thread()
    }


def told(found: set[threading.Thread]) -> str:
    """Their names."""
    return ", ".join(sorted(repr(thread.name) for thread in found))


# --- what is said on the side -----------------------------------------------------------------------------------------


class Heard(logging.Handler):
    """Log records of warning level or above, and warnings, while it listens."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(logging.WARNING)
        self._lab = lab
        self._records: list[logging.LogRecord] = []
        self.warned: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging."""
        self._records.append(record)
        self._lab.timeline.poke()

    def anything(self) -> bool:
        """Whether something was said: logged, warned, or given to a handler of uncaught errors."""
        warned = any(not issubclass(w.category, DeprecationWarning) for w in self.warned)
        return warned or bool(self._records or self._lab.uncaught)


@contextmanager
def listening(lab: Lab) -> Generator[Heard]:
    """Hear what is logged and warned meanwhile."""
    heard, root, asyncios = Heard(lab), logging.getLogger(), logging.getLogger("asyncio")
    with warnings.catch_warnings(record=True) as heard.warned:
        warnings.simplefilter("always")
        propagates, asyncios.propagate = asyncios.propagate, True
        root.addHandler(heard)
        try:
            yield heard
        finally:
            root.removeHandler(heard)
            asyncios.propagate = propagates


# --- a run that heeds nobody ------------------------------------------------------------------------------------------


class Heedless:
    """A body that is stuck whatever is asked of it. A thread at a gate is so by itself; a coroutine waits there behind a
    shield, and takes no cancellation. Pickles as its probe does."""

    def __init__(self, probe: Probe) -> None:
        self._probe = probe
        self.__name__ = self.__qualname__ = probe.name

    def __call__(self) -> Any:
        return self._probe()

    async def aio(self) -> Any:
        """On a loop."""
        trio = sys.modules.get("trio")
        if trio is not None and trio.lowlevel.in_trio_run():
            with trio.CancelScope(shield=True):
                return await self._probe.aio()
        import asyncio

        waiting = asyncio.ensure_future(self._probe.aio())
        while not waiting.done():
            try:
                await asyncio.shield(waiting)
            except asyncio.CancelledError:
                continue  # it is asked in vain
        return waiting.result()
