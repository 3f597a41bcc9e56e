"""CLI-01, 13: within one loop, and without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Violated
from pytest_flowcheck.probes.calls import offered
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.client._clients import here
from pytest_flowcheck.suites.client._play import for_all, scenarios
from pytest_flowcheck.suites.client._shared import a_client, ask, client_of, got, makings, stage

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab


@rule("CLI-01", property=True)
def one_client_for_a_loop(lab: Lab) -> None:
    """Within one loop every `get` returns the same client, made once, also for N concurrent first calls.

    Intent: A client is a pool of connections; a second one is a second pool, whose connections nobody reuses and nobody closes.

    Usual cause: The cache is looked at before the client is made and written to behind it, and making it suspends: each of the first callers finds nothing, and makes one of its own.

    Proof: Four tasks ask at once; where making a client may take its time it is gated until all four have asked. Then numbers of tasks and of turns of the loop are drawn, and what each task gets is compared with the model: one client, made once.

    Source: dynamiq pull request 673, the shared client; asyncio documentation, synchronisation primitives, "double-checked" creation.
    """
    tasks = 4
    with stage(lab, gated={"make"}) as (_, loops):
        loop = loops.begin()
        asking = lab.attempts("asks", gated=False)

        async def first(cache: Any) -> Any:
            await asking.aio()
            return await got(cache)

        calls = [loop.start(f"get by task {number}", first) for number in range(1, tasks + 1)]
        asked = {f"asks #{number}" for number in range(1, tasks + 1)}
        needs = "CLI-05" if lab.claims("slow_factory") else None
        lab.until(lambda: asked <= set(lab.ended()), "all tasks have asked", hung=True, needs=needs)
        if lab.claims("slow_factory"):
            lab.settle()  # the first one is being made, and whoever would make another has begun to
        lab.open_all()
        names = {call.what: client_of(lab, call).name for call in calls}
        again = client_of(lab, ask(loop, "a later get"))
        _the_same(lab, {**names, "a later get": again.name})
    words = ("get", "get", "use")
    for_all(lab, scenarios(words, threads=1, most=4, slow=lab.claims("slow_factory"), many=4), examples=24)


def _the_same(lab: Lab, names: dict[str, str]) -> None:
    told = ", ".join(f"{what} gave {name}" for what, name in names.items())
    lab.check(len(set(names.values())) == 1, told, "one client for all tasks of the loop")
    made = makings(lab)
    lab.check(len(made) == 1, f"for one loop there was {' and '.join(made)}", "a loop's client is made once")


@rule("CLI-13")
def without_a_loop_it_says_so(lab: Lab) -> None:
    """`get` without a running loop raises a clear error.

    Intent: A client that belongs to no loop belongs to whichever uses it first; the mistake must be told where it is made, not where it hurts.

    Usual cause: `asyncio.get_event_loop()`, which makes a loop where none runs; a key of None; an attribute of None.

    Proof: `get` is called on a plain thread; if that gives an awaitable, its first steps are taken there by hand. Its error must speak of a loop, and no client may have been made. A loop that begins then gets one as usual.

    Source: asyncio documentation, `get_running_loop`, "raise a RuntimeError if there is no running event loop".
    """
    with stage(lab) as (_, loops):
        call = lab.call("get without a loop", lambda: _by_hand(loops.cache))
        call.join()
        if call.returned:
            a_client(call.value)
        lab.check(call.error is not None, "get without a running loop gave a client", "an error that says so")
        error = call.error
        text = f"{type(error).__name__} {error}".lower()
        accident = isinstance(error, AttributeError | TypeError | KeyError | NameError | AssertionError)
        lab.check(
            isinstance(error, Exception) and not accident and ("loop" in text or "async" in text),
            f"get without a running loop raised {error!r}",
            "an error that says that there is no running event loop",
        )
        made = makings(lab)
        lab.check(
            not made, f"get without a running loop raised {error!r}, and there was {' and '.join(made)}", "none is made"
        )
        client_of(lab, ask(loops.begin(), "get afterwards"))


_TURNS = 20


def _by_hand(cache: Any) -> Any:
    """Call `get` here, and take the first steps of what it gives if that is awaitable: while they are mere turns of a loop."""
    assert here() is None
    value = offered(cache, "get", "client")()
    if not hasattr(value, "__await__"):
        return value
    steps = value.__await__()
    try:
        for _ in range(_TURNS):
            if next(steps) is not None:
                break
    except StopIteration as stop:
        return stop.value
    steps.close()
    raise Violated(
        "get without a running loop gave an awaitable that waits",
        expected="an error that says that there is no running event loop",
        proof="its first steps were taken by hand, on a thread that has no loop",
    )
