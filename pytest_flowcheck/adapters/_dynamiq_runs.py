"""dynamiq's runs: nodes that carry the kit's bodies, one `Flow` for a graph, a node alone as a retried call, and `Map`.

Nodes are cloned and serialised, so they carry a key, and what it stands for is kept here, for as long as a run needs it.
"""

from __future__ import annotations

import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from pytest_flowcheck.protocols import Body, Failed, Foreign, Inexpressible, NotFound, Ok, Outcome, Skipped
from pytest_flowcheck.protocols.flow import Graph, Node, Run
from pytest_flowcheck.protocols.retry import RetryPolicy

S = TypeVar("S")
T = TypeVar("T")

KEPT: Final = 4
"""Graphs whose `Flow` an engine keeps for their next run."""


class InUse(Exception):  # noqa: N818 - what the adapter adds: dynamiq would put both runs into one folder
    """A new run under an id that has checkpoints."""


def dynamiq(module: str) -> Any:
    """A module of dynamiq's, which has no types. Its import takes seconds; litellm's price list is not fetched for it."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return import_module(f"dynamiq.{module}")


def config(**more: Any) -> Any:
    """As a `Flow` makes one where its caller gives none; by it a cancellation reaches what runs in threads."""
    return dynamiq("runnables").RunnableConfig(**more)


class Work:
    """What a node of dynamiq's is to do: the body, and how it is called with the node's input."""

    def __init__(self, body: Any, arguments: Callable[[Mapping[str, Any]], tuple[Any, ...]]) -> None:
        self.key = f"work {next(_NUMBERS)}"
        self.body, self._arguments = body, arguments
        _WORKS[self.key] = self

    def call(self, given: Any) -> dict[str, Any]:
        """On a thread."""
        return {"value": self.body(*self._arguments(dict(given)))}

    async def aio(self, given: Any) -> dict[str, Any]:
        """On a loop."""
        return {"value": await self.body.aio(*self._arguments(dict(given)))}


_NUMBERS = itertools.count(1)
_WORKS: WeakValueDictionary[str, Work] = WeakValueDictionary()


@cache
def _classes() -> tuple[Any, Any]:
    """Subclasses of dynamiq's `Node`: one with `execute`, and one with `execute_async` as well."""

    def execute(self: Any, input_data: Any, config: Any = None, **_: Any) -> Any:  # noqa: ARG001 - dynamiq's signature
        return _WORKS[self.key].call(input_data)

    async def execute_async(self: Any, input_data: Any, config: Any = None, **_: Any) -> Any:  # noqa: ARG001
        return await _WORKS[self.key].aio(input_data)

    base, group = dynamiq("nodes.node").Node, dynamiq("nodes.types").NodeGroup
    fields = {"group": group.UTILS, "name": "body", "key": "", "execute": execute, "__module__": __name__}
    fields["__annotations__"] = {"group": group, "name": str, "key": str}
    blocking = type("BodyNode", (base,), fields)
    native = type("AsyncBodyNode", (blocking,), {"execute_async": execute_async, "__module__": __name__})
    return blocking, native


def _node(work: Work, policy: RetryPolicy | None, *, native: bool, **more: Any) -> Any:
    """A node of dynamiq's; it refuses by pydantic's `ValidationError` what makes no sense."""
    return _classes()[native](key=work.key, error_handling=_handling(policy or RetryPolicy()), **more)


def _handling(policy: RetryPolicy) -> Any:
    if policy.retry_on != (Exception,) and not (policy.timeout is not None and TimeoutError in policy.retry_on):
        raise Inexpressible("a node is tried again after any error: it has no list of those that are worth it")
    attempts: Any = policy.attempts
    return dynamiq("nodes.node").ErrorHandling(
        timeout_seconds=policy.timeout,
        max_retries=attempts - 1 if isinstance(attempts, int | float) else attempts,
        retry_interval_seconds=policy.backoff,
    )


def _failed(error: Any) -> Failed:
    """Of a `RunnableResultError`, or of what that is as a dict: a type, or its name, and a text."""
    if hasattr(error, "message"):
        return Failed(Foreign(error.type.__name__, error.message))
    return Failed(Foreign(error["type"], error["message"]))


