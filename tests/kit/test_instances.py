"""Instances of both colours, on threads, asyncio and trio: rules see calls, and never which."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
import trio
from bystanders import fresh_harness

from pytest_flowcheck import subjects
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.errors import AdapterError, NotTestable, UsageError
from pytest_flowcheck.probes.calls import is_cancellation, own_word
from pytest_flowcheck.probes.lab import Lab
from pytest_flowcheck.protocols import Adapter, Inexpressible, Unsupported
from pytest_flowcheck.rules import Rule
from pytest_flowcheck.running.judge import judge
from pytest_flowcheck.running.resolve import _columns
from pytest_flowcheck.running.start import label

COLOURS = ["blocking", "asyncio", "trio"]
VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


class Threads(Adapter):
    """Opened by `with`; `retry` gives itself, so that tests can ask anything."""

    name = "threads"
    claims = {"retry": frozenset[str]()}
    closed = 0

    @contextmanager
    def retry(self, *, max_workers: int) -> Iterator[Threads]:
        yield self
        type(self).closed += 1


class Loops(Adapter):
    """Opened by `async with`."""

    name = "loops"
    claims = {"retry": frozenset[str]()}
    backends = ("asyncio", "trio")

    @asynccontextmanager
    async def retry(self, *, max_workers: int) -> AsyncIterator[Loops]:
        yield self


def judged(
    function: Callable[[Lab], None], colour: str, adapter: type[Adapter] | None = None, **options: Any
) -> Finding:
    cls = adapter or (Threads if colour == "blocking" else Loops)
    subject = subjects.Subject(
        name=cls.name,
        version="1",
        spec=f"tests:{cls.__name__}",
        claims={"retry": frozenset()},
        backend="trio" if colour == "trio" else "asyncio",
        is_adapter=True,
        target=cls(),
    )
    rule = Rule("RTY-99", "retry", "MUST", frozenset(), "MUST", False, "The sentence.", "i", "u", "p", "s", function)
    options.setdefault("patience", 10.0)
    return judge(rule, subject, fresh_harness(), **options)


def passes(function: Callable[[Lab], None], colour: str, adapter: type[Adapter] | None = None) -> Finding:
    finding = judged(function, colour, adapter)
    assert finding.verdict is Verdict.PASS, finding.message
    return finding


def ask(body: Any, *args: Any) -> Callable[[Any], Any]:
    """Run a body the way the opened instance would."""
    return lambda raw: body.aio(*args) if isinstance(raw, Loops) else body(*args)


@pytest.mark.parametrize("colour", COLOURS)
def test_a_call_has_a_result_or_an_error(colour: str) -> None:
    """Started, waited for, read: the same words on threads and loops."""

    def rule(lab: Lab) -> None:
        def fails() -> None:
            raise LookupError("no")

        with lab.instance(max_workers=1) as it:
            assert it.colour == ("blocking" if colour == "blocking" else "async")
            assert it.start("twice", ask(lab.probe("body", lambda: 4, gated=False))).result() == 4
            call = it.start("fails", ask(lab.probe("bad", fails, gated=False))).join()
            assert isinstance(call.error, LookupError)
            assert not call.returned
            with pytest.raises(LookupError):
                call.result()

    passes(rule, colour)


@pytest.mark.parametrize("colour", COLOURS)
def test_calls_overlap_and_wait_at_gates(colour: str) -> None:
    """Two gated calls are in flight together; that a third thing never happens is proven, also on trio."""

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            body = lab.attempts("body")
            calls = [it.start(f"call {n}", ask(body)) for n in range(2)]
            lab.until(lambda: lab.live() == ["body #1", "body #2"], "both are in flight")
            assert {e.coroutine for e in lab.timeline.of("started")} == {colour != "blocking"}
            assert lab.settle() == "proven"
            lab.open("body #2")
            lab.until(lambda: any(c.done for c in calls), "one is over")
            assert lab.live() == ["body #1"]
            lab.open("body #1")
            assert {c.result() for c in calls} == {"body #1", "body #2"}

    assert passes(rule, colour).grade == "proven"


@pytest.mark.parametrize("colour", COLOURS)
def test_what_never_comes_is_a_hang(colour: str) -> None:
    """A call that waits for nobody is proven to hang, and the rule's instance is left all the same."""

    class Stuck(Threads):
        def call(self) -> None:
            threading.Event().wait()

    class StuckLoop(Loops):
        async def call(self) -> None:
            await (trio.sleep_forever() if colour == "trio" else asyncio.Event().wait())

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            it.start("body", ask(lab.probe("body", gated=False))).result()
            it.start("call", lambda raw: raw.call()).result()

    finding = judged(rule, colour, Stuck if colour == "blocking" else StuckLoop)
    assert finding.verdict is Verdict.HUNG
    assert "call comes back" in finding.message


