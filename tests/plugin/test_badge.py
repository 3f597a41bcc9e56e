"""Badges: what they say, and when they are grey."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from sample_certificates import certificate

from pytest_flowcheck.certificate import badge
from pytest_flowcheck.certificate.badge import badges
from pytest_flowcheck.certificate.verdicts import Verdict
from pytest_flowcheck.rules import bundled_rules

EXECUTOR = [rule for rule in bundled_rules() if rule.facet == "executor"]
MUST = sum(rule.level == "MUST" for rule in EXECUTOR)
LARGE = f"2026.1 \N{MIDDLE DOT} {MUST}/{MUST}"


def test_one_facet_is_the_badge() -> None:
    """`executor 2026.1 · 33/33`, green when every MUST holds; red when one does not."""
    good = badges(certificate("it", {}, rules=EXECUTOR))
    assert good == {"badge": badge.Badge("executor", LARGE, "brightgreen")}
    bad = badges(certificate("it", {"EXE-03": (Verdict.VIOLATED, {})}, rules=EXECUTOR))["badge"]
    assert (bad.message, bad.color) == (f"2026.1 \N{MIDDLE DOT} {MUST - 1}/{MUST}", "red")


@pytest.mark.parametrize(
    ("missing", "now", "told"),
    [
        (("EXE-01",), {}, "partial"),
        ((), {"version": "1.1"}, "of 1.0"),
        ((), {"revision": "2027.1"}, "not 2027.1"),
    ],
    ids=["partial", "older release", "older rules"],
)
def test_grey_where_it_is_not_said_of_what_is_there_now(
    missing: tuple[str, ...], now: dict[str, str], told: str
) -> None:
    """A part of the rules, another release, another revision: grey, whatever the verdicts are, and it says why."""
    for found in ({}, {"EXE-03": (Verdict.HUNG, {})}):
        made = badges(certificate("it", found, rules=EXECUTOR, missing=missing), **now)["badge"]
        assert made.color == "lightgrey"
        assert made.message.endswith(told)
    assert (
        badges(certificate("it", {}, rules=EXECUTOR), version="1.0", revision="2026.1")["badge"].color == "brightgreen"
    )


def test_several_facets_have_one_each_and_one_together() -> None:
    """The one together is as good as the worst."""
    found = badges(certificate("it", {"RTY-01": (Verdict.VIOLATED, {})}, claims=("executor", "retry")))
    assert set(found) == {"badge", "badge-executor", "badge-retry"}
    assert (found["badge"].label, found["badge"].color) == ("2 facets", "red")
    assert (found["badge-executor"].color, found["badge-retry"].color) == ("brightgreen", "red")


def test_nothing_judged_is_no_pass() -> None:
    """A subject that claims nothing, or of which nothing can be tested, has a grey badge that says so."""
    empty = badges(certificate("it", {}, claims=()))["badge"]
    untestable = badges(certificate("it", {r.id: (Verdict.NOT_TESTABLE, {}) for r in EXECUTOR}, rules=EXECUTOR))[
        "badge"
    ]
    for made in (empty, untestable):
        assert (made.message, made.color) == ("2026.1 \N{MIDDLE DOT} nothing judged", "lightgrey")


def test_the_files(tmp_path: Path) -> None:
    """An SVG that any parser reads and that speaks, whatever the facet is called, and an endpoint as shields.io has it."""
    badge.write(certificate("it", {}, rules=EXECUTOR), tmp_path)
    assert json.loads((tmp_path / "badge.json").read_text()) == {
        "schemaVersion": 1, "label": "executor", "message": LARGE, "color": "brightgreen",
    }  # fmt: skip
    tree = ElementTree.fromstring((tmp_path / "badge.svg").read_text())
    assert tree.get("aria-label") == f"executor: {LARGE}"
    odd = ElementTree.fromstring(badge.Badge('<b>&"', "]]>", "red").svg())
    assert odd.get("aria-label") == '<b>&": ]]>'
