"""Something that threads work on, and that can be waited for on a thread and on event loops."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """Over or not, with a value or an error; what `_waiting.outcome` awaits.

    `over`: a future that is settled once.
    """

    def __init__(self, over: Future[T]) -> None:
        self._over = over

    def done(self) -> bool:
        """Whether it returned, raised or was cancelled."""
        return self._over.done()

    def result(self, timeout: float | None = None) -> T:
        """What came of it. Blocks the calling thread, at most `timeout` seconds.

        Raises: what it raised, the same object; TimeoutError, and then it goes on.
        """
        return self._over.result(timeout)

    def cancel(self) -> object:
        """Nobody wants it any more."""
        return self._over.cancel()

    def when_done(self, callback: Callable[[], object]) -> None:
        """Have `callback()` called once it is over, on whichever thread ends it; at once if it is."""
        self._over.add_done_callback(lambda _: callback())
