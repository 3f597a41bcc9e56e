"""spec-kit: `WorkflowEngine`, whose steps run one after the other, its fan-out steps, and `RunState`, which it saves."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache, partial
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final, Literal, TypeAlias, TypeVar

from pytest_flowcheck.protocols import (
    Adapter,
    Body,
    Corrupt,
    ErrorMap,
    Failed,
    Foreign,
    Halt,
    Inexpressible,
    Invalid,
    NotFound,
    Ok,
    Outcome,
)
from pytest_flowcheck.protocols.fanout import Fanout
from pytest_flowcheck.protocols.flow import Flow, Graph, Node, Run
from pytest_flowcheck.protocols.store import Store

S = TypeVar("S")
T = TypeVar("T")

SUBJECTS: Final = {"spec-kit": "SpecKit", "spec-kit-flow": "SpecKitFlow"}

How: TypeAlias = Literal["failed", "paused", "aborted"]

STEP: Final = "flowcheck"
"""The type of the steps that the kit brings. A step of it names in `call` what it calls."""

_fans: dict[str, Callable[[Any], Any]] = {}
"""What the steps of fan-outs call: a workflow is data, and their threads have no context of the caller's."""
_numbers = count()
_nodes: ContextVar[Mapping[str, Callable[[Any], Any]] | None] = ContextVar("nodes", default=None)
"""What the steps of the run that this thread is in call: a run that is resumed finds its step's names in a file."""


@cache
def _workflows() -> Any:
    """The package, with the kit's type of step among its types; it has no types of Python's."""
    workflows: Any = import_module("specify_cli.workflows")
    base: Any = import_module("specify_cli.workflows.base")

    class Step(base.StepBase):  # type: ignore[misc]
        type_key = STEP

        def execute(self, config: dict[str, Any], context: Any) -> Any:
            call = {**_fans, **(_nodes.get() or {})}[config["call"]]
            try:
                return base.StepResult(output={"value": call(context)})
            except Halt as halt:
                status = base.StepStatus.PAUSED if halt.how == "paused" else base.StepStatus.FAILED
                return base.StepResult(status, {"aborted": True} if halt.how == "aborted" else {}, error=str(halt))

    workflows.STEP_REGISTRY[STEP] = Step()
    return workflows


def _definition(steps: list[dict[str, Any]], inputs: Mapping[str, Any] | None = None) -> Any:
    engine: Any = import_module("specify_cli.workflows.engine")
    header = {"id": "flowcheck", "name": "flowcheck", "version": "1.0.0"}
    return engine.WorkflowDefinition(
        {"schema_version": "1.0", "workflow": header, "inputs": dict(inputs or {}), "steps": steps}
    )


def _engine(root: Path) -> Any:
    _workflows()
    engine: Any = import_module("specify_cli.workflows.engine")
    return engine.WorkflowEngine(root)


# --- fan-out ------------------------------------------------------------------------------------------------------------


class _FanOut:
    """A workflow of two steps: one that gives the items, and the `fan-out` step over them."""

    def __init__(self, root: Path) -> None:
        self._engine = _engine(root)

    def run(
        self, body: Body[[S], T], items: Iterable[S], *, max_concurrency: Any, continue_on_error: bool = False
    ) -> Sequence[Outcome[T]]:
        def give(_context: Any) -> list[S]:
            return list(items)

        def do(context: Any) -> T:
            return body(context.item)

        number = next(_numbers)
        calls: dict[str, Callable[[Any], Any]] = {f"items-{number}": give, f"body-{number}": do}
        template: dict[str, Any] = {"id": "item", "type": STEP, "call": f"body-{number}"}
        if continue_on_error:
            template["continue_on_error"] = True
        fan = {
            "id": "fan",
            "type": "fan-out",
            "items": "{{ steps.items.output.value }}",
            "max_concurrency": max_concurrency,
            "step": template,
        }
        _fans.update(calls)
        try:
            state = self._engine.execute(_definition([{"id": "items", "type": STEP, "call": f"items-{number}"}, fan]))
        finally:
            for name in calls:
                del _fans[name]
        results = state.step_results["fan"]["output"].get("results", ())
        return [_outcome(state, index, output) for index, output in enumerate(results)]


