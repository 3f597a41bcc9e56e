"""Why nothing moves: a line for each waiting thread, with what it waits for, on whom, and where in the user's code.

The proof is the kernel's (`observer`); frames only make it readable, so a frame that is not recognised costs nothing.
"""

from __future__ import annotations

import ast
import functools
import linecache
import os
import re
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pytest_flowcheck.proof import pollers, procfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from pytest_flowcheck.proof.harness import Harness
    from pytest_flowcheck.proof.sighting import Sighting, Wait

_STDLIB = str(Path(os.__file__).parent) + os.sep
_KIT = str(Path(__file__).parents[1]) + os.sep
_GATES = str(Path(_KIT, "probes", "gates.py"))
_IDLE = "idle pool worker"


@dataclass(frozen=True)
class On:
    """Whom or what a thread waits for."""

    kind: Literal["thread", "process", "future", "lock"]
    id: int
    """Native thread id, pid, or the object's `id`."""
    name: str = ""
    state: str = ""
    """A future's of `concurrent.futures`, as it calls it: `pending`, `running`, `cancelled`."""


@dataclass(frozen=True)
class Waiting:
    """One thread's wait. As text: a line for people."""

    pid: int
    tid: int
    """0: the process as a whole, or several threads together."""
    name: str
    """The thread's; empty if it is not Python's, or another process's."""
    line: str
    on: tuple[On, ...] = ()
    """As far as frames tell: a wait that names nobody is no less proven."""
    place: str = ""
    """Where in the user's code: `jobs.py:12 run`."""
    holds: tuple[int, ...] = ()
    """The `id`s of locks that its `with` statements hold."""

    def __str__(self) -> str:
        return self.line


def wait_list(sighting: Sighting, harness: Harness | None = None) -> list[str]:
    """The lines of `waits_of`."""
    return [wait.line for wait in waits_of(sighting, harness)]


def waits_of(sighting: Sighting, harness: Harness | None = None) -> list[Waiting]:
    """One per waiting thread, idle pool workers together, then one per thread of other processes.

    Call it from the thread that looked, while the threads still wait: names and frames are read now.
    """
    me, found, idle = os.getpid(), list[Waiting](), 0
    seen: dict[int, FrameType] = {}
    threads = {_native(thread): thread for thread in threading.enumerate()}
    # The documented way to see other threads, though its name begins with an underscore.
    frames = sys._current_frames()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    for wait in sighting.waits:
        if wait.pid != me or not wait.tid:
            continue
        if harness is not None and harness.owns(wait.pid, wait.tid):
            continue
        thread = threads.get(wait.tid)
        frame = frames.get(thread.ident or 0) if thread is not None else None
        words = _words(frame, wait) if frame is not None else wait.text
        if words == _IDLE:
            idle += 1
            continue
        name = f"'{thread.name}'" if thread is not None else f"{wait.tid} (not Python's)"
        if frame is not None:
            seen[wait.tid] = frame
        place = _place(frame) if frame is not None else ""
        found.append(
            Waiting(
                wait.pid,
                wait.tid,
                thread.name if thread is not None else "",
                f"thread {name} {words}{f', at {place}' if place else ''}",
                _on(frame, threads) if frame is not None else (),
                place,
            )
        )
    if any(on.kind == "lock" for wait in found for on in wait.on):
        found = [replace(wait, holds=_holds(seen[wait.tid])) if wait.tid in seen else wait for wait in found]
    if idle:
        found.append(Waiting(me, 0, "", f"{idle} idle pool worker{'s' if idle > 1 else ''}"))
    found += [Waiting(w.pid, w.tid, "", _elsewhere(w)) for w in sighting.waits if w.pid != me or not w.tid]
    return found


def _native(thread: threading.Thread) -> int:
    """The kernel's id; the main thread's is the process's (`native_id` is stale after a fork before Python 3.13)."""
    return os.getpid() if thread is threading.main_thread() else thread.native_id or 0


def _elsewhere(wait: Wait) -> str:
    who = f"process {wait.pid} ({procfs.shortened(procfs.command(wait.pid))})"
    return f"{who}, thread {wait.tid}, {wait.text}" if wait.tid not in {0, wait.pid} else f"{who} {wait.text}"


