"""`report.html`: one page from one or many certificates, in one file that needs nothing else.

The data stands in the page once, as JSON; the page draws the matrix from it, and the details of a cell when it is opened.
What is known of the certificates at a glance, the overview, is written here, so that it stands without scripts as well.

Guarantees: nothing of a certificate is ever markup. The overview escapes it, the JSON holds no `<`, the page's script sets
text and never HTML, and a content security policy that names the hashes of our own script and style forbids all others,
and every request.
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
import shlex
import tempfile
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final, cast

from pytest_flowcheck.certificate.timeline import entries, picture
from pytest_flowcheck.certificate.verdicts import Verdict
from pytest_flowcheck.certificate.waits import graph

TONES: Final = {
    Verdict.PASS: "good",
    Verdict.VIOLATED: "bad",
    Verdict.HUNG: "bad",
    Verdict.CRASHED: "bad",
    Verdict.LEAKED: "bad",
    Verdict.INCONCLUSIVE: "odd",
    Verdict.UNSTABLE: "odd",
    Verdict.ADAPTER_ERROR: "odd",
    Verdict.KIT_ERROR: "odd",
    Verdict.EXPECTED: "known",
    Verdict.NOT_CLAIMED: "none",
    Verdict.NOT_TESTABLE: "none",
    Verdict.NOT_RUN: "none",
}
"""How a verdict looks."""

_STATUS: Final = {
    "failed": "bad",
    "incomplete": "none",
    "nothing-judged": "none",
    "passed": "good",
    "with-expected-failures": "known",
    "not-claimed": "none",
}
_CODES: Final = "PVIHCLNTEUAKR"
"""A letter for each verdict, in their order: a column of the matrix is a string."""


def write(certificates: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Write the page of these certificates to `path`, whole or not at all; returns it.

    Args:
        certificates: as `document.build` makes them, or as read from `certificate.json`; they keep the schema.
        path: of the file. Its folder is made if it isn't there.

    Raises:
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = page(certificates).encode("utf-8", "replace").decode("utf-8")  # a subject may be called anything
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".report-", delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    try:
        return Path(file.name).replace(path)
    except OSError:
        Path(file.name).unlink()
        raise


def page(certificates: Sequence[Mapping[str, Any]]) -> str:
    """The page as text."""
    labels = _labels(certificates)
    style, script = _shipped("page.css"), _shipped("page.js")
    own = f"style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    filled = {
        "POLICY": f"default-src 'none'; {own}; base-uri 'none'; form-action 'none'",
        "STYLE": style,
        "SCRIPT": script,
        "TITLE": _escaped(_title(labels)),
        "SUMMARY": _escaped(_summary(certificates)),
        "OVERVIEW": _overview(certificates, labels),
        "DATA": _harmless(data(certificates)),
    }
    # one pass: what is filled in is never looked at again, whatever it holds
    return re.sub(r"\{\{([A-Z]+)\}\}", lambda found: filled[found[1]], _shipped("page.html"))


def data(certificates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page's script reads. Sentences and reasons stand in it once, however many subjects share them."""
    rules: dict[str, Mapping[str, Any]] = {}
    for certificate in certificates:
        for rule in certificate["rules"]:
            rules.setdefault(rule["id"], rule)
    ordered = sorted(rules.values(), key=lambda rule: (rule["facet"], rule["id"]))
    reasons: dict[str, int] = {"": 0}
    labels = _labels(certificates)
    return {
        "verdicts": {
            code: {"name": verdict.value, "meaning": verdict.meaning, "tone": TONES[verdict]}
            for code, verdict in zip(_CODES, Verdict, strict=True)
        },
        "rules": [[rule["id"], rule["facet"], rule["sentence"], rule["capability"]] for rule in ordered],
        "subjects": [
            _subject(certificate, label, [rule["id"] for rule in ordered], reasons)
            for certificate, label in zip(certificates, labels, strict=True)
        ],
        "reasons": list(reasons),
    }


