"""Hooks by which a plugin or a `conftest.py` adds subjects and whole facets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping


@pytest.hookspec
def pytest_flowcheck_subjects(config: pytest.Config) -> Mapping[str, str]:  # type: ignore[empty-body]
    """More subjects by name: `{"my-engine": "my_pkg.certify:MyEngine"}`.

    Asked once per run, before any subject is loaded. Packages can use the entry point group
    `pytest_flowcheck.subjects` instead, which needs no code.
    """


@pytest.hookspec
def pytest_flowcheck_facets(config: pytest.Config) -> Mapping[str, str]:  # type: ignore[empty-body]
    """More facets: `{"sharding": "my_pkg.suites.sharding"}`.

    The value is a module, or a package of modules, with functions decorated by `pytest_flowcheck.rule`; the word
    after `suites` in its name must be the facet's. Asked in every process that judges.
    """
