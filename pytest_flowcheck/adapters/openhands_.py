"""OpenHands: the conversations of an agent server, whose runs sit in a tool; only the model's answers are scripted.

One adapter for all releases: what a release offers is read from its files, since importing it takes seconds.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final
from weakref import WeakValueDictionary

from pytest_flowcheck.protocols import Body, ErrorMap, Foreign, Refused, Unsupported

SUBJECTS: Final = {"openhands": "OpenHands", "openhands-pause": "OpenHandsPaused"}

MODEL: Final = "openai/scripted-by-flowcheck"
TOOL: Final = "FlowcheckBody"
IDLE: Final = "in no run"


def _of(module: str) -> Any:
    """A module of OpenHands', which has types that only its own environment knows. Nothing is fetched on its import."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("OPENHANDS_SUPPRESS_BANNER", "1")
    return import_module(f"openhands.{module}")


def _has(file: str, text: str) -> bool:
    """Whether the installed release of the server has this text in this file."""
    distribution = metadata.distribution("openhands-agent-server")
    return text in Path(str(distribution.locate_file(f"openhands/agent_server/{file}"))).read_text()


# --- the tool, and the model that calls it -------------------------------------------------------------------------------


class _Work:
    """What a run is to do. Its key is the user's message, and what the model makes of it: a call of the tool."""

    def __init__(self, body: Body[[], Any], then: Sequence[Body[[], Any]] = ()) -> None:
        self.key = f"work-{next(_NUMBERS)}"
        self.body, self.then = body, [_Work(part) for part in then]
        self.error: BaseException | None = None
        _WORKS[self.key] = self

    def __call__(self) -> str:
        try:
            return str(self.body())
        except BaseException as error:
            self.error = error
            raise


_NUMBERS = itertools.count(1)
_WORKS: WeakValueDictionary[str, _Work] = WeakValueDictionary()


@cache
def _tool() -> str:
    """Register a tool that does the work whose key it is given."""
    sdk, tool = _of("sdk"), _of("sdk.tool")
    resources = _of("sdk.tool.tool").DeclaredResources

    def named(name: str, bases: tuple[type, ...], **more: Any) -> Any:
        return type(name, bases, {"__module__": __name__, "__qualname__": name, **more})

    def execute(_: Any, action: Any, conversation: Any = None) -> Any:  # noqa: ARG001 - OpenHands' signature
        return observation.from_text(_WORKS[action.key]())

    def create(cls: Any, /, conv_state: Any = None, **_: Any) -> list[Any]:  # noqa: ARG001
        return [
            cls(
                description="Does the work of this key.",
                action_type=action,
                observation_type=observation,
                executor=executor(),
            )
        ]

    def uses(_: Any, action: Any) -> Any:  # noqa: ARG001 - none: calls of it may run beside each other
        return resources(keys=(), declared=True)

    action = named(f"{TOOL}Action", (sdk.Action,), __annotations__={"key": str})
    observation = named(f"{TOOL}Observation", (sdk.Observation,))
    executor = named(f"{TOOL}Executor", (tool.ToolExecutor,), __call__=execute)
    definition = named(
        f"{TOOL}Tool",
        (sdk.ToolDefinition[action, observation],),
        create=classmethod(create),
        declared_resources=uses,
    )
    tool.register_tool(TOOL, definition)
    return str(definition.name)


@cache
def _model() -> str:
    """Script the answers of the model of this name. The real `LLM` is asked, and others stay what they are."""
    llm, called = _of("sdk").LLM, _tool()

    def completion(real: Any, self: Any, messages: Sequence[Any], *args: Any, **more: Any) -> Any:
        return _answer(messages, called) if self.model == MODEL else real(self, messages, *args, **more)

    async def acompletion(real: Any, self: Any, messages: Sequence[Any], *args: Any, **more: Any) -> Any:
        return _answer(messages, called) if self.model == MODEL else await real(self, messages, *args, **more)

    async def resolve(real: Any, self: Any) -> Any:
        return None if self.model == MODEL else await real(self)

    for name, script in (
        ("completion", completion),
        ("acompletion", acompletion),
        ("aresolve_runtime_metadata", resolve),
    ):
        if hasattr(llm, name):
            setattr(llm, name, _method(script, getattr(llm, name)))
    return MODEL


def _method(script: Any, real: Any) -> Any:
    if inspect.iscoroutinefunction(real):

        async def acall(self: Any, *args: Any, **more: Any) -> Any:
            return await script(real, self, *args, **more)

        return acall

    def call(self: Any, *args: Any, **more: Any) -> Any:
        return script(real, self, *args, **more)

    return call