@pytest.mark.parametrize("colour", COLOURS)
def test_an_instance_that_is_never_left_is_a_hang(colour: str) -> None:
    """Leaving is a call into the subject like any other."""

    class Sticky(Threads):
        @contextmanager
        def retry(self, *, max_workers: int) -> Iterator[Threads]:
            yield self
            threading.Event().wait()

    class StickyLoop(Loops):
        @asynccontextmanager
        async def retry(self, *, max_workers: int) -> AsyncIterator[Loops]:
            yield self
            await (trio.sleep_forever() if colour == "trio" else asyncio.Event().wait())

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            it.start("body", ask(lab.probe("body", gated=False))).result()

    assert judged(rule, colour, Sticky if colour == "blocking" else StickyLoop).verdict is Verdict.HUNG


@pytest.mark.parametrize("seconds", [3600.0, 100_000.0])
def test_a_trio_loop_with_a_deadline_is_never_proven_still(seconds: float) -> None:
    """trio cuts its waits at a day: one that something is due after must not be taken for one with nothing due."""

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            it.start("body", ask(lab.probe("body", gated=False))).result()
            sleep = trio.sleep
            call = it.start("sleeps", lambda _: sleep(seconds))
            assert lab.settle() == "observed"
            call.cancel()
            call.join()
            assert is_cancellation(call.error)
            lab.grade = "proven"
            assert lab.settle() == "proven"

    passes(rule, "trio")


@pytest.mark.parametrize("colour", ["asyncio", "trio"])
def test_a_call_on_a_loop_can_be_cancelled(colour: str) -> None:
    """At once, and before it has begun."""

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            call = it.start("gated", ask(lab.probe("body")))
            lab.until(lambda: bool(lab.live()), "it is in flight")
            call.cancel()
            assert is_cancellation(call.join().error)
            assert lab.timeline.names("raised") == ["body"]
            early = it.start("early", ask(lab.probe("early")))
            early.cancel()
            assert is_cancellation(early.join().error)

    passes(rule, colour)


def test_a_call_on_a_thread_can_not_be_cancelled() -> None:
    """The rule then reads NOT-TESTABLE."""

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            call = it.start("body", ask(lab.probe("body", gated=False)))
            call.join()
            call.cancel()

    assert judged(rule, "blocking").verdict is Verdict.NOT_TESTABLE


@pytest.mark.parametrize("colour", COLOURS)
def test_calls_see_the_context_of_who_asks(colour: str) -> None:
    """And what they change stays theirs."""

    def rule(lab: Lab) -> None:
        def read() -> str:
            before = VARIABLE.get()
            VARIABLE.set("changed inside")
            return before

        with lab.instance(max_workers=1) as it:
            VARIABLE.set("the caller's")
            body = lab.probe("body", read, gated=False)
            assert [it.start("read", ask(body)).result() for _ in range(2)] == ["the caller's"] * 2

    passes(rule, colour)


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exits_raised_inside_end_the_call_only(colour: str, error: type[BaseException]) -> None:
    """SystemExit in a task stops asyncio's loop: the kit goes on."""

    def rule(lab: Lab) -> None:
        def leave() -> None:
            raise error

        with lab.instance(max_workers=1) as it:
            call = it.start("leaves", ask(lab.probe("body", leave, gated=False))).join()
            assert isinstance(call.error, error)
            assert it.start("next", ask(lab.probe("next", gated=False))).result() == "next"

    passes(rule, colour)


