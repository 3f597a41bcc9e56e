"""`pytest --flowcheck tests/`: the user's tests run as he configured them, the certification runs beside them."""

from __future__ import annotations

TINY = ("--flowcheck", "--flowcheck-facet=tiny")


def test_both_run_and_neither_disturbs(run) -> None:
    """His tests see their fixtures, hooks and addopts; the card stands in the summary; both outcomes make the exit code."""
    (run.folder / "pytest.ini").write_text("[pytest]\naddopts = --junitxml=his.xml -p no:cacheprovider\n")
    (run.folder / "test_theirs.py").write_text("def test_it(tmp_path): assert tmp_path\n")
    done = run(*TINY, "--flowcheck-subject=strikes:Calm", "test_theirs.py")
    assert done.status == 0, done.output
    assert "1 passed" in done.output
    assert "7/7" not in done.output
    assert "tiny" in done.output
    assert set(done.verdicts("calm").values()) == {"PASS"}
    assert 'name="test_it"' in (run.folder / "his.xml").read_text()
    assert "TNY-01" not in (run.folder / "his.xml").read_text()


def test_a_violation_fails_the_whole(run) -> None:
    """Green tests and a violated rule: exit code 1."""
    (run.folder / "test_theirs.py").write_text("def test_it(): pass\n")
    done = run(*TINY, "--flowcheck-subject=strikes:Raises", "test_theirs.py")
    assert done.status == 1, done.output
    assert "exit 1: 2 MUST rules VIOLATED (TNY-02, TNY-03)" in done.output


def test_his_failures_stay_his(run) -> None:
    """Red tests and kept rules: exit code 1, and the certificate is as good as ever."""
    (run.folder / "test_theirs.py").write_text("def test_it(): assert 0\n")
    done = run(*TINY, "--flowcheck-subject=strikes:Calm", "test_theirs.py", "-n2")
    assert done.status == 1, done.output
    assert set(done.verdicts("calm").values()) == {"PASS"}


def test_paths_in_addopts_do_not_nest(run) -> None:
    """Paths that stand in the ini file count as given, once: the certification beside them has no company of its own."""
    (run.folder / "pytest.ini").write_text("[pytest]\naddopts = --flowcheck --flowcheck-facet=tiny test_theirs.py\n")
    (run.folder / "test_theirs.py").write_text("def test_it(): pass\n")
    done = run("--flowcheck-subject=strikes:Calm")
    assert (done.status, done.left) == (0, []), done.output
    assert set(done.verdicts("calm").values()) == {"PASS"}


def test_a_rough_conftest(run) -> None:
    """Hooks that take every item for a function, skip what they don't know, or fail, see nothing of a certification."""
    with (run.folder / "conftest.py").open("a") as file:
        file.write(
            "import pytest\n"
            "def pytest_collection_modifyitems(items):\n"
            "    for item in items:\n"
            "        item.function.__doc__, item.fixturenames, item.module.__name__, item.cls\n"
            "        item.add_marker(pytest.mark.skip(reason='not mine'))\n"
            "def pytest_runtest_setup(item):\n"
            "    raise RuntimeError(item.callspec)\n"
            "def pytest_runtest_call(item):\n"
            "    item.funcargs['request'].node\n"
            "@pytest.fixture(autouse=True, scope='session')\n"
            "def broken():\n"
            "    raise RuntimeError\n"
        )
    for mode in ("-n2", "-n0"):
        done = run(*TINY, "--flowcheck-subject=strikes:Calm", mode)
        assert (done.status, set(done.verdicts("calm").values())) == (0, {"PASS"}), done.output
