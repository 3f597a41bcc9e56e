"""Certificates of the kit's own rules with verdicts of one's choice, and the command as a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pytest_flowcheck import __version__
from pytest_flowcheck.certificate import document
from pytest_flowcheck.certificate.accounting import account
from pytest_flowcheck.certificate.verdicts import Finding, Verdict
from pytest_flowcheck.rules import REVISION, Rule, bundled_rules
from pytest_flowcheck.shell.main import main

STORY = "{id} {sentence}\n\nWhat it did:   it lost a task\n\nExpected:      it does not"


@cache
def facets() -> dict[str, list[Rule]]:
    found: dict[str, list[Rule]] = {}
    for rule in bundled_rules():
        found.setdefault(rule.facet, []).append(rule)
    return found


def made(verdicts: Mapping[str, str] | None = None, **subject: Any) -> dict[str, Any]:
    """The certificate of a subject that keeps all rules of the retry facet but these."""
    read = {rule.id: Verdict((verdicts or {}).get(rule.id, "PASS")) for rule in facets()["retry"]}
    found = {
        rule.id: Finding(
            rule.id,
            read[rule.id],
            rule.level,
            message="" if read[rule.id] is Verdict.PASS else STORY.format(id=rule.id, sentence=rule.sentence),
        )
        for rule in facets()["retry"]
        if read[rule.id] is not Verdict.NOT_RUN
    }
    who = {
        "name": "it",
        "version": "1.0",
        "spec": "m:It",
        "asked": "m:It",
        "label": "it",
        "backend": "asyncio",
        "unclaimed": [],
    }
    return document.build(
        account=account(facets(), {"retry": []}, found),
        subject={**who, **subject},
        claims={"retry": []},
        seed=0,
        kit=__version__,
        revision=REVISION,
        packages={"pytest": "9"},
    )


@dataclass
class Said:
    """What a command said, and its exit code."""

    status: int
    out: str
    err: str


@pytest.fixture
def flowcheck(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """`flowcheck("verify", path)`, in this process."""

    def run(*arguments: object) -> Said:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Said(status, out, err)

    return run


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """`written("name", verdicts)`: the folder in which that certificate was written."""

    def write(folder: str, verdicts: Mapping[str, str] | None = None, **subject: Any) -> Path:
        return document.write(made(verdicts, **subject), tmp_path / folder).parent

    return write
