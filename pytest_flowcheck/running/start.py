"""From options to a session: what is asked for is checked and resolved before anything runs."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_flowcheck.errors import UsageError
from pytest_flowcheck.running import offers, options
from pytest_flowcheck.running.plan import Column, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_flowcheck.certificate.baseline import Baseline
    from pytest_flowcheck.rules import Rule

_OTHER_ERRANDS = ("help", "version", "markers", "showfixtures", "show_fixtures_per_test", "cacheshow")


def start(config: pytest.Config) -> int | None:
    """Set the session up.

    Returns:
        An exit code if there is nothing left to do; None for "let the session begin".

    Raises:
        pytest.UsageError: one clear line for each thing that was asked for and can't be had.
    """
    try:
        return _start(config)
    except UsageError as error:
        raise pytest.UsageError(*str(error).splitlines()) from None


def _start(config: pytest.Config) -> int | None:
    if any(getattr(config.option, errand, None) for errand in _OTHER_ERRANDS):
        return None
    workerinput: Mapping[str, Any] | None = getattr(config, "workerinput", None)
    if workerinput is not None and "flowcheck" not in workerinput:
        return None  # a worker of the user's own tests
    stand_here(config)
    if config.option.flowcheck_list or config.option.flowcheck_explain:
        from pytest_flowcheck.running import catalogue

        return catalogue.show(config)
    if workerinput is not None:
        import_as_is(config)
        _work(config, workerinput)
        return None
    if options.alone(config.option):
        import_as_is(config)
    plan = make_plan(config)
    report = report_folder(config)
    if options.alone(config.option):
        _certify(config, plan, report, baseline_path(config))
    else:
        from pytest_flowcheck.running.company import Company

        config.pluginmanager.register(Company(config, plan), "flowcheck-company")
    return None


def _work(config: pytest.Config, workerinput: Mapping[str, Any]) -> None:
    from pytest_flowcheck.running.journal import Journal
    from pytest_flowcheck.running.session import Certification

    plan = Plan.from_json(workerinput["flowcheck"])
    journal = Journal(Path(workerinput["flowcheck_journal"]), workerinput["workerid"])
    config.args = []
    config.pluginmanager.register(Certification(config, plan, journal=journal), "flowcheck-certification")


def _certify(config: pytest.Config, plan: Plan, report: Path | None, baseline: Path | None) -> None:
    from pytest_flowcheck.running import containment
    from pytest_flowcheck.running.session import Certification

    config.args = []
    contained = containment.prepare(config.option)
    certification = Certification(config, plan, report=report, baseline=baseline, contained=contained)
    config.pluginmanager.register(certification, "flowcheck-certification")
    if contained:
        config.pluginmanager.register(containment.Containment(config, certification), "flowcheck-containment")


def stand_here(config: pytest.Config) -> None:
    """Put the user's folder first on `sys.path`, as `python -m pytest` does: `module:attr` may be a file in it."""
    here = str(config.invocation_params.dir)
    if here not in sys.path:
        sys.path.insert(0, here)


def import_as_is(config: pytest.Config) -> None:
    """Import without pytest's rewriting of asserts from now on, in a session that has no tests of the user's.

    The rules, hypothesis and most subjects belong to packages with pytest plugins, all of which it would rewrite: seconds
    for each process where Python writes no caches, as in many containers.
    """
    hook: Any = config.pluginmanager.rewrite_hook
    if hook in sys.meta_path:
        sys.meta_path.remove(hook)
        config.add_cleanup(lambda: sys.meta_path.insert(0, hook))


def report_folder(config: pytest.Config) -> Path | None:
    """Where certificates go, tried for writing now: a run of minutes must not end in a refusal."""
    if config.option.flowcheck_report is None:
        return None
    if config.option.flowcheck_selftest:
        raise UsageError("--flowcheck-report: a selftest certifies nobody; leave out one of the two options")
    from pytest_flowcheck.certificate.document import require_writable

    folder = config.invocation_params.dir / str(config.option.flowcheck_report)
    if not config.option.collectonly:
        require_writable(folder)
    return folder


# --- what is asked for -------------------------------------------------------------------------------------------------


def make_plan(config: pytest.Config) -> Plan:
    """Check the options, resolve the subjects.

    Raises:
        UsageError: a facet, rule, subject or number makes no sense.
    """
    option = config.option
    if not option.flowcheck_patience > 0:
        raise UsageError(f"--flowcheck-patience: {option.flowcheck_patience:g} is no number of seconds above 0")
    facets = offers.all_facets(config)
    only = only_these(option.flowcheck_only, facets)
    chosen = chosen_facets(option.flowcheck_facet, facets)
    columns = label(_broken(config) if option.flowcheck_selftest else _resolve(config))
    if (known := baseline_of(config, facets)) is not None:
        columns = [replace(column, expected=known.of(column.label)) for column in columns]
    return Plan(
        columns=columns,
        facets=facets,
        chosen_facets=chosen,
        only=only,
        ids=options.node_ids(option),
        patience=option.flowcheck_patience,
        seed=option.flowcheck_seed,
        selftest=option.flowcheck_selftest,
    )