# --- flows ---------------------------------------------------------------------------------------------------------------


def _upstream(needs: Sequence[str]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """A node is given the flow's input, and by id what became of the nodes that it depends on."""

    def arguments(given: Mapping[str, Any]) -> tuple[Any, ...]:
        return given["input"], {need: given[need]["output"]["value"] for need in needs}

    return arguments


def _native(node: Node, *, native: bool) -> bool:
    return native if node.kind == "own" else node.kind == "async"


class _Built:
    """A `Flow` for a graph, and what its nodes do."""

    def __init__(self, graph: Graph, *, native: bool, max_workers: int | None, backend: Any) -> None:
        self.works = [Work(node.body, _upstream(node.needs)) for node in graph.nodes]
        made = [
            _node(work, node.policy, native=_native(node, native=native), id=node.id, name=node.id)
            for node, work in zip(graph.nodes, self.works, strict=True)
        ]
        # a need that is not in the graph is a node that is not in the flow: that is how its users get it wrong
        of = {node.id: one for node, one in zip(graph.nodes, made, strict=True)}
        stray = {need for node in graph.nodes for need in node.needs} - set(of)
        of |= {need: _classes()[0](id=need, name=need) for need in stray}
        dependency = dynamiq("nodes.node").NodeDependency
        for node, one in zip(graph.nodes, made, strict=True):
            one.depends = [dependency(of[need]) for need in node.needs]
        more: dict[str, Any] = {}
        if backend is not None:
            config = dynamiq("checkpoints.config").CheckpointConfig(enabled=True, backend=backend)
            more = {"id": "flow", "checkpoint": config}  # an id as in a file of workflows: it outlives the process
        self.flow = dynamiq("flows").Flow(nodes=made, max_node_workers=max_workers, **more)


class Engine:
    """One `Flow` for a graph, kept: that is what dynamiq's users share between runs. `run_sync`."""

    native = False

    def __init__(self, max_workers: int | None, folder: Path | None = None) -> None:
        self._max_workers = max_workers
        self._kept: OrderedDict[Graph, _Built] = OrderedDict()
        self._backend: Any = None
        if folder is not None:
            self._backend = dynamiq("checkpoints.backends.filesystem").FileSystem(base_path=str(folder))

    def run(
        self,
        graph: Graph,
        input: Any = None,  # noqa: A002 - the protocol's
        *,
        max_workers: int | None = None,
        run_id: str | None = None,
    ) -> Any:
        """This run's `max_workers` is that of its `RunnableConfig`; a run that is saved has a `Flow` of its own."""
        built = self._built(graph) if run_id is None else self._saved(graph, run_id)
        return self._go(built, input_data={"input": input}, config=self._config(max_workers, run_id))

    def resume(self, graph: Graph, run_id: str) -> Any:
        """From the newest of its checkpoints."""
        found = self._backend.get_list_by_run(run_id, limit=1)
        if not found:
            raise NotFound(f"the run {run_id!r} has no checkpoint")
        built = self._new(graph, self._backend)
        return self._go(built, input_data=None, config=self._config(None, run_id), resume_from=found[0].id)

    def close(self) -> Any:
        """A `Flow` has nothing to close: what a run takes ends with it."""
        self._kept.clear()

    def _built(self, graph: Graph) -> _Built:
        built = self._kept.pop(graph, None) or self._new(graph, None)
        self._kept[graph] = built
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return built

    def _saved(self, graph: Graph, run_id: str) -> _Built:
        if self._backend.get_list_by_run(run_id, limit=1):
            raise InUse(f"the run {run_id!r} has checkpoints")
        return self._new(graph, self._backend)

    def _new(self, graph: Graph, backend: Any) -> _Built:
        return _Built(graph, native=self.native, max_workers=self._max_workers, backend=backend)

    def _config(self, max_workers: int | None, run_id: str | None) -> Any:
        named: dict[str, Any] = {} if run_id is None else {"run_id": run_id}
        return config(max_node_workers=max_workers, **named)

    def _go(self, built: _Built, **arguments: Any) -> Any:
        return _run(built.flow.run_sync(**arguments))


class AsyncEngine(Engine):
    """The same by `run_async`."""

    native = True

    async def close(self) -> None:
        """As there."""
        super().close()

    async def _go(self, built: _Built, **arguments: Any) -> Run:
        return _run(await built.flow.run_async(**arguments))


_STATUS: Final[Mapping[str, Any]] = {"success": "completed", "canceled": "cancelled"}


def _run(result: Any) -> Run:
    told: dict[str, dict[str, Any]] = result.output or {}
    nodes = {id_: _outcome(node) for id_, node in told.items() if node["status"] != "undefined"}
    error = None if result.error is None else _failed(result.error).error
    return Run(_STATUS.get(result.status.value, "failed"), nodes, error)


def _outcome(node: Mapping[str, Any]) -> Outcome[Any]:
    match node["status"]:
        case "success":
            return Ok(node["output"]["value"])
        case "skip":
            why: dict[str, Any] = node.get("error") or {}
            return Skipped(str(why.get("message", "")))
        case "canceled":
            return Failed(Foreign("CanceledException", ""), "cancelled")
        case _:
            return _failed(node["error"])


# --- retries -------------------------------------------------------------------------------------------------------------


class Caller:
    """A node alone, as an agent or a tool is run: `node.run_sync`, with its `ErrorHandling`."""

    def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
        """The output, or what the result tells as an error, by its type's name."""
        work = Work(body, _nothing)
        return _value(_node(work, policy, native=False).run_sync(input_data={}, config=config()))


class AsyncCaller:
    """`node.run_async`, on the loop where dynamiq can, in a thread where it can't."""

    async def call(self, body: Body[[], Any], policy: RetryPolicy) -> Any:
        """The same."""
        work = Work(body, _nothing)
        return _value(await _node(work, policy, native=True).run_async(input_data={}, config=config()))


def _nothing(_: Mapping[str, Any]) -> tuple[Any, ...]:
    return ()


def _value(result: Any) -> Any:
    if result.status.value == "success":
        return result.output["value"]
    error = _failed(result.error).error
    raise TimeoutError(error) if getattr(error, "type_name", "") == "TimeoutError" else error


# --- fan-outs ------------------------------------------------------------------------------------------------------------


def _item(given: Mapping[str, Any]) -> tuple[Any, ...]:
    return (given["item"],)


def _map(work: Work, max_concurrency: Any, *, continue_on_error: bool) -> Any:
    behavior = dynamiq("nodes.types").Behavior
    return dynamiq("nodes.operators").Map(
        node=_node(work, None, native=False),
        max_workers=max_concurrency,
        behavior=behavior.RETURN if continue_on_error else behavior.RAISE,
    )


def _outcomes(result: Any) -> list[Outcome[Any]]:
    if result.status.value != "success":
        error = _failed(result.error).error
        # `Map` tells a bad number of workers by the same type as an item that failed
        raise ValueError(str(error)) if "max_workers" in str(error) else error
    return [
        Ok(output["value"]) if output is not None else Failed(Foreign("", "the item has no output"))
        for output in result.output["output"]
    ]


class Mapped:
    """`Map(node, max_workers=...)`, run alone."""

    def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> Any:
        """`behavior` is RAISE, or RETURN where the fan-out is to go on."""
        work = Work(body, _item)
        mapped = _map(work, max_concurrency, continue_on_error=continue_on_error)
        return _outcomes(mapped.run_sync(input_data=_items(items), config=config()))


class AsyncMapped:
    """The same, awaited: its items run in threads all the same."""

    async def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> Any:
        """As there."""
        work = Work(body, _item)
        mapped = _map(work, max_concurrency, continue_on_error=continue_on_error)
        return _outcomes(await mapped.run_async(input_data=_items(items), config=config()))


def _items(items: Iterable[Any]) -> dict[str, list[dict[str, Any]]]:
    return {"input": [{"item": item} for item in items]}
