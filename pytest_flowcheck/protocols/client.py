"""client (CLI): one async client per event loop, wherever loops come and go."""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar

from pytest_flowcheck.protocols._body import AwaitableOrValue, Body, Opened

CAPABILITIES: Final = {
    "close": "`close()` lets go of everything from any thread, and needs no loop",
    "slow_factory": "a client is made by `await factory.aio()`, which may suspend, fail or be cancelled",
}
"""The optional capabilities of this facet, and what each promises: the only list of them."""

READ_OFF: Final = {
    "async": "always: loops are what this facet is about, and the kit starts them",
    "trio": "those loops are trio's",
}
"""Capabilities that nobody claims: they follow from the facet, and from the loop library at hand."""

ON_LOOPS: Final = True
"""An instance belongs to no loop: it is opened by `with`, and called on the kit's loops, of each of its `backends`."""

TRAITS: Final[dict[str, str]] = {}

DECLARES: Final[dict[str, tuple[str, ...]]] = {"after_close": ("reopen", "raise")}
"""Choices that rules take *as declared*, the default first. `after_close`: `get` behind an `aclose` or a `close` makes a new
client; or raises Closed, on the loop that closed, or on all."""

OPENS: Final[dict[str, Any]] = {"factory": None}
"""Arguments with which an instance is tried on loading; nothing is called then."""


class Client(Protocol):
    """What `get` gives: a client of the kit's, or a real one of the adapter's library around it."""

    async def use(self) -> str:
        """Do something with it, as a request does. The name of the kit's client, such as 'client 1'."""
        ...

    async def aclose(self) -> None:
        """Close it. May take its time, or raise."""
        ...


class Made(Client, Protocol):
    """What the factory makes. It is bound to the loop on which it was made, as a pool of connections is: used or closed on
    another, it raises RuntimeError; used after it was closed too."""

    @property
    def url(self) -> str:
        """An HTTP server on loopback, for an adapter that puts a real client of its library around this one."""
        ...


C = TypeVar("C", bound=Client)
C_co = TypeVar("C_co", covariant=True)


class ClientCache(Protocol[C_co]):
    """Gives each event loop a client of its own. Many loops, in many threads, share the cache."""

    def get(self) -> AwaitableOrValue[C_co]:
        """The running loop's client, made at first use, on that loop (CLI-01..05, 08..12, 14).

        Raises: what the factory raises (CLI-08); an error that says so where no loop runs (CLI-13); Closed, as declared.
        """
        ...

    def aclose(self) -> AwaitableOrValue[None]:
        """Close what the running loop holds, once (CLI-06, 14, 15).

        Raises: what closing the client raised, unless it is reported in another way (CLI-15).
        """
        ...


class Closable(ClientCache[C_co], Protocol[C_co]):
    """`[close]`"""

    def close(self) -> None:
        """Let go of what is held for all loops; from any thread, without a loop (CLI-07). Clients of loops that still
        run are best closed there; those of dead ones can't be."""
        ...


class Opener(Protocol):
    """`subject.client`. `factory()` makes a client at once; with `slow_factory` the cache takes `await factory.aio()`."""

    def __call__(self, factory: Body[[], Made]) -> Opened[ClientCache[Client]]: ...
