"""Every rule of the revision stands in a certificate exactly once: what was judged, and what was not and why.

"Nothing green is empty" is enforced here and nowhere else: a certificate is made from an `Account`, an account from
*all* rules, and a rule that nobody judged reads NOT-CLAIMED or NOT-RUN, never nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_flowcheck.certificate.verdicts import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_flowcheck.rules import Rule


@dataclass
class Ledger:
    """The findings of one run as they come in, by subject and rule."""

    findings: dict[tuple[str, str], Finding] = field(default_factory=dict[tuple[str, str], Finding])

    def record(self, label: str, finding: Finding) -> Finding:
        """Enter a finding; returns what the ledger reads now: UNSTABLE for a rule's second one, whatever the two are."""
        before = self.findings.get((label, finding.rule))
        if before is not None:
            words = " and ".join(dict.fromkeys((before.verdict.value, finding.verdict.value)))
            story = before.message or finding.message
            finding = Finding(
                finding.rule,
                Verdict.UNSTABLE,
                finding.level,
                "observed",
                message=f"the rule was judged more than once in this run: {words}\n\n{story}".rstrip(),
                evidence={"first": before.evidence.get("first") or before.to_json()},
            )
        self.findings[label, finding.rule] = finding
        return finding

    def amend(self, label: str, finding: Finding) -> None:
        """Replace what a rule reads: its process died when it had ended already, and that is this rule's doing."""
        before = self.findings.get((label, finding.rule))
        if before is None or before.verdict is not Verdict.UNSTABLE:
            self.findings[label, finding.rule] = finding

    def of(self, label: str) -> dict[str, Finding]:
        """What was found out about one subject, by rule."""
        return {rule: finding for (subject, rule), finding in self.findings.items() if subject == label}


@dataclass(frozen=True)
class Account:
    """One subject's rules, each with its finding."""

    rules: tuple[tuple[Rule, Finding], ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many rules read each verdict; verdicts that none reads are left out."""
        found = Counter(finding.verdict for _, finding in self.rules)
        return {verdict.value: found[verdict] for verdict in Verdict if found[verdict]}

    def violated_identity(self, rules: Iterable[Rule]) -> str:
        """Why the books do not balance; empty if they do: the verdicts sum up to the rules, each rule exactly once."""
        wanted = Counter(rule.id for rule in rules)
        have = Counter(rule.id for rule, _ in self.rules)
        if wanted != have:
            off = sorted((wanted - have) | (have - wanted))
            return f"rules not accounted for exactly once: {', '.join(off)}"
        if sum(self.counts.values()) != sum(wanted.values()):
            return f"{sum(self.counts.values())} verdicts for {sum(wanted.values())} rules"
        wrong = sorted(rule.id for rule, finding in self.rules if rule.id != finding.rule)
        return f"findings entered under another rule: {', '.join(wrong)}" if wrong else ""


def account(
    rules: Mapping[str, list[Rule]], claims: Mapping[str, Iterable[str]] | None, found: Mapping[str, Finding]
) -> Account:
    """Every rule with what was found, or with why there is nothing.

    Args:
        rules: all rules of the revision, by facet.
        claims: the subject's; None if it could not be loaded, so that nobody knows.
        found: findings by rule id.
    """
    lines: list[tuple[Rule, Finding]] = []
    for facet in sorted(rules):
        claimed = () if claims is None else claims.get(facet)
        lines += [(rule, found.get(rule.id) or _absent(rule, claimed)) for rule in sorted(rules[facet])]
    return Account(tuple(lines))


def _absent(rule: Rule, claimed: Iterable[str] | None) -> Finding:
    if claimed is None:
        return Finding(rule.id, Verdict.NOT_CLAIMED, rule.level, "observed", message=f"facet not claimed: {rule.facet}")
    level = rule.level_for(claimed)
    shown = "SHOULD" if level == "exempt" else level
    return Finding(rule.id, Verdict.NOT_RUN, shown, "observed", message=Verdict.NOT_RUN.meaning)