def _subject(certificate: Mapping[str, Any], label: str, ids: Sequence[str], reasons: dict[str, int]) -> dict[str, Any]:
    subject, environment = certificate["subject"], certificate["environment"]
    entries = {rule["id"]: rule for rule in certificate["rules"]}
    code = dict(zip((verdict.value for verdict in Verdict), _CODES, strict=True))
    cells: list[str] = []
    why: list[int] = []
    details: dict[str, Any] = {}
    for rule_id in ids:
        entry = entries.get(rule_id)
        if entry is None:  # another revision's
            cells.append(code["NOT-RUN"] + "Mo")
            why.append(reasons.setdefault("the certificate's revision does not have this rule", len(reasons)))
            continue
        cells.append(code[entry["verdict"]] + entry["level"][0] + entry["grade"][0])
        if entry["verdict"] == Verdict.PASS.value or TONES[Verdict(entry["verdict"])] == "none":
            why.append(reasons.setdefault(entry["message"], len(reasons)))
        else:
            why.append(0)
            details[rule_id] = _details(entry, subject["asked"], certificate["seed"])
    return {
        "label": label,
        "version": _version(certificate, label),
        "revision": certificate["revision"],
        "facts": [
            ["version", subject["version"]],
            ["asked for as", subject["asked"]],
            ["loaded from", subject["spec"]],
            ["event loop", subject["backend"]],
            ["kit", certificate["kit"]["version"]],
            ["rules", certificate["revision"]],
            ["Python", f"{environment['implementation']} {environment['python']}"],
            ["platform", f"{environment['platform']}, {environment['cpus']} CPUs"],
            ["seed", str(certificate["seed"])],
        ],
        "claims": subject["claims"],
        "unclaimed": subject["unclaimed"],
        "facets": {
            name: [facet["status"], facet["passed"], facet["total"]] for name, facet in certificate["facets"].items()
        },
        "cells": "".join(cells),
        "why": why,
        "details": details,
    }


def _details(entry: Mapping[str, Any], asked: str, seed: int) -> dict[str, Any]:
    """What the page shows of a rule that is not simply kept: no more of the evidence than it draws."""
    evidence: Mapping[str, Any] = entry["evidence"]
    if isinstance(first := evidence.get("first"), dict):  # of an UNSTABLE rule
        evidence = cast("dict[str, Any]", first)
    seeded = f" --flowcheck-seed={seed}" if seed else ""
    shown: dict[str, Any] = {
        "seconds": entry["seconds"],
        "reproduce": f"pytest --flowcheck --flowcheck-subject={shlex.quote(asked)} --flowcheck-only={entry['id']}{seeded}",
    }
    if story := evidence.get("story"):
        facts = str(story["facts"])
        if "crash" in evidence:  # shown beside it
            facts = facts.partition(" It had come so far when")[0]
        shown["story"] = {**story, "facts": facts}
    if not shown.get("story") or entry["verdict"] in {Verdict.UNSTABLE.value, Verdict.EXPECTED.value}:
        shown["message"] = entry["message"]
    if (drawn := picture(evidence)) is not None:
        shown["picture"] = drawn.to_json()
    elif events := entries(evidence.get("events")):
        shown["notes"] = [str(event.get("probe", "")) for event in events[-40:]]
    if (waits := graph(evidence)) is not None:
        shown["waits"] = waits.to_json()
    if example := evidence.get("example"):
        shown["example"] = table(str(example))
    for key in ("crash", "schedule", "script", "uncaught", "observed_because", "because_of"):
        if evidence.get(key):
            shown[key] = evidence[key]
    if "schedule" in shown:
        shown.pop("example", None)  # the same in words
    return shown


