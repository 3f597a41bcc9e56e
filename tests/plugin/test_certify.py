"""`@certify`: rules as ordinary tests of a user's own suite, judged in the process that runs them."""

from __future__ import annotations

import re

import pytest

import pytest_flowcheck

HEAD = """
import gc, sys, threading, unittest
import pytest
import pytest_flowcheck
from strikes import *
"""
MANY = f"""{HEAD}
@pytest_flowcheck.certify(Calm, facets="tiny")
def test_one(rule, tmp_path):
    assert (rule.facet, rule.subject, rule.level) == ("tiny", "calm", "SHOULD" if rule.id == "TNY-05" else "MUST")
    assert tmp_path.is_dir()
    rule()

class TestOfMine:
    @pytest_flowcheck.certify(pytest.param(Plain, marks=pytest.mark.xfail(reason="mine")), "strikes:Rude", only="TNY-01,TNY-04")
    def test_two(self, rule):
        print("asked", rule.id, rule.sentence)
        rule()

class TestAsEver(unittest.TestCase):
    def setUp(self):
        self.ready = True

    @pytest_flowcheck.certify(Raises, only=["TNY-02", "TNY-04"])
    def test_three(self, rule):
        assert self.ready
        rule()

    def test_else(self):
        pass
"""
HANGS = f"""{HEAD}
class Stuck(Hangs):
    name = "stuck"
    def strike(self):
        thread = threading.Thread(target=threading.Event().wait, name="stays")
        thread.start()
        thread.join()

def test_before():
    global hooks
    hooks = threading.excepthook, sys.unraisablehook

@pytest_flowcheck.certify(Stuck, only=["TNY-02", "TNY-04"])
def test_stuck(rule): rule()

def test_afterwards():
    assert (threading.excepthook, sys.unraisablehook) == hooks
    assert gc.get_freeze_count() == 0
    assert gc.isenabled()
"""


@pytest.fixture
def theirs(run):
    """`theirs(text, *options)`: a run of a test module of theirs."""

    def theirs(text: str, *options: str, path: str = "test_theirs.py", ini: str = ""):
        (run.folder / "pytest.ini").write_text(f"[pytest]\n{ini}")
        file = run.folder / path.partition("::")[0]
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return run(path, "-v", "-p", "no:cacheprovider", *options, report=False)

    return theirs


def ends(done) -> dict[str, str]:
    """Test -> the word that it ended in."""
    found = re.findall(
        r"^(?:\[gw\d\] \[ *\d+%\] )?(?:(\w+) )?test_theirs.py::(\S+)(?: (SHOULD \w+|[A-Z-]+))?",
        done.output,
        re.MULTILINE,
    )
    return {
        name: word or first for first, name, word in found if word or first not in {"", "FAILED", "ERROR", "SKIPPED"}
    }


@pytest.mark.parametrize("mode", [("-n0",), ("-n2",), ("-n0", "--import-mode=importlib")], ids=" ".join)
def test_one_ordinary_test_for_each_rule(theirs, mode: tuple[str, ...]) -> None:
    """In functions, classes and unittest's; with fixtures and marks; the parametrised ids, the words of verdicts."""
    done = theirs(MANY, *mode)
    calm = {f"test_one[TNY-0{n}]": "PASSED" for n in range(1, 8)}
    others = {
        f"TestOfMine::test_two[TNY-0{n}-{who}]": word
        for n in (1, 4)
        for who, word in (("plain", "XPASS"), ("rude", "PASSED"))
    }
    old = {"TestAsEver::test_three[TNY-04]": "PASSED", "TestAsEver::test_else": "PASSED"}
    failed = "TestAsEver::test_three[TNY-02]"
    assert failed in done.output
    got = ends(done)
    got.pop(failed, None)
    assert got == {**calm, **others, **old}, done.output
    assert done.status == 1
    assert "1 failed, 11 passed, 2 xpassed" in done.output
    assert "What it did:   the subject raised ValueError('the strike hit its owner')" in done.output
    assert f"Reproduce:     pytest 'test_theirs.py::{failed}'" in done.output
    assert "Traceback" not in done.output
    assert "asked TNY-01 Nothing happens here." not in done.output  # captured, as of any test that passes


@pytest.mark.parametrize("chosen", ["test_one[TNY-03]", "TestAsEver::test_three[TNY-04]"])
def test_an_id_selects(theirs, chosen: str) -> None:
    """As that of any parametrised test."""
    done = theirs(MANY, path=f"test_theirs.py::{chosen}")
    assert (done.status, ends(done)) == (0, {chosen: "PASSED"}), done.output


def test_a_hang_fails_its_test_and_the_run_ends(theirs) -> None:
    """It is proven, with the wait list; the next test finds the process as it was; the exit status is right although a thread
    of the subject would hold up the exit for ever."""
    done = theirs(HANGS, "-p", "no:xdist", ini="timeout = 250")
    assert done.status == 1, done.output
    assert "HUNG (MUST) TNY-02 on stuck" in done.output
    assert "thread 'stays' waits" in done.output
    assert "1 failed, 3 passed" in done.output
    assert done.left == []


def test_threads_of_other_tests_make_no_false_proof(theirs) -> None:
    """A pool that another test has started works for the subject: what it computes is on its way, not forgotten."""
    text = f"""{HEAD}
from concurrent.futures import ThreadPoolExecutor
import hashlib
shared = ThreadPoolExecutor(1)

def compute():
    text = b"x"
    for _ in range(300_000):
        text = hashlib.sha256(text).digest()

class Shares(Calm):
    name = "shares"
    def strike(self):
        shared.submit(compute).result()

def test_warm():
    shared.submit(int).result()

@pytest_flowcheck.certify(Shares, only="TNY-02")
def test_it(rule): rule()
"""
    done = theirs(text, "-p", "no:xdist")
    assert (done.status, ends(done)) == (0, {"test_warm": "PASSED", "test_it[TNY-02]": "PASSED"}), done.output