def test_an_exit_in_a_task_of_the_subjects_does_not_stop_the_loop() -> None:
    """asyncio raises it out of `run_forever`, where the kit catches it."""

    class Spawns(Loops):
        async def call(self, body: Any) -> Any:
            return await asyncio.ensure_future(body.aio())

    def rule(lab: Lab) -> None:
        def leave() -> None:
            raise SystemExit(3)

        with lab.instance(max_workers=1) as it:
            body = lab.probe("body", leave, gated=False)
            assert isinstance(it.start("leaves", lambda raw: raw.call(body)).join().error, SystemExit)
            assert it.start("next", ask(lab.probe("next", gated=False))).result() == "next"

    passes(rule, "asyncio", Spawns)


def test_an_awaitable_from_a_blocking_instance_is_the_adapters_error() -> None:
    """A coroutine that nobody awaits is no success."""

    class Mixed(Threads):
        async def call(self) -> int:
            return 1

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            it.start("body", ask(lab.probe("body", gated=False))).result()
            it.start("call", lambda raw: raw.call()).result()

    finding = judged(rule, "blocking", Mixed)
    assert finding.verdict is Verdict.ADAPTER_ERROR
    assert "opened by `with`" in finding.message


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("error", "verdict"), [(Inexpressible, "NOT-TESTABLE"), (Unsupported, "VIOLATED")])
def test_what_the_subject_can_not_say(colour: str, error: type[Exception], verdict: str) -> None:
    """`Inexpressible` is no verdict on the subject; `Unsupported` is."""

    class Silent(Threads):
        def call(self) -> None:
            raise error("there is no such word")

    class SilentLoop(Loops):
        async def call(self) -> None:
            raise error("there is no such word")

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            it.start("body", ask(lab.probe("body", gated=False))).result()
            it.start("call", lambda raw: raw.call()).result()

    finding = judged(rule, colour, Silent if colour == "blocking" else SilentLoop)
    assert finding.verdict.value == verdict
    assert "there is no such word" in finding.message


def test_an_opener_that_gives_no_context_manager_is_the_adapters_error() -> None:
    """One clear line."""

    class Bare(Threads):
        def retry(self, *, max_workers: int) -> Any:
            return object()

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1):
            raise AssertionError

    finding = judged(rule, "blocking", Bare)
    assert finding.verdict is Verdict.ADAPTER_ERROR
    assert "expected a context manager" in finding.message


def test_errors_that_nobody_caught_on_the_loop_are_noted() -> None:
    """asyncio tells its exception handler; rules read it as `lab.uncaught`."""

    class Careless(Loops):
        async def call(self) -> None:
            async def fails() -> None:
                raise ValueError("lost")

            task = asyncio.ensure_future(fails())
            await asyncio.wait([task])

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            it.start("body", ask(lab.probe("body", gated=False))).result()
            it.start("call", lambda raw: raw.call()).result()
            gc.collect()
            assert any("lost" in line for line in lab.uncaught), lab.uncaught

    passes(rule, "asyncio", Careless)


def test_numbered_probes_count_across_processes() -> None:
    """Attempts in worker processes get the next number of the same series."""

    def rule(lab: Lab) -> None:
        body = lab.attempts("body", does=_number, gated=False)
        with lab.instance(max_workers=1), ProcessPoolExecutor(1) as pool:
            assert body() == 1
            assert pool.submit(body).result() == 2
            assert body() == 3
            assert lab.started() == ["body #1", "body #2", "body #3"]
            assert {e.pid for e in lab.timeline.of("started")} > {os.getpid()}

    passes(rule, "blocking")


def _number(which: int) -> int:
    return which


def test_a_rule_without_trio_is_not_testable(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "trio", None)

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1):
            raise AssertionError

    finding = judged(rule, "trio")
    assert finding.verdict is Verdict.NOT_TESTABLE
    assert "pip install trio" in finding.message


