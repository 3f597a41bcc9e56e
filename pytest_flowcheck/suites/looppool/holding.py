"""LOP-14, 15: keyed resources that are shared, counted, and finalised once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flowcheck.probes.forall import forall
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.looppool import _script
from pytest_flowcheck.suites.looppool._model import SCENARIOS, Play, Scenario
from pytest_flowcheck.suites.looppool._shared import BodyError, acquire, came_to

if TYPE_CHECKING:
    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab


@rule("LOP-14", "resources", property=True)
def holders_are_counted(lab: Lab) -> None:
    """Any sequence of acquire / release / expire / clear / stop matches a reference-count model: falsy resources, late releases, cancelled releases included.

    Intent: A connection that is closed under one holder by another's release, or never, is the oldest bug of sharing.

    Usual cause: `if entry.value` where `is not None` or a flag is meant, so that an empty resource is made again and again; a release after `clear` that counts down the next generation; a hold that a cancelled caller takes with it.

    Proof: Sequences are drawn, and played one step after the other against a model of a few lines: when a resource is made, who shares it, when it is finalised, and that this happens once. Some resources are falsy or None, some finalizers raise, some callers are cancelled.

    Source: wool's ResourcePool; `contextlib.ExitStack` for what must happen although something else failed.
    """

    def scenario(drawn: Scenario) -> None:
        Play(lab, drawn)()

    forall(
        lab,
        scenario,
        SCENARIOS(ttl=lab.claims("ttl"), cancels="async" in lab.subject.claims.get(lab.facet, ())),
        examples=50,
        describe=str,
        reproduce=lambda drawn: _script.program(lab, drawn),
    )


@rule("LOP-15", "resources")
def keys_are_apart(lab: Lab) -> None:
    """A finalizer that fails neither leaks the others nor blocks stop; one key's slow factory or finalizer doesn't block another key.

    Intent: One database that is down must not take the others along.

    Usual cause: One lock around make and finalize; a `for` over finalizers without `try`.

    Proof: The factory of one key waits at a gate, and another key is acquired; the same with its finalizer. Then three resources are held whose first finalizer raises; after stop, each was finalised.

    Source: wool's ResourcePool, whose lock is held across its factory.
    """
    make, finalize = lab.probe("make", str), lab.probe("finalize")
    with lab.instance(ttl=None, make=make, finalize=finalize) as it:
        slow = acquire(it, "slow")
        lab.until(
            lambda: slow.done or "make('slow')" in lab.live(), "make('slow') runs, held at its gate", needs="LOP-14"
        )
        lab.open("make('quick')")
        quick = _acquired(lab, it, "quick", "while make('slow') is held at its gate")
        lab.open("make('slow')")
        held = slow.result()
        it.start("release(slow)", lambda pool: pool.release(held)).result()
        clearing = it.start("clear()", lambda pool: pool.clear())
        lab.until(lambda: "finalize('slow')" in lab.live(), "finalize('slow') runs, held at its gate", needs="LOP-14")
        lab.open("make('other')", "finalize('other')")
        other = _acquired(lab, it, "other", "while finalize('slow') is held at its gate")
        lab.open_all()
        clearing.join()
        it.start("release(quick)", lambda pool: pool.release(quick)).join()
        it.start("release(other)", lambda pool: pool.release(other)).join()
    failing = Fails("a")
    with lab.instance(
        ttl=None, make=lab.probe("make", str, gated=False), finalize=lab.probe("finalize", failing, gated=False)
    ) as it:
        for key in "abc":
            _acquired(lab, it, key, "in turn")
        stop = it.start("stop()", lambda pool: pool.stop())
        lab.until(lambda: stop.done, "stop() comes back although a finalizer raises", hung=True)
        lab.until(
            lambda: sorted(failing.saw) == ["a", "b", "c"],
            "all three resources were finalised, although the first one's finalizer raised",
            expected="a finalizer that fails leaks no other resource",
        )


class Fails:
    """A finalizer that raises for one of the resources."""

    def __init__(self, which: str) -> None:
        self.which = which
        self.saw: list[str] = []

    def __call__(self, value: str) -> None:
        self.saw.append(value)
        if value == self.which:
            raise BodyError(f"the finalizer of {value!r} failed")


def _acquired(lab: Lab, it: Instance, key: str, when: str) -> Any:
    call = acquire(it, key)
    lab.until(
        lambda: call.done,
        f"acquire({key!r}) comes back {when}",
        expected="one key's factory or finalizer doesn't block another key",
        hung=True,
    )
    lab.check(call.returned and call.value.value == key, f"{when}, {came_to(call)}", f"a lease of {key!r}")
    return call.value
