"""CLI-08: creations that are cancelled, or fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.client._clients import MakingFailed
from pytest_flowcheck.suites.client._shared import ask, client_of, makings, of_kit, result, stage

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.suites.client._loops import Loops


@rule("CLI-08", "slow_factory")
def a_failed_creation_poisons_nothing(lab: Lab) -> None:
    """A cancelled first `get` poisons nothing, and other waiters of that creation still get the client; a factory that failed is asked again next time.

    Intent: The first request may time out while its client connects; that must cost this request, not the process.

    Usual cause: A future of the creation that is cancelled with the first caller, and is awaited by all the others; a waiter's cancellation that goes through to the shared creation; a lock or a flag "is being made" that nobody takes back; a failed future that stays in the cache.

    Proof: The creation is at its gate, and the first caller is cancelled, alone and with others waiting; or one of the others is. Everybody else must get a client that works. Then a creation fails: who was there may be told, who comes later must have another one made.

    Source: dynamiq pull request 673; asyncio documentation, `shield`.
    """
    with stage(lab, gated={"make"}) as (_, loops):
        _cancelled(lab, loops, [0], waiting=0)
    with stage(lab, gated={"make"}) as (_, loops):
        _cancelled(lab, loops, [0], waiting=2)
    with stage(lab, gated={"make"}) as (_, loops):
        _cancelled(lab, loops, [1], waiting=2)
    with stage(lab, gated={"make"}, failing={1}) as (_, loops):
        _failed(lab, loops)


def _cancelled(lab: Lab, loops: Loops, which: list[int], *, waiting: int) -> None:
    """One caller has a client made, others wait for it; these are cancelled. The rest gets one, and who comes later."""
    loop = loops.begin()
    calls = [ask(loop, "the first get")]
    lab.until(lambda: calls[0].done or "making client 1" in lab.live(), "a client is being made", needs="CLI-01")
    calls += [ask(loop, f"get {number + 2}, which waits") for number in range(waiting)]
    loop.answers(while_="a client is being made", needs="CLI-05")
    _made_once(lab)
    for number in which:
        lab.note(f"{calls[number].what} is cancelled")
        calls[number].cancel()
    loop.answers(while_="a client is being made", needs="CLI-05")
    lab.open_all()
    for number in which:
        calls[number].join()
    told = ", ".join(calls[number].what for number in which)
    names = [
        client_of(lab, call, of=f"{call.what}, after {told} was cancelled").name
        for number, call in enumerate(calls)
        if number not in which
    ]
    later = client_of(lab, ask(loop, "a later get"), of=f"a later get, after {told} was cancelled")
    lab.check(
        len({*names, later.name}) == 1,
        f"after {told} was cancelled the others got {', '.join(names)}, and a later get {later.name}",
        "one client",
    )


def _failed(lab: Lab, loops: Loops) -> None:
    """A creation fails that two wait for; the next one succeeds."""
    loop = loops.begin()
    first = ask(loop, "the first get")
    lab.until(lambda: first.done or "making client 1" in lab.live(), "a client is being made", needs="CLI-01")
    second = ask(loop, "get 2, which waits")
    loop.answers(while_="a client is being made", needs="CLI-05")
    _made_once(lab)
    lab.open_all()
    told = result(lab, first).refused
    lab.check(
        of_kit(lab, told, MakingFailed),
        f"the factory raised MakingFailed, and {first.what} {_came(told)}",
        "it is told",
    )
    waited = result(lab, second)
    if not of_kit(lab, waited.refused, MakingFailed):
        client_of(lab, waited, of=f"{second.what} for a creation that failed")
    later = client_of(lab, ask(loop, "a later get"), of="a later get, after the factory had failed once")
    made = makings(lab)
    lab.check(
        len(made) == 2,
        f"{later.name} was got later, and there was {', '.join(made)}",
        "the factory is asked again, once",
    )


def _made_once(lab: Lab) -> None:
    """Raises: Inconclusive, callers don't wait for each other at all."""
    if len(makings(lab)) > 1:
        raise Inconclusive(f"for one loop there was {' and '.join(makings(lab))}", because_of="CLI-01")


def _came(error: BaseException | None) -> str:
    return f"raised {error!r}" if error is not None else "returned"
