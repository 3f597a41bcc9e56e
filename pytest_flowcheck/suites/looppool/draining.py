"""LOP-05, 06, 11, 12: what dispatches left behind, and a process that ends."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.probes.child import child
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.looppool._shared import (
    LIMIT,
    Heard,
    Leftover,
    asyncio_loop,
    awaited,
    came_to,
    listening,
    opened,
    turn,
)

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.probe import Probe
    from pytest_flowcheck.subjects import Subject

ENDLESS = 1_000
"""Generations after which a drain without any timer would plainly go on for ever."""


@rule("LOP-05", "drain")
def generations_are_drained(lab: Lab) -> None:
    """`stop` drains residual tasks over successive generations: cleanup that spawns tasks is run to the end; endless respawning is cut off and reported.

    Intent: A connection that is closed by a task that a task started is closed only if both are run; and a library that starts itself again must not keep a process from stopping.

    Usual cause: One `gather` over `all_tasks()`, as in `asyncio.run`: what that cleanup starts is destroyed; or a loop `while all_tasks()` without a bound.

    Proof: A dispatch leaves a task whose cleanup starts a task, whose cleanup starts a third; after stop, all three have cleaned up. Then tasks that always start another: stop comes back, and says so by an error, a value, a warning or a log record. Where it does not, the thousandth generation waits at a gate, and it is proven that no timer of the pool will ever end that.

    Source: wool, pull request 271: three generations; `asyncio.Runner.close`, which knows one.
    """
    residual = Leftover(lab, 3)
    with opened(lab) as pool:
        pool.ran("leaves tasks", residual)
        pool.stopped()
        lab.until(
            lambda: len(residual.cleaned) == 3,
            "the cleanup of all three generations ran to its end",
            expected="cleanup that starts tasks is run to the end, before the loop is closed",
        )
    endless = Endless(lab)
    with listening() as heard, opened(lab) as pool:
        where = pool.ran("leaves a task for ever", endless)
        stop = pool.stop()
        lab.until(
            lambda: stop.done,
            f"stop() comes back although a task always starts another ({ENDLESS} generations at most; then that waits at a gate)",
            expected="endless respawning is cut off",
            hung=True,
        )
        if stop.returned and stop.value is None:
            # stop may return before the loop is reaped; whoever reaps it may report until then
            reaped = lab.call(f"the thread of {where}", where.thread.join)
            lab.until(
                lambda: bool(heard.reports) or (reaped.done and where.gone),
                f"after stop(), {where} is reaped, or what could not be ended is reported",
                needs="LOP-04",
            )
        lab.check(
            stop.error is not None or stop.value is not None or bool(heard.reports),
            f"a task that always starts another was cut off after {endless.generation} generations, and {came_to(stop)}; "
            "nothing was logged, nor warned",
            "that it was cut off is reported: by an error, a value that isn't None, a warning or a log record",
        )


class Endless:
    """A task that starts another when it is cancelled, which does so, too."""

    def __init__(self, lab: Lab) -> None:
        self.generation = 0
        self._gates = lab.gates
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self) -> str:
        """The body."""
        asyncio_loop()
        await self._start()
        return "left a task behind"

    def _start(self) -> asyncio.Future[None]:
        running: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._live(running), name="endless")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return running

    async def _live(self, running: asyncio.Future[None]) -> None:
        self.generation += 1
        running.set_result(None)
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if self.generation < ENDLESS:
                await self._start()
            else:
                await self._gates.wait_async("endless")


@rule("LOP-06")
def nothing_is_said(lab: Lab) -> None:
    """No warning or "Task was destroyed" log at stop, at reaping, at interpreter exit, for what `[drain]` covers.

    Intent: A log that always has these lines hides the one that matters.

    Usual cause: A loop closed with tasks on it, or dropped without being closed; a daemon thread that the interpreter leaves in the middle of a coroutine.

    Proof: A dispatch leaves a task behind, three generations of them where `drain` is claimed. Then the pool is stopped; where `ttl` is claimed, another is reaped; and where `drain` is claimed, a process of its own ends without stop. What asyncio logs, what is warned, and what the process prints is empty.

    Source: asyncio's `Task.__del__` and `BaseEventLoop.__del__`.
    """
    generations = 3 if lab.claims("drain") else 1
    with listening() as heard:
        with opened(lab) as pool:
            residual = Leftover(lab, generations)  # which holds the tasks: a loop holds them weakly, and garbage is collected any time
            where, mark = pool.ran("leaves tasks", residual), residual.mark
            pool.stopped()
            pool.reaped(where, "after stop()", needs="LOP-04")
            del residual
        _silent(lab, heard, mark, "stop()")
    if lab.claims("ttl"):
        with listening() as heard:
            with opened(lab, 0) as pool:
                residual = Leftover(lab, generations)
                where, mark = pool.ran("leaves tasks for the reaper", residual), residual.mark
                pool.reaped(where, "with TTL 0, an idle loop is reaped", needs="LOP-02")
                del residual
            _silent(lab, heard, mark, "reaping")
    if not lab.claims("drain") or lab.repeated(100) < 100:
        return  # nobody promised it; or it is the selftest, on a pool that need not fail this rule: not worth a process
    with child(lab, leaves_it_warm, lab.probe("warm", gated=False), generations) as process:
        lab.until(lambda: process.exited, "a process with a warm loop exits", needs="LOP-12")
        output = process.output()
    lab.check(
        not output.strip(),
        f"a process that ended with a warm loop, and {generations} generations of tasks on it, printed:\n{output.strip()}",
        "nothing is printed",
    )


def _silent(lab: Lab, heard: Heard, mark: str, when: str) -> None:
    import gc

    gc.collect()  # what is destroyed says so now
    said = [*heard.of_asyncio(mark), *heard.warnings, *lab.uncaught]
    lab.check(not said, f"at {when}, there was said: {'; '.join(said)}", "nothing: what was left behind was drained")


def leaves_it_warm(subject: Subject, probe: Probe, generations: int) -> None:
    """In a process of its own: one dispatch that leaves tasks behind, and then the end, without stop."""
    warnings.simplefilter("always", ResourceWarning)
    warnings.simplefilter("always", RuntimeWarning)
    manager = subject.open("looppool", ttl=None)
    body = _Leaves(probe, generations)
    if hasattr(manager, "__enter__"):
        pool = manager.__enter__()
        pool.dispatch(body)
        _keep(manager, pool, body)
        return

    async def main() -> None:
        pool = await manager.__aenter__()
        await awaited(pool.dispatch(body))
        _keep(manager, pool, body)

    if subject.backend == "trio":
        import trio

        trio.run(main)
    else:
        asyncio.run(main())


def _keep(*things: Any) -> None:
    """Nobody drops them, not even the interpreter at its end: a context manager that is finalised then would call stop."""
    threading.Thread(target=_hold, args=things, daemon=True, name="keeps the pool").start()


def _hold(*_: Any) -> None:
    threading.Event().wait()


class _Leaves:
    """The body of `leaves_it_warm`."""

    __name__ = __qualname__ = "leaves_it_warm"

    def __init__(self, probe: Probe, generations: int) -> None:
        self._probe, self._generations = probe, generations
        self._tasks: list[asyncio.Task[None]] = []

    def __call__(self) -> None:
        raise TypeError("a loop awaits `aio`")

    async def aio(self) -> None:
        """Report, and leave the first generation behind."""
        await self._probe.aio()
        if self._generations:
            asyncio_loop()
            self._tasks.append(asyncio.create_task(self._live(1)))
            await turn()
            await turn()

    async def _live(self, generation: int) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if generation < self._generations:
                self._tasks.append(asyncio.create_task(self._live(generation + 1)))
                await turn()


@rule("LOP-11")
def generators_and_threads_end(lab: Lab) -> None:
    """Async generators and the loop's default executor are shut down with the loop; a stuck executor thread doesn't hold `stop` beyond its bound.

    Intent: `asyncio.to_thread` and a generator that nobody finished are everywhere; their threads and their cleanup end with the loop.

    Usual cause: `loop.close()` without `shutdown_asyncgens` and `shutdown_default_executor`; or the latter without a limit: it joins a thread that never ends.

    Proof: A coroutine begins an async generator and runs a call on the default executor; after stop the generator's cleanup has run, and the thread ends or it is proven that it never will. Then the call waits at a gate: stop comes back, or it is proven that it waits for ever.

    Source: `asyncio.Runner.close`; CPython issue 103225, no limit before 3.12.
    """
    uses = Uses()
    with opened(lab) as pool:
        where = pool.ran("uses generator and executor", uses)
        pool.stopped()
        ran = "the cleanup of an async generator that nobody finished ran"
        lab.until(lambda: uses.closed or where.gone, ran, expected="generators are closed with the loop")
        lab.check(
            uses.closed,
            f"{where} is closed and its thread has ended, and it never came about that {ran}: there is no loop left for it",
            "generators are closed with the loop",
        )
        lab.until(
            lambda: uses.thread is not None and not uses.thread.is_alive(),
            "the thread of the loop's default executor has ended after stop()",
            expected="the default executor is shut down with the loop",
        )
    stuck = Stuck(lab)
    with opened(lab, limit=LIMIT) as pool:
        pool.ran("leaves a thread stuck", stuck)
        lab.until(lambda: "stuck" in lab.live(), "a call on the default executor waits at its gate", needs="LOP-01")
        stop = pool.stop()
        lab.until(
            lambda: stop.done,
            "stop() comes back while a thread of the default executor is stuck",
            expected=f"stop waits for it for its limit, {LIMIT:g} s here, and no longer",
            hung=True,
        )
        lab.open("stuck")


class Uses:
    """A body that leaves an async generator unfinished, and has used the default executor."""

    def __init__(self) -> None:
        self.closed = False
        self.thread: threading.Thread | None = None
        self._generator: AsyncGenerator[int] | None = None

    async def __call__(self) -> str:
        loop = asyncio_loop()
        self.thread = await loop.run_in_executor(None, threading.current_thread)
        self._generator = self._numbers()
        await anext(self._generator)
        return "used both"

    async def _numbers(self) -> AsyncGenerator[int]:
        try:
            yield 1
        finally:
            await turn()
            self.closed = True


class Stuck:
    """A body that leaves a call at its gate on the default executor."""

    def __init__(self, lab: Lab) -> None:
        self._probe = lab.probe("stuck")

    async def __call__(self) -> str:
        self._future = asyncio_loop().run_in_executor(None, self._probe)
        self._future.add_done_callback(lambda future: future.cancelled() or future.exception())
        return "left a thread stuck"


@rule("LOP-12")
def warm_processes_exit(lab: Lab) -> None:
    """A process with a warm loop still exits.

    Intent: Nobody has to remember `stop` for a script to come to its end.

    Usual cause: A thread that is no daemon, whose loop runs for ever: the interpreter joins it.

    Proof: A process of its own dispatches once and comes to the end of its main thread without stop; it exits with status 0, or it is proven that it never will.

    Source: CPython's `threading._shutdown`.
    """
    with opened(lab) as pool:
        pool.ran("here")  # what goes wrong in any process, and what can't be asked for at all, is told better here
    with child(lab, leaves_it_warm, lab.probe("warm", gated=False), 0) as process:
        lab.until(
            lambda: process.exited,
            "a process that ends with a warm loop exits",
            expected="it exits: an idle loop keeps nobody",
            hung=True,
        )
        lab.check(
            process.status == 0, f"it exited with status {process.status} and printed {process.output()!r}", "status 0"
        )
