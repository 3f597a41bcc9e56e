"""`@breaks("EXE-04")`: how a deliberately broken engine says which rules it must fail."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar, cast

C = TypeVar("C", bound=type)

_ID = re.compile(r"[A-Z]{3}-\d{2}")


def breaks(*rule_ids: str) -> Callable[[C], C]:
    """Mark a subject class that is wrong on purpose. The selftest holds it to exactly these rules: each must fail
    (VIOLATED, HUNG, CRASHED or LEAKED), every other must not.

    Args:
        rule_ids: at least one, e.g. `"EXE-04"`.

    Raises:
        ValueError: no id, or a malformed one.
    """
    if not rule_ids or not all(_ID.fullmatch(r) for r in rule_ids):
        raise ValueError(f"breaks{rule_ids!r}: name the rules that this engine must fail, e.g. breaks('EXE-04')")

    def mark(cls: C) -> C:
        cls.__flowcheck_breaks__ = frozenset(rule_ids)  # type: ignore[attr-defined]
        return cls

    return mark


def broken_rules(cls: type) -> frozenset[str]:
    """The rules that this class, not one of its bases, is marked to break; empty for an honest one."""
    return cast("frozenset[str]", cls.__dict__.get("__flowcheck_breaks__", frozenset()))
