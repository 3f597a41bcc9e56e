"""`Clients.get` of a client that is there, against a dict of loops: ratios of medians, all in one run, taking turns.

    python benchmarks/client.py [rounds]

The floor is an `async def get` that looks into a plain dict by the running loop: as short as a cache by hand can be, and one
that forgets no loop. Beside it, the usual one: a `WeakKeyDictionary`, behind an `asyncio.Lock` and without.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from statistics import median
from sys import argv
from time import perf_counter
from typing import TypeAlias
from weakref import WeakKeyDictionary

from flowcheck_reference.client import Clients

CALLS = 20_000

Get: TypeAlias = Callable[[], Awaitable[object]]
Loops: TypeAlias = MutableMapping[asyncio.AbstractEventLoop, object]


class ByHand:
    """A dict of loops."""

    def __init__(self, clients: Loops) -> None:
        self.clients = clients

    async def get(self) -> object:
        """This loop's."""
        loop = asyncio.get_running_loop()
        if loop not in self.clients:
            self.clients[loop] = object()
        return self.clients[loop]


class Locked(ByHand):
    """The same, behind a lock of the loop."""

    def __init__(self, clients: Loops) -> None:
        super().__init__(clients)
        self.lock = asyncio.Lock()

    async def get(self) -> object:
        """This loop's."""
        async with self.lock:
            return await super().get()


async def seconds(get: Get) -> float:
    """How long so many calls take."""
    start = perf_counter()
    for _ in range(CALLS):
        await get()
    return perf_counter() - start


async def main(rounds: int = 15) -> None:
    """Print one line per cache."""
    caches: dict[str, Get] = {
        "a dict by running loop, by hand": ByHand({}).get,
        "Clients": Clients(object).get,
        "a WeakKeyDictionary, by hand": ByHand(WeakKeyDictionary()).get,
        "the same behind an asyncio.Lock": Locked(WeakKeyDictionary()).get,
    }
    took: dict[str, list[float]] = {name: [] for name in caches}
    for number in range(rounds):
        for name in sorted(caches, reverse=number % 2 == 1):
            took[name].append(await seconds(caches[name]))
    floor = median(took["a dict by running loop, by hand"])
    for name, times in took.items():
        print(f"{name:35} {median(times) / floor:5.2f}  ({median(times) / CALLS * 1e9:.0f} ns a get)")


if __name__ == "__main__":
    asyncio.run(main(*map(int, argv[1:])))
