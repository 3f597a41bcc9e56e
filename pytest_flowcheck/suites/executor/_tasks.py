"""What tasks do once their gate is open. Module-level, so that every process can import them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NoReturn

VARIABLE: ContextVar[str] = ContextVar("flowcheck_variable", default="unset")

_marks = threading.local()


class Thing:
    """An object that weak references can follow, equal by its label."""

    def __init__(self, label: str = "thing") -> None:
        self.label = label

    def __repr__(self) -> str:
        return f"<{self.label}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and other.label == self.label

    def __hash__(self) -> int:
        return hash(self.label)


class TaskError(Exception):
    """An exception of a task's own, with two arguments."""


class OwnBaseException(BaseException):
    """What some libraries use to unwind a task."""


class Picky(Exception):  # noqa: N818 - the shape is the point, not the name
    """Pickles, but can't be unpickled: its constructor wants more than `args` holds."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)
        self.second = second


class Unloadable:
    """Pickles, but can't be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse_to_load, ()


def _refuse_to_load() -> NoReturn:
    raise RuntimeError("flowcheck: this argument can't be unpickled")


class Raiser:
    """A task that raises the error it was made with."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *_: Any) -> NoReturn:
        raise self.error


class Hesitant:
    """An argument that, once armed, waits at a gate when it is pickled; unpickled it is an empty text."""

    def __init__(self, gate: Callable[[], Any]) -> None:
        self._gate, self.armed = gate, False

    def __reduce__(self) -> tuple[Any, ...]:
        if self.armed:
            self._gate()
        return str, ()


def describe_call(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments as they arrived."""
    return args, kwargs


def add(a: int, b: int) -> int:
    """A sum."""
    return a + b


def same(value: Any) -> Any:
    """Its argument."""
    return value


def fail_on_odd(number: int) -> int:
    """The number, or `TaskError(number, 'odd')`."""
    if number % 2:
        raise TaskError(number, "odd")
    return number


def raise_picky(*_: Any) -> NoReturn:
    """Raise an exception that can't be unpickled."""
    raise Picky("first", "second")


def make_thing(*_: Any) -> Thing:
    """A new thing."""
    return Thing("made by the task")


def raise_task_error(*_: Any) -> NoReturn:
    """Raise the task's own error."""
    raise TaskError("message", 7)


def return_error(*_: Any) -> TaskError:
    """An exception as a result."""
    return TaskError("returned", 1)


def make_lock(*_: Any) -> Any:
    """A result that can't be pickled."""
    return threading.Lock()


def raise_lock(*_: Any) -> NoReturn:
    """An exception that can't be pickled."""
    raise TaskError(threading.Lock())


def exit_worker(*_: Any) -> NoReturn:
    """What `sys.exit` in a task does."""
    sys.exit(3)


def read_variable(*_: Any) -> str:
    """The context variable as the task sees it."""
    return VARIABLE.get()


def change_variable(*_: Any) -> str:
    """Change the context variable, and say what it was."""
    before = VARIABLE.get()
    VARIABLE.set("changed by a task")
    return before


def initialise(mark: str) -> None:
    """An initializer that leaves a mark on its worker."""
    seen: list[str] = getattr(_marks, "seen", [])
    _marks.seen = [*seen, mark]


def marks(*_: Any) -> tuple[str, ...]:
    """The marks that initializers left on this worker."""
    return tuple(getattr(_marks, "seen", ()))


def fail_to_initialise() -> NoReturn:
    """An initializer that raises."""
    raise TaskError("the initializer failed", 1)


def exit_in_initialiser() -> NoReturn:
    """An initializer that ends its worker."""
    raise SystemExit(4)
