"""Whose fault an error is: the adapter's where that is certain, never the subject's for it; and no bug is hidden so."""

from __future__ import annotations

import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bystanders import fresh_harness

from pytest_flowcheck import adapters, subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.probes import blame
from pytest_flowcheck.probes.lab import Lab
from pytest_flowcheck.rules import Rule, bundled_rules
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.suites.flow.waiting import who

COLOURS = ["blocking", "asyncio", "trio"]

HEAD = """
    import asyncio, contextlib, json, queue
    from concurrent.futures import Future
    from pytest_flowcheck.protocols import Adapter
    import their_engine

"""

ENGINE = """
    class Engine:
        late = None

        def __init__(self, *, workers=1):
            if workers == "bad":
                raise ValueError("workers must be a number")
            self.size = workers

        def start(self):
            self.pool = object()

        def run(self, body):
            return body()

        def broken(self):
            return missing_in_engine

        def handed(self):
            raise UnboundLocalError("cannot access local variable 'x'")

    class Loose:
        def __getattr__(self, name):
            raise AttributeError(name)
"""


class Their:
    """A project of theirs: an engine in one file, an adapter in another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "their_engine.py").write_text(textwrap.dedent(ENGINE))

    def subject(self, body: str, facet: str = "retry", *, backend: str = "asyncio", **changes: Any) -> subjects.Subject:
        """The adapter `Mine` of a file whose text is HEAD and `body`."""
        file = self.folder / "my_adapter.py"
        file.write_text(textwrap.dedent(HEAD) + textwrap.dedent(body))
        sys.modules.pop("my_adapter", None)
        cls = subjects.module_of("my_adapter.py:Mine", str(file)).Mine
        fields: dict[str, Any] = {"claims": {facet: frozenset()}, "backend": backend, "is_adapter": True, **changes}
        return subjects.Subject(name="mine", version="1", spec=f"{file}:Mine", target=cls(), **fields)


@pytest.fixture
def their(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Their:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("my_adapter", "their_engine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return Their(tmp_path)


def judged(function: Callable[[Lab], None], subject: subjects.Subject) -> Finding:
    (facet,) = subject.claims
    rule = Rule("RTY-99", facet, "MUST", frozenset(), "MUST", False, "The sentence.", "i", "u", "p", "s", function)
    return judge(rule, subject, fresh_harness(), patience=10.0)


def opens(lab: Lab, **options: Any) -> None:
    with lab.instance(max_workers=1, **options) as it:
        it.start("body", lambda _: lab.probe("body", lambda: 1, gated=False)()).join()


OPENER = {
    "blocking": "@contextlib.contextmanager\n    def",
    "asyncio": "@contextlib.asynccontextmanager\n    async def",
    "trio": "@contextlib.asynccontextmanager\n    async def",
}


def mine(colour: str, *lines: str) -> str:
    """An adapter whose opener has these lines."""
    inside = "\n        ".join(lines)
    return f"class Mine(Adapter):\n    count = 0\n    {OPENER[colour]} retry(self, **options):\n        {inside}\n"


# --- openers ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        (
            ("yield their_engine.Engine(threads=2)",),
            ["TypeError: ", "keyword argument 'threads', at my_adapter.py:11 in"],
        ),
        (
            ("import no_such_library", "yield"),
            ["ModuleNotFoundError: No module named 'no_such_library', at my_adapter"],
        ),
        (
            ("yield self.engin()",),
            ["AttributeError: 'Mine' object has no attribute 'engin', at my_adapter.py:11 in retry"],
        ),
        (
            ("yield their_engine.Engine(workers='bad')",),
            [
                "ValueError: workers must be a number, at my_adapter.py:11 in retry, raised at their_engine.py:7 in __init__"
            ],
        ),
    ],
)
def test_an_opener_that_raises_is_the_adapters_fault(
    their: Their, colour: str, lines: tuple[str, ...], parts: list[str]
) -> None:
    """Nothing was there that a rule could ask; one line names the opener, the place in its file, the error, and where from."""
    finding = judged(opens, their.subject(mine(colour, *lines), backend="trio" if colour == "trio" else "asyncio"))
    assert finding.verdict is Verdict.ADAPTER_ERROR, finding.message
    assert finding.message.startswith("Mine.retry() raised ")
    assert "\n" not in finding.message
    assert str(their.folder) not in finding.message
    for part in parts:
        assert part in finding.message


def test_an_opener_that_raises_before_it_gives_a_manager(their: Their) -> None:
    """It is no generator, and the call itself raises."""
    finding = judged(
        opens, their.subject("class Mine(Adapter):\n    def retry(self, **options):\n        return json.nowhere")
    )
    assert finding.verdict is Verdict.ADAPTER_ERROR
    assert "module 'json' has no attribute 'nowhere', at my_adapter.py:9 in retry" in finding.message


SECOND = (
    "type(self).count += 1",
    "if self.count == 2:",
    "    raise RuntimeError('only one')",
    "yield their_engine.Engine()",
)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_second_instance_that_does_not_open_stays_a_finding(their: Their, colour: str) -> None:
    """That there can be two is what rules ask of subjects; the message says where to look all the same."""

    def twice(lab: Lab) -> None:
        opens(lab)
        opens(lab)

    finding = judged(twice, their.subject(mine(colour, *SECOND), backend="trio" if colour == "trio" else "asyncio"))
    assert finding.verdict is Verdict.VIOLATED
    assert "RuntimeError('only one')" in finding.message
    assert "In doubt:      raised as Mine.retry() opened an instance: if that is the adapter's fault" in finding.message


def test_an_opener_that_raises_for_an_option_stays_a_finding(their: Their) -> None:
    """What an option makes of a subject is what rules ask; without it the opener is tried before anybody is blamed."""
    lines = ("if 'extra' in options:", "    raise RuntimeError('no extra')", "yield their_engine.Engine()")
    finding = judged(lambda lab: opens(lab, extra=1), their.subject(mine("blocking", *lines)))
    assert finding.verdict is Verdict.VIOLATED
    never = judged(
        lambda lab: opens(lab, extra=1), their.subject(mine("blocking", "raise RuntimeError('never')", "yield"))
    )
    assert never.verdict is Verdict.ADAPTER_ERROR


def test_a_rule_that_asks_for_the_refusal_gets_it(their: Their) -> None:
    """What an opener raises is the rule's to catch, unchanged."""

    def rule(lab: Lab) -> None:
        with pytest.raises(ValueError, match="workers must be"), lab.instance(max_workers=0):
            pass
        opens(lab)

    lines = ("yield their_engine.Engine(workers='bad' if options['max_workers'] == 0 else 1)",)
    assert judged(rule, their.subject(mine("blocking", *lines))).verdict is Verdict.PASS


