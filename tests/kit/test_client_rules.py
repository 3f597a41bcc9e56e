"""The client facet's rules: sound caches of other builds keep them, and what a failure prints is true and of use."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import socket
import sys
import threading
import warnings
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bystanders import fresh_harness
from scripting import ran

from flowcheck_reference.broken.client import _sound, beside, closing, failing, machine, on_trio, single, successive
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.probes.lab import Lab
from pytest_flowcheck.proof import Harness
from pytest_flowcheck.protocols import Adapter, Closed
from pytest_flowcheck.rules import rules_of
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.running.resolve import _columns
from pytest_flowcheck.suites import client
from pytest_flowcheck.suites.client._clients import Factory, WrongLoop
from pytest_flowcheck.suites.client._play import Scenario, sensible, table
from pytest_flowcheck.suites.client._server import serving

RULES = {rule.id: rule for rule in rules_of(client)}
KEPT = {Verdict.PASS, Verdict.NOT_CLAIMED}


def loaded(adapter: type[Any], backend: str = "asyncio") -> subjects.Subject:
    subject = subjects.first_probe(subjects.load(f"{adapter.__module__}:{adapter.__qualname__}"))
    claims = {facet: had | subjects.read_off_backend(facet, had, backend) for facet, had in subject.claims.items()}
    return replace(subject, backend=backend, claims=claims)


def harness() -> Harness:
    """As `fresh_harness`, but for trio's idle threads, which may do this test's work."""
    fresh = fresh_harness()
    for thread in threading.enumerate():
        if "trio" in thread.name.lower() and thread.native_id is not None:
            fresh.disown(thread.native_id)
    return fresh


def judged(rule: str, adapter: type[Any], backend: str = "asyncio", *, thorough: bool = True) -> Finding:
    with warnings.catch_warnings(
        action="ignore"
    ):  # as the runner does: rules end loops whose connections nobody closes
        finding = judge(RULES[rule], loaded(adapter, backend), harness(), patience=15.0, uncaught=[], thorough=thorough)
        if thorough:
            gc.collect()
    return finding


# --- caches that do nothing wrong -------------------------------------------------------------------------------------


class Kept:
    """A plain function and an attribute of the loop: nothing is awaited but a close."""

    def __init__(self, factory: Any) -> None:
        self.factory, self.name = factory, f"client of {id(self)}"

    def get(self) -> Any:
        kept = vars(asyncio.get_running_loop())
        if self.name not in kept:
            kept[self.name] = self.factory()
        return kept[self.name]

    async def aclose(self) -> None:
        client = vars(asyncio.get_running_loop()).pop(self.name, None)
        if client is not None:
            await client.aclose()


class Plain(_sound.Sound):
    """Claims nothing but the facet."""

    Cache = Kept
    without = _sound.ALL


class Gone(Exception):  # noqa: N818
    """The library's own way to say that it is closed."""


class RefusesBehindItsClose(_sound.SoundOnLoops):
    """A loop that closed gets no client any more."""

    declares = {"client": {"after_close": "raise"}}
    errors = {Closed: Gone}

    class Cache(_sound.OnLoops):
        async def get(self) -> Any:
            if self.place() in vars(self).setdefault("gone", weakref.WeakSet()):
                raise Gone("this loop's client was closed")
            return await super().get()

        async def aclose(self) -> None:
            vars(self).setdefault("gone", weakref.WeakSet()).add(self.place())
            await super().aclose()

        def close(self) -> None:
            vars(self).setdefault("gone", weakref.WeakSet()).update(self.places)
            super().close()


class ClosedForAll(_sound.Sound):
    """Whoever closes, closes the cache: no loop gets a client any more, and each closes its own."""

    declares = {"client": {"after_close": "raise"}}

    class Cache(_sound.Tidied):
        closed = False

        async def get(self) -> Any:
            if self.closed:
                raise Closed("the cache is closed")
            return await super().get()

        async def aclose(self) -> None:
            self.closed = True
            await super().aclose()

        def close(self) -> None:
            self.closed = True
            super().close()


class EndsWithItsLoop(_sound.Sound):
    """A suspended asynchronous generator closes the client when `asyncio.run` ends its loop."""

    class Cache(_sound.Tidied):
        async def make(self) -> Any:
            client = await super().make()
            keeper = self.keep(weakref.ref(client))
            await anext(keeper)
            vars(asyncio.get_running_loop()).setdefault("keepers", []).append(keeper)
            return client

        async def keep(self, reference: Any) -> AsyncIterator[None]:
            try:
                yield
            finally:
                client = reference()
                if client is not None and client.state == "open":
                    await client.aclose()


class RefusesWhileItIsMade(_sound.SoundOnLoops):
    """An `aclose` waits for a creation that is under way; those who wait for that one are told that it was closed."""

    class Cache(_sound.OnLoops):
        async def get(self) -> Any:
            place = self.place()
            closes = vars(place).setdefault("closes", 0)
            client = await super().get()
            if vars(place)["closes"] != closes:
                raise Closed("closed while it was made")
            return client

        async def aclose(self) -> None:
            place = self.place()
            if place.lock.locked():
                vars(place)["closes"] = vars(place).get("closes", 0) + 1
                async with place.lock:
                    client, place.client = place.client, None
                if client is not None:
                    await client.aclose()
            else:
                await super().aclose()


