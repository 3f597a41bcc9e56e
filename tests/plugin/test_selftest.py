"""`--flowcheck-selftest`: a broken engine is caught by exactly the rules that it names, or the selftest fails and says so."""

from __future__ import annotations

BROKEN = """
from pytest_flowcheck.protocols import breaks
from strikes import Calm, Exits0, Hangs, Raises, Rude

@breaks("TNY-02", "TNY-03")
class Raising(Raises): ...

@breaks("TNY-02", "TNY-03")
class Exiting(Exits0): ...

@breaks("TNY-05")
class Impolite(Rude): ...
"""


def offer(run, source: str) -> dict[str, str]:
    """An installed distribution that offers broken engines, and the environment in which it alone does."""
    (run.folder / "wrong").mkdir()
    (run.folder / "wrong" / "__init__.py").write_text("")
    (run.folder / "wrong" / "tiny.py").write_text(source)
    info = run.folder / "wrong-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pytest_flowcheck.broken]\nwrong = wrong\n")
    return {"PYTHONPATH": str(run.folder)}


def test_all_caught(run) -> None:
    """Engines that fail exactly what they name are all caught: exit code 0, and items of a dead worker pass too."""
    env = offer(run, BROKEN)
    picked = [f"--flowcheck-subject={name}" for name in ("Raising", "Exiting", "Impolite")]
    done = run("--flowcheck-selftest", "--flowcheck-facet=tiny", *picked, env=env, report=False)
    assert done.status == 0, done.output
    assert "selftest: 3 of 3 broken engines caught by exactly their rules" in done.output
    assert done.left == []


def test_misses_are_named(run) -> None:
    """An engine that is not caught, and one that is accused of more than it breaks, are named with rule and verdict."""
    wrong = BROKEN + '@breaks("TNY-02")\nclass Sound(Calm): ...\n@breaks("TNY-02")\nclass TooMuch(Raises): ...\n'
    env = offer(run, wrong)
    done = run(
        "--flowcheck-selftest", "--flowcheck-subject=Sound", "--flowcheck-subject=TooMuch", "--flowcheck-facet=tiny",
        env=env, report=False,
    )  # fmt: skip
    assert done.status == 1, done.output
    assert "0 of 2 broken engines" in done.output
    assert "TNY-02 on Sound reads PASS; that engine must fail it" in done.output
    assert "TNY-03 on TooMuch reads VIOLATED; that engine must not fail it" in done.output


def test_a_selftest_certifies_nobody(run) -> None:
    """A report folder makes no sense here; a misspelt engine is one line."""
    env = offer(run, BROKEN)
    assert run("--flowcheck-selftest", "--flowcheck-subject=Raising", env=env).status == 4
    done = run("--flowcheck-selftest", "--flowcheck-subject=Raisin", env=env, report=False)
    assert (done.status, "did you mean Raising" in done.output) == (4, True), done.output
