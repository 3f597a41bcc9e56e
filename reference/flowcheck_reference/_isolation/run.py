"""One run of a service."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from .errors import RunCancelledError
from .pending import Pending

if TYPE_CHECKING:
    from flowcheck_reference.executor import Worker
    from flowcheck_reference.isolation import Service

T = TypeVar("T")

State = Literal["waiting", "running", "cancelling", "over"]


class Run(Pending[T]):
    """One run: it waits for a slot, runs, and is over.

    Two ends are to be told apart. `done` is the outcome, for whoever waits: a run that is cancelled is done at once. `state`
    is "over" when it has ended, and only then its slot is free: a thread can't be killed, so what was cancelled may run on.

    Guarantees: `_over` is settled once, by whoever is first. `_unwanted` is set and then `_stop` is looked at; the run's
    thread sets `_stop` and then looks at `_unwanted`: so no cancellation is lost between the two.
    """

    def __init__(
        self, service: Service, session: str, fn: Callable[..., Any], args: tuple[Any, ...], *, trio: bool, loud: bool
    ) -> None:
        super().__init__(Future())
        self.session: Final = session
        self._service, self._loud = service, loud
        self.trio = trio
        """An async function gets trio's loop; else asyncio's."""
        self.call: tuple[Callable[..., Any], tuple[Any, ...]] | None = (fn, args)
        self.context = copy_context()
        self.context.run(current.set, self)
        self.state: State = "waiting"
        """Of the run itself; changes under the service's lock."""
        self.worker: Worker | None = None
        """The thread that it is on."""
        self._unwanted = False
        self._stop: Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f"<run of session {self.session!r}: {self.state}>"

    @property
    def service(self) -> Service:
        """Whose run it is."""
        return self._service

    @property
    def unwanted(self) -> bool:
        """Whether it was asked to end."""
        return self._unwanted

    def cancel(self) -> bool:
        """Ask it to end, and tell whoever waits for it: RunCancelledError. Never waits. From any thread, any number of times.

        One that waits for a slot leaves the queue. An async function is cancelled. A plain one runs on, unless it looks at
        `cancelling`. False: it was over, or had been asked before.
        """
        if self._unwanted or self.state == "over":
            return False
        self._unwanted = True
        self._service.withdraw(self)
        stop = self._stop
        if stop is not None:
            stop()
        return self.settle(None, RunCancelledError(f"the run of session {self.session!r} was cancelled"))

    def settle(self, value: T | None, error: BaseException | None) -> bool:
        """That is its outcome, if it has none yet."""
        with suppress(InvalidStateError):
            if error is not None:
                self._over.set_exception(error)
            else:
                self._over.set_result(value)  # type: ignore[arg-type]
            return True
        return False

    def stop_by(self, stop: Callable[[], object]) -> None:
        """This stops it, from any thread. Called on the run's thread; stops it at once if that was asked for already."""
        self._stop = stop
        if self._unwanted:
            stop()

    @property
    def loud(self) -> bool:
        """Whether a failure is to be logged, since perhaps nobody waits for it."""
        return self._loud


current: ContextVar[Run[Any] | None] = ContextVar("current", default=None)
"""The run in which this code is."""


def cancelling() -> bool:
    """Whether the run in which this is called was asked to end. For long functions to look at now and then."""
    run = current.get()
    return run is not None and run.unwanted
