"""Finding and opening subjects: `NAME`, `module:attr`, `file.py:attr`; adapters, and bare executors without one.

Loading imports the subject's code, so certification does it first in a child process (`running.resolve`): what dies or
hangs on import costs that child only. This module is what runs inside the child, and again in each worker.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import platform
import re
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final, cast, get_args

from pytest_flowcheck.errors import AdapterError, NotTestable, UsageError
from pytest_flowcheck.protocols import Backend, ErrorMap, Inexpressible

ENTRY_POINTS: Final = "pytest_flowcheck.subjects"
"""Entry point group by which a distribution offers adapters by name: `my-engine = "my_pkg.certify:MyEngine"`."""

_SPEC = re.compile(r"(?P<module>[^:]+?(?:\.py)?):(?P<attr>[A-Za-z_][\w.]*)")


@dataclass(frozen=True)
class Subject:
    """A loaded subject: who it is, what it claims, and how an instance is opened.

    `spec` is what loads it again in another process. `is_adapter`: an adapter class stands between the kit and the
    system under certification, so some errors are the adapter's own.
    """

    name: str
    version: str
    spec: str
    claims: Mapping[str, AbstractSet[str]]
    declares: Mapping[str, Mapping[str, str]] = field(default_factory=dict[str, Mapping[str, str]])
    backends: tuple[str, ...] = ("asyncio",)
    """The loop libraries on which instances that are opened by `async with` are to be tried."""
    backend: str = "asyncio"
    """The one on which they are, in this process."""
    unclaimed: tuple[str, ...] = ()
    """What seems to be there but is not claimed: pointed out on the card."""
    is_adapter: bool = False
    target: Any = field(default=None, repr=False, compare=False)

    def declared(self, facet: str, choice: str) -> str:
        """The subject's choice where a rule judges *as declared*; the facet's default where it says nothing.

        A third party's facet has no defaults: `""`.
        """
        protocol = _protocol(facet)
        default = "" if protocol is None else cast("dict[str, tuple[str, ...]]", protocol.DECLARES)[choice][0]
        return self.declares.get(facet, {}).get(choice, default)

    def opens(self, facet: str) -> Mapping[str, Any]:
        """What any instance of the facet is opened with, for example; nothing for a third party's facet."""
        protocol = _protocol(facet)
        return {} if protocol is None else cast("Mapping[str, Any]", protocol.OPENS)

    @property
    def errors(self) -> ErrorMap:
        """The kit's errors -> the subject's own, as its adapter says."""
        return cast("ErrorMap", getattr(self.target, "errors", {})) if self.is_adapter else {}

    @property
    def sibling(self) -> Subject | None:
        """The same library's other way in, such as its `run` for its `arun`; None where the adapter names none.

        Raises:
            UsageError: what it names is no adapter.
        """
        other: type | None = getattr(self.target, "sibling", None) if self.is_adapter else None
        if other is None:
            return None
        where = f"{other.__module__}:{other.__qualname__}"
        return _understand(where, where, other)

    @property
    def source(self) -> str:
        """Lines of Python that make the adapter, as `subject`, in a program without the kit's own loading."""
        module, _, attribute = self.spec.rpartition(":")
        lines = []
        if module.endswith(".py"):
            path = Path(module).resolve()
            lines, module = ["import sys", "", f"sys.path.insert(0, {str(path.parent)!r})"], path.stem
        top, *rest = attribute.split(".")
        return "\n".join([*lines, f"from {module} import {top}", "", f"subject = {'.'.join([top, *rest])}()"])

    def open(self, facet: str, **options: Any) -> Any:
        """What the facet's opener gives: a context manager, or an async one, for a fresh instance. Enters nothing.

        Raises:
            AdapterError: the opener does not take these options.
            NotTestable: the subject's terms can't express them.
        """
        opener: Callable[..., Any] = getattr(self.target, facet)
        _takes(f"{self.spec}.{facet}", opener, options)
        try:
            return opener(**options)
        except Inexpressible as error:
            raise NotTestable(f"the subject can't express it: {error}") from None

    @contextmanager
    def open_executor(self, *, max_workers: int, **options: Any) -> Generator[Executor]:
        """A fresh executor. Leaving leaves its own `with` block.

        Raises:
            AdapterError: what was opened is no executor, or an option (`initializer`) that was claimed is not accepted.
        """
        opener: Callable[..., Any] = self.target.executor if self.is_adapter else self.target
        _takes(self.spec, opener, {"max_workers": max_workers, **options})
        opened = opener(max_workers=max_workers, **options)
        manager = cast("AbstractContextManager[Executor]", opened)
        if not hasattr(opened, "__enter__") or not hasattr(opened, "__exit__"):
            raise AdapterError(
                f"{self.spec} gave {_a(opened)}; expected an executor, or a context manager that gives one"
            )
        with manager as executor:
            if not callable(getattr(executor, "submit", None)):
                raise AdapterError(
                    f"{self.spec} opened {_a(executor)}; expected an object with submit, map and shutdown"
                )
            yield executor

    def make_executor(self, *, max_workers: int, **options: Any) -> Executor:
        """An executor that nobody leaves: for rules about what happens without a `with` block.

        Raises:
            NotTestable: the subject is opened through a context manager of its own, which owns more than the executor.
        """
        opener: Callable[..., Any] = self.target.executor if self.is_adapter else self.target
        opened = opener(max_workers=max_workers, **options)
        if not callable(getattr(opened, "submit", None)):
            raise NotTestable(
                f"{self.spec} opens a context manager around its executor, so none can be had without leaving it"
            )
        return cast("Executor", opened)


