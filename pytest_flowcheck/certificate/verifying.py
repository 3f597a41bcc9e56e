"""Is a certificate what it says? Its arithmetic, its digests, and what of them can be compared with the kit installed here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pytest_flowcheck.certificate import digests, document
from pytest_flowcheck.certificate.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_flowcheck.rules import Rule


@dataclass(frozen=True)
class Check:
    """One question to a certificate. `holds`: None where nobody can tell here."""

    about: Literal["form", "arithmetic", "digests", "kit", "revision", "rules", "suites"]
    holds: bool | None
    says: str


UNKNOWABLE = (
    "that the run took place, and who wrote this: digests are no signature",
    "that the subject of this name and version is the one you have: certify yours by the same kit and seed, and `diff` the two",
)
"""What no look at a certificate can tell."""


def verify(found: Mapping[str, Any]) -> list[Check]:
    """Every check on a certificate as `document.load` gave it, in the form that it has on disk.

    A check fails where the document contradicts itself, or names a kit, revision or suite that is installed here and is not
    what it says.
    """
    checks = [Check("form", True, f"form {found['schema']}, every field as the schema has it")]
    wrong = list(_arithmetic(found))
    counted = f"{len(found['rules'])} rules, each exactly once; verdicts, facets and completeness follow from them"
    checks += [Check("arithmetic", False, line) for line in wrong] or [Check("arithmetic", True, counted)]
    checks += _seals(found)
    checks += _against_this_kit(found)
    return checks


def _arithmetic(found: Mapping[str, Any]) -> Iterator[str]:
    rules: list[dict[str, Any]] = found["rules"]
    if twice := sorted(rule for rule, times in Counter(rule["id"] for rule in rules).items() if times > 1):
        yield f"listed more than once: {', '.join(twice)}"
    if found["accounting"]["rules"] != len(rules):
        yield f"it says {found['accounting']['rules']} rules, and lists {len(rules)}"
    counts = Counter(rule["verdict"] for rule in rules)
    said = found["accounting"]["verdicts"]
    for verdict in sorted({*counts, *said}):
        if counts[verdict] != said.get(verdict, 0):
            yield f"it says {said.get(verdict, 0)} {verdict}, and lists {counts[verdict]}"
    if found["complete"] != (Verdict.NOT_RUN.value not in counts):
        yield f"it says that it is {'complete' if found['complete'] else 'partial'}, and has {counts['NOT-RUN']} NOT-RUN"
    scores = document.scores([{**rule, **found["run"]["rules"][rule["id"]]} for rule in rules])
    for facet in sorted({*scores, *found["facets"]}):
        if scores.get(facet) != found["facets"].get(facet):
            yield f"{facet}: it says {_score(found['facets'].get(facet))}, and its rules come to {_score(scores.get(facet))}"
    for rule in rules:
        judged = Verdict(rule["verdict"])
        if (judged.broken or judged is Verdict.INCONCLUSIVE) and not found["run"]["rules"][rule["id"]]["message"]:
            yield f"{rule['id']} is {rule['verdict']}, and nothing is told of why"


def _score(facet: Mapping[str, Any] | None) -> str:
    return "nothing" if facet is None else f"{facet['passed']}/{facet['total']} {facet['status']}"


def _seals(found: Mapping[str, Any]) -> Iterator[Check]:
    lasting, run = digests.of_lasting(found), digests.of_run(found["run"])
    for which, said, computed in (
        ("what was found", found["digests"]["certificate"], lasting),
        ("how it came about (`run`)", found["run"]["digest"], run),
    ):
        if said == computed:
            yield Check("digests", True, f"{which}: {short(said)}, as it says")
        else:
            yield Check("digests", False, f"{which} was altered: it says {short(said)}, and comes to {short(computed)}")


def _against_this_kit(found: Mapping[str, Any]) -> Iterator[Check]:
    from pytest_flowcheck import __version__
    from pytest_flowcheck.rules import REVISION, bundled_rules

    rules = bundled_rules()
    said, version = found["digests"], found["kit"]["version"]
    if said["kit"] == digests.kit():
        yield Check("kit", True, f"pytest-flowcheck {version}, byte for byte the one installed here")
    elif version == __version__:
        yield Check(
            "kit", False, f"it says {version}, which is installed here and is not the same: one of the two was altered"
        )
    else:
        yield Check("kit", None, f"it says {version}; installed here is {__version__}: install that one to compare")
    if found["revision"] != REVISION:
        yield Check("revision", None, f"it says {found['revision']}; the kit installed here judges by {REVISION}")
        return
    frozen = "" if not REVISION.endswith(".dev") else ", which is not frozen yet"
    own = [rule for rule in rules if rule.facet in {entry["facet"] for entry in found["rules"]}]
    if wrong := list(_texts(found, rules)):
        yield Check("revision", False, f"{REVISION}{frozen}: {'; '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}")
    else:
        yield Check("revision", True, f"{REVISION}{frozen}: {len(own)} rules ask what they ask here")
    ours = digests.of_rules(rules)["suites"]
    for facet, digest in sorted(said["suites"].items()):
        if facet not in ours:
            yield Check("suites", None, f"{facet} is no facet of this kit: nothing here can tell")
        elif ours[facet] != digest:
            yield Check(
                "suites", False, f"{facet} was judged by other code than stands in the suite that is installed here"
            )


def _texts(found: Mapping[str, Any], rules: list[Rule]) -> Iterator[str]:
    """What certificate and kit say differently of the rules; a third party's facets are left out."""
    listed: list[dict[str, Any]] = found["rules"]
    known = {rule.id: rule for rule in rules}
    facets = {rule.facet for rule in rules}
    for entry in listed:
        rule = known.get(entry["id"])
        if entry["facet"] in facets and (rule is None or rule.facet != entry["facet"]):
            yield f"{entry['id']} is no rule of {entry['facet']}"
        elif rule is not None and (
            rule.sentence != entry["sentence"] or sorted(rule.capabilities) != entry["capability"]
        ):
            yield f"{entry['id']} asks something else here"
        elif rule is not None and entry["level"] != (level := _level(rule, found["subject"]["claims"])):
            yield f"{entry['id']} is a {level} for these claims, and it says {entry['level']}"
    if missing := sorted(set(known) - {entry["id"] for entry in listed}):
        yield f"it lacks {', '.join(missing)}"


def _level(rule: Rule, claims: Mapping[str, list[str]]) -> str:
    level = rule.level_for(claims.get(rule.facet, ()))
    return "SHOULD" if level == "exempt" else level


def short(digest: str) -> str:
    """The first twelve digits, for people to read."""
    return digest.removeprefix("sha256:")[:12]
