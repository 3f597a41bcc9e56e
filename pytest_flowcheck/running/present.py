"""Which threads of a pytest process were there before anything of the user's was imported: the harness's, and no others.

A `conftest.py` may import the subject, and the subject may start threads when it is imported. To take those for pytest's
would be to leave the subject's own work out of a proof. Noted on every run of pytest, so it imports nothing and costs
some microseconds.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator

_CONFTESTS = pytest.StashKey[set[int]]()
_PLUGINS = pytest.StashKey[set[int]]()


@contextmanager
def conftests_load(config: pytest.Config) -> Generator[None]:
    """Around the loading of the first `conftest.py` files."""
    before = _threads()
    try:
        yield
    finally:
        config.stash[_CONFTESTS] = _threads() - before


def collection_begins(config: pytest.Config) -> None:
    """All plugins are set up, and no test module is imported yet."""
    config.stash[_PLUGINS] = _threads() - of_conftests(config)


def of_conftests(config: pytest.Config) -> set[int]:
    """Native ids of threads that came while `conftest.py` files were loaded."""
    return config.stash.get(_CONFTESTS, set[int]())


def of_plugins(config: pytest.Config) -> set[int]:
    """Native ids of the threads that were there when collection began, but those."""
    return config.stash.get(_PLUGINS, set[int]())


def _threads() -> set[int]:
    try:
        return {int(name) for name in os.listdir("/proc/self/task")}
    except OSError:  # not Linux: nothing is read from the kernel there
        return set()
