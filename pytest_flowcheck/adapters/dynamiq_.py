"""dynamiq: flows, retries, fan-outs, checkpoints, traces and clients, blocking and awaited.

One adapter for all releases: what a release offers is read from its files, since importing it takes seconds.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Final

from pytest_flowcheck.adapters._collector import collecting
from pytest_flowcheck.adapters._dynamiq_clients import Connections, Traces, events_of
from pytest_flowcheck.adapters._dynamiq_runs import (
    AsyncCaller,
    AsyncEngine,
    AsyncMapped,
    Caller,
    Engine,
    InUse,
    Mapped,
    dynamiq,
)
from pytest_flowcheck.protocols import Body, ErrorMap, Foreign, Invalid, NotFound, Refused
from pytest_flowcheck.protocols.client import Client, ClientCache, Made
from pytest_flowcheck.protocols.retry import RetryPolicy
from pytest_flowcheck.protocols.store import Store
from pytest_flowcheck.protocols.tracing import Sink

SUBJECTS: Final = {"dynamiq": "Dynamiq", "dynamiq-async": "DynamiqAsync"}


def _has(file: str, text: str = "") -> bool:
    """Whether the installed release has this file, with this text in it."""
    path = Path(str(metadata.distribution("dynamiq").locate_file(f"dynamiq/{file}")))
    return path.is_file() and text in path.read_text()


class _Checkpoints:
    """`FileSystem(base_path).save(checkpoint)`. A state is a run's input; the same run is saved again and again."""

    BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)
    """When each checkpoint was made: it stands in the file's name, and stays what it was when a checkpoint is updated."""

    def __init__(self, folder: Path) -> None:
        self._backend = dynamiq("checkpoints.backends.filesystem").FileSystem(base_path=str(folder))

    def save(self, run_id: str, state: Any) -> None:
        checkpoint = dynamiq("checkpoints.checkpoint").FlowCheckpoint
        self._backend.save(
            checkpoint(id=run_id, flow_id="flow", run_id=run_id, original_input=state, created_at=self.BEGAN)
        )

    def load(self, run_id: str) -> Any:
        found = self._backend.load(run_id)
        if found is None:
            raise NotFound(f"FileSystem.load({run_id!r}) gave None")
        return found.original_input


class _Fails:
    """A body that fails."""

    __name__ = __qualname__ = "fails"

    def __call__(self) -> None:
        raise LookupError("to warm up")

    async def aio(self) -> None:
        self()


class Dynamiq:
    """`Flow.run_sync`, `Node.run_sync`, `Map`, `FileSystem`, `DynamiqTracingClient`.

    That one makes an `httpx.AsyncClient` for each `request`: it is no cache of clients, and does not claim to be one.
    """

    name = "dynamiq"
    requires: ClassVar[Sequence[str]] = ("dynamiq",)
    errors: ClassVar[ErrorMap] = {
        Invalid: ("CycleError", "ValidationError", "UnicodeEncodeError", "TypeError"),
        Refused: InUse,
    }
    sibling: ClassVar[type | None] = None

    @property
    def declares(self) -> Mapping[str, Mapping[str, str]]:
        """A `Flow` has nothing to close, and neither has a `DynamiqTracingClient`."""
        return {"flow": {"after_close": "reopen"}, "tracing": {"after_close": "ignore"}}

    @property
    def version(self) -> str:
        """dynamiq's."""
        return metadata.version("dynamiq")

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        """As far as this release goes."""
        saved = _has("checkpoints/backends/filesystem.py")
        return {
            "fanout": frozenset({"context", "continue"}),
            "flow": frozenset({"attempts", "context", "continue", "resize", *(["resume"] if saved else [])}),
            "retry": frozenset({"context", "timeout"}),
            "tracing": frozenset[str](),
            **({"store": frozenset({"processes"})} if saved else {}),
        }

    def warm_up(self) -> None:
        """Import what the first failure of a node imports, litellm that is."""
        with suppress(Foreign):
            Caller().call(_Fails(), RetryPolicy(attempts=1))

    def flow(self, *, max_workers: int | None = None, folder: Path | None = None) -> Any:
        return nullcontext(Engine(max_workers, folder))

    def retry(self, *, max_workers: int) -> Any:  # noqa: ARG002 - each call that has a limit has a pool of its own
        return nullcontext(Caller())

    def fanout(self) -> Any:
        return nullcontext(Mapped())

    def store(self, folder: Path) -> AbstractContextManager[Store]:
        return nullcontext(_Checkpoints(folder))

    def tracing(self, *, sink: Sink, capacity: int | None = None, limit: float | None = None) -> Any:  # noqa: ARG002
        return _traces(sink, limit)


@contextmanager
def _traces(sink: Sink, limit: float | None) -> Generator[Traces]:
    with collecting(lambda post: sink(events_of(post))) as url:
        yield Traces(url, limit)


class DynamiqAsync(Dynamiq):
    """`Flow.run_async`, `Node.run_async`, `Map`, `DynamiqTracingClient` from coroutines, and `ConnectionManager`."""

    name = "dynamiq-async"
    sibling: ClassVar[type | None] = Dynamiq

    @property
    def declares(self) -> Mapping[str, Mapping[str, str]]:
        """The first releases left threads behind when a run was cancelled."""
        waits = _has("nodes/node.py", "draining thread")
        return {
            "flow": {"after_close": "reopen", "cancel": "wait" if waits else "abandon"},
            "tracing": {"after_close": "ignore"},
        }

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        """As far as this release goes: the first ones await nothing but threads."""
        blocking = super().claims
        mixed = frozenset({"mixed"} if _has("nodes/node.py", "async def execute_async") else ())
        kept = _has("connections/managers.py", "async def get_async_connection_client")
        return {
            "fanout": blocking["fanout"],
            "flow": blocking["flow"] | mixed,
            "retry": blocking["retry"],
            "tracing": blocking["tracing"],
            **({"client": frozenset({"close", "slow_factory"})} if kept else {}),
        }

    @asynccontextmanager
    async def flow(self, *, max_workers: int | None = None, folder: Path | None = None) -> AsyncGenerator[AsyncEngine]:
        yield AsyncEngine(max_workers, folder)

    @asynccontextmanager
    async def retry(self, *, max_workers: int) -> AsyncGenerator[AsyncCaller]:  # noqa: ARG002 - as there
        yield AsyncCaller()

    @asynccontextmanager
    async def fanout(self) -> AsyncGenerator[AsyncMapped]:
        yield AsyncMapped()

    @asynccontextmanager
    async def tracing(
        self,
        *,
        sink: Sink,
        capacity: int | None = None,  # noqa: ARG002 - nothing is held
        limit: float | None = None,
    ) -> AsyncGenerator[Traces]:
        with collecting(lambda post: sink(events_of(post))) as url:
            yield Traces(url, limit)

    def client(self, factory: Body[[], Made]) -> AbstractContextManager[ClientCache[Client]]:
        return nullcontext(Connections(factory))
