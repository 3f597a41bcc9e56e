"""Look at a thing, say which facets it could claim and why not the others, and write an adapter that runs.

It is imported and used in child processes: what it offers is drafted, each draft is tried once, on an empty folder and with
harmless functions, and what works is written, with the claims that were seen to hold. What nothing has shown is marked DECIDE
and judged by no rule until a person has written it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pytest_flowcheck.shell.drafting.draft import Draft
    from pytest_flowcheck.shell.drafting.sight import Sight

FACETS: Final = ("executor", "retry", "fanout", "flow", "client", "store", "looppool", "isolation", "tracing")
PATIENCE: Final = 20.0
"""Seconds for which a draft may be tried that neither ends nor is proven never to."""

ENDED: Final = "its process was given up"

NAMED: Final = 3
"""What it counts for that a thing is named as a facet's things are, where one of its words counts for 1."""

FEW: Final = 4
"""So many of a module's names are tried, the likeliest first."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    add = parser.add_argument
    add("target", metavar="TARGET", help="module:attr, file.py:attr, or a module")
    add("--facet", choices=FACETS, metavar="FACET", help=f"draft this one: {', '.join(FACETS)}")
    add(
        "--out", type=Path, default=Path("flowcheck_adapter.py"), metavar="FILE", help="where to (default: %(default)s)"
    )
    add("--force", action="store_true", help="write over a file that is there")
    add("--no-try", action="store_true", help="look only, and leave everything to be decided")


def run(given: argparse.Namespace) -> int:
    """Look, try, write, and say what to do next."""
    from pytest_flowcheck.errors import UsageError
    from pytest_flowcheck.shell.drafting.writing import adapter_name, is_untouched, skeleton, source
    from pytest_flowcheck.shell.printing import say

    if given.out.exists() and not given.force and not is_untouched(_text(given.out)):
        raise UsageError(f"{given.out} is there already: name another file by --out, or write over it by --force")
    if given.out.suffix != ".py" or not given.out.parent.is_dir():
        raise UsageError(f"--out={given.out}: expected a .py file in a folder that exists")
    if given.out.stem in {*sys.stdlib_module_names, given.target.partition(":")[0].partition(".")[0]}:
        raise UsageError(
            f"--out={given.out}: a module {given.out.stem!r} there would hide the one of that name; choose another"
        )
    things = _look(given.target)
    seen = things[0]
    if (line := _needs_none(seen, given.facet)) is not None:
        say(line)
        return 0
    say(_bundled(seen))
    found: list[Draft] = []
    for thing in things:
        if len(things) > 1:
            say([f"{thing.target}:"])
        found, lines = _draft(thing, [given.facet] if given.facet else FACETS, trying=not given.no_try)
        say(lines)
        if found:
            seen = thing
            break
    if not found:
        seen, facet = _nearest(things, given.facet)
        if facet == "executor":
            raise UsageError(f"{seen.target} has no submit, map and shutdown: there is no executor to hold")
        found = [skeleton(seen, facet)]
        say([f"nothing was seen to work: a skeleton of {facet} is written; another facet by --facet=FACET"])
    given.out.write_text(source(seen, found, str(given.out)), encoding="utf-8")
    names = [adapter_name(seen)]
    if {draft.aio for draft in found} == {True, False}:
        names.append(f"{names[0]}Async")
    say(
        [
            "",
            f"wrote {given.out}; look for DECIDE, then:",
            *(f"  pytest --flowcheck --flowcheck-subject={given.out}:{name}" for name in names),
        ]
    )
    return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _ask(function: str, *asked: Any, about: str) -> dict[str, Any]:
    """What a function of the kit says in a child process; `problem` where that died or never came back."""
    from pytest_flowcheck.running import resolve

    return resolve.ask({"call": function, "arguments": list(asked), "about": about}, Path.cwd(), PATIENCE)


def _look(target: str) -> list[Sight]:
    """The thing; of a module without a pair of functions its classes and functions, the likeliest first."""
    from pytest_flowcheck.errors import UsageError
    from pytest_flowcheck.shell.drafting.sight import from_json

    def asked(function: str) -> Any:
        answer = _ask(f"pytest_flowcheck.shell.drafting.sight:{function}", target, about=target)
        if "value" not in answer:
            raise UsageError(answer.get("usage") or f"{target!r}: {answer['problem']}")
        return answer["value"]

    seen = from_json(asked("look"))
    if seen.kind == "instance":
        raise UsageError(
            f"{target!r} is an object that is there already; rules need fresh ones: name its class, or a function that makes one"
        )
    if seen.kind != "module" or any(True for _ in _drafts(seen, FACETS)):
        return [seen]
    parts = [from_json(part) for part in asked("look_in")]
    likely = [part for part in parts if part.executor or any(True for _ in _drafts(part, FACETS))]
    return sorted(likely, key=lambda part: -sum(_score(part, facet) for facet in FACETS))[:FEW] or [seen]


def _drafts(seen: Sight, facets: Sequence[str]) -> Iterator[Draft]:
    for facet in facets:
        module: Any = import_module(f"pytest_flowcheck.shell.drafting.facets.{facet}")
        for aio in (False, True):
            yield from module.drafts(seen, aio=aio)


def _needs_none(seen: Sight, facet: str | None) -> list[str] | None:
    """What to say where no adapter is to be written."""
    if seen.adapter:
        return [f"{seen.target} is an adapter already:", f"  pytest --flowcheck --flowcheck-subject={seen.target}"]
    workers = seen.option(["max_workers"])
    if not seen.executor or facet is not None or workers is None or seen.made_by.required not in ([], [workers]):
        return None
    lines = [
        f"{seen.target} is a concurrent.futures.Executor that takes max_workers: it needs no adapter.",
        f"  pytest --flowcheck --flowcheck-subject={seen.target}",
    ]
    if any(True for _ in _drafts(seen, ["executor"])):
        lines.append(
            "To have optional abilities judged too (cancel_futures, initializer, ...), claim them in an adapter:"
        )
        lines.append(f"  flowcheck init {seen.target} --facet=executor")
    return lines


def _bundled(seen: Sight) -> list[str]:
    """The adapters of this kit that drive the same library."""
    from pytest_flowcheck.subjects import registered

    top = seen.module.partition(".")[0]
    found: list[str] = []
    for name, where in registered().items():
        module, _, attribute = where.partition(":")
        if not module.startswith("pytest_flowcheck.adapters."):
            continue
        adapter: Any = getattr(import_module(module), attribute)
        requires = tuple(getattr(adapter, "requires", ()))
        own = (
            requires[:1] == (seen.distribution,)
            if seen.distribution
            else not requires and name.partition("-")[0] == top
        )
        if own:
            found.append(name)
    if not found:
        return []
    listed = " ".join(f"--flowcheck-subject={name}" for name in found)
    return [f"the kit holds {seen.distribution or top} already: pytest --flowcheck {listed}", ""]


def _draft(seen: Sight, facets: Sequence[str], *, trying: bool) -> tuple[list[Draft], list[str]]:
    """The drafts that work, and a line for each facet."""
    kept: list[Draft] = []
    lines: list[str] = []
    for facet in facets:
        module: Any = import_module(f"pytest_flowcheck.shell.drafting.facets.{facet}")
        why = f"no: it looks for {module.LOOKS_FOR}"
        for aio in (False, True):
            failures: list[str] = []
            for draft in module.drafts(seen, aio=aio) if trying else ():
                works, said = _try(seen, draft)
                if works is not None:
                    kept.append(works)
                    why = f"yes{', awaited' if aio else ''}: it was used once, and did what the facet asks"
                    if works.claims:
                        why += f"; claims {', '.join(sorted(works.claims))}"
                    lines.append(f"  {facet:10} {why}")
                    break
                failures.append(said)
                if said.startswith(ENDED) and sum(each.startswith(ENDED) for each in failures) == 2:
                    break  # what dies or hangs twice does so however it is held
            if failures and why.startswith("no") and not any(draft.facet == facet for draft in kept):
                why = f"perhaps: it looks like it, but no draft works: {_telling(failures)}"
        if facet == "flow" and module.resembles(seen):
            why = "perhaps: it runs something that is called as graphs are; a mapping must be written by hand"
        if not any(draft.facet == facet for draft in kept):
            lines.append(f"  {facet:10} {why}")
    return kept, lines


def _telling(failures: Sequence[str]) -> str:
    """The reason to give: of the likeliest draft, but for one that only shows that another was the right one."""
    from pytest_flowcheck.shell.drafting.facets.retry import GAVE_A_FUNCTION

    return next((said for said in failures if said != GAVE_A_FUNCTION), failures[0])


def _try(seen: Sight, draft: Draft) -> tuple[Draft | None, str]:
    """The draft with what was seen; or None, and why it does not work."""
    from pytest_flowcheck.shell.drafting.writing import adapter_name, source

    folder = str(Path(seen.file).resolve().parent) if seen.file else str(Path.cwd())
    text = source(replace(seen, file=""), [draft], "draft.py")
    answer = _ask(
        "pytest_flowcheck.shell.drafting.trying:attempt",
        *(text, adapter_name(seen), draft.facet, draft.timed, [folder]),
        about=seen.target,
    )
    if "value" not in answer:
        return None, answer.get("usage") or f"{ENDED}: {answer['problem']}"
    told = answer["value"]
    if not told["works"]:
        return None, told["says"]
    claims = sorted({*draft.claims, *told["claims"]})
    return replace(draft, claims=claims, declares=told["declares"], errors=told["errors"]), ""


def _nearest(things: Sequence[Sight], facet: str | None) -> tuple[Sight, str]:
    """What a skeleton is written of: what was asked for, an engine's flow, what looked like it, or what is named like it.

    Raises:
        UsageError: it is like no facet more than like the others.
    """
    from pytest_flowcheck.errors import UsageError
    from pytest_flowcheck.shell.drafting.facets import flow

    if facet is not None:
        return things[0], facet
    for thing in things:
        if flow.resembles(thing):
            return thing, "flow"
    facets = [each for each in FACETS if each != "executor"]
    ranked = [(_score(thing, each), thing, each) for thing in things for each in facets]
    drafted = [entry for entry in ranked if any(True for _ in _drafts(entry[1], [entry[2]]))]
    most, thing, best = max(drafted or ranked, key=lambda entry: entry[0])
    if not drafted and (most < NAMED or sum(score == most for score, *_ in ranked) > 1):
        raise UsageError(f"{things[0].target}: no draft works; for a skeleton choose --facet= {', '.join(facets)}")
    return thing, best


def _score(seen: Sight, facet: str) -> int:
    """How many of the facet's words it uses, in its name above all."""
    module: Any = import_module(f"pytest_flowcheck.shell.drafting.facets.{facet}")
    words = set(module.WORDS)
    own = {*seen.methods, *(parameter.name for parameter in seen.made_by.parameters)}
    named = any(word in seen.word.lower() for word in words if len(word) > 3)
    return len(own & words) + NAMED * named
