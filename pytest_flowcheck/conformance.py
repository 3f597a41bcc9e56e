"""`@certify`: the rules in a user's own suite, an ordinary test for each. This module is light: it only notes what is wanted.

    @pytest_flowcheck.certify(MyEngine)
    def test_conformance(rule): rule()

What is noted becomes tests in `running.guest`, when pytest collects them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

Test = TypeVar("Test", bound=Callable[..., Any])

ATTRIBUTE: Final = "__flowcheck_certify__"
"""Where a decorated function keeps what is wanted."""


class RuleCase(Protocol):
    """What a decorated test gets as its argument `rule`: one rule, for one subject."""

    @property
    def id(self) -> str:
        """`EXE-04`."""
        ...

    @property
    def facet(self) -> str:
        """`executor`."""
        ...

    @property
    def level(self) -> str:
        """`MUST` or `SHOULD`, for this subject."""
        ...

    @property
    def sentence(self) -> str:
        """What it asks."""
        ...

    @property
    def subject(self) -> str:
        """The subject's name; with its loop library where it is tried on several."""
        ...

    def __call__(self) -> None:
        """Judge it. Returns if the rule holds, or is a SHOULD; fails the test with the whole story of the violation if it
        does not; skips it where the subject does not claim what the rule is about, or this machine can't tell; xfails it
        where the baseline expects that.
        """
        ...


@dataclass(frozen=True)
class Wanted:
    """What one decorator asked for."""

    subjects: tuple[Any, ...]
    facets: tuple[str, ...]
    only: tuple[str, ...]
    baseline: str | None


def certify(
    *subjects: Any,
    facets: Iterable[str] | str = (),
    only: Iterable[str] | str = (),
    baseline: str | os.PathLike[str] | None = None,
) -> Callable[[Test], Test]:
    """Turn a test function into one test for each rule, in your own tree and run.

    The function takes the argument `rule` and calls it; whatever else it does or requests goes on as in any test. Works for
    functions, methods of test classes and of `unittest.TestCase`, with marks and other fixtures and parameters. Rules are
    judged in the process that runs your tests, so a debugger sees your engine; `pytest --flowcheck` judges them in
    processes of their own, which outlive a subject that crashes.

    Args:
        subjects: what to certify: adapter classes, executor classes, functions that take `max_workers`, or words as
            `--flowcheck-subject` takes them (`"my_pkg:MyEngine"`, `"dask"`). A `pytest.param` around one gives it marks or
            an id.
        facets: only these; all that a subject claims if empty. A single one may be a plain string.
        only: only the rules with these ids.
        baseline: a TOML file of expected failures, relative to the test's file; else the one that `--flowcheck-baseline`
            or the ini file names.

    Raises:
        TypeError: no subject is named, or the decorator is put on something that is no function.
    """
    if not subjects:
        raise TypeError("certify() names no subject; write @certify(MyEngine)")
    wanted = Wanted(subjects, _words(facets), _words(only), None if baseline is None else os.fspath(baseline))

    def decorate(test: Test) -> Test:
        if isinstance(test, type) or not callable(test):
            raise TypeError(f"certify() decorates a test function, as in def test_conformance(rule): rule(); got {test!r}")
        setattr(test, ATTRIBUTE, wanted)
        return test

    return decorate


def _words(given: Iterable[str] | str) -> tuple[str, ...]:
    return tuple(given.replace(",", " ").split()) if isinstance(given, str) else tuple(given)