def _outwards(frame: FrameType) -> Iterator[FrameType]:
    at: FrameType | None = frame
    while at is not None:
        yield at
        at = at.f_back


def _place(frame: FrameType) -> str:
    """The user's innermost frame; the kit's or the library's own only if there is no other."""
    chain = list(_outwards(frame))

    def is_library(at: FrameType) -> bool:
        name = at.f_code.co_filename
        return name.startswith("<") or (name.startswith(_STDLIB) and "site-packages" not in name)

    users = [at for at in chain if not is_library(at) and not at.f_code.co_filename.startswith(_KIT)]
    kits = [at for at in chain if at.f_code.co_filename.startswith(_KIT)]
    if not users and pollers.runner_of(frame) is not None:
        return ""  # a guest's events, on a thread of trio's: its tasks were told
    at = (users or kits or chain)[0]
    return f"{where(at.f_code.co_filename, at.f_lineno)} {at.f_code.co_name}"


def where(file: str, line: int) -> str:
    """A place, as messages tell it: a certificate names no folders of the machine on which it was made."""
    return f"{Path(file).name}:{line}"


def _words(frame: FrameType, wait: Wait) -> str:
    """What the innermost frame that we recognise waits for; else what the kernel says, with the source line."""
    if frame.f_code.co_filename == _GATES:
        return f"waits at the gate '{frame.f_locals['name']}'" if "name" in frame.f_locals else "is at its gate"
    for at in _outwards(frame):
        helper = _HELPERS.get((Path(at.f_code.co_filename).stem, at.f_code.co_name))
        if helper is not None:
            return helper
    for depth, at in enumerate(_outwards(frame)):
        code = at.f_code
        if depth == 0 and (runner := pollers.runner_of(at)) is not None:
            return _trio_loop(runner)
        if not code.co_filename.startswith(_STDLIB) or "site-packages" in code.co_filename:
            if depth == 0:
                return _bare(at, wait)
            break
        reader = _READERS.get((Path(code.co_filename).stem, code.co_name))
        if reader is not None:
            words = reader(at, depth)
            if words:
                return words
    return wait.text


def _bare(frame: FrameType, wait: Wait) -> str:
    """The user's own line called into C: a lock shows as a futex, and its name stands in the source."""
    source = linecache.getline(frame.f_code.co_filename, frame.f_lineno or 0).strip()
    what = "waits for a lock" if "futex" in wait.text and wait.kind == "untimed" else wait.text
    return f"{what}: `{source[:80]}`" if source else what


# --- on whom -----------------------------------------------------------------------------------------------------------


def _on(frame: FrameType, threads: dict[int, threading.Thread]) -> tuple[On, ...]:
    """Whom the innermost frame that tells it waits for."""
    for depth, at in enumerate(_outwards(frame)):
        file, method = at.f_code.co_filename, at.f_code.co_name
        if not file.startswith(_STDLIB) or "site-packages" in file:
            return _lock(at, threads) if depth == 0 and not file.startswith(_KIT) else ()
        module, it = Path(file).stem, _self(at)
        if (module, method) == ("threading", "join") and isinstance(it, threading.Thread):
            return (On("thread", _native(it), it.name),)
        if (module, method) in {("_base", "result"), ("_base", "exception")}:
            return (_promised(it),)
        if (module, method) in {("_base", "wait"), ("_base", "as_completed")}:
            waited = at.f_locals.get("not_done", at.f_locals.get("pending", at.f_locals.get("fs", ())))
            return tuple(_promised(future) for future in _some(waited))
        if module in {"subprocess", "popen_fork"} and isinstance(pid := getattr(it, "pid", None), int):
            return (On("process", pid),)
        if (module, method) == ("base_events", "run_forever") and (asyncio := sys.modules.get("asyncio")) is not None:
            awaited = (getattr(task, "_fut_waiter", None) for task in asyncio.all_tasks(it))
            return tuple(_promised(future) for future in awaited if future is not None)
    return ()


def _some(objects: Any, most: int = 8) -> list[Any]:
    """At most so many; of an iterator none, since to look would be to take."""
    return list(cast("set[Any]", objects))[:most] if isinstance(objects, (set, frozenset, list, tuple)) else []


