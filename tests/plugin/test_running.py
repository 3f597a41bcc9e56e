"""The items of a certification behave like items: select, list, stop, report, distribute."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

TINY = ("--flowcheck", "--flowcheck-facet=tiny", "-n1")
"""One worker where nothing depends on how many: to start each takes longer than to judge all of the facet's rules."""
CALM = (*TINY, "--flowcheck-subject=strikes:Calm")
RAISES = (*TINY, "--flowcheck-subject=strikes:Raises")


def judged(done, label: str) -> dict[str, str]:
    """The rules that were reached."""
    return {rule: verdict for rule, verdict in done.verdicts(label).items() if verdict != "NOT-RUN"}


def test_alone_it_runs_nothing_of_the_users(run) -> None:
    """Without paths no test, no collection error and no fixture of the user's has any part in the run."""
    (run.folder / "test_theirs.py").write_text("raise RuntimeError('collected')\n")
    done = run(*CALM)
    assert (done.status, "collected" in done.output) == (0, False), done.output
    assert set(done.verdicts("calm").values()) == {"PASS"}


@pytest.mark.parametrize("mode", ["-n0", "-n1"])
def test_alone_it_rewrites_no_asserts(run, mode: str) -> None:
    """Modules are imported as they are, those that pytest would take for tests, too; beside tests it goes on rewriting."""
    (run.folder / "test_mine.py").write_text(
        "from strikes import *\n"
        "assert __name__ == 'test_mine'\n"
        "rewritten = '@py_builtins' in globals()\n"
        "if rewritten: Calm = Raises\n"
        "def test_it_was_rewritten(): assert rewritten\n"
    )
    subject = (*TINY, "--flowcheck-subject=test_mine:Calm", mode)
    done = run(*subject)
    assert (done.status, set(done.verdicts("calm").values())) == (0, {"PASS"}), done.output
    beside = run("test_mine.py", *subject)
    assert (beside.status, "1 passed" in beside.output) == (0, True), beside.output


def test_ids_are_stable_and_listed(run) -> None:
    """`--co -q` lists one id per rule and subject; an id can be given back as a path."""
    done = run(*CALM, "--co", "-q")
    ids = [line for line in done.output.splitlines() if "::" in line]
    assert ids == [f"flowcheck/tiny::TNY-0{n}[calm]" for n in range(1, 8)]
    assert (done.status, done.certificates) == (0, {})
    done = run(*CALM, "flowcheck/tiny::TNY-04[calm]", "-v")
    assert judged(done, "calm") == {"TNY-04": "PASS"}, done.output


def test_keywords_select(run) -> None:
    """`-k` selects by rule and by subject; what was left out reads NOT-RUN, and the certificate is not complete."""
    done = run(*CALM, "--flowcheck-subject=strikes:Plain", "-k", "TNY-04 and calm")
    assert judged(done, "calm") == {"TNY-04": "PASS"}, done.output
    assert judged(done, "plain") == {}
    assert not done.certificates["calm"]["complete"]
    assert done.status == 0


def test_stop_at_the_first(run) -> None:
    """`-x` stops; the exit code is that of the violation, in workers and without."""
    for mode in ("-n0", "-n1"):
        done = run(*RAISES, "-x", mode)
        assert done.status == 1, done.output
        assert done.verdicts("raises")["TNY-02"] == "VIOLATED"
        assert not done.certificates["raises"]["complete"]
    assert done.verdicts("raises")["TNY-07"] == "NOT-RUN", done.output


def test_last_failed(run) -> None:
    """`--lf` judges again what failed, and only that."""
    assert run(*RAISES).status == 1
    done = run(*RAISES, "--lf")
    assert set(judged(done, "raises")) == {"TNY-02", "TNY-03"}, done.output


def test_junit(run) -> None:
    """JUnit's properties carry rule, level, subject and verdict, for a dead worker's item too."""
    run(*TINY, "--flowcheck-subject=strikes:Exits0", "--junitxml=junit.xml")
    found = {}
    for case in ElementTree.parse(run.folder / "junit.xml").iter("testcase"):
        facts = {p.get("name"): p.get("value") for p in case.iter("property")}
        assert case.get("name") == f"{facts['flowcheck_rule']}[exits0]"
        found[facts["flowcheck_rule"]] = facts["flowcheck_level"], facts["flowcheck_verdict"]
    assert found["TNY-02"] == ("MUST", "CRASHED")
    assert found["TNY-05"] == ("SHOULD", "PASS")
    assert len(found) == 7


