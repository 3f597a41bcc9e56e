"""What there is to judge and to judge by: the kit's own facets and subjects, and what plugins add by its hooks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pytest_flowcheck.errors import UsageError
from pytest_flowcheck.rules import bundled_facets

if TYPE_CHECKING:
    import pytest


def all_facets(config: pytest.Config) -> dict[str, str]:
    """Facet -> module of its suite: the bundled ones, and those of the hook `pytest_flowcheck_facets`."""
    found = {facet: f"pytest_flowcheck.suites.{facet}" for facet in bundled_facets()}
    for more in config.hook.pytest_flowcheck_facets(config=config):
        for facet, module in more.items():
            if found.setdefault(facet, module) != module:
                raise UsageError(f"the facet {facet!r} is offered twice: by {found[facet]} and by {module}")
            try:
                importlib.import_module(module)
            except Exception as error:
                raise UsageError(f"the suite {module} of facet {facet!r} can't be imported: {error}") from error
    return dict(sorted(found.items()))


def extra_subjects(config: pytest.Config) -> dict[str, str]:
    """Names that plugins and conftest files add by the hook `pytest_flowcheck_subjects`."""
    found: dict[str, str] = {}
    for more in reversed(config.hook.pytest_flowcheck_subjects(config=config)):
        found.update(more)
    return found
