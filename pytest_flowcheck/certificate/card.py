"""The terminal card: what a certificate says, on one screen. A pure function from the document to lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.certificate.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MESSAGE_LINES: Final = 4
"""How much of a failure's story the card repeats; the whole of it stands with the item and in the certificate."""

_PLAIN = str.maketrans({"\N{MIDDLE DOT}": "-", "\N{HORIZONTAL ELLIPSIS}": "...", "\N{RIGHTWARDS ARROW}": "->"})


def card(certificate: Mapping[str, Any]) -> list[str]:
    """The card of one subject."""
    subject = certificate["subject"]
    lines = [f"{subject['label']} {subject['version']}", ""]
    claimed = {name: facet for name, facet in certificate["facets"].items() if facet["status"] != "not-claimed"}
    lines += [f"  {_level(name, facet, certificate)}" for name, facet in claimed.items()]
    if unclaimed := sorted(set(certificate["facets"]) - set(claimed)):
        lines.append(f"  facets not claimed: {', '.join(unclaimed)}")
    lines += _capabilities(certificate)
    lines += _not_testable(certificate["rules"])
    lines += _expected(certificate["rules"])
    lines += _problems(certificate)
    return lines


def _level(name: str, facet: Mapping[str, Any], certificate: Mapping[str, Any]) -> str:
    should = facet["should"]
    text = f"{name} \N{MIDDLE DOT} {certificate['revision']} \N{MIDDLE DOT} {facet['passed']}/{facet['total']}"
    if should["total"]:
        text += f" \N{MIDDLE DOT} SHOULD {should['passed']}/{should['total']}"
    if facet["status"] != "passed":
        text += f" \N{MIDDLE DOT} {facet['status'].replace('-', ' ').upper()}"
    not_run = sum(1 for r in certificate["rules"] if r["facet"] == name and r["verdict"] == Verdict.NOT_RUN.value)
    if not_run:
        text += f" ({not_run} NOT-RUN)"
    return text


def _capabilities(certificate: Mapping[str, Any]) -> list[str]:
    claims = certificate["subject"]["claims"]
    missing = {
        capability
        for rule in certificate["rules"]
        if rule["verdict"] == Verdict.NOT_CLAIMED.value and rule["facet"] in claims
        for capability in rule["capability"]
        if capability not in claims[rule["facet"]]
    }
    lines = [f"  capabilities not claimed: {', '.join(sorted(missing))}"] if missing else []
    if seen := certificate["subject"]["unclaimed"]:
        lines.append(f"  unclaimed, but seems to be there: {', '.join(seen)} (claim it, and its rules are judged)")
    return lines


def _not_testable(rules: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        f"  {r['id']} not testable: {_first(r['message'])}" for r in rules if r["verdict"] == Verdict.NOT_TESTABLE.value
    ]


def _expected(rules: Iterable[Mapping[str, Any]]) -> list[str]:
    return [f"  {r['id']} {_first(r['message'])}" for r in rules if r["verdict"] == Verdict.EXPECTED.value]


def _first(message: str) -> str:
    return message.strip().partition("\n")[0]


def _problems(certificate: Mapping[str, Any]) -> list[str]:
    quiet = {Verdict.PASS, Verdict.NOT_CLAIMED, Verdict.NOT_TESTABLE, Verdict.NOT_RUN, Verdict.EXPECTED}
    troubled = [rule for rule in certificate["rules"] if Verdict(rule["verdict"]) not in quiet]
    lines: list[str] = []
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for rule in troubled:
        # one line for a subject that could not be loaded, not one per rule
        same = rule["message"] if rule["verdict"] == Verdict.ADAPTER_ERROR.value else rule["id"]
        groups.setdefault((rule["verdict"], same), []).append(rule)
    for (verdict, _), rules in groups.items():
        lines += ["", *_problem(verdict, rules, certificate["subject"]["asked"])]
    return lines


def _problem(verdict: str, rules: list[Mapping[str, Any]], asked: str) -> list[str]:
    first = rules[0]
    if len(rules) > 1:
        message = first["message"].splitlines()[:MESSAGE_LINES]
        return [
            f"  {verdict} {first['id']} to {rules[-1]['id']} ({len(rules)} rules)",
            *(f"      {line}" for line in message),
        ]
    told = first["message"].removeprefix(f"{first['id']} {first['sentence']}").strip()
    message = _without_history([line for line in told.splitlines() if line.strip()])
    cut = ["..."] if len(message) > MESSAGE_LINES else []
    return [
        f"  {verdict} {first['id']} ({first['level']}) {first['sentence']}",
        *(f"      {line}" for line in (*message[:MESSAGE_LINES], *cut)),
        f"      pytest --flowcheck --flowcheck-subject={asked} --flowcheck-only={first['id']}",
    ]


def _without_history(lines: list[str]) -> list[str]:
    """A story without the events under "In order:": the card says what, expected and why, the item's failure the rest."""
    kept: list[str] = []
    inside = False
    for line in lines:
        inside = line == "In order:" or (inside and line[0] == " ")
        if not inside:
            kept.append(line)
    return kept


def fit(lines: Iterable[str], encoding: str | None) -> list[str]:
    """The same lines in characters that the terminal can show."""
    code = encoding or "ascii"
    fitted: list[str] = []
    for line in lines:
        try:
            line.encode(code)
        except (UnicodeError, LookupError):
            plain = line.translate(_PLAIN)
            fitted.append(plain.encode("ascii", "backslashreplace").decode("ascii"))
        else:
            fitted.append(line)
    return fitted
