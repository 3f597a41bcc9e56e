"""What all runs of an engine share, by name: given, or made once by whoever asks first (FLO-15); clients once for each loop."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from logging import Logger
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from flowcheck_reference.client import Clients

T = TypeVar("T")


class _Making:
    """Somebody makes it. `rings`: whom to tell when he is through."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.rings: list[Callable[[], object]] = []


class Shared:
    """Guarantees: of all that ask for a name at once one makes it, the others wait, threads and tasks alike. If he fails,
    the error is his, and the next of them makes it.
    """

    def __init__(self, given: Mapping[str, Any], log: Logger) -> None:
        self._values: dict[str, Any] = dict(given)
        self._making: dict[str, _Making] = {}
        self._made: list[Any] = []
        self._clients: dict[str, Clients[Any]] = {}
        self._closed = False
        self._log = log
        self._lock = threading.Lock()

    def get(self, key: str, make: Callable[[], T]) -> T:
        """Blocking. Raises: what `make` raises; RuntimeError: it would wait for something of its own thread."""
        while key not in self._values:
            park = threading.Lock()
            park.acquire()
            making = self._asks(key, park.release)
            if making is None:
                try:
                    if key not in self._values:
                        self._refuse_closed(key)
                        self._keep(key, make())
                finally:
                    self._through(key)
            elif making.thread == threading.get_ident():
                msg = f"the shared {key!r} is being made in this very thread, which would wait for itself"
                raise RuntimeError(msg)
            else:
                park.acquire()
        return cast("T", self._values[key])

    async def aget(self, key: str, make: Callable[[], Awaitable[T] | T]) -> T:
        """Awaited; `make` may be async. Raises: what `make` raises."""
        import anyio

        from .tasks import soon_here

        while key not in self._values:
            over, soon = anyio.Event(), soon_here()
            making = self._asks(key, lambda soon=soon, over=over: soon(over.set))  # type: ignore[misc]
            if making is None:
                try:
                    if key not in self._values:
                        self._refuse_closed(key)
                        value = make()
                        self._keep(key, await value if inspect.isawaitable(value) else value)
                finally:
                    self._through(key)
            else:
                await over.wait()
        return cast("T", self._values[key])

    async def client(self, key: str, factory: Callable[[], Awaitable[T] | T], close: Callable[[T], Any] | None) -> T:
        """This loop's. Raises: what `factory` raises."""
        if key in self._values:
            return cast("T", self._values[key])
        self._refuse_closed(key)
        clients: Clients[T] | None = self._clients.get(key)
        if clients is None:
            from flowcheck_reference.client import Clients

            clients = self._clients.setdefault(key, Clients(factory, close=close))  # a spare one has made nothing
        return await clients.get()

    def _refuse_closed(self, key: str) -> None:
        """Who would close it?"""
        if self._closed:
            msg = f"the engine is closed: the shared {key!r} is not made any more"
            raise RuntimeError(msg)

    def _asks(self, key: str, ring: Callable[[], object]) -> _Making | None:
        """Who makes it, and will ring; None: the asker does, unless it was made since he looked."""
        with self._lock:
            making = self._making.get(key)
            if making is None:
                self._making[key] = _Making()
            else:
                making.rings.append(ring)
            return making

    def _keep(self, key: str, value: Any) -> None:
        self._values[key] = value
        self._made.append(value)

    def _through(self, key: str) -> None:
        with self._lock:
            making = self._making.pop(key)
        for ring in making.rings:
            with suppress(Exception):  # a waiter's loop is gone: he waits no more
                ring()

    @property
    def has_clients(self) -> bool:
        """Was one asked for?"""
        return bool(self._clients)

    async def aclose_clients(self) -> None:
        """Close this loop's, the last first; all of them, whatever closing one raises. A later `client` makes another."""
        for key, clients in reversed([*self._clients.items()]):
            try:
                await clients.aclose()
            except Exception:  # noqa: BLE001  the others are closed, too
                self._log.exception("closing the client %r failed", key)

    def _let_go(self) -> None:
        for clients in self._clients.values():
            clients.close()

    def close(self) -> None:
        """Close what was made here, the last first. What was given is its giver's."""
        self._closed = True
        self._let_go()
        while self._made:
            value = self._made.pop()
            self._quietly(value, getattr(value, "close", None))

    async def aclose(self) -> None:
        """`close`, and await what must be. Raises: cancellation, when all were asked to close."""
        self._closed = True
        try:
            await self.aclose_clients()
        finally:
            self._let_go()
            await self._aclose_made()

    async def _aclose_made(self) -> None:
        while self._made:
            value = self._made.pop()
            over = self._quietly(value, getattr(value, "aclose", None) or getattr(value, "close", None))
            if inspect.isawaitable(over):
                try:
                    await over
                except Exception:  # noqa: BLE001  the others are closed, too
                    self._log.exception("closing the shared %r failed", value)
                except BaseException:
                    await self._aclose_made()
                    raise

    def _quietly(self, value: Any, close: Any) -> Any:
        try:
            return close() if callable(close) else None
        except Exception:  # noqa: BLE001  the others are closed, too
            self._log.exception("closing the shared %r failed", value)
            return None
