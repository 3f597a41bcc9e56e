"""What can be seen of a thing without using it. Runs in a child process; what it finds crosses over as JSON."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, cast

from pytest_flowcheck.errors import UsageError

MOST: Final = 80
"""So many of a module's names are looked at."""

Kind = Literal["class", "function", "module", "instance"]


@dataclass(frozen=True)
class Parameter:
    """One parameter of something callable. `sort`: as `inspect` has it: POSITIONAL_ONLY, KEYWORD_ONLY, ..."""

    name: str
    sort: str
    required: bool
    annotation: str = ""
    options: list[Parameter] = field(default_factory=list["Parameter"])
    """Where its annotation is a class of the thing's own library: the parameters that make one."""
    type: str = ""
    """That class, as `module:Name`."""

    @property
    def keyword(self) -> bool:
        """Whether it can be given by name."""
        return self.sort in {"POSITIONAL_OR_KEYWORD", "KEYWORD_ONLY"}

    @property
    def variadic(self) -> bool:
        """`*args` or `**kwargs`."""
        return self.sort.startswith("VAR_")


@dataclass(frozen=True)
class Signature:
    """A method, or a function of a module."""

    name: str
    aio: bool
    """A coroutine function, or one that says that it gives an awaitable."""
    parameters: list[Parameter] = field(default_factory=list[Parameter])
    is_property: bool = False

    def parameter(self, names: Iterable[str]) -> Parameter | None:
        """The first one of these names, in the order of the names."""
        own = {parameter.name: parameter for parameter in self.parameters}
        return next((own[name] for name in names if name in own), None)

    @property
    def required(self) -> list[Parameter]:
        """Those that must be given."""
        return [parameter for parameter in self.parameters if parameter.required and not parameter.variadic]


@dataclass(frozen=True)
class Sight:
    """A thing, as it looks from outside."""

    target: str
    module: str
    file: str
    """The file of `file.py:attr`, if it was asked for so."""
    attribute: str
    kind: Kind
    made_by: Signature
    """What calling it takes: the constructor of a class, or the function itself."""
    methods: dict[str, Signature] = field(default_factory=dict[str, Signature])
    """Of a class its own, of a module its functions."""
    enters: bool = False
    aenters: bool = False
    executor: bool = False
    is_open_executor: bool = False
    adapter: bool = False
    distribution: str = ""
    version: str = ""
    """What its package says in `__version__`."""
    names: list[str] = field(default_factory=list[str])
    """Public names of the module that it lives in."""
    classes: list[str] = field(default_factory=list[str])
    """Of a module: the public classes and functions that one could name instead."""

    def find(self, names: Iterable[str], *, aio: bool) -> Signature | None:
        """The first method of these names in this colour, `arun` for `run` included."""
        ways = ("{}", "a{}", "{}_async", "async_{}") if aio else ("{}", "{}_sync", "sync_{}")
        for name in names:
            for way in ways:
                found = self.methods.get(way.format(name))
                if found is not None and found.aio == aio and not found.is_property:
                    return found
        return None

    def option(self, names: Iterable[str]) -> Parameter | None:
        """A parameter of the constructor."""
        return self.made_by.parameter(names)

    @property
    def word(self) -> str:
        """What it is called: the last part of its name."""
        return self.attribute.rpartition(".")[2] or self.module.rpartition(".")[2]


def from_json(data: Mapping[str, Any]) -> Sight:
    """What `look` has sent."""
    own: dict[str, Any] = {
        **data,
        "made_by": _signature(data["made_by"]),
        "methods": {name: _signature(found) for name, found in data["methods"].items()},
    }
    return Sight(**own)


def _signature(data: Mapping[str, Any]) -> Signature:
    own: dict[str, Any] = {**data, "parameters": [_parameter(found) for found in data["parameters"]]}
    return Signature(**own)


def _parameter(data: Mapping[str, Any]) -> Parameter:
    own: dict[str, Any] = {**data, "options": [_parameter(found) for found in data["options"]]}
    return Parameter(**own)


# --- the child's side ---------------------------------------------------------------------------------------------------


def look(target: str) -> dict[str, Any]:
    """Import it, and say what it looks like.

    Args:
        target: `module`, `module:attr` or `file.py:attr`.

    Raises:
        UsageError: there is nothing of that name.
    """
    from pytest_flowcheck import subjects

    where, colon, attribute = target.rpartition(":") if ":" in target else (target, "", "")
    if colon and not (where and attribute):
        raise UsageError(f"{target!r} names nothing; expected module:attr, file.py:attr or a module")
    loaded = subjects.module_of(target, where)
    thing: Any = subjects.attribute_of(target, loaded, attribute) if attribute else loaded
    return asdict(_sight(target, where, attribute, loaded, thing))


def look_in(target: str) -> list[dict[str, Any]]:
    """What the public classes and functions of a module look like.

    Raises:
        UsageError: there is no such module.
    """
    from pytest_flowcheck import subjects

    module = subjects.module_of(target, target)
    colon = "" if ":" in target else ":"
    return [
        asdict(_sight(f"{target}{colon}{name}", target, name, module, getattr(module, name)))
        for name in _classes(module)[:MOST]
    ]


