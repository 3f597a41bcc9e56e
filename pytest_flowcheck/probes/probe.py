"""The probe: the task body that the kit hands to a subject."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from pytest_flowcheck.probes import wire

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab

_labs: WeakValueDictionary[str, Lab] = WeakValueDictionary()


def register(lab: Lab) -> str:
    """Give the lab a name by which pickled probes find it again."""
    token = secrets.token_hex(8)
    _labs[token] = lab
    return token


def call_name(name: str, args: tuple[Any, ...]) -> str:
    """How one call of a probe is named in gates, timelines and messages: `item(3, 'c')`; no arguments, no brackets."""
    return f"{name}({', '.join(map(repr, args))})" if args else name


class Probe:
    """A body that reports its start, waits at its gate, does its work, and reports its end.

    A thread calls it, a loop awaits `probe.aio(...)`. It pickles by reference: in this process the copy *is* this
    probe's double on the same gates, in another one it reports over `wire`. Its result is what `does(*args, **kwargs)`
    returns, or else the name of the call, so that every call has a result of its own.
    """

    def __init__(self, lab: Lab, name: str, does: Callable[..., Any] | None = None, *, gated: bool = True) -> None:
        self._token, self._owner = lab.token, os.getpid()
        self._does, self._gated = does, gated
        self._address: wire.Address | None = None
        self.name = name
        self.__name__ = self.__qualname__ = name

    def __repr__(self) -> str:
        return f"<probe {self.name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        lab = _labs.get(self._token) if os.getpid() == self._owner else None
        address = lab.address if lab is not None else self._address
        return _revive, (self._token, self._owner, self.name, self._does, self._gated, address)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = call_name(self.name, args)
        if os.getpid() != self._owner:
            return self._call_remotely(call, args, kwargs)
        lab = _labs.get(self._token)
        if lab is None:
            return call  # its rule is over: nobody listens any more
        lab.timeline.here("started", call)
        if self._gated:
            lab.gates.wait(call)
        try:
            value = self._does(*args, **kwargs) if self._does else call
        except BaseException:
            lab.timeline.here("raised", call)
            raise
        lab.timeline.here("ended", call)
        return value

    def _call_remotely(self, call: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._address is None:
            raise RuntimeError(f"{self!r} was inherited by a fork; only a pickled probe can report from another process")
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
        lab = _labs.get(self._token)
        if lab is None or os.getpid() != self._owner:
            return self(*args, **kwargs)
        lab.timeline.here("started", call)
        try:
            if self._gated:
                await lab.gates.wait_async(call)
            value = self._does(*args, **kwargs) if self._does else call
        except BaseException:
            lab.timeline.here("raised", call)
            raise
        lab.timeline.here("ended", call)
        return value


def _revive(
    token: str, owner: int, name: str, does: Callable[..., Any] | None, gated: bool, address: wire.Address | None
) -> Probe:
    """Unpickle: a double that finds the lab by its token in the owner's process, or reports over the wire elsewhere."""
    probe = Probe.__new__(Probe)
    probe._token, probe._owner, probe._does, probe._gated, probe._address = token, owner, does, gated, address
    probe.name = probe.__name__ = probe.__qualname__ = name
    return probe
