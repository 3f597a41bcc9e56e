"""Whose fault an error is that nobody expected: the adapter's, where that is certain; else the subject's, with a doubt.

Certain are two cases. An opener that raises has given nothing that a rule could have asked. And a *slip*: an error that
the interpreter itself found in the adapter's file, such as a misspelt name, where the subject is known to be elsewhere.
Whatever is less than certain stays a finding about the subject, so that no bug of it is hidden, and the message says where
in the adapter it was raised.
"""

from __future__ import annotations

import dis
import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, cast

from pytest_flowcheck.errors import AdapterError
from pytest_flowcheck.probes.calls import leaves
from pytest_flowcheck.proof.waitlist import where

if TYPE_CHECKING:
    from pytest_flowcheck.subjects import Subject

_BUNDLED = "pytest_flowcheck.adapters."

_HANDS_ON = ("RAISE", "RERAISE", "SEND", "YIELD", "RESUME", "CLEANUP", "END_ASYNC", "FOR_ITER", "GET_")
"""Instructions at which an error may be another's: of `raise`, `await`, `yield` and `for`. Elsewhere it is the line's own."""

_BINDING = re.compile(r"\(\) (got (an unexpected|multiple values|some positional)|missing \d+ required|takes )")
"""What Python says where a call does not fit the signature. Any other TypeError may come from what the subject gave."""


def slip(error: BaseException, subject: Subject) -> AdapterError | None:
    """What to say if the error is a slip in the adapter's own file, and the subject is elsewhere for certain; else None.

    A slip is: a name that is not there or has no value yet, a call that does not fit the signature, an attribute of a
    module, or of an object no class of which ever sets one. None's are no slip: the subject may have given the None.
    """
    if not subject.is_adapter:
        return None
    for leaf in leaves(error):
        last = _innermost(leaf, subject)
        if last is not None and _found_by_python(last) and _is_slip(leaf) and _apart(_class(subject)):
            return AdapterError(f"the adapter's own code raised {one_line(leaf)}, at {_told(last)}")
    return None


def not_opened(error: BaseException, subject: Subject, facet: str) -> AdapterError:
    """What to say where an opener raised."""
    for leaf in leaves(error):
        if any(True for _ in _in_adapter(leaf, subject)):
            error = leaf
            break
    own = list(_in_adapter(error, subject))
    steps = list(_steps(error.__traceback__))
    at = f", at {_told(own[-1])}" if own else ""
    if steps and (not own or steps[-1] is not own[-1]):
        at += f", raised at {_told(steps[-1])}"
    return AdapterError(
        f"{type(subject.target).__qualname__}.{facet}() raised {one_line(error)}{at}: it must open a fresh instance, and "
        "none was there to be asked; an option that the subject has no words for is told by Inexpressible"
    )


def doubt(error: BaseException, subject: Subject, facet: str = "") -> str:
    """A line for the message of a violation that may be the adapter's: it was raised in the adapter's own file, or, where a
    facet is given, by its opener. "" where there is no doubt."""
    if not subject.is_adapter:
        return ""
    if facet:
        what = f"raised as {type(subject.target).__qualname__}.{facet}() opened an instance"
    else:
        found = [last for leaf in leaves(error) if (last := _innermost(leaf, subject)) and _found_by_python(last)]
        if not found:
            return ""
        what = f"raised in the adapter's own code, {_told(found[0])}"
    return f"{what}: if that is the adapter's fault, this is no finding about the subject"


