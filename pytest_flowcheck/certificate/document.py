"""`certificate.json`: one subject's account as a document that outlives the run. `schema.json` beside this says its form.

On disk all that varies between two runs stands in one place, `run`: times, the machine, and each rule's story. The rest is the
same, byte for byte, whenever the same kit judges the same subject with the same seed and the same verdicts come out. In memory,
from `build` and from `read`, each rule has its story with it.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import tempfile
from datetime import UTC, datetime
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_flowcheck.certificate import digests
from pytest_flowcheck.certificate.verdicts import Verdict
from pytest_flowcheck.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_flowcheck.certificate.accounting import Account

SCHEMA: Final = 2
"""The version of the document's form. Raised when a reader of the old form would misread the new one."""

STORY: Final = ("seconds", "message", "evidence")
"""What of a rule's entry varies between two runs: on disk it stands below `run.rules`."""

MOST_BYTES: Final = 64 * 2**20
"""No certificate is larger; what is, is not read into memory."""


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
        "digests": digests.of_rules(rule for rule, _ in account.rules),
        "subject": {**subject, "claims": {facet: sorted(claimed) for facet, claimed in sorted((claims or {}).items())}},
        "judged_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": {**environment(), "packages": dict(sorted(packages.items()))},
        "seed": seed,
        "complete": Verdict.NOT_RUN.value not in counts,
        "facets": scores(rules),
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


def scores(rules: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the rules of each facet come to, by facet."""
    facets = sorted({cast("str", rule["facet"]) for rule in rules})
    return {facet: _facet([rule for rule in rules if rule["facet"] == facet]) for facet in facets}


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


def parted(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """A certificate as it is written: what varies between two runs in one place, and digests of both parts."""
    moved = {"judged_at", "environment", "rules"}
    run: dict[str, Any] = {
        "judged_at": certificate["judged_at"],
        "environment": certificate["environment"],
        "rules": {rule["id"]: {part: _plain(rule[part]) for part in STORY} for rule in certificate["rules"]},
    }
    document = {
        **{key: value for key, value in certificate.items() if key not in moved},
        "rules": [{key: value for key, value in rule.items() if key not in STORY} for rule in certificate["rules"]],
    }
    by = {name: digest for name, digest in certificate["digests"].items() if name not in {"certificate", "run"}}
    document["digests"] = {**by, "certificate": digests.of_lasting({**document, "digests": by})}
    document["run"] = {**run, "digest": digests.of_run(run)}
    return document


def _plain(value: Any) -> Any:
    """Without the floats that JSON has no words for: a subject's nan must not cost the certificate."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in cast("dict[str, Any]", value).items()}
    return list(map(_plain, cast("Iterable[Any]", value))) if isinstance(value, list) else value


def joined(document: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `parted`; the digests of the two parts stay, both in `digests`."""
    run = document["run"]
    return {
        **{key: value for key, value in document.items() if key != "run"},
        "digests": {**document["digests"], "run": run["digest"]},
        "judged_at": run["judged_at"],
        "environment": run["environment"],
        "rules": [{**rule, **run["rules"][rule["id"]]} for rule in document["rules"]],
    }


def write(certificate: Mapping[str, Any], folder: Path) -> Path:
    """Write `folder/certificate.json` whole or not at all; returns its path."""
    document = parted(certificate)
    folder.mkdir(parents=True, exist_ok=True)
    return write_whole(folder / "certificate.json", json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def write_whole(path: Path, text: str) -> Path:
    """Write a file whole or not at all, also where a kill or a power loss comes between. Raises: OSError."""
    # half of a surrogate pair, which a subject may well raise, is written as JSON's own escape of it
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", errors="backslashreplace", dir=path.parent, prefix=f".{path.stem}-", delete=False
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
    return path


def read(path: Path) -> dict[str, Any]:
    """A certificate from a file, or from a folder that holds `certificate.json`, as `build` made it.

    Its form is checked, its figures and digests are not: see `certificate.verifying`.

    Raises:
        UsageError: there is none, or it is torn, of another version, or no certificate; one line, whatever is in the file.
    """
    return joined(load(path))


def load(path: Path) -> dict[str, Any]:
    """The same as it stands on disk. Raises: UsageError, as `read`."""
    where = path / "certificate.json" if path.is_dir() else path
    document = _parse(where)
    if not isinstance(document, dict) or "schema" not in document:
        raise UsageError(f"{where}: JSON, but no certificate; expected what `pytest --flowcheck-report=DIR` writes")
    found = cast("dict[str, Any]", document)
    version: Any = found["schema"]
    if version != SCHEMA:
        older = isinstance(version, int) and version < SCHEMA
        what = "certify again to have a new one" if older else "read it by a newer pytest-flowcheck"
        raise UsageError(f"{where}: a certificate of form {_short(version)}; this kit reads form {SCHEMA}: {what}")
    _check_form(where, found)
    if {rule["id"] for rule in found["rules"]} != set(found["run"]["rules"]):
        raise UsageError(f"{where}: `rules` and `run.rules` name different rules: it was put together by hand, or torn")
    return found


def _parse(where: Path) -> Any:
    try:
        if not where.is_file():
            kind = "no such file" if not where.exists() else "not a file"
            raise UsageError(f"{where}: {kind}; expected a certificate.json, or a folder that holds one")
        with where.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{where}: can't be read: {error.strerror or error}") from error
    if len(raw) > MOST_BYTES:
        raise UsageError(f"{where}: more than {MOST_BYTES // 2**20} MiB; no certificate is that large")
    try:
        return json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise UsageError(f"{where}: JSON that is nested too deeply; no certificate is") from None
    except ValueError as error:
        raise UsageError(f"{where}: no JSON, or torn: {_short(str(error), plain=True)}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Of a key that stands there twice, readers of JSON see different ones."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in dict(pairs[:number]))
        raise ValueError(f"the key {_short(twice)} stands twice in one object")
    return found


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no JSON number")


def _check_form(where: Path, document: dict[str, Any]) -> None:
    import jsonschema

    validator: Any = jsonschema.Draft202012Validator(schema())
    exceptions: Any = import_module("jsonschema.exceptions")  # its types are partly unknown
    error = exceptions.best_match(validator.iter_errors(document))
    if error is not None:
        place = "/".join(map(str, error.absolute_path)) or "the document"
        raise UsageError(
            f"{where}: not in the form of a certificate: {_short(f'{place}: {error.message}', plain=True)}"
        )


def _short(value: object, *, plain: bool = False, most: int = 160) -> str:
    """A value in one line that can be shown to a terminal, whatever is in it."""
    text = str(value) if plain else repr(value)
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= most else f"{text[:most]}..."
