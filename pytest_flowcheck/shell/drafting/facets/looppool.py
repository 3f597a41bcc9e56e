"""looppool: something that runs coroutines on a loop of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.shell.drafting import names
from pytest_flowcheck.shell.drafting.draft import Draft, call, can_not, guard, method, opened, wrapped

if TYPE_CHECKING:
    from pytest_flowcheck.shell.drafting.sight import Sight
    from pytest_flowcheck.shell.drafting.trying import Held

LOOKS_FOR: Final = (
    "a method that runs a coroutine function on a loop of another thread (dispatch, call, run), and a stop"
)
ASKED: Final = "*, ttl, limit=None"
CALLS: Final = ("dispatch", "call", "run", "submit", "execute", "run_coroutine")
STOPS: Final = ("stop", "shutdown", "close")
TTL: Final = ("ttl", "idle_timeout", "keep_alive", "keepalive", "idle_ttl", "max_idle")
SKELETON: Final = [
    method("def dispatch(self, body)", guard("how body.aio() is awaited on the pool's loop")),
    method("def stop(self)", guard("how the loop is reaped, now")),
]


WORDS: Final = (*TTL, "dispatch", "loop", "loops", "portal", "run_coroutine")


def drafts(seen: Sight, *, aio: bool) -> Iterator[Draft]:
    """With a function, or with a coroutine, to be run."""
    if seen.kind != "class":
        return
    found = seen.find(CALLS, aio=aio)
    stop = seen.find(STOPS, aio=aio) or (seen.find(("aclose",), aio=True) if aio else None)
    if found is None or stop is None or stop.required or len(found.required) > 1:
        return
    ttl, limit = seen.option(TTL), seen.option(("limit", "drain_timeout", "stop_timeout"))
    if names.missing(seen.made_by, [each.name for each in (ttl, limit) if each is not None]):
        return
    word = "await " if aio else ""
    head = "async def" if aio else "def"
    for given in ("body.aio", "body.aio()"):
        for ending in ("", ".result()"):
            methods = [
                method(f"{head} dispatch(self, body)", [f"return {word}self.thing.{found.name}({given}){ending}"]),
                method(f"{head} stop(self)", [f"return {word}self.thing.{stop.name}() or None"]),
            ]
            arguments = [*([f"{ttl.name}=ttl"] if ttl is not None else [])]
            wait = (
                [f"limit = {{}} if limit is None else {{'{limit.name}': limit}}".replace("'", '"')]
                if limit is not None
                else []
            )
            made = call(f"{names.thing(seen)}(", [*arguments, *(["**limit"] if limit is not None else [])], indent=8)
            wait += can_not("limit is not None", "no limit on stopping was found") if limit is None else []
            wait += can_not("ttl is not None", "no time after which it is reaped was found") if ttl is None else []
            opening = opened(
                made, "_Looppool(thing)", enters=seen.aenters if aio else seen.enters, closes=stop.name, aio=aio
            )
            claims = ["ttl"] if ttl is not None else []
            yield Draft(
                "looppool", aio, wrapped("_Looppool", methods), [*wait, *opening], ASKED, names.imports(seen), claims
            )


# --- the child's side ---------------------------------------------------------------------------------------------------


async def check(held: Held) -> None:
    """A coroutine runs on a loop of another thread, the second one on the same; stopping twice is fine."""
    import asyncio
    import threading

    ran: list[tuple[int, int]] = []
    seen: list[str] = []

    def one() -> int:
        ran.append((threading.get_ident(), id(asyncio.get_running_loop())))
        seen.append(held.variable())
        return 7

    async with held.open(ttl=None) as pool:
        for _ in range(2):
            value = await held.value(pool.dispatch(held.body(one)))
            held.expect(value == 7, f"it gave {value!r} for 7")
        held.expect(ran[0][0] != threading.get_ident(), "the coroutine ran on the caller's own thread")
        held.expect(ran[0] == ran[1], "each coroutine had a loop of its own")
        if seen == ["seen"] * 2:
            held.claims.add("context")
        await held.value(pool.stop())
        await held.value(pool.stop())
        late = await held.error(pool, "dispatch", held.body(one))
        if late is None:
            held.declares["after_stop"] = "reopen"
        else:
            held.learn("Closed", late)
