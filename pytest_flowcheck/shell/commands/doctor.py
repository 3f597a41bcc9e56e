"""Say what can't be tested on this machine, which rules that costs, and what to install.

Exit code 0: every rule can be judged here. 1: some can't, or not in full, or a plugin is in the way. Libraries that only some
subjects need change nothing about that.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_flowcheck.shell.examining import Bundled, Finding


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("--json", action="store_true", help="as JSON: {kit, testable, machine, plugins, subjects}")


def run(given: argparse.Namespace) -> int:
    """Look, and print what was found."""
    from pytest_flowcheck import __version__
    from pytest_flowcheck.shell import examining
    from pytest_flowcheck.shell.printing import say

    machine, plugins, subjects = list(examining.machine()), list(examining.plugins()), list(examining.subjects())
    testable = all(found.ok is not False for found in (*machine, *plugins))
    if given.json:
        found: dict[str, Any] = {
            "kit": __version__,
            "testable": testable,
            "machine": [asdict(each) for each in machine],
            "plugins": [asdict(each) for each in plugins],
            "subjects": [asdict(each) for each in subjects],
        }
        say(json.dumps(found, indent=1).splitlines())
    else:
        say(_text(machine, plugins, subjects))
        say(
            [
                "",
                "every rule can be judged here"
                if testable
                else "not every rule can be judged here: see what is marked !",
            ]
        )
    return 0 if testable else 1


def _text(machine: list[Finding], plugins: list[Finding], subjects: list[Bundled]) -> Iterator[str]:
    for title, findings in (("this machine", machine), ("plugins of pytest", plugins)):
        yield title
        for found in findings:
            yield from _finding(found)
        yield ""
    there = [each for each in subjects if each.installed]
    yield f"subjects by name: {len(there)} of {len(subjects)} can be certified here"
    yield from textwrap.wrap(
        ", ".join(f"{each.name} ({each.says})" if each.says else each.name for each in there),
        110,
        initial_indent="  ",
        subsequent_indent="  ",
        break_on_hyphens=False,
    )
    for each in subjects:
        if not each.installed:
            yield f"  - {each.name}: {each.says}{f': {each.install}' if each.install else ''}"


def _finding(found: Finding) -> Iterator[str]:
    mark = {True: " ", False: "!", None: "-"}[found.ok]
    yield f"{mark} {found.name:20} {found.says}"
    whose = f", of {found.only}" if found.only else ""
    for words, rules in ((f"NOT-TESTABLE{whose}", found.rules), (f"judged by less{whose}", found.in_part)):
        if rules:
            yield from textwrap.wrap(
                f"{words}: {', '.join(rules)}",
                110,
                initial_indent=" " * 23,
                subsequent_indent=" " * 25,
                break_on_hyphens=False,
            )
