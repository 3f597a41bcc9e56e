"""The baseline: what it excuses, what makes it out of date, how it is written."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from test_certificate import tiny_rules

from pytest_flowcheck.certificate import baseline
from pytest_flowcheck.certificate.baseline import Baseline, Entry, expect
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.errors import UsageError

RULES = tiny_rules()["small"]
TODAY = datetime.date(2026, 6, 15)
YESTERDAY = datetime.date(2026, 6, 14)
NASTY = ("--flowcheck", "--flowcheck-facet=tiny", "-n1", "--flowcheck-subject=strikes:Raises")
KNOWN = """# what we bear
[[expected]]
id = "TNY-02"
reason = "it is nasty"
issue = "#7"

[[expected]]
id = "TNY-03"  # the same again
subject = "raises"
reason = "it is nasty twice"
"""


def written(folder: Path, text: str) -> Path:
    """A baseline file."""
    path = folder / "known.toml"
    path.write_text(text)
    return path


def finding(verdict: Verdict, rule: str = "SML-01", **evidence: object) -> Finding:
    """A finding of a MUST."""
    return Finding(rule, verdict, "MUST", message="SML-01 It holds.\n\nWhat it did:   harm", evidence=evidence)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_what_can_be_expected(verdict: Verdict) -> None:
    """A failure of the subject; never that the kit, the adapter or the verdict itself failed, nor a PASS."""
    found = expect(finding(verdict), {"SML-01": "known (#7)"})
    excused = {Verdict.VIOLATED, Verdict.HUNG, Verdict.CRASHED, Verdict.LEAKED, Verdict.INCONCLUSIVE}
    assert found.verdict is (Verdict.EXPECTED if verdict in excused else verdict)
    if verdict in excused:
        assert found.message.startswith(f"{verdict.value}, as expected: known (#7)\n\nSML-01 It holds.")
        assert found.evidence["expected"] == {"verdict": verdict.value, "reason": "known (#7)"}
    assert expect(finding(verdict), {"SML-02": "another"}).verdict is verdict


def test_what_only_lost_its_precondition_needs_no_entry() -> None:
    """It may lose it in one run and not in the next: an entry of its own would be stale every second time."""
    lost = finding(Verdict.INCONCLUSIVE, "SML-02", because_of="SML-01")
    assert expect(lost, {"SML-01": "known"}).verdict is Verdict.EXPECTED
    assert expect(lost, {"SML-04": "known"}).verdict is Verdict.INCONCLUSIVE
    assert (
        expect(finding(Verdict.VIOLATED, "SML-02", because_of="SML-01"), {"SML-01": "known"}).verdict
        is Verdict.VIOLATED
    )


@pytest.mark.parametrize(
    ("entry", "verdicts", "clauses"),
    [
        (Entry("SML-01", "r"), {"a": "EXPECTED"}, []),
        (Entry("SML-01", "r"), {"a": "EXPECTED", "b": "PASS"}, []),
        (Entry("SML-01", "r"), {"a": "PASS"}, ["SML-01 holds now"]),
        (Entry("SML-01", "r", subject="a"), {"a": "PASS", "b": "EXPECTED"}, ["SML-01 on a holds now"]),
        (Entry("SML-01", "r", subject="c"), {"a": "PASS"}, []),  # a run without c
        (Entry("SML-01", "r"), {"a": "NOT-RUN"}, []),
        (Entry("SML-01", "r"), {"a": "NOT-TESTABLE"}, []),
        (Entry("SML-01", "r"), {"a": "ADAPTER-ERROR"}, []),
        (Entry("SML-01", "r"), {"a": "NOT-CLAIMED"}, []),
        (Entry("SML-01", "r", subject="a"), {"a": "NOT-CLAIMED"}, ["SML-01 on a is not claimed, so it can't fail"]),
        (Entry("SML-01", "r", until=TODAY), {"a": "EXPECTED"}, []),
        (Entry("SML-01", "r", until=YESTERDAY), {"a": "VIOLATED"}, [f"SML-01 was to be borne until {YESTERDAY} only"]),
        (Entry("SML-01", "r", until=YESTERDAY), {"a": "NOT-RUN"}, []),
    ],
)  # fmt: skip
def test_what_makes_it_out_of_date(entry: Entry, verdicts: dict[str, str], clauses: list[str]) -> None:
    """Stale and expired entries do; what a run did not get to tells nothing."""
    by_label = {label: {"SML-01": verdict} for label, verdict in verdicts.items()}
    assert Baseline(Path("known.toml"), (entry,)).untrue(by_label, TODAY) == clauses


def test_an_expired_entry_excuses_nothing() -> None:
    """The last day counts; the day after, the failure is one again."""
    known = Baseline(Path("known.toml"), (Entry("SML-01", "why", "#7", until=TODAY), Entry("SML-02", "w", subject="b")))
    assert known.of("a", TODAY) == {"SML-01": "why (#7)"}
    assert known.of("b", TODAY + datetime.timedelta(1)) == {"SML-02": "w"}


def test_reading(tmp_path: Path) -> None:
    """Every key; an entry whose marker does not hold here is left out."""
    path = written(
        tmp_path,
        '[[expected]]\nid = "SML-01"\nreason = "r"\nissue = "i"\nsubject = "s"\nwhen = "python_version >= \'3.11\'"\n'
        'until = 2030-01-02\n[[expected]]\nid = "SML-02"\nreason = "r"\nwhen = "python_version < \'3\'"\n',
    )
    (entry,) = baseline.read(path, RULES).entries
    assert entry == Entry("SML-01", "r", "i", "s", "python_version >= '3.11'", datetime.date(2030, 1, 2))
    assert baseline.read(written(tmp_path, ""), RULES).entries == ()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("expected = 1", "has expected = ...; write one table [[expected]]"),
        ("[[expectd]]\nid = 'SML-01'", "has 'expectd'; write one table [[expected]] for each rule"),
        ("x = 1 x", "is no TOML: "),
        ("[[expected]]\nid = 'SML-09'\nreason = 'r'", "entry 1 (SML-09): no rule 'SML-09'; did you mean SML-0"),
        ("[[expected]]\nreason = 'r'", "entry 1 (no id): no rule ''; `pytest --flowcheck-list` shows every rule"),
        ("[[expected]]\nid = 'SML-01'", "entry 1 (SML-01): it has no reason; say why"),
        ("[[expected]]\nid = 'SML-01'\nreson = 'r'", "unknown key 'reson'; did you mean 'reason'?"),
        ("[[expected]]\nid = 'SML-01'\nreason = 1", "reason = 1; expected a string"),
        ("[[expected]]\nid = 'SML-01'\nreason = 'r'\nuntil = '2030-01-01'", "expected a day without quotes"),
        ("[[expected]]\nid = 'SML-01'\nreason = 'r'\nuntil = 2030-01-01T00:00:00", "expected a day without quotes"),
        ("[[expected]]\nid = 'SML-01'\nreason = 'r'\nwhen = 'on mondays'", "is no environment marker"),
        ("[[expected]]\nid = 'SML-01'\nreason = 'r'\nwhen = \"pyhton_version < '3'\"", "is no environment marker"),
    ],
)
def test_what_makes_no_sense_is_told(tmp_path: Path, text: str, line: str) -> None:
    """File, entry, what is wrong, what to write instead."""
    path = written(tmp_path, text)
    with pytest.raises(UsageError) as raised:
        baseline.read(path, RULES)
    assert str(path) in str(raised.value)
    assert line in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """A line for each."""
    with pytest.raises(UsageError) as raised:
        baseline.read(written(tmp_path, "[[expected]]\nid = 'A'\n[[expected]]\nid = 'SML-01'\n"), RULES)
    first, second = str(raised.value).splitlines()
    assert "entry 1 (A)" in first
    assert "entry 2 (SML-01)" in second


# --- runs ---------------------------------------------------------------------------------------------------------------


def test_a_run_with_a_baseline(run) -> None:
    """What it expects is no failure, and counts as none that holds; card, certificate and exit code say so."""
    written(run.folder, KNOWN)
    done = run(*NASTY, "--flowcheck-baseline=known.toml")
    assert done.status == 0, done.output
    verdicts = done.verdicts("raises")
    assert {rule for rule, verdict in verdicts.items() if verdict == "EXPECTED"} == {"TNY-02", "TNY-03"}
    assert done.certificates["raises"]["facets"]["tiny"]["status"] == "with-expected-failures"
    assert "WITH EXPECTED FAILURES" in done.output
    assert "TNY-02 VIOLATED, as expected: it is nasty (#7)" in done.output
    assert done.last.startswith("exit 0: all ")
    assert "2 EXPECTED to fail (TNY-02, TNY-03)" in done.last
    assert "2 expected to fail" in done.output  # pytest's own count


def test_a_worker_that_dies_can_be_expected(run) -> None:
    """The verdict is the controller's, and reads the same baseline, also from the ini file."""
    written(run.folder, KNOWN.replace('"raises"', '"killed"'))
    (run.folder / "pytest.ini").write_text("[pytest]\nflowcheck_baseline = known.toml\n")
    done = run(*NASTY[:-1], "--flowcheck-subject=strikes:Killed")
    assert (done.status, done.verdicts("killed")["TNY-02"]) == (0, "EXPECTED"), done.output


