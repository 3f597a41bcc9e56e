"""The pytest plugin. Hooks decide whether there is anything to do; what is to be done lives in `running`.

Costs nothing when off: until `--flowcheck` is given, no suite, no hypothesis, no anyio and no xdist is imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_flowcheck import fixtures, hookspecs
from pytest_flowcheck.fixtures import *  # noqa: F403 - pytest looks for fixtures here
from pytest_flowcheck.running import options

if TYPE_CHECKING:
    from collections.abc import Generator


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


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Tell plugins that look this early (pytest-cov) that the run will be distributed."""
    if options.alone(early_config.known_args_namespace):
        from pytest_flowcheck.running import containment

        containment.prepare(early_config.known_args_namespace)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Answer `--flowcheck-list` and `--flowcheck-explain`; or set the certification up and let the session begin."""
    if not options.wanted(config.option):
        return None
    from pytest_flowcheck.running import start

    return start.start(config)
