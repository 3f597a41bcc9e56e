"""Wrong where workers are processes. The faults of the standard library's pool (EXE-09, EXE-31, EXE-37) come with them."""

from __future__ import annotations

from concurrent.futures import BrokenExecutor

from flowcheck_reference.broken.executor._sound import Processes, SpoiltErrors
from pytest_flowcheck.protocols import breaks


@breaks("EXE-09", "EXE-22", "EXE-31", "EXE-32", "EXE-37")
class DeadWorkersAreNotNoticed(Processes):
    """The pool breaks, and the futures that it carried are forgotten."""

    class Pool(SpoiltErrors):
        def lost(self, error: BaseException) -> bool:
            return isinstance(error, BrokenExecutor)


@breaks("EXE-09", "EXE-25", "EXE-31", "EXE-37")
class PicklingErrorsGetLost(Processes):
    """What can't be pickled fails on a thread that has no future at hand."""

    class Pool(SpoiltErrors):
        def lost(self, error: BaseException) -> bool:
            return "pickle" in str(error)
