"""`flowcheck init`: what it sees, what it writes, and that it runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from flowcheck_reference.subject import Reference, ReferenceAsync
from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Verdict
from pytest_flowcheck.errors import UsageError
from pytest_flowcheck.proof import Harness
from pytest_flowcheck.rules import bundled_rules
from pytest_flowcheck.running import resolve
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.shell.commands import init

THINGS = '''
"""Things as people write them."""

from concurrent.futures import ThreadPoolExecutor


class Again:
    """Options in the constructor; another kind of count, and an error of its own."""

    def __init__(self, max_retries, delay=0):
        self.max_retries, self.delay = max_retries, delay

    def run(self, func):
        for left in reversed(range(self.max_retries + 1)):
            try:
                return func()
            except Exception as error:
                if not left:
                    raise RuntimeError("gave up") from error


def call_again(func, tries=3, exceptions=(Exception,)):
    for left in reversed(range(tries)):
        try:
            return func()
        except exceptions:
            if not left:
                raise


def again(attempts):
    """A decorator."""
    return lambda function: lambda: call_again(function, attempts)


def map_some(func, items, limit):
    with ThreadPoolExecutor(limit) as pool:
        return list(pool.map(func, items))


class Backwards:
    """The state first, the name behind it."""

    def __init__(self, path):
        self.path, self.kept = path, {}

    def dump(self, a, b):
        import json
        self.path.mkdir(exist_ok=True)
        (self.path / b).write_text(json.dumps(a))

    def load(self, b):
        import json
        return json.loads((self.path / b).read_text())


class Keeps:
    """A decorator: the constructor takes the options, the call a function."""

    def __init__(self, times=3, wait=0.3, catch=Exception):
        self.options = times, catch, wait

    def __call__(self, fn):
        return lambda: patiently(fn, *self.options)


def patiently(fn, tries=3, catch=Exception, wait=0.3):
    import time
    for left in reversed(range(tries)):
        try:
            return fn()
        except catch:
            if not left:
                raise
            time.sleep(wait)


def deaf(fn, times=3, delay=0, only=OSError):
    """Its delay is none, its errors are under a name that nobody knows, and it tries once more than it says."""
    return patiently(fn, times + 1, Exception, 0)


class Never:
    """Gives a function that gives one, and so on."""

    def __init__(self, tries=3):
        pass

    def __call__(self, fn):
        return lambda: self.__call__(fn)


def greedy(func, items, limit):
    """Runs more at once than it is told."""
    return map_some(func, items, limit + 1)


class Mill:
    def __init__(self, workers=4):
        pass

    def run(self, workflow, value=None):
        pass

    def close(self):
        pass


class AsyncMill:
    async def execute(self, my_graph):
        pass


class Nothing:
    """Offers nothing that the kit knows."""

    def sing(self):
        pass


class Liar:
    """It looks like a store, and forgets."""

    def __init__(self, folder):
        pass

    def save(self, run_id, state):
        pass

    def load(self, run_id):
        return {}


class Dies:
    def __init__(self, folder):
        import os
        os._exit(3)

    def save(self, run_id, state): ...

    def load(self, run_id): ...


class Stuck:
    def __init__(self, folder):
        import threading
        threading.Event().wait()

    def save(self, run_id, state): ...

    def load(self, run_id): ...


THERE = Nothing()
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with `things.py`, in which the command is run."""
    (tmp_path / "things.py").write_text(THINGS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What children are asked is answered here: these things do no harm, and an interpreter for each question is dear."""

    def ask(function: str, *asked: Any, about: str) -> dict[str, Any]:
        module, _, name = function.partition(":")
        try:
            return {"value": getattr(import_module(module), name)(*asked)}
        except UsageError as error:
            return {"usage": str(error)}

    monkeypatch.setattr(init, "_ask", ask)


def loaded(spec: str) -> subjects.Subject:
    """As a certification loads it."""
    return subjects.first_probe(subjects.load(spec))


def verdict(subject: subjects.Subject, rule: str) -> Verdict:
    (wanted,) = [each for each in bundled_rules() if each.id == rule]
    return judge(wanted, subject, Harness.at_start(), thorough=False).verdict


# --- what works is written --------------------------------------------------------------------------------------------------


ENGINE = [
    ("Retrier", "retry", Reference),
    ("AsyncRetrier", "retry", ReferenceAsync),
    ("Fanout", "fanout", Reference),
    ("AsyncFanout", "fanout", ReferenceAsync),
    ("JsonStore", "store", Reference),
    ("LoopPool", "looppool", Reference),
    ("Clients", "client", ReferenceAsync),
    ("Service", "isolation", Reference),
    ("Tracer", "tracing", Reference),
]
LEAST = {
    "retry": {"bounded", "context", "policy", "timeout"},
    "fanout": {"context", "continue"},
    "store": {"log"},
    "looppool": {"context", "ttl"},
    "client": {"close", "slow_factory"},
    "isolation": {"sessions", "threads"},
    "tracing": set[str](),
}


@pytest.mark.usefixtures("here", "in_process")
@pytest.mark.parametrize(("name", "facet", "by_hand"), ENGINE, ids=[each[0] for each in ENGINE])
def test_the_engine_is_drafted_nearly_as_by_hand(flowcheck: Any, name: str, facet: str, by_hand: Any) -> None:
    """Each part of the reference engine gives an adapter that loads, whose claims are some of those that are made by hand."""
    done = flowcheck("init", f"flowcheck_reference:{name}", "--out=mine.py")
    assert done.status == 0, done.err
    assert f"{facet:10} yes" in done.out
    subject = loaded(f"mine.py:My{name}")
    claims = subject.claims[facet] - {"async"}
    assert LEAST[facet] <= claims <= by_hand.claims[facet]
    assert list(subject.claims) == [facet]
    assert ("async" in subject.claims[facet]) == (name.startswith("Async") or facet == "client")


@pytest.mark.usefixtures("here", "in_process")
def test_both_ways_in_are_two_adapters(flowcheck: Any) -> None:
    """What can be called and awaited is written twice, in one file, each of its own colour."""
    assert "mine.py:MyTracerAsync" in flowcheck("init", "flowcheck_reference:Tracer", "--out=mine.py").out
    assert "async" not in loaded("mine.py:MyTracer").claims["tracing"]
    assert "async" in loaded("mine.py:MyTracerAsync").claims["tracing"]


@pytest.mark.usefixtures("here", "in_process")
@pytest.mark.parametrize(
    ("target", "facet", "rule"),
    [
        ("things.py:Again", "retry", "RTY-01"),
        ("things.py:call_again", "retry", "RTY-02"),
        ("things.py:again", "retry", "RTY-01"),
        ("things.py:map_some", "fanout", "FAN-01"),
        ("things.py:Backwards", "store", "STO-16"),
        ("json", "store", "STO-16"),
        ("tenacity:Retrying", "retry", "RTY-02"),
        ("shelve:open", "store", "STO-16"),
        ("diskcache:Cache", "store", "STO-16"),
    ],
)
def test_things_of_other_people(flowcheck: Any, target: str, facet: str, rule: str) -> None:
    """Constructor, function, decorator, module or mapping: it is held rightly, for a rule that it keeps passes."""
    if not target.startswith("things"):
        pytest.importorskip(target.partition(":")[0])
    done = flowcheck("init", target, "--out=mine.py")
    assert f"{facet:10} yes" in done.out, done.out + done.err
    name = done.out.strip().rpartition(":")[2]
    assert verdict(loaded(f"mine.py:{name}"), rule) is Verdict.PASS, Path("mine.py").read_text()


@pytest.mark.usefixtures("here", "in_process")
def test_what_was_seen_stands_in_the_adapter(flowcheck: Any) -> None:
    """A count of retries is one less than attempts, an error of its own is a wrapper, a state goes before its name."""
    flowcheck("init", "things.py:Again", "--out=again.py")
    text = Path("again.py").read_text()
    assert "max_retries=policy.attempts - 1" in text
    assert '"raises": "wrapper"' in text
    assert 'claims = {"retry": {"context"}}' in text
    flowcheck("init", "things.py:Backwards", "--out=store.py")
    assert "self.thing.dump(state, run_id)" in Path("store.py").read_text()
    assert loaded("store.py:MyBackwards").errors


@pytest.mark.usefixtures("in_process")
def test_a_module_is_searched(flowcheck: Any, here: Path) -> None:
    """Of a module its likeliest part is drafted."""
    (here / "several.py").write_text(THINGS.partition("class Nothing")[0])
    done = flowcheck("init", "several.py", "--out=mine.py")
    assert done.status == 0, done.err
    assert " yes" in done.out, done.out
    assert "Again" in done.out.rpartition("mine.py:")[2] or "Backwards" in done.out.rpartition("mine.py:")[2]


@pytest.mark.usefixtures("here", "in_process")
def test_what_the_kit_holds_already_is_told(flowcheck: Any) -> None:
    """Who asks for a library that has a bundled adapter is told its name."""
    pytest.importorskip("tenacity")
    done = flowcheck("init", "tenacity:Retrying", "--no-try")
    assert "the kit holds tenacity already: pytest --flowcheck --flowcheck-subject=tenacity " in done.out


@pytest.mark.usefixtures("here", "in_process")
@pytest.mark.parametrize(
    ("target", "given", "asked"),
    [
        ("things.py:patiently", ["tries=policy.attempts", "wait=policy.backoff", "catch=policy.retry_on"], ["timeout"]),
        ("things.py:Keeps", ["times=policy.attempts", "wait=policy.backoff", ")(body)()"], ["timeout"]),
        ("things.py:again", ["attempts=policy.attempts"], ["timeout", "backoff", "retry_on"]),
        ("things.py:deaf", ["times=policy.attempts - 1", "delay=0"], ["timeout", "backoff", "retry_on"]),
    ],
)
def test_a_policy_is_told_or_refused(flowcheck: Any, target: str, given: list[str], asked: list[str]) -> None:
    """Each field of a policy is given to the thing, and was seen to be heeded, or can't be expressed: none is dropped."""
    done = flowcheck("init", target, "--facet=retry", "--out=mine.py")
    assert "retry      yes" in done.out, done.out + done.err
    text = Path("mine.py").read_text()
    assert [part for part in given if part not in text] == []
    guarded = [line.split("policy.")[1].split()[0] for line in text.splitlines() if "if policy." in line]
    assert guarded == asked
    assert all("DECIDE" in line for line in text.splitlines() if "if policy." in line)
    subject = loaded(done.out.split("--flowcheck-subject=")[1].split()[0])
    assert verdict(subject, "RTY-01") is Verdict.PASS
    expected = Verdict.NOT_TESTABLE if "backoff" in asked else Verdict.PASS
    assert verdict(subject, "RTY-11") is expected


# --- what does not is left to be decided ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here", "in_process")
@pytest.mark.parametrize("facet", ["retry", "flow", "client", "store", "isolation"])
def test_a_skeleton_accuses_nobody(flowcheck: Any, facet: str) -> None:
    """Where nothing was seen to work, a skeleton of the facet that was asked for loads, and no rule judges by it."""
    done = flowcheck("init", "things.py:Nothing", f"--facet={facet}", "--out=mine.py")
    assert done.status == 0, done.err
    assert "a skeleton of" in done.out
    subject = loaded("mine.py:MyNothing")
    first = next(rule for rule in bundled_rules() if rule.facet == facet and not rule.capabilities)
    found = judge(first, subject, Harness.at_start())
    assert found.verdict is Verdict.NOT_TESTABLE, found.message


@pytest.mark.usefixtures("here", "in_process")
def test_what_only_looks_like_it_is_no_draft(flowcheck: Any) -> None:
    """A store that forgets is told as what it did, and gets a skeleton; so does everything under --no-try."""
    done = flowcheck("init", "things.py:Liar")
    assert "perhaps: it looks like it, but no draft works: it gave {} for" in done.out
    assert "a skeleton of store" in done.out
    done = flowcheck("init", "things.py:Backwards", "--no-try", "--out=mine.py")
    assert "a skeleton of store" in done.out
    assert "DECIDE, and then delete this" in Path("mine.py").read_text()


@pytest.mark.usefixtures("here", "in_process")
def test_what_was_tried_is_told_in_words(flowcheck: Any) -> None:
    """A decorator of decorators made no attempt; a bound that is not kept is no bound."""
    told = flowcheck("init", "things.py:Never", "--facet=retry").out
    assert "calling it gave a function and made no attempt" in told
    assert "told to run 1 at a time, it ran 2" in flowcheck("init", "things.py:greedy", "--facet=fanout").out


@pytest.mark.usefixtures("here", "in_process")
@pytest.mark.parametrize("name", ["Mill", "AsyncMill"])
def test_what_runs_a_graph_is_an_engine(flowcheck: Any, name: str) -> None:
    """`run(workflow)` gets flow's skeleton, whatever else it resembles."""
    done = flowcheck("init", f"things.py:{name}")
    assert "flow       perhaps: it runs something that is called as graphs are" in done.out
    assert "a skeleton of flow" in done.out


@pytest.mark.usefixtures("here", "in_process")
def test_a_skeleton_is_not_guessed(flowcheck: Any) -> None:
    """What is like nothing is asked about, and nothing is written."""
    done = flowcheck("init", "things.py:Nothing")
    assert done.status == 4
    assert "for a skeleton choose --facet= retry, fanout, flow" in done.err
    assert not Path("flowcheck_adapter.py").exists()


@pytest.mark.usefixtures("in_process")
def test_a_draft_names_a_version(flowcheck: Any, here: Path) -> None:
    """A thing without a distribution has the version that its module says, or is unknown, for a person to decide."""
    flowcheck("init", "things.py:Nothing", "--facet=retry")
    assert loaded("flowcheck_adapter.py:MyNothing").version == "unknown"
    (here / "dated.py").write_text(f'__version__ = "2.5"\n{THINGS}')
    flowcheck("init", "dated.py:Nothing", "--facet=retry", "--out=of_dated.py")
    assert "DECIDE: its version" in Path("of_dated.py").read_text()
    assert loaded("of_dated.py:MyNothing").version == "2.5"


def test_what_dies_or_hangs_costs_a_child(flowcheck: Any, here: Path) -> None:
    """Trying it is done elsewhere: its end, or that it never comes, is the reason that is told."""
    done = flowcheck("init", "things.py:Dies", "--facet=store")
    assert "exited with status 3" in done.out, done.out + done.err
    stuck = flowcheck("init", "things.py:Stuck", "--facet=store", "--out=stuck.py")
    assert "loading it never ends" in stuck.out, stuck.out + stuck.err
    (here / "broken.py").write_text("raise RuntimeError('not today')")
    assert "RuntimeError: not today" in flowcheck("init", "broken.py:X", "--out=b.py").err


# --- what needs none, and what can't be -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here", "in_process")
def test_an_executor_needs_no_adapter(flowcheck: Any) -> None:
    """It is told by which command it is certified, and nothing is written; unless it is asked for."""
    target = "concurrent.futures:ThreadPoolExecutor"
    done = flowcheck("init", target)
    assert done.status == 0
    assert f"  pytest --flowcheck --flowcheck-subject={target}\n" in done.out
    assert not Path("flowcheck_adapter.py").exists()
    assert "yes" in flowcheck("init", target, "--facet=executor", "--out=mine.py").out
    subject = loaded("mine.py:MyThreadPoolExecutor")
    assert subject.claims == {"executor": {"threads", "cancel_futures", "initializer"}}
    assert subject.version == sys.version.split()[0]
    done = flowcheck("init", "flowcheck_reference.subject:Reference", "--out=b.py")
    assert "is an adapter already" in done.out


@pytest.mark.usefixtures("here", "in_process")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["things.py:Nope"], "has no attribute 'Nope'"),
        (["nope.py:X"], "no file 'nope.py'"),
        (["no_such_module"], "no module 'no_such_module'"),
        (["things.py:THERE"], "name its class"),
        (["things.py:"], "names nothing"),
        (["things.py:Nothing", "--facet=executor"], "no executor to hold"),
        (["things.py:Nothing", "--facet=retri"], "invalid choice"),
        (["things.py:Nothing", "--out=nowhere/x.py"], "a folder that exists"),
        (["things.py:Nothing", "--out=x.txt"], "a .py file"),
        (["things.py:Nothing", "--out=json.py"], "would hide the one of that name"),
        (["things.py:Nothing", "--out=things.py"], "is there already"),
    ],
)
def test_what_can_not_be(flowcheck: Any, arguments: list[str], words: str) -> None:
    """One line, exit code 4, nothing written."""
    before = sorted(Path().iterdir())
    done = flowcheck("init", *arguments)
    assert (done.status, done.err.count("\n")) == (4, 1), done.err
    assert words in done.err
    assert [path for path in sorted(Path().iterdir()) if path.name != "__pycache__"] == [
        path for path in before if path.name != "__pycache__"
    ]


