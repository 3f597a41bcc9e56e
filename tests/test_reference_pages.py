"""The pages that are looked things up in name every option, setting, marker, fixture and protocol, and none that is not there."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from pytest_flowcheck import fixtures, protocols
from pytest_flowcheck.rules import bundled_facets
from pytest_flowcheck.running import options
from pytest_flowcheck.shell.main import commands

ROOT = Path(__file__).parent.parent
PLUGIN, API, SHELL = (ROOT / "docs/reference" / f"{page}.md" for page in ("plugin", "api", "shell"))

pytestmark = pytest.mark.skipif(not PLUGIN.exists(), reason="needs the source tree, not only the installed package")


class Declared:
    """Stands in for pytest's parser: keeps what the plugin declares."""

    def __init__(self) -> None:
        self.options, self.settings = dict[str, argparse.Action](), set[str]()
        self._parser = argparse.ArgumentParser(add_help=False)
        options.declare(self)  # type: ignore[arg-type]
        fixtures.declare(self)  # type: ignore[arg-type]

    def getgroup(self, *_: str) -> Declared:
        return self

    def addoption(self, name: str, **given: Any) -> None:
        self.options[name] = self._parser.add_argument(name, **given)

    def addini(self, name: str, *_: str, **__: Any) -> None:
        self.settings.add(name)


def test_every_option_of_pytest_is_told_once() -> None:
    """A row for each, with a value if it takes one, and its default if that is a number; and which of them certify."""
    declared = Declared().options
    text = PLUGIN.read_text()
    rows = re.findall(r"^\| `(--flowcheck[\w-]*)(=[^`]*)?` \| (.*) \|$", text, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == sorted(declared)
    for name, takes, told in rows:
        action = declared[name]
        assert bool(takes) is (action.nargs != 0), name
        if action.nargs != 0 and isinstance(action.default, int | float):
            assert f"({action.default:g})" in told, name
        assert ("may be repeated" in told) is isinstance(action.default, list), name
        implies = "mplies --flowcheck" in str(action.help)
        assert (name.removeprefix("--flowcheck-") in implied(text)) is implies, name


def implied(text: str) -> set[str]:
    """The options of which the page says that they need no `--flowcheck` beside them."""
    (sentence,) = re.findall(r"^(.*) imply `--flowcheck`", text, re.MULTILINE)
    return {*re.split(r", | and ", sentence.lower())}


def test_every_setting_marker_and_fixture_is_told() -> None:
    """Of the ini file and on tests."""
    text = PLUGIN.read_text()
    keys = {*re.findall(r"ini `(flowcheck_\w+)`", text), *re.findall(r"^(flowcheck_\w+) = ", text, re.MULTILINE)}
    assert keys | {"flowcheck_leaks_allow"} == Declared().settings  # that one stands behind a comma
    assert "`flowcheck_leaks_allow`" in text
    markers = {line.partition(":")[0] for line in fixtures.MARKERS}
    assert {*re.findall(r"marker `(flowcheck_\w+\(.*?\))`", text)} == markers
    there = {name for name in fixtures.__all__ if name.startswith("flowcheck_")}
    assert {*re.findall(r"^\| `(flowcheck_\w+)` \|", text, re.MULTILINE)} == there


def test_every_protocol_is_in_the_reference() -> None:
    """What an adapter's author has to write, facet by facet, and the words that all of them share."""
    told = {
        *re.findall(
            r"^\.\. auto(?:class|function):: pytest_flowcheck\.protocols\.([\w.]+)$", API.read_text(), re.MULTILINE
        )
    }
    shared = {
        name
        for name in protocols.__all__
        if str(getattr(getattr(protocols, name), "__module__", "")).startswith(protocols.__name__)
    } - {"broken_rules", "is_a"}  # the kit's own look at what the others say
    theirs = {
        f"{facet}.{name}"
        for facet in bundled_facets()
        for module in [importlib.import_module(f"pytest_flowcheck.protocols.{facet}")]
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }
    assert told == shared | theirs


@pytest.mark.parametrize("name", sorted(commands()))
def test_the_shell_page_says_what_may_be_repeated(name: str) -> None:
    """Where a command takes several of a thing, the generated page shows it as `--help` does."""
    parser = argparse.ArgumentParser(add_help=False)
    commands()[name].arguments(parser)
    section = SHELL.read_text().partition(f"## flowcheck {name}\n")[2].partition("\n## ")[0]
    for action in parser._actions:
        if not action.option_strings:
            several: Any = " ..." if action.nargs in {"+", "*"} else ""
            assert f"| `{action.metavar}{several}` |" in section
