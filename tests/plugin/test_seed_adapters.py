"""The adapters of whole systems: listed without them, and read off the release; driven where one is installed.

The systems need environments of their own, so most of this is skipped, with the reason, where the other tests run.
"""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from pytest_flowcheck import subjects
from pytest_flowcheck.adapters._collector import collecting
from pytest_flowcheck.protocols import Ok
from pytest_flowcheck.protocols.flow import Graph, Node
from pytest_flowcheck.protocols.retry import RetryPolicy

NAMES = ["dynamiq", "dynamiq-async", "openhands", "openhands-pause"]


def adapter(name: str) -> Any:
    """The adapter, or a skip where its system is not installed."""
    module, _, attribute = subjects.registered()[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)()
    for distribution in found.requires:
        try:
            metadata.version(distribution)
        except metadata.PackageNotFoundError:
            pytest.skip(f"needs {distribution}")
    return found


class Body:
    """A body of the kit's, as far as the systems see it."""

    __name__ = __qualname__ = "body"

    def __init__(self, does: Any) -> None:
        self.does = does

    def __call__(self, *args: Any) -> Any:
        return self.does(*args)

    async def aio(self, *args: Any) -> Any:
        return self.does(*args)


def test_listing_imports_no_system() -> None:
    """All are known by name, whatever is installed; nothing of theirs is imported for that."""
    program = (
        "import sys; from pytest_flowcheck import subjects\n"
        "import pytest_flowcheck.adapters.dynamiq_, pytest_flowcheck.adapters.openhands_\n"
        f"assert set({NAMES!r}) <= set(subjects.registered())\n"
        "assert not {'dynamiq', 'openhands', 'litellm', 'httpx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_collector_answers_when_the_sink_has() -> None:
    """What is posted is delivered before it is answered; what the sink raises is an error of the server."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    got: list[bytes] = []

    def deliver(body: bytes) -> None:
        got.append(body)
        if body == b"bad":
            raise ValueError(body)

    with collecting(deliver) as url:
        with urlopen(url, data=b"good") as answer:
            assert answer.status == 200
        with pytest.raises(HTTPError, match="500"):
            urlopen(url, data=b"bad")
    assert got == [b"good", b"bad"]


def test_a_collector_is_left_while_a_post_is_open() -> None:
    """Whoever leaves cuts what is still open, and waits for none but the sink."""
    import socket

    with collecting(lambda _: None) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        connection = socket.create_connection((host, int(port)))
        connection.sendall(b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\n")
    with connection:
        try:
            answer = connection.recv(100)
        except ConnectionResetError:  # the cut came before the body was read
            answer = b""
        assert answer == b""


@pytest.mark.parametrize("name", NAMES)
def test_claims_are_those_of_the_release(name: str) -> None:
    """Facets and capabilities that the kit knows; checkpoints only where they are."""
    found = adapter(name)
    assert found.version == metadata.version(found.requires[0])
    for facet, capabilities in found.claims.items():
        protocol = importlib.import_module(f"pytest_flowcheck.protocols.{facet}")
        assert capabilities <= set(protocol.CAPABILITIES)
        assert set(found.declares.get(facet, {})) <= set(protocol.DECLARES)
    if name == "dynamiq":
        assert ("store" in found.claims) == ("resume" in found.claims["flow"]) == (found.version != "0.45.0")


def test_dynamiq_runs_and_retries(tmp_path: Path) -> None:
    """A flow's outputs by node, a call's value by its second attempt, and a checkpoint's state."""
    found = adapter("dynamiq")
    graph = Graph((Node("b", Body(lambda given, up: up["a"] + given), ("a",)), Node("a", Body(lambda given, _: given))))
    with found.flow(max_workers=2) as flow:
        run = flow.run(graph, "x")
    assert (run.status, run.nodes["b"]) == ("completed", Ok("xx"))
    answers = iter([OSError("busy"), "done"])

    def fetch() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    with found.retry(max_workers=2) as retry:
        assert retry.call(Body(fetch), RetryPolicy(attempts=2)) == "done"
    if "store" in found.claims:
        with found.store(tmp_path) as store:
            store.save("run", {"step": 1})
            assert store.load("run") == {"step": 1}


@pytest.mark.parametrize("name", ["openhands", "openhands-pause"])
def test_openhands_runs_a_body_in_a_tool(name: str) -> None:
    """Its parts run behind it, a failure is the caller's, and an idle conversation answers."""
    found, ran = adapter(name), list[str]()

    def fails() -> None:
        raise LookupError("this one fails")

    async def main() -> None:
        async with found.isolation(max_concurrent_runs=2) as service:
            parts = [Body(lambda: ran.append("part")) for _ in range(2)]
            await service.run(Body(lambda: ran.append("body")), session="one", then=parts)
            with pytest.raises(Exception, match="this one fails"):
                await service.run(Body(fails), session="two")
            assert await service.short_op(session="three") is not None

    asyncio.run(main())
    assert ran == ["body", "part", "part"]
