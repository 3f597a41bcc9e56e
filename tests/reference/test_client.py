"""The cache of clients keeps the rules of its facet; each test says which, and needs no kit to say it."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
import trio
from gating import LIMIT, Gate, background, in_threads

from flowcheck_reference import Clients
from flowcheck_reference.client import _rooms

T = TypeVar("T")

Runner = Callable[[Callable[[], Awaitable[T]]], T]


def on_asyncio(main: Callable[[], Awaitable[T]]) -> T:
    async def coroutine() -> T:
        return await main()

    return asyncio.run(coroutine())


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Any:
    """`asyncio.run`, or `trio.run`."""
    return on_asyncio if request.param == "asyncio" else trio.run


class Client:
    """Knows whether it is closed, and refers to its loop, as real clients do."""

    made = 0

    def __init__(self) -> None:
        type(self).made += 1
        self.closes = 0
        self.loop = (
            asyncio.get_running_loop() if not trio.lowlevel.in_trio_run() else trio.lowlevel.current_trio_token()
        )

    async def aclose(self) -> None:
        self.closes += 1


async def together(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """All of them at once; what they gave or raised, in their order."""
    import anyio

    came: dict[int, Any] = {}

    async def one(number: int, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            came[number] = await call()
        except Exception as error:
            came[number] = error

    async with anyio.create_task_group() as group:
        for number, call in enumerate(calls):
            group.start_soon(one, number, call)
    return [came[number] for number in range(len(calls))]


# --- one loop -----------------------------------------------------------------------------------------------------------


def test_a_loop_has_one_client(run: Any) -> None:
    """Made by whoever comes first, at once or awaited (CLI-01)."""

    async def slowly() -> Client:
        import anyio.lowlevel

        await anyio.lowlevel.checkpoint()
        return Client()

    async def main() -> None:
        for factory in (Client, slowly):
            clients: Clients[Client] = Clients(factory)
            before = Client.made
            got = await together(*[clients.get] * 5)
            assert len({id(client) for client in got}) == 1
            assert await clients.get() is got[0]
            assert Client.made == before + 1

    run(main)


def test_two_caches_share_nothing(run: Any) -> None:
    """Each has its own place on the loop."""

    async def main() -> None:
        one, other = Clients(Client), Clients(Client)
        assert await one.get() is not await other.get()
        await one.aclose()
        assert (await other.get()).closes == 0

    run(main)


def test_without_a_loop_it_says_so() -> None:
    """The error is asyncio's own (CLI-13)."""
    clients = Clients(Client)
    for call in (clients.get, clients.aclose):
        with pytest.raises(RuntimeError, match="no running event loop"):
            call().send(None)


def test_the_factory_is_asked_again_after_it_failed(run: Any) -> None:
    """Whoever waited is told; who comes later is not (CLI-08)."""
    error, calls = ValueError("no connection"), 0

    async def factory() -> str:
        import anyio.lowlevel

        nonlocal calls
        calls += 1
        await anyio.lowlevel.checkpoint()
        if calls == 1:
            raise error
        return "client"

    async def main() -> None:
        clients = Clients(factory)
        assert await together(*[clients.get] * 3) == [error] * 3
        assert await clients.get() == "client"
        assert calls == 2

    run(main)


@pytest.mark.parametrize("which", [0, 1])
def test_a_cancelled_caller_takes_nobody_along(run: Any, which: int) -> None:
    """The one who has it made, or one who waits: the others get one client (CLI-08)."""
    gate = Gate()

    async def factory() -> object:
        await gate.aio()
        return object()

    async def main() -> None:
        import anyio

        clients, scopes, came = Clients(factory), list[anyio.CancelScope](), list[object]()

        async def one() -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                came.append(await clients.get())

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(one)
            while len(scopes) < 3:
                await anyio.lowlevel.checkpoint()
            scopes[which].cancel()
            await anyio.lowlevel.checkpoint()
            gate.opened.set()
        assert len(came) == 2
        assert {id(client) for client in came} == {id(await clients.get())}

    run(main)


