"""FLO-05, 08, 09, 34, 35: workers, how many they are, and what changes their number."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from pytest_flowcheck.errors import AdapterError, Inconclusive, Judgement
from pytest_flowcheck.probes.calls import reachable
from pytest_flowcheck.proof import census
from pytest_flowcheck.rules import rule
from pytest_flowcheck.suites.flow._shared import (
    begin,
    completed,
    ended,
    fan,
    ids,
    in_flight,
    let_all_go,
    some_in_flight,
    starts,
    told,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_flowcheck.probes.instance import Instance
    from pytest_flowcheck.probes.lab import Lab
    from pytest_flowcheck.probes.timeline import Event


def threads_of(events: Sequence[Event]) -> dict[tuple[int, int], str]:
    """The engine's own threads that ran these nodes, and their names.

    Not the thread that asked for the run, which is the kit's (an engine may run nodes on it), nor the loop's, on which
    nodes ran as coroutines.
    """
    return {e.worker: e.thread for e in events if not e.coroutine and not e.thread.startswith("caller: ")}


def named(threads: Mapping[tuple[int, int], str]) -> str:
    """These threads, some of them by name."""
    some = [f"{name or 'nameless'} ({tid})" for (_, tid), name in sorted(threads.items())]
    return ", ".join([*some[:6], "..."] if len(some) > 6 else some)


@rule("FLO-05")
def sequential_runs_reuse_threads(lab: Lab) -> None:
    """Any number of sequential runs uses at most `max_workers` distinct threads in all.

    Intent: A service runs a flow per request; a start of a thread per node costs more than most nodes.

    Usual cause: An executor that is made for each run, or for each node, and shut down behind it.

    Proof: Each probe reports the process and the kernel's thread id that ran it. The caller's own thread doesn't count, and nodes that ran as coroutines need none.

    Source: dynamiq pull request 674: an executor per run.
    """
    rounds, workers = 12, 2
    with lab.instance(max_workers=workers) as it:
        for number in range(rounds):
            nodes = fan(lab, f"run{number}_", workers)
            call = begin(it, nodes, what=f"run {number}")
            some_in_flight(lab, call, nodes, workers)
            let_all_go(lab, call, nodes)
    used = threads_of(lab.timeline.of("started"))
    lab.check(
        len(used) <= workers,
        f"{rounds} runs, one after the other, had their nodes on {len(used)} threads: {named(used)}",
        f"at most max_workers={workers}, in all",
    )


@rule("FLO-08", "resize")
def a_changed_limit_takes_effect(lab: Lab) -> None:
    """A changed worker limit takes effect at the next run; the unset default is never mistaken for a change.

    Intent: A limit comes from configuration: it may change at any time, and is mostly not given at all.

    Usual cause: The pool is made at the first run and kept; or the absent argument is resolved to the default, found to differ from what the pool has, and the pool is changed to that.

    Proof: All nodes are gated: how many are in flight when nothing moves any more is proven, run after run, with an argument and without.

    Source: dynamiq pull request 674, `max_node_workers`.
    """
    engine, size = 2, 5
    with lab.instance(max_workers=engine) as it:
        for number, asked in enumerate((None, 4, None, 1, None)):
            nodes = fan(lab, f"run{number}_", size)
            options = {} if asked is None else {"max_workers": asked}
            told_options = "without max_workers" if asked is None else f"with max_workers={asked}"
            limit = asked or engine
            call = begin(it, nodes, what=f"run {number} {told_options}", **options)
            some_in_flight(lab, call, nodes, limit, needs=None if number else "FLO-02")
            lab.settle()
            live = in_flight(lab, *ids(nodes))
            if len(live) > limit and not number:
                raise Inconclusive(f"{', '.join(live)} are in flight at max_workers={engine}", because_of="FLO-02")
            lab.check(
                len(live) == limit,
                f"{len(live)} nodes of {call.what} are in flight: {', '.join(live)}",
                f"{limit}: " + ("this run's limit" if asked else f"the engine was opened with max_workers={engine}"),
            )
            let_all_go(lab, call, nodes)


@contextmanager
def _variable(name: str, text: str | None) -> Generator[None]:
    """Inside, the environment variable is set to this text, or unset."""
    before = os.environ.pop(name, None)
    if text is not None:
        os.environ[name] = text
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _holds(lab: Lab, name: str, size: int, because: str, engine: int | None, run: int | None = None) -> None:
    """An engine that is opened so has exactly `size` nodes in flight."""
    with lab.instance(max_workers=engine) as it:
        nodes = fan(lab, name, size + 2)
        call = begin(it, nodes, what=because, **({} if run is None else {"max_workers": run}))
        some_in_flight(lab, call, nodes, size, needs=None)
        lab.settle()
        live = in_flight(lab, *ids(nodes))
        lab.check(len(live) == size, f"{len(live)} gated nodes are in flight: {because}", f"{size} of {len(nodes)}")
        let_all_go(lab, call, nodes)


def _refuses(lab: Lab, name: str, source: str, because: str, engine: Any, run: Any = None) -> None:
    """Opening so, or running so, fails, and the error names the source."""
    error: BaseException | None = None
    try:
        with lab.instance(max_workers=engine) as it:
            call = begin(
                it, fan(lab, name, 1, gated=False), what=because, **({} if run is None else {"max_workers": run})
            )
            call.join()
            error = call.error if call.error is not None else getattr(call.value, "error", None)
            lab.check(error is not None, f"{because}: the run {ended(call)}", f"an error that names {source}")
    except (Judgement, AdapterError):
        raise
    except Exception as raised:  # noqa: BLE001 - whatever the opener raises is what is judged
        error = raised
    texts = [str(one) for one in reachable(error)]
    lab.check(
        any(source in text for text in texts), f"{because}: {error!r}", f"an error that names its source, {source}"
    )
    ran = starts(lab, f"{name}0")
    lab.check(not ran, f"{because}: a node ran all the same", "an error before anything runs")


@rule("FLO-09", "sizing")
def the_number_of_workers_has_one_source(lab: Lab) -> None:
    """The default is min(32, usable CPUs + 4); the engine's environment variable, read when it is opened, overrides it, the engine's argument that, the run's argument all; a bad value is a clear error naming its source.

    Intent: Whoever sets a number must find it obeyed, and whoever mistypes one must learn where.

    Usual cause: `value or default`, so that 0 is the default; the machine's CPUs instead of those that this process may use; a bare `int()` of the variable, whose ValueError says only "invalid literal".

    Proof: All nodes are gated: how many are in flight when nothing moves any more is proven, for each combination. Bad values are given one at a time.

    Source: Python library reference, `ThreadPoolExecutor` and `os.process_cpu_count`.
    """
    default = min(32, _usable_cpus() + 4)
    resize = lab.claims("resize")
    variables = cast("Mapping[str, str]", getattr(lab.subject.target, "variables", {}))
    variable = variables.get("max_workers", "")
    with _variable(variable or "FLOWCHECK_NO_SUCH_VARIABLE", None):
        _holds(lab, "plain", default, f"no number anywhere, {_usable_cpus()} usable CPUs", None)
        if resize:
            _holds(lab, "run", 3, "max_workers=2 for the engine, 3 for the run", 2, 3)
        for number, bad in enumerate((0, -1, "many")):
            _refuses(lab, f"bad{number}_", "max_workers", f"max_workers={bad!r} for the engine", bad)
            if resize:
                _refuses(lab, f"badrun{number}_", "max_workers", f"max_workers={bad!r} for the run", 2, bad)
    if not variable:
        return
    with _variable(variable, "3"):
        _holds(lab, "environment", 3, f"{variable}=3", None)
        _holds(lab, "engine", 2, f"{variable}=3, max_workers=2 for the engine", 2)
        if resize:
            _holds(lab, "all", 1, f"{variable}=3, max_workers=2 for the engine, 1 for the run", 2, 1)
    for number, bad in enumerate(("many", "0", "-1", "")):
        with _variable(variable, bad):
            _refuses(lab, f"badvariable{number}_", variable, f"{variable}={bad!r}", None)


@rule("FLO-34", "resize")
def a_changed_limit_frees_the_old_pool(lab: Lab) -> None:
    """A changed limit frees the old pool's threads, and a run in flight on it finishes.

    Intent: A limit that is tuned in a running service must cost neither its threads nor its requests.

    Usual cause: A new pool replaces the old one, which is forgotten without a shutdown; or is shut down under the run that still uses it.

    Proof: The first run is held at its gates while the limit changes. Threads are counted by the kernel after runs with ever new limits: no more may have come than the largest limit.

    Source: dynamiq pull request 674.
    """
    limits = (3, 1, 4, 5)
    with lab.instance(max_workers=2) as it:
        _outlives_a_change(lab, it)
        lab.settle()
        before = census()
        for limit in limits:
            nodes = fan(lab, f"with{limit}_", limit)
            call = begin(it, nodes, what=f"run with max_workers={limit}", max_workers=limit)
            some_in_flight(lab, call, nodes, limit, needs="FLO-08")
            let_all_go(lab, call, nodes)
        let_all_go(lab, begin(it, last := fan(lab, "last", 2), what="run without max_workers"), last)
        lab.settle()
        after = census()
    more = len(after.threads) - len(before.threads)
    lab.check(
        more <= max(limits),
        f"runs with max_workers={', '.join(map(str, limits))}, one after the other, and one without left {more} more "
        f"threads: {'; '.join(after.growth_since(before)[:8])}",
        f"at most {max(limits)}, the largest limit: what an old limit needed is freed, or used again",
        absence=True,
        leaked=True,
    )


def _outlives_a_change(lab: Lab, it: Instance) -> None:
    """A run under way while another brings another limit: both complete."""
    old, new = fan(lab, "old", 3), fan(lab, "new", 2)
    first = begin(it, old, what="the run in flight")
    some_in_flight(lab, first, old, 2)
    second = begin(it, new, what="the run with max_workers=3", max_workers=3)
    lab.settle()
    for call, nodes in ((first, old), (second, new)):
        lab.open(*(f"{one.id} #1" for one in nodes))
        run = completed(lab, call)
        missing = sorted(set(ids(nodes)) - set(starts(lab)))
        lab.check(
            not missing,
            f"{call.what} gave {told(run)}, but {', '.join(missing)} never ran",
            "it finishes, though the limit was changed",
        )


@rule("FLO-35")
def overlapping_runs_share_their_threads(lab: Lab) -> None:
    """k overlapping runs use at most the engine's `max_workers` threads in all, never k pools.

    Intent: Forty requests at once must not mean forty pools: the limit is there for the machine's sake.

    Usual cause: A pool that belongs to the run.

    Proof: Each probe reports the process and the kernel's thread id that ran it; all nodes are gated until nothing moves any more. The callers' own threads don't count, and nodes that ran as coroutines need none.

    Source: dynamiq pull request 674: an executor per run.
    """
    runs, workers = 4, 2
    with lab.instance(max_workers=workers) as it:
        graphs = [fan(lab, f"run{number}_", 3) for number in range(runs)]
        calls = [begin(it, nodes, what=f"run {number}") for number, nodes in enumerate(graphs)]
        lab.until(
            lambda: len(in_flight(lab)) >= workers,
            f"{workers} gated nodes of {runs} runs are in flight",
            needs="FLO-02",
        )
        lab.settle()
        used, live = threads_of(lab.timeline.of("started")), in_flight(lab)
        lab.check(
            len(used) <= workers,
            f"{runs} overlapping runs have {len(live)} gated nodes in flight, on {len(used)} threads: {named(used)}",
            f"at most max_workers={workers} threads in all",
        )
        for nodes in graphs:
            lab.open(*(f"{one.id} #1" for one in nodes))
        for call in calls:
            completed(lab, call, needs="FLO-06")
