"""executor: anything with the shape of `concurrent.futures.Executor`. One that takes `max_workers` needs no adapter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.shell.drafting import names
from pytest_flowcheck.shell.drafting.draft import Draft, call, guard, method

if TYPE_CHECKING:
    from pytest_flowcheck.shell.drafting.sight import Sight
    from pytest_flowcheck.shell.drafting.trying import Held

LOOKS_FOR: Final = "submit, map and shutdown, as concurrent.futures.Executor has them"
ASKED: Final = "*, max_workers"
SKELETON: Final = [
    method("def submit(self, fn, /, *args, **kwargs)", guard("how a call is queued, and gives a Future"))
]


WORDS: Final = ("submit", "map", "shutdown", "executor", "max_workers")


def drafts(seen: Sight, *, aio: bool) -> Iterator[Draft]:
    """Whatever takes a number of workers, under whichever name."""
    workers = seen.option(names.BOUND)
    if aio or not seen.executor or workers is None or names.missing(seen.made_by, [workers.name]):
        return
    shutdown = seen.methods.get("shutdown")
    claims = ["cancel_futures"] if shutdown is not None and shutdown.parameter(["cancel_futures"]) is not None else []
    claims += ["resize"] if "resize" in seen.methods else []
    initializer = {"initializer", "initargs"} <= {p.name for p in seen.made_by.parameters}
    asked = "*, max_workers, initializer=None, initargs=()" if initializer else ASKED
    given = [f"{workers.name}=max_workers", *(["initializer=initializer", "initargs=initargs"] if initializer else [])]
    lines = call(f"return {names.thing(seen)}(", given, indent=8)
    yield Draft(
        "executor", False, [], lines, asked, names.imports(seen), [*claims, *(["initializer"] if initializer else [])]
    )


async def check(held: Held) -> None:
    """A task gives its value, and its process tells which sort of workers these are."""
    import os

    with held.adapter.executor(max_workers=1) as executor:
        pid = executor.submit(os.getpid).result()
        held.expect(isinstance(pid, int), f"a task gave {pid!r} for a process's number")
        held.claims.add("threads" if pid == os.getpid() else "process")