# --- many loops ---------------------------------------------------------------------------------------------------------


def test_each_run_has_its_own(run: Any) -> None:
    """One after the other, on one thread (CLI-02)."""
    clients = Clients(Client)
    got = [run(clients.get) for _ in range(3)]
    assert len({id(client) for client in got}) == 3


def test_loops_at_once_have_their_own() -> None:
    """In several threads, on both loop libraries (CLI-04)."""
    clients, got = Clients(Client), dict[int, Client]()
    everyone = threading.Barrier(6)

    def visit(number: int) -> None:
        async def main() -> None:
            got[number] = await clients.get()
            everyone.wait(LIMIT)
            assert await clients.get() is got[number]
            await clients.aclose()

        (on_asyncio if number % 2 else trio.run)(main)

    in_threads(6, visit)
    assert len({id(client) for client in got.values()}) == 6
    assert all(client.closes == 1 for client in got.values())


def test_trio_as_a_guest_has_a_client_of_its_own() -> None:
    """Its tasks run in callbacks of an asyncio loop, which has another one."""
    clients, got = Clients(Client), list[Client]()

    async def guest() -> None:
        got.extend([await clients.get(), await clients.get()])

    async def host() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        trio.lowlevel.start_guest_run(
            guest, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=lambda _: over.set()
        )
        await over.wait()
        mine = await clients.get()
        assert got[0] is got[1]
        assert got[0] is not mine
        assert mine.loop is loop

    asyncio.run(host())


def test_nothing_holds_a_loop_that_is_gone(run: Any) -> None:
    """Though the client holds it, and nobody closed it (CLI-10)."""
    clients = Clients(Client)
    loops: list[Any] = []

    async def main() -> None:
        loops.append(weakref.ref((await clients.get()).loop))

    for _ in range(10):
        run(main)
    gc.collect()
    assert not any(loop() for loop in loops)
    assert not clients._homes


def test_a_cache_that_is_dropped_leaves_nothing_on_the_loop(run: Any) -> None:
    """Neither its client nor its place."""

    async def main() -> None:
        clients = Clients(Client)
        client = weakref.ref(await clients.get())
        rooms = clients._home(_rooms()).rooms
        key = clients._key
        assert key in rooms
        del clients
        gc.collect()
        assert client() is None
        assert key not in rooms

    run(main)


# --- closing ------------------------------------------------------------------------------------------------------------


def test_aclose_closes_once_and_get_makes_a_new_one(run: Any) -> None:
    """Twice in a row, twice at once, and where there is nothing to close (CLI-06)."""

    async def main() -> None:
        clients = Clients(Client)
        await clients.aclose()
        client = await clients.get()
        await together(clients.aclose, clients.aclose)
        await clients.aclose()
        assert client.closes == 1
        assert await clients.get() is not client

    run(main)


def test_leaving_the_context_closes(run: Any) -> None:
    """As `aclose` does."""

    async def main() -> None:
        async with Clients(Client) as clients:
            client = await clients.get()
        assert client.closes == 1

    run(main)


def test_a_client_is_closed_by_what_was_given_for_that(run: Any) -> None:
    """A plain function, or one that is awaited."""
    closed: list[object] = []

    async def main() -> None:
        for close in (closed.append, closed_slowly):
            clients: Clients[object] = Clients(object, close=close)
            client = await clients.get()
            await clients.aclose()
            assert closed[-1] is client

    async def closed_slowly(client: object) -> None:
        closed.append(client)

    run(main)