def test_an_opener_that_says_what_it_cant_express_is_not_tried_again(their: Their) -> None:
    """NOT-TESTABLE as ever, and nothing more is opened for it."""
    imports = "from pytest_flowcheck.protocols import Inexpressible"
    lines = (imports, "type(self).count += 1", "raise Inexpressible('no')", "yield")
    subject = their.subject(mine("blocking", *lines))
    assert judged(lambda lab: opens(lab, extra=1), subject).verdict is Verdict.NOT_TESTABLE
    assert vars(type(subject.target))["count"] == 1


def test_an_error_that_cant_be_shown_is_in_no_message(their: Their) -> None:
    """Showing theirs may raise: a call must come to its end all the same."""
    subject = their.subject(mine("blocking", "yield their_engine.Engine()"))
    lab = Lab(subject, facet="retry")
    lab.doubtful(HiddenError(), subject)
    assert lab.doubts == []
    lab.doubtful(ValueError("shown"), subject)
    assert [shown for shown, _ in lab.doubts] == ["ValueError('shown')"] * 2


class HiddenError(Exception):
    """Can't be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_a_subject_without_an_adapter_is_accused(their: Their) -> None:
    """A bare executor that can't be opened is the subject itself."""
    body = "class Mine:\n    def __call__(self, *, max_workers):\n        raise RuntimeError('theirs')\n"
    subject = their.subject(body, "executor", is_adapter=False)

    def rule(lab: Lab) -> None:
        with lab.executor(max_workers=1):
            pass

    assert judged(rule, subject).verdict is Verdict.VIOLATED


