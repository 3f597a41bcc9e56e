"""isolation: a service that runs long things and answers short questions meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pytest_flowcheck.shell.drafting import names
from pytest_flowcheck.shell.drafting.draft import Draft, call, can_not, guard, method, opened, wrapped

if TYPE_CHECKING:
    from pytest_flowcheck.shell.drafting.sight import Parameter, Sight, Signature
    from pytest_flowcheck.shell.drafting.trying import Held

LOOKS_FOR: Final = "a bound on runs (max_concurrent_runs, ...), a `run` of a function, and short operations beside it"
ASKED: Final = "*, max_concurrent_runs, limit=None"
BOUND: Final = ("max_concurrent_runs", "max_runs", "max_running", "max_jobs", *names.BOUND)
SKELETON: Final = [
    method("def run(self, body, *, session)", guard("how body runs as a long run of the service")),
    method("def start(self, body, *, session)", guard("how a run is started that nobody waits for")),
    method("def short_op(self, *, session)", guard("a short operation, which no long run may hold up")),
    method("def queued(self)", guard("how many runs wait for a slot")),
    method("def cancel(self, *, session)", guard("how the run of a session is cancelled")),
]

_SESSION: Final = ("session", "session_id", "name", "run_id", "conversation_id", "key")


WORDS: Final = (*BOUND[:4], "session", "cancel", "queued", "service", "short_op", "interrupt")


def drafts(seen: Sight, *, aio: bool) -> Iterator[Draft]:
    """A class with a bound, a run and a short operation; what else it lacks is left to be decided."""
    if seen.kind != "class":
        return
    bound, limit = seen.option(BOUND), seen.option(("limit", "shutdown_timeout", "grace"))
    run = seen.find(("run", "execute"), aio=aio)
    short = seen.find(("short", "short_op", "query", "quick"), aio=aio)
    if bound is None or run is None or short is None or not _takes(run) or not _takes(short):
        return
    for body in ("body", "body.aio") if aio else ("body",):
        methods = [
            _method(run, "run", body, aio=aio),
            _start(seen.find(("start", "spawn", "run_soon"), aio=aio), body, aio=aio),
            method(
                f"{_def(aio)} short_op(self, *, session)",
                [f"return {_await(aio)}self.thing.{short.name}(str, session)"],
            ),
            _queued(seen),
            _cancel(seen),
        ]
        given = [f"{bound.name}=max_concurrent_runs", *(["**limit"] if limit is not None else [])]
        wait = [f'limit = {{}} if limit is None else {{"{limit.name}": limit}}'] if limit is not None else []
        if limit is None:
            wait = can_not("limit is not None", "no limit on shutting down was found")
        opening = opened(
            call(f"{names.thing(seen)}(", given, indent=8),
            "_Isolation(thing)",
            enters=seen.aenters if aio else seen.enters,
            closes=names.closing(seen, aio=aio),
            aio=aio,
        )
        claims = ["sessions"] if run.parameter(_SESSION) is not None else []
        yield Draft(
            "isolation", aio, wrapped("_Isolation", methods), [*wait, *opening], ASKED, names.imports(seen), claims
        )


def _def(aio: bool) -> str:
    return "async def" if aio else "def"


def _await(aio: bool) -> str:
    return "await " if aio else ""


def _takes(found: Signature) -> bool:
    return any(map(names.is_function, found.parameters))


def _session(found: Signature) -> list[str]:
    session: Parameter | None = found.parameter(_SESSION)
    return [] if session is None else [f"{session.name}=session" if session.keyword else "session"]


def _method(found: Signature, name: str, body: str, *, aio: bool) -> list[str]:
    lines = call(f"return {_await(aio)}self.thing.{found.name}(", [body, *_session(found)], indent=8)
    return method(f"{_def(aio)} {name}(self, body, *, session)", lines)


def _start(found: Signature | None, body: str, *, aio: bool) -> list[str]:
    head = f"{_def(aio)} start(self, body, *, session)"
    if found is None or not _takes(found):
        return method(head, ['raise Inexpressible("no run can be started without waiting for it")'])
    return method(head, call(f"{_await(aio)}self.thing.{found.name}(", [body, *_session(found)], indent=8))


def _queued(seen: Sight) -> list[str]:
    for name in ("queued", "pending", "queue_size", "qsize", "waiting"):
        found = seen.methods.get(name)
        if found is not None and not found.aio and not found.required:
            return method("def queued(self)", [f"return self.thing.{name}{'' if found.is_property else '()'}"])
    return method("def queued(self)", guard("how many runs wait for a slot"))


def _cancel(seen: Sight) -> list[str]:
    found = seen.find(("cancel", "interrupt", "pause", "abort"), aio=False)
    if found is None or len(found.required) != 1:
        return method("def cancel(self, *, session)", guard("how the run of a session is cancelled"))
    return method("def cancel(self, *, session)", [f"self.thing.{found.name}(session)"])


# --- the child's side ---------------------------------------------------------------------------------------------------


async def check(held: Held) -> None:
    """A run gives its value, a short operation comes back, and nobody waits when nothing runs."""
    import threading

    from pytest_flowcheck.protocols import Inexpressible

    threads: list[str] = []

    def one() -> int:
        threads.append(threading.current_thread().name)
        return 7

    async with held.open(max_concurrent_runs=1) as service:
        value = await held.value(service.run(held.body(one), session="one"))
        held.expect(value == 7, f"a run gave {value!r} for 7")
        held.expect(threads[0] != threading.current_thread().name, "a run is on the caller's own thread")
        await held.value(service.short_op(session="one"))
        try:
            held.expect(service.queued() == 0, f"nothing runs, and {service.queued()!r} wait")
        except Inexpressible:
            held.notes.append("how many runs wait is to be decided")
    held.claims.add("threads")
