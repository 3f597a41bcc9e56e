"""The kit's clients, which know on which loop they are and tell what becomes of them, and the factory that makes them."""

from __future__ import annotations

import asyncio
import itertools
import sys
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pytest_flowcheck.suites.client._server import Server, serving

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.probe import Probe


class MakingFailed(Exception):  # noqa: N818 - what happened, in the factory's terms
    """A client could not be made."""


class ClosingFailed(Exception):  # noqa: N818
    """A client could not be closed properly."""


class WrongLoop(RuntimeError):  # noqa: N818
    """A client is used or closed on another loop than its own."""


class ClientClosed(RuntimeError):  # noqa: N818
    """A client is used that is closed, or being closed."""


def here() -> Any:
    """The loop that runs the caller: an asyncio loop, or the token of a trio run; None without one."""
    if (trio := sys.modules.get("trio")) is not None and trio.lowlevel.in_trio_run():
        return trio.lowlevel.current_trio_token()
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


State = Literal["open", "closing", "closed"]


class Fake:
    """A client without a network. Bound to the loop on which it was made, or, where none ran, on which it is used first.

    What happens to it stands in the history: `use of client 1 #1`, `close of client 1 #1`.
    """

    def __init__(self, factory: Factory, number: int) -> None:
        self.name = f"client {number}"
        self.state: State = "open"
        self._factory, self._number = factory, number
        self._loop: Callable[[], Any] | None = None
        self._held: Any = None
        self._counts = {"use": itertools.count(1), "close": itertools.count(1)}
        self._bind()

    def __repr__(self) -> str:
        return f"<{self.name}, {self.state}>"

    @property
    def url(self) -> str:
        return f"{self._factory.server.url}/client-{self._number}"

    async def use(self) -> str:
        self._check()
        await self._did("use", self._work).aio()
        if self.state != "open":
            raise ClientClosed(f"{self.name} was closed while it was in use")
        return self.name

    async def aclose(self) -> None:
        self._bind()
        await self._did("close", self._close).aio()

    async def _work(self) -> None:
        """What a use is, behind its gate."""

    async def _leave(self) -> None:
        """What closing it is, behind its gate."""

    async def _close(self) -> None:
        self._on_its_loop()
        if self._factory.closing_fails(self._number):
            self.state = "closed"
            raise ClosingFailed(f"closing {self.name} failed")
        await self._leave()
        self.state = "closed"

    def _did(self, what: Literal["use", "close"], does: Callable[[], Any]) -> Probe:
        """What happens to it, as an event."""
        if what == "close" and self.state == "open":
            self.state = "closing"
        name = f"{what} of {self.name} #{next(self._counts[what])}"
        return self._factory.lab.probe(name, does, gated=what in self._factory.gated)

    def _bind(self) -> None:
        if self._loop is None and (loop := here()) is not None:
            self._loop = weakref.ref(loop)
            self._held = loop if self._factory.hold else None

    def _check(self) -> None:
        self._bind()
        self._on_its_loop()
        if self.state != "open":
            raise ClientClosed(f"{self.name} can't be used: it is {'being ' if self.state == 'closing' else ''}closed")

    def _on_its_loop(self) -> None:
        loop = self._loop() if self._loop is not None else None
        if loop is not here():
            gone = loop is None or getattr(loop, "is_closed", bool)()
            why = "its loop is gone (Event loop is closed)" if gone else "it is bound to a different event loop"
            raise WrongLoop(f"{self.name}: {why}")


class Real(Fake):
    """An `httpx.AsyncClient` with real connections to the kit's server, which counts them."""

    def __init__(self, factory: Factory, number: int) -> None:
        import ssl

        import httpx

        super().__init__(factory, number)
        # without certificates, which take long to load and are not asked for here; and a rule has no deadlines
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._httpx = httpx.AsyncClient(verify=context, trust_env=False, timeout=None)  # noqa: S113

    async def use(self) -> str:
        await self._httpx.get(self.url)  # so that there is a connection while the use is at its gate
        return await super().use()

    async def _work(self) -> None:
        await self._httpx.get(self.url)

    async def _leave(self) -> None:
        await self._httpx.aclose()