@pytest.mark.parametrize("rule", ["EXE-01", "EXE-12", "EXE-33"])
def test_rules_that_look_at_what_opening_raises_accuse_nobody_of_an_opener_that_never_opens(
    their: Their, rule: str
) -> None:
    """A sound opening comes first, or is told as what it came to."""
    body = "class Mine(Adapter):\n    def executor(self, *, max_workers):\n        raise RuntimeError('never')\n"
    subject = their.subject(body, "executor", claims={"executor": frozenset({"threads"})})
    (found,) = [one for one in bundled_rules() if one.id == rule]
    finding = judge(found, subject, fresh_harness(), patience=10.0)
    assert finding.verdict is Verdict.ADAPTER_ERROR, finding.message
    assert "Mine.executor() raised RuntimeError: never, at my_adapter.py:9 in executor" in finding.message


@pytest.mark.parametrize(
    ("options", "usual", "expected"),
    [
        ({"max_workers": 4}, {"max_workers": 2}, {"max_workers": 4}),
        ({"max_workers": None}, {"max_workers": 2}, {"max_workers": 2}),
        ({"max_workers": 0, "executor": "x"}, {"max_workers": 2}, {"max_workers": 2}),
        ({"ttl": 0.1, "make": str}, {"ttl": None}, {"ttl": None}),
        ({"sink": print, "capacity": 3}, {"sink": None}, {"sink": print}),
        ({"extra": 1}, {"max_workers": 2}, None),
        ({"folder": Path(__file__).parent}, {"folder": None}, None),
        (
            {"folder": Path(__file__).parent / "nowhere"},
            {"folder": None},
            {"folder": Path(__file__).parent / "nowhere"},
        ),
    ],
)
def test_what_any_subject_opens_with(options: dict[str, Any], usual: dict[str, Any], expected: Any) -> None:
    """The protocol's own arguments at ordinary values; a folder that holds something is a question to the subject."""
    assert blame.plain(options, usual) == expected


# --- slips --------------------------------------------------------------------------------------------------------------

SLIPS = [
    ("return misspelt", "NameError: name 'misspelt' is not defined"),
    ("return found\n        found = 1", "UnboundLocalError: "),
    ("return self.engine.runn(body)", "AttributeError: 'Engine' object has no attribute 'runn'"),
    ("return self.engin.run(body)", "AttributeError: 'It' object has no attribute 'engin'"),
    ("return json.nowhere", "AttributeError: module 'json' has no attribute 'nowhere'"),
    ("return self.engine.run(body, 1)", "TypeError: Engine.run() takes 2 positional arguments but 3 were given"),
    ("return self.engine.run(job=body)", "TypeError: Engine.run() got an unexpected keyword argument 'job'"),
]
NOT_CERTAIN = [
    ("return self.engine.late.run(body)", "'NoneType' object has no attribute 'run'"),  # the engine gave the None
    ("return self.engine.pool", "'Engine' object has no attribute 'pool'"),  # the engine sets it when it starts
    ("return self.engine.late[0]", "'NoneType' object is not subscriptable"),
    ("return [][0]", "list index out of range"),
]
NOT_ITS_OWN = [
    ("return self.engine.broken()", "name 'missing_in_engine' is not defined"),
    ("return self.engine.handed()", "cannot access local variable"),
    ("return their_engine.Loose().thing", "AttributeError('thing')"),
    ("raise NameError('as told by a worker')", "as told by a worker"),
    ("raise TypeError('f() takes 1 positional argument but 2 were given')", "but 2 were given"),
]


def slipping(
    their: Their, line: str, colour: str = "blocking", requires: str = "('their-engine',)"
) -> subjects.Subject:
    a = "" if colour == "blocking" else "async "
    manager = OPENER[colour]
    return their.subject(
        f"class It:\n    def __init__(self):\n        self.engine = their_engine.Engine()\n"
        f"    {a}def call(self, body):\n        {line}\n\n"
        f"class Mine(Adapter):\n    requires = {requires}\n    {manager} retry(self, **options):\n        yield It()\n",
        backend="trio" if colour == "trio" else "asyncio",
    )


def calls(lab: Lab) -> None:
    with lab.instance(max_workers=1) as it:
        lab.probe("body", lambda: 1, gated=False)()
        call = it.start("call", lambda raw: raw.call(lambda: 1)).join()
        lab.check(call.error is None, f"the call raised {call.error!r}", "it returns")


