"""Wrong about whose bound it is."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from typing import Any, ClassVar

from flowcheck_reference.broken.isolation._sound import Engine, Job, Sound
from pytest_flowcheck.protocols import Closed, breaks


class InSessions(Sound):
    """It has sessions."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": frozenset({"sessions"})}


@breaks("ISO-02", "ISO-03", "ISO-08", "ISO-12", "ISO-13")
class EachSessionItsOwn(InSessions):
    """The bound is the session's: the machine has that times the number of users."""

    class Service(Engine):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.by_session: Counter[str] = Counter()

        def enter(self, job: Job) -> None:
            with self.lock:
                self.by_session[job.session] += 1
                if self.by_session[job.session] > self.bound:
                    self.waiting.append(job)
                    return
                self.running += 1
            self.begin(job)


@breaks("ISO-08")
class OneForTheProcess(InSessions):
    """The count of slots is the class's."""

    class Service(Engine):
        taken: ClassVar[list[Engine]] = []
        one_lock: ClassVar[threading.Lock] = threading.Lock()

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.lock = self.one_lock

        @property
        def running(self) -> int:
            return len(self.taken)

        @running.setter
        def running(self, value: int) -> None:
            while len(self.taken) < value:
                self.taken.append(self)
            while len(self.taken) > value:
                self.taken.remove(self if self in self.taken else self.taken[0])


@breaks("ISO-10")
class NothingAlone(Sound):
    """Where there is no service, there is no pool either."""

    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"isolation": frozenset({"standalone"})}

    @contextmanager
    def isolation(
        self, *, max_concurrent_runs: int | None, limit: float | None = None, admit: Any = None
    ) -> Generator[Any]:
        with super().isolation(max_concurrent_runs=max_concurrent_runs, limit=limit, admit=admit) as engine:
            if max_concurrent_runs is None:
                engine.begin = self.nowhere
            yield engine

    def nowhere(self, job: Job) -> None:
        raise Closed(f"session {job.session} belongs to no service")