def test_each_loop_library_has_a_column_of_its_own() -> None:
    """The colour is read off; the second column holds what runs on loops, and nothing else."""

    class Both(Loops):
        name = "both"
        claims = {"retry": frozenset[str](), "executor": frozenset({"threads"})}

        def executor(self, *, max_workers: int) -> Any: ...

    subject = subjects.Subject(
        "both", "1", "tests:Both", Both.claims, backends=("asyncio", "trio"), is_adapter=True, target=Both()
    )
    columns = label(_columns("both", subjects.first_probe(subject)))
    assert [(c.label, c.backend, c.claims) for c in columns] == [
        ("both", "asyncio", {"executor": ["threads"], "retry": ["async"]}),
        ("both-trio", "trio", {"retry": ["async"]}),
    ]


def test_a_blocking_subject_has_one_column() -> None:
    """Whatever `backends` says."""
    subject = subjects.Subject(
        "threads", "1", "tests:Threads", Threads.claims, backends=("asyncio", "trio"), is_adapter=True, target=Threads()
    )
    (column,) = _columns("threads", subjects.first_probe(subject))
    assert column.claims == {"retry": []}


def test_choices_are_declared_per_facet() -> None:
    """With a default where nothing is said."""
    subject = subjects.Subject("s", "1", "tests:S", {}, declares={"retry": {"abandoned": "killed"}}, target=None)
    assert subject.declared("retry", "abandoned") == "killed"
    assert subject.declared("retry", "raises") == "itself"


