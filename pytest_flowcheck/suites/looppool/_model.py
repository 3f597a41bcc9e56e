"""Keyed resources as a small sequential model, and a pool that is played against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from pytest_flowcheck.errors import Violated
from pytest_flowcheck.probes.forall import st
from pytest_flowcheck.suites.looppool._shared import BodyError, acquire, came_to

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab

KEYS: Final = ("a", "b")
Kind: TypeAlias = Literal["object", "falsy", "none"]
Step: TypeAlias = tuple[str, Any]
"""("acquire", key) · ("release", which of the leases, by number) · ("cancelled acquire", key) · ("cancelled release",
number) · ("clear", None) · ("stop", None)."""


class Resource:
    """What `make` gives; each is another one."""

    def __init__(self, name: str, *, truth: bool) -> None:
        self.name, self._truth = name, truth

    def __bool__(self) -> bool:
        return self._truth

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Scenario:
    """What is done, in order, and what kind of resources to."""

    steps: tuple[Step, ...]
    kinds: tuple[Kind, ...]
    """By key."""
    failing: bool
    """All finalizers raise."""
    ttl: float | None

    def __str__(self) -> str:
        kinds = ", ".join(f"{key}: {kind}" for key, kind in zip(KEYS, self.kinds, strict=True))
        lines = [f"TTL {self.ttl}; resources {kinds}{'; finalizers raise' if self.failing else ''}"]
        lines += [f"{number:3}. {told(step)}" for number, step in enumerate(self.steps, 1)]
        return "\n".join(lines)


def told(step: Step) -> str:
    """A step in words."""
    what, which = step
    if "release" in what:
        return f"{what} of the lease that is number {which} (modulo their number)"
    return what if which is None else f"{what}({which!r})"


def SCENARIOS(*, ttl: bool, cancels: bool) -> st.SearchStrategy[Scenario]:  # noqa: N802 - a strategy, by convention
    """Scenarios for a pool that has a TTL, or for one whose calls can be cancelled."""
    keys, leases = st.sampled_from(KEYS), st.integers(0, 3)
    kinds: list[st.SearchStrategy[Step]] = [
        st.tuples(st.just("acquire"), keys),
        st.tuples(st.just("release"), leases),
        st.tuples(st.just("acquire"), keys),
        st.tuples(st.just("clear"), st.none()),
    ]
    if cancels:
        kinds += [
            st.tuples(st.just("cancelled release"), leases),
            st.tuples(st.just("cancelled acquire"), keys),
        ]
    steps = st.lists(st.one_of(kinds), min_size=2, max_size=7).map(tuple)
    after = st.lists(st.tuples(st.just("release"), leases), max_size=2).map(tuple)
    played = st.tuples(steps, after).map(lambda both: (*both[0], ("stop", None), *both[1]))
    kind: st.SearchStrategy[Kind] = st.sampled_from(["object", "falsy", "none"])
    return st.builds(
        Scenario,
        played,
        st.tuples(kind, kind),
        st.booleans(),
        st.sampled_from([None, 0.0]) if ttl else st.none(),
    )


@dataclass(eq=False)
class Live:
    """A resource of the model."""

    number: int
    key: str
    holders: int = 0
    dropped: bool = False
    """Cleared: nobody gets it any more."""
    ended: bool = False
    """The model says that it is finalised, or will be now."""


@dataclass
class Play:
    """One scenario, on a pool and on the model at once.

    The pool's side is what the bodies saw: `made`, each with its number and key, and `finalised`, by number.
    """

    lab: Lab
    scenario: Scenario
    made: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    finalised: list[str] = field(default_factory=list[str])
    """The keys of those that were, in order."""

    def __call__(self) -> None:
        """Play it."""
        lab, scenario = self.lab, self.scenario
        self.current: dict[str, Live] = {}
        self.all: list[Live] = []
        self.leases: list[tuple[Any, Live]] = []
        make, finalize = lab.probe("make", self._make, gated=False), lab.probe("finalize", self._finalize, gated=False)
        with lab.instance(ttl=scenario.ttl, make=make, finalize=finalize) as self.it:
            for step in scenario.steps:
                self._step(step)
                self._agree(told(step))
        self._agree("the pool was left")

    # --- the bodies ------------------------------------------------------------------------------------------------------

    def _make(self, key: str) -> Any:
        kind = self.scenario.kinds[KEYS.index(key)]
        name = f"{key}{sum(1 for k, _ in self.made if k == key) + 1}"
        value = None if kind == "none" else Resource(name, truth=kind == "object")
        self.made.append((key, value))
        return value

    def _finalize(self, value: Any) -> None:
        self.finalised.append("None" if value is None else value.name)
        if self.scenario.failing:
            raise BodyError(f"the finalizer of {value!r} failed")

    # --- the model -------------------------------------------------------------------------------------------------------

    def _hold(self, key: str) -> Live:
        """Somebody acquires: the resource that is there, or a new one."""
        live = self.current.get(key)
        if live is None:
            live = self.current[key] = Live(sum(1 for one in self.all if one.key == key) + 1, key)
            self.all.append(live)
        live.holders += 1
        return live

    def _let_go(self, live: Live) -> None:
        """A holder releases: the last one of what was cleared, or has TTL 0, ends it."""
        live.holders -= 1
        if not live.holders and (live.dropped or self.scenario.ttl == 0):
            self._end(live)

    def _end(self, live: Live) -> None:
        live.ended = True
        if self.current.get(live.key) is live:
            del self.current[live.key]

    def _clear(self, *, at_once: bool) -> None:
        for live in self.all:
            if not live.ended:
                live.dropped = True
                self.current.pop(live.key, None)
                if at_once or not live.holders:
                    self._end(live)

    # --- both ------------------------------------------------------------------------------------------------------------

    def _step(self, step: Step) -> None:
        what, which = step
        if what == "acquire":
            self._acquire(which)
        elif what == "cancelled acquire":
            self._cancelled_acquire(which)
        elif what in ("release", "cancelled release") and self.leases:
            lease, live = self.leases.pop(which % len(self.leases))
            call = self.it.start(f"release({_name(live)})", lambda pool: pool.release(lease))
            if what == "cancelled release":
                call.cancel()
            self._came(call, cancelled=what == "cancelled release")
            if not live.ended:
                self._let_go(live)
        elif what == "clear":
            self._came(self.it.start("clear()", lambda pool: pool.clear()))
            self._clear(at_once=self.lab.declared("clear") == "at_once")
        elif what == "stop":
            self._came(self.it.start("stop()", lambda pool: pool.stop()))
            self._clear(at_once=True)

    def _acquire(self, key: str) -> None:
        call = acquire(self.it, key)
        self._came(call)
        live = self._hold(key)
        value = call.value.value
        if self.scenario.kinds[KEYS.index(key)] != "none" and getattr(value, "name", None) != _name(live):
            self._wrong(f"acquire({key!r}) gave {value!r}", f"{_name(live)}")
        self.leases.append((call.value, live))

    def _cancelled_acquire(self, key: str) -> None:
        """The caller is cancelled at some point of it: he may have got the lease just before, and else holds nothing."""
        before = len(self.made)
        call = acquire(self.it, key)
        call.cancel()
        self.lab.until(lambda: call.done, f"{call.what}, whose caller was cancelled, comes back", hung=True)
        if call.returned:
            self.leases.append((call.value, self._hold(key)))
            return
        # Whether it is made all the same is the pool's choice; the next acquire of the key must find out, and so do we.
        lease = acquire(self.it, key, " after a cancelled one")
        self._came(lease)
        known = self.current.get(key)
        extra = sum(1 for made, _ in self.made[before:] if made == key) - (known is None)
        for _ in range(max(0, extra)):  # one that was made for nobody ended by itself
            gone = Live(sum(1 for one in self.all if one.key == key) + 1, key, ended=True)
            self.all.append(gone)
        self.leases.append((lease.value, self._hold(key)))

    def _came(self, call: Call[Any], *, cancelled: bool = False) -> None:
        """Wait for it; it raises nothing, but what it says of a finalizer that raised."""
        self.lab.timeline.wait_for(lambda: call.done)  # of many; that it hangs is proven all the same
        if call.error is not None and not cancelled and not self.scenario.failing:
            self._wrong(came_to(call), "it returns")
        if call.error is not None and call.what.startswith("acquire"):
            self._wrong(came_to(call), "a lease")

    def _agree(self, after: str) -> None:
        """What was made and finalised is what the model says."""
        made = sorted(key for key, _ in self.made)
        expected = sorted(live.key for live in self.all)
        if made != expected:
            self._wrong(f"after {after}: make was called for {_listed(made)}", f"for {_listed(expected)}")
        ended = sorted(self._told(live) for live in self.all if live.ended)
        self.lab.until(
            lambda: len(self.finalised) >= len(ended),
            f"after {after}: {_listed(ended)} {'is' if len(ended) == 1 else 'are'} finalised",
            expected="what nobody holds any more is finalised: at its TTL, at clear, at stop",
        )
        if sorted(self.finalised) != ended:
            self._wrong(f"after {after}: there were finalised {_listed(sorted(self.finalised))}", _listed(ended))

    def _told(self, live: Live) -> str:
        return "None" if self.scenario.kinds[KEYS.index(live.key)] == "none" else _name(live)

    def _wrong(self, facts: str, expected: str) -> None:
        raise Violated(facts, expected=expected, proof="each step was over before the next began: no timing is in it")


def _name(live: Live) -> str:
    return f"{live.key}{live.number}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "nothing"
