"""Finding and opening subjects: what works, and the one line that says what does not."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from pytest_flowcheck import subjects
from pytest_flowcheck.errors import UsageError
from pytest_flowcheck.rules import bundled_rules, find_rules, rule


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_bundled_subjects_are_known_by_name() -> None:
    """The folder of adapters and the entry points are the registry."""
    assert {"reference", "stdlib-threads", "stdlib-processes"} <= set(subjects.registered())


def test_a_bare_executor_is_a_subject() -> None:
    """A class needs no adapter: its claims come from a first probe, its version from its distribution."""
    subject = subjects.first_probe(subjects.load("concurrent.futures:ThreadPoolExecutor"))
    assert subject.name == "ThreadPoolExecutor"
    assert subject.version == platform.python_version()
    assert subject.claims == {"executor": frozenset({"threads"})}
    assert subject.unclaimed == ("initializer",)


def test_a_file_is_a_subject(tmp_path: Path) -> None:
    """`file.py:attr` loads it, with the claims that it states."""
    spec = write(
        tmp_path,
        "my_factory_a.py",
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def make(max_workers):\n    return ThreadPoolExecutor(max_workers)\n"
        "make.flowcheck_claims = {'cancel_futures'}\n",
    )
    subject = subjects.first_probe(subjects.load(spec + ":make"))
    assert subject.claims["executor"] == {"threads", "cancel_futures"}


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("stdlib-thread", ["no subject 'stdlib-thread'", "stdlib-threads"]),
        ("no_such_module_x:Thing", ["no module 'no_such_module_x'", "sys.path"]),
        (
            "concurrent.futures:ThreadPoolExecutr",
            ["no attribute 'ThreadPoolExecutr'", "did you mean ThreadPoolExecutor"],
        ),
        ("nowhere.py:make", ["no file 'nowhere.py'"]),
        ("os:getpid", ["max_workers"]),
        ("os:sep", ["is an object of type str", "expected an Executor class"]),
    ],
)
def test_what_is_no_subject_gets_one_line(spec: str, parts: list[str]) -> None:
    """It says what we got, what was expected and what to write instead."""
    with pytest.raises(UsageError) as caught:
        subjects.load(spec)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("def make(max_workers): raise OSError('no\\nlicence')", "OSError: no licence"),
        ("def make(max_workers): return 7", "an object of type int"),
        (
            "class make:\n    claims = {'executor': {'thread'}}\n    def executor(self, *, max_workers): ...",
            "did you mean 'threads'?",
        ),
        ("class make:\n    claims = {'executor': set()}", "has no method executor()"),
        ("class make:\n    claims = {}\n    def __init__(self, x): ...", "made without arguments"),
        ("def make(max_workers): ...\nmake.flowcheck_claims = 'cancel_futures'", "expected a set of capabilities"),
        ("def make(max_workers): ...\nmake.flowcheck_declares = ['x']", "expected a mapping"),
        ("def make(max_workers): ...\nmake.flowcheck_declares = {'submit': 'explode'}", "submit: queue or block"),
        ("raise ValueError('at import')", "ValueError: at import"),
        ("from concurrent.futures import ThreadPoolExecutor\nmake = ThreadPoolExecutor(1)", "already open"),
    ],
)
def test_broken_factories_and_adapters_get_one_line(
    tmp_path: Path, body: str, part: str, request: pytest.FixtureRequest
) -> None:
    """No traceback: one line that names the mistake."""
    name = f"factory_{abs(hash(body))}.py"
    with pytest.raises(UsageError) as caught:
        subjects.first_probe(subjects.load(write(tmp_path, name, body) + ":make"))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_misspelt_rule_names_its_neighbours() -> None:
    """`EXE-3` is no rule; the line says which are near."""
    with pytest.raises(UsageError, match="EXE-03"):
        find_rules(["EXE-3"], bundled_rules())
    assert [r.id for r in find_rules(["exe-04", "EXE-01"], bundled_rules())] == ["EXE-01", "EXE-04"]


def test_a_rule_without_its_sections_is_refused() -> None:
    """The docstring is the specification, so it must be whole."""
    with pytest.raises(ValueError, match="lacks Intent"):

        @rule("XYZ-01")
        def incomplete(lab: object) -> None:
            """A sentence."""

    with pytest.raises(ValueError, match="no rule id"):
        rule("XYZ-1")


ABSENT = """
from contextlib import nullcontext
class make:
    requires = {requires}
    claims = {{'retry': {{'policy'}}}}
    def retry(self, *, max_workers): return nullcontext()
"""


@pytest.mark.parametrize(
    ("requires", "line"),
    [
        (("no-such-library", "pytest"), "pip install no-such-library"),
        (("no-such-library", "nor-this-one"), "pip install no-such-library nor-this-one"),
    ],
)
def test_an_adapter_whose_library_is_missing_says_what_to_install(
    tmp_path: Path, requires: tuple[str, ...], line: str
) -> None:
    """It is listed all the same; loading it is one line that names what `requires` names and is not there."""
    name = f"absent_{len(requires)}_{abs(hash(requires))}.py"
    with pytest.raises(UsageError) as caught:
        subjects.load(write(tmp_path, name, ABSENT.format(requires=requires)) + ":make")
    assert str(caught.value).endswith(line)
    assert "\n" not in str(caught.value)


def test_the_version_is_that_of_what_is_required_first(tmp_path: Path) -> None:
    """The certificate tells which release was judged, not which release of the kit holds its adapter."""
    spec = write(tmp_path, "adapter_of_pytest.py", ABSENT.format(requires=("pytest", "pluggy")))
    assert subjects.load(spec + ":make").version == pytest.__version__
