"""Write the compatibility page, `docs/reference/compatibility.md`, from certificates of other people's releases.

python docs/compatibility.py certificates    # what `python tests/world.py` wrote; gathers it, and writes the page
python docs/compatibility.py                 # writes the page from what was gathered
python docs/compatibility.py --check         # says whether the page is out of date; exit 1 if it is

What was gathered stands in `docs/compatibility.json`: verdicts and, of what fails, the first facts; the certificates
themselves are some megabytes.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytest_flowcheck.certificate import document
from pytest_flowcheck.certificate.verdicts import Verdict
from pytest_flowcheck.rules import bundled_rules

HERE = Path(__file__).parent
GATHERED = HERE / "compatibility.json"
PAGE = HERE / "reference" / "compatibility.md"
NOTE = "<!-- written by docs/compatibility.py from certificates: certify, then run it -->"
WORDS = {Verdict.PASS: "ok", Verdict.NOT_CLAIMED: "", Verdict.NOT_TESTABLE: "n/t", Verdict.INCONCLUSIVE: "?"}
"""In a cell; other verdicts stand there whole, in bold."""


def gather(folder: Path) -> list[dict[str, Any]]:
    """What the certificates below a folder say, a column for each, sorted by subject and release."""
    columns = [_column(document.read(path)) for path in sorted(folder.rglob("certificate.json"))]
    return sorted(columns, key=lambda column: (column["label"], _number(column["version"]), column["python"]))


def _column(certificate: dict[str, Any]) -> dict[str, Any]:
    subject = certificate["subject"]
    judged = [rule for rule in certificate["rules"] if rule["facet"] in subject["claims"]]
    return {
        "label": subject["label"],
        "version": subject["version"],
        "python": certificate["environment"]["python"],
        "day": certificate["judged_at"][:10],
        "kit": certificate["kit"]["version"],
        "revision": certificate["revision"],
        "levels": {
            facet: f"{score['passed']}/{score['total']}"
            for facet, score in certificate["facets"].items()
            if facet in subject["claims"]
        },
        "verdicts": {rule["id"]: rule["verdict"] for rule in judged},
        "facts": {rule["id"]: _fact(rule) for rule in judged if Verdict(rule["verdict"]).broken},
    }


_FOLDERS = re.compile(r"(?<![\w.])/(?:[\w.+@-]+/)+(?=[\w.-]+\.py\b)")


def _number(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def _fact(rule: dict[str, Any]) -> str:
    """What it did, in a sentence or two."""
    told = rule["message"].removeprefix(f"{rule['id']} {rule['sentence']}").strip()
    fact = " ".join(told.partition("\n\n")[0].removeprefix("What it did:").split())
    fact = _FOLDERS.sub("", fact)  # of the machine that certified; the file's name is enough
    return fact if len(fact) <= 240 else fact[:237].rsplit(" ", 1)[0] + " ..."


_FOREWORD = (
    "What released software keeps of the rules, certified {when} with pytest-flowcheck {kits} (rules {revisions}) on Linux, "
    "through the [bundled adapters](bundled-adapters.md). A release is judged as it came from its index; an adapter claims "
    "only what it offers. `python tests/world.py` repeats all of it."
)
_LEGEND = (
    "`ok`: the rule holds. **VIOLATED**, **HUNG**, **LEAKED**, **CRASHED**: it does not, with proof; what happened stands "
    "below the table. `?`: undecided, most often because the rule needs one that fails. `n/t`: can't be asked in the "
    "subject's own terms. Empty: not claimed. Rules in italics are SHOULDs. Each verdict's whole story is in the certificate."
)


def _all(columns: list[dict[str, Any]], key: str) -> str:
    return ", ".join(sorted({column[key] for column in columns}))


def page(columns: list[dict[str, Any]]) -> str:
    """The page."""
    days = sorted({column["day"] for column in columns})
    when = f"on {days[0]}" if len(days) == 1 else f"from {days[0]} to {days[-1]}"
    lines = [
        NOTE,
        "",
        "# Compatibility",
        "",
        _FOREWORD.format(when=when, kits=_all(columns, "kit"), revisions=_all(columns, "revision")),
        "",
        _LEGEND,
        "",
    ]
    by_facet: dict[str, list[str]] = {}
    for rule in bundled_rules():
        by_facet.setdefault(rule.facet, []).append(rule.id)
    for facet, rules in sorted(by_facet.items()):
        judged = [column for column in columns if facet in column["levels"]]
        lines += _facet(facet, rules, judged) if judged else []
    return "\n".join(lines).rstrip() + "\n"


def _facet(facet: str, rules: list[str], columns: list[dict[str, Any]]) -> Iterable[str]:
    levels = {rule.id: rule.level for rule in bundled_rules()}
    yield from (f"## {facet}", "", f"[The rules of {facet}](../spec/{facet}.md)", "")
    yield "| | " + " | ".join(f"{column['label']}<br>{column['version']}" for column in columns) + " |"
    yield "|---|" + "---|" * len(columns)
    yield "| **MUST** | " + " | ".join(f"**{column['levels'][facet]}**" for column in columns) + " |"
    for rule in rules:
        cells = [_cell(column["verdicts"].get(rule, Verdict.NOT_CLAIMED.value)) for column in columns]
        if any(cells):
            name = rule if levels[rule] == "MUST" else f"*{rule}*"
            yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    for column in columns:
        facts = {rule: fact for rule, fact in column["facts"].items() if rule in rules}
        if facts:
            yield from (f"**{column['label']} {column['version']}** (Python {column['python']})", "")
            yield from (f"- {rule} {column['verdicts'][rule]}: {_escaped(fact)}" for rule, fact in facts.items())
            yield ""


def _cell(verdict: str) -> str:
    return WORDS.get(Verdict(verdict), f"**{verdict}**")


def _escaped(text: str) -> str:
    """As it is, whatever Markdown would read into it."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|$~" else letter for letter in text)


def main(arguments: list[str]) -> int:
    """The exit status."""
    if arguments and arguments != ["--check"]:
        columns = gather(Path(arguments[0]))
        if not columns:
            sys.stderr.write(
                f"no certificate.json below {arguments[0]}: run `python tests/world.py {arguments[0]}` first\n"
            )
            return 1
        GATHERED.write_text(json.dumps(columns, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = page(json.loads(GATHERED.read_text(encoding="utf-8")))
    if arguments == ["--check"]:
        stale = not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text
        if stale:
            sys.stderr.write(f"{PAGE.relative_to(HERE.parent)} is out of date: run `python docs/compatibility.py`\n")
        return int(stale)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
