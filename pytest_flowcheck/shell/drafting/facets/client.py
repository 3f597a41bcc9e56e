"""client: something that gives each event loop a client of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.shell.drafting import names
from pytest_flowcheck.shell.drafting.draft import Draft, guard, method, opened, wrapped

if TYPE_CHECKING:
    from pytest_flowcheck.shell.drafting.sight import Sight
    from pytest_flowcheck.shell.drafting.trying import Held

LOOKS_FOR: Final = "a factory of clients to make it with, a `get` without arguments, and an `aclose` or `close`"
ASKED: Final = "factory"
ON_LOOPS: Final = True
GETS: Final = ("get", "get_client", "client", "acquire", "__call__")
SKELETON: Final = [
    method("async def get(self)", guard("the running loop's client, made by factory()")),
    method("async def aclose(self)", guard("how what this loop holds is closed")),
]


WORDS: Final = ("get_client", "aclose", "factory", "client", "clients", "session")


def drafts(seen: Sight, *, aio: bool) -> Iterator[Draft]:
    """Made with the factory, blocking or awaited."""
    factory = next((p for p in seen.made_by.parameters if _is_factory(p.name)), None)
    if factory is None or seen.kind != "class" or aio:
        return
    for colour in (True, False):
        get = seen.find(GETS, aio=colour)
        closing = seen.find(("aclose", "close"), aio=True)
        if get is None or get.required or closing is None:
            continue
        close = seen.methods.get("close")
        for body in ("factory.aio", "factory"):
            word = "await " if colour else ""
            methods = [
                method(f"{'async ' if colour else ''}def get(self)", [f"return {word}self.thing.{get.name}()"]),
                method("async def aclose(self)", [f"await self.thing.{closing.name}()"]),
            ]
            if close is not None and not close.aio:
                methods.append(method("def close(self)", ["self.thing.close()"]))
            made = f"{names.thing(seen)}({names.give(factory, body)})"
            ends = "close" if close is not None and not close.aio else ""
            yield Draft(
                "client",
                False,
                wrapped("_Client", methods),
                opened([made], "_Client(thing)", enters=seen.enters, closes=ends),
                ASKED,
                names.imports(seen),
                [*(["close"] if ends else []), *(["slow_factory"] if body == "factory.aio" else [])],
                plain_with=True,
            )


def _is_factory(name: str) -> bool:
    return "factory" in name or name in {"make", "create", "connect", "builder", *names.FUNCTION}


# --- the child's side ---------------------------------------------------------------------------------------------------


class _Client:
    """As the kit's clients are, as far as this goes."""

    def __init__(self) -> None:
        self.closed = 0

    async def use(self) -> str:
        return "used"

    async def aclose(self) -> None:
        self.closed += 1


async def check(held: Held) -> None:
    """Two gets on one loop give one client, and a close closes it."""
    made: list[_Client] = []

    def factory() -> _Client:
        made.append(_Client())
        return made[-1]

    async with held.open(factory=held.body(factory)) as cache:
        one, two = await held.value(cache.get()), await held.value(cache.get())
        held.expect(isinstance(one, _Client), f"get gave {type(one).__name__}, and not what the factory made")
        held.expect(one is two and len(made) == 1, f"two gets on one loop made {len(made)} clients")
        await held.value(cache.aclose())
        held.expect(one.closed == 1, f"aclose closed the client {one.closed} times")
