"""The reference engine of pytest-flowcheck: small, complete, and certified by the kit beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .client import Clients as Clients
    from .executor import Executor as Executor
    from .fanout import AsyncFanout as AsyncFanout
    from .fanout import Fanout as Fanout
    from .fanout import Halt as Halt
    from .fanout import Record as Record
    from .fanout import records_of as records_of
    from .flow import Engine as Engine
    from .flow import Event as Event
    from .flow import Flow as Flow
    from .flow import FlowError as FlowError
    from .flow import NodeResult as NodeResult
    from .flow import NotSavedError as NotSavedError
    from .flow import Result as Result
    from .flow import RunExistsError as RunExistsError
    from .flow import result_of as result_of
    from .isolation import Run as Run
    from .isolation import RunCancelledError as RunCancelledError
    from .isolation import Service as Service
    from .isolation import ServiceClosedError as ServiceClosedError
    from .isolation import ServiceFullError as ServiceFullError
    from .isolation import Session as Session
    from .isolation import cancelling as cancelling
    from .looppool import DispatchCancelledError as DispatchCancelledError
    from .looppool import Dispatched as Dispatched
    from .looppool import Lease as Lease
    from .looppool import LoopPool as LoopPool
    from .looppool import PoolStoppedError as PoolStoppedError
    from .looppool import Resources as Resources
    from .retry import AsyncRetrier as AsyncRetrier
    from .retry import AttemptTimeout as AttemptTimeout
    from .retry import Retrier as Retrier
    from .retry import RetryPolicy as RetryPolicy
    from .retry import TooManyAbandonedError as TooManyAbandonedError
    from .store import CorruptStateError as CorruptStateError
    from .store import InvalidRunIdError as InvalidRunIdError
    from .store import JsonStore as JsonStore
    from .store import LeaseHeldError as LeaseHeldError
    from .store import NotJsonError as NotJsonError
    from .store import RunNotFoundError as RunNotFoundError
    from .store import Snapshot as Snapshot
    from .store import SqliteStore as SqliteStore
    from .store import Store as Store
    from .store import StoreBusyError as StoreBusyError
    from .store import StoreClosedError as StoreClosedError
    from .store import StoreError as StoreError
    from .tracing import HttpPost as HttpPost
    from .tracing import JsonLines as JsonLines
    from .tracing import Spans as Spans
    from .tracing import Tracer as Tracer
    from .tracing import TracerClosedError as TracerClosedError

    __version__: str

__all__ = [
    "AsyncFanout",
    "AsyncRetrier",
    "AttemptTimeout",
    "Clients",
    "CorruptStateError",
    "DispatchCancelledError",
    "Dispatched",
    "Engine",
    "Event",
    "Executor",
    "Fanout",
    "Flow",
    "FlowError",
    "Halt",
    "HttpPost",
    "InvalidRunIdError",
    "JsonLines",
    "JsonStore",
    "Lease",
    "LeaseHeldError",
    "LoopPool",
    "NodeResult",
    "NotJsonError",
    "NotSavedError",
    "PoolStoppedError",
    "Record",
    "Resources",
    "Result",
    "Retrier",
    "RetryPolicy",
    "Run",
    "RunCancelledError",
    "RunExistsError",
    "RunNotFoundError",
    "Service",
    "ServiceClosedError",
    "ServiceFullError",
    "Session",
    "Snapshot",
    "Spans",
    "SqliteStore",
    "Store",
    "StoreBusyError",
    "StoreClosedError",
    "StoreError",
    "TooManyAbandonedError",
    "Tracer",
    "TracerClosedError",
    "cancelling",
    "records_of",
    "result_of",
]

_HOME: Final = {
    "Clients": "client",
    "Executor": "executor",
    **dict.fromkeys(("AsyncFanout", "Fanout", "Halt", "Record", "records_of"), "fanout"),
    **dict.fromkeys(
        ("Engine", "Event", "Flow", "FlowError", "NodeResult", "NotSavedError", "Result", "RunExistsError", "result_of"),
        "flow",
    ),
    **dict.fromkeys(
        ("DispatchCancelledError", "Dispatched", "Lease", "LoopPool", "PoolStoppedError", "Resources"), "looppool"
    ),
    **dict.fromkeys(("AsyncRetrier", "AttemptTimeout", "Retrier", "RetryPolicy", "TooManyAbandonedError"), "retry"),
    **dict.fromkeys(
        ("Run", "RunCancelledError", "Service", "ServiceClosedError", "ServiceFullError", "Session", "cancelling"),
        "isolation",
    ),
    **dict.fromkeys(
        (
            "CorruptStateError",
            "InvalidRunIdError",
            "JsonStore",
            "LeaseHeldError",
            "NotJsonError",
            "RunNotFoundError",
            "Snapshot",
            "SqliteStore",
            "Store",
            "StoreBusyError",
            "StoreClosedError",
            "StoreError",
        ),
        "store",
    ),
    **dict.fromkeys(("HttpPost", "JsonLines", "Spans", "Tracer", "TracerClosedError"), "tracing"),
}


def __getattr__(name: str) -> Any:
    """Each name is imported when it is asked for: who wants threads only pays for no event loop.

    `__version__` too: `importlib.metadata` costs more than all the rest of the import.
    """
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("pytest-flowcheck")
        except PackageNotFoundError:  # a checkout on the path
            return "unknown"
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
