"""CLI-06, 07, 14, 15: closing, and what comes behind it."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.calls import offered
from pytest_flowcheck.protocols import Closed, Refused
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.client._clients import ClosingFailed, realities
from pytest_flowcheck.suites.client._shared import (
    Got,
    aclosed,
    ask,
    asked_again,
    client_of,
    closed_now,
    closes,
    got,
    of_kit,
    reopens,
    result,
    stage,
)
from pytest_flowcheck.suites.client.successive import recorded

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.suites.client._clients import Factory
    from pytest_flowcheck.suites.client._loops import Loop, Loops


@rule("CLI-06")
def aclose_closes_this_loops_client_once(lab: Lab) -> None:
    """`aclose` closes what this loop's client holds, exactly once; a second call is harmless; `get` afterwards makes a new one or raises, as declared.

    Intent: Who closes wants the connections gone, his own and nobody else's; and shutdown code is called more often than its author thinks.

    Usual cause: The client stays in the cache behind its close; the cache forgets it without closing it; all loops' clients are closed by the first one that goes.

    Proof: Two loops have a client each; one closes, twice in a row, and a loop without a client closes too. The closes stand in the history, and with real clients the server sees the connections go. Then two tasks close at once while the close is at its gate.

    Source: httpx documentation, "Async Support", closing clients; asyncio documentation, `AbstractServer.close`.
    """
    for real in realities(lab):
        with stage(lab, real=real) as (made, loops):
            _closes_its_own(lab, made, loops, real)
    with stage(lab, gated={"close"}) as (_, loops):
        loop = loops.begin()
        had = client_of(lab, ask(loop), needs="CLI-01").name
        calls = [loop.start(f"aclose no. {number}", aclosed) for number in (1, 2)]
        lab.until(lambda: all(call.done for call in calls) or bool(closes(lab, had)), f"{had} is being closed")
        loop.answers(while_=f"{had} is being closed", needs="CLI-05")
        lab.open_all()
        for call in calls:
            closed_now(lab, call)
        _just_once(lab, had, "two tasks closed at once")


def _closes_its_own(lab: Lab, made: Factory, loops: Loops, real: bool) -> None:
    one, other, empty = loops.begin(), loops.begin(), loops.begin()
    had, others = (client_of(lab, ask(loop), needs="CLI-04").name for loop in (one, other))
    for loop in (one, other):
        loop.answers(while_="nobody closes anything")  # what another loop has asked of it is done now
    if closes(lab):
        raise Inconclusive(f"without any aclose there was: {', '.join(closes(lab))}", because_of="CLI-09")
    closed_now(lab, empty.start("aclose without a client", aclosed))
    lab.check(not closes(lab), f"{empty.name} has no client, and its aclose did: {', '.join(closes(lab))}", "nothing")
    closed_now(lab, one.start("aclose", aclosed))
    _just_once(lab, had, "aclose has returned")
    lab.check(
        not closes(lab, others), f"{one.name}'s aclose did: {', '.join(closes(lab, others))}", f"only {had} is closed"
    )
    if real:
        name = had.replace(" ", "-")
        lab.until(lambda: not made.server.connections(name), f"the server sees the connections of {had} go")
    closed_now(lab, one.start("aclose again", aclosed))
    _just_once(lab, had, "a second aclose has returned")
    asked_again(lab, result(lab, ask(one, "get behind aclose")), of=f"get behind aclose on {one.name}", not_=had)
    if reopens(lab):
        still = client_of(lab, ask(other, "get on the other loop"))
        lab.check(still.name == others, f"{other.name} had {others}, and got {still.name}", "it keeps its own")


def _just_once(lab: Lab, name: str, when: str) -> None:
    did = closes(lab, name)
    over = [n for n in did if n in lab.ended()]
    lab.check(
        len(did) == 1 and over == did,
        f"{when}, and of {name} there were {len(did)} closes{f', {len(over)} of them done' if over != did else ''}",
        "one, and it is done",
    )


# --- CLI-07 -------------------------------------------------------------------------------------------------------------


@rule("CLI-07", "close")
def close_needs_no_loop(lab: Lab) -> None:
    """`close` without a running loop, from any thread, neither raises nor hangs, and drops what it holds.

    Intent: At exit, in a finaliser or in a test's teardown there is no loop to wait on, and yet one wants to be rid of it all.

    Usual cause: `asyncio.get_running_loop()` or `asyncio.run(self.aclose())` in `close`; waiting for a loop that has ended.

    Proof: `close` is called on plain threads: of a cache that was never used; then while two loops live that have a client, and a third one has ended without closing its own; and once more. What is still held is counted by weak references, once nothing moves any more. A loop that still lives then asks again.

    Source: atexit and `__del__` handlers of caches of aiohttp sessions; "Event loop is closed" in their tracebacks.
    """
    with stage(lab) as (_, loops):
        _close(lab, loops, "close() of an unused cache")
    with stage(lab) as (made, loops):
        dead, *alive = (loops.begin() for _ in range(3))
        names = [result(lab, loop.start("get", _name), needs="CLI-04") for loop in (dead, *alive)]
        if not all(names):
            raise Inconclusive("not every loop got a client that works", because_of="CLI-04")
        dead.end()
        _close(lab, loops, "close() from a thread without a loop")
        lab.settle()
        gc.collect()
        held = [client.name for client in made.alive]
        lab.check(
            not held,
            f"close() has returned, and still held: {', '.join(held)}",
            f"nothing of {', '.join(names)}",
            absence=True,
        )
        _close(lab, loops, "close() once more")
        loop = alive[0]
        asked_again(
            lab, result(lab, ask(loop, "get behind close")), of=f"get behind close on {loop.name}", not_=names[1]
        )


async def _name(cache: Any) -> str:
    """The client's name only: who holds the client is what is asked."""
    return (await got(cache)).name