def test_a_stale_entry_fails_the_run(run) -> None:
    """The last line says which, and the file it stands in can be mended by one option."""
    path = written(run.folder, KNOWN + '\n[[expected]]\nid = "TNY-04"\nreason = "an old story"\n')
    done = run(*NASTY, "--flowcheck-baseline=known.toml")
    assert (done.status, done.last) == (1, "exit 1: the baseline is out of date: TNY-04 holds now"), done.output
    done = run(*NASTY, "--flowcheck-baseline=known.toml", "--flowcheck-baseline-write")
    assert (done.status, path.read_text()) == (0, KNOWN), done.output
    assert "known.toml: TNY-04 taken out" in done.output


def test_writing_one(run) -> None:
    """All that fails is in it, with what was seen for a reason; comments stay; the next run passes."""
    path = run.folder / "known.toml"
    done = run(*NASTY, "--flowcheck-baseline=known.toml", "--flowcheck-baseline-write")
    assert done.status == 0, done.output
    assert "known.toml: TNY-02 on raises, TNY-03 on raises added" in done.output
    entries = baseline.tomllib.loads(path.read_text())["expected"]
    assert [(e["id"], e["subject"]) for e in entries] == [("TNY-02", "raises"), ("TNY-03", "raises")]
    assert entries[0]["reason"].startswith("the subject raised ValueError('the strike hit its owner')")
    path.write_text("# by us\n" + path.read_text())
    done = run(
        *NASTY, "--flowcheck-baseline=known.toml", "--flowcheck-baseline-write", "--flowcheck-subject=strikes:Hangs"
    )
    assert done.status == 0, done.output
    text = path.read_text()
    assert text.startswith("# by us\n")
    assert text.count("[[expected]]") == 4


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--flowcheck-baseline=none.toml",), "none.toml' isn't there; write it with"),
        (("--flowcheck-baseline-write",), "--flowcheck-baseline-write: which file?"),
        (("--flowcheck-selftest", "--flowcheck-baseline=known.toml"), "broken engines must fail what they name"),
    ],
)
def test_options_that_make_no_sense(run, options: tuple[str, ...], line: str) -> None:
    """One line, exit code 4, nothing is judged."""
    written(run.folder, KNOWN)
    done = run(*options, *(() if "--flowcheck-selftest" in options else NASTY), report=False)
    assert (done.status, line in done.output, "Traceback" in done.output) == (4, True, False), done.output


def test_beside_a_users_tests(run) -> None:
    """The child that certifies gets the same baseline."""
    written(run.folder, KNOWN)
    (run.folder / "test_theirs.py").write_text("def test_it(): pass\n")
    done = run("test_theirs.py", *NASTY, "--flowcheck-baseline=known.toml")
    assert done.status == 0, done.output
    assert "2 EXPECTED to fail" in done.output
