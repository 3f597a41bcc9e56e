"""The probe: the task body that the kit hands to a subject."""

from __future__ import annotations

import inspect
import os
import secrets
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from pytest_flowcheck.probes import gates, wire

if TYPE_CHECKING:
    from pytest_flowcheck.probes.gates import Gates
    from pytest_flowcheck.probes.timeline import Timeline


class Bench:
    """Where the probes of one scenario report and wait. A probe that comes late finds its own bench, never the next one's."""

    def __init__(self, timeline: Timeline, gates: Gates) -> None:
        self.timeline, self.gates = timeline, gates
        self.token = secrets.token_hex(8)
        self._numbers: defaultdict[str, count[int]] = defaultdict(lambda: count(1))
        _benches[self.token] = self

    def number(self, probe: str) -> int:
        """How many times this numbered probe has been called, this call included. (`wire.Desk`)"""
        return next(self._numbers[probe])

    def report(self, kind: Any, probe: str, pid: int, tid: int, thread: str) -> None:
        """A probe in another process did something. (`wire.Desk`)"""
        self.timeline.append(kind, probe, pid, tid, thread)

    def when_open(self, probe: str, release: Callable[[], None]) -> None:
        """A probe in another process waits at its gate. (`wire.Desk`)"""
        self.gates.when_open(probe, release)

    def address(self, adopt: Callable[[int], None]) -> wire.Address:
        """Where probes of this bench report from other processes; starts the server at the first use."""
        desk = wire.server(adopt)
        desk.desks[self.token] = self
        return desk.address


_benches: WeakValueDictionary[str, Bench] = WeakValueDictionary()


def call_name(name: str, args: tuple[Any, ...]) -> str:
    """How one call of a probe is named in gates, timelines and messages: `item(3, 'c')`; no arguments, no brackets."""
    return f"{name}({', '.join(map(repr, args))})" if args else name


class Probe:
    """A body that reports its start, waits at its gate, does its work, and reports its end.

    A thread calls it, a loop awaits `probe.aio(...)`. It pickles by reference: in this process the copy *is* this
    probe's double on the same gates, in another one it reports over `wire`. Its result is what `does(*args, **kwargs)`
    returns, or else the name of the call, so that every call has a result of its own; on a loop, what `does` returns
    is awaited if it can be.

    `numbered`: it is called with the same arguments again and again, as the attempts of a retry are. Each call is named
    by its number, `fetch #1`, and `does` gets that number first.
    """

    def __init__(
        self,
        bench: Bench,
        name: str,
        does: Callable[..., Any] | None = None,
        *,
        gated: bool = True,
        numbered: bool = False,
        adopt: Callable[[int], None] | None = None,
    ) -> None:
        self._token, self._owner, self._adopt = bench.token, os.getpid(), adopt or _ignore
        self._does, self._gated, self._numbered = does, gated, numbered
        self._address: wire.Address | None = None
        self.name = name
        self.__name__ = self.__qualname__ = name

    def __repr__(self) -> str:
        return f"<probe {self.name}>"

    def _freedom(self, bench: Bench, call: str) -> str:
        return "gated" if self._gated and bench.gates.shut(call) else "free"

    def __reduce__(self) -> tuple[Any, ...]:
        bench = _benches.get(self._token) if os.getpid() == self._owner else None
        address = bench.address(self._adopt) if bench is not None else self._address
        return _revive, (self._token, self._owner, self.name, self._does, self._gated, self._numbered, address)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if os.getpid() != self._owner:
            return self._call_remotely(args, kwargs)
        bench = _benches.get(self._token)
        if bench is None:
            return call_name(self.name, args)  # its rule is over: nobody listens any more
        call, args = self._named(bench.number, args)
        bench.timeline.here("started", call, detail=self._freedom(bench, call))
        if self._gated:
            bench.gates.wait(call)
        try:
            value = self._does(*args, **kwargs) if self._does else call
        except BaseException as error:
            bench.timeline.here("raised", call, detail=type(error).__name__)
            raise
        bench.timeline.here("ended", call)
        return value

    def _named(self, number: Callable[[str], int], args: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
        """The name of this call, and what `does` gets."""
        if not self._numbered:
            return call_name(self.name, args), args
        which = number(self.name)
        return f"{call_name(self.name, args)} #{which}", (which, *args)

    def _call_remotely(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._address is None:
            raise RuntimeError(
                f"{self!r} was inherited by a fork; only a pickled probe can report from another process"
            )
        with wire.exchange(self._address, self._token) as line:
            call, args = self._named(line.number, args)
            line.say("started" if self._gated else "started-free", call)
            try:
                value = self._does(*args, **kwargs) if self._does else call
            except BaseException:
                line.say("raised", call)
                raise
            line.say("ended", call)
        return value

    async def aio(self, *args: Any, **kwargs: Any) -> Any:
        """The same on a loop: suspends at the gate, honours cancellation there (which counts as *raised*)."""
        if os.getpid() != self._owner:
            return await gates.apart(lambda: self(*args, **kwargs))  # the loop goes on while this one is at its gate
        bench = _benches.get(self._token)
        if bench is None:
            return self(*args, **kwargs)
        call, args = self._named(bench.number, args)
        bench.timeline.here("started", call, coroutine=True, detail=self._freedom(bench, call))
        try:
            if self._gated:
                await bench.gates.wait_async(call)
            value = self._does(*args, **kwargs) if self._does else call
            if inspect.isawaitable(value):
                value = await value
        except BaseException as error:
            bench.timeline.here("raised", call, coroutine=True, detail=type(error).__name__)
            raise
        bench.timeline.here("ended", call, coroutine=True)
        return value


def _revive(
    token: str,
    owner: int,
    name: str,
    does: Callable[..., Any] | None,
    gated: bool,
    numbered: bool,
    address: wire.Address | None,
) -> Probe:
    """Unpickle: a double that finds the bench by its token in the owner's process, or reports over the wire elsewhere."""
    probe = Probe.__new__(Probe)
    vars(probe).update(
        _adopt=_ignore, _token=token, _owner=owner, _does=does, _gated=gated, _numbered=numbered, _address=address
    )
    probe.name = probe.__name__ = probe.__qualname__ = name
    return probe


def _ignore(_: int) -> None:
    """Where nobody asks whose threads are whose."""
