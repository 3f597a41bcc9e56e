"""The reference engine of pytest-flowcheck: small, complete, and certified by the kit beside it."""
from __future__ import annotations

from typing import TYPE_CHECKING

from .executor import Executor as Executor

if TYPE_CHECKING:
    __version__: str

__all__ = ["Executor"]


def __getattr__(name: str) -> str:
    """`__version__`, looked up when asked for: `importlib.metadata` costs more than all the rest of the import."""
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("pytest-flowcheck")
        except PackageNotFoundError:  # a checkout on the path
            return "unknown"
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
