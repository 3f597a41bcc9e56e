"""What libraries call things: the words by which parameters are known, whatever the facet."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING, Final

from pytest_flowcheck import protocols

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_flowcheck.shell.drafting.sight import Parameter, Sight, Signature

FUNCTION: Final = (
    *(
        "fn",
        "func",
        "function",
        "callable",
        "callable_",
        "body",
        "coro_fn",
        "coro_func",
        "corofunc",
        "async_fn",
        "async_func",
    ),
    *(
        "f",
        "call",
        "task",
        "target",
        "job",
        "work",
        "worker",
        "handler",
        "action",
        "thunk",
        "operation",
        "__func",
        "wrapped",
    ),
)
ITEMS: Final = (
    "items",
    "iterable",
    "args",
    "inputs",
    "values",
    "seq",
    "sequence",
    "xs",
    "elements",
    "data",
    "iterables",
    "tasks",
)
BOUND: Final = (
    *("max_concurrency", "concurrency", "max_workers", "workers", "n_workers", "num_workers", "limit", "max_at_once"),
    *(
        "n_jobs",
        "max_parallel",
        "parallelism",
        "max_concurrent",
        "pool_size",
        "size",
        "max_concurrent_runs",
        "max_running",
    ),
)
FOLDER: Final = ("folder", "directory", "dir", "root", "base_dir", "basedir", "base_path", "data_dir", "storage_dir")
FILE: Final = (
    "path",
    "filename",
    "file",
    "filepath",
    "file_path",
    "db_path",
    "database",
    "db",
    "location",
    "fname",
    "name",
)
KEY: Final = ("run_id", "id", "key", "name", "run", "job_id", "thread_id", "task_id", "uid", "identifier", "k")
STATE: Final = ("state", "value", "obj", "data", "snapshot", "payload", "item", "content", "document", "record", "v")


def is_function(parameter: Parameter) -> bool:
    """Whether it takes something to be called."""
    return not parameter.variadic and (parameter.name in FUNCTION or "Callable[" in parameter.annotation)


def give(parameter: Parameter, value: str) -> str:
    """An argument: by name where that is the only way, else by its place."""
    return f"{parameter.name}={value}" if parameter.sort == "KEYWORD_ONLY" else value


def thing(seen: Sight) -> str:
    """The expression for it in a module that has imported it."""
    if not seen.attribute:
        return seen.module
    return f"{seen.module}.{seen.attribute}" if _hides(seen) else seen.attribute


def imports(seen: Sight) -> list[str]:
    """What a module imports to have it."""
    if not seen.attribute or _hides(seen):
        return [f"import {seen.module}"]
    return [f"from {seen.module} import {seen.attribute.partition('.')[0]}"]


def _hides(seen: Sight) -> bool:
    """Whether it is called as something that the adapter uses itself."""
    name = seen.attribute.partition(".")[0]
    return name in {*dir(builtins), *protocols.__all__, "closing", "contextmanager", "asynccontextmanager", "platform"}


def closing(seen: Sight, *, aio: bool) -> str:
    """The method that ends it, in this colour; empty where it is a context manager, or has none."""
    if seen.aenters if aio else seen.enters:
        return ""
    found = seen.find(("aclose",) if aio else (), aio=True) if aio else None
    found = found or seen.find(("close", "shutdown", "stop", "terminate"), aio=aio)
    return "" if found is None or found.required else found.name


def missing(signature: Signature, given: Iterable[str]) -> list[str]:
    """The names of parameters that must be given, and are not."""
    have = set(given)
    return [parameter.name for parameter in signature.required if parameter.name not in have]
