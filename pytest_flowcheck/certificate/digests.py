"""What a certificate was made by, as SHA-256 digests: the kit, the revision's texts, each facet's suite, and itself.

A digest tells that two things are the same bytes. It is no signature: who wrote a certificate, and whether the run took place,
it can't tell.
"""

from __future__ import annotations

import hashlib
import json
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_flowcheck.rules import Rule

_PACKAGE = Path(__file__).parent.parent


def of_rules(rules: Iterable[Rule]) -> dict[str, Any]:
    """`kit`, `revision` and `suites` of a certificate by these rules."""
    listed = sorted(rules)
    suites: dict[str, list[Rule]] = {}
    for rule in listed:
        suites.setdefault(rule.facet, []).append(rule)
    return {
        "kit": kit(),
        "revision": revision(listed),
        "suites": {facet: _files(_sources(own)) for facet, own in sorted(suites.items())},
    }


@cache
def kit() -> str:
    """Of every file of the installed kit, by name and content."""
    return _files([path for path in _PACKAGE.rglob("*") if path.is_file() and _is_source(path.relative_to(_PACKAGE))])


def revision(rules: Iterable[Rule]) -> str:
    """Of what the rules ask: ids, levels, capabilities and sentences. How they are judged is their suite's."""
    return of_json(
        [
            [rule.id, rule.facet, rule.level, sorted(rule.capabilities), rule.cluster, rule.property, rule.sentence]
            for rule in sorted(rules)
        ]
    )


def of_json(value: Any) -> str:
    """Of a JSON document, whatever the order of its keys and the blanks between them."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return _digest([text.encode()])


def of_lasting(document: Mapping[str, Any]) -> str:
    """Of what must be the same when the same subject is judged again: a certificate without `run`, and without this digest."""
    kept = {key: value for key, value in document.items() if key != "run"}
    own = {name: value for name, value in document["digests"].items() if name != "certificate"}
    return of_json({**kept, "digests": own})


def of_run(run: Mapping[str, Any]) -> str:
    """Of the part that varies: times, the machine, and how each verdict came about. Without this digest."""
    return of_json({key: value for key, value in run.items() if key != "digest"})


def _sources(rules: list[Rule]) -> list[Path]:
    """The files that hold a facet's rules: all of its package, the helpers that rules share included."""
    found: set[Path] = set()
    for rule in rules:
        parts = rule.function.__module__.split(".")
        top = ".".join(parts[: parts.index("suites") + 2]) if "suites" in parts else rule.function.__module__
        package = sys.modules.get(top)
        if folders := getattr(package, "__path__", None):
            found.update(path for folder in folders for path in Path(folder).glob("**/*.py"))
        else:
            found.add(Path(rule.function.__code__.co_filename))
    return [path for path in found if path.is_file()]


def _is_source(path: Path) -> bool:
    return "__pycache__" not in path.parts and not any(part.startswith(".") for part in path.parts)


def _files(paths: Iterable[Path]) -> str:
    """Of files by name and content. The folder in which all of them lie is no part of it."""
    listed = sorted(paths)
    parents = {path.parent for path in listed}
    root = min(parents, key=lambda folder: len(folder.parts)) if parents else _PACKAGE
    parts: list[bytes] = []
    for path in sorted(listed, key=lambda path: _below(path, root)):
        content = path.read_bytes()
        parts += [_below(path, root).encode(), str(len(content)).encode(), content]
    return _digest(parts)


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _digest(parts: Iterable[bytes]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part + b"\0")
    return f"sha256:{found.hexdigest()}"
