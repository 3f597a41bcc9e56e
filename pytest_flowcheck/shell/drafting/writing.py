"""An adapter's source, from drafts: formatted as `ruff format` would, with a marked line for what a person must decide."""

from __future__ import annotations

import hashlib
import re
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_flowcheck import protocols
from pytest_flowcheck.shell.drafting import names
from pytest_flowcheck.shell.drafting.draft import STEP, WIDTH, Draft, call, comment, guard, wrapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_flowcheck.shell.drafting.sight import Sight

_UNTOUCHED: Final = "As it was drafted, `flowcheck init` may write over it: "
"""Before the digest of all the rest, in a draft's docstring."""

_CONTEXTLIB: Final = ("asynccontextmanager", "closing", "contextmanager")


def adapter_name(seen: Sight) -> str:
    """`MyRetrying` for `tenacity:Retrying`."""
    words = re.split(r"[^A-Za-z0-9]+|_", seen.word)
    return "My" + "".join(word[:1].upper() + word[1:] for word in words if word)


def skeleton(seen: Sight, facet: str) -> Draft:
    """A draft in which everything is left to be decided."""
    module: Any = import_module(f"pytest_flowcheck.shell.drafting.facets.{facet}")
    wrapper = f"_{facet.capitalize()}"
    opening = [
        *guard(f"how a fresh {seen.word} is made, and how it ends"),
        f"yield {wrapper}({names.thing(seen)})",
    ]
    return Draft(facet, False, wrapped(wrapper, module.SKELETON), opening, module.ASKED, names.imports(seen))


def source(seen: Sight, drafts: Sequence[Draft], file: str) -> str:
    """The module that holds these drafts: one adapter, and a second one for the awaited way in where there are both.

    Args:
        seen: the thing.
        drafts: at most one for each facet and colour.
        file: the name that it will have, for the commands in its docstring.
    """
    blocking = [draft for draft in drafts if not draft.aio]
    awaited = [draft for draft in drafts if draft.aio]
    name = adapter_name(seen)
    classes = [(name, name.removeprefix("My").lower(), blocking or awaited, seen.target)]
    if blocking and awaited:
        other = f"{name}Async"
        classes.append((other, f"{classes[0][1]}-async", awaited, f"{seen.target}, awaited"))
    body: list[str] = []
    for draft in drafts:
        if draft.wrapper:
            body += ["", "", *_renamed(draft, draft.wrapper)]
    for own, label, held, what in classes:
        body += ["", "", *_adapter(seen, own, label, held, what)]
    text = "\n".join(body)
    head = [
        f'"""How pytest-flowcheck holds `{seen.target}`.',
        "",
        f"Drafted by `flowcheck init {seen.target}`; lines marked DECIDE are yours.",
        "To certify it:",
        "",
        *(f"    pytest --flowcheck --flowcheck-subject={file}:{own}" for own, *_ in classes),
        "",
        _UNTOUCHED,
        '"""',
        "",
        *_imports(seen, drafts, text),
    ]
    whole = "\n".join([*head, *body]) + "\n"
    return whole.replace(_UNTOUCHED, f"{_UNTOUCHED}{_digest(whole)}", 1)


def is_untouched(text: str) -> bool:
    """Whether this is a draft as it was written, so that nothing of anybody's is lost with it."""
    found = re.search(rf"^{_UNTOUCHED}([0-9a-f]{{12}})$", text, re.MULTILINE)
    return found is not None and _digest(text.replace(found[0], _UNTOUCHED, 1)) == found[1]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _renamed(draft: Draft, lines: Iterable[str]) -> list[str]:
    """With the awaited wrapper under a name of its own."""
    if not draft.aio:
        return list(lines)
    old = f"_{draft.facet.capitalize()}"
    return [re.sub(rf"\b{old}\b", f"_Async{draft.facet.capitalize()}", line) for line in lines]


def _imports(seen: Sight, drafts: Sequence[Draft], text: str) -> Iterator[str]:
    used = set(re.findall(r"\b\w+\b", re.sub(r"#.*", "", text)))
    more = _merged(line for draft in drafts for line in draft.imports if not line.startswith("from contextlib"))
    standard = [line for line in more if line.split()[1].partition(".")[0] in sys.stdlib_module_names]
    if managers := sorted(used & set(_CONTEXTLIB)):
        standard.append(f"from contextlib import {', '.join(managers)}")
    if "platform" in used:
        standard.append("import platform")
    if folder := _folder(seen):
        standard += ["import sys", "from pathlib import Path"]
    yield from _sorted(standard)
    if standard:
        yield ""
    kit = sorted(used & set(protocols.__all__), key=str.lower)
    others = [line for line in more if line not in standard]
    of_kit = _import("pytest_flowcheck.protocols", kit) if kit else []
    if folder:
        yield from of_kit
        yield ""
        yield f'sys.path.insert(0, str(Path(__file__).parent / "{folder}"))'
        yield ""
        for line in _sorted(others):
            first, *rest = _fitted(line)
            yield from (f"{first}  # noqa: E402", *rest)
        return
    for line in _sorted(line for line in others if line.split()[1] < "pytest_flowcheck"):
        yield from _fitted(line)
    yield from of_kit
    for line in _sorted(line for line in others if line.split()[1] >= "pytest_flowcheck"):
        yield from _fitted(line)


