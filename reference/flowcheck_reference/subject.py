"""The reference engine as a subject: what `pytest --flowcheck` certifies when it is told nothing else."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import __version__
from .executor import Executor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet


class Reference:
    """The engine that keeps every rule: the demonstration, and the proof that the rules can be kept."""

    name: str = "reference"
    version: str = __version__
    claims: Mapping[str, AbstractSet[str]] = {
        "executor": frozenset({"threads", "cancel_futures", "initializer", "nested", "context", "resize"}),
    }

    def executor(
        self, *, max_workers: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
    ) -> Executor:
        """A fresh executor."""
        return Executor(max_workers, initializer=initializer, initargs=initargs)