def _takes(spec: str, opener: Callable[..., Any], options: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(opener)
    except (TypeError, ValueError):
        return  # a builtin that tells nothing: the call will
    try:
        signature.bind(**options)
    except TypeError as error:
        raise AdapterError(
            f"{spec} can't be opened with what its facet and claims ask for: {error}; its signature is {signature}"
        ) from error


def _a(value: object) -> str:
    return f"an object of type {type(value).__name__}"


@cache
def registered() -> Mapping[str, str]:
    """Subjects known by name -> the `module:attr` that loads each: bundled adapters, then entry points."""
    from pytest_flowcheck import adapters

    found: dict[str, str] = {}
    for module in sorted(m.name for m in pkgutil.iter_modules(adapters.__path__) if not m.name.startswith("_")):
        loaded = importlib.import_module(f"{adapters.__name__}.{module}")
        for name, attribute in sorted(cast("Mapping[str, str]", loaded.SUBJECTS).items()):
            found[name] = f"{loaded.__name__}:{attribute}"
    for entry in sorted(metadata.entry_points(group=ENTRY_POINTS), key=lambda e: e.name):
        found.setdefault(entry.name, entry.value)
    return found


def load(spec: str, extra: Mapping[str, str] | None = None) -> Subject:
    """Import a subject.

    Args:
        spec: `NAME`, `module:attr` or `path/to/file.py:attr`.
        extra: more names, from the hook `pytest_flowcheck_subjects`.

    Raises:
        UsageError: it does not exist or is no subject; one line that says what to write instead.
    """
    names = {**registered(), **(extra or {})}
    where = names.get(spec, spec)
    match = _SPEC.fullmatch(where)
    if match is None:
        near = get_close_matches(spec, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known names: {', '.join(sorted(names))}"
        raise UsageError(f"no subject {spec!r}: {hint} Anything else is written module:attr or file.py:attr")
    target = attribute_of(spec, module_of(spec, match["module"]), match["attr"])
    return _understand(spec, where, target)


def again(subject: Subject) -> Subject:
    """The same subject in another process: imports it, and asks nothing that is known already.

    Raises:
        UsageError: it can't be imported there.
    """
    from dataclasses import replace

    module, _, attribute = subject.spec.rpartition(":")
    target = attribute_of(subject.spec, module_of(subject.spec, module), attribute)
    return replace(subject, target=target() if subject.is_adapter else target)


def module_of(spec: str, name: str) -> Any:
    """Import a module by its name, or by its file. Raises: UsageError, one line that says what failed."""
    if name.endswith(".py"):
        return _module_from_file(spec, Path(name))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name != missing and not name.startswith(missing + "."):
            raise UsageError(
                f"subject {spec!r}: importing {name} failed, because it needs the missing module {missing!r}"
            ) from error
        raise UsageError(
            f"subject {spec!r}: no module {missing!r} on sys.path; install it, or run pytest from the folder that holds it"
        ) from error
    except Exception as error:
        raise UsageError(f"subject {spec!r}: importing {name} raised {_one_line(error)}") from error


def _module_from_file(spec: str, path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"subject {spec!r}: no file {str(path)!r} (looked in {Path.cwd()})")
    name = path.stem
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path.resolve()):
        return sys.modules[name]
    # Imported under its own name with its folder on the path, so that worker processes can import it again when they
    # unpickle what it defines.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    found = importlib.util.spec_from_file_location(name, path.resolve())
    if found is None or found.loader is None:
        raise UsageError(f"subject {spec!r}: {str(path)!r} is no Python file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"subject {spec!r}: {path.name} raised {_one_line(error)}") from error
    return module


def attribute_of(spec: str, module: Any, path: str) -> Any:
    """What stands at this dotted path. Raises: UsageError, nothing does; names the nearest."""
    value = module
    for part in path.split("."):
        if not hasattr(value, part):
            near = get_close_matches(part, dir(value), n=3, cutoff=0.5)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise UsageError(f"subject {spec!r}: {module.__name__} has no attribute {part!r}{hint}")
        value = getattr(value, part)
    return value


def understand(spec: str, target: Any) -> Subject:
    """The subject that this object is, wherever it came from; `spec` is what loads it again in another process.

    Raises:
        UsageError: it is none.
    """
    return _understand(spec, spec, target)


def _understand(spec: str, where: str, target: Any) -> Subject:
    if inspect.isclass(target) and hasattr(target, "claims"):
        return _adapter(spec, where, target)
    if isinstance(target, Executor) or (callable(getattr(target, "submit", None)) and not inspect.isclass(target)):
        raise UsageError(
            f"subject {spec!r} is an executor that is already open; rules need fresh ones: give its class, or a function "
            "that takes max_workers and returns one"
        )
    if not callable(target):
        raise UsageError(
            f"subject {spec!r} is {_a(target)}; expected an Executor class, a factory that takes max_workers, or an adapter"
        )
    return _bare(spec, where, target)


def _adapter(spec: str, where: str, cls: Any) -> Subject:
    try:
        adapter = cls()
    except Exception as error:
        raise UsageError(
            f"subject {spec!r}: {cls.__name__}() raised {_one_line(error)}; an adapter is made without arguments"
        ) from error
    requires = tuple(cast("Sequence[str]", getattr(adapter, "requires", ())))
    _check_python(spec, tuple(cast("Sequence[int]", getattr(adapter, "requires_python", ()))))
    _check_installed(spec, requires)
    claims = _check_claims(spec, adapter.claims)
    if not claims:
        raise UsageError(f"subject {spec!r} claims no facet: say which, as in claims = {{'executor': {{'threads'}}}}")
    for facet, capabilities in claims.items():
        if not callable(getattr(adapter, facet, None)):
            raise UsageError(f"subject {spec!r} claims the facet {facet!r} but has no method {facet}(){_near(facet)}")
        _check_capabilities(spec, facet, capabilities)
    declares = {
        facet: _check_declares(spec, facet, f"declares[{facet!r}]", chosen)
        for facet, chosen in dict(getattr(adapter, "declares", {})).items()
    }
    return Subject(
        name=str(getattr(adapter, "name", "") or cls.__name__),
        version=str(
            getattr(adapter, "version", "") or (metadata.version(requires[0]) if requires else _version(cls.__module__))
        ),
        spec=where,
        claims=claims,
        declares=declares,
        backends=_backends(spec, getattr(adapter, "backends", ("asyncio",))),
        is_adapter=True,
        target=adapter,
    )


def _check_claims(spec: str, claimed: Any) -> dict[str, frozenset[str]]:
    """The claims, by facet, once they have the right shape."""
    if not isinstance(claimed, Mapping):
        listed = [claimed] if not isinstance(claimed, list | tuple | AbstractSet) else [*cast("AbstractSet[Any]", claimed)]
        named: Any = next(iter(listed), None)
        example = f"{{{named if isinstance(named, str) and named else 'flow'!r}: set()}}"
        raise UsageError(f"subject {spec!r}: claims is {claimed!r}; expected a mapping such as {example}")
    claims: dict[str, frozenset[str]] = {}
    for facet, words in cast("Mapping[str, Any]", claimed).items():
        if isinstance(words, str) or not isinstance(words, AbstractSet | list | tuple):
            example = f"{{{words!r}}}" if isinstance(words, str) and words else "set()"
            raise UsageError(
                f"subject {spec!r}: claims[{facet!r}] is {words!r}; expected a set of words such as {example}"
            )
        claims[facet] = frozenset(cast("AbstractSet[str]", words))
    return claims


def _near(facet: str) -> str:
    """A hint, where no facet has this name and one has a name near it."""
    from pytest_flowcheck.rules import bundled_facets

    known = bundled_facets()
    near = [] if facet in known else get_close_matches(facet, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _check_python(spec: str, required: tuple[int, ...]) -> None:
    if sys.version_info[: len(required)] < required:
        needed = ".".join(map(str, required))
        raise UsageError(f"subject {spec!r} needs Python {needed} or later; this is {platform.python_version()}")


def _check_installed(spec: str, requires: Sequence[str]) -> None:
    """The distributions that an adapter `requires`: it imports them where it uses them, so that it can be listed without."""
    missing: list[str] = []
    for distribution in requires:
        try:
            metadata.version(distribution)
        except metadata.PackageNotFoundError:
            missing.append(distribution)
    if missing:
        raise UsageError(f"subject {spec!r} needs what is not installed: pip install {' '.join(missing)}")


def _backends(spec: str, declared: Any) -> tuple[str, ...]:
    known: tuple[str, ...] = get_args(Backend)
    backends = tuple(cast("Sequence[str]", declared)) if isinstance(declared, list | tuple) else (declared,)
    if not backends or any(backend not in known for backend in backends):
        raise UsageError(f"subject {spec!r} has backends = {declared!r}; expected some of {known}")
    return backends


def _protocol(facet: str) -> Any:
    """The facet's protocol; None for a third party's facet: its own suite knows its words."""
    name = f"pytest_flowcheck.protocols.{facet}"
    return importlib.import_module(name) if importlib.util.find_spec(name) is not None else None


def _check_capabilities(spec: str, facet: str, claimed: AbstractSet[str]) -> None:
    if (protocol := _protocol(facet)) is None:
        return
    known = {*protocol.CAPABILITIES, *protocol.TRAITS}
    for capability in sorted(claimed - known):
        if capability in protocol.READ_OFF:
            raise UsageError(
                f"subject {spec!r} claims {capability!r} of {facet}: leave it out, it is read off the opened instance"
            )
        near = get_close_matches(capability, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"{facet} has: {', '.join(sorted(known))}"
        raise UsageError(f"subject {spec!r} claims an unknown capability {capability!r} of {facet}; {hint}")


def _bare(spec: str, where: str, target: Callable[..., Any]) -> Subject:
    parameters = _check_signature(spec, target)
    claims: Any = getattr(target, "flowcheck_claims", frozenset[str]())
    if isinstance(claims, str) or not isinstance(claims, AbstractSet | list | tuple):
        raise UsageError(
            f"subject {spec!r}: flowcheck_claims is {claims!r}; expected a set of capabilities, e.g. {{'cancel_futures'}}"
        )
    extra = frozenset(cast("AbstractSet[str]", claims))
    declares = _check_declares(spec, "executor", "flowcheck_declares", getattr(target, "flowcheck_declares", {}))
    _check_capabilities(spec, "executor", extra)
    offered = {"initializer"} & parameters
    return Subject(
        name=_name(where, target),
        version=_version(getattr(target, "__module__", "") or where.partition(":")[0]),
        spec=where,
        claims={"executor": extra},
        declares={"executor": declares},
        unclaimed=tuple(sorted(offered - extra)),
        target=target,
    )


def _check_declares(spec: str, facet: str, where: str, declared: Any) -> dict[str, str]:
    """The choices of one facet, as they stand in `where`, once each of them is known."""
    protocol = _protocol(facet)
    known: Mapping[str, tuple[str, ...]] = {} if protocol is None else protocol.DECLARES
    if not isinstance(declared, Mapping):
        example = {choice: values[-1] for choice, values in [*known.items()][-1:]}
        raise UsageError(f"subject {spec!r}: {where} is {declared!r}; expected a mapping, e.g. {example}")
    chosen = dict(cast("Mapping[str, str]", declared))
    for choice, value in chosen.items():
        if protocol is not None and value not in known.get(choice, ()):
            choices = "; ".join(f"{name}: {' or '.join(values)}" for name, values in known.items())
            raise UsageError(f"subject {spec!r} declares {choice} = {value!r}; known choices are {choices}")
    return chosen


def _check_signature(spec: str, target: Callable[..., Any]) -> set[str]:
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return set()  # a builtin that tells nothing: the first call will
    try:
        signature.bind(max_workers=1)
    except TypeError as error:
        raise UsageError(
            f"subject {spec!r} can't be called with max_workers=1 ({error}); its signature is {signature}: "
            "give an Executor class or a factory that takes max_workers"
        ) from error
    return set(signature.parameters)


def _name(where: str, target: Any) -> str:
    return str(getattr(target, "__name__", "") or where.rpartition(":")[2])


def _version(module: str) -> str:
    """The distribution's version, Python's for the standard library, else `unknown`."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        return platform.python_version()
    for distribution in metadata.packages_distributions().get(top, ()):
        return metadata.version(distribution)
    return "unknown"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def first_probe(subject: Subject) -> Subject:
    """Find out what a subject need not say of itself.

    A bare executor is opened once and runs one task: `threads` or `process` by the pid that it ran in. Of an adapter,
    the colour of each facet's instances: `async` where they are opened by `async with`. Blocks for as long as the
    subject does: call it where a hang is contained.

    Raises:
        UsageError: it can't be opened, or what it gives is no executor, or no context manager.
    """
    if subject.is_adapter:
        return with_claims(
            subject, {facet: claimed | _read_off(subject, facet) for facet, claimed in subject.claims.items()}
        )
    import os

    try:
        with subject.open_executor(max_workers=1) as executor:
            future: Any = executor.submit(os.getpid)
            if not isinstance(future, Future):
                raise UsageError(
                    f"subject {subject.spec!r}: submit returned {_a(future)}; expected a concurrent.futures.Future "
                    "(an engine with another interface needs an adapter)"
                )
            pid = cast("Future[int]", future).result()
    except AdapterError as error:
        raise UsageError(f"subject {subject.spec!r}: {error}") from error
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"subject {subject.spec!r}: opening it with max_workers=1 and running one task raised {_one_line(error)}"
        ) from error
    sort = "threads" if pid == os.getpid() else "process"
    return with_claims(subject, {"executor": frozenset(subject.claims["executor"]) | {sort}})


def _read_off(subject: Subject, facet: str) -> frozenset[str]:
    from pytest_flowcheck.probes.instance import colour_of

    protocol = _protocol(facet)
    if protocol is None or not protocol.READ_OFF:
        return frozenset()
    try:
        with _given(protocol.OPENS) as options:
            colour = colour_of(subject.open(facet, **options), f"{subject.spec}.{facet}")
            return frozenset({"async"} if colour == "async" or getattr(protocol, "ON_LOOPS", False) else ())
    except AdapterError as error:
        raise UsageError(f"subject {subject.spec!r}: {error}") from error
    except NotTestable:
        return frozenset()
    except Exception as error:
        asked = ", ".join(f"{name}={value!r}" for name, value in protocol.OPENS.items())
        raise UsageError(f"subject {subject.spec!r}: {facet}({asked}) raised {_one_line(error)}") from error


@contextmanager
def _given(opens: Mapping[str, Any]) -> Generator[Mapping[str, Any]]:
    """These arguments, with an empty folder that lives as long as the context where a protocol asks for one."""
    if opens.get("folder", "") is not None:
        yield opens
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="flowcheck-", ignore_cleanup_errors=True) as folder:
        yield {**opens, "folder": Path(folder)}


def read_off_backend(facet: str, claimed: AbstractSet[str], backend: str) -> frozenset[str]:
    """`{"trio"}` for an instance that runs on trio, in a facet that has rules of their own for that."""
    protocol = _protocol(facet)
    asks = protocol is not None and backend in protocol.READ_OFF
    return frozenset({backend}) if asks and "async" in claimed else frozenset()


def with_claims(subject: Subject, claims: Mapping[str, AbstractSet[str]]) -> Subject:
    """The same subject with the claims that a child process found out."""
    from dataclasses import replace

    return replace(subject, claims=claims)
