"""What several rules of this suite share: asking for a client, and saying what came of it."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import AdapterError, Inconclusive
from pytest_flowcheck.probes.calls import is_cancellation, offered, reachable
from pytest_flowcheck.protocols import Closed, Inexpressible, Unsupported
from pytest_flowcheck.suites.client._clients import Factory, factory
from pytest_flowcheck.suites.client._loops import Loop, Loops, loops

if TYPE_CHECKING:
    from pytest_flowcheck.probes.calls import Call
    from pytest_flowcheck.probes.lab import Lab


@dataclass(frozen=True)
class Got:
    """What a `get` came to, and a first use of the client right behind it."""

    client: Any = None
    name: str = ""
    """What the client calls itself; "" if there is none, or it could not be used."""
    refused: BaseException | None = None
    """What `get` raised."""
    broken: BaseException | None = None
    """What using the client raised."""

    def __str__(self) -> str:
        if self.refused is not None:
            return f"get raised {self.refused!r}"
        if self.broken is not None:
            return f"get gave a client whose use raised {self.broken!r}"
        return f"get gave {self.name}"


async def awaited(value: Any) -> Any:
    """A value, or what an awaitable gives."""
    return await value if hasattr(value, "__await__") else value


async def fetched(cache: Any) -> Any:
    """This loop's client, which nobody has used yet.

    Raises:
        AdapterError: `get` gave something else.
    """
    return a_client(await awaited(offered(cache, "get", "client")()))


def a_client(client: Any) -> Any:
    """What `get` gave, which must be a client.

    Raises:
        AdapterError: it is none.
    """
    if not callable(getattr(client, "use", None)) or not callable(getattr(client, "aclose", None)):
        raise AdapterError(
            f"get() gave {client!r}; expected a client of the factory, or one around it with use and aclose"
        )
    return client


async def got(cache: Any) -> Got:
    """Ask for this loop's client and use it."""
    try:
        client = await fetched(cache)
    except (Unsupported, Inexpressible, AdapterError):
        raise
    except BaseException as error:
        if is_cancellation(error):
            raise
        return Got(refused=error)
    try:
        return Got(client, await client.use())
    except BaseException as error:
        if is_cancellation(error):
            raise
        return Got(client, broken=error)


async def aclosed(cache: Any) -> None:
    """Close this loop's client."""
    await awaited(offered(cache, "aclose", "client")())


def ask(loop: Loop, what: str = "get") -> Call[Got]:
    """Begin to ask for a client on this loop."""
    return loop.start(what, got)


def client_of(lab: Lab, asked: Call[Got] | Got, *, of: str = "", needs: str | None = None) -> Got:
    """The client that was got, and that works.

    Args:
        lab: the rule's bench.
        asked: the call, which is waited for by proof, or what came of it.
        of: whose it is, for messages.
        needs: the rule that is broken if there is none; else that is the finding.
    """
    if not isinstance(asked, Got):
        of = of or asked.what
        if needs is not None:
            lab.until(lambda: asked.done, f"{of} comes back", needs=needs)
        given: Got = result(lab, asked, of=of, needs=needs)
    else:
        given = asked
    if given.refused is not None and isinstance(fault := lab.whose(given.refused), AdapterError):
        raise fault
    if needs is not None and not given.name:
        raise Inconclusive(f"{of}: {given}", because_of=needs)
    lab.check(bool(given.name), f"{of}: {given}", "get gives a client that works on this loop")
    return given


def result(lab: Lab, call: Call[Any], *, of: str = "", needs: str | None = None) -> Any:
    """What a call gave; that it raised is a finding, or `needs`'s affair. `of`: what it is called in messages."""
    of = of or call.what
    call.join()
    if isinstance(call.error, AdapterError):
        raise call.error
    if call.error is not None and needs is not None:
        raise Inconclusive(f"{of} raised {call.error!r}", because_of=needs)
    lab.check(call.error is None, f"{of} raised {call.error!r}", "it returns")
    return call.value


def closed_now(lab: Lab, call: Call[Any], *, needs: str | None = None) -> None:
    """Wait for a close, which returns."""
    if needs is not None:
        lab.until(lambda: call.done, f"{call.what} comes back", needs=needs)
    result(lab, call, needs=needs)


def asked_again(lab: Lab, given: Got, *, of: str, not_: str = "") -> None:
    """What `get` may give behind a close: as declared, a client other than that one, or Closed."""
    if not reopens(lab):
        lab.check(
            lab.is_a(given.refused, Closed),
            f"{of}: {given}",
            "Closed, or what the subject's `errors` map it to: declared is after_close = 'raise'",
        )
        return
    client_of(lab, given, of=of)
    lab.check(given.name != not_, f"{of}: {given}, which is closed", "a new client: after_close = 'reopen'")


def reopens(lab: Lab) -> bool:
    """Whether `get` works again behind a close, as declared."""
    return lab.declared("after_close") == "reopen"


def may_refuse(lab: Lab, error: BaseException | None) -> bool:
    """Whether it is the error of a `get` somewhere behind a close, for a cache that declares to raise then."""
    return not reopens(lab) and lab.is_a(error, Closed)


def closes(lab: Lab, name: str = "") -> list[str]:
    """The closes that have begun, of this client or of all."""
    return [n for n in lab.started() if n.startswith(f"close of {name}" if not name else f"close of {name} #")]


def makings(lab: Lab) -> list[str]:
    """The creations that have begun."""
    return [n for n in lab.started() if n.startswith("making ")]


def of_kit(lab: Lab, error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether it is this error of the kit's factory or client: itself, wrapped, chained or in a group."""
    return any(lab.is_a(part, kind) for part in reachable(error))


@contextmanager
def stage(lab: Lab, *, kind: str = "", **options: Any) -> Generator[tuple[Factory, Loops]]:
    """A fresh cache over a fresh factory with these options, loops that ask it, and a history of their own."""
    lab.fresh()
    with factory(lab, **options) as made, lab.instance(factory=made) as it, loops(lab, it.raw, kind) as running:
        yield made, running


def collected(lab: Lab, holds: Callable[[], bool]) -> bool:
    """Whether it is so once nothing moves and garbage is collected."""
    lab.settle()
    gc.collect()
    return holds()


Ask = Callable[[Any], Awaitable[Any]]
