"""langgraph-checkpoint-sqlite: `SqliteSaver`, a checkpoint for each save, the newest one loaded."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Final

from pytest_flowcheck.adapters._store import contended
from pytest_flowcheck.protocols import Adapter, Corrupt, ErrorMap, Invalid, NotFound
from pytest_flowcheck.protocols.store import Store

SUBJECTS: Final = {"langgraph-checkpoint-sqlite": "Checkpoints"}


def _config(run_id: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": run_id, "checkpoint_ns": ""}}


class _Saver:
    def __init__(self, saver: Any) -> None:
        self._saver = saver

    def save(self, run_id: str, state: Any) -> None:
        base: Any = import_module("langgraph.checkpoint.base")
        checkpoint = {**base.empty_checkpoint(), "channel_values": {"state": state}}
        with contended():
            self._saver.put(_config(run_id), checkpoint, {"source": "loop", "step": 1}, {})

    def load(self, run_id: str) -> Any:
        with contended():
            found = self._saver.get_tuple(_config(run_id))
        if found is None:
            raise NotFound(f"{run_id!r} has no checkpoint")
        return found.checkpoint["channel_values"]["state"]


class Checkpoints(Adapter):
    """`SqliteSaver.put`, `SqliteSaver.get_tuple`; the state is the value of one channel."""

    name = "langgraph-checkpoint-sqlite"
    requires: ClassVar[Sequence[str]] = ("langgraph-checkpoint-sqlite",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"store": frozenset({"durable", "processes"})}
    errors: ClassVar[ErrorMap] = {
        OSError: "OperationalError",
        Corrupt: "DatabaseError",
        Invalid: (TypeError, UnicodeEncodeError),
    }

    def warm_up(self) -> None:
        import_module("langgraph.checkpoint.sqlite")

    @contextmanager
    def store(self, folder: Path) -> Generator[Store]:
        sqlite: Any = import_module("langgraph.checkpoint.sqlite")
        with sqlite.SqliteSaver.from_conn_string(str(folder / "checkpoints.sqlite")) as saver:
            yield _Saver(saver)