def _answer(messages: Sequence[Any], called: str) -> Any:
    """Calls the tool for what the user wants, then for all parts of it at once, then is through; or fails as the tool has."""
    asked = max(index for index, message in enumerate(messages) if message.role == "user")
    work = next(_WORKS[text] for each in messages[asked].content if (text := getattr(each, "text", "")) in _WORKS)
    if work.error is not None:
        raise work.error
    answered = sum(message.role == "assistant" for message in messages[asked:])
    todo: Sequence[_Work] = ([work], work.then)[answered] if answered < 2 else ()
    return _response([(called, each.key) for each in todo])


def _response(calls: Sequence[tuple[str, str]]) -> Any:
    sdk, metrics, types = _of("sdk"), _of("sdk.llm.utils.metrics"), import_module("litellm.types.utils")
    call = _of("sdk.llm").MessageToolCall
    message = sdk.Message(
        role="assistant",
        content=[sdk.TextContent(text="" if calls else "It is done.")],
        tool_calls=[
            call(id=f"call-{key}", name=name, arguments=json.dumps({"key": key}), origin="completion")
            for name, key in calls
        ]
        or None,
    )
    usage = metrics.MetricsSnapshot(
        model_name=MODEL,
        accumulated_cost=0.0,
        max_budget_per_task=None,
        accumulated_token_usage=metrics.TokenUsage(model=MODEL),
    )
    text: Any = types.Message(role="assistant", content="")
    raw: Any = types.ModelResponse(
        id="scripted", choices=[types.Choices(finish_reason="stop", index=0, message=text)], created=0, model=MODEL
    )
    return _of("sdk.llm.llm_response").LLMResponse(message=message, metrics=usage, raw_response=raw)


def _agent() -> Any:
    """An agent with that tool only, which may call it four times at once."""
    sdk = _of("sdk")
    llm = sdk.LLM(model=_model(), api_key="none", usage_id="scripted")
    return sdk.Agent(llm=llm, tools=[sdk.Tool(name=TOOL)], include_default_tools=[], tool_concurrency_limit=4)


def _message(work: _Work) -> Any:
    sdk = _of("sdk")
    return sdk.Message(role="user", content=[sdk.TextContent(text=work.key)])


# --- the service ---------------------------------------------------------------------------------------------------------


class _Server:
    """A `ConversationService`, with a conversation for each session."""

    def __init__(self, service: Any, folder: Path, *, interrupts: bool) -> None:
        self._service, self._folder, self._interrupts = service, folder, interrupts
        self._sessions: dict[str, asyncio.Task[Any]] = {}
        self._works: list[_Work] = []

    async def run(self, body: Body[[], Any], *, session: str, then: Sequence[Body[[], Any]] = ()) -> None:
        """A message that waits, then `run`, and the end of that; `run` itself comes back at once."""
        events, work = await self._session(session), self._work(body, then)
        await events.send_message(_message(work), run=False)
        await events.run()
        if (task := events._run_task) is not None:  # noqa: SLF001 - a public way to wait came after 1.22
            await asyncio.wait({task})
        if (failure := await self.report(session=session)) is not None:
            raise failure

    async def start(self, body: Body[[], Any], *, session: str) -> None:
        """A message that is to be run at once, as a user sends it."""
        events = await self._session(session)
        await events.send_message(_message(self._work(body)), run=True)

    async def short_op(self, *, session: str) -> Any:
        """A page of events: of the session, or of one that is open since the beginning. To make one can be refused."""
        known = session if session in self._sessions else IDLE
        return await (await self._session(known)).search_events(limit=1)

    async def queued(self) -> int:
        """There is no such number."""
        raise Unsupported("how many runs wait is known to the pool's own queue alone")

    async def begin(self) -> None:
        """A conversation that is in no run."""
        await self._session(IDLE)

    async def cancel(self, *, session: str) -> None:
        """Interrupt where a release has that, pause where it hasn't."""
        events = await self._session(session)
        await (events.interrupt() if self._interrupts and hasattr(events, "interrupt") else events.pause())

    async def report(self, *, session: str) -> Foreign | None:
        """The error that the conversation's last event of that kind tells, if the run ended in one."""
        events = await self._session(session)
        state = await events.get_state()
        if state.execution_status.value != "error":
            return None
        told = [event for event in state.events if type(event).__name__ == "ConversationErrorEvent"]
        return Foreign(told[-1].code, told[-1].detail) if told else Foreign("error", "the run ended in an error")

    def _work(self, body: Body[[], Any], then: Sequence[Body[[], Any]] = ()) -> _Work:
        self._works.append(_Work(body, then))
        return self._works[-1]

    async def _session(self, name: str) -> Any:
        """One for each name, also when it is asked for by several at once; one that was refused is asked for again."""
        made = self._sessions.get(name)
        if made is None or (made.done() and (made.cancelled() or made.exception() is not None)):
            made = self._sessions[name] = asyncio.create_task(self._conversation())
        return await asyncio.shield(made)

    async def _conversation(self) -> Any:
        request = _of("agent_server.models").StartConversationRequest(
            agent=_agent(),
            workspace=_of("sdk.workspace").LocalWorkspace(working_dir=str(self._folder)),
            confirmation_policy=_of("sdk.security.confirmation_policy").NeverConfirm(),
            autotitle=False,
        )
        info, _ = await self._service.start_conversation(request)
        return await self._service.get_event_service(info.id)