@pytest.mark.parametrize(("line", "said"), SLIPS)
def test_a_slip_in_the_adapters_file_is_its_own(their: Their, line: str, said: str) -> None:
    """One line that says what, and where in its file."""
    finding = judged(calls, slipping(their, line))
    assert finding.verdict is Verdict.ADAPTER_ERROR, finding.message
    assert finding.message.startswith(f"the adapter's own code raised {said}")
    assert finding.message.endswith(", at my_adapter.py:11 in call")


@pytest.mark.parametrize("colour", COLOURS)
def test_a_slip_is_one_in_every_colour(their: Their, colour: str) -> None:
    """Awaited or not."""
    assert judged(calls, slipping(their, SLIPS[0][0], colour)).verdict is Verdict.ADAPTER_ERROR


@pytest.mark.parametrize(("line", "said"), NOT_CERTAIN)
def test_what_may_come_from_the_subject_stays_a_finding_in_doubt(their: Their, line: str, said: str) -> None:
    """No bug of a subject is hidden: the message only says where in the adapter it was raised."""
    finding = judged(calls, slipping(their, line))
    assert finding.verdict is Verdict.VIOLATED
    assert said in finding.message
    assert "In doubt:      raised in the adapter's own code, my_adapter.py:11 in call: if that is" in finding.message


@pytest.mark.parametrize(("line", "said"), NOT_ITS_OWN)
def test_what_the_adapter_only_hands_on_is_the_subjects(their: Their, line: str, said: str) -> None:
    """Raised in the engine's file, or by a `raise`: no doubt."""
    finding = judged(calls, slipping(their, line))
    assert finding.verdict is Verdict.VIOLATED
    assert said in finding.message
    assert "In doubt" not in finding.message


@pytest.mark.parametrize(
    ("line", "requires"),
    [
        *((line, "()") for line, _ in SLIPS),
        *((SLIPS[0][0], of) for of in ("('my-adapter',)", "('my_adapter', 'other')")),
    ],
)
def test_adapter_and_engine_in_one_file_cant_be_told_apart(their: Their, line: str, requires: str) -> None:
    """It says of no distribution that it adapts it, or is a part of it: the slip may be the engine's real bug."""
    finding = judged(calls, slipping(their, line, requires=requires))
    assert finding.verdict is Verdict.VIOLATED
    assert "In doubt:      raised in the adapter's own code, my_adapter.py:11 in call" in finding.message


def test_a_rule_that_swallows_a_slip_is_not_asked(their: Their) -> None:
    """Whatever the rule makes of the call, the verdict is the adapter's."""

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            lab.probe("body", lambda: 1, gated=False)()
            call = it.start("call", lambda raw: raw.call(lambda: 1))
            lab.until(lambda: call.done, "it is over")

    assert judged(rule, slipping(their, SLIPS[0][0])).verdict is Verdict.ADAPTER_ERROR


def test_a_bundled_adapter_is_apart_and_so_are_its_helpers() -> None:
    """A slip of its own, or of a helper that several of them share, in another file of the same folder."""
    subject = subjects.load("json-dump")
    folder = Path(str(adapters.__file__)).parent
    for name in ("json_.py", "_store.py"):
        code = compile("def slips():\n    return misspelt\n", str(folder / name), "exec")
        scope: dict[str, Any] = {}
        exec(code, scope)
        with pytest.raises(NameError) as caught:
            scope["slips"]()
        assert str(blame.slip(caught.value, subject)).endswith(f"at {name}:2 in slips")


# --- what calls give ----------------------------------------------------------------------------------------------------


def one_rule(subject: subjects.Subject, rule: str) -> Finding:
    (found,) = [one for one in bundled_rules() if one.id == rule]
    return judge(found, subject, fresh_harness(), patience=10.0, thorough=False)


