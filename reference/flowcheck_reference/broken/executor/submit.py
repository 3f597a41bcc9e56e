"""Wrong in what becomes of a submitted call."""

from __future__ import annotations

import logging
import threading
import types
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from flowcheck_reference.broken.executor._sound import Initializer, Sound, SpoiltFutures
from flowcheck_reference.executor import Executor, Item
from pytest_flowcheck.protocols import breaks

_LOG = logging.getLogger(__name__)


@breaks("EXE-01")
class LosesKeywordArguments(Sound):
    """A wrapper's signature forgets `**kwargs` on the way."""

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return super().submit(fn, *args)


@breaks("EXE-02")
class CopiesErrors(Sound):
    """The error is made anew from its class and arguments: cause, traceback and identity are lost."""

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            def call() -> Any:
                try:
                    return fn(*args, **kwargs)
                except Exception as error:
                    copy = type(error)(*error.args)
                raise copy

            return super().submit(call)


@breaks("EXE-05", "EXE-26")
class LastInFirstOut(Sound):
    """A stack where a queue should be."""

    without = frozenset({"resize"})

    class Pool(Executor):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._pool.queue = _Stack()


class _Stack(deque[Item]):
    def popleft(self) -> Item:
        return self.pop()


@breaks("EXE-13", "EXE-31")
class LosesSystemExit(Sound):
    """`except Exception` around the call: what `sys.exit()` raises goes past it, and the future stays pending."""

    without = frozenset({"cancel_futures", "initializer", "nested"})

    class Pool(Executor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            outer: Future[Any] = Future()

            def call() -> None:
                if not outer.set_running_or_notify_cancel():
                    return
                try:
                    value = fn(*args, **kwargs)
                except Exception as error:
                    outer.set_exception(error)
                else:
                    outer.set_result(value)

            super().submit(call)
            return outer


@breaks("EXE-15")
class SubmitsThroughASharedSlot(Sound):
    """The call is put down in an attribute and picked up a moment later: two submitters get one another's."""

    without = frozenset({"nested"})

    class Pool(Executor):
        _slot: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            self._slot = (fn, args, kwargs)
            threading.Event().wait(0.001)  # the window, held open: another submitter comes through it
            fn, args, kwargs = self._slot
            self._slot = (_nothing, (), {})
            return super().submit(fn, *args, **kwargs)


@breaks("EXE-15")
class SubmitsThroughASlotForAMoment(Sound):
    """The same with no more than a line of logging in between: no stress comes through that window, a sweep does."""

    without = frozenset({"nested"})

    class Pool(Executor):
        _slot: tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            self._slot = (fn, args, kwargs)
            _LOG.debug("a call is submitted")
            fn, args, kwargs = self._slot
            self._slot = (_nothing, (), {})
            return super().submit(fn, *args, **kwargs)


def _nothing() -> None:
    """What a submitter finds in the slot when another has been there."""


@breaks("EXE-16")
class DoesNotWakeWaiters(Sound):
    """`set_result` is written anew and forgets those who wait in `concurrent.futures.wait`."""

    class Pool(SpoiltFutures):
        def spoil(self, future: Future[Any]) -> None:
            future.set_result = types.MethodType(_set_result_quietly, future)  # type: ignore[method-assign]


def _set_result_quietly(future: Any, result: Any) -> None:
    with future._condition:
        future._result, future._state = result, "FINISHED"
        future._condition.notify_all()
    future._invoke_callbacks()


@breaks("EXE-33")
class AcceptsAnyNumberOfWorkers(Sound):
    """A senseless `max_workers` is quietly made a sensible one."""

    def executor(
        self, *, max_workers: int, initializer: Initializer = None, initargs: tuple[Any, ...] = ()
    ) -> Executor:
        sensible = max_workers if isinstance(max_workers, int) and max_workers > 0 else 1  # pyright: ignore[reportUnnecessaryIsInstance]
        return Executor(sensible, initializer=initializer, initargs=initargs)


@breaks("EXE-34")
class TimingOutSpoilsTheFuture(Sound):
    """A reader that gives up marks the future as failed for everybody."""

    class Pool(SpoiltFutures):
        def spoil(self, future: Future[Any]) -> None:
            plain = future.result

            def result(timeout: float | None = None) -> Any:
                try:
                    return plain(timeout)
                except TimeoutError as error:
                    if not future.done():
                        future.set_exception(error)
                    raise

            future.result = result  # type: ignore[method-assign]
