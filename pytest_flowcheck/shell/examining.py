"""What this machine, this Python and this environment have of what a certification can use."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Final

from pytest_flowcheck.proof import procfs

DISTRIBUTION: Final = "pytest-flowcheck"
_FOR_PEOPLE: Final = frozenset({"dev", "docs", "lint", "test"})
"""Extras that bring an environment to work in, and no subject."""


@dataclass(frozen=True)
class Finding:
    """One thing that a certification can use. `ok`: None where it is welcome and not needed."""

    name: str
    ok: bool | None
    says: str
    rules: list[str] = field(default_factory=list[str])
    """Those that read NOT-TESTABLE without it, if it is missing."""
    in_part: list[str] = field(default_factory=list[str])
    """Those that are judged by less without it, if it is missing."""
    only: str = ""
    """Of which subjects alone that is so."""


@dataclass(frozen=True)
class Bundled:
    """A subject known by name."""

    name: str
    installed: bool
    says: str
    """Its version; or what is missing."""
    install: str = ""
    """What brings it, if it is missing."""


def machine() -> Iterator[Finding]:
    """What the kernel and the interpreter permit."""
    yield _python()
    yield _kernel()
    yield _orphans()
    yield from _needs()


def _python() -> Finding:
    version = f"{platform.python_implementation()} {platform.python_version()}"
    free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    gil: Any = getattr(sys, "_is_gil_enabled", None)
    if free:
        version += f", free-threaded, the GIL is {'on' if gil is None or gil() else 'off'}"
    if platform.python_implementation() != "CPython":
        return Finding("python", False, f"{version}: what threads wait for is known of CPython only")
    return Finding("python", True, version)


def _kernel() -> Finding:
    """Whether what a thread waits for can be read, of this process and of a child: all proofs by absence rest on it."""
    if sys.platform != "linux":
        return Finding(
            "proof",
            False,
            f"{sys.platform}: that something never happens can be read from Linux's /proc only; {_BLIND}",
        )
    waiting = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        for whose, pid in (("its own threads", os.getpid()), ("its children", waiting.pid)):
            try:
                procfs.read(f"/proc/{pid}/task/{pid}/syscall")
                procfs.read(f"/proc/{pid}/task/{pid}/status")
            except OSError as error:
                return Finding(
                    "proof",
                    False,
                    f"{error.filename} can't be read ({error.strerror}): what {whose} wait for; {_BLIND}",
                )
    finally:
        waiting.communicate()
    return Finding("proof", True, "what threads wait for can be read from /proc, of this process and of its children")


_BLIND = "what would be VIOLATED or HUNG by absence reads INCONCLUSIVE here"


def _orphans() -> Finding:
    from pytest_flowcheck.proof import become_subreaper

    missing: list[str] = []
    if become_subreaper():
        become_subreaper(on=False)
    else:
        missing.append("PR_SET_CHILD_SUBREAPER")
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        missing.append("pidfd_open")
    if missing:
        return Finding(
            "orphans",
            False,
            f"no {' and no '.join(missing)}: processes that a subject leaves behind can't be told or ended",
        )
    return Finding("orphans", True, "orphans stay in reach (subreaper, pidfd)")


def _needs() -> Iterator[Finding]:
    """What rules say that they need; and which rules do, by their own code."""
    from pytest_flowcheck.probes.needs import NEEDS, of_rule
    from pytest_flowcheck.rules import bundled_rules

    asked = {rule.id: of_rule(rule) for rule in bundled_rules()}
    for need in NEEDS:
        line = need.look()
        if line is None:
            yield Finding(need.name, True, need.what, only=need.only)
            continue
        rules = [rule for rule, its in asked.items() if need.name in its.wholly]
        in_part = [rule for rule, its in asked.items() if need.name in its.in_part]
        yield Finding(need.name, None if need.only else False, line, rules, in_part, need.only)
    for module, gives in (
        ("uvloop", "rules about loops are judged on its loops, too"),
        ("httpx", "rules about clients, with real connections, too"),
    ):
        there = find_spec(module) is not None
        yield Finding(
            module,
            True if there else None,
            f"{gives}" if there else f"not installed: with it, {gives} (pip install {module})",
        )


def plugins() -> Iterator[Finding]:
    """Plugins of pytest that a certification uses, or that get in its way."""
    if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
        yield Finding(
            "autoload",
            False,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD is set: name the plugins: pytest -p pytest_flowcheck.plugin -p xdist -p timeout",
        )
    xdist, options = version("pytest-xdist"), os.environ.get("PYTEST_ADDOPTS", "")
    if xdist is None or re.search(r"-p\s*no:xdist|-n\s*=?\s*0\b", options):
        why = "not installed" if xdist is None else f"switched off by PYTEST_ADDOPTS ({options})"
        yield Finding("pytest-xdist", False, f"{why}: a subject that dies or hangs takes the whole run with it")
    else:
        yield Finding("pytest-xdist", True, f"{xdist}: rules are judged in workers")
    if (reruns := version("pytest-rerunfailures")) is not None:
        yield Finding(
            "pytest-rerunfailures",
            None,
            f"{reruns}: with --reruns, a rule that fails is run again, and then reads UNSTABLE",
        )
    if (cov := version("pytest-cov")) is not None and sys.version_info < (3, 12):
        yield Finding(
            "pytest-cov", None, f"{cov}: with --cov, code can't be swept on this Python: both need sys.settrace"
        )
    if sys.gettrace() is not None:
        yield Finding("tracing", False, "a tracer is installed (a debugger, or coverage): no code can be swept")


def subjects() -> Iterator[Bundled]:
    """Every subject known by name, what it drives, and what would bring it."""
    import importlib

    from pytest_flowcheck import subjects as known

    brings = extras()
    for name, where in known.registered().items():
        module, _, attribute = where.partition(":")
        try:
            adapter: Any = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # noqa: BLE001 - an entry point of anybody's: whatever it raises is one line
            yield Bundled(name, installed=False, says=f"{where} can't be imported: {' '.join(str(error).split())}")
            continue
        needed = [str(each) for each in getattr(adapter, "requires", ())]
        python = tuple(getattr(adapter, "requires_python", ()))
        missing = [each for each in needed if version(each) is None]
        if sys.version_info[: len(python)] < python:
            yield Bundled(name, installed=False, says=f"needs Python {'.'.join(map(str, python))}")
        elif missing:
            wanted = dict.fromkeys(brings.get(each, "") for each in missing)
            install = f"{DISTRIBUTION}[{','.join(wanted)}]" if all(wanted) else " ".join(missing)
            yield Bundled(
                name, installed=False, says=f"{', '.join(missing)} not installed", install=f"pip install '{install}'"
            )
        else:
            yield Bundled(name, installed=True, says=", ".join(f"{each} {version(each)}" for each in needed))


def extras() -> dict[str, str]:
    """The distribution that an extra of this kit brings -> that extra."""
    found: dict[str, str] = {}
    for line in metadata.requires(DISTRIBUTION) or ():
        match = re.match(r"([\w.-]+).*\bextra == ['\"]([\w.-]+)['\"]", line)
        if match is not None and match[2] not in _FOR_PEOPLE:
            wanted = match[1] == match[2]  # the extra of that very name, if there is one
            found[match[1]] = match[2] if wanted else found.get(match[1], match[2])
    return found


def version(distribution: str) -> str | None:
    """Which one is installed; None if none is."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
