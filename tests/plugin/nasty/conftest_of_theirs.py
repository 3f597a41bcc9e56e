"""The conftest.py of every run here: offers the facet `tiny`, as a third party would."""

from __future__ import annotations

from typing import Any


def pytest_flowcheck_facets(config: Any) -> dict[str, str]:
    return {"tiny": "suites.tiny"}


def pytest_flowcheck_subjects(config: Any) -> dict[str, str]:
    return {"calm-by-hook": "strikes:Calm"}