def _promised(future: Any) -> On:
    asyncio = sys.modules.get("asyncio")
    task = asyncio is not None and isinstance(future, asyncio.Task)
    state = str(getattr(future, "_state", "")).lower()
    return On("future", id(future), future.get_name() if task else "", state)


_ACQUIRE = re.compile(r"(?:with|async with)\s+([\w.]+)\s*:|([\w.]+)\.(?:acquire|__enter__)\(")


def _lock(frame: FrameType, threads: dict[int, threading.Thread]) -> tuple[On, ...]:
    """The lock that the user's own line waits for, and who holds it, where that can be known."""
    found = _ACQUIRE.search(linecache.getline(frame.f_code.co_filename, frame.f_lineno or 0))
    name = (found[1] or found[2]) if found else ""
    lock = _looked_up(frame, name) if name else None
    if lock is None:
        return ()
    owner = re.search(r"owner=(\d+)", repr(lock)) if type(lock) is type(threading.RLock()) else None
    holder = next((t for t in threads.values() if owner and t.ident == int(owner[1])), None)
    return (On("thread", _native(holder), holder.name),) if holder is not None else (On("lock", id(lock), name),)


def _looked_up(frame: FrameType, dotted: str) -> Any:
    """What the name stands for, without running any code of the subject's: only plain variables and attributes."""
    first, *rest = dotted.split(".")
    value = frame.f_locals.get(first, frame.f_globals.get(first))
    for part in rest:
        value = getattr(value, "__dict__", {}).get(part)
    return value


def _holds(frame: FrameType) -> tuple[int, ...]:
    """Locks whose `with` block encloses a line at which a frame of this thread stands, or one of a task of its loop."""
    held: list[int] = []
    for at in [*_outwards(frame), *_suspended(frame)]:
        file = at.f_code.co_filename
        if file.startswith((_STDLIB, "<")) and "site-packages" not in file:
            continue
        for name, first, last in _blocks(file):
            if first <= (at.f_lineno or 0) <= last and isinstance(lock := _looked_up(at, name), _LOCKS):
                held.append(id(lock))
    return tuple(held)


def _suspended(frame: FrameType) -> Iterator[FrameType]:
    """The frames of the tasks of the asyncio loop that this thread runs: what awaits under a thread's lock holds it."""
    asyncio = sys.modules.get("asyncio")
    for at in _outwards(frame):
        if asyncio is not None and (Path(at.f_code.co_filename).stem, at.f_code.co_name) == (
            "base_events",
            "run_forever",
        ):
            for task in asyncio.all_tasks(_self(at)):
                yield from _awaited(task.get_coro())


_LOCKS = (type(threading.Lock()), type(threading.RLock()))