SOUND: list[tuple[type[Any], str]] = [
    (_sound.Sound, "asyncio"),
    (_sound.SoundOnLoops, "asyncio"),
    (_sound.SoundOnLoops, "trio"),
    (Plain, "asyncio"),
    (RefusesBehindItsClose, "asyncio"),
    (RefusesBehindItsClose, "trio"),
    (ClosedForAll, "asyncio"),
    (EndsWithItsLoop, "asyncio"),
    (RefusesWhileItIsMade, "trio"),
]


@pytest.mark.parametrize(("adapter", "backend"), SOUND, ids=lambda value: getattr(value, "__name__", value))
def test_no_sound_cache_is_accused(adapter: type[Any], backend: str) -> None:
    """Caches that are built differently keep what they claim; with real clients and on uvloop, those the kit starts from."""
    for rule in RULES:
        finding = judged(rule, adapter, backend, thorough=adapter.__module__ == _sound.__name__)
        assert finding.verdict in KEPT, f"{adapter.__name__}: {finding.verdict} {finding.message}"


# --- loops and columns --------------------------------------------------------------------------------------------------


def test_a_cache_gets_a_column_for_each_loop_library() -> None:
    """It is opened by `with`, and yet it is judged on loops."""
    subject = subjects.first_probe(subjects.load(f"{_sound.__name__}:SoundOnLoops"))
    columns = _columns("sound", subject)
    assert [column.backend for column in columns] == ["asyncio", "trio"]
    assert "trio" not in columns[0].claims["client"]
    assert {"async", "trio"} <= set(columns[1].claims["client"])


def test_a_frozen_loop_is_proven_from_outside() -> None:
    """HUNG, with the line that waits for the lock; nothing that runs on the loop was asked."""
    finding = judged("CLI-05", beside.AwaitsUnderAThreadLock)
    assert finding.verdict is Verdict.HUNG
    assert finding.grade == "proven"
    assert "with self.making" in finding.message
    assert "runs another coroutine while loop 1's client is being made" in finding.message


def test_a_loop_that_is_never_let_go_is_no_address() -> None:
    """Who holds every loop is not asked about addresses, and the message says so."""
    finding = judged("CLI-03", successive.NeverTidied)
    assert finding.verdict is Verdict.NOT_TESTABLE
    assert "still referred to" in finding.message


# --- what is printed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "broken", "text"),
    [
        ("CLI-01", single.EachOfTheFirstMakesOne, "gave client"),
        ("CLI-02", successive.OneForEachThread, "run 2 of asyncio on one thread"),
        ("CLI-03", successive.KnownByAddress, "at the address of a dead one"),
        ("CLI-04", beside.TidiesWithoutALock, "dictionary changed size during iteration"),
        ("CLI-06", closing.ForgetsWithoutClosing, "of client 1 there were 0 closes"),
        ("CLI-07", closing.CloseNeedsALoop, "no running event loop"),
        ("CLI-08", failing.CancelledWithAnyCaller, "after the first get on loop 1 was cancelled raised CancelledError"),
        ("CLI-09", beside.OneLoopAtATime, "closed while it was in use"),
        ("CLI-10", successive.WeakKeysStrongValues, "still referred to"),
        ("CLI-13", single.GivesAClientToNoLoop, "gave a client"),
        ("CLI-14", closing.ClosesWhatItsCallersWereGiven, "once aclose is done"),
        ("CLI-15", closing.SwallowsWhatACloseRaises, "nothing else tells of it"),
    ],
)
def test_a_failure_names_clients_and_loops(rule: str, broken: type[Any], text: str) -> None:
    """A message that one would be glad to receive."""
    finding = judged(rule, broken)
    assert finding.verdict.broken
    assert text in finding.message, finding.message
    assert "Usual cause:" in finding.message


def test_on_trio_a_failure_says_where_it_was_made() -> None:
    """The same for the rule that is judged on trio only."""
    assert "was made where no loop runs" in judged("CLI-12", on_trio.MadeOnAHelperThread, "trio").message


class TwoLoopsAreEnough(_sound.Sound):
    """A third loop at once gets the first one's client."""

    class Cache(_sound.Tidied):
        def key(self, loop: Any) -> Any:
            return loop if len(self.entries) < 2 or loop in self.entries else next(iter(self.entries))


class ClosedForgetfully(_sound.SoundOnLoops):
    """On both loop libraries."""

    class Cache(_sound.OnLoops):
        async def aclose(self) -> None:
            self.place().client = None