@pytest.mark.usefixtures("in_process")
def test_nothing_is_written_over(flowcheck: Any, here: Path) -> None:
    """A file that is there stays as it is, unless it is said otherwise."""
    (here / "flowcheck_adapter.py").write_text("mine = True\n")
    assert "write over it by --force" in flowcheck("init", "things.py:Nothing").err
    assert (here / "flowcheck_adapter.py").read_text() == "mine = True\n"
    assert flowcheck("init", "things.py:Nothing", "--facet=retry", "--force").status == 0
    assert "class MyNothing" in (here / "flowcheck_adapter.py").read_text()


@pytest.mark.usefixtures("in_process")
def test_an_untouched_draft_is_written_over(flowcheck: Any, here: Path) -> None:
    """What `init` wrote it may replace, until somebody has changed a letter of it."""
    assert flowcheck("init", "things.py:Nothing", "--facet=retry").status == 0
    assert flowcheck("init", "things.py:Nothing", "--facet=flow").status == 0
    written = here / "flowcheck_adapter.py"
    assert "def flow(" in written.read_text()
    written.write_text(written.read_text().replace("nothing", "something"))
    assert "is there already" in flowcheck("init", "things.py:Nothing", "--facet=retry").err
    assert "something" in written.read_text()


@pytest.mark.usefixtures("in_process")
def test_a_thing_in_another_folder_is_found(flowcheck: Any, here: Path) -> None:
    """An adapter of `folder/file.py:Thing` has that folder on its path, wherever it is certified."""
    (here / "below").mkdir()
    (here / "below" / "deep.py").write_text(THINGS)
    assert "yes" in flowcheck("init", "below/deep.py:again", "--out=mine.py").out
    sys.modules.pop("deep", None)
    sys.path[:] = [entry for entry in sys.path if "below" not in entry]
    assert loaded("mine.py:MyAgain").name == "again"


