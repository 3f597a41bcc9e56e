"""The words a rule can end in, what each means, and what each does to the exit code: the only list of them."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from pytest_flowcheck.errors import Grade


class Verdict(enum.Enum):
    """The end of one rule on one subject."""

    PASS = "PASS"  # noqa: S105 - a verdict
    VIOLATED = "VIOLATED"
    INCONCLUSIVE = "INCONCLUSIVE"
    HUNG = "HUNG"
    CRASHED = "CRASHED"
    LEAKED = "LEAKED"
    NOT_CLAIMED = "NOT-CLAIMED"
    NOT_TESTABLE = "NOT-TESTABLE"
    EXPECTED = "EXPECTED"
    UNSTABLE = "UNSTABLE"
    ADAPTER_ERROR = "ADAPTER-ERROR"
    KIT_ERROR = "KIT-ERROR"
    NOT_RUN = "NOT-RUN"

    @property
    def meaning(self) -> str:
        """One line for the documentation and the legend of the card."""
        return _MEANING[self]

    @property
    def broken(self) -> bool:
        """The subject does not keep the rule. What a broken engine must read, and a correct one never."""
        return self in _BROKEN

    def fails(self, level: str) -> bool:
        """Whether a rule of this level (`MUST` or `SHOULD`) that ends so makes the run fail."""
        if self in {Verdict.UNSTABLE, Verdict.ADAPTER_ERROR, Verdict.KIT_ERROR}:
            return True
        return level == "MUST" and (self.broken or self is Verdict.INCONCLUSIVE)

    @property
    def judged(self) -> bool:
        """Whether the rule really looked at the subject (`NOT-RUN`, `NOT-CLAIMED`, `NOT-TESTABLE` did not)."""
        return self not in {Verdict.NOT_CLAIMED, Verdict.NOT_TESTABLE, Verdict.NOT_RUN}


_BROKEN = frozenset({Verdict.VIOLATED, Verdict.HUNG, Verdict.CRASHED, Verdict.LEAKED})
_MEANING = {
    Verdict.PASS: "the sentence held, and the probes show that it was put to the test",
    Verdict.VIOLATED: "the sentence does not hold; the message says why that is proof",
    Verdict.INCONCLUSIVE: "neither shown nor refuted: no proof was possible",
    Verdict.HUNG: "a call into the subject never returns; proven, with a wait list",
    Verdict.CRASHED: "the process that carried the subject died during the rule",
    Verdict.LEAKED: "threads, processes, descriptors or references grow with use or outlive the close",
    Verdict.NOT_CLAIMED: "the subject does not claim the capability that the rule is about",
    Verdict.NOT_TESTABLE: "this machine or the subject's own terms can't express the question",
    Verdict.EXPECTED: "a failure that is listed, with a reason, in the baseline",
    Verdict.UNSTABLE: "the rule was run again or ended differently in one run",
    Verdict.ADAPTER_ERROR: "the adapter, not the subject behind it, is broken",
    Verdict.KIT_ERROR: "the kit itself failed: our bug, please report it",
    Verdict.NOT_RUN: "not reached: deselected, stopped early or interrupted",
}


@dataclass(frozen=True)
class Finding:
    """What one rule found out about one subject. Plain data: crosses processes as JSON."""

    rule: str
    verdict: Verdict
    level: str
    """`MUST` or `SHOULD`, as it stands for this subject."""
    grade: Grade = "proven"
    seconds: float = 0.0
    message: str = ""
    """Empty for a PASS; else the story: sentence, facts, expectation, proof, usual cause."""
    evidence: dict[str, Any] = field(default_factory=dict[str, Any])
    """What reports show: `events`, `story`, `waits`, `crash`, `schedule`, `example`, ...; see `$defs/evidence` of the schema."""
    poisoned: bool = False
    """Stuck threads or stray processes remain: this process must not judge another rule."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `from_json` is its inverse."""
        return {**asdict(self), "verdict": self.verdict.value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Finding:
        """The finding that `to_json` wrote."""
        return cls(**{**data, "verdict": cast("Any", Verdict(data["verdict"]))})
