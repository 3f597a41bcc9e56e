"""The baseline: failures that are known, and borne for now, each with a reason. A TOML file that lives beside the tests.

    [[expected]]
    id = "EXE-31"
    reason = "waiters are told only when a worker finds the cancelled future"
    issue = "https://github.com/python/cpython/issues/..."   # optional
    subject = "my-engine"                                    # optional: the word in brackets of an item's id
    when = "python_version < '3.14'"                         # optional: an environment marker, as in a requirement
    until = 2027-06-30                                       # optional: the last day on which it is borne

An entry that is no longer true fails the run as a new failure does, or the file would only ever grow: *stale* (the rule
holds), *expired* (the day is over), *unknown* (there is no such rule). That a list of known failures must shrink by itself
was learned from the conformance suites of the Model Context Protocol and of the web platform.
"""

from __future__ import annotations

import datetime
import tomllib
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_flowcheck.rules import Rule

KEYS: Final = ("id", "reason", "issue", "subject", "when", "until")
_COVERED: Final = frozenset({Verdict.VIOLATED, Verdict.HUNG, Verdict.CRASHED, Verdict.LEAKED, Verdict.INCONCLUSIVE})
"""What an entry can expect. UNSTABLE, ADAPTER-ERROR and KIT-ERROR are nobody's known failures: they say that nothing is known."""


@dataclass(frozen=True)
class Entry:
    """One known failure."""

    id: str
    reason: str
    issue: str = ""
    subject: str = ""
    """The label of one subject; empty: of every one."""
    when: str = ""
    until: datetime.date | None = None

    @property
    def why(self) -> str:
        """Reason and issue, in one line."""
        return f"{self.reason} ({self.issue})" if self.issue else self.reason

    @property
    def where(self) -> str:
        """`EXE-31`, or `EXE-31 on my-engine`."""
        return f"{self.id} on {self.subject}" if self.subject else self.id

    def expired(self, today: datetime.date) -> bool:
        """Whether the last day is over."""
        return self.until is not None and today > self.until


@dataclass(frozen=True)
class Baseline:
    """What a file says. Only entries whose `when` holds on this machine."""

    path: Path
    entries: tuple[Entry, ...]

    def of(self, label: str, today: datetime.date | None = None) -> dict[str, str]:
        """The rules that this subject is expected to fail -> why. Expired entries excuse nothing."""
        today = today or datetime.date.today()  # noqa: DTZ011 - a day as the user's calendar has it
        found: dict[str, str] = {}
        for entry in self.entries:
            if entry.subject in {"", label} and not entry.expired(today):
                found.setdefault(entry.id, entry.why)
        return found

    def untrue(self, verdicts: Mapping[str, Mapping[str, str]], today: datetime.date | None = None) -> list[str]:
        """The entries that fail a run, a clause for each.

        Args:
            verdicts: label -> rule -> verdict, of what this run judged or says is not claimed; rules that it did not
                get to, and rules that can't be tested here, tell nothing and may be left out.
            today: the day; this one by default.
        """
        today = today or datetime.date.today()  # noqa: DTZ011
        clauses: list[str] = []
        for entry in self.entries:
            found = {
                label: Verdict(rules[entry.id])
                for label, rules in verdicts.items()
                if entry.subject in {"", label} and entry.id in rules
            }
            told = {
                label: verdict
                for label, verdict in found.items()
                if verdict not in {Verdict.NOT_RUN, Verdict.NOT_TESTABLE}
            }
            if not told:
                continue
            if entry.expired(today):
                clauses.append(f"{entry.where} was to be borne until {entry.until} only")
            elif entry.subject and Verdict.NOT_CLAIMED in told.values():
                clauses.append(f"{entry.where} is not claimed, so it can't fail")
            elif Verdict.PASS in told.values() and set(told.values()) <= {Verdict.PASS, Verdict.NOT_CLAIMED}:
                clauses.append(f"{entry.where} holds now")
        return clauses