@pytest.mark.usefixtures("in_process")
def test_drafts_are_formatted(flowcheck: Any, here: Path) -> None:
    """`ruff format` with no settings changes nothing in what was written."""
    ruff = shutil.which("ruff") or shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("ruff is not installed: pip install ruff")
    targets = [
        "flowcheck_reference:Tracer",
        "flowcheck_reference:JsonStore",
        "things.py:Again",
        "tenacity:AsyncRetrying",
    ]
    written: list[str] = []
    for number, target in enumerate(targets):
        written.append(f"a{number}.py")
        assert flowcheck("init", target, f"--out={written[-1]}").status == 0
    for facet in (each for each in init.FACETS if each != "executor"):
        written.append(f"skeleton_{facet}.py")
        flowcheck("init", "things.py:Nothing", f"--facet={facet}", f"--out={written[-1]}")
    done = subprocess.run(
        [ruff, "format", "--isolated", "--diff", *written], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_child_is_asked(here: Path) -> None:
    """A question to a function of the kit is answered by a child that has the folder on its path."""
    answer = resolve.ask(
        {"call": "pytest_flowcheck.shell.drafting.sight:look", "arguments": ["things:Again"]}, here, 30.0
    )
    assert answer["value"]["kind"] == "class"
    assert [each["name"] for each in answer["value"]["made_by"]["parameters"]] == ["max_retries", "delay"]
