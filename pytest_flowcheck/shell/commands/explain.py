"""Say what a rule asks, why, how it is judged and where it comes from.

The same text as `pytest --flowcheck-explain`, which also knows the facets that plugins and conftest files add.
"""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("rule", nargs="+", metavar="RULE", help="such as EXE-04")


def run(given: argparse.Namespace) -> int:
    """Print it."""
    from pytest_flowcheck.rules import bundled_rules, find_rules
    from pytest_flowcheck.running.catalogue import explain
    from pytest_flowcheck.shell.printing import say

    for number, rule in enumerate(find_rules(given.rule, bundled_rules())):
        say(["", *explain(rule)] if number else explain(rule))
    return 0
