"""Certificates and comparisons as GitHub-flavoured Markdown: for the summary of a CI job, or an issue.

A certificate may come from anywhere, so all of its text is escaped: it can neither link anything nor mention anybody, and
marks up nothing but the code and the emphasis in a rule's own sentence.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.certificate import policy
from pytest_flowcheck.certificate.comparing import CHANGES
from pytest_flowcheck.certificate.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_flowcheck.certificate.comparing import Comparison

MOST_ROWS: Final = 40
"""Rules that are listed by name; a job's summary may hold 1 MiB."""

_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~<>&$@]|:(?=//)|(?<=www)\.)", re.IGNORECASE)
"""What marks text up, links it (`https://`, `www.`, `#1`) or mentions somebody."""


def plain(text: object) -> str:
    """A text in one line in which nothing is marked up, linked or mentioned."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return _SPECIAL.sub(lambda match: f"&#{ord(match[1])};", line)


_MARKED = re.compile(r"`([^`]+)`|(?<![\w*])\*([A-Za-z](?:[^*`]*[^*`\s])?)\*(?![\w*])")


def marked(text: object) -> str:
    """The same of a rule's sentence, with its `code` and its *emphasis* as such."""
    line, made, end = str(text), "", 0
    for found in _MARKED.finditer(line):
        tag, inner = ("code", found[1]) if found[1] else ("em", found[2])
        before = line[end : found.start()]
        made += f"{_spaced(before)}<{tag}>{plain(inner)}</{tag}>"
        end = found.end()
    return (made + _spaced(line[end:])).strip()


def _spaced(text: str) -> str:
    """Plain, with the blanks at its ends, where something else stands beside it."""
    return f"{' ' * text[:1].isspace()}{plain(text)}{' ' * text[-1:].isspace()}" if text.strip() else " " * bool(text)


def summary(certificates: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A table of subjects and facets, and below it what each does not keep."""
    yield "### flowcheck"
    yield ""
    yield "| subject | version | facet | MUST | SHOULD | |"
    yield "|---|---|---|---|---|---|"
    for certificate in certificates:
        subject = certificate["subject"]
        claimed = {name: facet for name, facet in certificate["facets"].items() if facet["status"] != "not-claimed"}
        for name, facet in claimed.items():
            should = facet["should"]
            cells = (
                plain(subject["label"]),
                plain(subject["version"]),
                f"{plain(name)} {plain(certificate['revision'])}",
                f"{facet['passed']}/{facet['total']}",
                f"{should['passed']}/{should['total']}",
                _word(facet, certificate, name),
            )
            yield f"| {' | '.join(cells)} |"
    yield ""
    for certificate in certificates:
        yield from _failures(certificate)
    _, line = policy.decide(certificates)
    yield plain(line)


def _word(facet: Mapping[str, Any], certificate: Mapping[str, Any], name: str) -> str:
    untested = sum(1 for r in certificate["rules"] if r["facet"] == name and r["verdict"] == Verdict.NOT_TESTABLE.value)
    status = "**failed**" if facet["status"] == "failed" else plain(facet["status"].replace("-", " "))
    return f"{status}, {untested} not testable" if untested else status


def _failures(certificate: Mapping[str, Any]) -> Iterator[str]:
    failed = [rule for rule in certificate["rules"] if Verdict(rule["verdict"]).fails(rule["level"])]
    if not failed:
        return
    yield f"<details><summary>{plain(certificate['subject']['label'])}: {len(failed)} not kept</summary>"
    yield ""
    yield "| rule | verdict | it asks | what it did |"
    yield "|---|---|---|---|"
    for rule in failed[:MOST_ROWS]:
        yield f"| {rule['id']} | {rule['verdict']} | {marked(rule['sentence'])} | {plain(what_it_did(rule['message']))} |"
    if len(failed) > MOST_ROWS:
        yield f"| | | and {len(failed) - MOST_ROWS} more | |"
    yield ""
    yield "</details>"
    yield ""


def what_it_did(message: str) -> str:
    """The facts of a failure's story: the part behind "What it did:", or its first line."""
    for line in message.splitlines():
        if line.startswith("What it did:"):
            return line.partition(":")[2].strip()
    return message.strip().partition("\n")[0]


def comparison(found: Comparison) -> Iterator[str]:
    """What changed, as a table for each kind of change."""
    yield f"### {plain(heading(found))}"
    yield ""
    yield from (f"> {plain(line)}" for line in found.beware)
    if found.beware:
        yield ""
    for change, meaning in CHANGES.items():
        lines = found.of(change)
        if not lines:
            continue
        yield f"**{len(lines)} {change}**: {meaning}"
        yield ""
        yield "| rule | before | now | it asks |"
        yield "|---|---|---|---|"
        for line in lines[:MOST_ROWS]:
            yield f"| {line.rule} ({line.level}) | {line.before} | {line.after} | {marked(line.sentence)} |"
        if len(lines) > MOST_ROWS:
            yield f"| and {len(lines) - MOST_ROWS} more | | | |"
        yield ""
    yield plain(unchanged(found))


def heading(found: Comparison) -> str:
    """Who is compared, in one line."""
    a, b = found.a["subject"], found.b["subject"]
    if a["label"] == b["label"]:
        return f"{a['label']}: {a['version']} and {b['version']}"
    return f"{a['label']} {a['version']} and {b['label']} {b['version']}"


def unchanged(found: Comparison) -> str:
    """How many rules read the same in both, in one line."""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in _in_order(found.same))
    return f"unchanged: {counts or 'none'}"


def _in_order(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    return ((verdict.value, counts[verdict.value]) for verdict in Verdict if verdict.value in counts)