@pytest.mark.parametrize(
    ("rule", "broken", "backend"),
    [
        ("CLI-04", TwoLoopsAreEnough, "asyncio"),
        ("CLI-11", machine.BehindACloseNothingIsKept, "asyncio"),
        ("CLI-11", ClosedForgetfully, "trio"),
    ],
)
def test_the_script_shows_the_same_without_pytest(rule: str, broken: Any, backend: str, tmp_path: Path) -> None:
    """The printed program fails on the broken cache, and on the sound one it ends well."""
    finding = judged(rule, broken, backend)
    assert finding.verdict is Verdict.VIOLATED, finding.message
    text = str(finding.evidence["script"])
    assert all(line in finding.message for line in (f"    {row}".rstrip() for row in text.splitlines()))
    assert ran(text, tmp_path) == 1
    other = f"from {_sound.__name__} import SoundOnLoops\n\nsubject = SoundOnLoops()"
    assert ran(text.replace(loaded(broken).source, other), tmp_path) == 0


def test_a_scenario_reads_as_a_story() -> None:
    """A call on a thread without a loop begins one; an end without a loop is nothing."""
    drawn = [("use", 0, 1), ("end", 1, 1), ("get", 0, 2), ("", 1, 1), ("use", 0, 1), ("close", 1, 1), ("use", 0, 1)]
    steps = sensible(drawn)
    assert table(Scenario(2, steps)).splitlines() == [
        "making a client takes 2 turns of its loop",
        "thread A: a loop begins",
        "thread A: get() in 2 tasks at once",
        "thread A: use what was got",
        "close(), without a loop",
    ]


# --- the kit's clients ------------------------------------------------------------------------------------------------


@pytest.fixture
def lab() -> Lab:
    return Lab(loaded(_sound.Sound), facet="client")


@pytest.mark.parametrize("real", [False, True])
def test_a_client_is_bound_to_its_loop(lab: Lab, real: bool) -> None:
    """Used on another loop it raises, and used after its close: the fake as the real one."""
    if real:
        pytest.importorskip("httpx")
    made = Factory(lab, real=real)

    async def one() -> Any:
        client = await made.aio()
        assert await client.use() == "client 1"
        return client

    async def other(client: Any) -> None:
        with pytest.raises(RuntimeError):
            await client.use()

    async def closed() -> None:
        client = made()
        await client.aclose()
        with pytest.raises(RuntimeError, match="closed"):
            await client.use()

    try:
        with pytest.warns(ResourceWarning) if real else contextmanager(lambda: iter([None]))():
            client = asyncio.run(one())
            asyncio.run(other(client))
            del client
            gc.collect()
        asyncio.run(closed())
    finally:
        made.close()


def test_a_client_made_without_a_loop_binds_at_its_first_use(lab: Lab) -> None:
    """As a real one does, that connects then."""
    client = Factory(lab)()
    assert asyncio.run(client.use()) == "client 1"
    with pytest.raises(WrongLoop, match="Event loop is closed"):
        asyncio.run(client.use())


def test_the_server_knows_whose_connections_are_open() -> None:
    """By the path of the last request; a connection that was closed is gone."""
    changed = threading.Semaphore(0)
    with serving(changed.release) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with socket.create_connection(address) as connection:
            for _ in range(2):
                connection.sendall(b"GET /client-7 HTTP/1.1\r\nHost: here\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
            assert server.connections("client-7") == 1
            assert server.served == 2
        assert changed.acquire(timeout=30)
        assert not server.connections("client-7")


class GivesText(Adapter):
    """Its adapter gives what is no client."""

    name = "gives-text"
    version = "1"
    claims = {"client": frozenset[str]()}

    @contextmanager
    def client(self, factory: Any) -> Iterator[Any]:
        yield self

    async def get(self) -> str:
        return "a client"

    async def aclose(self) -> None:
        """Nothing to close."""


def test_what_is_no_client_is_the_adapters_fault() -> None:
    """Not a word about the cache behind it."""
    finding = judged("CLI-14", GivesText)
    assert finding.verdict is Verdict.ADAPTER_ERROR
    assert "expected a client of the factory" in finding.message


class GivesNothing(GivesText):
    """Its `get` forgets its `return`, which a nursery tells in a group."""

    name = "gives-nothing"

    async def get(self) -> Any:
        return None


class HasNoGet(Adapter):
    """Its instance is anything."""

    name = "has-no-get"
    version = "1"
    claims = {"client": frozenset[str]()}

    @contextmanager
    def client(self, factory: Any) -> Iterator[Any]:
        yield object()


@pytest.mark.parametrize("rule", ["CLI-02", "CLI-03", "CLI-09", "CLI-10", "CLI-13", "CLI-14"])
@pytest.mark.parametrize(("adapter", "words"), [(GivesNothing, "get() gave None"), (HasNoGet, "has no get()")])
def test_an_adapter_without_a_client_is_at_fault(rule: str, adapter: type[Adapter], words: str) -> None:
    """In every rule, also those in which several tasks ask, or that take errors for another rule's affair."""
    finding = judged(rule, adapter)
    assert (finding.verdict, words in finding.message) == (Verdict.ADAPTER_ERROR, True), finding.message


def test_what_the_tests_need_is_there() -> None:
    """Rules with real clients and on uvloop are judged here, not left out."""
    assert importlib.util.find_spec("httpx")
    assert importlib.util.find_spec("uvloop") or sys.platform == "win32"
