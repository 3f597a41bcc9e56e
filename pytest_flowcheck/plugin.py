"""The pytest plugin. Hooks decide whether there is anything to do; what is to be done lives in `running`.

Costs nothing when off: until `--flowcheck` is given, no suite, no hypothesis, no anyio and no xdist is imported here.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowcheck import fixtures, hookspecs, stock
from pytest_flowcheck.fixtures import *  # noqa: F403 - pytest looks for fixtures here
from pytest_flowcheck.running import options

if TYPE_CHECKING:
    from collections.abc import Generator

    from pytest_flowcheck.running.guest import Guest


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Announce the kit's own hooks."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of group `flowcheck`, and the ini keys."""
    options.declare(parser)
    fixtures.declare(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Announce the markers of fixtures."""
    fixtures.register(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that is decorated by `certify` its rules."""
    wanted = getattr(metafunc.function, "__flowcheck_certify__", None)
    if wanted is not None:
        from pytest_flowcheck.running import guest

        guest.parametrize(metafunc, wanted, _guest(metafunc.config))


def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, obj: object) -> None:
    """The same for the methods of a `unittest.TestCase`."""
    if "pytest_flowcheck.conformance" in sys.modules and isinstance(obj, type) and hasattr(obj, "assertRaises"):
        from pytest_flowcheck.running import guest

        guest.unroll(obj, lambda: _guest(collector.config))


def _guest(config: pytest.Config) -> Guest:
    """Of this session."""
    from pytest_flowcheck.running import guest

    manager = config.pluginmanager
    found: Any = manager.getplugin("flowcheck-guest")
    if isinstance(found, guest.Guest):
        return found
    new = guest.Guest(config)
    manager.register(new, "flowcheck-guest")
    return new


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Of tests that are decorated by `certify`: also in the process that only hears of them."""
    data: dict[str, Any] | None = getattr(report, "flowcheck", None)
    if data is None or not report.passed or data["verdict"] == "PASS":
        return None
    from pytest_flowcheck.running.item import shown_as

    return shown_as(data, failed=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Before the first line of the user's: take stock; tell plugins that look this early that the run will be distributed."""
    if options.alone(early_config.known_args_namespace):
        from pytest_flowcheck.running import containment

        containment.prepare(early_config.known_args_namespace)
    with stock.taken(early_config):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Answer `--flowcheck-list` and `--flowcheck-explain`; or set the certification up and let the session begin."""
    if not options.wanted(config.option):
        return None
    from pytest_flowcheck.running import start

    return start.start(config)
