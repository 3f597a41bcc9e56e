"""Certify things that run work, with proof: a pytest plugin and conformance kit.

Importing this package imports neither hypothesis nor anyio nor the suites.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import FlowcheckError as FlowcheckError
from pytest_flowcheck.errors import UsageError as UsageError

if TYPE_CHECKING:
    from pytest_flowcheck.conformance import RuleCase as RuleCase
    from pytest_flowcheck.conformance import certify as certify
    from pytest_flowcheck.rules import REVISION as REVISION
    from pytest_flowcheck.rules import rule as rule

    __version__: str

__all__ = ["REVISION", "FlowcheckError", "RuleCase", "UsageError", "__version__", "certify", "rule"]

_LAZY = {
    "REVISION": "pytest_flowcheck.rules",
    "RuleCase": "pytest_flowcheck.conformance",
    "certify": "pytest_flowcheck.conformance",
    "rule": "pytest_flowcheck.rules",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pytest-flowcheck")
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