def test_nobody_gets_what_is_being_closed(run: Any) -> None:
    """A `get` during the close gets a new one; a second close waits for the first (CLI-14)."""
    gate = Gate()

    class Slow(Client):
        async def aclose(self) -> None:
            await gate.aio()
            await super().aclose()

    async def main() -> None:
        clients = Clients(Slow)
        client = await clients.get()

        async def meanwhile() -> Any:
            import anyio.lowlevel

            while not gate.came.acquire(blocking=False):
                await anyio.lowlevel.checkpoint()
            other = await clients.get()
            assert client.closes == 0
            gate.opened.set()
            return other

        _, other = await together(clients.aclose, meanwhile)
        assert other is not client
        assert (client.closes, other.closes) == (1, 0)
        gate.opened.clear()

        async def second() -> int:
            import anyio.lowlevel

            while not gate.came.acquire(blocking=False):  # trio starts the two in any order
                await anyio.lowlevel.checkpoint()
            background(gate.opened.set)
            await clients.aclose()
            return int(other.closes)

        assert (await together(clients.aclose, second))[1] == 1

    run(main)


def test_what_a_close_raises_is_raised_and_the_client_dropped(run: Any) -> None:
    """It is not closed again, nor given (CLI-15)."""

    class Broken(Client):
        async def aclose(self) -> None:
            await super().aclose()
            raise OSError("reset")

    async def main() -> None:
        clients = Clients(Broken)
        client = await clients.get()
        with pytest.raises(OSError, match="reset"):
            await clients.aclose()
        await clients.aclose()
        assert client.closes == 1
        assert await clients.get() is not client

    run(main)


def test_close_needs_no_loop(run: Any) -> None:
    """Of an unused cache, of loops that are gone, twice (CLI-07)."""
    clients = Clients(Client)
    clients.close()
    client = run(clients.get)
    clients.close()
    clients.close()
    assert client.closes == 0  # its loop is gone: nobody can


def test_close_has_living_loops_close_theirs(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """On those loops; an error is logged, and harms no loop (CLI-07, 15)."""
    closed = threading.Semaphore(0)

    class Broken(Client):
        async def aclose(self) -> None:
            here = trio.lowlevel.current_trio_token() if trio.lowlevel.in_trio_run() else asyncio.get_running_loop()
            assert self.loop is here
            closed.release()
            raise OSError("reset")

    clients = Clients(Broken)

    async def main() -> bool:
        import anyio.lowlevel

        await clients.get()
        background(clients.close)
        while not closed.acquire(blocking=False):
            await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        return True

    with caplog.at_level(logging.ERROR, "flowcheck_reference"):
        assert run(main)
    assert "failed" in caplog.text
    assert "reset" in caplog.text


def test_a_close_from_a_coroutine_closes_soon(run: Any) -> None:
    """It waits for nothing, so the loop that calls it is not in the way."""

    async def main() -> None:
        import anyio.lowlevel

        clients = Clients(Client)
        client = await clients.get()
        clients.close()
        while not client.closes:
            await anyio.lowlevel.checkpoint()
        assert await clients.get() is not client

    run(main)


# --- real clients -------------------------------------------------------------------------------------------------------


def test_it_holds_httpx_and_aiohttp() -> None:
    """As the documentation shows it."""
    httpx, aiohttp = pytest.importorskip("httpx"), pytest.importorskip("aiohttp")

    async def main() -> None:
        async with Clients(httpx.AsyncClient) as clients:
            http = await clients.get()
            assert not http.is_closed
        assert http.is_closed
        async with Clients(aiohttp.ClientSession, close=aiohttp.ClientSession.close) as sessions:
            session = await sessions.get()
        assert session.closed

    asyncio.run(main())


def test_uvloop_has_a_place_for_it() -> None:
    """Its loops take attributes, as asyncio's do (CLI-10)."""
    uvloop = pytest.importorskip("uvloop")
    clients = Clients(Client)

    async def main() -> Any:
        client = await clients.get()
        assert await clients.get() is client
        return weakref.ref(client.loop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = runner.run(main())
    del runner
    gc.collect()
    assert loop() is None


def test_importing_it_imports_no_loop_library() -> None:
    """Who uses asyncio pays for neither trio nor anyio."""
    import subprocess

    code = "import flowcheck_reference.client, sys; print({'trio', 'anyio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
