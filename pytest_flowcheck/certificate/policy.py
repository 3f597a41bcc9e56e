"""From verdicts to the exit code: the one place that decides, and says why in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.certificate.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FAILED: Final = 1
INTERRUPTED: Final = 2
KIT_ERROR: Final = 3
USAGE: Final = 4
NOTHING: Final = 5

_NAMED = 8
_WELL = frozenset({Verdict.PASS, Verdict.EXPECTED})


def decide(
    certificates: Iterable[Mapping[str, Any]], *, interrupted: bool = False, untrue: Sequence[str] = ()
) -> tuple[int, str]:
    """The exit code of these certificates, and the line that says which and why.

    Args:
        certificates: one for each subject.
        interrupted: by Ctrl-C.
        untrue: what the baseline says and is not so.
    """
    rules = [(c["subject"]["label"], rule) for c in certificates for rule in c["rules"]]
    several = len({label for label, _ in rules}) > 1
    status, why = _decide(rules, several, interrupted, untrue)
    return status, f"exit {status}: {why}"


def _decide(
    rules: list[tuple[str, Mapping[str, Any]]], several: bool, interrupted: bool, untrue: Sequence[str]
) -> tuple[int, str]:
    by_verdict = {verdict: [entry for entry in rules if entry[1]["verdict"] == verdict.value] for verdict in Verdict}
    if kit := by_verdict[Verdict.KIT_ERROR]:
        return KIT_ERROR, f"the kit itself failed in {_names(kit, several)}; that is our bug, please report it"
    failing = {
        verdict: failed
        for verdict, entries in by_verdict.items()
        if (failed := [entry for entry in entries if verdict.fails(entry[1]["level"])])
    }
    not_run = len(by_verdict[Verdict.NOT_RUN])
    if interrupted:
        return INTERRUPTED, f"interrupted; {not_run} rule{_s(not_run)} NOT-RUN"
    if failing or untrue:
        clauses = [_clause(verdict, entries, several) for verdict, entries in failing.items()]
        clauses += [f"the baseline is out of date: {'; '.join(untrue)}"] if untrue else []
        return FAILED, "; ".join(clauses)
    judged = [entry for entry in rules if Verdict(entry[1]["verdict"]).judged]
    if not judged:
        return NOTHING, "nothing was judged"
    return 0, _good(judged, by_verdict, several)


def _good(judged: list[tuple[str, Mapping[str, Any]]], by_verdict: Mapping[Verdict, list[Any]], several: bool) -> str:
    expected = by_verdict[Verdict.EXPECTED]
    must = [e for e in judged if e[1]["level"] == "MUST" and Verdict(e[1]["verdict"]) is not Verdict.EXPECTED]
    parts = [
        f"all {len(must)} MUST rules that were judged hold"
        if len(must) != 1
        else "the one MUST rule that was judged holds"
    ]
    if expected:
        parts = [parts[0].replace(" that were judged", " but the expected ones", 1)] if len(must) != 1 else parts
        parts.append(f"{len(expected)} EXPECTED to fail ({_names(expected, several)})")
    weak = [e for e in judged if e[1]["level"] == "SHOULD" and Verdict(e[1]["verdict"]) not in _WELL]
    if weak:
        parts.append(f"{len(weak)} SHOULD rule{_s(len(weak))} not kept ({_names(weak, several)})")
    if not_run := len(by_verdict[Verdict.NOT_RUN]):
        parts.append(f"{not_run} NOT-RUN, so this is no whole certificate")
    return "; ".join(parts)


def _clause(verdict: Verdict, entries: list[tuple[str, Mapping[str, Any]]], several: bool) -> str:
    level = "MUST " if all(entry[1]["level"] == "MUST" for entry in entries) else ""
    return f"{len(entries)} {level}rule{_s(len(entries))} {verdict.value} ({_names(entries, several)})"


def _names(entries: list[tuple[str, Mapping[str, Any]]], several: bool) -> str:
    names = [f"{rule['id']} on {label}" if several else str(rule["id"]) for label, rule in entries]
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _s(count: int) -> str:
    return "" if count == 1 else "s"
