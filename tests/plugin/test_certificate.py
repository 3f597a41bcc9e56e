"""Accounting, certificate, policy and card: pure functions, and the certificates of real runs."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from pytest_flowcheck.certificate import card, document, policy
from pytest_flowcheck.certificate.accounting import Account, Ledger, account
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.rules import Rule, rule, rules_of


def tiny_rules() -> dict[str, list[Rule]]:
    """Four rules of a facet, one of them a SHOULD, one for a capability."""
    module = ModuleType("suites.small")

    def make(name: str, *capabilities: str, should: bool = False) -> None:
        def function(lab: Any) -> None: ...

        function.__doc__ = "It holds.\n\nIntent: a\n\nUsual cause: b\n\nProof: c\n\nSource: d"
        function.__module__ = module.__name__
        setattr(module, name.replace("-", "_"), rule(name, *capabilities, should=should)(function))

    make("SML-01")
    make("SML-02")
    make("SML-03", "extra")
    make("SML-04", should=True)
    return {"small": rules_of(module)}


def certificate(
    found: dict[str, Verdict], claims: dict[str, list[str]] | None = None, label: str = "it"
) -> dict[str, Any]:
    """A certificate with these verdicts."""
    rules = tiny_rules()
    levels = {r.id: r.level for r in rules["small"]}
    findings = {r: Finding(r, v, levels[r], message="" if v is Verdict.PASS else "why\nmore") for r, v in found.items()}
    booked = account(rules, {"small": []} if claims is None else claims, findings)
    assert booked.violated_identity(rules["small"]) == ""
    subject = {
        "name": label,
        "version": "1",
        "spec": "m:a",
        "asked": label,
        "label": label,
        "backend": "asyncio",
        "unclaimed": [],
    }
    return document.build(
        account=booked, subject=subject, claims={"small": []} if claims is None else claims, seed=0, kit="1", revision="2026.1",
        packages={"pytest": "9"},
    )  # fmt: skip


GOOD = {"SML-01": Verdict.PASS, "SML-02": Verdict.PASS, "SML-03": Verdict.NOT_CLAIMED, "SML-04": Verdict.PASS}


def test_every_rule_is_accounted_for() -> None:
    """A rule that nobody judged reads NOT-RUN; a facet that nobody claims NOT-CLAIMED; the verdicts sum up to the rules."""
    some = certificate({"SML-01": Verdict.PASS})
    assert some["accounting"] == {"rules": 4, "verdicts": {"PASS": 1, "NOT-RUN": 3}}
    assert some["complete"] is False
    none = certificate({}, claims={})
    assert none["accounting"] == {"rules": 4, "verdicts": {"NOT-CLAIMED": 4}}
    assert none["facets"]["small"]["status"] == "not-claimed"


def test_books_that_do_not_balance_are_noticed() -> None:
    """A rule too few, one twice, or a finding under another rule's name: the identity says so."""
    rules = tiny_rules()["small"]
    lines = [(r, Finding(r.id, Verdict.PASS, "MUST")) for r in rules]
    assert Account(tuple(lines)).violated_identity(rules) == ""
    assert "SML-01" in Account(tuple(lines[1:])).violated_identity(rules)
    assert "SML-01" in Account((*lines, lines[0])).violated_identity(rules)
    assert "SML-02" in Account((lines[0], (rules[1], lines[0][1]), *lines[2:])).violated_identity(rules)


def test_two_findings_of_one_rule_are_unstable() -> None:
    """Whatever the two say, and whatever comes third."""
    ledger = Ledger()
    for _ in range(3):
        read = ledger.record("it", Finding("SML-01", Verdict.PASS, "MUST"))
    assert read.verdict is Verdict.UNSTABLE
    assert ledger.of("it") == {"SML-01": read}
    assert ledger.of("other") == {}


