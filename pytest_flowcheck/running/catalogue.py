"""`--flowcheck-list` and `--flowcheck-explain`: the rules and the subjects, for a reader at a terminal."""

from __future__ import annotations

import importlib
import sys
import textwrap
from typing import TYPE_CHECKING

from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.card import fit
from pytest_flowcheck.errors import UsageError
from pytest_flowcheck.rules import REVISION, Rule, find_rules, rules_of
from pytest_flowcheck.running import offers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


def show(config: pytest.Config) -> int:
    """Print what was asked for; the exit code."""
    facets = {name: rules_of(importlib.import_module(module)) for name, module in offers.all_facets(config).items()}
    if config.option.flowcheck_explain:
        rules = [rule for facet in facets.values() for rule in facet]
        lines = list(explain(find_rules([config.option.flowcheck_explain], rules)[0]))
    else:
        lines = list(_rules(facets)) + list(_subjects(config))
    sys.stdout.write("\n".join(fit(lines, getattr(sys.stdout, "encoding", None))) + "\n")
    return 0


def explain(rule: Rule) -> Iterator[str]:
    """Everything that is known of a rule."""
    yield f"{rule.id} ({rule.level}, {rule.facet} {REVISION})"
    yield ""
    yield from textwrap.wrap(rule.sentence, 100)
    yield ""
    needs = ", ".join(sorted(rule.capabilities)) or "none: every subject of the facet must keep it"
    facts = [("Capabilities", needs)]
    if rule.cluster != rule.level:
        facts.append(("On a cluster", rule.cluster))
    if rule.property:
        facts.append(("Scenarios", "drawn by hypothesis from the seed of the run"))
    facts += [
        ("Intent", rule.intent),
        ("Usual cause", rule.usual_cause),
        ("Proof", rule.proof),
        ("Source", rule.source),
    ]
    for name, text in facts:
        yield from textwrap.wrap(text, 100, initial_indent=f"{name + ':':14} ", subsequent_indent=" " * 15)


def _rules(facets: dict[str, list[Rule]]) -> Iterator[str]:
    for facet, rules in facets.items():
        yield f"{facet} {REVISION}: {len(rules)} rules"
        for rule in rules:
            needs = f" [{', '.join(sorted(rule.capabilities))}]" if rule.capabilities else ""
            text = f"{rule.sentence}{needs}"
            yield from textwrap.wrap(
                text, 110, initial_indent=f"  {rule.id} {rule.level:6} ", subsequent_indent=" " * 16
            )
        yield ""


def _subjects(config: pytest.Config) -> Iterator[str]:
    known = {**subjects.registered(), **offers.extra_subjects(config)}
    yield "subjects by name (others are written module:attr or file.py:attr)"
    width = max(map(len, known), default=0)
    for name in sorted(known):
        yield f"  {name:{width}}  {known[name]}"
    yield ""
    yield "broken engines of the selftest"
    try:
        from pytest_flowcheck.running.selftest import engines

        for engine, rules in engines():
            yield f"  {engine.__qualname__}: fails {', '.join(sorted(rules))}"
    except UsageError as error:
        yield f"  {error}"
