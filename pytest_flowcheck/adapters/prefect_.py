"""prefect: a flow whose tasks go to a `ThreadPoolTaskRunner`, with a temporary server.

The server is a process; one does for all instances that are open at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from typing import Any, ClassVar, Final

from pytest_flowcheck.adapters._flow import Call, by_id
from pytest_flowcheck.protocols import Adapter, Failed, Inexpressible, Ok, Outcome
from pytest_flowcheck.protocols.flow import Flow, Graph, Run

SUBJECTS: Final = {"prefect": "Prefect"}


class _Engine:
    def __init__(self, max_workers: int | None) -> None:
        self._max_workers = max_workers

    def run(self, graph: Graph, input: Any = None) -> Run:  # noqa: A002 - the protocol's
        prefect: Any = import_module("prefect")  # its decorators' types want functions that say what they take
        runners: Any = import_module("prefect.task_runners")
        policies: Any = import_module("prefect.cache_policies")
        nodes = by_id(graph)
        try:
            order = list(TopologicalSorter({id_: node.needs for id_, node in nodes.items()}).static_order())
        except CycleError:
            raise Inexpressible(
                "a task takes futures of tasks that were submitted before: no circle can be made"
            ) from None
        if len(order) > len(nodes):
            raise Inexpressible("a task takes futures of other tasks: there is no name for one that doesn't exist")

        def submit_all() -> dict[str, Outcome[Any]]:
            futures: dict[str, Any] = {}
            for id_ in order:
                task = prefect.task(_function(Call(nodes[id_])), name=id_, cache_policy=policies.NO_CACHE)
                futures[id_] = task.submit(input, *(futures[need] for need in nodes[id_].needs))
            return {id_: outcome for id_, future in futures.items() if (outcome := _outcome(future)) is not None}

        flow = prefect.flow(submit_all, task_runner=runners.ThreadPoolTaskRunner(max_workers=self._max_workers))
        outcomes: dict[str, Outcome[Any]] = flow()
        failed = any(isinstance(outcome, Failed) for outcome in outcomes.values())
        return Run("failed" if failed else "completed", outcomes)

    def close(self) -> None:
        pass  # what a run takes ends with it


def _function(call: Call) -> Any:
    def run(value: Any, *outputs: Any) -> Any:
        return call(value, *outputs)

    return run


def _outcome(future: Any) -> Outcome[Any] | None:
    """What became of a task; None for one that never ran: its state is not final, and tells only that."""
    future.wait()
    if not future.state.is_final():
        return None
    value = future.result(raise_on_failure=False)
    return Failed(value) if isinstance(value, Exception) else Ok(value)


class Prefect(Adapter):
    """Tasks are submitted in topological order, with the futures of those that they need."""

    name = "prefect"
    requires: ClassVar[Sequence[str]] = ("prefect",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": frozenset({"context", "continue"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"flow": {"after_close": "reopen"}}

    def __init__(self) -> None:
        self._server, self._users = ExitStack(), 0

    @contextmanager
    def flow(self, *, max_workers: int | None = None) -> Generator[Flow]:
        if not self._users:
            testing: Any = import_module("prefect.testing.utilities")
            settings: Any = import_module("prefect.settings")
            quiet = {settings.PREFECT_SERVER_ANALYTICS_ENABLED: False, settings.PREFECT_LOGGING_TO_API_ENABLED: False}
            self._server.enter_context(settings.temporary_settings(quiet))
            self._server.enter_context(testing.prefect_test_harness(server_startup_timeout=120))
        self._users += 1
        try:
            yield _Engine(max_workers)
        finally:
            self._users -= 1
            if not self._users:
                self._server.close()