def expect(finding: Finding, expected: Mapping[str, str]) -> Finding:
    """The finding as it reads where the baseline expects these rules to fail -> why: EXPECTED for one that does.

    A rule that lost its precondition to such a rule needs no entry of its own: it may lose it in one run and not in the next.
    """
    lost_to = str(finding.evidence.get("because_of", "")) if finding.verdict is Verdict.INCONCLUSIVE else ""
    why = expected.get(finding.rule)
    if why is None and lost_to in expected:
        why = f"it needs {lost_to}: {expected[lost_to]}"
    if why is None or finding.verdict not in _COVERED:
        return finding
    return replace(
        finding,
        verdict=Verdict.EXPECTED,
        message=f"{finding.verdict.value}, as expected: {why}\n\n{finding.message}".rstrip(),
        evidence={**finding.evidence, "expected": {"verdict": finding.verdict.value, "reason": why}},
    )


# --- the file ----------------------------------------------------------------------------------------------------------


def read(path: Path, rules: Iterable[Rule]) -> Baseline:
    """Read and check a baseline.

    Args:
        path: the file.
        rules: every rule of the run's facets.

    Raises:
        UsageError: it can't be read, is no TOML, has unknown keys or rules, lacks a reason, or a marker or day makes no
            sense: one line for each entry that is wrong.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"baseline {str(path)!r} isn't there; write it with --flowcheck-baseline={path.name} --flowcheck-baseline-write"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"baseline {str(path)!r} can't be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"baseline {str(path)!r} is no TOML: {error}") from error
    given: object = data.pop("expected", [])
    tables = cast("list[dict[str, Any]]", given) if isinstance(given, list) else []
    if data or not isinstance(given, list) or not all(isinstance(table, dict) for table in cast("list[object]", given)):
        odd = ", ".join(map(repr, data)) or "expected = ..."
        raise UsageError(f"baseline {str(path)!r} has {odd}; write one table [[expected]] for each rule")
    known = {rule.id for rule in rules}
    wrong: list[str] = []
    entries: list[Entry] = []
    for number, table in enumerate(tables, 1):
        try:
            entry = _entry(table, known)
        except UsageError as error:
            wrong.append(f"baseline {str(path)!r}, entry {number} ({table.get('id', 'no id')}): {error}")
        else:
            entries += [entry] if entry is not None else []
    if wrong:
        raise UsageError("\n".join(wrong))
    return Baseline(path, tuple(entries))


def _entry(table: Mapping[str, Any], known: set[str]) -> Entry | None:
    """The entry; None if its `when` does not hold here."""
    for key in table:
        if key not in KEYS:
            near = get_close_matches(key, KEYS, n=1, cutoff=0.5)
            raise UsageError(
                f"unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"keys are {', '.join(KEYS)}")
            )
    texts = {key: table.get(key, "") for key in KEYS[:-1]}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise UsageError(f"{key} = {text!r}; expected a string")
    if texts["id"] not in known:
        near = get_close_matches(texts["id"], sorted(known), n=1, cutoff=0.5)
        raise UsageError(
            f"no rule {texts['id']!r}"
            + (f"; did you mean {near[0]}?" if near else "; `pytest --flowcheck-list` shows every rule")
        )
    if not texts["reason"].strip():
        raise UsageError('it has no reason; say why this failure is borne, as in reason = "..."')
    until = table.get("until")
    if until is not None and (not isinstance(until, datetime.date) or isinstance(until, datetime.datetime)):
        raise UsageError(f"until = {until!r}; expected a day without quotes, as in until = 2027-06-30")
    holds = _holds(texts["when"])
    return Entry(**texts, until=until) if holds else None


def _holds(when: str) -> bool:
    """Whether a marker is true of this interpreter."""
    if not when:
        return True
    from packaging.markers import InvalidMarker, Marker, UndefinedEnvironmentName

    try:
        return Marker(when).evaluate()
    except (InvalidMarker, UndefinedEnvironmentName) as error:
        first = str(error).splitlines()[0]
        raise UsageError(
            f"when = {when!r} is no environment marker ({first}); write one as in when = \"python_version < '3.14'\""
        ) from error


def update(path: Path, certificates: Sequence[Mapping[str, Any]], rules: Iterable[Rule]) -> tuple[list[str], list[str]]:
    """Write what these certificates fail into the file; take out what is not true any more. Comments and order stay.

    An entry that is expired stays as it is: to bear a failure for longer is a person's decision.

    Returns:
        The entries that were added and those that were taken out, as words.

    Raises:
        UsageError: the file can't be read, is wrong, or can't be written.
    """
    import tomlkit
    from tomlkit.items import AoT

    from pytest_flowcheck.certificate.document import write_whole

    before = read(path, rules) if path.exists() else Baseline(path, ())
    # casts: the types of tomlkit's containers are partly unknown
    document = cast("dict[str, Any]", tomlkit.parse(path.read_text(encoding="utf-8") if path.exists() else ""))
    held = document.get("expected")
    tables = cast("list[Any]", held if isinstance(held, AoT) else tomlkit.aot())
    verdicts = verdicts_of(certificates)
    stale = [e for e in before.entries if Baseline(path, (replace(e, until=None),)).untrue(verdicts)]
    for number in reversed(range(len(tables))):
        if any(_is(tables[number], entry) for entry in stale):
            del tables[number]
    added: list[str] = []
    for certificate in certificates:
        label = certificate["subject"]["label"]
        for rule in _failing(certificate):
            table = cast("dict[str, Any]", tomlkit.table())
            table.update({"id": rule["id"], "subject": label, "reason": _fact(rule)})
            tables.append(table)
            added.append(f"{rule['id']} on {label}")
    if not tables and not path.exists():
        return [], []
    if tables:
        document["expected"] = tables
    elif "expected" in document:
        del document["expected"]
    try:
        write_whole(path, f"{tomlkit.dumps(document).rstrip()}\n".lstrip("\n"))
    except OSError as error:
        raise UsageError(f"baseline {str(path)!r} can't be written: {error.strerror or error}") from error
    return added, [entry.where for entry in stale]


def _failing(certificate: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rules that need an entry: not those that only lost their precondition to one of them."""
    failing = [
        rule
        for rule in certificate["rules"]
        if (verdict := Verdict(rule["verdict"])) in _COVERED and verdict.fails(rule["level"])
    ]
    ids = {rule["id"] for rule in failing}
    return [rule for rule in failing if rule["evidence"].get("because_of") not in ids]


def excused(certificate: Mapping[str, Any], baseline: Baseline) -> dict[str, Any]:
    """The certificate as a run with this baseline would have given it: for the exit code of the run that wrote it."""
    why = baseline.of(certificate["subject"]["label"])
    rules: list[dict[str, Any]] = []
    for rule in certificate["rules"]:
        found = Finding(rule["id"], Verdict(rule["verdict"]), rule["level"], evidence=rule["evidence"])
        rules.append({**rule, "verdict": expect(found, why).verdict.value})
    return {**certificate, "rules": rules}


def _is(table: Mapping[str, Any], entry: Entry) -> bool:
    return all(table.get(key, "") == getattr(entry, key) for key in KEYS[:-1])


def _fact(rule: Mapping[str, Any]) -> str:
    """A reason to begin with: what the subject did, in one line."""
    told = rule["message"].removeprefix(f"{rule['id']} {rule['sentence']}").strip()
    first = told.partition("\n")[0].removeprefix("What it did:").strip()
    return first or str(rule["verdict"])


def verdicts_of(certificates: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Label -> rule -> verdict."""
    return {c["subject"]["label"]: {rule["id"]: rule["verdict"] for rule in c["rules"]} for c in certificates}
