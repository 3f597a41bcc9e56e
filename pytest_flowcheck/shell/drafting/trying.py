"""Use a draft once, to see whether it works. Runs in a child process: it may do whatever the thing does, and die or hang."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

MOMENT: Final = 0.02
"""Seconds in which others that may run would have begun."""

_SEEN: Final = contextvars.ContextVar("flowcheck_draft", default="not seen")


class Wrong(Exception):  # noqa: N818 - a finding about a draft
    """It does not do what the facet needs."""


class Body:
    """As the kit's bodies are: called by a thread, awaited by a loop."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__name__ = self.__qualname__ = function.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    async def aio(self, *args: Any, **kwargs: Any) -> Any:
        found = self._function(*args, **kwargs)
        return await found if inspect.isawaitable(found) else found


class Held:
    """What a check works with, and what it has found out."""

    def __init__(self, adapter: Any, facet: str, *, timed: bool, folder: Path) -> None:
        self.adapter, self._facet = adapter, facet
        self.timed, self.folder = timed, folder
        self.claims: set[str] = set()
        self.declares: dict[str, str] = {}
        self.errors: dict[str, list[str]] = {}
        self.notes: list[str] = []

    @asynccontextmanager
    async def open(self, **options: Any) -> AsyncGenerator[Any]:
        """A fresh instance, of either colour."""
        manager = getattr(self.adapter, self._facet)(**options)
        if hasattr(manager, "__aenter__"):
            async with manager as instance:
                yield instance
        else:
            with manager as instance:
                yield instance

    async def value(self, given: Any) -> Any:
        """What a method gave, awaited if it must be."""
        return await given if inspect.isawaitable(given) else given

    async def error(self, instance: Any, name: str, *args: Any, **kwargs: Any) -> BaseException | None:
        """What a call raises; None if it returns."""
        try:
            await self.value(getattr(instance, name)(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - what it raises is what is asked
            return error
        return None

    def body(self, function: Callable[..., Any]) -> Body:
        """A body that does this."""
        return Body(function)

    def stuck_once(self) -> tuple[Body, Callable[[], None]]:
        """A body whose first call is stuck and whose second returns 7; and what lets the first go."""
        calls: list[int] = []
        released = threading.Event()

        class Stuck(Body):
            async def aio(self, *_args: Any, **_kwargs: Any) -> Any:
                calls.append(1)
                if len(calls) == 1:
                    await asyncio.Event().wait()
                return 7

        def stuck() -> int:
            calls.append(1)
            if len(calls) == 1:
                released.wait()
            return 7

        return Stuck(stuck), released.set

    def counting(self) -> tuple[Body, Callable[[], int]]:
        """A body of one item that takes a moment, and how many of them ran at once at most."""
        lock = threading.Lock()
        now, most = [0], [0]

        def enter(by: int) -> None:
            with lock:
                now[0] += by
                most[0] = max(most[0], now[0])

        class Counting(Body):
            async def aio(self, *_args: Any, **_kwargs: Any) -> Any:
                enter(1)
                await asyncio.sleep(MOMENT)  # noqa: TID251 - no rule: others get a moment to begin
                enter(-1)

        def counting(_item: object) -> None:
            enter(1)
            time.sleep(MOMENT)  # noqa: TID251 - as above
            enter(-1)

        return Counting(counting), lambda: most[0]

    def variable(self) -> str:
        """The value of the caller's context variable, as it is seen here."""
        return _SEEN.get()

    def expect(self, condition: object, said: str) -> None:
        """Raises: Wrong, it does not hold."""
        if not condition:
            raise Wrong(said)

    def learn(self, kind: str, error: BaseException | None) -> None:
        """Note that this is how the thing says one of the kit's errors."""
        if error is not None:
            where = f"{type(error).__module__}:{type(error).__qualname__}"
            if where not in self.errors.setdefault(kind, []):
                self.errors[kind].append(where)


def attempt(source: str, name: str, facet: str, timed: bool, path: list[str]) -> dict[str, Any]:
    """Make the adapter of this source, and let its facet's check use it.

    Returns:
        `works`, `says` (why not), and what was seen: `claims`, `declares`, `errors`, `notes`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # coroutines that a way which does not work has never awaited
        found = _attempted(source, name, facet, timed, path)
        gc.collect()
    return found


def _attempted(source: str, name: str, facet: str, timed: bool, path: list[str]) -> dict[str, Any]:
    sys.path[:0] = path
    module = ModuleType("flowcheck_draft")
    sys.modules[module.__name__] = module
    check = import_module(f"pytest_flowcheck.shell.drafting.facets.{facet}")
    with tempfile.TemporaryDirectory(prefix="flowcheck-", ignore_cleanup_errors=True) as folder:
        try:
            exec(compile(source, "the draft", "exec"), vars(module))  # noqa: S102 - what was just drafted
            held = Held(getattr(module, name)(), facet, timed=timed, folder=Path(folder))
            _SEEN.set("seen")
            _drive(
                check.check(held), on_loop=getattr(check, "ON_LOOPS", False) or _is_async(getattr(module, name), facet)
            )
        except Exception as error:  # noqa: BLE001 - whatever it raises: this draft is none
            text = " ".join(str(error).split())
            return {"works": False, "says": text if isinstance(error, Wrong) else f"{type(error).__name__}: {text}"}
    return {
        "works": True,
        "says": "",
        "claims": sorted(held.claims),
        "declares": held.declares,
        "errors": held.errors,
        "notes": held.notes,
    }


def _is_async(adapter: Any, facet: str) -> bool:
    return inspect.isasyncgenfunction(inspect.unwrap(getattr(adapter, facet)))


def _drive(check: Coroutine[Any, Any, None], *, on_loop: bool) -> None:
    """Run a check: on a loop, or as what it is without one, plain calls in this thread."""
    if on_loop:
        asyncio.run(check)
        return
    try:
        check.send(None)
    except StopIteration:
        return
    check.close()
    raise Wrong("a method gave an awaitable, although the instance is opened by a plain with")