@functools.lru_cache(maxsize=64)
def _blocks(file: str) -> tuple[tuple[str, int, int], ...]:
    """The bodies of the file's `with` statements over plain names: name, first and last line."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError):  # no source, or not Python's
        return ()
    return tuple(
        (ast.unparse(item.context_expr), node.body[0].lineno, node.end_lineno or 0)
        for node in ast.walk(tree)
        if isinstance(node, ast.With)
        for item in node.items
        if isinstance(item.context_expr, (ast.Name, ast.Attribute))
    )


# --- in words ----------------------------------------------------------------------------------------------------------


def _self(frame: FrameType) -> Any:
    return frame.f_locals.get("self")


def _future(frame: FrameType, _depth: int) -> str:
    future: Any = _self(frame)
    state = str(getattr(future, "_state", "unknown")).lower()
    return f"waits in Future.{frame.f_code.co_name}() of future {id(future):#x}, which is {state}"


def _wait_futures(frame: FrameType, _depth: int) -> str:
    return f"waits in concurrent.futures.{frame.f_code.co_name}()"


def _pool_worker(_frame: FrameType, depth: int) -> str:
    return _IDLE if depth == 0 else ""


def _condition(frame: FrameType, _depth: int) -> str:
    """The outermost method of the library on the way to the condition says more than the condition."""
    outermost = frame
    for at in _outwards(frame):
        module, method = Path(at.f_code.co_filename).stem, at.f_code.co_name
        if module not in {"threading", "queue", "_base"} or method in {"run", "_bootstrap_inner"}:
            break
        outermost = at
    reader = _READERS.get((Path(outermost.f_code.co_filename).stem, outermost.f_code.co_name), _owned)
    return _owned(outermost, 0) if reader is _condition else reader(outermost, 0)


def _owned(frame: FrameType, _depth: int) -> str:
    return f"waits in {type(_self(frame)).__name__}.{frame.f_code.co_name}()"


def _join(frame: FrameType, _depth: int) -> str:
    other = _self(frame)
    name = getattr(other, "name", "?")
    return f"waits in Thread.join() of '{name}'"


def _process(frame: FrameType, _depth: int) -> str:
    process = _self(frame)
    what = getattr(process, "args", None)
    pid = getattr(process, "pid", "?")
    return f"waits for process {pid}{f' ({what})' if what else ''} to end"


def _connection(frame: FrameType, _depth: int) -> str:
    return f"waits in {frame.f_code.co_name}() of a connection"


def _loop(frame: FrameType, _depth: int) -> str:
    """The tasks of a loop that sleeps without a deadline: they are what really waits."""
    loop = _self(frame)
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return ""
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    return f"waits in an event loop with {', '.join(map(_task, tasks)) or 'no tasks'}"


def _task(task: Any) -> str:
    return f"task '{task.get_name()}'{_awaits(task.get_coro())}"


def _trio_loop(runner: Any) -> str:
    """The tasks of the trio loop for whose events a thread waits, without trio's own."""
    tasks = [task for task in tuple(runner.tasks) if not task.name.startswith(("trio.", "<"))]
    told = sorted(f"task '{task.name.rpartition('.')[2]}'{_awaits(task.coro)}" for task in tasks)
    return f"waits for events of a trio loop with {', '.join(told) or 'no tasks'}"


def _awaits(coroutine: Any) -> str:
    """Where it waits: the innermost frame of the user's along the awaits; else the outermost of all."""
    frames = list(_awaited(coroutine))
    if not frames:
        return ""
    files = [at.f_code.co_filename for at in frames]
    users = [
        at
        for at, file in zip(frames, files, strict=True)
        if not file.startswith((_STDLIB, _KIT, "<")) and "site-packages" not in file
    ]
    at = (users or frames[:1])[-1]
    return f" at {where(at.f_code.co_filename, at.f_lineno)} {at.f_code.co_name}"


def _awaited(coroutine: Any) -> Iterator[FrameType]:
    """The frames along the awaits of a coroutine that is suspended, the outermost first."""
    while coroutine is not None:
        kind = "cr" if hasattr(coroutine, "cr_frame") else "gi" if hasattr(coroutine, "gi_frame") else "ag"
        frame = getattr(coroutine, f"{kind}_frame", None)
        if frame is not None:
            yield frame
        coroutine = getattr(coroutine, f"{kind}_{'yieldfrom' if kind == 'gi' else 'await'}", None)


_HELPERS = {
    ("process", "wait_result_broken_or_wakeup"): "is a process pool's, and waits for its workers",
    ("process_executor", "wait_result_broken_or_wakeup"): "is a process pool's, and waits for its workers",
    ("queues", "_feed"): "feeds a multiprocessing queue, and has nothing to feed",
}

_READERS: dict[tuple[str, str], Callable[[FrameType, int], str]] = {
    ("_base", "result"): _future,
    ("_base", "exception"): _future,
    ("_base", "wait"): _wait_futures,
    ("_base", "as_completed"): _wait_futures,
    ("thread", "_worker"): _pool_worker,
    ("threading", "wait"): _condition,
    ("threading", "join"): _join,
    ("queue", "get"): _owned,
    ("queue", "put"): _owned,
    ("queue", "join"): _owned,
    ("queues", "get"): _owned,
    ("subprocess", "wait"): _process,
    ("subprocess", "_wait"): _process,
    ("subprocess", "communicate"): _process,
    ("popen_fork", "wait"): _process,
    ("popen_fork", "poll"): _process,
    ("connection", "recv"): _connection,
    ("connection", "recv_bytes"): _connection,
    ("connection", "wait"): _connection,
    ("connection", "accept"): _connection,
    ("base_events", "run_forever"): _loop,
}
