"""The options on the command line and in the ini file. Imported on every run of pytest, so it imports nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import argparse

    import pytest

COMPANY: Final = "PYTEST_FLOWCHECK_COMPANY"
"""Environment variable of a certification that runs beside a user's tests: the file that it reports to."""

PATIENCE: Final = 30.0


def declare(parser: pytest.Parser) -> None:
    """Add the group `flowcheck` and the ini keys."""
    group = parser.getgroup("flowcheck", "certify things that run work, with proof")
    add = group.addoption
    add("--flowcheck", action="store_true", default=False, help="certify subjects; without paths, run nothing else")
    add(
        "--flowcheck-subject",
        action="append",
        metavar="SUBJECT",
        default=[],
        help="what to certify: a known NAME, module:attr or file.py:attr. Repeatable; implies --flowcheck",
    )
    add(
        "--flowcheck-facet",
        action="append",
        metavar="FACET[,FACET]",
        default=[],
        help="judge these facets only. Repeatable; implies --flowcheck",
    )
    add(
        "--flowcheck-only",
        action="append",
        metavar="RULE[,RULE]",
        default=[],
        help="judge these rules only, e.g. EXE-04. Repeatable; implies --flowcheck",
    )
    add(
        "--flowcheck-report",
        metavar="DIR",
        default=None,
        help="write DIR/<subject>/certificate.json, and DIR/report.html. Implies --flowcheck",
    )
    add(
        "--flowcheck-selftest",
        action="store_true",
        default=False,
        help="prove the kit itself: every broken engine must fail exactly the rules that it names. Implies --flowcheck",
    )
    add("--flowcheck-explain", metavar="RULE", default=None, help="say what a rule asks and why, and exit")
    add(
        "--flowcheck-list",
        action="store_true",
        default=False,
        help="list rules, known subjects and broken engines, and exit",
    )
    add(
        "--flowcheck-patience",
        type=float,
        metavar="SECONDS",
        default=PATIENCE,
        help="how long a silence that can't be proven is endured before a rule reads INCONCLUSIVE (default: 30)",
    )
    add("--flowcheck-seed", type=int, metavar="N", default=0, help="seed of the drawn scenarios (default: 0)")
    add(
        "--flowcheck-baseline",
        metavar="FILE",
        default=None,
        help="failures that are known: a TOML file. Entries that are not true any more fail the run",
    )
    add(
        "--flowcheck-baseline-write",
        action="store_true",
        default=False,
        help="write this run's failures into the baseline, take out what holds now. Implies --flowcheck",
    )
    parser.addini("flowcheck_baseline", "the baseline, where --flowcheck-baseline names none")
    parser.addini("flowcheck_subject", "subjects that --flowcheck certifies, one a line", type="linelist")


def wanted(given: argparse.Namespace) -> bool:
    """Whether these options ask for anything of the kit."""
    named: tuple[Any, ...] = (
        given.flowcheck,
        given.flowcheck_subject,
        given.flowcheck_facet,
        given.flowcheck_only,
        given.flowcheck_report,
        given.flowcheck_selftest,
        given.flowcheck_baseline_write,
        given.flowcheck_explain,
        given.flowcheck_list,
    )
    return any(named)


def alone(given: argparse.Namespace) -> bool:
    """Whether, by these options, a certification runs in this very process and nothing else does."""
    if not wanted(given) or given.flowcheck_explain or given.flowcheck_list:
        return False
    return forced_alone() or given.flowcheck_selftest or len(node_ids(given)) == len(given.file_or_dir)


def node_ids(given: argparse.Namespace) -> list[str]:
    """Those of the paths that are ids of rules as reports print them: `flowcheck/executor::EXE-04[reference]`."""
    return [
        arg for arg in given.file_or_dir if arg.startswith("flowcheck/") and not Path(arg.partition("::")[0]).exists()
    ]


def forced_alone() -> bool:
    """Whether this is the child run beside a user's tests: paths in the ini file must not make it have one itself."""
    return COMPANY in os.environ