def test_a_level_is_a_fraction_of_what_was_claimed_and_testable() -> None:
    """n/N counts MUSTs that are claimed and testable; 0/0 is no pass."""
    assert certificate(GOOD)["facets"]["small"] == {
        "status": "passed",
        "passed": 2,
        "total": 2,
        "should": {"passed": 1, "total": 1},
    }
    empty = certificate(
        {"SML-01": Verdict.NOT_TESTABLE, "SML-02": Verdict.NOT_TESTABLE, **dict(list(GOOD.items())[2:])}
    )
    assert (empty["facets"]["small"]["status"], empty["facets"]["small"]["total"]) == ("nothing-judged", 0)


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({}, 0, "all 2 MUST rules that were judged hold"),
        ({"SML-04": Verdict.VIOLATED}, 0, "1 SHOULD rule not kept (SML-04)"),
        ({"SML-01": Verdict.NOT_TESTABLE}, 0, "the one MUST rule that was judged holds"),
        ({"SML-01": Verdict.VIOLATED, "SML-02": Verdict.VIOLATED}, 1, "2 MUST rules VIOLATED (SML-01, SML-02)"),
        ({"SML-01": Verdict.INCONCLUSIVE}, 1, "1 MUST rule INCONCLUSIVE (SML-01)"),
        ({"SML-01": Verdict.HUNG}, 1, "1 MUST rule HUNG (SML-01)"),
        ({"SML-04": Verdict.ADAPTER_ERROR}, 1, "1 rule ADAPTER-ERROR (SML-04)"),
        ({"SML-04": Verdict.UNSTABLE}, 1, "1 rule UNSTABLE (SML-04)"),
        ({"SML-01": Verdict.VIOLATED, "SML-02": Verdict.KIT_ERROR}, 3, "the kit itself failed in SML-02"),
    ],
)
def test_the_exit_code_and_its_reason(change: dict[str, Verdict], status: int, words: str) -> None:
    """One table from verdicts to the exit code, one line that says why."""
    code, line = policy.decide([certificate({**GOOD, **change})])
    assert (code, line.startswith(f"exit {status}: ")) == (status, True), line
    assert words in line


def test_nothing_judged_is_five() -> None:
    """No rule that looked at the subject: exit code 5, never 0. An interruption is 2."""
    assert policy.decide([certificate({}, claims={})])[0] == 5
    assert policy.decide([])[0] == 5
    assert policy.decide([certificate(GOOD)], interrupted=True)[0] == 2


def test_the_card() -> None:
    """Who, which revision, n/N, what is wrong with sentence, first lines and reproducer."""
    lines = card.card(certificate({**GOOD, "SML-01": Verdict.VIOLATED}))
    text = "\n".join(lines)
    assert lines[0] == "it 1"
    assert "small \N{MIDDLE DOT} 2026.1 \N{MIDDLE DOT} 1/2 \N{MIDDLE DOT} SHOULD 1/1 \N{MIDDLE DOT} FAILED" in text
    assert "VIOLATED SML-01 (MUST) It holds." in text
    assert "pytest --flowcheck --flowcheck-subject=it --flowcheck-only=SML-01" in text
    assert "capabilities not claimed: extra" in text


def test_a_terminal_that_speaks_ascii_only() -> None:
    """The card loses its dots there, not its lines."""
    assert card.fit(["a \N{MIDDLE DOT} b", "plain", "\N{GREEK SMALL LETTER ALPHA}"], "ascii") == [
        "a - b",
        "plain",
        "\\u03b1",
    ]
    assert card.fit(["a \N{MIDDLE DOT} b"], "utf-8") == ["a \N{MIDDLE DOT} b"]


def test_folder_names_are_harmless_and_unique() -> None:
    """Whatever a subject is called, its folder stays inside the report's and is nobody else's."""
    names = document.folder_names(["../../etc", "a b", "a/b", "A-b", "..", "\N{GREEK SMALL LETTER ALPHA}"])
    assert len({name.lower() for name in names.values()}) == 6
    assert all(name.strip(".") and "/" not in name for name in names.values())


def test_the_schema_is_one(run) -> None:
    """The schema is valid JSON Schema; certificates of real runs keep it, whatever the verdicts; and it is closed."""
    schema = document.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    subjects = ("strikes:Calm", "strikes:Raises", "strikes:Exits0", "strikes:Moonless", "import_exits:X", "pools:Same")
    done = run("--flowcheck-only=TNY-02,TNY-07,EXE-01", *(f"--flowcheck-subject={s}" for s in subjects))
    assert len(done.certificates) == len(subjects), done.output
    for path in run.folder.glob("certificates/*/certificate.json"):
        found = json.loads(path.read_text())
        validator.validate(found)
        assert document.parted(document.read(path)) == found
        rules = found["rules"]
        assert rules == sorted(rules, key=lambda r: (r["facet"], r["id"]))
        assert sum(found["accounting"]["verdicts"].values()) == len(rules) == found["accounting"]["rules"]
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**found, "surprise": 1})


def test_a_certificate_is_written_whole_or_not_at_all(tmp_path: Any) -> None:
    """A write that fails leaves the certificate that was there."""
    whole = certificate(GOOD)
    document.write(whole, tmp_path)
    with pytest.raises(TypeError):
        document.write({**whole, "seed": object()}, tmp_path)
    assert json.loads((tmp_path / "certificate.json").read_text())["seed"] == 0