def _outcome(state: Any, index: int, output: Mapping[str, Any]) -> Outcome[Any]:
    """What is recorded of an item: its place in the results, and a record of its own beside."""
    own = [id_ for id_ in state.step_results if id_.startswith("fan:") and id_.endswith(f":{index}")]
    id_ = own[0] if len(own) == 1 else ""
    if "value" in output:
        return Ok(output["value"], id_)
    record = state.step_results.get(id_, {})
    paused, aborted = record.get("status") == "paused", output.get("aborted")
    how: How = "paused" if paused else "aborted" if aborted else "failed"
    return Failed(Foreign(Halt.__name__, record.get("error") or how), how, id_)


# --- store --------------------------------------------------------------------------------------------------------------


class _RunStates:
    """`RunState` by run. A save is one of a fresh one, as that of an engine; `put` and `flush` change and save one."""

    def __init__(self, root: Path) -> None:
        module: Any = import_module("specify_cli.workflows.engine")
        self._type: Any = module.RunState
        self._root, self._live = root, dict[str, Any]()

    def save(self, run_id: str, state: Any) -> None:
        run = self._new(run_id)
        run.step_results = {"state": {"output": state}}
        run.save()

    def load(self, run_id: str) -> Any:
        results = {id_: record["output"] for id_, record in self._type.load(run_id, self._root).step_results.items()}
        return results["state"] if results.keys() == {"state"} else results

    def append(self, run_id: str, entry: Any) -> None:
        self._of(run_id).append_log({"entry": entry})

    def entries(self, run_id: str) -> Sequence[Any]:
        """spec-kit writes its log for others to read. As they would: what is no JSON, a torn line, is passed over."""
        path: Path = self._new(run_id).runs_dir / "log.jsonl"
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        return [record["entry"] for record in map(_record, lines) if record is not None]

    def put(self, run_id: str, key: str, value: Any) -> None:
        """As the engine of the release does it when a step has ended."""
        run, record = self._of(run_id), {"output": value}
        if hasattr(run, "record_step_result"):  # 0.12.2 and later
            run.record_step_result(key, record)
            return
        with getattr(run, "_lock", nullcontext()):  # 1.x: `Execution.transition`; 0.12.1 had no lock
            run.step_results[key] = record

    def flush(self, run_id: str) -> None:
        self._of(run_id).save()

    def _new(self, run_id: str) -> Any:
        return self._type(run_id=run_id, workflow_id="flowcheck", project_root=self._root)

    def _of(self, run_id: str) -> Any:
        if run_id not in self._live:
            self._live.setdefault(run_id, self._new(run_id))
        return self._live[run_id]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(line)
        return record
    except ValueError:
        return None


# --- flow ---------------------------------------------------------------------------------------------------------------


class _Workflow:
    """A node is a step, behind a `fan-in` step that waits for its needs. A run is validated first, as `specify` does."""

    def __init__(self, root: Path) -> None:
        self._root, self._engine = root, _engine(root)

    def run(self, graph: Graph, input: Any = None, *, run_id: str | None = None) -> Run:  # noqa: A002 - the protocol's
        definition = _definition(list(_steps(graph)), _input(input))
        errors = self._engine.validate(definition)
        if errors:
            raise ValueError(" ".join(errors))
        given = {} if input is None else {"input": input}
        return self._told(graph, partial(self._engine.execute, definition, given, run_id))

    def resume(self, graph: Graph, run_id: str) -> Run:
        return self._told(graph, partial(self._engine.resume, run_id))

    def _told(self, graph: Graph, go: Callable[[], Any]) -> Run:
        raised: list[BaseException] = []
        token = _nodes.set({node.id: partial(_call, node, raised) for node in graph.nodes})
        try:
            state = go()
        except Exception as error:
            if error not in raised:
                raise
            return Run("failed", error=error)
        finally:
            _nodes.reset(token)
        records = {node.id: state.step_results.get(node.id) for node in graph.nodes}
        outcomes = {
            id_: Ok(r["output"]["value"]) for id_, r in records.items() if r is not None and r["status"] == "completed"
        }
        if state.status.value == "completed":
            return Run("completed", outcomes)
        return Run("failed", outcomes, raised[-1] if raised else Foreign("RunStatus", state.status.value))

    def close(self) -> None:
        pass  # an engine holds nothing


