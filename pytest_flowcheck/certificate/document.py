"""`certificate.json`: one subject's account as a document that outlives the run. `schema.json` beside this says its form."""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_flowcheck.certificate.verdicts import Verdict
from pytest_flowcheck.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_flowcheck.certificate.accounting import Account

SCHEMA: Final = 1
"""The version of the document's form. Raised when a reader of the old form would misread the new one."""


def build(
    *,
    account: Account,
    subject: Mapping[str, Any],
    claims: Mapping[str, Iterable[str]] | None,
    seed: int,
    kit: str,
    revision: str,
    packages: Mapping[str, str],
) -> dict[str, Any]:
    """The certificate of one subject.

    Args:
        account: every rule with its finding.
        subject: `name`, `version`, `spec`, `asked`, `label`, `backend` and `unclaimed`.
        claims: facet -> capabilities; None if it could not be loaded.
        seed: of the drawn scenarios.
        kit: the kit's version.
        revision: of the rules.
        packages: distribution -> version, of what may matter to the outcome.
    """
    rules = [
        {
            "id": rule.id,
            "facet": rule.facet,
            "level": finding.level,
            "capability": sorted(rule.capabilities),
            "sentence": rule.sentence,
            "verdict": finding.verdict.value,
            "grade": finding.grade,
            "seconds": finding.seconds,
            "message": finding.message,
            "evidence": finding.evidence,
        }
        for rule, finding in account.rules
    ]
    counts = account.counts
    return {
        "schema": SCHEMA,
        "kit": {"name": "pytest-flowcheck", "version": kit},
        "revision": revision,
        "subject": {**subject, "claims": {facet: sorted(claimed) for facet, claimed in sorted((claims or {}).items())}},
        "environment": {**environment(), "packages": dict(sorted(packages.items()))},
        "seed": seed,
        "complete": Verdict.NOT_RUN.value not in counts,
        "facets": {facet: _facet([r for r in rules if r["facet"] == facet]) for facet in _facets(rules)},
        "accounting": {"rules": len(rules), "verdicts": counts},
        "rules": rules,
    }


def environment() -> dict[str, Any]:
    """Where it was judged."""
    usable = getattr(os, "sched_getaffinity", None)
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": len(usable(0)) if usable is not None else os.cpu_count() or 1,
    }


def _facets(rules: list[dict[str, Any]]) -> list[str]:
    return sorted({cast("str", rule["facet"]) for rule in rules})


def _facet(rules: list[dict[str, Any]]) -> dict[str, Any]:
    """n/N of the claimed, testable MUSTs, the SHOULDs beside them, and one word."""
    must, should = (_score(rules, level) for level in ("MUST", "SHOULD"))
    return {"status": _status(rules, must), **must, "should": should}


def _score(rules: list[dict[str, Any]], level: str) -> dict[str, int]:
    counted = [r["verdict"] for r in rules if r["level"] == level and r["verdict"] not in _UNCOUNTED]
    return {"passed": counted.count(Verdict.PASS.value), "total": len(counted)}


_UNCOUNTED = {Verdict.NOT_CLAIMED.value, Verdict.NOT_TESTABLE.value}


def _status(rules: list[dict[str, Any]], must: Mapping[str, int]) -> str:
    verdicts = {r["verdict"] for r in rules}
    if all("facet not claimed" in r["message"] for r in rules):
        return "not-claimed"
    if any(Verdict(r["verdict"]).fails(r["level"]) for r in rules):
        return "failed"
    if Verdict.NOT_RUN.value in verdicts:
        return "incomplete"
    if Verdict.EXPECTED.value in verdicts:
        return "with-expected-failures"
    return "passed" if must["total"] else "nothing-judged"


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every certificate of this kit keeps."""
    text = resources.files("pytest_flowcheck.certificate").joinpath("schema.json").read_text(encoding="utf-8")
    return cast("dict[str, Any]", json.loads(text))


# --- on disk --------------------------------------------------------------------------------------------------------


def require_writable(folder: Path) -> None:
    """Make the folder and really write to it: permissions alone tell a superuser nothing.

    Raises:
        UsageError: it can't be made, or nothing can be written to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"flowcheck")
    except OSError as error:
        raise UsageError(f"--flowcheck-report: can't write to {str(folder)!r}: {error.strerror or error}") from error


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """A folder name for each label, unique and harmless on every file system."""
    names: dict[str, str] = {}
    for label in labels:
        safe = re.sub(r"[^\w.@+-]+", "-", label, flags=re.ASCII).strip("-.") or "subject"
        name, number = safe, 2
        while name.lower() in {taken.lower() for taken in names.values()}:
            name, number = f"{safe}-{number}", number + 1
        names[label] = name
    return names


def write(certificate: Mapping[str, Any], folder: Path) -> Path:
    """Write `folder/certificate.json` whole or not at all; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_whole(folder / "certificate.json", json.dumps(certificate, indent=1, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> Path:
    """Write a file whole or not at all, also where a kill or a power loss comes between. Raises: OSError."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.stem}-", delete=False
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
    return path
