"""Two certificates beside each other: which rules were mended, broken, came or went; and what makes the two hard to compare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from pytest_flowcheck.certificate.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

Change = Literal["broken", "unsettled", "lost", "mended", "gained", "new", "gone", "otherwise"]
"""What became of a rule from one certificate to the other; `CHANGES` has the words."""

CHANGES: dict[Change, str] = {
    "broken": "kept before, not kept now",
    "unsettled": "kept before, and now nobody knows: INCONCLUSIVE, UNSTABLE, or an error of adapter or kit",
    "lost": "kept before, not judged now",
    "mended": "not kept before, kept now",
    "gained": "not judged or not settled before, judged now",
    "otherwise": "not kept before either, but in another way, or no longer judged",
    "new": "a rule that the first certificate does not know",
    "gone": "a rule that the second certificate does not know",
}
"""Every change, in the order in which they are told, and what it means."""

WORSE = frozenset[Change]({"broken", "unsettled", "lost"})
"""What makes a comparison fail, where the rule is a MUST."""


@dataclass(frozen=True)
class Line:
    """One rule whose verdict is not the same in both."""

    change: Change
    rule: str
    facet: str
    level: str
    sentence: str
    before: str
    """The verdict of the first certificate; `-` where it does not know the rule."""
    after: str
    message: str
    """The second one's story, if it has one."""

    @property
    def worse(self) -> bool:
        """Whether a MUST that was kept no longer is, or no longer can be told to be."""
        return self.level == "MUST" and self.change in WORSE


@dataclass(frozen=True)
class Comparison:
    """What changed from certificate `a` to certificate `b`."""

    a: Mapping[str, Any]
    b: Mapping[str, Any]
    lines: list[Line] = field(default_factory=list[Line])
    same: dict[str, int] = field(default_factory=dict[str, int])
    """How many rules read the same verdict in both, by verdict."""
    beware: list[str] = field(default_factory=list[str])
    """In what else the two differ, so that a change need not be the subject's doing."""

    def of(self, change: Change) -> list[Line]:
        """The lines of one kind, by rule."""
        return [line for line in self.lines if line.change == change]

    @property
    def worse(self) -> bool:
        """Whether a MUST got worse."""
        return any(line.worse for line in self.lines)


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> Comparison:
    """Compare two certificates as `document.read` gives them, the older one first."""
    before = {rule["id"]: rule for rule in a["rules"]}
    after = {rule["id"]: rule for rule in b["rules"]}
    found = Comparison(a, b, beware=_beware(a, b))
    for rule in sorted({*before, *after}):
        old, new = before.get(rule), after.get(rule)
        if old is not None and new is not None and old["verdict"] == new["verdict"]:
            found.same[new["verdict"]] = found.same.get(new["verdict"], 0) + 1
        elif (change := _change(old, new)) is not None:
            any_ = cast("Mapping[str, Any]", new or old)
            found.lines.append(
                Line(
                    change,
                    rule,
                    any_["facet"],
                    any_["level"],
                    any_["sentence"],
                    "-" if old is None else old["verdict"],
                    "-" if new is None else new["verdict"],
                    "" if new is None else new["message"],
                )
            )
    return found


def _change(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Change | None:
    if old is None:
        return "new"
    if new is None:
        return "gone"
    was, now = _state(old["verdict"]), _state(new["verdict"])
    if was == "not judged" and now == "not judged":
        return None  # not claimed or not testable: the subject was looked at in neither
    if was == "kept":
        return {"not kept": "broken", "unsettled": "unsettled", "not judged": "lost"}[now]  # type: ignore[return-value]
    if now == "kept":
        return "mended" if was == "not kept" else "gained"
    return "gained" if was in {"not judged", "unsettled"} and now == "not kept" else "otherwise"


def _state(word: str) -> Literal["kept", "not kept", "unsettled", "not judged"]:
    verdict = Verdict(word)
    if verdict is Verdict.PASS:
        return "kept"
    if verdict.broken or verdict is Verdict.EXPECTED:
        return "not kept"
    return "unsettled" if verdict.judged else "not judged"


def _beware(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    said: list[str] = []
    for what, old, new in (
        ("subjects", a["subject"]["name"], b["subject"]["name"]),
        ("loop libraries", a["subject"]["backend"], b["subject"]["backend"]),
        ("revisions", a["revision"], b["revision"]),
        ("seeds", a["seed"], b["seed"]),
        ("versions of Python", a["environment"]["python"], b["environment"]["python"]),
    ):
        if old != new:
            said.append(f"the {what} differ: {old} and {new}")
    suites_a, suites_b = a["digests"]["suites"], b["digests"]["suites"]
    if changed := sorted(facet for facet in suites_a if suites_b.get(facet, suites_a[facet]) != suites_a[facet]):
        said.append(f"the rules of {', '.join(changed)} were judged by different code")
    elif a["digests"]["kit"] != b["digests"]["kit"]:
        said.append(f"the kits differ: {a['kit']['version']} and {b['kit']['version']}, or builds of it")
    said += [f"the {which} is partial" for which, one in (("first", a), ("second", b)) if not one["complete"]]
    return said
