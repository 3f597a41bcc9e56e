"""The sweep of two tasks of one event loop: the one is held at an await, the other runs, then the one goes on.

Tasks of one loop are interleaved at their awaits only, so these are the steps: each at which the operation really gave its
loop to others while the code in question was on its stack. How long a loop takes to come back to a task is nobody's
promise; so a task that is held there while the other one runs is a schedule that there is. Nothing is drawn, nothing slept.

Source: as for `proof.sweep`. On asyncio and trio, by anyio.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pytest_flowcheck.proof.sweep import Allowed, End, Outcome, Race, Sweep, Unsweepable
from pytest_flowcheck.proof.sweeping.steps import Code, CodeSpec, Leader, Step, place

if TYPE_CHECKING:
    from types import CodeType

    from anyio import CancelScope

W = TypeVar("W")

_TURNS: Final = 1000
"""So many turns of the loop the other task is given to come to its end; then it is taken for blocked, and the held one goes
on. So many, too, has the leading task to come to its step. Whichever is right: either is a schedule that can be."""


class Awaits(Generic[W]):
    """Plays schedules of one pair of coroutine functions on the running loop.

    Args:
        arrange: makes a fresh world, for each schedule.
        first, rival: the operations; each is called with the world.
        judge: says what is wrong with the outcome, or None.
        leave: is given each world afterwards.
        code: whose awaits are steps.
        allowed: errors that the operations may raise.
        names: what the operations are called in what is said of them.
        patience: seconds to wait for operations that don't come back.
    """

    def __init__(
        self,
        arrange: Callable[[], Awaitable[W]],
        first: Callable[[W], Coroutine[Any, Any, Any]],
        rival: Callable[[W], Coroutine[Any, Any, Any]],
        judge: Callable[[W, Outcome], Awaitable[str | None]],
        *,
        leave: Callable[[W], Awaitable[object]],
        code: Iterable[CodeSpec],
        allowed: Allowed,
        names: tuple[str, str],
        patience: float,
    ) -> None:
        self._arrange, self._judge, self._leave = arrange, judge, leave
        self._operations: dict[Leader, Callable[[W], Coroutine[Any, Any, Any]]] = {"first": first, "rival": rival}
        self._names: dict[Leader, str] = {"first": names[0], "rival": names[1]}
        self._code, self._allowed, self._patience = Code(code), allowed, patience

    async def sweep(self, *, both: bool, limit: int) -> Sweep:
        """All schedules, up to the first whose outcome is not legal.

        Raises:
            Unsweepable: an operation never gave the loop to others in the code, or did not come back.
        """
        steps = schedules = blocked = 0
        missed: list[Step] = []
        leaders: tuple[Leader, ...] = ("first", "rival") if both else ("first",)
        in_turn: tuple[Leader, ...] = ("first", "rival")
        for leader in in_turn:
            taken, _, race = await self._play(None, leader)
            if race is not None:
                return Sweep((race,), len(taken), 0, 0, ())
            if leader not in leaders:
                continue
            if not taken:
                raise Unsweepable(f"{self._names[leader]} came to no await in {self._code} at which others could run")
            steps += len(taken)
            for step in taken[:limit]:
                _, outcome, race = await self._play(step, leader)
                if outcome is None:
                    missed.append(step)
                    continue
                schedules += 1
                blocked += outcome.blocked
                if race is not None:
                    return Sweep((race,), steps, schedules, blocked, tuple(missed))
        return Sweep((), steps, schedules, blocked, tuple(missed))

    async def replay(self, key: str) -> Race | Outcome:
        """One schedule.

        Raises:
            Unsweepable: the step is never reached.
            ValueError: `key` is no key.
        """
        step = Step.parse(key)
        _, outcome, race = await self._play(step, step.leader)
        if outcome is None:
            raise Unsweepable(f"{step} was not reached")
        return race or outcome

    async def _play(self, step: Step | None, leader: Leader) -> tuple[list[Step], Outcome | None, Race | None]:
        """Without an outcome: the step was not reached."""
        import anyio

        other: Leader = "rival" if leader == "first" else "first"
        ends: dict[Leader, End] = {}
        begin, over = anyio.Event(), anyio.Event()
        blocked = beside = False

        async def turns(event: anyio.Event) -> bool:
            for _ in range(_TURNS):
                if event.is_set():
                    return True
                await anyio.lowlevel.checkpoint()
            return False

        async def hold() -> None:
            nonlocal blocked
            blocked = not await turns(over)

        async def led() -> None:
            ends[leader] = await _end_of(held, scope)
            begin.set()

        async def follow() -> None:
            nonlocal beside
            await turns(begin)  # or else the leading one waits for what this one will do
            beside = step is None and leader not in ends
            ends[other] = await _end_of(self._operations[other](world), scope)
            over.set()

        world = await self._arrange()
        try:
            held = _Held(self._operations[leader](world), self._code, step, leader, begin.set, hold)
            with anyio.move_on_after(self._patience) as scope:
                async with anyio.create_task_group() as both:
                    both.start_soon(follow)
                    both.start_soon(led)
            if len(ends) < 2:
                late = " and ".join(name for role, name in self._names.items() if role not in ends)
                where = f" after {self._names[leader]} was held before {held.place}" if held.reached else ""
                raise Unsweepable(
                    f"{late} did not come back within {self._patience:g} s{where}, and that it never will was not proven"
                )
            if step is not None and not held.reached:
                return held.steps, None, None
            outcome = Outcome(
                ends["first"],
                ends["rival"],
                blocked,
                step=step,
                place=held.place if step else "",
                leader=leader,
                beside=beside,
            )
            says = await self._wrong(world, outcome)
        finally:
            await self._leave(world)
        return held.steps, outcome, Race(outcome, says) if says else None

    async def _wrong(self, world: W, outcome: Outcome) -> str | None:
        for role, name in self._names.items():
            end: End | None = getattr(outcome, role)
            if end is None or end.error is None:
                continue
            allowed = self._allowed
            if not (allowed(end.error) if callable(allowed) else isinstance(end.error, allowed)):
                return f"{name} raised {end.error!r}"
        return await self._judge(world, outcome)


async def _end_of(operation: Awaitable[Any], scope: CancelScope) -> End:
    """Whatever it raises is its end, a cancellation of its own as well."""
    try:
        return End(await operation)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if scope.cancel_called:
            raise
        return End(error=error)


class _Held:
    """An operation that is held at a step, for as long as `hold` takes."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        code: Code,
        target: Step | None,
        leader: Leader,
        reached: Callable[[], object],
        hold: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.steps: list[Step] = []
        self.reached = False
        self.place = ""
        self._coroutine, self._code, self._target = coroutine, code, target
        self._leader: Leader = leader
        self._tell, self._hold = reached, hold
        self._counts: dict[tuple[str, int], int] = {}

    def __await__(self) -> Generator[Any, Any, Any]:
        """As the coroutine's own: what it waits for, the loop is given; what the loop says, it is told, but later."""
        coroutine = self._coroutine
        value: Any = None
        throw: Callable[[Any], Any] = coroutine.throw
        step: Callable[[Any], Any] = coroutine.send
        while True:
            try:
                waits_for: Any = step(value)
            except StopIteration as end:
                return end.value
            hit = self._suspended()
            if hit:
                self._tell()
            try:
                value = yield waits_for
                if hit:
                    yield from self._hold().__await__()
                step = coroutine.send
            except BaseException as error:  # noqa: BLE001 - the operation's, a cancellation for one
                step, value = throw, error

    def _suspended(self) -> bool:
        """Whether this is where it is to be held."""
        at = _innermost(self._coroutine, self._code)
        if at is None:
            return False
        code, line = at
        key = code.co_qualname, line - code.co_firstlineno
        count = self._counts[key] = self._counts.get(key, 0) + 1
        step = Step(self._leader, key[0], key[1], count, None, self._leader)
        self.steps.append(step)
        if self.reached or step != self._target:
            return False
        self.reached, self.place = True, f"the end of its await in {place(code, line)}"
        return True


def _innermost(coroutine: object, code: Code) -> tuple[CodeType, int] | None:
    """The innermost function of the code that waits, and its line."""
    found = None
    thing: Any = coroutine
    while thing is not None:
        for kind in ("cr", "gi", "ag"):
            frame = getattr(thing, f"{kind}_frame", None)
            if frame is not None:
                if code.has(frame.f_code):
                    found = frame.f_code, frame.f_lineno
                thing = getattr(thing, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:
            return found
    return found