def table(example: str) -> dict[str, Any]:
    """An example as a table: the lines in columns (two blanks apart) below their heading, and the lines before them.

    Without columns each line is a row: a step of the scenario. Steps that are numbered lose their numbers, which the page
    writes anew.
    """
    lines = [line.rstrip() for line in example.splitlines() if line.strip()]
    begin = next((n for n, line in enumerate(lines) if line.strip().startswith("1. ")), len(lines))
    if len(lines) > begin + 1 and all(re.match(r"\d+\. ", line.strip()) for line in lines[begin:]):
        return {"before": lines[:begin], "head": [], "rows": [[line.partition(". ")[2]] for line in lines[begin:]]}
    split = [re.split(r"\s{2,}", line.strip()) for line in lines]
    head = next((n for n, cells in enumerate(split) if len(cells) > 1), len(lines))
    rows = split[head:]
    if len(rows) < 2 or any(not 1 < len(cells) <= len(rows[0]) for cells in rows):
        return {"before": [], "head": [], "rows": [[line.strip()] for line in lines]}
    return {"before": lines[:head], "head": rows[0], "rows": rows[1:]}


# --- at a glance -------------------------------------------------------------------------------------------------------


def _labels(certificates: Iterable[Mapping[str, Any]]) -> list[str]:
    """One for each certificate, no two alike: of two releases of a subject, the version tells them apart."""
    certificates = list(certificates)
    plain = [str(c["subject"]["label"]) for c in certificates]
    versions = [
        f"{label} {c['subject']['version']}" if plain.count(label) > 1 else label
        for label, c in zip(plain, certificates, strict=True)
    ]
    return [
        f"{label} ({versions[: n + 1].count(label)})" if versions.count(label) > 1 else label
        for n, label in enumerate(versions)
    ]


def _version(certificate: Mapping[str, Any], label: str) -> str:
    """The version where the label does not say it."""
    subject = certificate["subject"]
    return str(subject["version"]) if label == subject["label"] else ""


def _title(labels: Sequence[str]) -> str:
    some = ", ".join(labels[:3])
    return f"flowcheck: {some}{f' and {len(labels) - 3} more' if len(labels) > 3 else ''}"


def state(certificate: Mapping[str, Any]) -> tuple[str, str]:
    """What a certificate says in one word, and its tone."""
    statuses = [facet["status"] for facet in certificate["facets"].values() if facet["status"] != "not-claimed"]
    verdicts = {rule["verdict"] for rule in certificate["rules"]}
    if Verdict.KIT_ERROR.value in verdicts:
        return "KIT ERROR", "odd"
    worst = (("failed", "FAILED"), ("incomplete", "PARTIAL"), ("with-expected-failures", "KNOWN FAILURES"))
    for status, word in worst:
        if status in statuses:
            return word, _STATUS[status]
    return ("PASSED", "good") if "passed" in statuses else ("NOTHING JUDGED", "none")


def _summary(certificates: Sequence[Mapping[str, Any]]) -> str:
    """What is so, in one line."""
    if len(certificates) == 1:
        (only,) = certificates
        return f"{only['subject']['label']} {only['subject']['version']}: {_verdict(only)}"
    words = [state(certificate)[0].lower() for certificate in certificates]
    told = [
        word
        for word in ("passed", "known failures", "failed", "partial", "nothing judged", "kit error")
        if word in words
    ]
    return f"{len(certificates)} subjects: {', '.join(f'{words.count(word)} {word}' for word in told)}"


def _verdict(certificate: Mapping[str, Any]) -> str:
    judged = [rule for rule in certificate["rules"] if Verdict(rule["verdict"]).judged]
    must = [rule for rule in judged if rule["level"] == "MUST"]
    kept = sum(rule["verdict"] == Verdict.PASS.value for rule in must)
    low = sum(rule["verdict"] != Verdict.PASS.value for rule in judged) - (len(must) - kept)
    not_run = certificate["accounting"]["verdicts"].get(Verdict.NOT_RUN.value, 0)
    return (
        f"{kept} of {len(must)} MUST rules kept"
        + (f", {low} SHOULD not" if low else "")
        + (f"; {not_run} not run, so this is no whole certificate" if not_run else "")
    )


