"""fanout: something that runs one function for many items, so many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.shell.drafting import names
from pytest_flowcheck.shell.drafting.draft import (
    STEP,
    WIDTH,
    Draft,
    call,
    can_not,
    during,
    guard,
    method,
    opened,
    wrapped,
)

if TYPE_CHECKING:
    from pytest_flowcheck.shell.drafting.sight import Sight, Signature
    from pytest_flowcheck.shell.drafting.trying import Held

LOOKS_FOR: Final = "a function, items for it, and how many at a time (max_concurrency, limit, n_jobs, ...)"
ASKED: Final = ""
CALLS: Final = ("run", "map", "run_all", "gather", "starmap", "for_each", "execute", "fan_out", "fanout", "__call__")
SKELETON: Final = [
    method(
        "def run(self, body, items, *, max_concurrency, continue_on_error=False)",
        guard("how body runs for each item, max_concurrency at a time"),
    )
]

_GOES_ON: Final = {
    "continue_on_error": "continue_on_error",
    "return_exceptions": "continue_on_error",
    "on_error": '"continue" if continue_on_error else "raise"',
    "raise_on_error": "not continue_on_error",
    "fail_fast": "not continue_on_error",
}
_RESULTS: Final = (
    "Ok(r)",
    "Failed(r) if isinstance(r, BaseException) else Ok(r)",
    *(
        f"Ok(r.{value}) if r.{error} is None else Failed(r.{error})"
        for value in ("value", "result", "output")
        for error in ("error", "exception")
    ),
)
"""What an item's part of the results is: its value, or the exception in its place, or a record."""


WORDS: Final = (*names.ITEMS, *names.BOUND, "map", "starmap", "gather", "fanout", "parallel", "parallelism")


def drafts(seen: Sight, *, aio: bool) -> Iterator[Draft]:
    """As a method, or a function; its results as values, exceptions among them, or records."""
    found = seen.made_by if seen.kind == "function" and seen.made_by.aio == aio else None
    if seen.kind == "class":
        found = seen.find(CALLS, aio=aio)
    if found is None:
        return
    for results in _RESULTS:
        for going_on in (True, False):
            draft = _draft(seen, found, results, aio=aio, going_on=going_on)
            if draft is not None:
                yield draft


def _draft(seen: Sight, found: Signature, results: str, *, aio: bool, going_on: bool) -> Draft | None:
    function = next((p for p in found.parameters if names.is_function(p)), None)
    items = next((p for p in found.parameters if p.name in names.ITEMS and p is not function), None)
    bound = found.parameter(names.BOUND)
    at_once = seen.option(names.BOUND) if bound is None and seen.kind == "class" else None
    goes_on = next((p for p in found.parameters if p.name in _GOES_ON), None)
    if function is None or items is None or (bound is None and at_once is None) or (going_on and goes_on is None):
        return None
    have = [each.name for each in (function, items, bound) if each is not None]
    if names.missing(found, have) or (
        seen.kind == "class" and names.missing(seen.made_by, [at_once.name] if at_once else [])
    ):
        return None
    given: list[str] = []
    for parameter in found.parameters:
        if parameter is function:
            given.append(names.give(parameter, "body.aio" if aio else "body"))
        elif parameter is items:
            given.append("*items" if parameter.variadic else names.give(parameter, "items"))
        elif parameter is bound:
            given.append(f"{parameter.name}=max_concurrency")
        elif parameter is goes_on and going_on:
            given.append(f"{parameter.name}={_GOES_ON[parameter.name]}")
    halts = [] if going_on else can_not("continue_on_error", "no way to go on after an error was found")
    word = "await " if aio else ""
    head = f"{'async ' if aio else ''}def run(self, body, items, *, max_concurrency, continue_on_error=False)"
    if seen.kind == "function":
        lines = call(f"results = {word}{names.thing(seen)}(", given, indent=8)
        wrapper = wrapped("_Fanout", [method(head, [*halts, *lines, *_outcomes(results)])], held=())
        return Draft("fanout", aio, wrapper, ["yield _Fanout()"], ASKED, names.imports(seen))
    made = names.thing(seen)
    if at_once is not None:
        enters, closes = seen.aenters if aio else seen.enters, names.closing(seen, aio=aio)
        one = [f"{made}({at_once.name}=max_concurrency)"]
        if enters or closes:
            use = call(f"results = {word}thing.{found.name}(", given, indent=12)
            lines = during(one, use, enters=enters, closes=closes, aio=aio)
        else:
            lines = call(f"results = {word}{one[0]}.{found.name}(", given, indent=8)
        wrapper = wrapped("_Fanout", [method(head, [*halts, *lines, *_outcomes(results)])], held=())
        return Draft("fanout", aio, wrapper, ["yield _Fanout()"], ASKED, names.imports(seen))
    lines = call(f"results = {word}self.thing.{found.name}(", given, indent=8)
    wrapper = wrapped("_Fanout", [method(head, [*halts, *lines, *_outcomes(results)])])
    opening = opened(
        [f"{made}()"],
        "_Fanout(thing)",
        enters=seen.aenters if aio else seen.enters,
        closes=names.closing(seen, aio=aio),
        aio=aio,
    )
    return Draft("fanout", aio, wrapper, opening, ASKED, names.imports(seen))


def _outcomes(element: str) -> list[str]:
    line = f"return [{element} for r in results]"
    return [line] if len(line) + 8 <= WIDTH else ["return [", f"{STEP}{element}", f"{STEP}for r in results", "]"]


# --- the child's side ---------------------------------------------------------------------------------------------------


async def check(held: Held) -> None:
    """Three items; no more of them at once than it was told; then one fails, without and with an order to go on."""
    from pytest_flowcheck.protocols import Failed, Inexpressible, Ok

    seen: list[str] = []

    def one(item: int) -> int:
        seen.append(held.variable())
        return 60 // item

    async with held.open() as fanout:
        given: Any = await held.value(fanout.run(held.body(one), [1, 2, 3], max_concurrency=2))
        held.expect([*given] == [Ok(60), Ok(30), Ok(20)], f"of 60, 30 and 20 it made {[*given]!r}")
        if seen == ["seen"] * 3:
            held.claims.add("context")
        for bound in (1, 2):
            body, most = held.counting()
            await held.value(fanout.run(body, range(5), max_concurrency=bound))
            held.expect(most() <= bound, f"told to run {bound} at a time, it ran {most()}")
        error = await held.error(fanout, "run", held.body(one), [1, 0, 3], max_concurrency=1)
        held.expect(error is not None, "an item's error was not raised")
        if isinstance(error, BaseExceptionGroup):
            held.declares["escape"] = "group"
        try:
            whole: Any = await held.value(
                fanout.run(held.body(one), [1, 0, 3], max_concurrency=1, continue_on_error=True)
            )
        except Inexpressible:
            return
        first, failed, last = whole
        held.expect(first == Ok(60) and last == Ok(20), f"going on after an error it gave {whole!r}")
        held.expect(
            isinstance(failed, Failed) and isinstance(failed.error, ZeroDivisionError), f"the error became {failed!r}"
        )
        held.claims.add("continue")