def _fitted(line: str) -> list[str]:
    """An import in as many lines as it takes."""
    module, word, found = line.removeprefix("from ").partition(" import ")
    return _import(module, found.split(", ")) if word else [line]


def _merged(lines: Iterable[str]) -> list[str]:
    """One line for each module."""
    plain: set[str] = set()
    of: dict[str, set[str]] = {}
    for line in lines:
        module, word, found = line.removeprefix("from ").partition(" import ")
        if word:
            of.setdefault(module, set()).update(found.split(", "))
        else:
            plain.add(line)
    return sorted([*plain, *(f"from {module} import {', '.join(sorted(found))}" for module, found in of.items())])


def _import(module: str, found: Sequence[str]) -> list[str]:
    line = f"from {module} import {', '.join(found)}"
    return [line] if len(line) <= WIDTH else [f"from {module} import (", *(f"{STEP}{name}," for name in found), ")"]


def _sorted(lines: Iterable[str]) -> list[str]:
    return sorted(set(lines), key=lambda line: (line.startswith("from"), line))


def _folder(seen: Sight) -> str:
    """The folder of `file.py:attr`, if it is another one than the adapter's."""
    folder = seen.file.rpartition("/")[0]
    return folder if seen.file else ""


def _adapter(seen: Sight, name: str, label: str, drafts: Sequence[Draft], what: str) -> list[str]:
    lines = [f"class {name}(Adapter):", f'{STEP}"""`{what}`."""', "", f'{STEP}name = "{label}"']
    if seen.distribution:
        lines.append(f'{STEP}requires = ("{seen.distribution}",)')
    elif seen.module.partition(".")[0] in sys.stdlib_module_names:
        lines.append(f"{STEP}version = platform.python_version()")
    else:
        lines += _in(comment("DECIDE: its version, as the card is to name it", indent=4))
        lines.append(f'{STEP}version = "{seen.version or "unknown"}"')
    lines += _in(_claims(drafts))
    if chosen := {draft.facet: draft.declares for draft in drafts if draft.declares}:
        entries = [f"{_q(facet)}: {_mapping(choices)}" for facet, choices in chosen.items()]
        lines += _in(call("declares = {", entries, "}", indent=4))
    lines += _in(_errors(drafts))
    for draft in drafts:
        lines += ["", *_in(_renamed(draft, draft.opener))]
    return lines


def _in(lines: Iterable[str]) -> list[str]:
    return [STEP + line if line else line for line in lines]


def _mapping(choices: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_q(choice)}: {_q(value)}" for choice, value in choices.items()) + "}"


def _q(text: str) -> str:
    return f'"{text}"'


def _claims(drafts: Sequence[Draft]) -> Iterator[str]:
    entries: list[str] = []
    for draft in drafts:
        protocol: Any = import_module(f"pytest_flowcheck.protocols.{draft.facet}")
        own = {"threads", "process"} if draft.facet == "executor" else set[str]()
        more = {
            capability: promise
            for capability, promise in cast("dict[str, str]", {**protocol.CAPABILITIES, **protocol.TRAITS}).items()
            if capability not in draft.claims and not (own & set(draft.claims) and capability in own)
        }
        if more:
            yield from comment(f"DECIDE: what else it promises of {draft.facet}. What is claimed is judged:", indent=4)
            for capability, promise in more.items():
                yield from (f"#   {line[2:]}" for line in comment(f"{capability}: {promise}", indent=6))
        choices = cast("dict[str, tuple[str, ...]]", protocol.DECLARES)
        if left := {choice: values for choice, values in choices.items() if choice not in draft.declares}:
            text = "; ".join(f"{choice}: {' or '.join(values)}" for choice, values in left.items())
            yield from comment(f"DECIDE: what it does otherwise than by default, in `declares`: {text}", indent=4)
        claimed = "{" + ", ".join(map(_q, sorted(draft.claims))) + "}" if draft.claims else "set()"
        entries.append(f'"{draft.facet}": {claimed}')
    if all(len(entry) + 9 <= WIDTH for entry in entries):
        yield from call("claims = {", entries, "}", indent=4)
        return
    yield "claims = {"
    for draft, entry in zip(drafts, entries, strict=True):
        if len(entry) + 9 <= WIDTH:
            yield f"{STEP}{entry},"
        else:
            yield f'{STEP}"{draft.facet}": {{'
            yield from (f"{STEP * 2}{_q(claim)}," for claim in sorted(draft.claims))
            yield f"{STEP}}},"
    yield "}"


def _errors(drafts: Sequence[Draft]) -> Iterator[str]:
    """The table of errors, as they were seen; a class of the thing's own stands by its name."""
    table: dict[str, list[str]] = {}
    for draft in drafts:
        for kind, own in draft.errors.items():
            table.setdefault(kind, [])
            table[kind] += [_error(where) for where in own if _error(where) not in table[kind]]
    if table:
        yield from comment("As they were seen; DECIDE whether there are more", indent=4)
        entries = [
            f"{kind}: {own[0]}" if len(own) == 1 else f"{kind}: ({', '.join(own)})"
            for kind, own in sorted(table.items())
        ]
        yield from call("errors = {", entries, "}", indent=4)


def _error(where: str) -> str:
    module, _, name = where.partition(":")
    return name if module == "builtins" else _q(name.rpartition(".")[2])