def _overview(certificates: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    """The table of subjects, as HTML."""
    claimed = sorted({n for c in certificates for n, facet in c["facets"].items() if facet["status"] != "not-claimed"})
    head = "".join(f'<th scope="col">{_escaped(facet)}</th>' for facet in claimed)
    rows: list[str] = []
    for number, (certificate, label) in enumerate(zip(certificates, labels, strict=True)):
        word, tone = state(certificate)
        wrong = _wrong(certificate, number, 12 if len(certificates) <= 8 else 4)
        cells = "".join(_level(facet, certificate["facets"].get(facet)) for facet in claimed)
        rows.append(
            f'<tr><th scope="row"><button type="button" class="subject" data-subject="{number}">{_escaped(label)}</button>'
            f' <span class="version">{_escaped(_version(certificate, label))}</span></th>'
            f'<td><span class="word {tone}">{word}</span></td><td class="wrong">{wrong}</td>{cells}</tr>'
        )
    return (
        f'<table><caption class="unseen">Subjects</caption><thead><tr><th scope="col">subject</th><th scope="col">result'
        f'</th><th scope="col">not kept</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _level(name: str, facet: Mapping[str, Any] | None) -> str:
    if facet is None or facet["status"] == "not-claimed":
        return '<td class="none"><span aria-label="not claimed">\N{EN DASH}</span></td>'
    should = facet["should"]
    low = should["passed"] < should["total"]
    extra = f'<small class="{"low" if low else ""}">SHOULD {should["passed"]}/{should["total"]}</small>'
    partial = "<small>partial</small>" if facet["status"] == "incomplete" else ""
    return (
        f'<td data-facet="{_escaped(name)}"><span class="level {_STATUS[facet["status"]]}">{facet["passed"]}/{facet["total"]}'
        f"</span>{extra if should['total'] else ''}{partial}</td>"
    )


def _wrong(certificate: Mapping[str, Any], number: int, most: int) -> str:
    """A button for each rule that does not simply hold; MUSTs first."""
    wrong = [rule for rule in certificate["rules"] if TONES[Verdict(rule["verdict"])] in {"bad", "odd", "known"}]
    wrong.sort(key=lambda rule: (rule["level"] != "MUST", rule["id"]))
    shown = [
        f'<button type="button" class="rule {tone(rule)}" data-subject="{number}" data-rule="{_escaped(rule["id"])}">'
        f"{_escaped(rule['id'])} <small>{_escaped(_short(rule))}</small></button>"
        for rule in wrong[:most]
    ]
    more = f"<small>and {len(wrong) - most} more</small>" if len(wrong) > most else ""
    not_run = certificate["accounting"]["verdicts"].get(Verdict.NOT_RUN.value, 0)
    partial = f"<small>{not_run} NOT-RUN</small>" if not_run else ""
    return " ".join([*shown, more, partial]).strip() or "<small>nothing</small>"


def _short(rule: Mapping[str, Any]) -> str:
    return rule["verdict"] if rule["level"] == "MUST" else f"SHOULD {rule['verdict']}"


def tone(rule: Mapping[str, Any]) -> str:
    """How a rule of a certificate looks: a SHOULD that is not kept is no failure."""
    plain = TONES[Verdict(rule["verdict"])]
    return "soft" if plain == "bad" and rule["level"] == "SHOULD" else plain


# --- harmless ----------------------------------------------------------------------------------------------------------


def _escaped(text: object) -> str:
    return html.escape(str(text))


def _harmless(value: object) -> str:
    """JSON that can stand in a `script` element: it has no `<`, so nothing in it ends the element or begins a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _shipped(name: str) -> str:
    return resources.files("pytest_flowcheck.certificate").joinpath("page", name).read_text(encoding="utf-8")