def _close(lab: Lab, loops: Loops, what: str) -> None:
    call = lab.call(what, offered(loops.cache, "close", "client"))
    call.join()
    lab.check(call.error is None, f"{what} raised {call.error!r}", "it returns")
    if hasattr(call.value, "__await__"):
        lab.check(False, f"{what} gave an awaitable", "close is no coroutine: there is no loop to await it")


# --- CLI-14 -------------------------------------------------------------------------------------------------------------


@rule("CLI-14")
def nobody_gets_a_client_that_is_being_closed(lab: Lab) -> None:
    """`aclose` racing `get`: no caller gets a client that is closed, or closed under it unannounced.

    Intent: A caller can do something about an error of `get`; nothing about a client that stops working in his hands.

    Usual cause: The client leaves the cache behind `await client.aclose()`, not in front of it; a close that waits for a creation and then closes what its callers have just been given.

    Proof: While a close is at its gate another task asks: it may get a new client, or wait for one, or be refused (Closed, Refused), and what it gets works, also when the close is done. The same with a close that comes while a client is at the gate of its creation.

    Source: aiohttp, "Session is closed"; httpx, "Cannot send a request, as the client has been closed."
    """
    with stage(lab, gated={"close"}) as (_, loops):
        loop = loops.begin()
        had = client_of(lab, ask(loop), needs="CLI-01").name
        closing = loop.start("aclose", aclosed)
        lab.until(lambda: closing.done or bool(closes(lab, had)), f"{had} is being closed", needs="CLI-06")
        asking = ask(loop, "get during aclose")
        loop.answers(while_=f"{had} is being closed", needs="CLI-05")
        _works(lab, loop, asking, closing)
    if lab.claims("slow_factory"):
        with stage(lab, gated={"make"}) as (_, loops):
            loop = loops.begin()
            asking = ask(loop)
            lab.until(lambda: asking.done or "making client 1" in lab.live(), "a client is being made", needs="CLI-01")
            closing = loop.start("aclose during the first get", aclosed)
            loop.answers(while_="a client is being made", needs="CLI-05")
            _works(lab, loop, asking, closing)


def _works(lab: Lab, loop: Loop, asking: Call[Got], closing: Call[Any]) -> None:
    lab.open_all()
    lab.until(lambda: closing.done, f"{closing.what} comes back", needs="CLI-06")
    given = result(lab, asking)
    if given.refused is not None:
        lab.check(
            any(lab.is_a(given.refused, kind) for kind in (Closed, Refused)),
            f"{asking.what}: {given}",
            "a client that works, or an error that says that it is closed",
        )
        return
    client_of(lab, given, of=asking.what)
    later = loop.start(f"use of {given.name} once aclose is done", lambda _: given.client.use())
    later.join()
    lab.check(
        later.error is None,
        f"{later.what} raised {later.error!r}",
        "what get gave stays open: nobody was told otherwise",
    )


# --- CLI-15 -------------------------------------------------------------------------------------------------------------


@rule("CLI-15")
def a_client_that_fails_to_close_is_dropped(lab: Lab) -> None:
    """A client whose close raises is dropped all the same, and the error reported.

    Intent: A connection that was reset makes a close fail; a cache that keeps such a client hands out a corpse from then on.

    Usual cause: The client leaves the cache behind its close, and so never if that raises; `except Exception: pass`.

    Proof: The first client's close raises. The error must be what `aclose` raises, or be found with the loop's exception handler, among the logs, the warnings, or on stderr; a later `aclose` does not close it again, and a later `get` does not give it.

    Source: Python documentation, `contextlib.AsyncExitStack`: what is left must be unwound although one callback raised.
    """
    with stage(lab, failing_to_close={1}) as (_, loops):
        loop = loops.begin()
        had = client_of(lab, ask(loop), needs="CLI-01").name
        with logged() as records, recorded() as warned:
            closing = loop.start("aclose", aclosed)
            lab.until(lambda: closing.done, "aclose comes back", needs="CLI-06")
            loop.answers(while_="nothing else happens")
            elsewhere = [*lab.uncaught, *records(), *(str(w.message) for w in warned)]
        error = closing.error
        if not closes(lab, had):
            raise Inconclusive(f"aclose closed nothing, and so {had} could not fail", because_of="CLI-06")
        told = of_kit(lab, error, ClosingFailed) or any(f"closing {had} failed" in text for text in elsewhere)
        came = "returned" if error is None else f"raised {error!r}"
        lab.check(
            told, f"closing {had} raised ClosingFailed; aclose {came}, and nothing else tells of it", "it is reported"
        )
        closing = loop.start("aclose again", aclosed)
        closed_now(lab, closing)
        again = closes(lab, had)
        lab.check(len(again) == 1, f"{had}, whose close raised, was closed {len(again)} times", "it was dropped")
        asked_again(lab, result(lab, ask(loop, "get behind aclose")), of="get behind the close that failed", not_=had)


@contextmanager
def logged() -> Generator[Callable[[], list[str]]]:
    """Tells what is logged meanwhile, with its error, and what is printed to stderr."""
    texts: list[str] = []
    printed = StringIO()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            texts.append(f"{record.getMessage()} {error!r}")

    handler, root = Keep(), logging.getLogger()
    root.addHandler(handler)
    try:
        with redirect_stderr(printed):
            yield lambda: [*texts, printed.getvalue()]
    finally:
        root.removeHandler(handler)
