"""How many workers there are, and what a bad number is told."""
from __future__ import annotations

from typing import Any

import pytest

from flowcheck_reference import Executor, _sizing


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The surroundings set no number of workers."""
    monkeypatch.delenv(_sizing.VARIABLE, raising=False)


@pytest.mark.parametrize(("cpus", "workers"), [(1, 5), (2, 6), (28, 32), (29, 32), (500, 32)])
def test_default_is_usable_cpus_plus_four_up_to_32(monkeypatch: pytest.MonkeyPatch, cpus: int, workers: int) -> None:
    """The default is min(32, usable CPUs + 4)."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(cpus)), raising=False)
    assert _sizing.resolve() == workers


def test_without_an_affinity_mask_the_machine_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no affinity mask, the CPUs of the machine are counted; where it hides them, there is one."""
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    assert _sizing.usable_cpus() == 3
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert _sizing.usable_cpus() == 1


def test_variable_overrides_default_and_argument_overrides_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable wins over the default, the argument over the variable."""
    monkeypatch.setenv(_sizing.VARIABLE, " 7 ")
    assert Executor().max_workers == 7
    assert Executor(3).max_workers == 3


@pytest.mark.parametrize("text", ["", "0", "-1", "two", "2.0", "nan", "1_0", "²"])
def test_a_bad_variable_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A variable that is no whole number of at least 1 is a ValueError with the variable's name."""
    monkeypatch.setenv(_sizing.VARIABLE, text)
    with pytest.raises(ValueError, match=_sizing.VARIABLE):
        Executor()
    assert Executor(2).max_workers == 2, "an argument makes the variable irrelevant"


@pytest.mark.parametrize(
    "value", [0, -1, "4", pytest.param(b"4", id="bytes"), True, False, 2.0, float("nan"), float("inf"), [], object()]
)
def test_a_bad_argument_is_an_error_that_names_it(value: Any) -> None:
    """An argument that is no whole number of at least 1 is a ValueError or TypeError with its name (EXE-33)."""
    with pytest.raises((ValueError, TypeError), match="max_workers"):
        Executor(value)
    with Executor(1) as executor:
        with pytest.raises((ValueError, TypeError), match="max_workers"):
            executor.resize(value)
        assert executor.max_workers == 1


def test_what_counts_as_a_whole_number_is_taken() -> None:
    """Anything with `__index__` is a whole number: those of numpy have it."""

    class Three:
        def __index__(self) -> int:
            return 3

    assert _sizing.checked(Three()) == 3