def test_errors_are_compared_by_the_subjects_table() -> None:
    """A class of the subject's own may stand for one of the kit's."""

    class TheirTimeoutError(Exception): ...

    class Named(Threads):
        errors = {TimeoutError: TheirTimeoutError}

    subject = subjects.Subject("s", "1", "tests:S", {}, is_adapter=True, target=Named())
    lab = Lab(subject, facet="retry")
    assert lab.is_a(TheirTimeoutError(), TimeoutError)
    assert lab.is_a(TimeoutError(), TimeoutError)
    assert not lab.is_a(ValueError(), TimeoutError)
    assert not lab.is_a(None, TimeoutError)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"claims": {"retry": {"async"}}}, "read off the opened instance"),
        ({"claims": {"retry": {"timeouts"}}}, "did you mean 'timeout'?"),
        ({"backends": ("curio",)}, "('asyncio', 'trio')"),
        ({"declares": {"retry": {"abandoned": "lost"}}}, "abandoned: runs or killed"),
        ({"declares": {"retry": ["x"]}}, "expected a mapping"),
        ({"claims": {}}, "claims no facet"),
        ({"claims": ["retry"]}, "claims is ['retry']; expected a mapping such as {'retry': set()}"),
        ({"claims": {"retry": "context"}}, "claims['retry'] is 'context'; expected a set of words such as {'context'}"),
        ({"claims": {"retri": set()}}, "has no method retri(); did you mean 'retry'?"),
    ],
)
def test_an_adapter_that_says_nonsense_gets_one_line(
    changes: dict[str, Any], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What we got, and what to write instead."""
    for name, value in changes.items():
        monkeypatch.setattr(Loops, name, value)
    with pytest.raises(UsageError) as caught:
        subjects.load(f"{__name__}:Loops")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_opener_with_another_signature_gets_one_line() -> None:
    """The colour can't be read off."""

    class Odd(Threads):
        def retry(self) -> Any:  # type: ignore[override]
            ...

    subject = subjects.Subject("odd", "1", "tests:Odd", Odd.claims, is_adapter=True, target=Odd())
    with pytest.raises(UsageError, match="can't be opened"):
        subjects.first_probe(subject)


def test_the_lines_that_make_an_adapter_run(tmp_path: Any) -> None:
    """`subject.source` is Python, for a module and for a file."""
    file = tmp_path / "mine.py"
    file.write_text("class Outer:\n    class Mine:\n        name = 'mine'\n")
    subject = subjects.Subject("s", "1", f"{file}:Outer.Mine", {}, target=None)
    scope: dict[str, Any] = {}
    exec(subject.source, scope)
    assert scope["subject"].name == "mine"
    subject = dataclasses.replace(subject, spec="flowcheck_reference.subject:Reference")
    exec(subject.source, scope)
    assert scope["subject"].name == "reference"


def test_not_testable_from_the_opener() -> None:
    """What the opener can't express is no verdict either."""

    class Fixed(Threads):
        def retry(self, *, max_workers: int) -> Any:
            raise Inexpressible("its size is fixed")

    subject = subjects.Subject("s", "1", "tests:S", Fixed.claims, is_adapter=True, target=Fixed())
    with pytest.raises(NotTestable, match="its size is fixed"):
        subject.open("retry", max_workers=1)


@pytest.mark.parametrize(
    ("asked", "thorough", "expected"), [(100, True, 100), (100, False, 20), (2, False, 2), (8, False, 3)]
)
def test_the_selftest_repeats_less_a_certification_never(asked: int, thorough: bool, expected: int) -> None:
    """A fifth, at least three, never more than was asked for."""
    subject = subjects.Subject("s", "1", "tests:S", {}, is_adapter=True, target=Threads())
    assert Lab(subject, thorough=thorough).repeated(asked) == expected


class Lacking(Threads):
    """Has no `call`."""


class LackingLoop(Loops):
    """Has no `call`."""


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("swallows", [False, True])
def test_a_method_that_is_missing_is_the_adapters_fault(colour: str, swallows: bool) -> None:
    """Whatever the rule makes of the error: the subject is not accused."""

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            call = it.start("call", lambda raw: raw.nowhere())
            lab.until(lambda: call.done, "it is over")
            if not swallows:
                lab.check(call.error is None, "it raised", "it returns")

    finding = judged(rule, colour, Lacking if colour == "blocking" else LackingLoop)
    assert finding.verdict is Verdict.ADAPTER_ERROR
    name = "Lacking" if colour == "blocking" else "LackingLoop"
    assert finding.message == (
        f"the instance that retry() opened, of type {name}, has no nowhere(); the facet's protocol needs it"
    )


class Slips(Threads):
    """Its methods misspell attributes of their own."""

    def call(self) -> None:
        self.nowhere()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def test_a_slip_inside_of_a_method_is_the_subjects() -> None:
    """The object is the opened instance here too, and the access is its own."""

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            it.start("body", ask(lab.probe("body", gated=False))).result()
            it.start("call", lambda raw: raw.call()).result()

    finding = judged(rule, "blocking", Slips)
    assert finding.verdict is Verdict.VIOLATED
    assert "has no attribute 'nowhere'" in finding.message


def test_a_group_tells_what_the_kit_says_in_it() -> None:
    """A broken adapter first, then a judgement; what else is in a group stays in it."""
    fault, missing, plain = AdapterError("gave None"), NotTestable("no"), ValueError("theirs")
    assert own_word(ExceptionGroup("", [plain, ExceptionGroup("", [missing, fault])])) is fault
    assert own_word(ExceptionGroup("", [plain, missing])) is missing
    theirs = ExceptionGroup("", [plain])
    assert own_word(theirs) is theirs
    assert own_word(plain) is plain


def test_a_value_of_the_wrong_type_is_told_to_whoever_looks() -> None:
    """Looking at it, even where the error is caught, makes the rule an ADAPTER-ERROR."""

    def check(value: object) -> None:
        raise AdapterError(f"call gave {value!r}; expected more")

    def rule(lab: Lab) -> None:
        with lab.instance(max_workers=1) as it:
            call = it.start("body", ask(lab.probe("body", lambda: None, gated=False))).giving(check).join()
            assert call.returned
            with pytest.raises(AdapterError):
                _ = call.value

    finding = judged(rule, "blocking")
    assert (finding.verdict, finding.message) == (Verdict.ADAPTER_ERROR, "call gave None; expected more")
