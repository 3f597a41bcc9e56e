"""What a rule is, and the one list of them.

A rule is a small function of `suites/<facet>` that takes a `Lab`; its docstring *is* its entry in the specification:
the first paragraph is the normative sentence, the sections after it say why it exists. Spec pages, `--flowcheck-list`,
certificates and failure messages all read it from here, so that no second list can disagree.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from pytest_flowcheck.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from pytest_flowcheck.probes.lab import Lab

REVISION: Final = "2026.1"
"""The set of rules that this kit judges by. It is frozen: which rules there are, their levels, capabilities and sentences stay as
they are, and what is new comes with the next one. How a rule is judged may become sharper with every release of the kit."""

Level = Literal["MUST", "SHOULD"]
RuleFunction: TypeAlias = "Callable[[Lab], None]"

_ID = re.compile(r"[A-Z]{3}-\d{2}")
_SECTIONS = ("Intent", "Usual cause", "Proof", "Source")


@dataclass(frozen=True, order=True)
class Rule:
    """One numbered sentence of a facet's contract, and the function that judges it."""

    id: str
    """`EXE-03`: stable for ever."""
    facet: str = field(compare=False)
    level: Level = field(compare=False)
    capabilities: frozenset[str] = field(compare=False)
    """Judged only where the subject claims all of these; empty for a rule that everyone must keep."""
    cluster: Level | Literal["exempt"] = field(compare=False)
    """The level for a subject with the trait `cluster`."""
    property: bool = field(compare=False)
    """Whether hypothesis draws the scenarios (**H** in the specification)."""
    sentence: str = field(compare=False)
    intent: str = field(compare=False)
    usual_cause: str = field(compare=False)
    proof: str = field(compare=False)
    source: str = field(compare=False)
    function: RuleFunction = field(compare=False, repr=False)

    def level_for(self, claims: Iterable[str]) -> Level | Literal["exempt"]:
        """MUST, SHOULD or exempt for a subject with these claims of the facet."""
        return self.cluster if "cluster" in claims else self.level

    def missing(self, claims: Iterable[str]) -> frozenset[str]:
        """The capabilities that the rule needs and the subject does not claim."""
        return self.capabilities - frozenset(claims)


def rule(
    rule_id: str,
    *capabilities: str,
    should: bool = False,
    cluster: Level | Literal["exempt"] | None = None,
    property: bool = False,  # noqa: A002 - the word of the specification
) -> Callable[[RuleFunction], RuleFunction]:
    """Declare the function below as the judge of `rule_id`.

    Args:
        rule_id: facet prefix and two digits.
        capabilities: judged only for subjects that claim all of them.
        should: a recommendation; a violation is reported and changes no exit code.
        cluster: the level for subjects with the trait `cluster`, where it differs.
        property: hypothesis draws the scenarios.

    Raises:
        ValueError: the id is malformed, or the docstring lacks a sentence or one of the sections
            *Intent*, *Usual cause*, *Proof*, *Source*.
    """
    if not _ID.fullmatch(rule_id):
        raise ValueError(f"{rule_id!r} is no rule id: three capitals, a dash, two digits, e.g. 'EXE-03'")
    level: Level = "SHOULD" if should else "MUST"

    def declare(function: RuleFunction) -> RuleFunction:
        text = inspect.cleandoc(function.__doc__ or "")
        sentence, *paragraphs = re.split(r"\n\s*\n", text)
        sections = dict.fromkeys(_SECTIONS, "")
        for paragraph in paragraphs:
            name, _, body = paragraph.partition(":")
            if name not in sections:
                raise ValueError(
                    f"{rule_id}: unknown section {name!r} in its docstring; expected {', '.join(_SECTIONS)}"
                )
            sections[name] = " ".join(body.split())
        if not sentence or not all(sections.values()):
            empty = [name for name, body in sections.items() if not body]
            raise ValueError(f"{rule_id}: its docstring lacks {', '.join(empty) or 'the sentence'}")
        function.__flowcheck_rule__ = Rule(  # type: ignore[attr-defined]
            id=rule_id,
            facet=_facet_of(function.__module__),
            level=level,
            capabilities=frozenset(capabilities),
            cluster=cluster or level,
            property=property,
            sentence=" ".join(sentence.split()),
            intent=sections["Intent"],
            usual_cause=sections["Usual cause"],
            proof=sections["Proof"],
            source=sections["Source"],
            function=function,
        )
        return function

    return declare


def _facet_of(module: str) -> str:
    """`pytest_flowcheck.suites.executor.submit` -> `executor`: the word after `suites`, a third party's included."""
    parts = module.split(".")
    return parts[parts.index("suites") + 1] if "suites" in parts else parts[-1]


def rules_of(module: ModuleType) -> list[Rule]:
    """The rules declared in a suite: a module, or a package whose modules each hold some of the facet's rules."""
    found: dict[str, Rule] = {}
    modules = [module]
    if hasattr(module, "__path__"):
        names = sorted(m.name for m in pkgutil.iter_modules(module.__path__, module.__name__ + "."))
        modules += [importlib.import_module(name) for name in names]
    for part in modules:
        for value in vars(part).values():
            declared = cast("Rule | None", getattr(value, "__flowcheck_rule__", None))
            if declared is None or value.__module__ != part.__name__:
                continue
            if declared.id in found:
                raise ValueError(
                    f"{declared.id} is declared twice, in {part.__name__} and {found[declared.id].function.__module__}"
                )
            found[declared.id] = declared
    return sorted(found.values())


def bundled_facets() -> list[str]:
    """The facets of this kit, sorted: the folder `suites/` is the registry."""
    from pytest_flowcheck import suites

    return sorted(m.name for m in pkgutil.iter_modules(suites.__path__) if not m.name.startswith("_"))


def bundled_rules() -> list[Rule]:
    """Every rule of this kit, by facet and number. Imports the suites, and with them hypothesis."""
    rules: list[Rule] = []
    for facet in bundled_facets():
        rules += rules_of(importlib.import_module(f"pytest_flowcheck.suites.{facet}"))
    return rules


def find_rules(ids: Iterable[str], among: Iterable[Rule]) -> list[Rule]:
    """The rules with these ids (in any case), sorted.

    Raises:
        UsageError: an id is unknown; the line names the nearest ones.
    """
    from difflib import get_close_matches

    known = {r.id: r for r in among}
    chosen: set[str] = set()
    for wanted in ids:
        name = wanted.strip().upper()
        if name not in known:
            match = re.fullmatch(r"([A-Z]+)[-_ ]?0*(\d+)", name)
            meant = f"{match[1]}-{int(match[2]):02}" if match else ""
            near = [meant] if meant in known else get_close_matches(name, known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else "`pytest --flowcheck-list` shows every rule"
            raise UsageError(f"no rule {wanted!r}: {hint}")
        chosen.add(name)
    return [known[name] for name in sorted(chosen)]
