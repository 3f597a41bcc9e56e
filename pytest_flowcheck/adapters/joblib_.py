"""joblib: `Parallel` as a generator, in threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, ClassVar, Final, TypeVar

from pytest_flowcheck.protocols import Adapter, Body, Inexpressible, Ok, Outcome
from pytest_flowcheck.protocols.fanout import Fanout

S = TypeVar("S")
T = TypeVar("T")

SUBJECTS: Final = {"joblib": "Joblib"}


class _Parallel:
    def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> Sequence[Outcome[T]]:
        joblib: Any = import_module("joblib")  # it has no types
        if continue_on_error:
            raise Inexpressible("joblib.Parallel has no way to go on after an error")
        parallel = joblib.Parallel(max_concurrency, backend="threading", return_as="generator")
        return [Ok(value) for value in parallel(joblib.delayed(body)(item) for item in items)]


class Joblib(Adapter):
    """`Parallel(backend="threading", return_as="generator")`."""

    name = "joblib"
    requires: ClassVar[Sequence[str]] = ("joblib",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"fanout": frozenset({"lazy", "nested"})}

    def fanout(self) -> AbstractContextManager[Fanout]:
        return nullcontext(_Parallel())