def _sight(target: str, where: str, attribute: str, module: Any, thing: Any) -> Sight:
    from concurrent.futures import Executor

    kind: Kind = "instance"
    if inspect.ismodule(thing):
        kind = "module"
    elif inspect.isclass(thing):
        kind = "class"
    elif inspect.isroutine(thing):
        kind = "function"
    owner: Any = thing if kind in {"class", "module"} else thing.__class__
    home = _home(thing, module)
    return Sight(
        target=target,
        module=str(module.__name__),
        file=where if where.endswith(".py") else "",
        attribute=attribute,
        kind=kind,
        made_by=_seen(attribute, thing, method=False) if kind in {"class", "function"} else Signature("", aio=False),
        methods=_methods(owner) if kind != "function" else {},
        enters=kind == "class" and hasattr(thing, "__enter__"),
        aenters=kind == "class" and hasattr(thing, "__aenter__"),
        executor=_is_executor(thing, kind),
        is_open_executor=isinstance(thing, Executor),
        adapter=kind == "class" and isinstance(getattr(thing, "claims", None), Mapping),
        distribution=_distribution(home),
        version=_version(sys.modules.get(home.partition(".")[0], module)),
        names=sorted(
            name for name in vars(sys.modules.get(home.partition(".")[0], module)) if not name.startswith("_")
        ),
        classes=_classes(module) if kind == "module" else [],
    )


def _is_executor(thing: Any, kind: Kind) -> bool:
    from concurrent.futures import Executor

    if kind == "class":
        return issubclass(thing, Executor) or all(
            callable(getattr(thing, name, None)) for name in ("submit", "map", "shutdown")
        )
    returned = inspect.signature(thing).return_annotation if kind == "function" and _has_signature(thing) else None
    return inspect.isclass(returned) and issubclass(returned, Executor)


def _home(thing: Any, module: Any) -> str:
    return str(getattr(thing, "__module__", None) or module.__name__)


def _distribution(module: str) -> str:
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "__main__":
        return ""
    return next(iter(metadata.packages_distributions().get(top, ())), "")


def _version(package: Any) -> str:
    found = getattr(package, "__version__", "")
    return found if isinstance(found, str) and found.isprintable() and '"' not in found and "\\" not in found else ""


def _classes(module: Any) -> list[str]:
    everything = cast("dict[str, Any]", vars(module))
    public = cast("list[str]", everything.get("__all__") or [name for name in everything if not name.startswith("_")])
    own = str(module.__name__).partition(".")[0]
    return sorted(
        name
        for name, value in ((name, getattr(module, name, None)) for name in public)
        if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.partition(".")[0] == own
        if not (inspect.isclass(value) and issubclass(value, BaseException))
    )


def _methods(owner: Any) -> dict[str, Signature]:
    found: dict[str, Signature] = {}
    for name in dir(owner):
        if name.startswith("_") and name not in {"__call__", "__getitem__", "__setitem__"}:
            continue
        value = inspect.getattr_static(owner, name, None)
        if isinstance(value, property):
            found[name] = Signature(name, aio=False, is_property=True)
            continue
        value = getattr(owner, name, None)
        if name == "__call__" and inspect.isclass(owner) and not inspect.isroutine(value):
            continue  # the metaclass's: what makes an instance
        if callable(value) and not inspect.isclass(value):
            found[name] = _seen(name, value, method=inspect.isclass(owner))
    return found


def _has_signature(value: Any) -> bool:
    try:
        inspect.signature(value)
    except (TypeError, ValueError):
        return False
    return True


def _seen(name: str, value: Any, *, method: bool) -> Signature:
    if not _has_signature(value):
        return Signature(name, aio=False)
    signature = inspect.signature(value)
    parameters = list(signature.parameters.values())
    if method and parameters and not (inspect.ismethod(value) or _is_static(value)):
        parameters = parameters[1:]
    returned = _text(signature.return_annotation)
    aio = inspect.iscoroutinefunction(value) or returned.split("[")[0].rpartition(".")[2] in {"Awaitable", "Coroutine"}
    return Signature(name, aio, [_parameter_of(parameter, value) for parameter in parameters])


def _is_static(value: Any) -> bool:
    return inspect.isfunction(value) and "." not in value.__qualname__.rpartition("<locals>.")[2]


def _parameter_of(parameter: inspect.Parameter, owner: Any) -> Parameter:
    text = _text(parameter.annotation)
    options, where = _options(parameter.annotation, owner)
    required = parameter.default is inspect.Parameter.empty
    return Parameter(parameter.name, parameter.kind.name, required, text, options, where)


def _options(annotation: Any, owner: Any) -> tuple[list[Parameter], str]:
    """What makes one of the class that an annotation names, if it is one of the library's own."""
    cls: Any = annotation
    if isinstance(annotation, str):
        first = annotation.partition("|")[0].strip()
        cls = (
            getattr(sys.modules.get(str(getattr(owner, "__module__", ""))), first, None)
            if first.isidentifier()
            else None
        )
    own = str(getattr(owner, "__module__", "")).partition(".")[0]
    if not inspect.isclass(cls) or cls.__module__.partition(".")[0] != own or not _has_signature(cls):
        return [], ""
    parameters = inspect.signature(cls).parameters.values()
    made = [
        Parameter(p.name, p.kind.name, p.default is inspect.Parameter.empty, _text(p.annotation))
        for p in parameters
        if not p.kind.name.startswith("VAR_")
    ]
    return made, _public(cls)


def _public(cls: type) -> str:
    """Where a class can be imported from: its package, if that has it too."""
    top = cls.__module__.partition(".")[0]
    for module in (top, cls.__module__):
        if getattr(importlib.import_module(module), cls.__name__, None) is cls:
            return f"{module}:{cls.__name__}"
    return f"{cls.__module__}:{cls.__qualname__}"


def _text(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def path_of(target: str) -> Path | None:
    """The file that `file.py:attr` names."""
    where = target.rpartition(":")[0]
    return Path(where) if where.endswith(".py") else None
