"""What was asked for and can't be had is one clear line and exit code 4: no traceback, and nothing has run."""

from __future__ import annotations

import pytest

WRONG = [
    ("--flowcheck-subject=strikes:Clam", "has no attribute 'Clam'; did you mean Calm"),
    ("--flowcheck-subject=strykes:Calm", "no module 'strykes'"),
    ("--flowcheck-subject=calm-by-hok", "did you mean calm-by-hook"),
    ("--flowcheck-subject=nowhere.py:Calm", "no file 'nowhere.py'"),
    ("--flowcheck-subject=strikes:factory_without_workers", "can't be called with max_workers=1"),
    ("--flowcheck-subject=strikes:factory_that_raises", "RuntimeError: no pool today"),
    ("--flowcheck-subject=strikes:factory_of_nothing", "an object of type int"),
    ("--flowcheck-subject=strikes:FOREVER", "is an object of type str"),
    ("--flowcheck-subject=import_raises:X", "RuntimeError: not today"),
    ("--flowcheck-subject=import_sysexits:X", "SystemExit: 3"),
    ("--flowcheck-facet=tinny", "no facet 'tinny'; did you mean 'tiny'"),
    ("--flowcheck-only=EXE-99", "no rule 'EXE-99'"),
    ("--flowcheck-explain=EXE-99", "no rule 'EXE-99'"),
    ("--flowcheck-report=pytest.ini/below", "can't write to"),
    ("--flowcheck-report=/proc/nowhere", "can't write to"),
    ("--flowcheck-patience=0", "no number of seconds above 0"),
]


@pytest.mark.parametrize(("option", "words"), WRONG, ids=[option.removeprefix("--flowcheck-") for option, _ in WRONG])
def test_one_clear_line(run, option: str, words: str) -> None:
    """One line that says what is wrong, exit code 4."""
    done = run("--flowcheck", option, "-n2", report=False)
    assert done.status == 4, done.output
    (line,) = [line for line in done.output.splitlines() if line.startswith("ERROR")]
    assert words in line
    assert "Traceback" not in done.output
    assert "test session starts" not in done.output


def test_a_facet_that_nobody_claims_is_told(run) -> None:
    """Nothing was judged, and why."""
    done = run("--flowcheck-subject=strikes:Calm", "--flowcheck-facet=retry", report=False)
    assert (done.status, done.last) == (5, "exit 5: nothing was judged; no subject claims retry"), done.output


def test_one_line_for_each(run) -> None:
    """Several wrong subjects are several lines of one run."""
    done = run("--flowcheck-subject=strikes:A", "--flowcheck-subject=strikes:B", report=False)
    assert (done.status, done.output.count("ERROR")) == (4, 2), done.output


def test_the_users_tests_do_not_run_first(run) -> None:
    """With paths too, what can't be certified is said before the user's tests take their time."""
    (run.folder / "test_theirs.py").write_text("def test_it(): print('ran')\n")
    done = run("--flowcheck", "--flowcheck-subject=strikes:Clam", "test_theirs.py", "-s", report=False)
    assert (done.status, "ran" in done.output) == (4, False), done.output
