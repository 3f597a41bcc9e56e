"""CLI-04, 05, 09: loops that live at once, in several threads."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.probes.loops import run
from pytest_flowcheck.proof.sweep import Outcome, code_of
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.client._clients import realities
from pytest_flowcheck.suites.client._play import for_all, scenarios
from pytest_flowcheck.suites.client._shared import (
    Got,
    aclosed,
    ask,
    client_of,
    closed_now,
    closes,
    fetched,
    got,
    may_refuse,
    result,
    stage,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.suites.client._loops import Loop


@rule("CLI-04", property=True)
def loops_at_once_each_have_their_own(lab: Lab) -> None:
    """Loops living at once in several threads each have their own client, undisturbed.

    Intent: A server has a loop for each worker thread; what happens on one of them is none of the others' business.

    Usual cause: A module-level client; one lock for all loops, held while a client is made; a dict that one thread goes through while another adds to it.

    Proof: Two loops have a client each, with real clients as well where httpx is installed; and where making one may take its time, the second loop must get its own while the first one's is at its gate. Gets, uses and closes on three loops at once are drawn and compared with the model. Last, one thread is parked at each line of the cache's own code while another loop, on another thread, asks and closes.

    Source: asyncio documentation, "Concurrency and Multithreading".
    """
    for real in realities(lab):
        with stage(lab, real=real, gated={"make"}) as (_, loops):
            _undisturbed(lab, loops.begin(), loops.begin())
    words = ("get", "get", "use", "aclose")
    slow = lab.claims("slow_factory")
    for_all(lab, scenarios(words, threads=3, most=7, slow=slow, first=(0, 1, 2)), examples=12, needs="CLI-06")
    _swept(lab)


def _undisturbed(lab: Lab, one: Loop, other: Loop) -> None:
    first = ask(one)
    lab.until(lambda: first.done or "making client 1" in lab.live(), "a client is being made", needs="CLI-01")
    lab.open(*(f"making client {number}" for number in range(2, 9)))
    second = ask(other)
    lab.until(
        lambda: second.done,
        f"{second.what} comes back while {one.name}'s client is being made",
        expected="a client is made for each loop, whatever another loop waits for",
        hung=True,
    )
    lab.open_all()
    theirs = client_of(lab, second)
    mine = client_of(lab, first)
    lab.check(mine.name != theirs.name, f"{one.name} and {other.name} both got {mine.name}", "each its own")
    for loop, had in ((one, mine), (other, theirs)):
        again = client_of(lab, ask(loop, "a later get"))
        lab.check(
            again.name == had.name, f"{loop.name} had {had.name}, and now got {again.name}", f"{had.name}, as before"
        )


@dataclass
class _World:
    """A cache for one schedule of the sweep."""

    raw: Any
    backend: str
    stack: ExitStack

    def visit(self) -> list[Got]:
        """A loop of its own on the calling thread: asks twice, closes, asks again."""

        async def main() -> list[Got]:
            gots = [await got(self.raw), await got(self.raw)]
            await aclosed(self.raw)
            return gots

        return run(self.backend, main)


def _swept(lab: Lab) -> None:
    def arrange() -> _World:
        stack = ExitStack()
        _, loops = stack.enter_context(stage(lab))
        return _World(loops.cache, lab.subject.backend, stack)

    def judge(_: _World, outcome: Outcome) -> str | None:
        seen: dict[str, str] = {}
        for who, end in (("one loop", outcome.first), ("the other loop", outcome.rival)):
            if end is None or end.error is not None:
                continue  # the sweep tells that itself
            for given in end.value:
                if may_refuse(lab, given.refused):
                    break  # the other loop has closed, and this cache with it
                if not given.name:
                    return f"on {who}, {given}"
                if seen.setdefault(given.name, who) != who:
                    return f"both loops got {given.name}"
            if len({given.name for given in end.value if given.name}) > 1:
                return f"{who} got {end.value[0].name}, and then {end.value[1].name}"
        return None

    with stage(lab) as (_, loops):
        code = code_of(loops.cache)
    try:
        lab.sweep(
            arrange,
            _World.visit,
            _World.visit,
            code=code,
            judge=judge,
            names=("get, get and aclose on one loop", "the same on another loop"),
            leave=lambda world: world.stack.close(),
            settle=False,
            limit=24,
            expected="each loop gets a client of its own, the same both times",
            needs="CLI-02",
        )
    except NotTestable as why:
        lab.note(str(why))  # what was shown before stands


@rule("CLI-05", "slow_factory")
def nobody_waits_under_a_thread_lock(lab: Lab) -> None:
    """While a creation or a close is gated, other coroutines of the loop run (no await under a thread lock). Proven from a foreign thread.

    Intent: A thread that waits for a lock is a loop that stands still, with all that it serves; and if who holds the lock waits for that loop, for ever.

    Usual cause: `with threading.Lock(): client = await make()`: the second task of the same loop blocks the thread that the first one needs.

    Proof: A creation is at its gate, and two more tasks of its loop and one of another loop ask. Each of the two loops is then asked from outside, by `call_soon_threadsafe`, to run one more coroutine; that it never will is proven from the kernel. The same while a close is at its gate.

    Source: dynamiq pull request 673; asyncio documentation, "Running Blocking Code".
    """
    with stage(lab, gated={"make", "close"}) as (_, loops):
        one, other = loops.begin(), loops.begin()
        calls = [ask(one)]
        lab.until(lambda: calls[0].done or "making client 1" in lab.live(), "a client is being made", needs="CLI-01")
        while_ = f"{one.name}'s client is being made"
        for loop in (one, one, other):
            calls.append(ask(loop, "another get"))
            loop.answers(while_=while_)
        one.answers(while_=while_)
        lab.open(*(f"making client {number}" for number in range(1, 9)))
        names = [client_of(lab, call, needs="CLI-01").name for call in calls[:3]]
        client_of(lab, calls[3], needs="CLI-04")
        closing = one.start("aclose", aclosed)
        lab.until(lambda: closing.done or bool(closes(lab, names[0])), f"{names[0]} is being closed", needs="CLI-06")
        while_ = f"{names[0]} is being closed"
        late = [ask(loop, "get behind the close") for loop in (one, other)]
        for loop in (one, other):
            loop.answers(while_=while_)
        lab.open_all()
        for call in (closing, *late):
            call.join()


@rule("CLI-09")
def a_client_in_use_is_left_alone(lab: Lab) -> None:
    """A client in use on one loop is never closed because another loop arrived.

    Intent: To tidy up is good; to tidy up what somebody works with is an outage that nobody understands.

    Usual cause: One slot for the client, whose old content is closed when a loop asks that is not its own.

    Proof: A use is at its gate on one loop while others ask, close their own and end. Then the gate opens: the use must come to its end, and no close of that client may be in the history. With real clients too where httpx is installed: the use has a connection open.

    Source: dynamiq pull request 673.
    """
    for real in realities(lab):
        with stage(lab, real=real, gated={"use"}) as (_, loops):
            _left_alone(lab, loops.begin(), [loops.begin(), loops.begin()])


def _left_alone(lab: Lab, one: Loop, others: list[Loop]) -> None:
    first = one.start("get", fetched)
    lab.until(lambda: first.done, "a loop has its client", needs="CLI-01")
    client = result(lab, first, needs="CLI-01")
    use: Call[str] = one.start("use", lambda _: client.use())
    lab.until(lambda: use.done or len(lab.live()) == 1, "its client is in use", needs="CLI-01")
    in_use = [name.removeprefix("use of ").rpartition(" #")[0] for name in lab.live()]
    result(lab, use, needs="CLI-01") if use.done else None
    for number, other in enumerate(others):
        arrived = other.start("get", fetched)
        lab.until(lambda arrived=arrived: arrived.done, "another loop asks", needs="CLI-04")  # type: ignore[misc]
        if number:
            closed_now(lab, other.start("aclose", aclosed), needs="CLI-04")
        other.end()
    one.answers(while_="one of its clients is in use")
    lab.open_all()
    use.join()
    told = f": {', '.join(closes(lab, in_use[0]))}" if in_use and closes(lab, in_use[0]) else ""
    lab.check(
        use.error is None and not told,
        f"{' '.join(in_use)}, in use on {one.name}, {'came to its end' if use.error is None else f'raised {use.error!r}'} "
        f"after two other loops had asked for theirs{told}",
        "it goes on undisturbed, and nobody closes it",
    )
