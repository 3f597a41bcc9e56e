"""Wrong in the workers, how many they are and what changes their number."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

from flowcheck_reference.broken.flow._hand import (
    VARIABLE,
    AsyncEngine,
    Crew,
    Engine,
    Hand,
    HandAsync,
    Running,
    checked,
)
from pytest_flowcheck.protocols import Outcome, breaks
from pytest_flowcheck.protocols.flow import Node


class OwnCrew(Engine):
    """A run may have a crew of its own."""

    def crew_of(self, run: Running) -> Crew:
        """Whose threads run its nodes."""
        crew: Crew = vars(run).get("crew", self.crew)
        return crew

    def hand_out(self, run: Running, node: Node, upstream: Any) -> None:
        def order() -> None:
            completion: tuple[str, Outcome[Any]] = node.id, self.work(run, node, upstream)
            run.completions.put(completion)

        self.crew_of(run).give(order)


@breaks("FLO-05", "FLO-35")
class PoolPerRun(Hand):
    """Each run makes a pool and shuts it down behind itself. (dynamiq pull request 674)"""

    class Flow(OwnCrew):
        @contextmanager
        def lent(self, run: Running) -> Generator[None]:
            crew = vars(run)["crew"] = Crew(run.limit)
            with super().lent(run), crew.lent(run.limit):
                yield
            crew.close()


@breaks("FLO-35")
class AnotherPoolWhereOneIsBusy(Hand):
    """Pools are used again, but a run that finds none free makes one."""

    class Flow(OwnCrew):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.free: list[Crew] = []

        @contextmanager
        def lent(self, run: Running) -> Generator[None]:
            with super().lent(run):
                crew = vars(run)["crew"] = self.free.pop() if self.free else Crew(self.limit)
                with crew.lent(run.limit):
                    yield
                self.free.append(crew)

        def close(self) -> None:
            super().close()
            for crew in self.free:
                crew.close()


@breaks("FLO-05")
class AThreadForEachNode(Hand):
    """A thread that has done its node is not used again."""

    class Flow(Engine):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.crew = ForOneOrder(self.limit)


class ForOneOrder(Crew):
    """A thread takes one order; another may be started as it leaves."""

    def work(self) -> None:
        if (order := self.take()) is not None:
            order()
            with self.changed:
                self.threads -= 1
                self.gone.notify_all()
            self.give_rest()

    def give_rest(self) -> None:
        """Orders that came while all threads were busy."""
        with self.changed:
            rest = [self.orders.popleft() for _ in range(len(self.orders))]
        for order in rest:
            self.give(order)


@breaks("FLO-08")
class TheLastLimitStays(Hand):
    """A run's own limit becomes the engine's."""

    class Flow(Engine):
        def run_limit(self, max_workers: Any) -> int:
            self.limit = super().run_limit(max_workers)
            return self.limit


@breaks("FLO-08")
class AbsentMeansTheDefault(HandAsync):
    """Once limits are changed at all, a run without one is taken for a change back to the default. (dynamiq pull request 674)"""

    backends = ("asyncio",)

    class Flow(AsyncEngine):
        changes = False

        def limiter_of(self, run: Running, max_workers: int | None) -> Any:
            if self.changes and max_workers is None:
                max_workers = run.limit = self.size(None)
            self.changes = self.changes or max_workers is not None
            return super().limiter_of(run, max_workers)


@breaks("FLO-08", "FLO-09")
class TheFirstLimitStays(HandAsync):
    """`run` takes a limit, and the pool that there is from the start has its own."""

    backends = ("asyncio",)

    class Flow(AsyncEngine):
        def run_limit(self, max_workers: Any) -> int:
            return self.limit

        def limiter_of(self, run: Running, max_workers: int | None) -> Any:
            return self.limiter


@breaks("FLO-09")
class NoneOrZero(Hand):
    """`max_workers or default`."""

    class Flow(Engine):
        def size(self, max_workers: Any) -> int:
            return super().size(max_workers or None)


@breaks("FLO-09")
class InvalidLiteral(HandAsync):
    """The variable is read by a bare `int()`, which complains of an invalid literal and says not where it stood."""

    backends = ("asyncio",)

    class Flow(AsyncEngine):
        def size(self, max_workers: Any) -> int:
            if max_workers is None and (text := os.environ.get(VARIABLE)) is not None:
                return checked(int(text), "the number of workers")
            return super().size(max_workers)


@breaks("FLO-09")
class TheVariableWins(Hand):
    """The environment has the last word, whatever the code says."""

    class Flow(Engine):
        def size(self, max_workers: Any) -> int:
            return super().size(None if VARIABLE in os.environ else max_workers)


class NewCrew(OwnCrew):
    """A changed limit gets a new crew."""

    Crew: ClassVar[type[Any]] = Crew

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.current, self.old = self.Crew(self.limit), list[Any]()

    def lent(self, run: Running) -> AbstractContextManager[None]:
        if run.limit != self.current.limit:
            self.old.append(self.current)
            self.change(self.current)
            self.current = self.Crew(run.limit)
        vars(run)["crew"] = self.current
        return super().lent(run)

    def change(self, old: Any) -> None:
        """What becomes of the old crew."""

    def close(self) -> None:
        super().close()
        for crew in (self.current, *self.old):
            crew.close()


@breaks("FLO-34")
class TheOldPoolIsForgotten(Hand):
    """A changed limit gets a new pool, and the threads of the old one wait for ever. (dynamiq pull request 674)"""

    Flow = NewCrew


class Shut(Crew):
    """Shut at once: it takes no more orders."""

    shut = False

    def give(self, order: Callable[[], None]) -> None:
        if self.shut:
            raise RuntimeError("cannot schedule new nodes after shutdown")
        super().give(order)


@breaks("FLO-34")
class TheOldPoolIsShutUnderTheRun(Hand):
    """A changed limit gets a new pool; the old one is shut down, though a run in flight has nodes to come."""

    class Flow(NewCrew):
        Crew = Shut

        def change(self, old: Any) -> None:
            old.shut = True
            with old.changed:
                old.limit = 0
                old.changed.notify_all()
