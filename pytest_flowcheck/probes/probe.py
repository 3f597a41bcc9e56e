"""The probe: the task body that the kit hands to a subject."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from pytest_flowcheck.probes import wire

if TYPE_CHECKING:
    from pytest_flowcheck.probes.gates import Gates
    from pytest_flowcheck.probes.timeline import Timeline


class Bench:
    """Where the probes of one scenario report and wait. A probe that comes late finds its own bench, never the next one's."""

    def __init__(self, timeline: Timeline, gates: Gates) -> None:
        self.timeline, self.gates = timeline, gates
        self.token = secrets.token_hex(8)
        _benches[self.token] = self

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
    returns, or else the name of the call, so that every call has a result of its own.
    """

    def __init__(
        self,
        bench: Bench,
        name: str,
        does: Callable[..., Any] | None = None,
        *,
        gated: bool = True,
        adopt: Callable[[int], None] | None = None,
    ) -> None:
        self._token, self._owner, self._adopt = bench.token, os.getpid(), adopt or _ignore
        self._does, self._gated = does, gated
        self._address: wire.Address | None = None
        self.name = name
        self.__name__ = self.__qualname__ = name

    def __repr__(self) -> str:
        return f"<probe {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        bench = _benches.get(self._token) if os.getpid() == self._owner else None
        address = bench.address(self._adopt) if bench is not None else self._address
        return _revive, (self._token, self._owner, self.name, self._does, self._gated, address)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = call_name(self.name, args)
        if os.getpid() != self._owner:
            return self._call_remotely(call, args, kwargs)
        bench = _benches.get(self._token)
        if bench is None:
            return call  # its rule is over: nobody listens any more
        bench.timeline.here("started", call)
        if self._gated:
            bench.gates.wait(call)
        try:
            value = self._does(*args, **kwargs) if self._does else call
        except BaseException:
            bench.timeline.here("raised", call)
            raise
        bench.timeline.here("ended", call)
        return value

    def _call_remotely(self, call: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._address is None:
            raise RuntimeError(
                f"{self!r} was inherited by a fork; only a pickled probe can report from another process"
            )
        with wire.exchange(self._address, self._token, call) as line:
            line.say("started" if self._gated else "started-free")
            try:
                value = self._does(*args, **kwargs) if self._does else call
            except BaseException:
                line.say("raised")
                raise
            line.say("ended")
        return value

    async def aio(self, *args: Any, **kwargs: Any) -> Any:
        """The same on a loop: suspends at the gate, honours cancellation there (which counts as *raised*)."""
        call = call_name(self.name, args)
        bench = _benches.get(self._token)
        if bench is None or os.getpid() != self._owner:
            return self(*args, **kwargs)
        bench.timeline.here("started", call)
        try:
            if self._gated:
                await bench.gates.wait_async(call)
            value = self._does(*args, **kwargs) if self._does else call
        except BaseException:
            bench.timeline.here("raised", call)
            raise
        bench.timeline.here("ended", call)
        return value


def _revive(
    token: str, owner: int, name: str, does: Callable[..., Any] | None, gated: bool, address: wire.Address | None
) -> Probe:
    """Unpickle: a double that finds the bench by its token in the owner's process, or reports over the wire elsewhere."""
    probe = Probe.__new__(Probe)
    vars(probe).update(_adopt=_ignore, _token=token, _owner=owner, _does=does, _gated=gated, _address=address)
    probe.name = probe.__name__ = probe.__qualname__ = name
    return probe


def _ignore(_: int) -> None:
    """Where nobody asks whose threads are whose."""