def test_verdicts_are_the_words_of_the_report(run) -> None:
    """`-v` says verdicts; a SHOULD that is not kept is a category of its own and fails nothing; skips say why."""
    done = run(*TINY, "--flowcheck-subject=strikes:Rude", "-v", "-n0")
    assert done.status == 0, done.output
    assert "TNY-05[rude] SHOULD VIOLATED" in done.output
    assert "1 should not kept" in done.output
    assert "1 SHOULD rule not kept (TNY-05)" in done.last
    done = run(*TINY, "--flowcheck-subject=strikes:Plain", "--flowcheck-subject=strikes:Moonless", "-rs")
    assert "NOT-CLAIMED: capability not claimed: extra" in done.output
    assert "NOT-TESTABLE: this machine lacks the moon" in done.output
    assert "capabilities not claimed: extra" in done.output
    assert done.status == 0


@pytest.mark.parametrize(
    "args", [("-n3",), ("-n0",), ("-pno:xdist",), ("-pno:terminal",), ("-pno:timeout",), ("--pdb",)]
)
def test_every_way_to_run(run, args: tuple[str, ...]) -> None:
    """Workers, none, no xdist, no terminal, no pytest-timeout, a debugger at hand: the same verdicts."""
    done = run(*(word for word in CALM if word != "-n1"), *args)
    assert (done.status, set(done.verdicts("calm").values()), done.left) == (0, {"PASS"}, []), done.output


def test_strict_mode_and_warnings_as_errors(run) -> None:
    """pytest's strict mode and `filterwarnings = error` change nothing."""
    (run.folder / "pytest.ini").unlink()
    (run.folder / "pyproject.toml").write_text('[tool.pytest]\nstrict = true\nfilterwarnings = ["error"]\n')
    for mode in ("-n2", "-n0", "-pno:timeout"):
        done = run(*CALM, mode)
        assert (done.status, set(done.verdicts("calm").values())) == (0, {"PASS"}), done.output


def test_a_short_timeout_of_the_users_decides_nothing(run) -> None:
    """The user's `--timeout` bounds his tests; a verdict is never made by a clock."""
    done = run(
        *TINY, "--flowcheck-subject=strikes:Spins", "--flowcheck-only=TNY-02", "--flowcheck-patience=3", "--timeout=1"
    )
    assert judged(done, "spins") == {"TNY-02": "INCONCLUSIVE"}, done.output


def test_subjects_from_the_ini_file(run) -> None:
    """`flowcheck_subject` names what is certified by default, in pyproject's own types too; it switches nothing on."""
    (run.folder / "pytest.ini").unlink()
    (run.folder / "pyproject.toml").write_text(
        '[tool.pytest]\nflowcheck_subject = ["strikes.py:Calm", "strikes:Plain"]\n'
    )
    done = run(*TINY)
    assert set(done.certificates) == {"calm", "plain"}, done.output
    assert run(report=False).status == 5


def test_a_file_named_in_the_ini_file_is_found_from_below(run) -> None:
    """A `file.py:attr` of the ini file is meant from the ini file's folder."""
    (run.folder / "pytest.ini").write_text("[pytest]\nflowcheck_subject = pools.py:Same\n")
    (run.folder / "below").mkdir()
    done = run("--flowcheck-only=EXE-01", "--co", "-q", below="below", report=False)
    assert "EXE-01[ThreadPoolExecutor]" in done.output


def test_names_that_clash_are_told_apart(run) -> None:
    """Two subjects of one name get ids and folders of their own; one subject asked for twice is one."""
    subjects = ("pools:Same", "concurrent.futures:ThreadPoolExecutor", "concurrent.futures:ThreadPoolExecutor")
    done = run(*(f"--flowcheck-subject={s}" for s in subjects), "--flowcheck-only=EXE-01")
    assert len(done.certificates) == 2, done.output
    assert (
        "EXE-01[ThreadPoolExecutor@pools:Same]"
        in run(*(f"--flowcheck-subject={s}" for s in subjects), "--co", "-q").output
    )


def test_subjects_and_facets_by_hook(run) -> None:
    """A conftest.py adds a subject by name; it is listed, and its facet is explained."""
    done = run(*TINY, "--flowcheck-subject=calm-by-hook")
    assert set(done.verdicts("calm").values()) == {"PASS"}, done.output
    listed = run("--flowcheck-list", report=False)
    assert listed.status == 0
    assert "calm-by-hook" in listed.output
    assert "TNY-01 MUST" in listed.output
    assert "EXE-04 MUST" in listed.output
    explained = run("--flowcheck-explain", "tny-06", report=False)
    assert (explained.status, "Capabilities:  extra" in explained.output) == (0, True), explained.output


def test_a_failure_tells_its_story_and_how_to_see_it_again(run) -> None:
    """The failure is text, not a traceback; its reproducer works."""
    done = run(*RAISES)
    assert "Traceback" not in done.output
    assert "Reproduce:     pytest --flowcheck --flowcheck-subject=strikes:Raises --flowcheck-only=TNY-02" in done.output
    again = run("--flowcheck-subject=strikes:Raises", "--flowcheck-only=TNY-02")
    assert judged(again, "raises") == {"TNY-02": "VIOLATED"}, again.output