def plain(options: Mapping[str, Any], usual: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The same without all that is asked for only where a capability is claimed, or that a rule tries on purpose.

    Args:
        options: what a rule opens with.
        usual: what any subject can be opened with, for example; the protocol's `OPENS`.

    Returns:
        With these any subject opens; None if that can't be said, as of a folder in which something is already.
    """
    if usual.keys() - options.keys() or any(
        isinstance(v, Path) and v.is_dir() and any(v.iterdir()) for v in options.values()
    ):
        return None
    return {name: options[name] if _ordinary(options[name], value) else value for name, value in usual.items()}


def _ordinary(value: Any, usual: Any) -> bool:
    if usual is None:  # it stands for a folder, a sink or a factory of the kit's; or for no `ttl`
        return not isinstance(value, int | float)
    return type(value) is type(usual) and value > 0


def one_line(error: BaseException) -> str:
    """The error's type and text on one line, cut at 300 characters."""
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# --- where -------------------------------------------------------------------------------------------------------------


def _steps(at: TracebackType | None) -> Iterator[TracebackType]:
    while at is not None:
        yield at
        at = at.tb_next


def _in_adapter(error: BaseException, subject: Subject) -> Iterator[TracebackType]:
    files = _files(_class(subject))
    return (step for step in _steps(error.__traceback__) if step.tb_frame.f_code.co_filename in files)


def _innermost(error: BaseException, subject: Subject) -> TracebackType | None:
    """The step that raised, if it is in the adapter's file."""
    *_, last = [None, *_steps(error.__traceback__)]
    return last if last is not None and last.tb_frame.f_code.co_filename in _files(_class(subject)) else None


def _told(step: TracebackType) -> str:
    code = step.tb_frame.f_code
    return f"{where(code.co_filename, step.tb_lineno)} in {code.co_name}"


def _class(subject: Subject) -> type:
    return type(cast("object", subject.target))


@cache
def _files(adapter: type) -> frozenset[str]:
    """The adapter's own file; of a bundled one, also the helpers beside it."""
    if adapter.__module__.startswith(_BUNDLED):
        folder = Path(cast("str", importlib.import_module(_BUNDLED.rstrip(".")).__file__)).parent
        return frozenset(map(str, folder.glob("*.py")))
    file = getattr(sys.modules.get(adapter.__module__), "__file__", None)
    return frozenset({str(file)} if file else ())


@cache
def _apart(adapter: type) -> bool:
    """Whether the subject is known to be in other files than the adapter: a bundled one, or one that says by `requires`
    which distributions it adapts, and is in none of them. Whoever certifies his own engine in one file says no such thing.
    """
    if adapter.__module__.startswith(_BUNDLED):
        return True
    required = {_normal(name) for name in cast("tuple[str, ...]", tuple(getattr(adapter, "requires", ())))}
    if not required:
        return False
    top = adapter.__module__.partition(".")[0]
    of = {_normal(name) for name in (top, *metadata.packages_distributions().get(top, ()))}
    return not required & of


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# --- what --------------------------------------------------------------------------------------------------------------


def _found_by_python(step: TracebackType) -> bool:
    return not dis.opname[step.tb_frame.f_code.co_code[step.tb_lasti]].startswith(_HANDS_ON)


def _is_slip(error: BaseException) -> bool:
    if isinstance(error, NameError):
        return True
    if isinstance(error, AttributeError):
        return error.name is not None and _never_had(error.obj, error.name)
    return isinstance(error, TypeError) and _BINDING.search(str(error)) is not None


def _never_had(thing: object, name: str) -> bool:
    """Whether that this object lacks the attribute can't be the subject's doing: no class of it ever sets one."""
    if isinstance(thing, ModuleType):
        return True
    cls = thing if isinstance(thing, type) else type(thing)
    if cls.__module__ == "builtins":
        return False
    return not any(base is not object and (hasattr(base, "__getattr__") or name in _sets(base)) for base in cls.__mro__)


@cache
def _sets(cls: type) -> frozenset[str]:
    """All attributes that a class has, declares, or mentions in the code of its methods as what they set or delete."""
    found = {*vars(cls), *getattr(cls, "__annotations__", ())}
    for value in vars(cls).values():
        for function in (value, *(getattr(value, part, None) for part in ("__func__", "fget", "fset", "fdel", "func"))):
            code = getattr(inspect.unwrap(function) if callable(function) else None, "__code__", None)
            codes = [code] if code is not None else []
            for each in codes:
                found.update(
                    str(i.argval) for i in dis.get_instructions(each) if i.opname in {"STORE_ATTR", "DELETE_ATTR"}
                )
                found.update(const for const in each.co_consts if isinstance(const, str))  # setattr(self, "it", ...)
                codes += [const for const in each.co_consts if inspect.iscode(const)]
    return frozenset(found)
