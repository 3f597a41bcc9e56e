"""LOP-01, 07, 20: one loop for all, and nothing else in common."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.probes.forall import forall, st
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.looppool._shared import Pool, came_to, opened

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("LOP-01")
def one_after_the_other(lab: Lab) -> None:
    """Sequential dispatches run on the same loop and thread, and give what their coroutines return.

    Intent: What is bound to a loop, such as a client with its connections, outlives a call; and a loop is not made a thousand times a second.

    Usual cause: `asyncio.run` in a new thread per dispatch.

    Proof: Five coroutines in turn say on which loop and thread they run.

    Source: wool, pull request 271: a loop and a thread per dispatch.
    """
    names = [f"call{i}" for i in range(1, 6)]
    with opened(lab) as pool:
        for name in names:
            call = pool.dispatch(name, gated=False)
            value = call.result()
            lab.check(value == name, f"{call.what} gave {value!r}", f"{name!r}, which its coroutine returned")
            lab.check(
                pool.arrived(name), f"{call.what} returned, and its coroutine never ran", "it runs in this process"
            )
        first = pool.where[names[0]]
        for name in names[1:]:
            where = pool.where[name]
            lab.check(
                where.same(first),
                f"dispatch({names[0]}) ran on {first}, dispatch({name}) on {where}",
                "the same loop and the same thread: the pool was not idle for long, nor stopped",
            )


@dataclass(frozen=True)
class Rounds:
    """Callers that come at once, round after round. In each: the order in which they are let go."""

    orders: tuple[tuple[int, ...], ...]
    instances: int

    def __str__(self) -> str:
        lines = [f"{self.instances} pools, one after the other; in each:"]
        for number, order in enumerate(self.orders, 1):
            lines.append(
                f"  round {number}: {len(order)} callers at once, let go in the order {', '.join(map(str, order))}"
            )
        return "\n".join(lines)


def _rounds() -> st.SearchStrategy[Rounds]:
    orders = st.integers(3, 5).flatmap(lambda n: st.permutations(range(n)).map(tuple))
    return st.builds(Rounds, st.lists(orders, min_size=1, max_size=2).map(tuple), st.integers(1, 2))


@rule("LOP-07", property=True)
def all_at_once(lab: Lab) -> None:
    """Concurrent dispatches share the warm loop and never meet a lock bound to another loop.

    Intent: Ten threads that dispatch at once have one loop, which runs their coroutines beside each other.

    Usual cause: Two first callers who each make a loop; an asyncio.Lock of the pool that was bound to the first loop it was contended on, and raises on the next.

    Proof: Several callers at once, the first ones of a pool too; all their coroutines are in flight on one loop before one is let go. Where `ttl` is claimed, each round has a new loop, since that of the last one was reaped.

    Source: wool, pull request 271: its resource pool's lock, contended in two successive loops.
    """
    renewed = lab.claims("ttl")

    def scenario(rounds: Rounds) -> None:
        for instance in range(rounds.instances):
            with opened(lab, 0 if renewed else None) as pool:
                for number, order in enumerate(rounds.orders):
                    _round(lab, pool, [f"call{instance}.{number}.{i}" for i in range(len(order))], order, renewed)

    forall(lab, scenario, _rounds(), examples=10, describe=str)


def _round(lab: Lab, pool: Pool, names: list[str], order: tuple[int, ...], renewed: bool) -> None:
    calls = {name: pool.dispatch(name) for name in names}
    lab.until(
        lambda: pool.arrived(*names) or any(call.done for call in calls.values()),
        f"{len(names)} coroutines are in flight together",
        expected="a loop runs as many coroutines as are dispatched",
    )
    early = next((call for call in calls.values() if call.done), None)
    lab.check(
        early is None,
        f"while {len(names)} callers came at once, {came_to(early) if early else ''}",
        "it waits for its coroutine, which is gated",
    )
    first = pool.where[names[0]]
    for name in names[1:]:
        where = pool.where[name]
        lab.check(
            where.same(first),
            f"in flight together, {names[0]} runs on {first}, and {name} on {where}",
            "one loop for both",
        )
    for index in order:
        lab.open(names[index])
        call = calls[names[index]].join()
        lab.check(call.returned and call.value == names[index], came_to(call), f"it returns {names[index]!r}")
    if renewed:
        pool.reaped(first, "the loop is reaped, since its TTL is 0", needs="LOP-02")


_told: ContextVar[str] = ContextVar("_told", default="nothing")


@rule("LOP-20", "context")
def contexts_are_callers(lab: Lab) -> None:
    """A dispatch sees its caller's context, and none leaks to the next.

    Intent: Tracing, tenants and deadlines travel in context variables; a warm loop must not mix those of two callers.

    Usual cause: `call_soon_threadsafe` and `run_coroutine_threadsafe` from a thread copy the context of the caller's side in one place and of the loop's in another; a coroutine that is stepped in the loop thread's own context leaves its changes there.

    Proof: Three dispatches, each from a caller with a value of its own; each reads the variable and then sets it.

    Source: PEP 567.
    """

    async def read_and_spoil() -> str:
        seen = _told.get()
        _told.set(f"{seen}, as changed by a coroutine")
        return seen

    def ask(name: str) -> Any:
        return pool.dispatch(name, read_and_spoil, gated=False).result()

    with opened(lab) as pool:
        for value in ("the first caller's", "the second caller's"):
            token = _told.set(value)
            try:
                seen = ask(f"as {value}")
            finally:
                _told.reset(token)
            lab.check(
                seen == value, f"a dispatch whose caller has {value!r} in a context variable saw {seen!r} there", value
            )
        seen = ask("without")
        lab.check(
            seen == "nothing",
            f"a dispatch whose caller never set the variable saw {seen!r} there",
            "the variable's default",
        )
