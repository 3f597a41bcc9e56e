"""Other plugins don't disturb a certification, nor it them."""

from __future__ import annotations

import pytest

TINY = ("--flowcheck", "--flowcheck-facet=tiny")


@pytest.mark.parametrize("mode", ["-n2", "-n0"])
def test_all_at_once(run, mode: str) -> None:
    """pytest-asyncio in auto mode, pytest-randomly, pytest-cov: the same verdicts, and the coverage report is there."""
    pytest.importorskip("pytest_asyncio")
    pytest.importorskip("pytest_randomly")
    pytest.importorskip("pytest_cov")
    (run.folder / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    done = run(*TINY, "--flowcheck-subject=strikes:Calm", "--cov=strikes", mode, quiet=False)
    assert (done.status, set(done.verdicts("calm").values())) == (0, {"PASS"}), done.output
    assert "strikes.py" in done.output


@pytest.mark.parametrize(("mode", "subject"), [("-n2", "Raises"), ("-n0", "Raises"), ("-n1", "Exits0")])
def test_a_rerun_means_unstable(run, mode: str, subject: str) -> None:
    """A rule that pytest-rerunfailures runs again has no verdict but UNSTABLE, in whatever process it ends."""
    pytest.importorskip("pytest_rerunfailures")
    done = run(*TINY, f"--flowcheck-subject=strikes:{subject}", "--reruns=1", mode, quiet=False)
    read = done.verdicts(subject.lower())
    assert (read["TNY-02"], read["TNY-03"], read["TNY-04"]) == ("UNSTABLE", "UNSTABLE", "PASS"), done.output
    assert done.status == 1
    assert done.left == []


def test_timeouts_by_thread(run) -> None:
    """pytest-timeout's thread method leaves a proven hang proven."""
    done = run(*TINY, "--flowcheck-subject=strikes:Hangs", "--timeout=60", "--timeout-method=thread")
    assert done.verdicts("hangs")["TNY-02"] == "HUNG", done.output