def test_what_does_not_keep_a_should_passes_and_says_so(theirs) -> None:
    """No failure, no warning: a word of its own; what is not claimed is skipped with why."""
    text = f"""{HEAD}
class Sad(Rude):
    name = "sad"

@pytest_flowcheck.certify(Rude, facets="tiny")
def test_it(rule): rule()

@pytest_flowcheck.certify(Plain, facets="tiny")
def test_plain(rule): rule()
"""
    done = theirs(text, "-rs", "-W", "error")
    assert done.status == 0, done.output
    assert "SHOULD VIOLATED" in ends(done).values()
    assert "NOT-CLAIMED: capability not claimed: extra" in done.output


def test_a_baseline_of_its_own(theirs, run) -> None:
    """What it expects is an expected failure; what is not true any more fails the very rule."""
    (run.folder / "known.toml").write_text(
        '[[expected]]\nid = "TNY-02"\nreason = "it is nasty"\nissue = "#7"\n'
        '[[expected]]\nid = "TNY-04"\nreason = "an old story"\n'
        '[[expected]]\nid = "TNY-03"\nreason = "for a while"\nuntil = 2001-01-01\n'
    )
    text = f"""{HEAD}
@pytest_flowcheck.certify(Raises, baseline="known.toml", facets="tiny")
def test_it(rule): rule()
"""
    done = theirs(text, "-rx")
    assert done.status == 1, done.output
    assert "VIOLATED, as expected: it is nasty (#7)" in done.output
    assert "2 failed" in done.output
    assert "is out of date: TNY-04 holds now" in done.output
    assert "is out of date: TNY-03 was to be borne until 2001-01-01 only" in done.output


BAD = {
    "@pytest_flowcheck.certify(Clam)": "NameError: name 'Clam' is not defined",
    "@pytest_flowcheck.certify(Calm())": "certify(): got <strikes.Calm object",
    "@pytest_flowcheck.certify('strikes:Clam')": "certify(): subject 'strikes:Clam': strikes has no attribute",
    "@pytest_flowcheck.certify(Calm, facets='tinny')": "certify(): facets: no facet 'tinny'; did you mean 'tiny'?",
    "@pytest_flowcheck.certify(Calm, only='TNY-99')": "certify(): no rule 'TNY-99'",
    "@pytest_flowcheck.certify(Calm, facets='retry')": "'calm' has nothing to judge: it claims tiny, not retry",
    "@pytest_flowcheck.certify(Calm, baseline='none.toml')": "none.toml' isn't there; write it with",
    "@pytest_flowcheck.certify(pytest.param(Calm, Plain))": "expected one subject in it",
    "@pytest_flowcheck.certify(local())": "is made inside a function, so no other process can load it",
}


def test_bad_input_is_one_line(run) -> None:
    """What we got, what was expected, what to write instead; also of a function that takes no `rule`."""
    local = "def local():\n    class Inner(Calm): pass\n    return Inner\n"
    files = [f"{HEAD}{local}\n{decorator}\ndef test_it(rule): rule()\n" for decorator in BAD]
    files.append(f"{HEAD}\n@pytest_flowcheck.certify(Calm)\ndef test_it(): pass\n")
    for number, text in enumerate(files):
        (run.folder / f"test_{number}.py").write_text(text)
    done = run(".", "-p", "no:cacheprovider", report=False)
    assert f"{len(files)} errors" in done.last, done.output
    for line in (*BAD.values(), "certify(): test_it takes no argument `rule`; write def test_it(rule): rule()"):
        assert line in done.output, line
    assert done.output.count("Traceback") <= 1  # of the name that is none
    assert "INTERNALERROR" not in done.output


def test_the_decorator_itself_refuses_nonsense() -> None:
    """At once, as any decorator would."""
    with pytest.raises(TypeError, match="names no subject"):
        pytest_flowcheck.certify()
    with pytest.raises(TypeError, match="decorates a test function"):
        pytest_flowcheck.certify(int)(type("TestIt", (), {}))  # type: ignore[type-var]


def test_a_rule_that_is_run_again_has_no_verdict(theirs) -> None:
    """Whatever another plugin does: a rule that needs two tries has none."""
    text = f"""{HEAD}
@pytest_flowcheck.certify(Raises, only="TNY-02")
def test_it(rule):
    try:
        rule()
    except BaseException:
        rule()
"""
    done = theirs(text)
    assert "UNSTABLE (MUST) TNY-02 on raises" in done.output
    assert done.status == 1


def test_a_subject_whose_module_starts_threads_is_accused_of_nothing(run) -> None:
    """They are the subject's, imported by a `conftest.py` or not: what they compute is not finished, not forgotten."""
    (run.folder / "eager.py").write_text(
        """
import hashlib, queue, threading
from strikes import Calm
asked, done = queue.SimpleQueue(), queue.SimpleQueue()

def work():
    while True:
        asked.get()
        text = b"x"
        for _ in range(300_000):
            text = hashlib.sha256(text).digest()
        done.put(text)

threading.Thread(target=work, daemon=True, name="eager").start()

class Eager(Calm):
    name = "eager"
    def strike(self):
        asked.put(1)
        done.get()
"""
    )
    conftest = run.folder / "conftest.py"
    for text in ("", "import eager\n"):
        conftest.write_text(text + conftest.read_text())
        certified = run("--flowcheck", "--flowcheck-subject=eager:Eager", "--flowcheck-only=TNY-02,TNY-04", "-n1")
        assert certified.verdicts("eager")["TNY-02"] == "PASS", certified.output
