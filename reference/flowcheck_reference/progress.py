"""A progress bar for long runs, one line for each: `Engine(on_event=Bars())`. Needs the extra `progress` (rich)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from .flow import Event


class Bars:
    """Shows the runs that are under way, how many of their nodes have ended, and how many of those failed.

        with Bars() as bars, Engine(on_event=bars) as engine:
            engine.run(flow)

    `console`: rich's, to print elsewhere than to the terminal. A call costs a lock and some counting; rich's own thread draws.
    Raises: ModuleNotFoundError: rich is missing; it says what to install.
    """

    def __init__(self, console: Console | None = None) -> None:
        try:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        except ModuleNotFoundError as error:
            msg = "progress bars need rich: pip install 'pytest-flowcheck[progress]'"
            raise ModuleNotFoundError(msg, name=error.name) from None
        columns: list[Any] = [
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[failed]}"),
            TimeElapsedColumn(),
        ]
        self._progress: Progress = Progress(*columns, console=console)
        self._lock = threading.Lock()
        self._lines: dict[str, TaskID] = {}
        self._failed: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        """Something happened."""
        with self._lock:
            if event.kind == "run started":
                self._failed[event.run] = 0
                self._lines[event.run] = self._progress.add_task(event.run, total=event.nodes, failed="")
                return
            line = self._lines.get(event.run)
            if line is None:
                return  # it began before we were listening
            if event.kind == "node ended":
                if event.status == "failed":
                    self._failed[event.run] += 1
                    self._progress.update(line, failed=f"{self._failed[event.run]} failed")
                self._progress.advance(line)
            elif event.kind == "run ended":
                self._progress.stop_task(line)
                del self._lines[event.run], self._failed[event.run]

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Draw a last time."""
        self._progress.stop()
