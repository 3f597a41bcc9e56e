"""The entry point: finds the command, tells what is wrong in one line, and ends with its exit code."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import pkgutil
import sys
from typing import TYPE_CHECKING, Any

from pytest_flowcheck.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = 4
"""Exit code for what can't be done, as pytest has it."""


class _Parser(argparse.ArgumentParser):
    """Ends as the rest of the kit does: exit code 4."""

    def error(self, message: str) -> Any:
        self.exit(USAGE, f"{self.prog}: {message} (see `{self.prog} --help`)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: those behind `flowcheck`; None: the process's own.

    Returns:
        The exit code. Of every command, 4 means that what was asked for can't be done, and one line on stderr says why.
    """
    parser = make_parser()
    try:
        given = parser.parse_args(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE
    try:
        status = given.run(given)
        sys.stdout.flush()
    except UsageError as error:
        from pytest_flowcheck.shell.printing import complain

        complain(f"flowcheck {given.command}", str(error))
        return USAGE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return int(status)


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _Parser(
        prog="flowcheck",
        description="Works with subjects, rules and certificates of pytest-flowcheck. To certify: pytest --flowcheck",
        allow_abbrev=False,
    )
    add = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, module in commands().items():
        text = inspect.getdoc(module) or ""
        sub = add.add_parser(
            name,
            help=text.partition("\n")[0].removesuffix("."),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def commands() -> dict[str, Any]:
    """The modules of `commands/`, by the word that each stands for."""
    from pytest_flowcheck.shell import commands as package

    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))
    return {name.rstrip("_"): importlib.import_module(f"{package.__name__}.{name}") for name in names}