def _call(node: Node, raised: list[BaseException], context: Any) -> Any:
    results = context.steps[f"{node.id}-needs"]["output"]["results"] if node.needs else ()
    upstream = {need: result["value"] for need, result in zip(node.needs, results, strict=True)}
    try:
        return node.body(context.inputs.get("input"), upstream)
    except BaseException as error:
        raised.append(error)
        raise


def _steps(graph: Graph) -> Iterator[dict[str, Any]]:
    """In an order in which they can run, as an author writes them.

    Raises:
        Inexpressible: there is none.
    """
    nodes: Iterable[Node] = graph.nodes
    by_id = {node.id: node for node in nodes}
    if len(by_id) == len(graph.nodes):
        try:
            order = [*TopologicalSorter({node.id: node.needs for node in nodes}).static_order()]
        except CycleError:
            raise Inexpressible("steps are a list, in which a circle has no place") from None
        nodes = [by_id[id_] for id_ in order if id_ in by_id]
    for node in nodes:
        if node.needs:
            yield {"id": f"{node.id}-needs", "type": "fan-in", "wait_for": list(node.needs)}
        yield {"id": node.id, "type": STEP, "call": node.id}


def _input(value: Any) -> dict[str, Any]:
    """How a workflow declares an input like this one.

    Raises:
        Inexpressible: it can't.
    """
    types = {bool: "boolean", str: "string", int: "number", float: "number"}
    if value is None:
        return {}
    if type(value) not in types:
        raise Inexpressible(f"a workflow's input is a text, a number or a truth value, and no {type(value).__name__}")
    return {"input": {"type": types[type(value)]}}


# --- the subject --------------------------------------------------------------------------------------------------------


@contextmanager
def _project() -> Generator[Path]:
    with TemporaryDirectory() as root:
        (Path(root) / ".specify").mkdir()
        yield Path(root)


class SpecKit(Adapter):
    """The step type `fan-out`, and `RunState`.

    A fan-out's threads don't see the caller's context.
    """

    name = "spec-kit"
    requires: ClassVar[Sequence[str]] = ("specify-cli",)
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {
        "fanout": frozenset({"coerce", "continue", "halt", "nested"}),
        "store": frozenset({"files", "live", "log", "processes"}),
    }
    errors: ClassVar[ErrorMap] = {
        NotFound: FileNotFoundError,
        Corrupt: (ValueError, KeyError),
        # since 1.0 a save that fails, for whatever reason, raises this one
        Invalid: (ValueError, TypeError, "CheckpointError"),
        OSError: "CheckpointError",
    }

    def warm_up(self) -> None:
        _workflows()

    @contextmanager
    def fanout(self) -> Generator[Fanout]:
        with _project() as root:
            yield _FanOut(root)

    def store(self, folder: Path) -> AbstractContextManager[Store]:
        return nullcontext(_RunStates(folder))


class SpecKitFlow(SpecKit):
    """`WorkflowEngine.execute` and `resume`. Steps run one after the other, and have neither timeout nor retries."""

    name = "spec-kit-flow"
    claims: ClassVar[Mapping[str, AbstractSet[str]]] = {"flow": frozenset({"context", "resume", "save"})}
    declares: ClassVar[Mapping[str, Mapping[str, str]]] = {"flow": {"after_close": "reopen"}}

    @contextmanager
    def flow(self, *, max_workers: int | None = None, folder: Path | None = None) -> Generator[Flow]:  # noqa: ARG002
        with nullcontext(folder) if folder is not None else _project() as root:
            yield _Workflow(root)