@pytest.mark.parametrize("gives", ["None", "[None for _ in items]", "(o for o in [])"])
def test_a_fan_out_that_gives_no_outcomes(their: Their, gives: str) -> None:
    """It ran them all, and its adapter forgot what to give."""
    subject = their.subject(
        "class It:\n    def run(self, body, items, *, max_concurrency, continue_on_error=False):\n"
        "        from concurrent.futures import ThreadPoolExecutor\n"
        "        items = list(items)\n"
        "        with ThreadPoolExecutor(max_concurrency if isinstance(max_concurrency, int) else 4) as pool:\n"
        "            list(pool.map(body, items))\n"
        f"        return {gives}\n\n"
        "class Mine(Adapter):\n    @contextlib.contextmanager\n    def fanout(self):\n        yield It()\n",
        "fanout",
    )
    finding = one_rule(subject, "FAN-01")
    assert finding.verdict is Verdict.ADAPTER_ERROR, finding.message
    assert "expected a sequence of Ok, Failed and Skipped" in finding.message or "among its outcomes" in finding.message


POOL = """
class It:
    def __init__(self, pool):
        self.pool = pool
    def dispatch(self, body):
        {dispatch}
    def stop(self):
        return self.pool.stop()
    def acquire(self, key):
        {acquire}

class Mine(Adapter):
    @contextlib.contextmanager
    def looppool(self, **options):
        from flowcheck_reference.subject import Reference
        with Reference().looppool(**options) as pool:
            yield It(pool)
"""


@pytest.mark.parametrize(
    ("dispatch", "said"),
    [
        ("self.pool.dispatch(body)", "gave None, as every dispatch so far; expected what its coroutine returned, '"),
        ("done = Future(); done.set_result(self.pool.dispatch(body)); return done", "the future's result()"),
    ],
)
def test_a_dispatch_that_gives_something_else_than_a_value(their: Their, dispatch: str, said: str) -> None:
    """The `return`, or the `.result()`, was forgotten: the adapter's, as long as it never gave a value."""
    subject = their.subject(textwrap.dedent(POOL).format(dispatch=dispatch, acquire="pass"), "looppool")
    finding = one_rule(subject, "LOP-01")
    assert finding.verdict is Verdict.ADAPTER_ERROR, finding.message
    assert said in finding.message


def test_a_dispatch_that_loses_one_value_is_the_subjects(their: Their) -> None:
    """It gave values before."""
    lost = "self.n = getattr(self, 'n', 0) + 1; value = self.pool.dispatch(body); return None if self.n == 2 else value"
    subject = their.subject(textwrap.dedent(POOL).format(dispatch=lost, acquire="pass"), "looppool")
    assert one_rule(subject, "LOP-01").verdict is Verdict.VIOLATED


def test_an_acquire_that_gives_no_lease(their: Their) -> None:
    """What it must have is said."""
    claims = {"looppool": frozenset({"resources"})}
    body = textwrap.dedent(POOL).format(dispatch="return self.pool.dispatch(body)", acquire="self.pool.acquire(key)")
    finding = one_rule(their.subject(body, "looppool", claims=claims), "LOP-15")
    assert finding.verdict is Verdict.ADAPTER_ERROR, finding.message
    assert "gave None; expected a lease, with what `make` gave as its attribute `value`" in finding.message


# --- places -------------------------------------------------------------------------------------------------------------


def test_a_place_has_no_folders_of_the_machine(their: Their) -> None:
    """In FLO-11's threads, and in what a subject raised unasked: a certificate may be published."""
    told = who(threading.get_native_id())
    assert " at waiting.py:" in told
    assert "/" not in told

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            lab.probe("body", lambda: 1, gated=False)()
            it.start("call", lambda raw: raw.call(lambda: 1)).result()

    finding = judged(rule, slipping(their, "return self.engine.broken()"))
    assert (
        "the subject raised NameError(\"name 'missing_in_engine' is not defined\") at their_engine.py:"
        in finding.message
    )
    assert str(their.folder) not in finding.message


def test_a_slip_in_a_group_is_found(their: Their) -> None:
    """As task groups raise it; a group of the subject's errors is none."""
    subject = slipping(their, SLIPS[0][0])
    with subject.open("retry") as it, pytest.raises(NameError) as caught:
        it.call(None)
    fault = blame.slip(ExceptionGroup("", [ValueError("theirs"), caught.value]), subject)
    assert fault is not None
    assert "misspelt" in str(fault)
    assert blame.slip(ExceptionGroup("", [ValueError("theirs")]), subject) is None
