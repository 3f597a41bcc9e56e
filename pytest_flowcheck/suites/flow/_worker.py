"""What the flow's rules ask of other processes: runs that are saved, and resumed. See `probes.nursery`."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import replace
from hashlib import sha256
from inspect import isawaitable
from pathlib import Path
from typing import Any, ClassVar, Final

from pytest_flowcheck.errors import NotTestable
from pytest_flowcheck.probes.nursery import Answer, Server
from pytest_flowcheck.protocols import Failed, Foreign, Outcome
from pytest_flowcheck.protocols.flow import Graph, Node, Run
from pytest_flowcheck.suites.flow._shared import a_run

OUTPUT: Final = 1024
"""Characters that each node of a counted run gives."""


class FlowServer(Server):
    """Holds engines. Each request that runs nodes answers when the run is over."""

    facet: ClassVar[str] = "flow"
    options: ClassVar[Mapping[str, Any]] = {"max_workers": 2}
    statements: ClassVar[bool] = True

    def run(self, handle: str, graph: Graph, input: Any, run_id: str) -> Answer:  # noqa: A002 - the protocol's
        """A new run."""
        return self._ask(handle, "run", lambda flow: told(flow.run(graph, input, run_id=run_id)))

    def resume(self, handle: str, graph: Graph, run_id: str) -> Answer:
        """Go on with one."""
        return self._ask(handle, "resume", lambda flow: told(flow.resume(graph, run_id)))

    def written(self, folder: str, size: int) -> tuple[Answer, int]:
        """Run a chain of so many nodes in this empty folder; and the bytes that this process gave to write calls meanwhile.

        Raises:
            NotTestable: nobody counts them here.
        """
        before = bytes_written()
        answer = self.open("counted", folder)
        if answer.returned:
            answer = self.run("counted", counted(size), "counted", "report-17")
            closed = self.close("counted")
            answer = answer if closed.returned else closed
        if answer.returned and isinstance(answer.value, Run):  # the outputs themselves need not travel
            answer = replace(answer, value=replace(answer.value, nodes={}))
        return answer, bytes_written() - before


def told(run: Run | Awaitable[Run]) -> Any:
    """The run, with errors that travel; awaited, if that is what it is."""
    return _awaited(run) if isawaitable(run) else _travels(run)


async def _awaited(run: Awaitable[Run]) -> Any:
    return _travels(await run)


def _travels(run: Any) -> Any:
    run = a_run("a run in another process", run)
    nodes: dict[str, Outcome[Any]] = {
        id_: replace(outcome, error=_foreign(outcome.error)) if isinstance(outcome, Failed) else outcome
        for id_, outcome in run.nodes.items()
    }
    return Run(run.status, nodes, None if run.error is None else _foreign(run.error))


def _foreign(error: BaseException) -> Foreign:
    return error if isinstance(error, Foreign) else Foreign(type(error).__name__, str(error))


def bytes_written() -> int:
    """What this process has given to write calls so far, of all its threads.

    Raises:
        NotTestable: the kernel doesn't tell.
    """
    try:
        counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    except OSError as error:
        raise NotTestable(f"nobody counts the bytes that are written here: {error}") from None
    return int(counters["wchar"])


class Link:
    """The body of a node of a counted run: says nothing to anybody, and gives a text that can't be made shorter."""

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name

    def __call__(self, input: Any, upstream: Mapping[str, Any]) -> str:  # noqa: A002, ARG002 - the protocol's
        return "".join(sha256(f"{self.__name__} {part}".encode()).hexdigest() for part in range(OUTPUT // 64))

    async def aio(self, input: Any, upstream: Mapping[str, Any]) -> str:  # noqa: A002 - the protocol's
        return self(input, upstream)


def counted(size: int) -> Graph:
    """A chain: each node's end comes by itself, and could be saved by itself."""
    return Graph(tuple(Node(f"n{i}", Link(f"n{i}"), (f"n{i - 1}",) if i else ()) for i in range(size)))