def baseline_of(config: pytest.Config, facets: Mapping[str, str]) -> Baseline | None:
    """What `--flowcheck-baseline` or the ini file names, read; None for none.

    Raises:
        UsageError: it can't be read, or something in it makes no sense.
    """
    path = baseline_path(config)
    if path is None or (config.option.flowcheck_baseline_write and not path.exists()):
        return None
    from pytest_flowcheck.certificate import baseline

    return baseline.read(path, every_rule(facets))


def baseline_path(config: pytest.Config) -> Path | None:
    """Which file is meant; None for none.

    Raises:
        UsageError: there is to be one written, and none is named; or in a selftest.
    """
    option = config.option
    named, inside = option.flowcheck_baseline, config.getini("flowcheck_baseline")
    if option.flowcheck_selftest:
        if named or option.flowcheck_baseline_write:
            raise UsageError(
                "--flowcheck-baseline: broken engines must fail what they name; leave out one of the two options"
            )
        return None
    if named:
        return config.invocation_params.dir / str(named)
    if inside:
        return config.rootpath / str(inside)
    if option.flowcheck_baseline_write:
        raise UsageError(
            "--flowcheck-baseline-write: which file? write --flowcheck-baseline=FILE, or flowcheck_baseline in the ini file"
        )
    return None


def every_rule(facets: Mapping[str, str]) -> list[Rule]:
    """The rules of all these facets."""
    from pytest_flowcheck.rules import rules_of

    return [rule for module in facets.values() for rule in rules_of(importlib.import_module(module))]


def _split(given: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(word.strip() for words in given for word in words.split(",") if word.strip()))


def chosen_facets(
    given: Iterable[str], facets: Mapping[str, str], where: str = "--flowcheck-facet"
) -> list[str]:
    """The facets with these names. Raises: UsageError: there is no such facet."""
    chosen = _split(given)
    for facet in chosen:
        if facet not in facets:
            near = get_close_matches(facet, facets, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"facets are: {', '.join(facets)}"
            raise UsageError(f"{where}: no facet {facet!r}; {hint}")
    return chosen


def only_these(given: Iterable[str], facets: Mapping[str, str]) -> list[str]:
    """The ids of these rules, as they are written. Raises: UsageError: there is no such rule."""
    wanted = _split(given)
    if not wanted:
        return []
    from pytest_flowcheck.rules import find_rules

    return [rule.id for rule in find_rules(wanted, every_rule(facets))]


def _resolve(config: pytest.Config) -> list[Column]:
    from pytest_flowcheck import subjects
    from pytest_flowcheck.running.resolve import resolve

    extra = offers.extra_subjects(config)
    asked = [*config.option.flowcheck_subject] or [
        _from_root(config, spec) for spec in config.getini("flowcheck_subject")
    ]
    if not asked:
        asked = sorted(name for name in {**subjects.registered(), **extra} if name.startswith("reference"))
    if not asked:
        raise UsageError(
            "nothing to certify: no reference engine is installed; name a subject with --flowcheck-subject"
        )
    columns = resolve(list(dict.fromkeys(asked)), extra, config.invocation_params.dir, config.option.flowcheck_patience)
    by_spec: dict[tuple[str, str], Column] = {}
    for column in columns:
        by_spec.setdefault(
            (column.spec or column.asked, column.backend), column
        )  # one asked for by name and by module is one
    return list(by_spec.values())


def _from_root(config: pytest.Config, spec: str) -> str:
    """A file named in the ini file is meant from there, wherever pytest was started."""
    file, colon, attribute = spec.rpartition(":")
    path = config.rootpath / file
    return f"{path}{colon}{attribute}" if file.endswith(".py") and path.is_file() else spec


def _broken(config: pytest.Config) -> list[Column]:
    from pytest_flowcheck.running.resolve import resolve_broken

    engines = resolve_broken(config.invocation_params.dir, config.option.flowcheck_patience)
    wanted: list[str] = config.option.flowcheck_subject
    for name in wanted:
        if not any(name in {engine.name, engine.spec} for engine in engines):
            near = get_close_matches(name, [engine.name for engine in engines], n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else "`pytest --flowcheck-list` shows all"
            raise UsageError(f"no broken engine {name!r}: {hint}")
    return [e for e in engines if not wanted or e.name in wanted or e.spec in wanted]


def label(columns: list[Column]) -> list[Column]:
    """Give each column a word of its own for ids: the subject's name, the loop library where it is tried on several, and
    what loads it where two share a name.
    """
    first: dict[str, str] = {}
    names = [
        name
        if first.setdefault(column.spec or column.asked, column.backend) == column.backend
        else f"{name}-{column.backend}"
        for column in columns
        for name in [_word(column.name or column.asked)]
    ]
    labels = [
        f"{name}@{_word(column.spec or column.asked)}" if names.count(name) > 1 else name
        for name, column in zip(names, columns, strict=True)
    ]
    return [replace(column, label=word) for word, column in zip(labels, columns, strict=True)]


def _word(text: str) -> str:
    """Without what would break an id: blanks, brackets, double colons."""
    return "".join(c if c.isprintable() and c not in " []" else "-" for c in text).replace("::", ":") or "subject"