class Factory:
    """The body that is handed to the opener: makes clients, at once or in its own time.

    Args:
        lab: the rule's bench.
        gated: what waits at gates: "make" (by `aio` only), "use", "close".
        real: make them real; see `Real`.
        turns: how many turns of the loop it takes to make one by `aio`.
        failing: the numbers of those that can't be made.
        failing_to_close: the numbers of those whose close raises.
        hold: a client holds its loop, as an `aiohttp.ClientSession` does, and an open connection.
    """

    __name__ = __qualname__ = "make_client"

    def __init__(
        self,
        lab: Lab,
        *,
        gated: Iterable[Literal["make", "use", "close"]] = (),
        real: bool = False,
        turns: int = 0,
        failing: Iterable[int] = (),
        failing_to_close: Iterable[int] = (),
        hold: bool = False,
    ) -> None:
        self.lab, self.gated, self.turns, self.hold = lab, set(gated), turns, hold
        self.real = real
        self._kind: type[Fake] = Real if real else Fake
        self._failing, self._failing_to_close = set(failing), set(failing_to_close)
        self._numbers = itertools.count(1)
        self._stack = ExitStack()
        self._server: Server | None = None
        self.made: list[weakref.ref[Fake]] = []
        """Those that were made, in order."""
        self.made_on: dict[str, bool] = {}
        """Whether each client was made on a running loop."""

    def __repr__(self) -> str:
        return "<the factory of clients>"

    def __call__(self) -> Fake:
        number = next(self._numbers)
        made: Fake = self._making(number, lambda: self._make(number), gated=False)()
        return made

    async def aio(self) -> Fake:
        number = next(self._numbers)

        async def make() -> Fake:
            for _ in range(self.turns):
                await checkpoint()
            return self._make(number)

        made: Fake = await self._making(number, make, gated="make" in self.gated).aio()
        return made

    def _making(self, number: int, does: Callable[[], Any], *, gated: bool) -> Probe:
        return self.lab.probe(f"making client {number}", does, gated=gated)

    def _make(self, number: int) -> Fake:
        if number in self._failing:
            raise MakingFailed(f"client {number} could not be made")
        client = self._kind(self, number)
        self.made_on[client.name] = here() is not None
        self.made.append(weakref.ref(client))
        return client

    def closing_fails(self, number: int) -> bool:
        """Whether closing this client raises."""
        return number in self._failing_to_close

    @property
    def server(self) -> Server:
        """The kit's HTTP server; started when it is first asked for."""
        if self._server is None:
            self._server = self._stack.enter_context(serving(self.lab.timeline.poke))
        return self._server

    @property
    def alive(self) -> list[Fake]:
        """The clients that something still refers to."""
        return [client for reference in self.made if (client := reference()) is not None]

    def close(self) -> None:
        """Stop the server."""
        self._stack.close()


@contextmanager
def factory(lab: Lab, **options: Any) -> Generator[Factory]:
    """A factory; see `Factory`. Leaving stops its server."""
    if options.get("real"):
        import httpx  # noqa: F401  # pyright: ignore[reportUnusedImport] - slow the first time, and not a loop's business
    made = Factory(lab, **options)
    try:
        yield made
    finally:
        made.close()


def realities(lab: Lab) -> list[bool]:
    """Whether to try with real clients: without, and then, where httpx is installed, with.

    In the selftest without only: the broken engines show that the rules bite, and for that a fake is enough.
    """
    return [False, True] if lab.thorough and find_spec("httpx") is not None else [False]


async def checkpoint() -> None:
    """One turn of the loop for the others."""
    from anyio.lowlevel import checkpoint as turn

    await turn()
