"""STO-11: run ids that would be paths, options, or each other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_flowcheck.errors import Inconclusive
from pytest_flowcheck.probes.nursery import folder, told
from pytest_flowcheck.protocols import Invalid
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.store._shared import RUN, among, at_rest, handle, mapped, same, state

if TYPE_CHECKING:
    from pytest_flowcheck.probes.lab import Lab

USUAL: Final = (RUN, "a", "run-2026-01-31", "0b5c7d2e-8a53-4a0e-9f6c-1d2e3f4a5b6c")

ODD: Final = (
    *(
        "",
        ".",
        "..",
        "../outside",
        "../../outside",
        "a/b",
        "a/../b",
        "b",
        "/etc/hostname",
        "~",
        "~/x",
        "./a",
        "a/",
        "a\\b",
    ),
    *(
        "A",
        "a.",
        "a ",
        " a",
        "a\t",
        "a\n",
        "é",
        "e\u0301",
        "ß",
        "ss",
        "ﬁ",
        "fi",
        "İ",
        "i\u0307",
        "\u2028",
        "\U0001f389",
    ),
    *(
        "\0",
        "a\0",
        "a\0b",
        "\ud800",
        "x" * 64,
        "x" * 200,
        "x" * 201,
        "x" * 255,
        "x" * 256,
        "x" * 300,
        "é" * 127,
        "é" * 128,
    ),
    *(
        "con",
        "CON",
        "nul",
        "aux.json",
        "a.json",
        "a.log",
        "a.lock",
        "a.tmp",
        ".a",
        ".a.tmp",
        "a.json.tmp",
        "a.jsonl",
        "a.bak",
    ),
    *(
        "a%2fb",
        "a%2Fb",
        "%61",
        "a+b",
        "a b",
        "a:b",
        "a*",
        "a?",
        "[a]",
        "-a",
        "--",
        "$HOME",
        "`a`",
        "'; DROP TABLE runs; --",
    ),
    *(
        "None",
        "true",
        "1",
        "01",
        "1.0",
        "1e0",
        "__proto__",
        "a,b",
        'a"b',
        "{a}",
        "%s",
        "report-17\u200b",
        "rep\u043ert-17",
    ),
)
"""Ids at which stores have stumbled; the last one has a Cyrillic o."""


@rule("STO-11")
def ids_stay_inside_and_apart(lab: Lab) -> None:
    """Any run id is refused, or kept without touching anything outside the store; two ids never share a state (case, unicode form, truncation).

    Intent: Run ids come from file names, tickets and requests; `../../etc/cron.d/x` must be no way out, and `Report` no way to overwrite `report`.

    Usual cause: `folder / f"{run_id}.json"`; or ids made safe by a replacement that is not injective: lower case, cut at 64, everything odd an underscore.

    Proof: Some hundred ids are saved in one store, each with a state of its own (and logged, where there is a log); then all that were taken are loaded by a fresh handle and compared, while the files around the store are compared with what they were. States of a store beside it are asked for by every relative and absolute path to them.

    Source: CWE-22, CWE-178; spec-kit run ids; Python's `os.path` on NUL.
    """
    with folder() as around:
        path, beside = around / "store", around / "beside"
        path.mkdir()
        beside.mkdir()
        secret = {"secret": "of the store beside"}
        at_rest(lab, beside, ("save", "secret", secret), *([("append", "secret", secret)] if lab.claims("log") else []))
        (around / "outside").write_text("outside")
        (around / "outside.json").write_text('{"outside": 1}')
        out = [
            f"{top}{file}" for file in _names(beside) for top in ("../beside/", f"{beside}{os.sep}", "x/../../beside/")
        ]
        ids = list(dict.fromkeys([*USUAL, *ODD, str(around / "absolute"), *out]))
        before = _outside(around)
        with handle(lab, path) as store:
            for run in out:
                loaded = store.ask("load", run)
                lab.check(
                    not among(loaded, [secret]), f"load({run!r}) gave what a store beside this one holds", "an error"
                )
            taken = {run: _save(lab, store, number, run) for number, run in enumerate(ids)}
            after = _outside(around)
        changed = sorted(str(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        lab.check(
            not changed,
            f"saving under ids such as {told(_guilty(ids, changed))} changed {', '.join(changed)}, outside of the store's folder",
            "nothing outside of it is touched",
        )
        for run in USUAL:
            if not taken[run]:
                raise Inconclusive(f"the usual id {run!r} is refused", because_of="STO-01")
        _each_has_its_own(lab, path, ids, taken)


def _names(path: Path) -> list[str]:
    """The files below, with and without what follows the first dot: an id is made a name in one of these ways."""
    found = [str(name.relative_to(path)) for name in path.rglob("*") if name.is_file()]
    return list(dict.fromkeys([*found, *(name.partition(".")[0] for name in found), "secret"]))


def _outside(around: Path) -> dict[Path, Any]:
    """All files around the store, but those in it."""
    return {
        name.relative_to(around): (name.stat().st_mtime_ns, name.read_bytes()) if name.is_file() else None
        for name in around.rglob("*")
        if around / "store" not in (name, *name.parents)
    }


def _guilty(ids: list[str], changed: list[str]) -> str:
    """The id that looks most like the file that was touched."""
    stems = [Path(name).name.partition(".")[0] for name in changed]
    return next((run for run in ids if "/" in run and any(stem and stem in run for stem in stems)), "../outside")


def _save(lab: Lab, store: Any, number: int, run: str) -> bool:
    """Whether it was taken. What the system refuses, such as a name that is too long, is refused as well."""
    saved = store.ask("save", run, state(number))
    lab.check(
        saved.returned or saved.is_a(Invalid, OSError),
        f"save({told(run)}, ...) {saved}",
        "the id is taken, or refused as Invalid (in itself or by the table `errors`)",
    )
    if lab.claims("log") and saved.returned:
        logged = store.ask("append", run, number)
        lab.check(
            logged.returned or logged.is_a(Invalid, OSError),
            f"save took the id {told(run)}; append {logged}",
            "append takes it, too, or refuses it as Invalid",
        )
    return bool(saved.returned)


def _each_has_its_own(lab: Lab, path: Path, ids: list[str], taken: dict[str, bool]) -> None:
    owners: dict[Any, str] = dict(enumerate(ids))
    with handle(lab, path) as store:
        for number, run in owners.items():
            if not taken[run]:
                continue
            loaded = store.ask("load", run)
            other = owners.get(mapped(loaded.value).get("step"))
            whose = f"the state that was saved for {told(other)}" if other is not None else f"this: {loaded}"
            lab.check(
                among(loaded, [state(number)]),
                f"each of {sum(taken.values())} ids was saved with a state of its own; the load of {told(run)} gave {whose}",
                "its own state",
            )
            if lab.claims("log"):
                logged = store.ask("entries", run)
                own = logged.returned and all(same(entry, number) for entry in logged.value)
                lab.check(own, f"entries({told(run)}) {logged}", f"its own entry, {number}, and no other id's")