class _Alone:
    """`Conversation(agent, workspace).run()` in a script, without a server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sessions: dict[str, Any] = {}
        self._works: list[_Work] = []

    async def run(self, body: Body[[], Any], *, session: str, then: Sequence[Body[[], Any]] = ()) -> None:
        """In a thread: it blocks until the agent is through."""
        conversation, work = self._session(session), _Work(body, then)
        self._works.append(work)
        conversation.send_message(_message(work))
        await asyncio.to_thread(conversation.run)

    async def short_op(self, *, session: str) -> int:
        """How many events there are."""
        return await asyncio.to_thread(lambda: len(self._session(session).state.events))

    def close(self) -> None:
        """All conversations."""
        for conversation in self._sessions.values():
            conversation.close()

    def _session(self, name: str) -> Any:
        if name not in self._sessions:
            self._sessions[name] = _of("sdk").Conversation(agent=_agent(), workspace=str(self._folder), visualizer=None)
        return self._sessions[name]


async def _renews_no_lease(self: Any) -> None:  # noqa: ARG001 - the method's
    """In place of a loop that renews the leases of conversations every 15 s: where a timer runs, no stillness is proven."""
    await asyncio.Event().wait()


@cache
def _leases() -> None:
    for module, name, loop in (
        ("conversation_service", "ConversationService", "_renew_all_leases_loop"),
        ("event_service", "EventService", "_renew_lease_loop"),
    ):
        owner = getattr(_of(f"agent_server.{module}"), name)
        if hasattr(owner, loop):
            setattr(owner, loop, _renews_no_lease)


class OpenHands:
    """`ConversationService(conversations_dir=..., max_concurrent_runs=...)`.

    Up to 1.22.0 it has no bound: the threads of the loop's default executor are one, so that has so many. It is the
    program's and not the service's, and is shut down with the loop.
    """

    name = "openhands"
    interrupts: ClassVar[bool] = True
    requires: ClassVar[Sequence[str]] = ("openhands-agent-server", "openhands-sdk", "openhands-tools")
    requires_python: ClassVar[tuple[int, ...]] = (3, 12)
    errors: ClassVar[ErrorMap] = {Refused: "ConversationRunLimitExceeded"}

    @property
    def version(self) -> str:
        """The server's; the three distributions are released together."""
        return metadata.version("openhands-agent-server")

    @property
    def claims(self) -> Mapping[str, AbstractSet[str]]:
        """As far as this release goes."""
        named = {"threads"} if self._bounded else set[str]()
        return {"isolation": frozenset({"nested", "sessions", "standalone"} | named)}

    @property
    def declares(self) -> Mapping[str, Mapping[str, str]]:
        """What becomes of a run too many."""
        refuses = _has("event_service.py", "class ConversationRunLimitExceeded")
        return {"isolation": {"overflow": "refuse" if refuses else "queue"}}

    @property
    def _bounded(self) -> bool:
        return _has("conversation_service.py", "max_concurrent_runs")

    def warm_up(self) -> None:
        """Imports, which take seconds."""
        _model()
        _leases()

    @asynccontextmanager
    async def isolation(
        self,
        *,
        max_concurrent_runs: int | None,
        limit: float | None = None,  # noqa: ARG002 - a stuck run is given ten seconds, whatever one asks for
    ) -> AsyncGenerator[Any]:
        self.warm_up()
        with TemporaryDirectory(prefix="flowcheck-openhands-") as name:
            folder = Path(name)
            if max_concurrent_runs is None:
                alone = _Alone(folder)
                try:
                    yield alone
                finally:
                    await asyncio.to_thread(alone.close)
                return
            bound = {"max_concurrent_runs": max_concurrent_runs} if self._bounded else {}
            if not bound:
                asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(max_concurrent_runs, "asyncio"))
            service: Any = _of("agent_server.conversation_service").ConversationService
            async with service(conversations_dir=folder / "conversations", **bound) as opened:
                server = _Server(opened, folder, interrupts=self.interrupts)
                await server.begin()
                yield server


class OpenHandsPaused(OpenHands):
    """The same, whose runs are asked to pause: that is the other way to stop one, in all releases."""

    name = "openhands-pause"
    interrupts: ClassVar[bool] = False
