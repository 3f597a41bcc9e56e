"""Types of the public interface, checked by mypy and pyright; never run."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor as StandardExecutor
from concurrent.futures import Future
from typing import assert_type

from flowcheck_reference import Clients, Executor, Run, Service
from flowcheck_reference.subject import Reference
from pytest_flowcheck import RuleCase, certify, rule
from pytest_flowcheck.errors import Grade
from pytest_flowcheck.probes.calls import Call
from pytest_flowcheck.probes.lab import Lab
from pytest_flowcheck.protocols import Subject
from pytest_flowcheck.protocols import executor as protocol


def number(text: str) -> int:
    return int(text)


def an_executor_is_typed_by_its_task() -> None:
    with Executor(2) as executor:
        assert_type(executor.submit(number, "1"), Future[int])
        assert_type(executor.map(number, ["1"]), Iterator[int])
        takes_executor(executor)
        takes_resizable(executor)


class Connection: ...


async def connect() -> Connection:
    return Connection()


async def a_cache_is_typed_by_its_factory() -> None:
    assert_type(await Clients(Connection).get(), Connection)
    assert_type(await Clients(connect).get(), Connection)


async def anumber(text: str) -> int:
    return int(text)


async def a_run_is_typed_by_its_function() -> None:
    async with Service(1) as service:
        assert_type(service.run(number, "1"), int)
        assert_type(await service.arun(anumber, "1", session="a"), int)
        assert_type(service.start(anumber, "1"), Run[int])
        assert_type(await service.ashort(number, "1"), int)
        assert_type(service.map(number, ["1"]), list[int])
        assert_type(service.session("a").run(anumber, "1"), int)


def takes_executor(executor: StandardExecutor) -> None: ...
def takes_resizable(executor: protocol.Resizable) -> None: ...
def takes_subject(subject: Subject) -> None: ...
def takes_opener(opener: protocol.Opener) -> None: ...


def the_reference_is_a_subject() -> None:
    takes_subject(Reference())
    takes_opener(Reference().executor)


@rule("XYZ-01")
def a_rule_takes_a_lab(lab: Lab) -> None:
    assert_type(lab.settle(), Grade)
    assert_type(lab.call("number", lambda: number("1")), Call[int])
    assert_type(lab.call("number", lambda: number("1")).result(), int)


@certify(Executor, "dask", facets="executor", only=["EXE-04"], baseline="known.toml")
def test_conformance(rule: RuleCase, other: int) -> str:
    assert_type(rule(), None)
    return rule.id


def a_decorated_test_keeps_its_type(rule: RuleCase) -> None:
    assert_type(test_conformance(rule, 1), str)
